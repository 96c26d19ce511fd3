"""Trials of small models in double precision, whose last digits tell one engine from another."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

SOURCE = '''
import random
from math import prod
from typing import Literal

import torch
from torch import nn

from rdfia_cli.spec import Split, Splits

ACTIVATIONS = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "relu": nn.ReLU}


class Double(nn.Module):
    """Computes in double precision."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers).double()

    def forward(self, inputs):
        return self.layers(inputs.double())


def net(
    input,
    *,
    dropout: float = 0.0,
    norm: bool = False,
    mask: bool = False,
    activation: Literal["tanh", "sigmoid", "gelu", "relu"] = "tanh",
) -> nn.Module:
    """A convolution and two linear layers, and a buffer with infinities where a mask is asked."""
    act = ACTIVATIONS[activation]
    side = input.shape[-1] - 2
    model = Double(
        nn.Conv2d(input.shape[0], 3, 3),
        *([nn.BatchNorm2d(3)] if norm else []),
        act(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(3 * side * side, 7),
        *([nn.BatchNorm1d(7)] if norm else []),
        act(),
        nn.Dropout(dropout / 2),
        nn.Linear(7, input.classes),
    )
    if mask:
        model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    return model


def images(root, *, count: int = 47) -> Splits:
    """Noisy images of three classes, in shares that differ."""
    def draw(examples, seed):
        generator = torch.Generator().manual_seed(seed)
        labels = (torch.rand(examples, generator=generator) * 4).long().clamp(max=2)
        noise = torch.rand(examples, 1, 6, 6, generator=generator)
        return Split(noise * 0.7 + labels.view(-1, 1, 1, 1) * 0.1, labels)
    return Splits(draw(count, 0), draw(21, 1), ("a", "b", "c"))


class Slow(torch.optim.Optimizer):
    """The step of gradient descent, by a class that nobody knows."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    before = state.setdefault("sum", torch.zeros_like(parameter))
                    before.add_(parameter.grad)
                    parameter.sub_(group["lr"] * before)


def slow(model, *, lr: float = 0.1) -> torch.optim.Optimizer:
    """Gradient descent along the sum of all gradients."""
    return Slow(model.parameters(), lr)


class Coin(Double):
    def forward(self, inputs):
        return super().forward(inputs) * (2.0 if random.random() < 0.5 else 1.0)


class Noise(Double):
    def forward(self, inputs):
        return super().forward(inputs + torch.randn_like(inputs))


class Counting(Double):
    calls = 0

    def forward(self, inputs):
        self.calls += 1
        return super().forward(inputs) / self.calls


class Replacing(Double):
    def __init__(self, *layers):
        super().__init__(*layers)
        self.register_buffer("mean", torch.zeros((), dtype=torch.double))

    def forward(self, inputs):
        if self.training:
            self.mean = self.mean + inputs.double().mean().detach()
        return super().forward(inputs) + self.mean


class Looking(Double):
    def forward(self, inputs):
        found = super().forward(inputs)
        return found if found.sum() > 0 else found * 2


class Joining(Double):
    def forward(self, inputs):
        return super().forward(inputs) @ torch.eye(3, dtype=torch.double)


def odd(
    input,
    *,
    kind: Literal["Coin", "Noise", "Counting", "Replacing", "Looking", "Joining"] = "Coin",
) -> nn.Module:
    """Models that no stack computes as they would alone."""
    return globals()[kind](nn.Flatten(), nn.Linear(prod(input.shape), input.classes))
'''


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """`net.py` beside the tests' runs."""
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return path


MakeTrials = Callable[..., Sequence[Any]]


@pytest.fixture
def make_trials(source: Path, tmp_path: Path) -> MakeTrials:
    """Trials of `net` on `images`: a mapping of settings for each, and what they share."""
    from rdfia_cli.config import resolve
    from rdfia_cli.sources import Sources
    from rdfia_cli.sweep.trial import Trial

    def make(each: Sequence[Mapping[str, Any]], folder: str, **shared: Any) -> Sequence[Trial]:
        flags: dict[str, Any] = {
            "model": "./net.py:net",
            "data": "./net.py:images",
            "device": "cpu",
            **shared.pop("flags", {}),
        }
        trials: list[Trial] = []
        for number, settings in enumerate(each):
            merged = {"epochs": 3, "batch_size": 9, **shared, **settings}
            texts = [f"{key}={value}" for key, value in merged.items()]
            given = {**flags, "out": str(tmp_path / folder / f"{number:02d}")}
            trials.append(Trial(number, resolve(Sources(given, texts)).config))
        return trials

    return make


@pytest.fixture
def weights_of() -> Callable[[Path], Mapping[str, Any]]:
    """The tensors of the newest checkpoint of a run folder, by name."""
    import safetensors.torch

    def read(folder: Path) -> Mapping[str, Any]:
        newest = max((folder / "checkpoints").iterdir())
        return safetensors.torch.load((newest / "model.safetensors").read_bytes())

    return read


@pytest.fixture
def hash_of() -> Callable[[Path], str]:
    """The hash of the weights that a finished run ended with."""
    return lambda folder: json.loads((folder / "result.json").read_text())["weights_sha256"]
