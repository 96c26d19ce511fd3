"""What a trial is, and what its execution tells: the words that all executors share.

An executor takes trials and yields these events. It raises nothing for a trial that fails: a
failure is an event, and the other trials go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdfia_cli.config import RunConfig

SECONDS_FOR_A_LOCK = 10.0
"""How long a dying worker may still hold the folder of a trial."""


@dataclass(frozen=True)
class Trial:
    """One configuration of a sweep.

    Attributes:
        number: from 0, its place in the sweep.
        config: the resolved configuration; its `out` is the trial's run folder.
    """

    number: int
    config: RunConfig

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.folder


@dataclass(frozen=True)
class TrialStarted:
    """A trial begins, or goes on after `epochs_done` of its epochs."""

    number: int
    epochs: int
    epochs_done: int = 0


@dataclass(frozen=True)
class TrialEpoch:
    """An epoch of a trial is done.

    Attributes:
        number: of the trial.
        epoch: from 1, of `epochs`.
        loss, accuracy: on validation; None where the run has no validation split.
    """

    number: int
    epoch: int
    epochs: int
    loss: float | None
    accuracy: float | None


@dataclass(frozen=True)
class TrialFinished:
    """A trial is complete; its result is in its run folder."""

    number: int
    result: Mapping[str, Any]


@dataclass(frozen=True)
class TrialFailed:
    """A trial failed; the run folder keeps what it had.

    Attributes:
        number: of the trial.
        error: the kind of the error, as `rdfia.error/1` has it, such as `diverged`.
        message: what was wrong, in a line.
    """

    number: int
    error: str
    message: str


@dataclass(frozen=True)
class TrialPruned:
    """A trial was stopped after an epoch, since others do better."""

    number: int
    epoch: int


@dataclass(frozen=True)
class TrialWarned:
    """Something that the user should know of a trial, in one line."""

    number: int
    text: str


@dataclass(frozen=True)
class Chosen:
    """How trials of one structure are executed.

    Attributes:
        engine: `stacked` or `process`.
        reason: why, in a line, such as `2.9 times the speed of one after the other`.
    """

    engine: str
    reason: str


TrialEvent = (
    TrialStarted | TrialEpoch | TrialFinished | TrialFailed | TrialPruned | TrialWarned | Chosen
)

Judge = Callable[[TrialEpoch], bool]
"""Asked after an epoch whether the trial is to be pruned."""


def never(epoch: TrialEpoch) -> bool:
    """Let every trial go on to its end."""
    return False
