"""Test images for an analysis of a model, as it is fed them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rdfia_cli.config import ComponentConfig
from rdfia_cli.errors import UsageError
from rdfia_cli.spec import Preparing, Split
from rdfia_cli.training import assembly, inputs


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
    images = inputs.scale(first_examples(splits.test, count).inputs)
    channels, height, width = shape
    if images.shape[1] != channels:
        images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    if images.shape[2:] != (height, width):
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    mean, std = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
    return Sample(images, (images - mean) / std.clamp(min=1e-6), chosen.name)


def first_examples(split: Split, count: int) -> Split:
    """The first examples of a split, at most those that there are, in memory."""
    part = split.select(torch.arange(min(count, len(split))))
    return Split(part.take(torch.arange(len(part))), part.labels)
