"""What augmentations draw: numbers for each sample, from the generator given alone.

How many numbers are drawn never depends on which they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rdfia_cli.errors import UsageError


def draw_uniform(*shape: int, generator: torch.Generator) -> Tensor:
    """Uniform draws in [0, 1): (*shape) float32 on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device)


def draw_integers(count: int, samples: int, generator: torch.Generator) -> Tensor:
    """A uniform draw from 0 to `count - 1` for each sample: (B,) int64."""
    return torch.randint(count, (samples,), generator=generator, device=generator.device)


def draw_symmetric_beta(concentration: float, samples: int, generator: torch.Generator) -> Tensor:
    """A draw from Beta(concentration, concentration) for each sample: (B,) float32.

    If T has Student's distribution with n degrees of freedom, (1 + T / sqrt(n + T^2)) / 2 has
    Beta(n/2, n/2), and T = sqrt(n (U^(-2/n) - 1)) cos(2 pi V) for uniform U and V: Bailey,
    "Polar generation of random variates with the t-distribution", 1994. Nothing is rejected, so
    that each sample takes two numbers.
    """
    first, second = draw_uniform(2, samples, generator=generator)
    logarithm = first.log() / concentration
    cosine = (2 * math.pi * second).cos()
    # T^2 / (n + T^2) = (1 - w) c^2 / (w + (1 - w) c^2), with w = U^(1/concentration), c the cosine.
    square = -torch.expm1(logarithm) * cosine**2
    whole = logarithm.exp() + square
    # The side below one half first: it has digits that 1 minus the other would lose.
    below = logarithm.exp() / whole / (1 + (square / whole).sqrt()) / 2
    return torch.where(cosine < 0, below, 1 - below)


@dataclass(frozen=True)
class Interval:
    """Where a setting is drawn from."""

    low: float
    high: float

    @classmethod
    def of(cls, component: str, setting: str, low: float, high: float) -> Interval:
        """The interval between two hyper-parameters, `<setting>_min` and `<setting>_max`.

        Raises:
            UsageError: it is empty.
        """
        if low > high:
            raise UsageError(
                f"{component} cannot draw a {setting} between {setting}_min = {low:g} and "
                f"{setting}_max = {high:g}",
                f"set {setting}_min to {high:g} or less, or {setting}_max to {low:g} or more",
            )
        return cls(low, high)

    def draw(self, *shape: int, generator: torch.Generator) -> Tensor:
        """Uniform draws: (*shape) float32."""
        return self.low + (self.high - self.low) * draw_uniform(*shape, generator=generator)

    def draw_logarithmically(self, *shape: int, generator: torch.Generator) -> Tensor:
        """Draws whose logarithm is uniform: (*shape) float32."""
        logarithms = Interval(math.log(self.low), math.log(self.high))
        return logarithms.draw(*shape, generator=generator).exp()
