"""Images brought to another size, in training as at test time: nothing is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from rdfia_cli.augmentations.pixels import lay_out_like
from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import Batch, InputSpec

if TYPE_CHECKING:
    from rdfia_cli.spec import Augmentation, Count, Probability


def resize(input: InputSpec, *, size: Count = 224) -> Augmentation:
    """Resize to a square, in training as at test time.

    Bilinear with antialiasing; an image that is no square is squashed.

    Args:
        input: images.
        size: the side of the square, in pixels.
    """
    channels, _, _ = input.image("resize")
    output = InputSpec((channels, size, size), input.classes)
    return Resize(output, Resize(output, None))


def pad(input: InputSpec, *, size: Count = 32, fill: Probability = 0.0) -> Augmentation:
    """Put the image in the middle of a larger square, in training as at test time.

    Args:
        input: images of at most `size` pixels a side.
        size: the side of the square, in pixels; an odd pixel goes to the right and the bottom.
        fill: the value of what is added, 0 for black.
    """
    channels, height, width = input.image("pad")
    if size < max(height, width):
        raise ComponentError(
            f"pad cannot make images of {height}x{width} smaller, to {size}x{size}",
            f"set size to {max(height, width)} or more, or use resize:size={size}",
        )
    output = InputSpec((channels, size, size), input.classes)
    return Pad(fill, output, Pad(fill, output, None))


class Resize(nn.Module):
    """Images of any size at the output's size."""

    def __init__(self, output: InputSpec, evaluation: Augmentation | None) -> None:
        super().__init__()
        self.output, self.evaluation = output, evaluation

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Resize images (B, C, H, W) to (B, C, size, size)."""
        images = batch.inputs
        height, width = self.output.shape[1:]
        resized = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
        return Batch(lay_out_like(resized, images), batch.labels)


class Pad(nn.Module):
    """Images in the middle of the output."""

    def __init__(self, fill: float, output: InputSpec, evaluation: Augmentation | None) -> None:
        super().__init__()
        self.fill, self.output, self.evaluation = fill, output, evaluation

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Pad images (B, C, H, W) to (B, C, size, size)."""
        rows, columns = (
            whole - part
            for whole, part in zip(self.output.shape[1:], batch.inputs.shape[2:], strict=True)
        )
        edges = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        padded = F.pad(batch.inputs, edges, value=self.fill)
        return Batch(lay_out_like(padded, batch.inputs), batch.labels)
