"""RandAugment: a few operations for each sample, drawn from fourteen.

They are defined on images of 256 levels, and work on such here too; see `levels`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rdfia_cli.augmentations.affine import Sampling, rotation_maps
from rdfia_cli.augmentations.colour import refuse_channels
from rdfia_cli.augmentations.draws import draw_integers
from rdfia_cli.augmentations.levels import (
    change_brightness,
    change_color,
    change_contrast,
    change_sharpness,
    equalize,
    posterize,
    solarize,
    stretch_contrast,
)
from rdfia_cli.augmentations.pixels import choose, lay_out_like
from rdfia_cli.errors import UsageError
from rdfia_cli.spec import Batch, InputSpec

if TYPE_CHECKING:
    from rdfia_cli.spec import Augmentation, Count, Probability, Size


def rand_augment(
    input: InputSpec,
    *,
    num_ops: Size = 2,
    magnitude: Size = 9,
    num_magnitude_bins: Count = 31,
    interpolation: Literal["nearest", "bilinear"] = "nearest",
    fill: Probability = 0.0,
) -> Augmentation:
    """Apply a few random operations of geometry and colour; nothing at test time.

    Cubuk et al., "RandAugment: practical automated data augmentation with a reduced search space",
    2020, arXiv:1909.13719, with the fourteen operations and the magnitudes of torchvision. Pixels
    are rounded to 256 levels.

    Args:
        input: images of 1 or 3 channels.
        num_ops: how many operations each sample draws; one may be drawn twice.
        magnitude: how strong they are, from 0 to `num_magnitude_bins - 1`.
        num_magnitude_bins: how many magnitudes there are.
        interpolation: how a pixel is sampled between its four neighbours.
        fill: the value of what comes from outside the image, 0 for black.
    """
    refuse_channels("rand_augment", input)
    if num_magnitude_bins < 2:
        raise UsageError(
            "rand_augment has no range of magnitudes in 1 bin", "set num_magnitude_bins to 31"
        )
    if magnitude >= num_magnitude_bins:
        raise UsageError(
            f"rand_augment has no magnitude {magnitude} in {num_magnitude_bins} bins",
            f"set magnitude to {num_magnitude_bins - 1} or less",
        )
    _, height, width = input.image("rand_augment")
    magnitudes = Magnitudes(magnitude, num_magnitude_bins, height, width)
    return RandAugment(num_ops, magnitudes, Sampling(interpolation, 255 * fill), input)


class Magnitudes(NamedTuple):
    """How strong the operations are, at one of several evenly spaced steps."""

    step: int
    steps: int
    height: int
    width: int

    def between(self, first: float, last: float) -> float:
        """The value at the step, in the precision of torchvision's table."""
        return torch.linspace(first, last, self.steps)[self.step].item()


class Operation(NamedTuple):
    """One of the fourteen.

    Attributes:
        apply: from levels (B, C, H, W) and amounts (B,) to maps (B, 2, 3) for an operation of
            geometry, as `Sampling` takes them, and to levels for one of colour.
        amount: how far it goes.
        signed: half of the samples, drawn at random, go the other way.
    """

    apply: Callable[[Tensor, Tensor], Tensor]
    amount: float = 0.0
    signed: bool = False

    def amounts(self, signs: Tensor) -> Tensor:
        """How far each sample goes: (B,) float32 from signs (B,), 1 or -1."""
        return (signs if self.signed else signs.abs()).float() * self.amount


def operations_of_geometry(magnitudes: Magnitudes) -> dict[str, Operation]:
    """The operations that move pixels, with the ranges of torchvision's RandAugment."""
    shear = magnitudes.between(0, 0.3)
    right = int(magnitudes.between(0, 150 / 331 * magnitudes.width))
    down = int(magnitudes.between(0, 150 / 331 * magnitudes.height))
    return {
        "identity": Operation(_identity),
        "shear_x": Operation(_shear_x, shear, signed=True),
        "shear_y": Operation(_shear_y, shear, signed=True),
        "translate_x": Operation(_translate_x, right, signed=True),
        "translate_y": Operation(_translate_y, down, signed=True),
        "rotate": Operation(_rotate, magnitudes.between(0, 30), signed=True),
    }


def operations_of_colour(magnitudes: Magnitudes) -> dict[str, Operation]:
    """The operations that change pixels, with the ranges of torchvision's RandAugment."""
    change = magnitudes.between(0, 0.9)
    cleared_bits = round(4 * magnitudes.step / (magnitudes.steps - 1))
    return {
        "brightness": Operation(change_brightness, change, signed=True),
        "color": Operation(change_color, change, signed=True),
        "contrast": Operation(change_contrast, change, signed=True),
        "sharpness": Operation(change_sharpness, change, signed=True),
        "posterize": Operation(posterize, cleared_bits),
        "solarize": Operation(solarize, magnitudes.between(1, 0)),
        "auto_contrast": Operation(stretch_contrast),
        "equalize": Operation(equalize),
    }


