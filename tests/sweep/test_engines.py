"""Three timed steps choose the engine, however short the runs are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rdfia_cli.sweep.engines import choose_engine

RATES = ({"optimizer.lr": 0.01}, {"optimizer.lr": 0.02}, {"optimizer.lr": 0.03})


@pytest.mark.parametrize(
    "shared",
    [
        {"epochs": 1, "batch_size": 47},
        {"epochs": 2, "batch_size": 30},
        {"epochs": 1, "flags": {"schedule": "one_cycle"}, "batch_size": 30},
    ],
    ids=["one step", "few steps", "a schedule that ends"],
)
def test_runs_of_a_few_steps_are_timed(shared: Mapping[str, Any], make_trials):
    chosen = choose_engine(make_trials(RATES, "none", **shared))
    assert "times" in chosen.reason


@pytest.mark.parametrize(
    ("gain", "said"), [(138.2, "140 times the"), (14.4, "14 times the"), (0.218, "be 0.22 times")]
)
def test_a_gain_is_told_in_two_digits_without_an_exponent(
    gain: float, said: str, make_trials, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rdfia_cli.sweep.engines._compare", lambda *_, **__: gain)
    assert said in choose_engine(make_trials(RATES, "none", epochs=1, batch_size=47)).reason


def test_nothing_is_scored_meanwhile(make_trials, monkeypatch: pytest.MonkeyPatch):
    def score(*_: object) -> None:
        raise AssertionError("scoring is no step")

    monkeypatch.setattr("rdfia_cli.training.loop.predict_split", score)
    chosen = choose_engine(make_trials(RATES, "none", epochs=3, batch_size=47))
    assert "times" in chosen.reason
