"""What a sweep found, from what its ledger still tells."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from rdfia_cli.sweep.ledger import LEDGER
from rdfia_cli.sweep.outcome import explain_unranked

SWEEP = ("sweep", "mlp", "--data", "circles", "--epochs", "1", "--out", "s")


@pytest.mark.usefixtures("one_thread")
def test_a_complete_sweep_whose_ledger_is_damaged_says_so_and_finds_the_same(rdfia, tmp_path: Path):
    over = ("--over", "seed=0..5", "--backend", "process")
    whole = rdfia(*SWEEP, *over, "-q", "--json")
    assert whole.code == 0, whole.err
    ledger = tmp_path / "s" / LEDGER
    lines = ledger.read_bytes().splitlines(keepends=True)
    (place,) = [n for n, line in enumerate(lines) if b'"proposed"' in line and b'"trial":3' in line]
    lines[place] = lines[place].replace(b"seed", b"sEed")
    ledger.write_bytes(b"".join(lines))
    again = rdfia(*SWEEP, *over, "-q", "--json")
    assert again.code == 0, again.err
    assert "has 1 damaged line" in again.err
    assert again.json["trials"] == whole.json["trials"]
    assert again.json["importances"] == whole.json["importances"]


@pytest.mark.usefixtures("one_thread")
def test_a_sweep_without_a_validation_split_says_why_nothing_is_ranked(rdfia):
    outcome = rdfia(*SWEEP, "--over", "seed=0,1", "--set", "validation=0", "-q", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["best"] is None
    assert "2 trials have no validation split and so no rank" in outcome.err


def test_a_sweep_names_the_versions_that_its_proposals_depend_on(rdfia, tmp_path: Path):
    assert rdfia(*SWEEP, "--over", "seed=0,1", "-q").code == 0
    head = json.loads((tmp_path / "s" / LEDGER).read_bytes().splitlines()[0])
    content = json.loads((tmp_path / "s" / "sweep.json").read_bytes())
    assert content["versions"] == head["versions"]
    assert set(content["versions"]) == {"rdfia-cli", "optuna"}


@pytest.mark.usefixtures("one_thread")
def test_pruned_trials_tell_what_they_had_reached_but_have_no_rank(rdfia, tmp_path: Path):
    pruned = ("--pruner", "threshold:lower=2", "--over", "seed=0,1", "--epochs", "3")
    command = ("sweep", "mlp", "--data", "circles", *pruned, "--backend", "process", "--out", "s")
    outcome = rdfia(*command, "-q", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["best"] is None
    rows = list(csv.DictReader((tmp_path / "s/trials.csv").read_text().splitlines()))
    for found, row in zip(outcome.json["trials"], rows, strict=True):
        assert found["state"] == "pruned"
        first = json.loads((Path(found["run"]) / "metrics.jsonl").read_text().splitlines()[0])
        assert found["validation_accuracy"] == first["validation"]["accuracy"]
        assert found["seconds"] > 0
        assert row["validation_accuracy"] == str(first["validation"]["accuracy"])
        assert row["epoch"] == "1"
    told = rdfia(*command, "-q")
    assert told.out == "2 trials: 2 pruned; none has a rank\n"


def trial(number: int, state: str, loss: float | None) -> dict[str, Any]:
    accuracy = None if loss is None else 0.5
    ends = {"validation_loss": loss, "validation_accuracy": accuracy}
    return {"number": number, "state": state, **ends}


def test_only_finished_trials_are_missed_in_a_ranking():
    assert explain_unranked([trial(0, "finished", 0.1), trial(1, "failed", None)]) is None
    found = explain_unranked([trial(0, "finished", 0.1), trial(1, "finished", None)])
    assert found is not None
    assert found.startswith("1 trial has no validation split")
