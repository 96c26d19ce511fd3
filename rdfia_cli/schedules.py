"""Schedules of the learning rate.

Each is a factor on the optimizer's own rate, a function of the step, and is stepped after every
optimizer step. `epochs` and `steps_per_epoch` are given by rdfia. Every builder but `one_cycle`,
which rises by itself, takes `warmup`: the epochs over which the factor first rises from near 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from rdfia_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.optim import Optimizer

    from rdfia_cli.spec import Count, Fraction, NonNegative, Positive, Probability


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


def linear(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    hold: Fraction = 0.0,
    floor: Probability = 0.0,
    warmup: NonNegative = 0.0,
) -> LRScheduler:
    """The learning rate for a share of the steps, then straight down to floor times it.

    With `hold` it is the constant rate and cooldown of Haegele et al. 2024 (arXiv:2405.18392).

    Args:
        optimizer: its own rate is the highest.
        steps_per_epoch: given by rdfia.
        epochs: given by rdfia.
        hold: the share of all steps, the warm-up among them, before the way down.
        floor: the last rate, as a share of the highest.
        warmup: the epochs over which the rate first rises from near 0.
    """
    steps = epochs * steps_per_epoch
    start = max(hold * steps, warmup * steps_per_epoch)
    length = max(steps - start, 1)

    def factor(step: int) -> float:
        return 1 - (1 - floor) * min(max(step - start, 0) / length, 1.0)

    return _schedule(optimizer, factor, warmup * steps_per_epoch)


def one_cycle(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    rise: Fraction = 0.3,
    start: Probability = 0.04,
    end: Probability = 4e-6,
    momentum_cycle: bool = False,
) -> LRScheduler:
    """Up to the learning rate and down to nearly 0, along cosines (Smith and Topin 2019).

    The defaults are PyTorch's: from 1/25 of the rate, and down to 1/10,000 of that.

    Args:
        optimizer: its own rate is the highest.
        steps_per_epoch: given by rdfia.
        epochs: given by rdfia.
        rise: the share of the steps on the way up.
        start: the first rate, as a share of the highest.
        end: the last rate, as a share of the highest.
        momentum_cycle: move momentum, or beta1, the other way, between 0.95 and 0.85.
    """
    if not start or not end:
        raise UsageError("schedule.start and schedule.end must be above 0", "try 0.04 and 4e-6")
    steps = epochs * steps_per_epoch
    return OneCycleLR(
        optimizer,
        max_lr=[float(group["lr"]) for group in optimizer.param_groups],
        total_steps=steps,
        # A way up of exactly one step would be divided by its length less one.
        pct_start=rise if rise * steps != 1 else rise * (1 - 1e-9),
        cycle_momentum=momentum_cycle,
        div_factor=1 / start,
        final_div_factor=start / end,
    )


def plateau(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    factor: Fraction = 0.1,
    patience: Count = 5,
    threshold: Fraction = 1e-4,
    floor: Probability = 0.0,
    warmup: NonNegative = 0.0,
) -> LRScheduler:
    """The learning rate times factor whenever the validation loss has stopped falling.

    Args:
        optimizer: its own rate is the first.
        steps_per_epoch: given by rdfia.
        epochs: given by rdfia.
        factor: what the rate is multiplied by.
        patience: the epochs in a row without a lower loss before that.
        threshold: the share by which the loss must fall to count.
        floor: the lowest rate, as a share of the first.
        warmup: the epochs over which the rate first rises from near 0.
    """
    return Plateau(optimizer, factor, patience, threshold, floor, warmup * steps_per_epoch)


class Plateau(LRScheduler):
    """A factor on the optimizer's rates that falls with `observe`, and a warm-up by the step."""

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float,
        patience: int,
        threshold: float,
        floor: float,
        warmup_steps: float,
    ) -> None:
        self.factor, self.patience = factor, patience
        self.threshold, self.floor = threshold, floor
        self.warmup_steps = warmup_steps
        self.scale = 1.0
        self.lowest: float | None = None
        self.epochs_since = 0
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each parameter group in the next step."""
        warm = min(1.0, (self.last_epoch + 1) / (self.warmup_steps + 1))
        return [rate * self.scale * warm for rate in self.base_lrs]

    def observe(self, loss: float) -> None:
        """Take note of the validation loss after an epoch, and set the rate of the next steps."""
        if self.lowest is None or loss < self.lowest * (1 - self.threshold):
            self.lowest, self.epochs_since = loss, 0
            return
        self.epochs_since += 1
        if self.epochs_since < self.patience:
            return
        self.scale, self.epochs_since = max(self.scale * self.factor, self.floor), 0
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def _schedule(
    optimizer: Optimizer, factor: Callable[[int], float], warmup_steps: float
) -> LRScheduler:
    """The factor at step t, times (t + 1) / (warmup_steps + 1) while the warm-up lasts."""
    return LambdaLR(
        optimizer, lambda step: factor(step) * min(1.0, (step + 1) / (warmup_steps + 1))
    )
