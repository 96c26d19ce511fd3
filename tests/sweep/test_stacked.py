"""Trials that are trained together end as `rdfia train` would have ended each of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import rdfia_cli.sweep.stacked as stacked_engine
from rdfia_cli.sweep.ordinary import run_ordinary
from rdfia_cli.sweep.stacked import run_stacked
from rdfia_cli.sweep.trial import (
    TrialEpoch,
    TrialFailed,
    TrialFinished,
    TrialPruned,
    TrialStarted,
    TrialWarned,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS: Sequence[Mapping[str, Any]] = [
    {"optimizer.lr": 0.02, "seed": 0},
    {"optimizer.lr": 0.07, "seed": 5},
    {"optimizer.lr": 0.003, "seed": 0},
]


def each_with(key: str, *values: object) -> Sequence[Mapping[str, Any]]:
    return [{**each, key: value} for each, value in zip(SEEDS, values, strict=True)]


CASES: Mapping[str, tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]] = {
    "sgd": (SEEDS, {}),
    "momentum and weight decay": (
        [
            {"optimizer.lr": 0.02, "optimizer.momentum": 0.9, "optimizer.weight_decay": 0.1},
            {"optimizer.lr": 0.05, "optimizer.momentum": 0.5, "optimizer.weight_decay": 0.01},
        ],
        {"optimizer.nesterov": "true"},
    ),
    "adam": (
        [
            {**each, "optimizer.beta1": beta}
            for each, beta in zip(SEEDS, (0.9, 0.5, 0), strict=True)
        ],
        {"flags": {"optimizer": "adam"}, "optimizer.weight_decay": 0.01},
    ),
    "adamw": (
        [
            {**each, "optimizer.eps": eps}
            for each, eps in zip(SEEDS, (1e-8, 1e-3, 0.1), strict=True)
        ],
        {"flags": {"optimizer": "adamw"}},
    ),
    "rmsprop": (
        [{**each, "optimizer.momentum": 0.3} for each in SEEDS],
        {"flags": {"optimizer": "rmsprop"}, "optimizer.centered": "true"},
    ),
    "an optimizer of a file": (
        [{"optimizer.lr": 0.01}, {"optimizer.lr": 0.02, "seed": 1}],
        {"flags": {"optimizer": "./net.py:slow"}},
    ),
    "cosine": (SEEDS, {"flags": {"schedule": "cosine:warmup=1"}}),
    "schedules of several kinds": (
        [
            {"schedule": "plateau:patience=1"},
            {"schedule": "exponential"},
            {"schedule": "one_cycle"},
        ],
        {"optimizer.lr": 0.05},
    ),
    "label smoothing": (
        each_with("label_smoothing", 0.1, 0.3, 0.5),
        {},
    ),
    "class weights and smoothing": (
        each_with("label_smoothing", 0.1, 0.3, 0.5),
        {"class_weights": "balanced"},
    ),
    "clipping": (
        each_with("clip_norm", 0.01, 0.3, 100),
        {},
    ),
    "averaging": (
        each_with("ema_decay", 0.5, 0.9, 0.99),
        {"model.norm": "true", "model.mask": "true"},
    ),
    "early stopping": (
        [{"optimizer.lr": 1.5, "early_stopping": 1}, {"optimizer.lr": 0.05, "early_stopping": 2}],
        {"epochs": 6},
    ),
    "dropout": (
        each_with("model.dropout", 0.5, 0.0, 0.3),
        {},
    ),
    "batch normalisation and dropout": (
        each_with("model.dropout", 0.1, 0.2, 0.9),
        {"model.norm": "true", "model.activation": "gelu"},
    ),
    "augmentation": (SEEDS, {"flags": {"augment": ["random_crop:size=5", "horizontal_flip"]}}),
    "mixed labels": (
        each_with("label_smoothing", 0.1, 0.3, 0.5),
        {"flags": {"augment": ["mixup"]}},
    ),
    "mixed labels and class weights": (
        SEEDS,
        {"flags": {"augment": ["cutmix"]}, "class_weights": "balanced"},
    ),
    "other epochs": ([{"epochs": n, "optimizer.lr": 0.1} for n in (1, 4, 2)], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_stacked_trial_ends_as_the_same_run_of_its_own(case: str, make_trials, weights_of):
    varied, shared = CASES[case]
    together = make_trials(varied, "together", **shared)
    alone = make_trials(varied, "alone", **shared)
    finished = [e for e in run_stacked(together) if isinstance(e, TrialFinished)]
    assert {event.result["engine"] for event in finished} == {"stacked"}
    assert len(finished) == len(varied)
    for stacked, single in zip(together, alone, strict=True):
        assert isinstance(list(run_ordinary(single))[-1], TrialFinished)
        assert_alike(weights_of(stacked.folder), weights_of(single.folder))
        assert_same_story(stacked.folder, single.folder)


def assert_alike(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-9, atol=1e-9, msg=name)


def assert_same_story(ours: Path, theirs: Path) -> None:
    """The same lines of metrics and the same result, but for time and the last digits."""
    for one, other in zip(lines_of(ours), lines_of(theirs), strict=True):
        assert_equal_but_digits(one, other)
    passing = ("engine", "run", "seconds", "images_per_second", "weights_sha256")
    results = [json.loads((folder / "result.json").read_text()) for folder in (ours, theirs)]
    kept = [{k: v for k, v in result.items() if k not in passing} for result in results]
    assert_equal_but_digits(*kept)


def lines_of(folder: Path) -> Sequence[Mapping[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_equal_but_digits(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal_but_digits(value, other[key])
    elif isinstance(one, float):
        # A float64 model's logits are scored in float32.
        assert one == pytest.approx(other, rel=1e-6, abs=1e-7)
    else:
        assert one == other


def test_a_frozen_backbone_stays_and_its_head_learns_as_alone(make_trials, weights_of):
    shared = {"flags": {"model": "vit:dim=8,depth=1,heads=2,patch=3,dropout=0.1"}, "epochs": 2}
    options = {"freeze": "backbone", "optimizer.lr": 0.1}
    varied = [{"seed": 0}, {"seed": 1, "optimizer.lr": 0.01}]
    together = make_trials(varied, "together", **shared, **options)
    alone = make_trials(varied, "alone", **shared, **options)
    assert sum(isinstance(e, TrialFinished) for e in run_stacked(together)) == 2
    for stacked, single in zip(together, alone, strict=True):
        list(run_ordinary(single))
        ours, theirs = weights_of(stacked.folder), weights_of(single.folder)
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5, msg=name)


def test_layers_that_learn_at_rates_of_their_own_do_so_in_a_stack(make_trials, weights_of):
    shared = {"flags": {"model": "vit:dim=8,depth=2,heads=2,patch=3,stochastic_depth=0.4"}}
    options = {"layer_decay": 0.7, "head_lr_factor": 3, "optimizer.momentum": 0.9, "epochs": 2}
    varied = [{"seed": 0}, {"seed": 1, "layer_decay": 0.5}, {"seed": 0, "head_lr_factor": 2}]
    together = make_trials(varied, "together", **shared, **{**options})
    alone = make_trials(varied, "alone", **shared, **{**options})
    assert sum(isinstance(e, TrialFinished) for e in run_stacked(together)) == 3
    for stacked, single in zip(together, alone, strict=True):
        list(run_ordinary(single))
        ours, theirs = weights_of(stacked.folder), weights_of(single.folder)
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["Coin", "Noise", "Counting", "Replacing", "Looking", "Joining"])
def test_what_no_stack_computes_alike_is_trained_the_ordinary_way_and_says_why(
    kind: str, make_trials, hash_of
):
    shared = {"flags": {"model": f"./net.py:odd:kind={kind}"}, "optimizer.lr": 0.01}
    together = make_trials([{"seed": 0}, {"seed": 1}], "together", **shared)
    events = list(run_stacked(together))
    warned = {e.number: e.text for e in events if isinstance(e, TrialWarned)}
    assert warned.keys() == {0, 1}
    assert all("ordinary way" in text for text in warned.values())
    assert [e.number for e in events if isinstance(e, TrialFinished)] == [0, 1]
    for stacked, single in zip(
        together, make_trials([{"seed": 0}, {"seed": 1}], "alone", **shared), strict=True
    ):
        list(run_ordinary(single))
        assert hash_of(stacked.folder) == hash_of(single.folder)


def test_trials_of_several_structures_are_told_apart(make_trials, weights_of):
    varied = [
        {"model.activation": "tanh"},
        {"model.activation": "relu"},
        {"batch_size": 20},
        {"model.activation": "tanh", "seed": 1},
        {"augment": '["horizontal_flip"]'},
    ]
    together = make_trials(varied, "together", **{"optimizer.lr": 0.05})
    alone = make_trials(varied, "alone", **{"optimizer.lr": 0.05})
    assert sum(isinstance(e, TrialFinished) for e in run_stacked(together)) == len(varied)
    for stacked, single in zip(together, alone, strict=True):
        list(run_ordinary(single))
        assert_alike(weights_of(stacked.folder), weights_of(single.folder))


def test_trials_of_one_structure_are_one_stack(make_trials, monkeypatch: pytest.MonkeyPatch):
    # The first model of a structure is tried on its own before, which must set it apart in nothing.
    sizes: list[int] = []

    class Counted(stacked_engine.Stack):
        def __init__(self, members: Sequence[Any], *, least: int) -> None:
            sizes.append(len(members))
            super().__init__(members, least=least)

    monkeypatch.setattr(stacked_engine, "Stack", Counted)
    rates = ({"optimizer.lr": rate, "epochs": 1} for rate in (0.01, 0.02, 0.03, 0.04))
    list(run_stacked(make_trials(list(rates), "one")))
    assert sizes == [4]


def test_the_loss_of_each_step_is_logged_where_a_trial_asks_for_it(make_trials):
    varied = [{"log_every": 2}, {"log_every": 0}]
    together = make_trials(varied, "together")
    alone = make_trials(varied, "alone")
    list(run_stacked(together))
    for stacked, single in zip(together, alone, strict=True):
        list(run_ordinary(single))
        assert_same_story(stacked.folder, single.folder)
    assert any("step" in line for line in lines_of(together[0].folder))


def test_a_trial_whose_logged_step_diverges_says_so(make_trials):
    rates = [{"optimizer.lr": 0.1}, {"optimizer.lr": 1e300}]
    trials = make_trials(rates, "logged", log_every=1)
    failed = {e.number: e for e in run_stacked(trials) if isinstance(e, TrialFailed)}
    assert {number: event.error for number, event in failed.items()} == {1: "diverged"}
    kept = json.loads((trials[1].folder / "failure.json").read_bytes())
    assert (kept["error"], kept["message"]) == ("diverged", failed[1].message)
    assert not (trials[0].folder / "failure.json").exists()


def test_a_run_folder_of_a_stack_is_read_by_eval(make_trials, rdfia: Callable[..., Any]):
    (trial, _) = make_trials([{"seed": 0}, {"seed": 1}], "together", epochs=1)
    list(run_stacked([trial, _]))
    result = json.loads((trial.folder / "result.json").read_text())
    outcome = rdfia("eval", str(trial.folder), "--json")
    assert outcome.code == 0
    assert outcome.json["test"]["loss"] == pytest.approx(result["test"]["loss"], rel=1e-6)


def test_events_tell_the_story_of_each_trial(make_trials):
    trials = make_trials([{"epochs": 2}, {"epochs": 3}], "together")
    events = list(run_stacked(trials))
    for trial in trials:
        own = [event for event in events if getattr(event, "number", None) == trial.number]
        epochs = trial.config.epochs
        assert [type(event) for event in own] == [
            TrialStarted,
            *[TrialEpoch] * epochs,
            TrialFinished,
        ]
        assert [event.epoch for event in own if isinstance(event, TrialEpoch)] == list(
            range(1, epochs + 1)
        )


def test_one_that_cannot_be_built_or_has_no_data_fails_alone(make_trials, hash_of):
    trials = make_trials([{}, {"model.dropout": 1.5}, {"seed": 2}], "together")
    events = list(run_stacked(trials))
    (failed,) = [event for event in events if isinstance(event, TrialFailed)]
    assert failed.number == 1
    assert "dropout" in failed.message
    assert {e.number for e in events if isinstance(e, TrialFinished)} == {0, 2}
    nothing = make_trials([{}], "nowhere", flags={"data": "folder:path=absent"})
    assert isinstance(list(run_stacked(nothing))[-1], TrialFailed)


@pytest.mark.parametrize("engine", ["stacked", "process"])
def test_no_trial_is_pruned_after_its_last_epoch(engine: str, make_trials):
    trials = make_trials([{}, {"seed": 1}], engine, epochs=2)
    asked: list[tuple[int, int]] = []

    def judge(epoch: TrialEpoch) -> bool:
        asked.append((epoch.number, epoch.epoch))
        return epoch.epoch == 2 or epoch.number == 1

    runs = [run_stacked(trials, judge)]
    if engine == "process":
        runs = [run_ordinary(trial, judge) for trial in trials]
    events = [event for run in runs for event in run]
    assert [type(event) for event in events if event.number == 0][-1] is TrialFinished
    assert [e.epoch for e in events if isinstance(e, TrialPruned)] == [1]
    assert sorted(asked) == [(0, 1), (0, 2), (1, 1)]
    assert math.isfinite(sum(e.loss for e in events if isinstance(e, TrialEpoch)))
