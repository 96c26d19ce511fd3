"""Rectangles drawn for each sample: what to erase, to cut out, or to take from another image."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rdfia_cli.augmentations.draws import draw_uniform

if TYPE_CHECKING:
    from rdfia_cli.augmentations.draws import Interval

TRIES = 10
"""How many rectangles a sample draws to find one that fits, as in torchvision."""


class Rectangles(NamedTuple):
    """A rectangle of pixels for each sample: (B,) int64 each."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    def cover(self, images: Tensor) -> Tensor:
        """The pixels of images (B, C, H, W) that lie inside: (B, 1, H, W) bool."""
        rows = _between(self.top, self.height, images.shape[2])
        columns = _between(self.left, self.width, images.shape[3])
        return rows[:, None, :, None] & columns[:, None, None, :]


def _between(start: Tensor, length: Tensor, side: int) -> Tensor:
    positions = torch.arange(side, device=start.device) - start[:, None]
    return (positions >= 0) & (positions < length[:, None])


def draw_sides(
    area: Interval, ratio: Interval, images: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw the sides of several rectangles for each sample, of which one that fits is to be taken.

    Args:
        area: of a rectangle, as a share of the image.
        ratio: of the first side to the second; its logarithm is uniform.
        images: (B, C, H, W).
        generator: where the draws come from.

    Returns:
        Both sides in whole pixels: (B, TRIES) int64.
    """
    samples, _, height, width = images.shape
    areas = height * width * area.draw(samples, TRIES, generator=generator)
    ratios = ratio.draw_logarithmically(samples, TRIES, generator=generator)
    return (areas * ratios).sqrt().round().long(), (areas / ratios).sqrt().round().long()


def take_first(fits: Tensor, tries: Tensor, otherwise: int) -> Tensor:
    """Take each sample's first try that fits.

    Args:
        fits: (B, TRIES) bool.
        tries: (B, TRIES) int64.
        otherwise: for a sample of which none fits.

    Returns:
        (B,) int64.
    """
    first = fits.byte().argmax(1, keepdim=True)
    return torch.where(fits.any(1), tries.gather(1, first).squeeze(1), otherwise)


def place(height: Tensor, width: Tensor, images: Tensor, generator: torch.Generator) -> Rectangles:
    """Put rectangles with sides (B,) int64 at uniform places inside images (B, C, H, W)."""
    top, left = (
        _draw_up_to(side - length, generator)
        for side, length in zip(images.shape[2:], (height, width), strict=True)
    )
    return Rectangles(top, left, height, width)


def _draw_up_to(highest: Tensor, generator: torch.Generator) -> Tensor:
    drawn = draw_uniform(len(highest), generator=generator) * (highest + 1)
    # The largest float32 below 1, times a count, may round up to the count.
    return drawn.long().minimum(highest)
