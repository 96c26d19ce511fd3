"""What an analysis of a model looks at: images as it is fed them, and a run's weights."""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdfia_cli import run
from rdfia_cli.config import ComponentConfig
from rdfia_cli.errors import RdfiaError, UsageError
from rdfia_cli.spec import Preparing, Split
from rdfia_cli.training import assembly, checkpoint, inputs, split_checks


@dataclass(frozen=True)
class Sample:
    """Some test images.

    Attributes:
        pictures: (N, C, H, W) float32 in [0, 1].
        fed: the same as the model is fed them.
        data: where they come from.
    """

    pictures: Tensor
    fed: Tensor
    data: str


@dataclass(frozen=True)
class Restored:
    """A run's model before and after its training.

    Attributes:
        untrained, trained: in evaluation mode, on the CPU.
        sample: images that the run was not trained on.
    """

    untrained: nn.Module
    trained: nn.Module
    sample: Sample


def sample_images(
    chosen: ComponentConfig, shape: tuple[int, ...], count: int
) -> Generator[Preparing, None, Sample]:
    """Test images of a dataset in the size that a model takes, standardised.

    Args:
        chosen: the dataset.
        shape: (C, H, W) of the model's input.
        count: how many, at most those that there are.

    Raises:
        UsageError: the dataset or the model knows no images.
    """
    splits = yield from assembly.load_dataset(chosen)
    if len(shape) != 3 or len(splits.input.shape) != 3:
        raise UsageError(
            f"'{chosen.name}' and an input of {'x'.join(map(str, shape))} are not both images",
            "leave out --effective and --plot, or give another --data",
        )
    images = inputs.scale(_first(splits.test, count).inputs)
    channels, height, width = shape
    if images.shape[1] != channels:
        images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    if images.shape[2:] != (height, width):
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    mean, std = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
    return Sample(images, (images - mean) / std.clamp(min=1e-6), chosen.name)


def restore(
    folder: Path, data: ComponentConfig | None, count: int
) -> Generator[Preparing, None, Restored]:
    """A run's model with its first and its last weights, and test images as it is fed them.

    Raises:
        RdfiaError: the run has no sound checkpoint.
    """
    config = run.load_config(folder).model_copy(update={"device": "cpu"})
    found, _ = checkpoint.newest(folder / run.CHECKPOINTS)
    if found is None:
        raise RdfiaError(f"'{folder}' has no checkpoint", "train it first")
    parts = yield from assembly.load_and_assemble(config)
    if data is not None:
        splits = yield from assembly.load_splits(config.model_copy(update={"data": data}))
        # What it would warn of is the classes' names, which no gradient here knows.
        tuple(split_checks.compare(splits, parts.splits, data.name))
        parts = replace(parts, splits=splits)
    trained = copy.deepcopy(parts.model)
    statistics = checkpoint.load_weights(trained, found)
    chosen = _first(parts.splits.test, count)
    pictures, fed = (
        torch.cat([batch.inputs for batch in parts.pipeline(chosen, each).evaluation_batches()])
        for each in (inputs.Statistics(), statistics)
    )
    sample = Sample(pictures, fed, (data or config.data).name)
    return Restored(parts.model.eval(), trained.eval(), sample)


def _first(split: Split, count: int) -> Split:
    part = split.select(torch.arange(min(count, len(split))))
    return Split(part.take(torch.arange(len(part))), part.labels)
