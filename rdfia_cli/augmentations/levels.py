"""Operations on images of 256 levels, with the integer arithmetic of PIL and torchvision.

`levels` are whole numbers from 0 to 255 in float32, (B, C, H, W), channel by channel in memory, and
are left as they were. `amounts`, (B,) float32, say how far each sample goes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rdfia_cli.augmentations.colour import to_grey


def change_brightness(levels: Tensor, amounts: Tensor) -> Tensor:
    """Move away from black by the amounts, towards it where they are negative."""
    return _move_away(levels, torch.zeros_like(levels[:, :1]), amounts)


def change_color(levels: Tensor, amounts: Tensor) -> Tensor:
    """Move away from each pixel's grey; an image of one channel has no other."""
    if levels.shape[1] == 1:
        return levels
    return _move_away(levels, to_grey(levels).floor_(), amounts)


def change_contrast(levels: Tensor, amounts: Tensor) -> Tensor:
    """Move away from the mean grey of the image."""
    return _move_away(levels, to_grey(levels).floor().mean((1, 2, 3), keepdim=True), amounts)


def change_sharpness(levels: Tensor, amounts: Tensor) -> Tensor:
    """Move away from the weighted mean of each pixel, 5, and its eight neighbours, 1; not edges."""
    if min(levels.shape[2:]) < 3:
        return levels
    inner = levels[:, :, 1:-1, 1:-1]
    three = levels[..., :-2] + levels[..., 1:-1] + levels[..., 2:]
    nine = three[..., :-2, :] + three[..., 1:-1, :] + three[..., 2:, :]
    changed = levels.clone()
    smooth = nine.add_(inner, alpha=4).div_(13).round_()
    changed[:, :, 1:-1, 1:-1] = _move_away(inner, smooth, amounts)
    return changed


def _move_away(levels: Tensor, target: Tensor, amounts: Tensor) -> Tensor:
    moved = levels + amounts[:, None, None, None] * (levels - target)
    return moved.clamp_(0, 255).floor_()


def posterize(levels: Tensor, amounts: Tensor) -> Tensor:
    """Clear the lowest bits, as many as the amounts say."""
    step = amounts.exp2()[:, None, None, None]
    return (levels / step).floor_().mul_(step)


def solarize(levels: Tensor, amounts: Tensor) -> Tensor:
    """Invert the levels from a threshold on, which the amounts give as a share of 255."""
    return torch.where(levels >= 255 * amounts[:, None, None, None], 255 - levels, levels)


def stretch_contrast(levels: Tensor, amounts: Tensor) -> Tensor:
    """Stretch each channel that has more than one level to the whole range, whatever the amounts.

    PIL and torchvision call it autocontrast.
    """
    low = levels.amin((2, 3), keepdim=True)
    span = levels.amax((2, 3), keepdim=True) - low
    # Not divided by 255: a rounding otherwise than torchvision's would cost some pixels a level.
    unit = torch.where(span == 0, 1.0, span * (1 / 255))
    stretched = (levels - low).div_(unit).clamp_(0, 255)
    return torch.where(span == 0, levels, stretched.floor_())


def equalize(levels: Tensor, amounts: Tensor) -> Tensor:
    """Make the levels of each channel about equally frequent, whatever the amounts.

    A channel stays as it is where the pixels below its highest level are fewer than 255.
    """
    indices = levels.flatten(2).long()
    counts = indices.new_zeros(*indices.shape[:2], 256)
    counts.scatter_add_(2, indices, torch.ones_like(indices))
    highest = counts.gather(2, indices.amax(2, keepdim=True))
    step = (indices.shape[2] - highest) // 255
    below = counts.cumsum(2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    equalized = table.gather(2, indices).view_as(levels).to(levels.dtype)
    return torch.where(step[..., None] == 0, levels, equalized)
