"""Which trial of a sweep is better than another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def rank(trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The finished trials, the best first: by accuracy on validation, then by its loss.

    The test split chooses nothing. Trials without a validation split have no rank.

    Args:
        trials: as `rdfia.sweep/1` has them; one without its loss comes last among equals.
    """
    scored = [
        trial
        for trial in trials
        if trial["state"] == "finished" and trial["validation_accuracy"] is not None
    ]
    return sorted(scored, key=_key)


def scored(number: int, state: str, validation: Mapping[str, float] | None) -> dict[str, Any]:
    """What `rank` asks of a trial, from the scores on validation that its end has, or None."""
    scores = validation or {}
    return {
        "number": number,
        "state": state,
        "validation_accuracy": scores.get("accuracy"),
        "validation_loss": scores.get("loss"),
    }


def _key(trial: Mapping[str, Any]) -> tuple[float, float, int]:
    loss = trial.get("validation_loss")
    return -trial["validation_accuracy"], math.inf if loss is None else loss, trial["number"]
