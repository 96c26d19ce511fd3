"""A finished run and a split in, measures out."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdfia_cli import run
from rdfia_cli.config import ComponentConfig, RunConfig, spec_text
from rdfia_cli.errors import ComponentError, RdfiaError, count
from rdfia_cli.spec import Batch, Preparing, ShowsAttention, Split
from rdfia_cli.training import assembly, checkpoint, inputs, split_checks
from rdfia_cli.training.assembly import Assembly
from rdfia_cli.training.loop import predict_split
from rdfia_cli.training.metrics import Measures, measure
from rdfia_cli.training.precision import choose_device
from rdfia_cli.training.step import predict

SPLITS = ("train", "validation", "test")
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
        attention: where the model looks, if that was asked for.
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
    attention: AttentionMaps | None = None


def unfinished(epochs: int) -> str:
    """What is said of weights that are not a run's last."""
    return f"the run is not finished: {count(epochs, 'epoch')} done"


@dataclass(frozen=True)
class Restored:
    """A run's trained model and the data that it is looked at on.

    Attributes:
        parts: the run's parts; the model has the weights that the run kept.
        statistics: the normalisation stored with them, on the device.
        weights_sha256, epoch: of those weights.
        warnings: what the user should know, a line each.
    """

    parts: Assembly
    statistics: inputs.Statistics
    weights_sha256: str
    epoch: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class AttentionMaps:
    """Where a Vision Transformer looks in some images.

    Attributes:
        images: (N, C, H, W) float32 in [0, 1], as they were fed but not normalised.
        labels, predictions: (N,) int64.
        heads: (N, heads, rows, columns), how much what the head of the network reads looks at each
            patch in the last block.
        rollout: (N, rows, columns), the same through all blocks and the residual paths (Abnar and
            Zuidema 2020, arXiv:2005.00928).
        positions: (rows, columns, rows, columns), the cosine similarity of each patch's position
            embedding to each other's, or None where the model has none.
    """

    images: Tensor
    labels: Tensor
    predictions: Tensor
    heads: Tensor
    rollout: Tensor
    positions: Tensor | None


def evaluate(
    folder: Path,
    config: RunConfig,
    split: str,
    data: ComponentConfig | None = None,
    look_at: int = 0,
) -> Generator[Preparing, None, Evaluation]:
    """Score the weights of a run on a split, by the input statistics stored with them.

    Args:
        folder: the run folder.
        config: its configuration, from `run.load_config`; the device may be another.
        split: train, validation or test.
        data: another dataset of the same shape and classes, or None for the run's own.
        look_at: how many of the first examples to draw the attention on.

    Raises:
        RdfiaError: the run has no sound checkpoint.
        ComponentError: the weights or the dataset do not fit, or the model has no attention.
    """
    restored = yield from restore(folder, config, data)
    parts = restored.parts
    logits, labels, seconds = predict_timed(restored, split)
    evaluation = describe(restored, split, logits, labels, seconds)
    if not look_at:
        return evaluation
    maps = attention_maps(parts, parts.split(split), restored.statistics, look_at)
    return replace(evaluation, attention=maps)


