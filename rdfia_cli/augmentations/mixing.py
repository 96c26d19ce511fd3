"""Mixing each sample with its neighbour in the batch: inputs and labels alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdfia_cli.augmentations.draws import draw_integers, draw_symmetric_beta, draw_uniform
from rdfia_cli.augmentations.pixels import choose, lay_out_like
from rdfia_cli.augmentations.rectangles import Rectangles
from rdfia_cli.spec import Batch, InputSpec

if TYPE_CHECKING:
    from rdfia_cli.spec import Augmentation, Positive, Probability


def mixup(
    input: InputSpec, *, alpha: Positive = 1.0, probability: Probability = 1.0
) -> Augmentation:
    """Blend each sample, and its label, with the one before it in the batch.

    Zhang et al., "mixup: beyond empirical risk minimization", 2018, arXiv:1710.09412, with a share
    for each sample instead of one for the batch.

    Args:
        input: images or points.
        alpha: the shares are drawn from Beta(alpha, alpha): near 0 one sample prevails, 1 makes
            all shares as likely.
        probability: the share of the samples that are blended.
    """
    return Mixup(alpha, probability, input)


def cutmix(
    input: InputSpec, *, alpha: Positive = 1.0, probability: Probability = 1.0
) -> Augmentation:
    """Paste a random rectangle of the image before it in the batch; labels mix by area.

    Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable
    features", 2019, arXiv:1905.04899, with a rectangle for each sample instead of one for the
    batch.

    Args:
        input: images.
        alpha: the share of the image that stays is drawn from Beta(alpha, alpha), before the
            rectangle is cut off at the image's edge.
        probability: the share of the samples that get a rectangle.
    """
    input.image("cutmix")
    return Cutmix(alpha, probability, input)


class Mixup(nn.Module):
    """Each sample blended with its neighbour by its own share."""

    def __init__(self, alpha: float, probability: float, output: InputSpec) -> None:
        super().__init__()
        self.alpha, self.probability, self.output = alpha, probability, output
        self.evaluation: Augmentation | None = None

    def draw(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """The share of itself that each sample keeps: (B,) float32."""
        return _draw_shares(self.alpha, self.probability, len(inputs), generator)

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Blend inputs (B, ...) and labels, (B,) int64 or (B, classes), to (B, classes)."""
        inputs = batch.inputs
        shares = self.draw(inputs, generator)
        by_sample = shares.view(-1, *(1,) * (inputs.ndim - 1))
        blended = torch.lerp(_neighbours(inputs), inputs, by_sample)
        return Batch(blended, _mix_labels(batch.labels, shares, self.output.classes))


class Cutmix(nn.Module):
    """Each sample with a rectangle of its neighbour, drawn for it."""

    def __init__(self, alpha: float, probability: float, output: InputSpec) -> None:
        super().__init__()
        self.alpha, self.probability, self.output = alpha, probability, output
        self.evaluation: Augmentation | None = None

    def draw(self, images: Tensor, generator: torch.Generator) -> Rectangles:
        """The rectangle that each of the images (B, C, H, W) gets; without area for some."""
        samples = len(images)
        kept = _draw_shares(self.alpha, self.probability, samples, generator)
        half = (1 - kept).sqrt() / 2
        (top, height), (left, width) = (
            _cut_off(draw_integers(side, samples, generator), (half * side).long(), side)
            for side in images.shape[2:]
        )
        return Rectangles(top, left, height, width)

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Paste into images (B, C, H, W); labels, (B,) int64 or (B, classes), to (B, classes)."""
        images = batch.inputs
        pasted = self.draw(images, generator)
        planes = images.contiguous()
        mixed = choose(pasted.cover(images), _neighbours(planes), planes)
        kept = 1 - pasted.height * pasted.width / images[0, 0].numel()
        labels = _mix_labels(batch.labels, kept, self.output.classes)
        return Batch(lay_out_like(mixed, images), labels)


def _cut_off(centre: Tensor, half: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Start and length of what lies within `half` of the centre and inside the image."""
    start = (centre - half).clamp(min=0)
    return start, (centre + half).clamp(max=side) - start


def _draw_shares(
    alpha: float, probability: float, samples: int, generator: torch.Generator
) -> Tensor:
    """How much each sample keeps of itself, 1 for those that are not mixed: (B,) float32."""
    shares = draw_symmetric_beta(alpha, samples, generator)
    mixed = draw_uniform(samples, generator=generator) < probability
    return torch.where(mixed, shares, 1.0)


def _neighbours(values: Tensor) -> Tensor:
    """The sample before each in the batch, the last one before the first."""
    return values.roll(1, 0)


def _mix_labels(labels: Tensor, shares: Tensor, classes: int) -> Tensor:
    """Labels (B,) int64 or (B, classes) float, mixed by shares (B,): (B, classes) float32."""
    probabilities = F.one_hot(labels, classes).float() if labels.ndim == 1 else labels
    return torch.lerp(_neighbours(probabilities), probabilities, shares[:, None])
