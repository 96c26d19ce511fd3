"""What is seen in a trained model: mistakes, calibration, filters, attention, its beginning."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rdfia_cli import run
from rdfia_cli.config import ComponentConfig, RunConfig
from rdfia_cli.evaluation import (
    AttentionMaps,
    Evaluation,
    attention_maps,
    describe,
    predict_timed,
    restore,
)
from rdfia_cli.spec import Preparing, ShowsAttention
from rdfia_cli.training import assembly, inputs
from rdfia_cli.training.assembly import Assembly
from rdfia_cli.training.inspection import Sample, first_examples
from rdfia_cli.training.metrics import ReliabilityBin, reliability


@dataclass(frozen=True)
class Mistakes:
    """The wrongly classified examples that the model was most confident of, the surest first.

    Attributes:
        images: (N, C, H, W) float32 in [0, 1], as they were fed but not normalised.
        examples: (N,) int64, where each stands in its split.
        labels, predictions: (N,) int64.
        confidences: (N,) float64, the probability that the model gave to its prediction.
        total: how many mistakes there are in all.
    """

    images: Tensor
    examples: Tensor
    labels: Tensor
    predictions: Tensor
    confidences: Tensor
    total: int


@dataclass(frozen=True)
class Filters:
    """What the first layer looks for.

    Attributes:
        name: the parameter's.
        weights: (N, C, h, w) float32.
    """

    name: str
    weights: Tensor


@dataclass(frozen=True)
class Insight:
    """What is seen in a trained model.

    Attributes:
        evaluation: its measures on the split.
        reliability: its accuracy by confidence.
        mistakes: None where the inputs are no images.
        filters: None where the first layer's weights are no images.
        attention: None where the model does not show it.
    """

    evaluation: Evaluation
    reliability: Sequence[ReliabilityBin]
    mistakes: Mistakes | None
    filters: Filters | None
    attention: AttentionMaps | None


@dataclass(frozen=True)
class Learned:
    """A run's model before and after its training.

    Attributes:
        untrained, trained: in evaluation mode, on the CPU.
        sample: images that the run was not trained on.
        warnings: what the user should know, a line each.
    """

    untrained: nn.Module
    trained: nn.Module
    sample: Sample
    warnings: tuple[str, ...]


def look_inside(
    folder: Path, config: RunConfig, *, split: str, mistakes: int, attended: int
) -> Generator[Preparing, None, Insight]:
    """Evaluate the weights that a run kept, and look at what they do.

    Args:
        folder: the run folder.
        config: its configuration.
        split: train, validation or test.
        mistakes: how many wrong examples to show at most.
        attended: how many examples to show the attention of.

    Raises:
        RdfiaError: the run has no sound checkpoint.
        ComponentError: the weights or the dataset do not fit.
    """
    restored = yield from restore(folder, config)
    parts = restored.parts
    logits, labels, seconds = predict_timed(restored, split)
    are_images = len(parts.input.shape) == 3
    maps = None
    if isinstance(parts.model, ShowsAttention):
        maps = attention_maps(parts, parts.split(split), restored.statistics, attended)
    return Insight(
        evaluation=describe(restored, split, logits, labels, seconds),
        reliability=reliability(logits, labels),
        mistakes=find_mistakes(parts, split, logits, labels, mistakes) if are_images else None,
        filters=first_filters(parts.model, parts.input.shape) if are_images else None,
        attention=maps,
    )


def before_and_after(
    folder: Path, data: ComponentConfig | None, count: int
) -> Generator[Preparing, None, Learned]:
    """A run's model with its first and its last weights, and test images as it is fed them.

    Args:
        folder: the run folder.
        data: another dataset of the same shape and classes, or None for the run's own.
        count: how many images, at most those that there are.

    Raises:
        RdfiaError: the run has no sound checkpoint.
        ComponentError: the weights or the dataset do not fit.
    """
    config = run.load_config(folder).model_copy(update={"device": "cpu"})
    restored = yield from restore(folder, config, data)
    parts = restored.parts
    untrained = assembly.assemble(parts.config, parts.splits, macs=parts.macs).model
    chosen = first_examples(parts.splits.test, count)
    pictures, fed = (
        torch.cat([batch.inputs for batch in parts.pipeline(chosen, each).evaluation_batches()])
        for each in (inputs.Statistics(), restored.statistics)
    )
    sample = Sample(pictures, fed, parts.config.data.name)
    return Learned(untrained.eval(), parts.model.eval(), sample, restored.warnings)


def find_mistakes(
    parts: Assembly, split: str, logits: Tensor, labels: Tensor, most: int
) -> Mistakes:
    """The mistakes of highest confidence, from the logits (N, classes) of a split's examples."""
    confidence, predicted = logits.double().softmax(1).max(1)
    wrong = (predicted != labels).nonzero().flatten()
    order = confidence[wrong].argsort(descending=True, stable=True)[:most]
    chosen = wrong[order]
    images = torch.empty(0, *parts.input.shape)
    if len(chosen):
        part = parts.split(split).select(chosen.to(parts.split(split).labels.device))
        batches = parts.passing_pipeline(part, inputs.Statistics()).evaluation_batches()
        images = torch.cat([batch.inputs.cpu() for batch in batches])
    return Mistakes(
        images=images,
        examples=chosen,
        labels=labels[chosen],
        predictions=predicted[chosen],
        confidences=confidence[chosen],
        total=len(wrong),
    )


def first_filters(model: nn.Module, shape: tuple[int, ...]) -> Filters | None:
    """The weights of the first layer as images, if they are some.

    They are where it is a convolution of more than one pixel, a linear layer on all pixels, or one
    on square patches whose values are in the order (channel, row, column).

    Args:
        model: any module on images.
        shape: (C, H, W) of its input.
    """
    matrices = (
        (name, weight.detach())
        for name, weight in model.named_parameters()
        if weight.ndim == 4 or (weight.ndim == 2 and min(weight.shape) > 1)
    )
    name, weight = next(matrices, ("", torch.empty(0)))
    if weight.ndim == 4:
        fits = weight.shape[1] == shape[0] and max(weight.shape[2:]) > 1
        return Filters(name, weight.float().cpu()) if fits else None
    sides = _sides(weight.shape[1], shape) if weight.ndim == 2 else None
    if sides is None:
        return None
    return Filters(name, weight.unflatten(1, (shape[0], *sides)).float().cpu())


def _sides(values: int, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Height and width of an image or of a square patch of so many values, or None."""
    channels, height, width = shape
    if values == channels * height * width:
        return height, width
    side = round((values / channels) ** 0.5)
    fits = channels * side * side == values and height % side == 0 == width % side
    return (side, side) if fits and side > 1 else None
