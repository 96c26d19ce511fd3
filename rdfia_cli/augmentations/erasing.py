"""Random erasing: a rectangle of each image is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from rdfia_cli.augmentations.draws import Interval, draw_uniform
from rdfia_cli.augmentations.pixels import choose, lay_out_like
from rdfia_cli.augmentations.rectangles import Rectangles, draw_sides, place, take_first
from rdfia_cli.spec import Batch, InputSpec

if TYPE_CHECKING:
    from rdfia_cli.spec import Augmentation, Positive, Probability


def random_erasing(
    input: InputSpec,
    *,
    probability: Probability = 0.5,
    scale_min: Annotated[float, Gt(0), Le(1)] = 0.02,
    scale_max: Annotated[float, Gt(0), Le(1)] = 0.33,
    ratio_min: Positive = 0.3,
    ratio_max: Positive = 3.3,
    value: Probability | Literal["random"] = 0.0,
) -> Augmentation:
    """Erase a random rectangle with a probability; nothing at test time.

    Zhong et al., "Random erasing data augmentation", 2017, arXiv:1708.04896.

    Args:
        input: images.
        probability: the share of the samples that lose a rectangle.
        scale_min: the smallest rectangle, as a share of the image's area.
        scale_max: the largest rectangle.
        ratio_min: the smallest ratio of the rectangle's height to its width.
        ratio_max: the largest ratio; its logarithm is drawn uniformly.
        value: what the pixels become, 0 for black; `random` draws each from [0, 1), as the paper.
    """
    input.image("random_erasing")
    area = Interval.of("random_erasing", "scale", scale_min, scale_max)
    ratio = Interval.of("random_erasing", "ratio", ratio_min, ratio_max)
    return RandomErasing(probability, area, ratio, value, input)


class RandomErasing(nn.Module):
    """A rectangle drawn for each sample, erased or not by its own draw."""

    def __init__(
        self,
        probability: float,
        area: Interval,
        ratio: Interval,
        value: float | Literal["random"],
        output: InputSpec,
    ) -> None:
        super().__init__()
        self.probability, self.area, self.ratio = probability, area, ratio
        self.value, self.output = value, output
        self.evaluation: Augmentation | None = None

    def draw(self, images: Tensor, generator: torch.Generator) -> Rectangles:
        """The rectangle to erase from each of the images (B, C, H, W); without area for some."""
        samples, _, rows, columns = images.shape
        heights, widths = draw_sides(self.area, self.ratio, images, generator)
        fits = (heights < rows) & (widths < columns)
        fits &= draw_uniform(samples, 1, generator=generator) < self.probability
        return place(take_first(fits, heights, 0), take_first(fits, widths, 0), images, generator)

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Erase a rectangle of some of the images (B, C, H, W)."""
        images = batch.inputs
        erased = self.draw(images, generator).cover(images)
        lost = self._filling(images, generator)
        kept = choose(erased, lost, images.contiguous())
        return Batch(lay_out_like(kept, images), batch.labels)

    def _filling(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if isinstance(self.value, str):
            return draw_uniform(*images.shape, generator=generator)
        return images.new_full((), self.value)
