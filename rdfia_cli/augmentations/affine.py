"""Rotations and affine maps about the centre: each output pixel is sampled from where it came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor, nn

from rdfia_cli.augmentations.draws import Interval
from rdfia_cli.augmentations.pixels import lay_out_like
from rdfia_cli.spec import Batch, InputSpec

if TYPE_CHECKING:
    from rdfia_cli.spec import Augmentation, NonNegative, Positive, Probability


def random_affine(
    input: InputSpec,
    *,
    degrees: NonNegative = 15.0,
    translate: Probability = 0.1,
    scale_min: Positive = 0.9,
    scale_max: Positive = 1.1,
    shear: Annotated[float, Ge(0), Lt(90)] = 0.0,
    interpolation: Literal["nearest", "bilinear"] = "nearest",
    fill: Probability = 0.0,
) -> Augmentation:
    """Turn, move, scale and shear about the centre, at random; as it is at test time.

    Each is drawn uniformly. The defaults are those of the course's recipe.

    Args:
        input: images.
        degrees: the largest angle, either way.
        translate: the largest shift, either way, as a share of the width and of the height; it is
            rounded to whole pixels.
        scale_min: the smallest scale, below 1 to shrink.
        scale_max: the largest scale.
        shear: the largest shear along the rows, either way, in degrees.
        interpolation: how a pixel is sampled between its four neighbours.
        fill: the value of what comes from outside the image, 0 for black.
    """
    input.image("random_affine")
    scale = Interval.of("random_affine", "scale", scale_min, scale_max)
    return RandomAffine(degrees, translate, scale, shear, Sampling(interpolation, fill), input)


def random_rotation(
    input: InputSpec,
    *,
    degrees: NonNegative = 15.0,
    interpolation: Literal["nearest", "bilinear"] = "nearest",
    fill: Probability = 0.0,
) -> Augmentation:
    """Turn about the centre by a random angle; as it is at test time.

    Args:
        input: images; they keep their size, and lose the corners that turn out of it.
        degrees: the largest angle, either way; the angle is drawn uniformly.
        interpolation: how a pixel is sampled between its four neighbours.
        fill: the value of what comes from outside the image, 0 for black.
    """
    input.image("random_rotation")
    return RandomRotation(degrees, Sampling(interpolation, fill), input)


@dataclass(frozen=True)
class Sampling:
    """How images are seen through an affine map for each sample.

    Attributes:
        interpolation: `nearest` or `bilinear`.
        fill: the value of every pixel outside the image.
    """

    interpolation: str = "nearest"
    fill: float = 0.0

    def apply(self, images: Tensor, maps: Tensor) -> Tensor:
        """Sample images.

        Args:
            images: (B, C, H, W) float32.
            maps: (B, 2, 3) float32, from an output pixel (x, y, 1) to the input pixel (x, y) that
                it shows, both counted from the centre of the image.

        Returns:
            (B, C, H, W) float32, channel by channel in memory.
        """
        # What lies outside is 0 to grid_sample, so that the fill must be its zero.
        shown = images - self.fill if self.fill else images
        grid = _sampling_grid(maps, *images.shape[2:])
        found = F.grid_sample(shown, grid, self.interpolation, "zeros", align_corners=False)
        return found.add_(self.fill) if self.fill else found


def _sampling_grid(maps: Tensor, height: int, width: int) -> Tensor:
    """Where each output pixel looks, from -1 to 1 over the image: (B, H, W, 2) of (x, y)."""
    x = torch.arange(width, device=maps.device) - (width - 1) / 2
    y = torch.arange(height, device=maps.device) - (height - 1) / 2
    lines = torch.stack((maps[:, 0] * (2 / width), maps[:, 1] * (2 / height)), 1)
    by_x, by_y, constant = lines[..., None].unbind(2)
    rows = by_y * y + constant
    # In memory all x precede all y: grid_sample then takes half the time that it takes for pairs.
    return (rows[..., None] + (by_x * x)[:, :, None]).movedim(1, -1)


class AffineDraws(NamedTuple):
    """What is drawn for each sample.

    Attributes:
        degrees: (B,) float32, clockwise.
        translation: (B, 2) float32, whole pixels to the right and down.
        scale: (B,) float32.
        shear: (B,) float32, degrees along the rows.
    """

    degrees: Tensor
    translation: Tensor
    scale: Tensor
    shear: Tensor

    def maps(self) -> Tensor:
        """From output pixels to input pixels: (B, 2, 3) float32.

        The inverse of: shear, then scale, then turn about the centre, then translate.
        """
        angle, tangent = self.degrees.deg2rad(), self.shear.deg2rad().tan()
        cosine, sine = angle.cos() / self.scale, angle.sin() / self.scale
        rows = (cosine - sine * tangent, sine + cosine * tangent), (-sine, cosine)
        right, down = self.translation.unbind(1)
        lines = [torch.stack((x, y, -x * right - y * down), 1) for x, y in rows]
        return torch.stack(lines, 1)


class RandomAffine(nn.Module):
    """An affine map about the centre, drawn for each sample."""

    def __init__(
        self,
        degrees: float,
        translate: float,
        scale: Interval,
        shear: float,
        sampling: Sampling,
        output: InputSpec,
    ) -> None:
        super().__init__()
        self.degrees, self.shear = Interval(-degrees, degrees), Interval(-shear, shear)
        self.translate, self.scale = Interval(-translate, translate), scale
        self.sampling, self.output = sampling, output
        self.evaluation: Augmentation | None = None

    def draw(self, images: Tensor, generator: torch.Generator) -> AffineDraws:
        """The map of each of the images (B, C, H, W)."""
        samples, _, height, width = images.shape
        right, down = self.translate.draw(2, samples, generator=generator)
        return AffineDraws(
            translation=torch.stack((right * width, down * height), 1).round(),
            degrees=self.degrees.draw(samples, generator=generator),
            scale=self.scale.draw(samples, generator=generator),
            shear=self.shear.draw(samples, generator=generator),
        )

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Map images (B, C, H, W)."""
        images = batch.inputs
        mapped = self.sampling.apply(images, self.draw(images, generator).maps())
        return Batch(lay_out_like(mapped, images), batch.labels)


class RandomRotation(nn.Module):
    """A rotation about the centre by an angle drawn for each sample."""

    def __init__(self, degrees: float, sampling: Sampling, output: InputSpec) -> None:
        super().__init__()
        self.degrees, self.sampling, self.output = Interval(-degrees, degrees), sampling, output
        self.evaluation: Augmentation | None = None

    def draw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The angle of each of the images, in degrees counter-clockwise: (B,) float32."""
        return self.degrees.draw(len(images), generator=generator)

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Turn images (B, C, H, W)."""
        images = batch.inputs
        turned = self.sampling.apply(images, rotation_maps(self.draw(images, generator)))
        return Batch(lay_out_like(turned, images), batch.labels)


def rotation_maps(degrees: Tensor) -> Tensor:
    """Maps (B, 2, 3) float32 that turn counter-clockwise by angles (B,) float32."""
    still = torch.zeros_like(degrees)
    draws = AffineDraws(-degrees, torch.stack((still, still), 1), still + 1, still)
    return draws.maps()
