"""Colour jitter: brightness, contrast, saturation and hue, in an order of each sample's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from rdfia_cli.augmentations.draws import Interval, draw_uniform
from rdfia_cli.augmentations.pixels import lay_out_like
from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import Batch, InputSpec

if TYPE_CHECKING:
    from rdfia_cli.spec import Augmentation, NonNegative

BRIGHTNESS, CONTRAST, SATURATION = range(3)


def color_jitter(
    input: InputSpec,
    *,
    brightness: NonNegative = 0.4,
    contrast: NonNegative = 0.4,
    saturation: NonNegative = 0.4,
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.1,
) -> Augmentation:
    """Change brightness, contrast, saturation and hue at random, in random order; not at test time.

    The factors are drawn uniformly from [max(0, 1 - x), 1 + x]. The defaults are those of MoCo v2,
    Chen et al., "Improved baselines with momentum contrastive learning", 2020, arXiv:2003.04297.

    Args:
        input: images of 1 or 3 channels; with 1, saturation and hue change nothing.
        brightness: the largest change of the factor on the pixels.
        contrast: the largest change of the factor on their distance from the mean grey.
        saturation: the largest change of the factor on their distance from their own grey.
        hue: the largest turn, either way, in turns of the colour circle.
    """
    refuse_channels("color_jitter", input)
    factors = [Interval(max(0.0, 1 - x), 1 + x) for x in (brightness, contrast, saturation)]
    return ColorJitter(factors, Interval(-hue, hue), input)


def refuse_channels(component: str, input: InputSpec) -> None:
    """Refuse images that are neither grey nor of three colours.

    Raises:
        ComponentError: `component` is named.
    """
    channels, _, _ = input.image(component)
    if channels not in (1, 3):
        raise ComponentError(
            f"{component} needs images of 1 or 3 channels, but the data has {channels}",
            f"leave {component} out",
        )


class Jitter(NamedTuple):
    """What is drawn for each sample.

    Attributes:
        factors: (B, 3) float32, of brightness, contrast and saturation.
        order: (B, 3) int64, those three by number in the order in which they are changed.
        turn: (B,) float32, of the hue, in turns.
        turned_after: (B,) int64, how many of the three are changed before the hue.
    """

    factors: Tensor
    order: Tensor
    turn: Tensor
    turned_after: Tensor


class ColorJitter(nn.Module):
    """Four changes of colour for each sample, drawn with their order."""

    def __init__(self, factors: list[Interval], turn: Interval, output: InputSpec) -> None:
        super().__init__()
        self.factors, self.turn, self.output = factors, turn, output
        self.turns_hue = turn.high > 0 and output.shape[0] == 3
        self.evaluation: Augmentation | None = None

    def draw(self, images: Tensor, generator: torch.Generator) -> Jitter:
        """The changes of each of the images."""
        samples = len(images)
        places = draw_uniform(samples, 4, generator=generator)
        factors = [factor.draw(samples, generator=generator) for factor in self.factors]
        return Jitter(
            torch.stack(factors, 1),
            places[:, :3].argsort(1),
            self.turn.draw(samples, generator=generator),
            (places[:, :3] < places[:, 3:]).sum(1),
        )

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Change images (B, C, H, W)."""
        jitter = self.draw(batch.inputs, generator)
        images = batch.inputs.contiguous()
        for step in range(3):
            active = jitter.turned_after > step if self.turns_hue else None
            images = _change(images, jitter, step, active)
        if self.turns_hue:
            images = turn_hue(images, jitter.turn)
            for step in range(3):
                images = _change(images, jitter, step, jitter.turned_after <= step)
        return Batch(lay_out_like(images, batch.inputs), batch.labels)


def _change(images: Tensor, jitter: Jitter, step: int, active: Tensor | None) -> Tensor:
    """One step of each sample's order, or of the samples (B,) bool that are active.

    Every change is a blend with something grey: with black, with the mean, or with its own grey.
    """
    change = jitter.order[:, step]
    factor = jitter.factors.gather(1, change[:, None]).squeeze(1)
    if active is not None:
        factor = torch.where(active, factor, 1.0)
    grey = to_grey(images)
    mean = grey.mean((1, 2, 3))
    target = grey * (change == SATURATION)[:, None, None, None]
    target += (mean * (change == CONTRAST))[:, None, None, None]
    return torch.lerp(target, images, factor[:, None, None, None]).clamp_(0, 1)


def to_grey(images: Tensor) -> Tensor:
    """The luma of ITU-R BT.601, which PIL and torchvision use: (B, 1, H, W) from (B, C, H, W)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of images, keeping saturation and value of HSV.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        turn: (B,) float32, in turns of the colour circle.

    Returns:
        (B, 3, H, W) float32.
    """
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    hue = _sixths(red, green, blue, value, chroma).div_(6).add_(turn[:, None, None])
    turned = torch.empty_like(images)
    # A channel is lowest up to a sixth of a turn from the hue opposite to its own, cyan, magenta or
    # yellow, and at the value from a third of a turn on.
    for channel, opposite in enumerate((1 / 2, 5 / 6, 1 / 6)):
        distance = hue - opposite
        distance.sub_(distance.round()).abs_()
        torch.sub(value, (2 - 6 * distance).clamp_(0, 1) * chroma, out=turned[:, channel])
    return turned


def _sixths(red: Tensor, green: Tensor, blue: Tensor, value: Tensor, chroma: Tensor) -> Tensor:
    """The hue of HSV in sixths of a turn, from -1 to 5; 0 for grey. All (B, H, W)."""
    from_blue = torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    from_red = torch.where(value == red, green - blue, from_blue)
    # Where the chroma is 0, so is all that it divides.
    return from_red / torch.where(chroma == 0, 1.0, chroma)
