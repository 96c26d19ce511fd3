"""A comparison trains each model over each seed once, and says how far the seeds spread."""

from __future__ import annotations

import json
import statistics

import pytest

from rdfia_cli.commands.compare import parse_seeds, patch_for
from rdfia_cli.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = ("--data", "digits", "--seeds", "0,1", "--epochs", "1", "-q")


@pytest.mark.parametrize(
    ("text", "expected"), [("0", [0]), ("3,1,2", [3, 1, 2]), ("2..5", [2, 3, 4, 5])]
)
def test_seeds_are_a_list_or_a_range(text: str, expected: list[int]):
    assert list(parse_seeds(text)) == expected


@pytest.mark.parametrize("text", ["", "a", "1,", "1,1", "5..2", "-1", "0.5"])
def test_other_seeds_are_refused(text: str):
    with pytest.raises(UsageError, match="names no seeds"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((28, 28), 7), ((32, 32), 8), ((8, 8), 2), ((224, 224), 16), ((48, 64), 8), ((29, 29), 1)],
)
def test_the_usual_patch_divides_and_cuts_each_side_into_four_or_more(size, expected: int):
    assert patch_for(*size) == expected


def test_a_comparison_has_a_row_a_model_from_the_runs_themselves(rdfia, tmp_path):
    models = ("vit:dim=8,patch=4", "mlp")
    outcome = rdfia("compare", *models, *SHORT, "--json")
    assert outcome.code == 0, outcome.err
    content = outcome.json
    assert content["schema"] == "rdfia.comparison/1"
    assert content == json.loads((tmp_path / "comparison/comparison.json").read_text())
    assert (tmp_path / "comparison/comparison.png").stat().st_size > 5_000
    assert [row["model"] for row in content["models"]] == list(models)
    for row in content["models"]:
        results = [json.loads((tmp_path / r / "result.json").read_text()) for r in row["runs"]]
        values = [result["test"]["accuracy"] for result in results]
        assert [result["seed"] for result in results] == [0, 1]
        assert row["accuracy"]["values"] == values
        assert row["accuracy"]["mean"] == pytest.approx(statistics.mean(values))
        assert row["accuracy"]["std"] == pytest.approx(statistics.stdev(values))
        assert row["parameters"] == results[0]["parameters"]
    # A linear layer's multiply-accumulates are its weights: 64 x 100 + 100 x 10.
    assert content["models"][1]["macs"] == 7_400


def test_the_same_command_again_trains_nothing(rdfia, tmp_path):
    assert rdfia("compare", "mlp", *SHORT).code == 0
    kept = (tmp_path / "comparison/mlp-0/result.json").stat().st_mtime_ns
    again = rdfia("compare", "mlp", *SHORT)
    assert again.code == 0
    assert (tmp_path / "comparison/mlp-0/result.json").stat().st_mtime_ns == kept
    assert "±" in again.out


def test_a_model_that_does_not_fit_is_refused_before_any_run(rdfia, tmp_path):
    outcome = rdfia("compare", "mlp", "vit:patch=3", *SHORT)
    assert outcome.code == 4
    assert "patches of 3x3" in outcome.err
    assert not (tmp_path / "comparison").exists()


def test_a_model_that_diverges_leaves_the_others(rdfia, tmp_path):
    diverging = ("--optimizer", "sgd", "--lr", "1e38")
    outcome = rdfia("compare", "mlp", "cnn", *SHORT, *diverging, "--json")
    assert outcome.code == 3
    content = outcome.json
    assert content == json.loads((tmp_path / "comparison/comparison.json").read_text())
    assert [row["failed"] for row in content["models"]] == [2, 2]
    assert "runs diverged" in outcome.err
    assert "lower --lr" in outcome.err


def test_a_run_that_is_left_unfinished_is_counted_apart(rdfia, tmp_path):
    finished = rdfia("compare", "mlp", *SHORT, "--json").json["models"][0]
    (tmp_path / "comparison/mlp-1/result.json").unlink()
    outcome = rdfia("compare", "mlp", *SHORT, "--if-exists", "skip", "--json")
    assert outcome.code == 0, outcome.err
    (row,) = outcome.json["models"]
    assert (row["failed"], row["unfinished"]) == (0, 1)
    assert row["runs"] == finished["runs"]
    assert row["accuracy"]["values"] == finished["accuracy"]["values"][:1]
    shown = rdfia("compare", "mlp", *SHORT, "--if-exists", "skip").out
    assert ", 1 unfinished" in shown
