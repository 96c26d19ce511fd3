"""The perceptron: gradients written by hand are the true ones, and every way gives one curve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rdfia_cli.datasets.embedded import circles
from rdfia_cli.models.perceptron import mlp
from rdfia_cli.optimizers import sgd
from rdfia_cli.spec import Batch, InputSpec
from rdfia_cli.training.precision import Arithmetic
from rdfia_cli.training.step import training_step

NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)
Problem = tuple[nn.Module, Tensor, Tensor]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """A perceptron in float64 with gradients by hand, a batch and its labels, hard or soft."""
    count, features, hidden, classes = (draw(st.integers(1, 5)) for _ in range(4))
    torch.manual_seed(draw(st.integers(0, 2**32)))
    model = mlp(InputSpec((features,), classes), hidden=hidden, backprop="manual").double()
    for bias in (model.hidden.bias, model.output.bias):
        nn.init.normal_(bias)
    soft = torch.rand(count, classes, dtype=torch.double).softmax(1)
    labels = soft if draw(st.booleans()) else torch.randint(classes, (count,))
    return model, torch.rand(count, features, dtype=torch.double) * 2 - 1, labels


def loss_by_formula(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over examples of -sum_k y_k log(exp(z_k) / sum_j exp(z_j))."""
    hidden_weight, hidden_bias, output_weight, output_bias = model.parameters()
    z = torch.tanh(inputs @ hidden_weight.T + hidden_bias) @ output_weight.T + output_bias
    log_probability = (z.exp() / z.exp().sum(1, keepdim=True)).log()
    y = torch.eye(z.shape[1], dtype=z.dtype)[labels] if labels.ndim == 1 else labels
    return -(y * log_probability).sum() / len(inputs)


@torch.no_grad()
def differentiate_numerically(loss: Callable[[], Tensor], parameter: Tensor) -> Tensor:
    """The sixth-order central difference: (45 d1 - 9 d2 + d3) / 60 h, d_k = f(+kh) - f(-kh)."""
    step, flat = 5e-3, parameter.view(-1)
    gradient = torch.zeros_like(flat)
    for index, value in enumerate(flat.tolist()):
        for multiple, weight in ((1, 45), (2, -9), (3, 1)):
            flat[index] = value + multiple * step
            above = loss()
            flat[index] = value - multiple * step
            gradient[index] += weight * (above - loss()) / (60 * step)
        flat[index] = value
    return gradient.view_as(parameter)


@settings(max_examples=30, deadline=None)
@given(problems())
def test_manual_gradients_equal_finite_differences(problem: Problem):
    model, inputs, labels = problem
    model.loss_and_logits(inputs, labels)
    for parameter in model.parameters():
        expected = differentiate_numerically(
            lambda: loss_by_formula(model, inputs, labels), parameter
        )
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-10, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_manual_gradients_equal_those_of_autograd(problem: Problem):
    model, inputs, labels = problem
    model.loss_and_logits(inputs, labels)
    loss = F.cross_entropy(model(inputs), labels)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-14)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_manual_loss_and_logits_are_those_of_the_forward_pass(problem: Problem):
    model, inputs, labels = problem
    loss, logits = model.loss_and_logits(inputs, labels)
    torch.testing.assert_close(logits, model(inputs).detach(), rtol=1e-12, atol=1e-14)
    expected = loss_by_formula(model, inputs, labels).detach()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)


