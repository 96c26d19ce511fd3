"""A stacked trial's bits depend neither on which others share its stack nor on their fate."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rdfia_cli.config import resolve
from rdfia_cli.sources import Sources
from rdfia_cli.sweep.stacked import run_stacked
from rdfia_cli.sweep.stacking.preparation import Prepared, Shared, fit_together, share
from rdfia_cli.sweep.stacking.stack import Stack
from rdfia_cli.sweep.trial import Trial, TrialEpoch, TrialFailed, TrialFinished, TrialPruned

MODELS: Mapping[str, Mapping[str, Any]] = {
    "perceptron": {"model": "mlp:hidden=7", "data": "circles:points=33"},
    "digits": {"model": "mlp:hidden=33", "data": "./net.py:images"},
    "cnn": {"model": "cnn", "data": "./net.py:images:count=20"},
    "cnn in fp32": {"model": "cnn", "data": "./net.py:images:count=20", "precision": "fp32"},
    "batch normalisation and dropout": {
        "model": "cnn:batch_norm=true,dropout=0.3",
        "data": "./net.py:images:count=20",
    },
    "batch normalisation and dropout in fp32": {
        "model": "cnn:batch_norm=true,dropout=0.3",
        "data": "./net.py:images:count=20",
        "precision": "fp32",
    },
    "lenet": {"model": "lenet", "data": "./net.py:images:count=20", "augment": ["pad:size=12"]},
    "vit": {
        "model": "vit:dim=12,depth=1,heads=2,patch=3,dropout=0.1,stochastic_depth=0.3",
        "data": "./net.py:images:count=20",
    },
    "sigmoid in double precision": {
        "model": "./net.py:net:activation=sigmoid,norm=true",
        "data": "./net.py:images",
    },
    "gelu in double precision": {
        "model": "./net.py:net:activation=gelu,dropout=0.2",
        "data": "./net.py:images",
    },
}
TRIALS = 9
STEPS = 3


def draw_trials(name: str, chance: random.Random, count: int = TRIALS) -> Sequence[Trial]:
    """Trials whose settings are drawn, some with a seed in common."""
    flags = {**MODELS[name], "device": "cpu", "optimizer": chance.choice(["sgd", "adam"])}
    smooth = chance.random() < 0.5
    return [
        Trial(
            number,
            resolve(
                Sources(
                    flags,
                    [
                        f"optimizer.lr={10 ** chance.uniform(-4, -1):.6f}",
                        f"seed={chance.randrange(4)}",
                        f"label_smoothing={chance.uniform(0.05, 0.4) if smooth else 0}",
                        "batch_size=8",
                    ],
                )
            ).config,
        )
        for number in range(count)
    ]


def prepare(trials: Sequence[Trial], shared: Shared) -> list[Prepared]:
    parts = [shared.assemble(trial.config) for trial in trials]
    return [
        Prepared(trial, part, shared.prepare(part))
        for trial, part in zip(trials, parts, strict=True)
    ]


def train(trials: Sequence[Trial], shared: Shared, *, least: int) -> Mapping[int, bytes]:
    """The bytes of each trial's tensors after a few steps, and of its scores."""
    prepared = prepare(trials, shared)
    stack = Stack([each.member for each in prepared], least=least)
    stack.begin_epoch()
    last = prepared[0].member.plan.steps_per_epoch - 1
    for step in (*range(STEPS - 1), last):
        stack.step(step)
    logits, _ = stack.predict(prepared[0].member.plan.evaluations["test"])
    return {
        each.trial.number: b"".join(_bytes_of(each, logits[place]))
        for place, each in enumerate(prepared)
    }


def _bytes_of(each: Prepared, logits: torch.Tensor) -> Iterator[bytes]:
    tensors = [*each.member.state.model.state_dict().values(), logits]
    for state in each.member.state.optimizer.state.values():
        tensors += state.values()
    for tensor in tensors:
        yield tensor.detach().contiguous().numpy().tobytes()


def compare_groupings(name: str, seed: int, groupings: int, largest: int) -> None:
    chance = random.Random(seed)
    trials = draw_trials(name, chance, largest)
    shared = share(trials[0].config)
    least = fit_together(prepare(trials[:2], shared)).least
    expected = train(trials, shared, least=least)
    for _ in range(groupings):
        size = chance.randint(1, largest)
        for number, found in train(chance.sample(trials, size), shared, least=least).items():
            assert found == expected[number], (number, size)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("one_thread", "source")
def test_random_groupings_of_the_same_trials_give_the_same_bits(name: str):
    compare_groupings(name, seed=0, groupings=4, largest=TRIALS)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("one_thread", "source")
def test_a_hundred_random_groupings_give_the_same_bits(name: str):
    for seed in range(5):
        compare_groupings(name, seed, groupings=20, largest=64)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_whole_sweeps_of_other_sizes_give_each_trial_the_same_weights(
    activation: str, make_trials, hash_of
):
    varied = [{"seed": n % 3, "optimizer.lr": 0.1 / (n + 1), "epochs": 1 + n % 3} for n in range(7)]
    options = {"model.activation": activation, "model.norm": "true", "model.dropout": 0.2}
    whole = make_trials(varied, "whole", **options)
    halves = make_trials(varied, "halves", **options)
    list(run_stacked(whole))
    list(run_stacked([halves[n] for n in (5, 0, 2)]))
    list(run_stacked([halves[3]]))
    list(run_stacked([halves[n] for n in (6, 4, 1)]))
    for one, other in zip(whole, halves, strict=True):
        assert hash_of(one.folder) == hash_of(other.folder)


def test_trials_that_diverge_fail_or_are_pruned_leave_the_others_as_they_were(
    make_trials, hash_of: Callable[[Path], str]
):
    well = [{"seed": n, "optimizer.lr": 0.05} for n in range(4)]
    ill = [
        {"optimizer.lr": 1e30},
        {"model.dropout": 1.5},
        {"optimizer.lr": 0.04},
        {"optimizer.lr": 3.0, "early_stopping": 1},
    ]
    options = {"model.activation": "relu", "epochs": 4}
    undisturbed = make_trials(well, "undisturbed", **options)
    list(run_stacked(undisturbed))
    mixed = make_trials([ill[0], *well[:2], *ill[1:], *well[2:]], "mixed", **options)

    def judge(epoch: TrialEpoch) -> bool:
        return epoch.number == 4 and epoch.epoch == 2

    events = list(run_stacked(mixed, judge))
    failed = {e.number: e.error for e in events if isinstance(e, TrialFailed)}
    assert failed.keys() == {0, 3}
    assert failed[0] == "diverged"
    assert [(e.number, e.epoch) for e in events if isinstance(e, TrialPruned)] == [(4, 2)]
    assert {e.number for e in events if isinstance(e, TrialFinished)} == {1, 2, 5, 6, 7}
    for trial, number in zip(undisturbed, (1, 2, 6, 7), strict=True):
        assert hash_of(trial.folder) == hash_of(mixed[number].folder)
