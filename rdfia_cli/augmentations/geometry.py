"""Crops and flips: every output pixel is a pixel of the image, or of its padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdfia_cli.augmentations.draws import draw_integers, draw_uniform
from rdfia_cli.augmentations.pixels import choose
from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import Batch, InputSpec

if TYPE_CHECKING:
    from rdfia_cli.spec import Augmentation, Count, Probability, Size


def random_crop(
    input: InputSpec,
    *,
    size: Count = 28,
    share: Probability = 0.0,
    padding: Size = 0,
    padding_mode: Literal["constant", "edge", "reflect", "symmetric"] = "constant",
    fill: Probability = 0.0,
) -> Augmentation:
    """Cut a square at a random place, after padding; the centre at test time.

    Args:
        input: images of at least `size` pixels a side, padding included.
        size: the side of the square, in pixels.
        share: the side as a share of the images' shorter one; 0 leaves it to `size`.
        padding: pixels added at each side first.
        padding_mode: what they hold: `constant` the value of `fill`, `edge` the nearest pixel,
            `reflect` the mirror image about the outermost pixel, `symmetric` about its outer edge.
        fill: the value of constant padding, 0 for black.
    """
    channels, height, width = input.image("random_crop")
    if share:
        size = max(1, round(share * min(height, width)))
    _refuse_size(size, padding, height, width)
    _refuse_padding(padding, padding_mode, min(height, width))
    output = InputSpec((channels, size, size), input.classes)
    return RandomCrop(size, Padding(padding, padding_mode, fill), output)


def _refuse_size(size: int, padding: int, height: int, width: int) -> None:
    largest = min(height, width) + 2 * padding
    if size > largest:
        raise ComponentError(
            f"random_crop cannot cut {size}x{size} pixels from images of {height}x{width}"
            + (f" padded by {padding}" if padding else ""),
            f"set size to {largest} or less, or padding to "
            f"{-(-(size - min(height, width)) // 2)} or more",
        )


def _refuse_padding(padding: int, mode: str, side: int) -> None:
    most = {"reflect": side - 1, "symmetric": side}.get(mode, padding)
    if padding > most:
        raise ComponentError(
            f"random_crop cannot mirror {padding} pixels of images with a side of {side}",
            f"set padding to {most} or less, or padding_mode to edge or constant",
        )


@dataclass(frozen=True)
class Padding:
    """Pixels added at each side of images; see `random_crop`."""

    width: int
    mode: str = "constant"
    fill: float = 0.0

    def apply(self, images: Tensor) -> Tensor:
        """Pad images (B, C, H, W) to (B, C, H + 2 * width, W + 2 * width)."""
        if self.mode == "symmetric":
            return _mirror(_mirror(images, self.width, axis=2), self.width, axis=3)
        widths = (self.width,) * 4
        if self.mode == "constant":
            return F.pad(images, widths, value=self.fill)
        return F.pad(images, widths, mode="replicate" if self.mode == "edge" else self.mode)


def _mirror(images: Tensor, width: int, axis: int) -> Tensor:
    first = images.narrow(axis, 0, width)
    last = images.narrow(axis, images.shape[axis] - width, width)
    return torch.cat((first.flip(axis), images, last.flip(axis)), axis)


class RandomCrop(nn.Module):
    """A window of `size` x `size` at a uniformly drawn offset for each sample."""

    def __init__(self, size: int, padding: Padding, output: InputSpec) -> None:
        super().__init__()
        self.size, self.padding, self.output = size, padding, output
        self.evaluation: Augmentation | None = CentreCrop(size, padding, output)

    def draw(self, padded: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The top and the left of each sample's window in padded images: (B,) int64 each."""
        samples, _, height, width = padded.shape
        top = draw_integers(height - self.size + 1, samples, generator)
        left = draw_integers(width - self.size + 1, samples, generator)
        return top, left

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Crop images (B, C, H, W) to (B, C, size, size)."""
        padded = self.padding.apply(batch.inputs)
        top, left = self.draw(padded, generator)
        # Every window there is, as a view: only those drawn are copied, and row by row.
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)
        samples = torch.arange(len(padded), device=padded.device)
        return Batch(windows[samples, :, top, left], batch.labels)


class CentreCrop(nn.Module):
    """The window in the middle, what a random crop is on average."""

    def __init__(self, size: int, padding: Padding, output: InputSpec) -> None:
        super().__init__()
        self.size, self.padding, self.output = size, padding, output
        self.evaluation: Augmentation | None = None

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Crop images (B, C, H, W) to (B, C, size, size)."""
        padded = self.padding.apply(batch.inputs)
        # As torchvision rounds it: half a pixel goes to the even side.
        top, left = (round((side - self.size) / 2) for side in padded.shape[2:])
        return Batch(padded[:, :, top : top + self.size, left : left + self.size], batch.labels)


def horizontal_flip(input: InputSpec, *, probability: Probability = 0.5) -> Augmentation:
    """Mirror left and right with a probability; as it is at test time."""
    input.image("horizontal_flip")
    return RandomFlip(3, probability, input)


def vertical_flip(input: InputSpec, *, probability: Probability = 0.5) -> Augmentation:
    """Mirror top and bottom with a probability; as it is at test time."""
    input.image("vertical_flip")
    return RandomFlip(2, probability, input)


class RandomFlip(nn.Module):
    """Each sample mirrored along an axis of (B, C, H, W) by its own draw."""

    def __init__(self, axis: int, probability: float, output: InputSpec) -> None:
        super().__init__()
        self.axis, self.probability, self.output = axis, probability, output
        self.evaluation: Augmentation | None = None

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Which samples to mirror: (B,) bool."""
        return draw_uniform(len(images), generator=generator) < self.probability

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Mirror some of the images (B, C, H, W)."""
        images = batch.inputs
        mirrored = self.draw(images, generator)[:, None, None, None]
        return Batch(choose(mirrored, images.flip(self.axis), images), batch.labels)
