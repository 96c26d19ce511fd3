"""A trial trained the ordinary way, by the very code of `rdfia train`."""

from __future__ import annotations

from collections.abc import Iterator

from rdfia_cli.errors import PreemptedError
from rdfia_cli.experiment import Finished, RunEvent, Started, Warned, run_experiment
from rdfia_cli.run import TakenError
from rdfia_cli.sweep.failure import describe_failure
from rdfia_cli.sweep.trial import (
    SECONDS_FOR_A_LOCK,
    Judge,
    Trial,
    TrialEpoch,
    TrialEvent,
    TrialFailed,
    TrialFinished,
    TrialPruned,
    TrialStarted,
    TrialWarned,
    never,
)
from rdfia_cli.training.loop import EpochEnd


def run_ordinary(trial: Trial, judge: Judge = never) -> Iterator[TrialEvent]:
    """Train a trial and tell what comes of it."""
    try:
        for event in _run(trial):
            if isinstance(event, Started):
                yield TrialStarted(trial.number, event.epochs, event.epochs_done)
            elif isinstance(event, Warned):
                yield TrialWarned(trial.number, event.text)
            elif isinstance(event, Finished):
                yield TrialFinished(trial.number, event.result)
            elif isinstance(event, EpochEnd):
                score = event.evaluations.get("validation")
                epoch = TrialEpoch(
                    trial.number,
                    event.epoch,
                    event.epochs,
                    score.loss if score else None,
                    score.accuracy if score else None,
                )
                yield epoch
                if judge(epoch) and not event.last:
                    yield TrialPruned(trial.number, event.epoch)
                    return
    except PreemptedError:
        raise
    except Exception as error:  # whatever a model does, the other trials go on
        yield TrialFailed(trial.number, *describe_failure(error))


def _run(trial: Trial) -> Iterator[RunEvent]:
    """The trial's run, once nobody else writes its folder: its end may be theirs."""
    told = False
    while True:
        try:
            yield from run_experiment(trial.config, trial.folder, patience=SECONDS_FOR_A_LOCK)
            return
        except TakenError as error:
            if not told:
                yield Warned(f"{error.fact}: it is waited for")
            told = True