def restore(
    folder: Path, config: RunConfig, data: ComponentConfig | None = None
) -> Generator[Preparing, None, Restored]:
    """Build a run's parts and load the weights that it kept.

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
        warnings.append(unfinished(found.manifest["epoch"]))
    warnings.extend(run.changed_code(folder, config.components()))
    if config.precision == "fp16" and choose_device(config.device).type != "cuda":
        warnings.append("the run was trained in fp16, which needs CUDA: evaluated in fp32")
        config = config.model_copy(update={"precision": "fp32"})
    splits = yield from assembly.load_splits(config)
    parts = assembly.assemble(config, splits, restored=True)
    statistics = checkpoint.load_weights(parts.model, found)
    if data is not None:
        config = config.model_copy(update={"data": data})
        other = yield from assembly.load_splits(config)
        warnings.extend(split_checks.compare(other, splits, data.name))
        parts = replace(parts, config=config, splits=other)
    elif run.data_changed(folder, splits.fingerprint):
        warnings.append(f"the images of '{config.data.name}' changed since the run began")
    warnings.extend(parts.splits.warnings)
    return Restored(
        parts=parts,
        statistics=statistics.to(parts.device),
        weights_sha256=found.manifest["files"][checkpoint.MODEL]["sha256"],
        epoch=found.manifest["epoch"],
        warnings=tuple(warnings),
    )


def predict_timed(restored: Restored, split: str) -> tuple[Tensor, Tensor, float]:
    """Logits (N, classes) and labels (N,) of a split, on the CPU, and the seconds they took."""
    parts = restored.parts
    pipeline = parts.pipeline(parts.split(split), restored.statistics)
    clock = time.perf_counter()
    logits, labels = predict_split(parts.model, pipeline, parts.arithmetic)
    return logits, labels, time.perf_counter() - clock


def describe(
    restored: Restored, split: str, logits: Tensor, labels: Tensor, seconds: float
) -> Evaluation:
    """The evaluation of a split whose logits (N, classes) were predicted in some seconds."""
    parts = restored.parts
    return Evaluation(
        config=parts.config,
        split=split,
        measures=measure(logits, labels),
        classes=parts.splits.classes,
        examples=len(labels),
        weights_sha256=restored.weights_sha256,
        epoch=restored.epoch,
        parameters=parts.parameters,
        seconds=seconds,
        precision=parts.arithmetic.precision,
        device=str(parts.device),
        warnings=restored.warnings,
    )


def attention_maps(
    parts: Assembly, split: Split, statistics: inputs.Statistics, examples: int
) -> AttentionMaps:
    """Where a trained model looks in the first examples of a split.

    Raises:
        ComponentError: the model does not show its attention.
    """
    model = parts.model
    if not isinstance(model, ShowsAttention):
        raise ComponentError(
            f"model '{parts.config.model.name}' has no attention to draw",
            "train a vit, or see what is confused with --plot",
        )
    chosen = split.select(torch.arange(min(examples, len(split))))
    shown = next(parts.pipeline(chosen, inputs.Statistics()).evaluation_batches())
    batch = next(parts.pipeline(chosen, statistics).evaluation_batches())
    found = model.attention(batch.inputs).float()
    return AttentionMaps(
        images=shown.inputs.cpu(),
        labels=batch.labels.cpu(),
        predictions=predict(parts.model, batch, parts.arithmetic).argmax(1).cpu(),
        heads=_as_grid(_read(found[-1], model), model).cpu(),
        rollout=_as_grid(_read(_roll_out(found)[:, None], model), model)[:, 0].cpu(),
        positions=_similarities(model),
    )


def _roll_out(attention: Tensor) -> Tensor:
    """The attention of all blocks (depth, B, heads, T, T) as one: (B, T, T)."""
    identity = torch.eye(attention.shape[-1], device=attention.device)
    total = identity
    for block in attention.mean(2):
        total = (block + identity) / 2 @ total
    return total


def _read(attention: Tensor, model: ShowsAttention) -> Tensor:
    """What the class token, or the mean of all tokens, sees of each: (B, heads, T)."""
    return attention[:, :, 0] if model.prefix else attention.mean(2)


def _as_grid(seen: Tensor, model: ShowsAttention) -> Tensor:
    """The patches of (B, heads, T) in their places: (B, heads, rows, columns)."""
    return seen[..., model.prefix :].unflatten(-1, model.grid)


def _similarities(model: ShowsAttention) -> Tensor | None:
    if model.position_embedding is None:
        return None
    vectors = model.position_embedding.detach()[0, model.prefix :].float()
    unit = torch.nn.functional.normalize(vectors, dim=1)
    return (unit @ unit.T).unflatten(1, model.grid).unflatten(0, model.grid).cpu()


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


def describe_evaluation(folder: Path, found: Evaluation) -> dict[str, Any]:
    """The object `rdfia.result/1` of an evaluation: one split is measured, the others are null."""
    measures, config = found.measures, found.config
    summary = {"loss": measures.loss, "accuracy": measures.accuracy, "top5": measures.top5}
    confusion = measures.confusion
    return {
        "schema": "rdfia.result/1",
        "command": "eval",
        "run": str(folder),
        "model": spec_text("model", config.model),
        "data": spec_text("data", config.data),
        "seed": config.seed,
        "epochs": found.epoch,
        "parameters": found.parameters,
        "split": found.split,
        "examples": found.examples,
        **{split: summary if split == found.split else None for split in SPLITS},
        "best": None,
        "seconds": found.seconds,
        "images_per_second": found.examples / found.seconds,
        "calibration_error": measures.calibration_error,
        "classes": [
            {"name": name, "examples": sum(row), "accuracy": accuracy}
            for name, row, accuracy in zip(
                found.classes, confusion, measures.per_class, strict=True
            )
        ],
        "confusion": confusion,
        "precision": found.precision,
        "device": found.device,
        "weights_sha256": found.weights_sha256,
    }
