"""A finished run and a split in, measures out."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rdfia_cli import run
from rdfia_cli.config import ComponentConfig, RunConfig
from rdfia_cli.errors import RdfiaError
from rdfia_cli.spec import Batch, Preparing
from rdfia_cli.training import assembly, checkpoint, inputs
from rdfia_cli.training.assembly import Assembly
from rdfia_cli.training.loop import predict_split
from rdfia_cli.training.metrics import Measures, measure
from rdfia_cli.training.precision import choose_device
from rdfia_cli.training.step import predict

DECISION_GRID = 40
DECISION_RANGE = (-2.0, 2.0)
"""The grid of the course: 40 x 40 points of [-2, 2)."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        config: the configuration of the run, with the dataset that was evaluated.
        split: train, validation or test.
        measures: what was measured.
        classes: the names of the classes.
        examples: how many were scored.
        weights_sha256: the checksum of the weights.
        epoch: how many epochs those weights had.
        parameters: how many parameters the model has.
        seconds: the predictions took.
        precision, device: what it was computed in and on.
        warnings: what the user should know, a line each.
    """

    config: RunConfig
    split: str
    measures: Measures
    classes: tuple[str, ...]
    examples: int
    weights_sha256: str
    epoch: int
    parameters: int
    seconds: float
    precision: str
    device: str
    warnings: tuple[str, ...]


def evaluate(
    folder: Path, config: RunConfig, split: str, data: ComponentConfig | None = None
) -> Generator[Preparing, None, Evaluation]:
    """Score the weights of a run on a split, by the input statistics stored with them.

    Args:
        folder: the run folder.
        config: its configuration, from `run.load_config`; the device may be another.
        split: train, validation or test.
        data: another dataset of the same shape and classes, or None for the run's own.

    Raises:
        RdfiaError: the run has no sound checkpoint.
        ComponentError: the weights or the dataset do not fit.
    """
    found, warnings = checkpoint.newest(folder / run.CHECKPOINTS)
    if found is None:
        raise RdfiaError(
            "; ".join([f"'{folder}' has no checkpoint to evaluate", *warnings]),
            f"train it first: rdfia train --config {folder / run.CONFIG} --out {folder}",
        )
    if not (folder / run.RESULT).exists():
        warnings.append(f"the run is not finished: {found.manifest['epoch']} epochs are done")
    if config.precision == "fp16" and choose_device(config.device).type != "cuda":
        warnings.append("the run was trained in fp16, which needs CUDA: evaluated in fp32")
        config = config.model_copy(update={"precision": "fp32"})
    splits = yield from assembly.load_splits(config)
    parts = assembly.assemble(config, splits)
    statistics = checkpoint.load_weights(parts.model, found)
    if data is not None:
        config = config.model_copy(update={"data": data})
        other = yield from assembly.load_splits(config)
        warnings.extend(inputs.compare(other, splits, data.name))
        parts = replace(parts, config=config, splits=other)
    elif run.data_changed(folder, splits.fingerprint):
        warnings.append(f"the images of '{config.data.name}' changed since the run began")
    warnings.extend(parts.splits.warnings)
    pipeline = parts.pipeline(parts.split(split), statistics.to(parts.device))
    clock = time.perf_counter()
    logits, labels = predict_split(parts.model, pipeline, parts.arithmetic)
    seconds = time.perf_counter() - clock
    return Evaluation(
        config=config,
        split=split,
        measures=measure(logits, labels),
        classes=parts.splits.classes,
        examples=len(labels),
        weights_sha256=found.manifest["files"][checkpoint.MODEL]["sha256"],
        epoch=found.manifest["epoch"],
        parameters=parts.parameters,
        seconds=seconds,
        precision=parts.arithmetic.precision,
        device=str(parts.device),
        warnings=tuple(warnings),
    )


def decision_map(parts: Assembly, statistics: inputs.Statistics) -> dict[str, Any] | None:
    """The class that a model of 2-D points gives to each point of a grid, with the data.

    Returns:
        `rdfia.decision-map/1`, or None where the inputs are not 2-D points.
    """
    if parts.input.shape != (2,):
        return None
    low, high = DECISION_RANGE
    axis = torch.arange(DECISION_GRID) * ((high - low) / DECISION_GRID) + low
    points = torch.cartesian_prod(axis, axis).flip(1).to(parts.device)
    parts.model.eval()
    batch = Batch(statistics.apply(points), torch.empty(0))
    probabilities = predict(parts.model, batch, parts.arithmetic).softmax(1).cpu()
    test = parts.splits.test
    return {
        "schema": "rdfia.decision-map/1",
        "axis": axis.tolist(),
        "classes": list(parts.splits.classes),
        "probabilities": probabilities.view(DECISION_GRID, DECISION_GRID, -1).tolist(),
        "points": {"inputs": test.inputs.tolist(), "labels": test.labels.tolist()},
    }