def test_manual_gradients_replace_those_of_the_batch_before():
    model = mlp(InputSpec((2,), 2), hidden=3, backprop="manual").double()
    inputs, labels = torch.randn(4, 2, dtype=torch.double), torch.tensor([0, 1, 1, 0])
    model.loss_and_logits(inputs, labels)
    first = [parameter.grad.clone() for parameter in model.parameters()]
    model.loss_and_logits(inputs, labels)
    for parameter, gradient in zip(model.parameters(), first, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_manual_gradients_stay_finite_where_a_probability_is_zero():
    model = mlp(InputSpec((2,), 2), hidden=3, backprop="manual")
    nn.init.constant_(model.output.bias, 0.0)
    with torch.no_grad():
        model.output.bias[0] = 1e4
    loss, _ = model.loss_and_logits(torch.zeros(1, 2), torch.tensor([1]))
    assert loss.item() == pytest.approx(1e4)
    assert model.output.bias.grad.tolist() == [1.0, -1.0]


class AutogradCalledError(Exception):
    """Autograd was called where it should not be."""


@pytest.fixture
def no_autograd(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse to record a graph and to go back through one."""
    sgd(nn.Linear(1, 1))  # the first optimizer imports much of torch, which uses these names

    def refuse(*_: object, **__: object) -> None:
        raise AutogradCalledError

    for owner, name in (
        (torch.autograd, "backward"),
        (torch.autograd, "grad"),
        (Tensor, "backward"),
    ):
        monkeypatch.setattr(owner, name, refuse)
    with torch.autograd.graph.saved_tensors_hooks(refuse, refuse):
        yield


def take_a_step(backprop: str) -> nn.Module:
    model = mlp(InputSpec((2,), 2), hidden=3, backprop=backprop)
    batch = Batch(torch.randn(4, 2), torch.tensor([0, 1, 1, 0]))
    loss, logits = training_step(
        model, batch, sgd(model, lr=0.1), Arithmetic("fp32", False), NO_SCALER
    )
    assert loss.grad_fn is None
    assert logits.grad_fn is None
    return model


@pytest.mark.usefixtures("no_autograd")
def test_a_manual_step_moves_the_weights_and_never_calls_autograd():
    torch.manual_seed(0)
    before = [p.clone() for p in mlp(InputSpec((2,), 2), hidden=3).state_dict().values()]
    torch.manual_seed(0)
    after = take_a_step("manual").state_dict().values()
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.usefixtures("no_autograd")
def test_an_autograd_step_does_call_autograd():
    with pytest.raises(AutogradCalledError):
        take_a_step("autograd")


def test_manual_gradients_need_no_graph_at_all():
    model = mlp(InputSpec((3,), 2), hidden=4, backprop="manual").requires_grad_(False)
    loss, _ = model.loss_and_logits(torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1]))
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not loss.requires_grad


# Four ways to the gradient

EPOCHS, BATCH, RATE = 20, 10, 0.3
Update = Callable[[Tensor, Tensor], Tensor]


def manual(model: nn.Module) -> Update:
    optimizer = sgd(model, lr=RATE)

    def update(inputs: Tensor, labels: Tensor) -> Tensor:
        loss, _ = model.loss_and_logits(inputs, labels)
        optimizer.step()
        return loss

    return update


def autograd_and_sgd(model: nn.Module) -> Update:
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def update(inputs: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return update


def autograd_and_a_loop(model: nn.Module) -> Update:
    def update(inputs: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(model(inputs), labels)
        parameters = list(model.parameters())
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters), strict=True
        ):
            parameter.data -= RATE * gradient
        return loss.detach()

    return update


def start_again(backprop: str) -> nn.Module:
    torch.manual_seed(3)
    return mlp(InputSpec((2,), 2), hidden=10, backprop=backprop).double()


def start_from_plain_layers() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 10), nn.Tanh(), nn.Linear(10, 2)).double()
    for ours, theirs in zip(start_again("manual").parameters(), model.parameters(), strict=True):
        theirs.data.copy_(ours.data)
    return model


def training_curve(update: Update) -> Tensor:
    """The loss of every step on circles."""
    train = circles(Path()).train
    losses = []
    for epoch in range(EPOCHS):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch))
        losses += [
            update(train.inputs[indices].double(), train.labels[indices])
            for indices in order.split(BATCH)
        ]
    return torch.stack(losses)


def test_four_ways_to_the_gradient_give_the_same_training_curve_on_circles():
    curve = training_curve(manual(start_again("manual")))
    others = (
        autograd_and_sgd(start_again("autograd")),
        autograd_and_a_loop(start_from_plain_layers()),
        autograd_and_sgd(start_from_plain_layers()),
    )
    for update in others:
        torch.testing.assert_close(training_curve(update), curve, rtol=1e-10, atol=1e-10)
    assert curve[-20:].mean() < 0.75 * curve[:20].mean()


@pytest.mark.parametrize("backprop", ["manual", "autograd"])
@pytest.mark.parametrize(
    ("shape", "classes", "hidden", "parameters"),
    [((2,), 2, 10, 52), ((1, 28, 28), 10, 100, 79_510)],
    ids=["circles", "mnist"],
)
def test_perceptrons_have_the_parameters_of_the_course(
    shape: tuple[int, ...], classes: int, hidden: int, parameters: int, backprop: str
):
    model = mlp(InputSpec(shape, classes), hidden=hidden, backprop=backprop)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_images_are_flattened_row_by_row():
    model = mlp(InputSpec((2, 3, 4), 5), backprop="manual")
    images = torch.randn(6, 2, 3, 4)
    assert torch.equal(model(images), model(images.reshape(6, 24)))
    channels_last = images.contiguous(memory_format=torch.channels_last)
    _, logits = model.loss_and_logits(channels_last, torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(logits, model(images).detach())


@pytest.mark.parametrize("std", [0.3, 0.05])
def test_weights_start_normal_with_the_given_deviation_and_biases_at_zero(std: float):
    torch.manual_seed(0)
    model = mlp(InputSpec((200,), 100), hidden=300, initial_std=std)
    for layer in (model.hidden, model.output):
        drawn = layer.weight.detach().flatten()
        deviations = 5 / len(drawn) ** 0.5
        assert abs(drawn.mean() / std) < deviations
        assert abs(drawn.std() / std - 1) < deviations
        # A normal draw lies within one standard deviation in 68.27 % of cases; a uniform in 57.7.
        assert abs((drawn.abs() < std).double().mean() - 0.6827) < deviations
        assert not layer.bias.any()


def test_the_hand_made_start_of_the_course_is_the_default():
    drawn = mlp(InputSpec((200,), 100), hidden=300).hidden.weight.detach()
    assert abs(drawn.std() - 0.3) < 0.01
