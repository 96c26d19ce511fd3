"""Schedules of the learning rate.

Each is a factor on the optimizer's own rate, a function of the step, and is stepped after every
optimizer step. `epochs` and `steps_per_epoch` are given by rdfia. Every builder takes `warmup`, the
epochs over which the factor first rises linearly from near 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.optim.lr_scheduler import LambdaLR, LRScheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

    from rdfia_cli.spec import Count, NonNegative, Positive, Probability


def constant(
    optimizer: Optimizer, *, steps_per_epoch: int, epochs: int, warmup: NonNegative = 0.0
) -> LRScheduler:
    """The optimizer's learning rate throughout."""
    return _schedule(optimizer, lambda step: 1.0, warmup * steps_per_epoch)


def exponential(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    gamma: Positive = 0.95,
    warmup: NonNegative = 0.0,
) -> LRScheduler:
    """The learning rate times gamma after every epoch."""
    return _schedule(
        optimizer, lambda step: gamma ** (step // steps_per_epoch), warmup * steps_per_epoch
    )


def step(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    every: Count = 10,
    gamma: Positive = 0.1,
    warmup: NonNegative = 0.0,
) -> LRScheduler:
    """The learning rate times gamma after every few epochs."""
    return _schedule(
        optimizer,
        lambda step: gamma ** (step // (every * steps_per_epoch)),
        warmup * steps_per_epoch,
    )


def cosine(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    floor: Probability = 0.0,
    warmup: NonNegative = 0.0,
) -> LRScheduler:
    """Half a cosine from the learning rate to floor times it (Loshchilov and Hutter 2017).

    The cosine runs from the end of the warm-up to the last step.
    """
    start = warmup * steps_per_epoch
    length = max(epochs * steps_per_epoch - start, 1)

    def factor(step: int) -> float:
        progress = min(max(step - start, 0) / length, 1.0)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return _schedule(optimizer, factor, start)


def _schedule(
    optimizer: Optimizer, factor: Callable[[int], float], warmup_steps: float
) -> LRScheduler:
    """The factor at step t, times (t + 1) / (warmup_steps + 1) while the warm-up lasts."""
    return LambdaLR(
        optimizer, lambda step: factor(step) * min(1.0, (step + 1) / (warmup_steps + 1))
    )
