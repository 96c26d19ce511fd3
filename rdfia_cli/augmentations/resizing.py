"""A part of the image, resized: the crop of Inception, and its counterpart at test time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt, Le
from torch import Tensor, nn

from rdfia_cli.augmentations.draws import Interval
from rdfia_cli.augmentations.pixels import lay_out_like
from rdfia_cli.augmentations.rectangles import Rectangles, draw_sides, place, take_first
from rdfia_cli.errors import UsageError
from rdfia_cli.spec import Batch, InputSpec

if TYPE_CHECKING:
    from rdfia_cli.spec import Augmentation, Count, Positive


def random_resized_crop(
    input: InputSpec,
    *,
    size: Count = 32,
    scale_min: Annotated[float, Gt(0), Le(1)] = 0.08,
    scale_max: Annotated[float, Gt(0), Le(1)] = 1.0,
    ratio_min: Positive = 0.75,
    ratio_max: Positive = 1.3333333333333333,
    resize: Count | None = None,
) -> Augmentation:
    """Cut a random part and resize it to a square; at test time resize and cut the centre.

    The crop of Szegedy et al., "Going deeper with convolutions", 2014, arXiv:1409.4842, resized
    bilinearly with antialiasing.

    Args:
        input: images.
        size: the side of the square, in pixels.
        scale_min: the smallest part, as a share of the image's area.
        scale_max: the largest part.
        ratio_min: the smallest ratio of the part's width to its height.
        ratio_max: the largest ratio; its logarithm is drawn uniformly.
        resize: the shorter side at test time, in pixels, before the centre is cut; `size` where
            not given, often 256 for a size of 224.
    """
    channels, height, width = input.image("random_resized_crop")
    shorter = size if resize is None else resize
    if shorter < size:
        raise UsageError(
            f"random_resized_crop cannot cut {size}x{size} pixels from an image resized to "
            f"{shorter}",
            f"set resize to {size} or more",
        )
    area = Interval.of("random_resized_crop", "scale", scale_min, scale_max)
    ratio = Interval.of("random_resized_crop", "ratio", ratio_min, ratio_max)
    output = InputSpec((channels, size, size), input.classes)
    # The longer side is cut off to whole pixels, as torchvision does.
    rows, columns = (int(shorter * side / min(height, width)) for side in (height, width))
    return RandomResizedCrop(area, ratio, ResizedCentre(rows, columns, output), output)


class RandomResizedCrop(nn.Module):
    """A rectangle drawn for each sample, resized to the output's size."""

    def __init__(
        self, area: Interval, ratio: Interval, evaluation: Augmentation, output: InputSpec
    ) -> None:
        super().__init__()
        self.area, self.ratio, self.output = area, ratio, output
        self.evaluation: Augmentation | None = evaluation

    def draw(self, images: Tensor, generator: torch.Generator) -> Rectangles:
        """The rectangle to cut from each of the images (B, C, H, W)."""
        rows, columns = images.shape[2:]
        widths, heights = draw_sides(self.area, self.ratio, images, generator)
        fits = (widths > 0) & (widths <= columns) & (heights > 0) & (heights <= rows)
        height, width = self._largest(rows, columns)
        drawn = place(
            take_first(fits, heights, height), take_first(fits, widths, width), images, generator
        )
        found = fits.any(1)
        top = torch.where(found, drawn.top, (rows - height) // 2)
        left = torch.where(found, drawn.left, (columns - width) // 2)
        return Rectangles(top, left, drawn.height, drawn.width)

    def _largest(self, rows: int, columns: int) -> tuple[int, int]:
        """Height and width of the largest part whose ratio is allowed: where no try fits."""
        if columns < self.ratio.low * rows:
            return max(1, round(columns / self.ratio.low)), columns
        return rows, min(columns, max(1, round(rows * self.ratio.high)))

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Cut and resize images (B, C, H, W) to (B, C, size, size)."""
        images = batch.inputs
        part = self.draw(images, generator)
        height, width = self.output.shape[1:]
        rows = _resizing_weights(part.top, part.height, images.shape[2], height)
        columns = _resizing_weights(part.left, part.width, images.shape[3], width)
        # All rows of all channels at once, then each channel.
        narrow = (images.flatten(1, 2) @ columns.mT).unflatten(1, images.shape[1:3])
        resized = rows[:, None] @ narrow
        return Batch(lay_out_like(resized, images), batch.labels)


def _resizing_weights(start: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """What each input position adds to each output position, along one axis.

    The triangle of bilinear interpolation, as wide as an output pixel where that is wider than an
    input pixel: what `F.interpolate` does with antialiasing, but its own for each sample.

    Args:
        start: (B,) int64, the first position of the part.
        length: (B,) int64, the positions of the part.
        side: how many positions the input has.
        size: how many positions the output has.

    Returns:
        (B, size, side) float32; each row sums to 1.
    """
    positions = torch.arange(side, device=start.device) - start[:, None, None]
    within = (positions >= 0) & (positions < length[:, None, None])
    step = (length / size)[:, None, None]
    centres = (torch.arange(size, device=start.device)[:, None] + 0.5) * step
    distances = (positions + 0.5 - centres).abs_().div_(step.clamp(min=1))
    weights = distances.neg_().add_(1).clamp_(min=0).mul_(within)
    return weights.div_(weights.sum(-1, keepdim=True))


class ResizedCentre(nn.Module):
    """The centre of the image, resized to `height` x `width`."""

    def __init__(self, height: int, width: int, output: InputSpec) -> None:
        super().__init__()
        self.height, self.width, self.output = height, width, output
        self.evaluation: Augmentation | None = None

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Resize images (B, C, H, W) and crop them to (B, C, size, size)."""
        resized = F.interpolate(
            batch.inputs, (self.height, self.width), mode="bilinear", antialias=True
        )
        size = self.output.shape[-1]
        # Half a pixel goes to the even side, as torchvision's centre crop has it.
        top, left = (round((side - size) / 2) for side in (self.height, self.width))
        return Batch(resized[:, :, top : top + size, left : left + size], batch.labels)
