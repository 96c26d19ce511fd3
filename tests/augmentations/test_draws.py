"""Draws have the distribution that they are named after."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import beta, kstest, loguniform, uniform

from rdfia_cli.augmentations.draws import Interval, draw_symmetric_beta
from rdfia_cli.errors import UsageError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("concentration", [0.1, 0.2, 0.5, 1.0, 2.0, 8.0, 100.0])
def test_shares_follow_the_beta_distribution(concentration: float):
    drawn = draw_symmetric_beta(concentration, 20_000, seeded()).double()
    # Near 1, float32 has steps of 6e-8, which a small concentration crowds.
    inner = drawn[(drawn > 1e-6) & (drawn < 1 - 1e-6)]
    truth = beta(concentration, concentration)
    low, high = truth.cdf(1e-6), truth.cdf(1 - 1e-6)
    assert kstest(inner, lambda x: (truth.cdf(x) - low) / (high - low)).pvalue > 1e-3
    assert abs(len(inner) / len(drawn) - (high - low)) < 0.015


@pytest.mark.parametrize("concentration", [1e-6, 1e-3, 1e6, 1e30])
def test_no_concentration_gives_a_share_outside_0_and_1(concentration: float):
    drawn = draw_symmetric_beta(concentration, 20_000, seeded())
    assert drawn.isfinite().all()
    assert (drawn >= 0).all()
    assert (drawn <= 1).all()
    assert abs(drawn.mean() - 0.5) < 0.02


def test_an_interval_is_drawn_from_uniformly_and_logarithmically():
    interval = Interval(0.3, 3.3)
    drawn = interval.draw(20_000, generator=seeded())
    assert kstest(drawn, uniform(0.3, 3.0).cdf).pvalue > 1e-3
    drawn = interval.draw_logarithmically(20_000, generator=seeded())
    assert kstest(drawn, loguniform(0.3, 3.3).cdf).pvalue > 1e-3


def test_an_empty_interval_is_refused_with_both_ways_out():
    with pytest.raises(UsageError, match="between scale_min = 2 and scale_max = 1") as caught:
        Interval.of("random_affine", "scale", 2, 1)
    assert "scale_min to 1 or less, or scale_max to 2 or more" in caught.value.remedy
    assert Interval.of("random_affine", "scale", 1, 1) == Interval(1, 1)
