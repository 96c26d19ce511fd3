"""Where a run is wanted, the folder of a sweep is told from one that is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdfia_cli.sweep.ledger import Ledger


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """What a sweep leaves that was killed when three of its trials had finished."""
    ledger = Ledger(tmp_path / "s")
    ledger.begin({"identity": {}})
    for number, accuracy in enumerate((0.5, 0.9, 0.7)):
        ledger.end(number, "finished", validation={"accuracy": accuracy, "loss": 1 - accuracy})
    ledger.end(3, "failed", error="diverged", message="the loss became nan")
    return tmp_path / "s"


def test_a_report_on_an_interrupted_sweep_says_how_it_goes_on(rdfia, interrupted: Path):
    found = rdfia("report", "s")
    assert found.code == 2
    assert "'s' is a sweep that has not ended" in found.err
    assert "run the same rdfia sweep again to go on; its best trial is 's/trials/0001'" in found.err


def test_a_sweep_is_not_evaluated_but_its_best_trial_is_named(rdfia, interrupted: Path):
    found = rdfia("eval", "s")
    assert found.code == 2
    assert "'s' is a sweep, not a run" in found.err
    assert "its best trial is 's/trials/0001'" in found.err


def test_without_a_finished_trial_the_folder_of_the_trials_is_named(rdfia, tmp_path: Path):
    Ledger(tmp_path / "s").begin({"identity": {}})
    assert "its trials are in 's/trials'" in rdfia("eval", "s").err


def test_a_sweep_without_its_ledger_names_its_best_trial(rdfia, example_sweep):
    folder = example_sweep(trials=4)
    best = rdfia("eval", str(folder)).err
    assert "its best trial is" in best
    assert (folder / "trials/0000").name in best
