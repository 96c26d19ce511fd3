"""`rdfia eval`: the object, the tables and the pictures of an evaluation."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from rdfia_cli import console
from rdfia_cli.app import app

FIELDS = {
    *("schema", "command", "run", "model", "data", "seed", "epochs", "parameters"),
    *("train", "validation", "test", "best", "seconds", "images_per_second"),
    *("precision", "device", "weights_sha256"),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def train(folder: Path, *arguments: str) -> Path:
    command = ["train", *arguments, "--out", str(folder), "--json"]
    assert console.run(lambda: app(command, standalone_mode=False), command) == 0
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a perceptron on digits."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    return train(folder, "mlp", "--epochs", "2", "--batch-size", "64", "--seed", "3")


@pytest.fixture
def own(digits: Path, tmp_path: Path) -> Path:
    """A copy of that run to change."""
    return Path(shutil.copytree(digits, tmp_path / "run"))


def stored(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_bytes())


def test_the_object_has_every_field_that_a_result_has(rdfia: Callable, digits: Path):
    found = rdfia("eval", str(digits), "--json")
    assert found.code == 0
    assert found.err == ""
    assert len(found.out.splitlines()) == 1
    assert found.json.keys() >= FIELDS
    assert found.json["schema"] == "rdfia.result/1"
    assert found.json["command"] == "eval"
    assert found.json["run"] == str(digits)
    assert found.json["best"] is None
    for key in ("model", "data", "seed", "epochs", "parameters", "precision", "weights_sha256"):
        assert found.json[key] == stored(digits)[key]


def test_the_test_split_scores_as_training_said(rdfia: Callable, digits: Path):
    assert rdfia("eval", str(digits), "--json").json["test"] == stored(digits)["test"]


def test_the_validation_split_scores_as_training_said(rdfia: Callable, digits: Path):
    found = rdfia("eval", str(digits), "--json", "--split", "validation").json["validation"]
    assert {key: found[key] for key in ("loss", "accuracy")} == stored(digits)["validation"]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_split_that_was_asked_for_is_measured_and_the_others_are_null(
    rdfia: Callable, digits: Path, split: str
):
    found = rdfia("eval", str(digits), "--split", split, "--json").json
    assert [name for name in ("train", "validation", "test") if found[name]] == [split]
    assert found["split"] == split
    assert found[split].keys() == {"loss", "accuracy", "top5"}
    assert 0 <= found[split]["accuracy"] <= found[split]["top5"] <= 1
    assert found["examples"] == sum(entry["examples"] for entry in found["classes"])


def test_accuracies_follow_from_the_confusion_matrix(rdfia: Callable, digits: Path):
    found = rdfia("eval", str(digits), "--json").json
    counts = np.array(found["confusion"])
    assert found["test"]["accuracy"] == np.trace(counts) / counts.sum()
    for index, entry in enumerate(found["classes"]):
        assert entry["name"] == str(index)
        assert entry["examples"] == counts[index].sum()
        assert entry["accuracy"] == pytest.approx(counts[index, index] / counts[index].sum())


def test_the_table_shows_loss_accuracy_and_the_commonest_mistakes(rdfia: Callable, digits: Path):
    found = rdfia("eval", str(digits))
    result = rdfia("eval", str(digits), "--json").json
    title, heading, values, second_title, *classes = found.out.splitlines()
    assert title == f"mlp on the test split of digits: {result['examples']} examples"
    assert heading.split() == ["loss", "accuracy", "top-5", "calibration", "error"]
    assert values.split()[:2] == [f"{result['test'][key]:.4f}" for key in ("loss", "accuracy")]
    assert second_title == "each class"
    assert classes[0].split() == ["class", "examples", "accuracy", "taken", "for"]
    assert len(classes) == 11
    row = np.array(result["confusion"][8])
    row[8] = 0
    assert f"{row.argmax()} ({row.max()})" in classes[9]


def test_other_data_of_the_same_shape_are_scored_and_named(rdfia: Callable, digits: Path):
    found = rdfia("eval", str(digits), "--data", "digits:test_every=2", "--json").json
    assert found["data"] == "digits:test_every=2"
    assert found["examples"] == pytest.approx(1797 / 2, abs=10)


def test_other_data_of_another_shape_are_refused(rdfia: Callable, digits: Path):
    found = rdfia("eval", str(digits), "--data", "circles", "--json")
    assert found.code == 4
    assert found.json["exit_code"] == 4
    assert "shape (2,) and 2 classes, the run has (1, 8, 8) and 10" in found.json["message"]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_plot_is_a_real_picture(rdfia: Callable, digits: Path, empty_folder: Path, kind: str):
    found = rdfia("eval", str(digits), "--plot", f"confusion.{kind}")
    assert found.code == 0
    assert [path.name for path in empty_folder.iterdir()] == [f"confusion.{kind}"]
    if kind == "png":
        pixels = image.imread(f"confusion.{kind}")
        assert min(pixels.shape[:2]) > 300
        assert pixels.std() > 0.05, "it is not blank"
    else:
        root = ElementTree.parse(f"confusion.{kind}").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_a_damaged_newest_generation_costs_one_warning_line(rdfia: Callable, own: Path):
    newest = max((own / "checkpoints").iterdir())
    damaged = bytearray((newest / "model.safetensors").read_bytes())
    damaged[1000] ^= 4
    (newest / "model.safetensors").write_bytes(damaged)
    found = rdfia("eval", str(own), "--json")
    assert found.code == 0
    (line,) = found.err.splitlines()
    assert line.startswith(f"warning: checkpoint '{newest}' is damaged")
    assert found.json["epochs"] == 1


def test_an_unfinished_run_is_scored_with_a_warning_line(rdfia: Callable, own: Path):
    (own / "result.json").unlink()
    found = rdfia("eval", str(own), "--json")
    assert found.code == 0
    assert found.err == "warning: the run is not finished: 2 epochs done\n"
    assert found.json["test"]["loss"] > 0


def test_a_run_without_sound_checkpoints_is_refused_in_two_lines(rdfia: Callable, own: Path):
    for generation in (own / "checkpoints").iterdir():
        (generation / "manifest.json").unlink()
    found = rdfia("eval", str(own), "--json")
    assert found.code == 1
    assert len(found.err.splitlines()) == 2
    assert "no checkpoint to evaluate" in found.json["message"]


def test_weights_that_do_not_fit_the_model_are_refused(rdfia: Callable, own: Path):
    config = own / "config.toml"
    config.write_text(config.read_text().replace("hidden = 100", "hidden = 50"))
    found = rdfia("eval", str(own))
    assert found.code == 4
    assert "do not fit the model" in found.err
    assert len(found.err.splitlines()) == 2


def test_a_run_can_be_moved_before_it_is_scored(rdfia: Callable, digits: Path, own: Path):
    found = rdfia("eval", str(own.rename(own.with_name("elsewhere"))), "--json").json
    assert found["test"] == stored(digits)["test"]
    assert found["run"].endswith("elsewhere")
