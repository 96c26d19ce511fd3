"""Logits and labels in, measures of a classifier out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CALIBRATION_BINS = 15
"""As in Guo et al. 2017, arXiv:1706.04599."""


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy in nats and the share classified rightly."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class ReliabilityBin:
    """The examples whose confidence lies in a range.

    Attributes:
        low, high: the range, `high` included.
        examples: how many there are.
        right: how many of them are classified rightly.
        confidence: their mean confidence; NaN where there are none.
    """

    low: float
    high: float
    examples: int
    right: int
    confidence: float


@dataclass(frozen=True)
class Measures:
    """Everything that `rdfia eval` tells.

    Attributes:
        loss: mean cross-entropy in nats.
        accuracy: the share whose highest logit is the label's.
        top5: the share whose label is among the five highest logits.
        calibration_error: expected gap between confidence and accuracy.
        per_class: accuracy of each class; NaN where the split has none of it.
        confusion: (classes, classes) counts, true class by row, predicted by column.
    """

    loss: float
    accuracy: float
    top5: float
    calibration_error: float
    per_class: list[float]
    confusion: list[list[int]]


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many rows are right, a 0-dim int64 on the same device.

    Args:
        logits: (B, classes).
        labels: (B,) int64, or (B, classes) probabilities, of which the highest counts.
    """
    truth = labels if labels.ndim == 1 else labels.argmax(1)
    return (logits.argmax(1) == truth).sum()


def score(logits: Tensor, labels: Tensor) -> Score:
    """Loss and accuracy over a split: logits (N, classes), labels (N,) int64."""
    loss = F.cross_entropy(logits.double(), labels).item()
    return Score(loss, count_correct(logits, labels).item() / len(labels))


def measure(logits: Tensor, labels: Tensor) -> Measures:
    """All measures over a split: logits (N, classes) float, labels (N,) int64."""
    classes = logits.shape[1]
    predicted = logits.argmax(1)
    confusion = torch.bincount(labels * classes + predicted, minlength=classes**2)
    confusion = confusion.view(classes, classes)
    top = logits.topk(min(5, classes), dim=1).indices
    simple = score(logits, labels)
    return Measures(
        loss=simple.loss,
        accuracy=simple.accuracy,
        top5=(top == labels[:, None]).any(1).double().mean().item(),
        calibration_error=expected_calibration_error(logits, labels),
        per_class=(confusion.diagonal().double() / confusion.sum(1)).tolist(),
        confusion=confusion.tolist(),
    )


def expected_calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Mean over 15 equal bins of confidence of |accuracy - confidence|, weighted by their share."""
    confidence, right, bins = _binned(logits, labels)
    gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.double)
    return gaps.index_add(0, bins, right - confidence).abs().sum().item() / len(labels)


def reliability(logits: Tensor, labels: Tensor) -> list[ReliabilityBin]:
    """The 15 bins that the calibration error is made of, by rising confidence."""
    confidence, right, bins = _binned(logits, labels)
    examples = torch.bincount(bins, minlength=CALIBRATION_BINS)
    sums = torch.zeros(2, CALIBRATION_BINS, dtype=torch.double)
    sums = sums.index_add(1, bins, torch.stack([right, confidence]))
    return [
        ReliabilityBin(
            low=index / CALIBRATION_BINS,
            high=(index + 1) / CALIBRATION_BINS,
            examples=count,
            right=round(hits),
            confidence=total / count if count else math.nan,
        )
        for index, (count, hits, total) in enumerate(
            zip(examples.tolist(), *sums.tolist(), strict=True)
        )
    ]


def _binned(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each example the confidence, 1 where it is right, and the bin: (N,) each."""
    confidence, predicted = logits.double().softmax(1).max(1)
    right = (predicted == labels).double()
    bins = (confidence * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
    return confidence, right, bins
