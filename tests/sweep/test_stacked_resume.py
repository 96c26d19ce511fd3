"""A stack that is killed goes on from each trial's own checkpoint, and ends with the same bytes."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from rdfia_cli import run
from rdfia_cli.config import RunConfig
from rdfia_cli.errors import PreemptedError
from rdfia_cli.sweep.ordinary import run_ordinary
from rdfia_cli.sweep.stacked import run_stacked
from rdfia_cli.sweep.trial import (
    Trial,
    TrialEpoch,
    TrialEvent,
    TrialFinished,
    TrialStarted,
    TrialWarned,
)
from rdfia_cli.training import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
OPTIONS = {"model.norm": "true", "model.dropout": 0.2, "flags": {"optimizer": "adam"}}
VARIED = [
    {"seed": n, "optimizer.lr": 0.01 * (n + 1), "epochs": 3 + n % 2, "ema_decay": 0.8}
    for n in range(4)
]


def stop_after(epochs: int, trials: Sequence[Trial]) -> None:
    """End a stack in its loop, as a kill does, but for the flush of what it had written."""
    events = run_stacked(trials)
    told = (event for event in events if isinstance(event, TrialEpoch))
    list(itertools.islice(told, epochs))
    events.close()


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.Rhythm, "due", lambda self, epoch_ended: epoch_ended)


@pytest.mark.usefixtures("every_epoch")
@pytest.mark.parametrize("epochs", [1, 5, 10, 12])
def test_a_stack_goes_on_to_the_same_bytes(epochs: int, make_trials, hash_of):
    whole = make_trials(VARIED, "whole", **OPTIONS)
    broken = make_trials(VARIED, "broken", **OPTIONS)
    list(run_stacked(whole))
    stop_after(epochs, broken)
    events = list(run_stacked(broken))
    assert sum(isinstance(event, TrialFinished) for event in events) == len(VARIED)
    for one, other in zip(whole, broken, strict=True):
        assert hash_of(one.folder) == hash_of(other.folder)
        texts = [(trial.folder / "metrics.jsonl").read_bytes() for trial in (one, other)]
        assert texts[0] == texts[1]


@pytest.mark.usefixtures("every_epoch")
def test_trials_at_different_epochs_share_a_stack(make_trials, hash_of):
    whole = make_trials(VARIED, "whole", **OPTIONS)
    broken = make_trials(VARIED, "broken", **OPTIONS)
    list(run_stacked(whole))
    stop_after(4, broken[:2])
    stop_after(3, broken[1:3])
    events = list(run_stacked([broken[n] for n in (3, 1, 0, 2)]))
    done = {event.number: event.epochs_done for event in events if isinstance(event, TrialStarted)}
    assert len(set(done.values())) > 1
    for one, other in zip(whole, broken, strict=True):
        assert hash_of(one.folder) == hash_of(other.folder)


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_stack_that_is_asked_to_stop_keeps_the_epoch_and_goes_on_to_the_same_bytes(
    epoch: int, make_trials, hash_of, monkeypatch
):
    monkeypatch.setattr(checkpoint.Rhythm, "due", lambda self, epoch_ended: False)
    whole = make_trials(VARIED, "whole", **OPTIONS)
    broken = make_trials(VARIED, "broken", **OPTIONS)
    list(run_stacked(whole))
    finished: list[int] = []
    with pytest.raises(PreemptedError) as stopped:
        for event in run_stacked(broken):
            if isinstance(event, TrialEpoch) and (event.number, event.epoch) == (0, epoch):
                os.kill(os.getpid(), signal.SIGTERM)
            elif isinstance(event, TrialFinished):
                finished.append(event.number)
    assert stopped.value.signal == signal.SIGTERM
    # Two of them have three epochs only.
    assert sorted(finished) == ([0, 2] if epoch == 3 else [])
    events = list(run_stacked(broken))
    done = {event.number: event.epochs_done for event in events if isinstance(event, TrialStarted)}
    assert done == {n: epoch for n in range(4) if n not in finished}
    for one, other in zip(whole, broken, strict=True):
        assert hash_of(one.folder) == hash_of(other.folder)


def test_a_stack_that_is_asked_to_stop_while_it_is_prepared_fails_no_trial(
    make_trials, monkeypatch
):
    trials = make_trials(VARIED[:2], "early", **OPTIONS)
    real, looks = run.look, []

    def look(config: RunConfig, folder: Path) -> run.Place:
        if not looks:
            os.kill(os.getpid(), signal.SIGTERM)
        looks.append(folder)
        return real(config, folder)

    monkeypatch.setattr(run, "look", look)
    told: list[TrialEvent] = []
    with pytest.raises(PreemptedError):
        told.extend(run_stacked(trials))
    assert looks == [trial.folder for trial in trials]
    assert told == []


def test_a_finished_stack_is_not_trained_again(make_trials):
    trials = make_trials(VARIED[:2], "done", **OPTIONS)
    first = [e for e in run_stacked(trials) if isinstance(e, TrialFinished)]
    again = list(run_stacked(trials))
    assert [event.result for event in first] == [
        event.result for event in sorted(again, key=lambda e: e.number)
    ]


def test_a_run_that_stopped_within_an_epoch_goes_on_the_ordinary_way(
    make_trials, hash_of, monkeypatch
):
    whole = make_trials([{"seed": 3}], "whole")
    list(run_ordinary(whole[0]))
    trials = make_trials([{"seed": 3}, {"seed": 4}], "broken")
    real = checkpoint.Rhythm.due
    saved = iter(range(100))
    monkeypatch.setattr(checkpoint.Rhythm, "due", lambda self, epoch_ended: next(saved) == 6)
    ordinary = run_ordinary(trials[0])
    for event in ordinary:
        if isinstance(event, TrialEpoch) and event.epoch == 2:
            break
    ordinary.close()
    monkeypatch.setattr(checkpoint.Rhythm, "due", real)
    events = list(run_stacked(trials))
    warned = [event.text for event in events if isinstance(event, TrialWarned)]
    assert len(warned) == 1
    assert "within an epoch" in warned[0]
    assert hash_of(whole[0].folder) == hash_of(trials[0].folder)
