"""Every optimizer follows its published update, written out here in plain arithmetic."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rdfia_cli.errors import UsageError
from rdfia_cli.optimizers import adam, adamw, rmsprop, sgd

START = [1.5, -0.7, 0.2]
STEPS = 12

rates = st.floats(1e-4, 0.5)
decays = st.floats(0, 0.3)
betas = st.floats(0, 0.999)


def gradient(weights: list[float]) -> list[float]:
    """Of w0^2 + w1^2 / 2 + w0 w2 + sin(w2)."""
    a, b, c = weights
    return [2 * a + c, b, a + torch.tensor(c, dtype=torch.double).cos().item()]


def follow(builder, **parameters) -> list[list[float]]:
    """The weights after each step of the optimizer."""
    model = nn.Module()
    model.weights = nn.Parameter(torch.tensor(START, dtype=torch.double))
    optimizer = builder(model, **parameters)
    path = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        a, b, c = model.weights
        (a**2 + b**2 / 2 + a * c + c.sin()).backward()
        optimizer.step()
        path.append(model.weights.tolist())
    return path


def sgd_by_hand(lr, momentum, nesterov, weight_decay) -> Iterator[list[float]]:
    """v = momentum v + g; w -= lr v, or with Nesterov lr (g + momentum v)."""
    weights, velocity = list(START), [0.0] * 3
    for _ in range(STEPS):
        for i, slope in enumerate(gradient(weights)):
            g = slope + weight_decay * weights[i]
            velocity[i] = momentum * velocity[i] + g
            weights[i] -= lr * (g + momentum * velocity[i] if nesterov else velocity[i])
        yield list(weights)


def adam_by_hand(lr, beta1, beta2, eps, weight_decay, decoupled: bool) -> Iterator[list[float]]:
    """Algorithm 1 of Kingma and Ba 2015, with either weight decay of Loshchilov and Hutter 2019."""
    weights, first, second = list(START), [0.0] * 3, [0.0] * 3
    for t in range(1, STEPS + 1):
        for i, slope in enumerate(gradient(weights)):
            g = slope + (0 if decoupled else weight_decay * weights[i])
            first[i] = beta1 * first[i] + (1 - beta1) * g
            second[i] = beta2 * second[i] + (1 - beta2) * g**2
            unbiased_first = first[i] / (1 - beta1**t)
            unbiased_second = second[i] / (1 - beta2**t)
            decay = lr * weight_decay * weights[i] if decoupled else 0
            weights[i] -= lr * unbiased_first / (sqrt(unbiased_second) + eps) + decay
        yield list(weights)


def assert_same_path(found: list[list[float]], expected: Iterator[list[float]]) -> None:
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9), f"step {step}"


@settings(max_examples=60, deadline=None)
@given(lr=rates, momentum=st.floats(0.01, 0.99), nesterov=st.booleans(), weight_decay=decays)
def test_sgd_with_momentum_follows_its_formula(lr, momentum, nesterov, weight_decay):
    parameters = {
        "lr": lr,
        "momentum": momentum,
        "nesterov": nesterov,
        "weight_decay": weight_decay,
    }
    assert_same_path(follow(sgd, **parameters), sgd_by_hand(**parameters))


@settings(max_examples=30, deadline=None)
@given(lr=rates, weight_decay=decays)
def test_sgd_without_momentum_goes_down_the_plain_gradient(lr, weight_decay):
    expected = sgd_by_hand(lr, 0.0, False, weight_decay)
    assert_same_path(follow(sgd, lr=lr, weight_decay=weight_decay), expected)


adams = {
    "lr": rates,
    "beta1": betas,
    "beta2": betas,
    "eps": st.floats(1e-8, 1e-2),
    "weight_decay": decays,
}


@settings(max_examples=60, deadline=None)
@given(**adams)
def test_adam_follows_its_formula_with_weight_decay_in_the_gradient(**parameters):
    assert_same_path(follow(adam, **parameters), adam_by_hand(**parameters, decoupled=False))


@settings(max_examples=60, deadline=None)
@given(**adams)
def test_adamw_follows_its_formula_with_decoupled_weight_decay(**parameters):
    assert_same_path(follow(adamw, **parameters), adam_by_hand(**parameters, decoupled=True))


@pytest.mark.parametrize("builder", [adam, adamw])
def test_adam_defaults_are_those_of_its_paper(builder):
    defaults = {
        name: parameter.default for name, parameter in inspect.signature(builder).parameters.items()
    }
    paper = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    assert {name: defaults[name] for name in paper} == paper


def test_default_sgd_is_plain():
    assert_same_path(follow(sgd), sgd_by_hand(0.1, 0.0, False, 0.0))


def test_a_rate_of_zero_leaves_the_weights():
    assert follow(sgd, lr=0.0, momentum=0.9)[-1] == START


def test_nesterov_without_momentum_is_refused_with_the_way_out():
    with pytest.raises(UsageError, match="nesterov needs a momentum") as caught:
        follow(sgd, nesterov=True)
    assert "--set optimizer.momentum=0.9" in caught.value.remedy
    assert follow(sgd, nesterov=True, momentum=0.9)


@settings(max_examples=30, deadline=None)
@given(lr=st.floats(1e-4, 0.05), alpha=st.floats(0.5, 0.999), weight_decay=decays)
def test_rmsprop_divides_by_the_root_of_the_average_square(lr, alpha, weight_decay):
    def by_hand() -> Iterator[list[float]]:
        weights, squares = list(START), [0.0] * 3
        for _ in range(STEPS):
            for i, slope in enumerate(gradient(weights)):
                g = slope + weight_decay * weights[i]
                squares[i] = alpha * squares[i] + (1 - alpha) * g**2
                weights[i] -= lr * g / (sqrt(squares[i]) + 1e-8)
            yield list(weights)

    found = follow(rmsprop, lr=lr, alpha=alpha, weight_decay=weight_decay)
    assert_same_path(found, by_hand())