class RandAugment(nn.Module):
    """Some operations for each sample, one after the other, each with a sign of its own."""

    def __init__(
        self, num_ops: int, magnitudes: Magnitudes, sampling: Sampling, output: InputSpec
    ) -> None:
        super().__init__()
        self.geometry = operations_of_geometry(magnitudes)
        self.colour = operations_of_colour(magnitudes)
        self.num_ops, self.sampling, self.output = num_ops, sampling, output
        self.evaluation: Augmentation | None = None

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The next operation of each of the images, by its place, and its sign: (B,) int64."""
        samples = len(images)
        places = draw_integers(len(self.geometry) + len(self.colour), samples, generator)
        return places, 2 * draw_integers(2, samples, generator) - 1

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Change images (B, C, H, W)."""
        images = batch.inputs
        levels = images.contiguous().mul(255).round_().clamp_(0, 255)
        for _ in range(self.num_ops):
            places, signs = self.draw(images, generator)
            levels = self._move(levels, places, signs)
            for place, operation in enumerate(self.colour.values(), start=len(self.geometry)):
                amounts = operation.amounts(signs)
                levels = change_where(places == place, operation.apply, levels, amounts)
        return Batch(lay_out_like(levels.div_(255), images), batch.labels)

    def _move(self, levels: Tensor, places: Tensor, signs: Tensor) -> Tensor:
        """Apply the operations of geometry, all at once as one map for each sample."""
        maps = _identity(levels, signs)
        for place, operation in enumerate(self.geometry.values()):
            drawn = operation.apply(levels, operation.amounts(signs))
            maps = torch.where((places == place)[:, None, None], drawn, maps)
        moved = (places > 0) & (places < len(self.geometry))
        return change_where(moved, self._sample, levels, maps)

    def _sample(self, levels: Tensor, maps: Tensor) -> Tensor:
        return self.sampling.apply(levels, maps).round_()


def change_where(
    mask: Tensor, change: Callable[[Tensor, Tensor], Tensor], levels: Tensor, amounts: Tensor
) -> Tensor:
    """Change some samples.

    Args:
        mask: (B,) bool, the samples to change.
        change: from levels and amounts to levels, each sample by itself.
        levels: (B, C, H, W); they may be written over.
        amounts: (B, ...), the change's second argument.

    Returns:
        (B, C, H, W).
    """
    # To find the few samples of a mask, a GPU would have to wait: it changes all and keeps some.
    change_some = _change_found if levels.device.type == "cpu" else change_all_and_keep
    return change_some(mask, change, levels, amounts)


def _change_found(
    mask: Tensor, change: Callable[[Tensor, Tensor], Tensor], levels: Tensor, amounts: Tensor
) -> Tensor:
    found = mask.nonzero().squeeze(1)
    changed = change(levels.index_select(0, found), amounts.index_select(0, found))
    return levels.index_copy_(0, found, changed)


def change_all_and_keep(
    mask: Tensor, change: Callable[[Tensor, Tensor], Tensor], levels: Tensor, amounts: Tensor
) -> Tensor:
    """What `change_where` does, without a look at the mask."""
    return choose(mask[:, None, None, None], change(levels, amounts), levels)


def _identity(levels: Tensor, amounts: Tensor) -> Tensor:
    return torch.eye(2, 3, device=levels.device).repeat(len(levels), 1, 1)


def _shear_x(levels: Tensor, amounts: Tensor) -> Tensor:
    """Shift each row by its distance from the top, which is half the height above the centre."""
    maps = _identity(levels, amounts)
    maps[:, 0, 1] = amounts
    maps[:, 0, 2] = amounts * (levels.shape[2] / 2)
    return maps


def _shear_y(levels: Tensor, amounts: Tensor) -> Tensor:
    """Shift each column by its distance from the left."""
    maps = _identity(levels, amounts)
    maps[:, 1, 0] = amounts
    maps[:, 1, 2] = amounts * (levels.shape[3] / 2)
    return maps


def _translate_x(levels: Tensor, amounts: Tensor) -> Tensor:
    maps = _identity(levels, amounts)
    maps[:, 0, 2] = -amounts
    return maps


def _translate_y(levels: Tensor, amounts: Tensor) -> Tensor:
    maps = _identity(levels, amounts)
    maps[:, 1, 2] = -amounts
    return maps


def _rotate(levels: Tensor, amounts: Tensor) -> Tensor:
    return rotation_maps(amounts)
