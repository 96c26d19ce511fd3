"""What cannot be trained, saved or scored is refused before a run begins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rdfia_cli import registry
from rdfia_cli.commands.progress import watch
from rdfia_cli.config import RunConfig, resolve
from rdfia_cli.errors import ComponentError, DivergedError
from rdfia_cli.sources import Sources
from rdfia_cli.spec import Split, Splits
from rdfia_cli.training import assembly, checkpoint
from rdfia_cli.training.loop import fit


def configuration(**flags: str) -> RunConfig:
    return resolve(Sources({"model": "mlp", "data": "circles", "device": "cpu", **flags})).config


@pytest.fixture
def replace_builder(monkeypatch: pytest.MonkeyPatch):
    """Let a function stand in for the builder of a built-in component."""
    real = registry.load

    def replace(name: str, builder: Any) -> None:
        monkeypatch.setattr(registry, "load", lambda c: builder if c.name == name else real(c))

    return replace


class Caching(nn.Module):
    """Keeps a tensor from its first forward pass, as position encodings do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.kept: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = torch.ones(2)
        return self.layer(inputs) * self.kept


class TupleInTraining(nn.Module):
    """Returns an auxiliary output while training, as Inception does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Any:
        logits = self.layer(inputs)
        return (logits, logits) if self.training else logits


class Unsavable(nn.Linear):
    """Has a state that is no tensor."""

    def get_extra_state(self) -> object:
        return {"seen": 1}


def assembled(config: RunConfig) -> assembly.Assembly:
    return watch(assembly.load_and_assemble(config), lambda event: None)


def train(config: RunConfig) -> None:
    parts = assembled(config)
    state, plan = assembly.prepare(parts)
    checkpoint.refuse_unsavable(state)
    for _ in fit(state, plan):
        pass


def test_a_model_may_keep_a_tensor_of_its_first_forward_pass(replace_builder):
    replace_builder("mlp", lambda spec, **_: Caching())
    train(configuration(epochs="1"))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (TupleInTraining, "returns tuple in training mode"),
        (lambda: Unsavable(2, 2), "'_extra_state' is a dict, not a tensor"),
        (lambda: nn.Linear(2, 3), r"returns \(2, 3\) for 2 examples of 2 classes"),
    ],
)
def test_a_model_that_cannot_be_trained_or_saved_is_refused(replace_builder, model, told):
    replace_builder("mlp", lambda spec, **_: model())
    with pytest.raises(ComponentError, match=told):
        train(configuration(epochs="1"))


@pytest.mark.parametrize(
    ("train_split", "told"),
    [
        (Split(torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64)), "4 inputs and 3 labels"),
        (Split(torch.zeros(4, 2), torch.zeros(4)), "not 1 and int64"),
        (Split(torch.zeros(4, 2), torch.full((4,), 2)), "labels outside 0 to 1"),
        (Split(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)), "0 inputs and 0 labels"),
    ],
)
def test_a_dataset_that_breaks_its_contract_is_refused(replace_builder, train_split, told):
    sound = Split(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    replace_builder("circles", lambda root, **_: Splits(train_split, sound, ("a", "b")))
    with pytest.raises(ComponentError, match=told):
        train(configuration())


def test_a_last_batch_of_one_example_is_refused_where_batch_norm_cannot_train(replace_builder):
    def normalised(input, **_):
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))

    replace_builder("mlp", normalised)
    with pytest.raises(ComponentError, match="180 examples in batches of 179 leave one alone"):
        train(configuration(batch_size="179"))
    train(configuration(batch_size="178", epochs="1"))


class Amplified(nn.Linear):
    """Finite weights, but logits beyond float32 as soon as the weights are large."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 1e3


def test_weights_that_no_longer_score_are_a_divergence_though_every_step_was_finite(
    replace_builder,
):
    replace_builder("mlp", lambda spec, **_: Amplified(2, 2))
    config = configuration(lr="1e35", optimizer="sgd", epochs="1", batch_size="180")
    with pytest.raises(DivergedError, match=r"the validation loss became (nan|inf) after epoch 1"):
        train(config)


def test_randomness_of_numpy_and_python_follows_the_seed_too(replace_builder):
    import random

    import numpy as np

    drawn: list[tuple[float, float]] = []

    def random_model(input, **_):
        drawn.append((random.random(), float(np.random.rand())))
        return nn.Linear(2, 2)

    replace_builder("mlp", random_model)
    for seed in ("1", "1", "2"):
        assembled(configuration(seed=seed))
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_kernel_that_is_not_deterministic_is_refused_with_the_way_out():
    from rdfia_cli.console import explain

    told = explain(
        RuntimeError(
            "max_unpool has no such form: it does not have a deterministic implementation, but "
            "you set 'torch.use_deterministic_algorithms(True)'. You can turn off determinism"
        )
    )
    assert "--set deterministic=false" in told.remedy
    assert "max_unpool" in told.fact


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_learning_rate_beyond_float32_is_a_divergence(optimizer):
    with pytest.raises(DivergedError, match="beyond the range"):
        train(configuration(lr="1e300", optimizer=optimizer, schedule="constant"))
