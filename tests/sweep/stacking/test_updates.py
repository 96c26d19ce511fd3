"""Stacked updates are those of PyTorch's optimizers, for each trial with its own settings."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from rdfia_cli.sweep.stacking.updates import StackedOptimizer

RATE = st.floats(1e-4, 0.5)
SHARE = st.floats(0.0, 0.999)
BETAS = st.tuples(SHARE, st.floats(0.5, 0.9999))
EPSILON = st.floats(1e-9, 1e-2)
DECAY = st.floats(1e-4, 0.3)


def sgd(momentum: bool, decay: bool, nesterov: bool) -> st.SearchStrategy[Mapping[str, Any]]:
    return st.fixed_dictionaries(
        {
            "lr": RATE,
            "momentum": st.floats(0.1, 0.99) if momentum else st.just(0.0),
            "weight_decay": DECAY if decay else st.just(0.0),
            "nesterov": st.just(nesterov and momentum),
        }
    )


def adam(decay: bool) -> st.SearchStrategy[Mapping[str, Any]]:
    weight_decay = DECAY if decay else st.just(0.0)
    return st.fixed_dictionaries(
        {"lr": RATE, "betas": BETAS, "eps": EPSILON, "weight_decay": weight_decay}
    )


def rmsprop(momentum: bool, centred: bool) -> st.SearchStrategy[Mapping[str, Any]]:
    return st.fixed_dictionaries(
        {
            "lr": RATE,
            "alpha": st.floats(0.1, 0.999),
            "eps": EPSILON,
            "momentum": st.floats(0.1, 0.9) if momentum else st.just(0.0),
            "centered": st.just(centred),
        }
    )


CASES: Mapping[str, tuple[type, st.SearchStrategy[Mapping[str, Any]]]] = {
    "sgd": (SGD, sgd(False, False, False)),
    "sgd with momentum and decay": (SGD, sgd(True, True, False)),
    "sgd with nesterov": (SGD, sgd(True, False, True)),
    "adam": (Adam, adam(False)),
    "adam with decay": (Adam, adam(True)),
    "adamw": (AdamW, adam(True)),
    "rmsprop": (RMSprop, rmsprop(False, False)),
    "centred rmsprop with momentum": (RMSprop, rmsprop(True, True)),
}


def build(kind: type, model: nn.Module, chosen: Mapping[str, Any]) -> Any:
    """An optimizer with a group for the weights and one for the biases, at half the rate."""
    weights = [p for n, p in model.named_parameters() if n.endswith("weight")]
    biases = [p for n, p in model.named_parameters() if n.endswith("bias")]
    groups = [{"params": weights}, {"params": biases, "lr": chosen["lr"] / 2}]
    return kind(groups, **chosen)


@pytest.mark.parametrize("case", CASES)
def test_some_steps_give_what_pytorch_gives_within_rounding(case: str):
    kind, strategy = CASES[case]

    @settings(max_examples=15, deadline=None, database=None)
    @given(st.lists(strategy, min_size=2, max_size=4), st.integers(0, 1000))
    def check(chosen: list[Mapping[str, Any]], seed: int) -> None:
        compare(kind, chosen, seed)

    check()


def compare(kind: type, chosen: list[Mapping[str, Any]], seed: int) -> None:
    torch.manual_seed(seed)
    models = [nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double() for _ in chosen]
    references = copy.deepcopy(models)
    expected = [build(kind, m, c) for m, c in zip(references, chosen, strict=True)]
    optimizers = [build(kind, m, c) for m, c in zip(models, chosen, strict=True)]
    parameters: dict[str, torch.Tensor] = {}
    for name, _ in models[0].named_parameters():
        own = [model.get_parameter(name) for model in models]
        parameters[name] = torch.stack([p.detach() for p in own])
        for slot, parameter in enumerate(own):
            parameter.data = parameters[name][slot]
    together = StackedOptimizer(optimizers, models, parameters)
    assert together.stacked
    for _ in range(4):
        gradients = {name: torch.randn_like(stacked) for name, stacked in parameters.items()}
        together.step(gradients)
        for slot, reference in enumerate(references):
            for name, parameter in reference.named_parameters():
                parameter.grad = gradients[name][slot].clone()
            expected[slot].step()
    for mine, theirs, model, reference in zip(
        optimizers, expected, models, references, strict=True
    ):
        close(dict(model.named_parameters()), dict(reference.named_parameters()))
        ours, others = mine.state_dict(), theirs.state_dict()
        assert ours["state"].keys() == others["state"].keys()
        for key, state in ours["state"].items():
            close(
                {k: v for k, v in state.items() if v is not None},
                {k: v for k, v in others["state"][key].items() if v is not None},
            )


def close(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-12, atol=1e-12, check_dtype=False)


def test_what_the_formulas_do_not_cover_makes_its_own_steps():
    models = [nn.Linear(2, 2) for _ in range(2)]
    parameters = {n: torch.stack([p.detach()] * 2) for n, p in models[0].named_parameters()}
    for unusual in ({"amsgrad": True}, {"maximize": True}):
        optimizers = [Adam(model.parameters(), **unusual) for model in models]
        assert not StackedOptimizer(optimizers, models, parameters).stacked
    hooked = [Adam(model.parameters()) for model in models]
    hooked[1].register_step_post_hook(lambda *_: None)
    assert not StackedOptimizer(hooked, models, parameters).stacked
