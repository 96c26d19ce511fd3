"""What the folder of a sweep says, read once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rdfia_cli import run
from rdfia_cli.errors import UsageError
from rdfia_cli.ranking import rank
from rdfia_cli.spec import value_text

SWEEP = "sweep.json"
LOG_FROM = 100
"""Largest over smallest value from which on listed numbers above 0 are laid out by their ratio."""

Trial = Mapping[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A sweep as its folder tells it.

    Attributes:
        folder: where it stands.
        content: the object `rdfia.sweep/1`.
    """

    folder: Path
    content: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return self.folder.resolve().name

    @property
    def trials(self) -> Sequence[Trial]:
        """All of them, by number."""
        return self.content["trials"]

    @cached_property
    def ranked(self) -> list[Trial]:
        """The finished trials with an accuracy on validation, the best first."""
        return rank(self.trials)

    @property
    def varied(self) -> list[str]:
        """The settings that took more than one value."""
        keys = dict.fromkeys(key for trial in self.trials for key in trial["parameters"])
        return [key for key in keys if len({value_of(t, key) for t in self.trials}) > 1]

    def share(self, trial: Trial) -> float:
        """Where a trial stands among the finished ones, 0 the worst and 1 the best."""
        places, number = self._places, trial["number"]
        return 1 - places[number] / (len(places) - 1) if number in places and len(places) > 1 else 1

    @cached_property
    def _places(self) -> Mapping[int, int]:
        """The place of each ranked trial, from 0, by its number."""
        return {trial["number"]: place for place, trial in enumerate(self.ranked)}

    def run_folder(self, trial: Trial) -> Path:
        """A trial's run folder, also where the sweep was moved."""
        told = Path(trial["run"])
        places = (told, self.folder / Path(*told.parts[-2:]), self.folder / told.name)
        return next((place for place in places if (place / run.CONFIG).exists()), told)


def read_sweep(folder: Path) -> Sweep:
    """Read the folder of a sweep.

    Raises:
        UsageError: its `sweep.json` is damaged.
    """
    path = folder / SWEEP
    try:
        content = json.loads(path.read_bytes())
        for trial in content["trials"]:
            _ = (trial["number"], trial["parameters"].keys(), trial["state"])
            _ = (trial["validation_accuracy"], trial["test_accuracy"], trial["run"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"'{path}' is damaged: it does not hold an object rdfia.sweep/1",
            "run the same rdfia sweep again: it writes the file anew",
        ) from None
    return Sweep(folder, content)


def value_of(trial: Trial, key: str) -> str:
    """A trial's value of a setting as text; empty where it has none."""
    return value_text(trial["parameters"].get(key, ""))
