"""What the files of a run folder say, read once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdfia_cli import run
from rdfia_cli.config import RunConfig, spec_text
from rdfia_cli.errors import ComponentError, UsageError

Line = Mapping[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder tells it.

    Attributes:
        folder: where it stands.
        config: its settings.
        environment: what it began with; empty where that is not there.
        epochs, steps: the lines of `metrics.jsonl` of either kind.
        seconds: all epochs took together, where that is known.
        result: the object `rdfia.result/1`, or None before the run is finished.
        decision: the object `rdfia.decision-map/1`, or None.
        fitted: whether training is over.
        failure: the object `rdfia.error/1` of a run that diverged, or None.
    """

    folder: Path
    config: RunConfig
    environment: Mapping[str, Any]
    epochs: Sequence[Line]
    steps: Sequence[Line]
    seconds: float | None
    result: Mapping[str, Any] | None
    decision: Mapping[str, Any] | None
    fitted: bool
    failure: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return self.folder.resolve().name

    @property
    def model(self) -> str:
        """The model as one writes it."""
        return spec_text("model", self.config.model)

    @property
    def data(self) -> str:
        """The dataset as one writes it."""
        return spec_text("data", self.config.data)

    @property
    def best(self) -> Line | None:
        """The epoch of the highest validation accuracy and, at an equal one, of the lowest loss."""
        return run.best_epoch(self.epochs)

    @property
    def kept(self) -> Line | None:
        """The epoch whose weights the run keeps: with early stopping the best, else the last."""
        if self.result is not None and "kept_epoch" in self.result:
            number = self.result["kept_epoch"]
            return next((line for line in self.epochs if line["epoch"] == number), None)
        if self.config.early_stopping and self.best is not None:
            return self.best
        return self.epochs[-1] if self.epochs else None

    def examples(self, split: str) -> int | None:
        """How many examples a split that is scored has, where that is known; of train None.

        The score of train is no sample of anything: it is taken while the weights move.
        """
        sizes: Mapping[str, int] = self.environment.get("examples") or {}
        return None if split == "train" else sizes.get(split)

    @property
    def parameters(self) -> int | None:
        """How many parameters the model has, where that is known."""
        return None if self.result is None else self.result.get("parameters")


def read_run(folder: Path, *, fitted: bool = False) -> RunRecord:
    """Read a run folder.

    Args:
        folder: the run folder.
        fitted: its training is over, though it has no result yet.

    Raises:
        UsageError: it is no run folder, or one of its files is damaged.
    """
    config = _config(folder)
    lines = _lines(folder / run.METRICS)
    timings = _lines(folder / run.TIMINGS)
    result = _object(folder / run.RESULT)
    return RunRecord(
        folder=folder,
        config=config,
        environment=_object(folder / run.ENVIRONMENT) or {},
        epochs=[line for line in lines if "step" not in line],
        steps=[line for line in lines if "step" in line],
        seconds=sum(line["seconds"] for line in timings) if timings else None,
        result=result,
        decision=_object(folder / run.DECISION_MAP),
        fitted=fitted or result is not None,
        failure=_object(folder / run.FAILURE),
    )


def _config(folder: Path) -> RunConfig:
    """The settings of a run, also where its components are gone, since its files tell all else."""
    try:
        return run.load_config(folder)
    except ComponentError:
        return run.written_config(folder)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return run.read_lines(path)
    except ValueError:
        raise UsageError(f"'{path}' is damaged: a line is not JSON") from None


def _object(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise UsageError(f"'{path}' is damaged: it is not JSON") from None
