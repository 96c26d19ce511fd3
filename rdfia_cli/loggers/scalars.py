"""A line of `metrics.jsonl` as named numbers, which is what loggers plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def step_of(line: Mapping[str, Any]) -> int:
    """Where a line stands on its axis: the epoch, or the step counted from the run's first."""
    if "step" not in line:
        return line["epoch"]
    return (line["epoch"] - 1) * line["steps_per_epoch"] + line["step"]


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line: `loss/train`, `accuracy/test`, `learning_rate`, `loss/step`, ..."""
    if "step" in line:
        return {"loss/step": line["loss"]}
    found: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, dict):
            found.update({f"{measure}/{key}": number for measure, number in value.items()})
        elif key != "epoch":
            found[key] = value
    return found
