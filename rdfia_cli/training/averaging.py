"""Weights besides those that are trained: their moving average, and those of the best epoch."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from rdfia_cli.training.metrics import Score


class Average:
    """An exponential moving average of a model's weights, which is scored and kept in its place.

    Counters, and what was infinite from the start, are copied.

    Attributes:
        model: a copy of the model, with the averages as its parameters and buffers.
        decay: how much of the average stays in a step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        # The mean of an infinity, such as that of a mask, with itself is NaN.
        self._averaged = [t.is_floating_point() and _is_finite(t) for t in _tensors(model)]

    def share(self, step: int) -> float:
        """How much of the way towards the weights is made, after that many steps."""
        return 1 - min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model's weights; call it after each step.

        The decay is at most (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage,
        so that the random start is soon forgotten.

        Args:
            model: the model that is trained.
            step: how many steps it has made before this one.
        """
        share = self.share(step)
        # Not by `state_dict`, which names a shared tensor once for each module that has it.
        pairs = zip(_tensors(self.model), _tensors(model), self._averaged, strict=True)
        for average, current, is_averaged in pairs:
            if is_averaged:
                average.lerp_(current, share)
            else:
                average.copy_(current)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """The parameters and buffers of a model, shared ones once."""
    return itertools.chain(model.parameters(), model.buffers())


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


@dataclass
class Best:
    """The epoch with the best validation score so far, and its weights.

    Attributes:
        epoch: its number, from 1; 0 before the first.
        accuracy, loss: on validation: an epoch is better by its accuracy or, at an equal one, by
            its loss.
        weights: parameters and buffers by name.
    """

    epoch: int
    accuracy: float
    loss: float
    weights: Mapping[str, Tensor]

    def improve(self, epoch: int, score: Score, model: nn.Module) -> None:
        """Take over the weights of a model that scored better."""
        if self.epoch and (score.accuracy, -score.loss) <= (self.accuracy, -self.loss):
            return
        self.epoch, self.accuracy, self.loss = epoch, score.accuracy, score.loss
        self.weights = {name: t.detach().clone() for name, t in model.state_dict().items()}


def no_best_yet(model: nn.Module) -> Best:
    """Before the first epoch."""
    return Best(0, 0.0, 0.0, {name: t.detach().clone() for name, t in model.state_dict().items()})
