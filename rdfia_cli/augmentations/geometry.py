"""Augmentations that move pixels: whole batch in, whole batch out, a draw for each sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import Batch, InputSpec

if TYPE_CHECKING:
    from rdfia_cli.spec import Augmentation, Count, Probability, Size


def random_crop(input: InputSpec, *, size: Count = 28, padding: Size = 0) -> Augmentation:
    """Cut a square at a random place, after padding with zeros; the centre at test time.

    Args:
        input: images of at least `size` pixels a side, padding included.
        size: the side of the square, in pixels.
        padding: pixels of zeros added at each side first.
    """
    channels, height, width = input.image("random_crop")
    if size > min(height, width) + 2 * padding:
        raise ComponentError(
            f"random_crop cannot cut {size}x{size} pixels from images of {height}x{width}"
            + (f" padded by {padding}" if padding else ""),
            f"set size to {min(height, width) + 2 * padding} or less, or padding to "
            f"{-(-(size - min(height, width)) // 2)} or more",
        )
    output = InputSpec((channels, size, size), input.classes)
    return RandomCrop(size, padding, output)


class RandomCrop(nn.Module):
    """A window of `size` x `size` at a uniformly drawn offset for each sample."""

    def __init__(self, size: int, padding: int, output: InputSpec) -> None:
        super().__init__()
        self.size, self.padding, self.output = size, padding, output
        self.evaluation: Augmentation | None = CentreCrop(size, padding, output)

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Crop images (B, C, H, W) to (B, C, size, size)."""
        padded = F.pad(batch.inputs, (self.padding,) * 4)
        count, _, height, width = padded.shape
        top = _draw_offsets(count, height - self.size, padded, generator)
        left = _draw_offsets(count, width - self.size, padded, generator)
        within = torch.arange(self.size, device=padded.device)
        samples = torch.arange(count, device=padded.device)[:, None, None]
        rows = (top[:, None] + within)[:, :, None]
        columns = (left[:, None] + within)[:, None, :]
        # Advanced indices around a slice come out first: (B, size, size, C), channels last.
        windows = padded[samples, :, rows, columns]
        return Batch(windows.movedim(-1, 1), batch.labels)


def _draw_offsets(count: int, slack: int, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(slack + 1, (count,), generator=generator, device=like.device)


class CentreCrop(nn.Module):
    """The window in the middle, what a random crop is on average."""

    def __init__(self, size: int, padding: int, output: InputSpec) -> None:
        super().__init__()
        self.size, self.padding, self.output = size, padding, output
        self.evaluation: Augmentation | None = None

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Crop images (B, C, H, W) to (B, C, size, size)."""
        padded = F.pad(batch.inputs, (self.padding,) * 4)
        top, left = ((side - self.size) // 2 for side in padded.shape[2:])
        return Batch(padded[:, :, top : top + self.size, left : left + self.size], batch.labels)


def horizontal_flip(input: InputSpec, *, probability: Probability = 0.5) -> Augmentation:
    """Mirror left and right with a probability; as it is at test time."""
    input.image("horizontal_flip")
    return HorizontalFlip(probability, input)


class HorizontalFlip(nn.Module):
    """Each sample mirrored by its own draw."""

    def __init__(self, probability: float, output: InputSpec) -> None:
        super().__init__()
        self.probability, self.output = probability, output
        self.evaluation: Augmentation | None = None

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Mirror some of the images (B, C, H, W) along W."""
        images = batch.inputs
        draws = torch.rand(len(images), generator=generator, device=images.device)
        mirrored = (draws < self.probability)[:, None, None, None]
        return Batch(torch.where(mirrored, images.flip(-1), images), batch.labels)
