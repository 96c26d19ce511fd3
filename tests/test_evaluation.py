"""An evaluation gives the numbers that plain arithmetic on the stored files gives."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.datasets import make_circles

from rdfia_cli import run
from rdfia_cli.commands.progress import watch
from rdfia_cli.config import resolve, resolve_component
from rdfia_cli.errors import ComponentError, RdfiaError
from rdfia_cli.evaluation import Evaluation, evaluate
from rdfia_cli.experiment import run_experiment
from rdfia_cli.sources import Sources
from rdfia_cli.spec import Preparing
from rdfia_cli.training.assembly import load_splits
from rdfia_cli.training.metrics import measure

pytestmark = pytest.mark.usefixtures("one_thread")


def train(folder: Path, **flags: object) -> Path:
    config = resolve(Sources(flags={"out": str(folder), "epochs": "2", **flags})).config
    for _ in run_experiment(config, run.place(config).folder):
        pass
    return folder


@pytest.fixture(scope="module")
def circles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on points."""
    return train(tmp_path_factory.mktemp("c") / "run", model="mlp", data="circles", lr="0.5")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on images that are cropped and flipped."""
    return train(
        tmp_path_factory.mktemp("d") / "run",
        model="cnn:batch_norm=true,dropout=0.5",
        augment=["random_crop:size=6", "horizontal_flip"],
        batch_size="128",
    )


def finish(work: Generator[Preparing, None, Any]) -> Any:
    return watch(work, lambda event: None)


def evaluated(folder: Path, split: str = "test", data: str | None = None) -> Evaluation:
    chosen = data and resolve_component("data", data, "--data")
    return finish(evaluate(folder, run.load_config(folder), split, chosen or None))


def stored_tensors(folder: Path) -> dict[str, np.ndarray]:
    return load_file(max((folder / "checkpoints").iterdir()) / "model.safetensors")


def stored_result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_bytes())


def log_probabilities(folder: Path, points: np.ndarray) -> np.ndarray:
    """What the stored perceptron says of some points, in float64 and by hand."""
    t = {name: tensor.astype(np.float64) for name, tensor in stored_tensors(folder).items()}
    x = (points - t["input_statistics.mean"]) / t["input_statistics.std"]
    hidden = np.tanh(x @ t["hidden.weight"].T + t["hidden.bias"])
    logits = hidden @ t["output.weight"].T + t["output.bias"]
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def rings(seed: int, noise: float = 0.2, factor: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    points, labels = make_circles(200, noise=noise, factor=factor, random_state=seed)
    return points.astype(np.float32), labels


def assert_measures(found: Evaluation, said: np.ndarray, labels: np.ndarray) -> None:
    assert found.examples == len(labels)
    loss = -said[np.arange(len(labels)), labels].mean()
    assert found.measures.loss == pytest.approx(loss, rel=1e-5)
    assert found.measures.accuracy == (said.argmax(1) == labels).mean()


def test_the_test_split_scores_as_the_stored_weights_do_by_hand(circles: Path):
    points, labels = rings(seed=1)
    assert_measures(evaluated(circles), log_probabilities(circles, points), labels)


@pytest.mark.parametrize("name", ["circles", "digits"])
def test_the_test_split_scores_as_the_result_of_the_run_says(
    request: pytest.FixtureRequest, name: str
):
    folder = request.getfixturevalue(name)
    found, stored = evaluated(folder), stored_result(folder)
    assert found.measures.loss == stored["test"]["loss"]
    assert found.measures.accuracy == stored["test"]["accuracy"]
    assert found.measures.top5 == stored["test"]["top5"]
    assert found.weights_sha256 == stored["weights_sha256"]
    assert (found.epoch, found.parameters) == (2, stored["parameters"])
    assert found.warnings == ()


@pytest.mark.parametrize("name", ["circles", "digits"])
def test_the_validation_split_scores_as_the_result_of_the_run_says(
    request: pytest.FixtureRequest, name: str
):
    folder = request.getfixturevalue(name)
    found, stored = evaluated(folder, "validation"), stored_result(folder)
    assert found.measures.loss == stored["validation"]["loss"]
    assert found.measures.accuracy == stored["validation"]["accuracy"]


def test_train_and_validation_share_out_what_is_not_test(digits: Path):
    counts = [evaluated(digits, split).examples for split in ("train", "validation", "test")]
    assert sum(counts) == 1797
    assert counts[1] == pytest.approx(0.1 * (counts[0] + counts[1]), abs=5)


def test_the_train_split_is_scored_without_dropout_or_random_crops(digits: Path):
    one, again = evaluated(digits, "train"), evaluated(digits, "train")
    assert one.measures == again.measures


def test_the_confusion_matrix_counts_every_example_under_its_true_class(digits: Path):
    found = evaluated(digits)
    confusion = np.array(found.measures.confusion)
    labels = finish(load_splits(run.load_config(digits))).test.labels
    assert confusion.sum(1).tolist() == torch.bincount(labels).tolist()
    assert np.trace(confusion) / confusion.sum() == found.measures.accuracy
    assert found.measures.per_class == pytest.approx(np.diag(confusion) / confusion.sum(1))


def test_other_data_are_normalised_by_the_statistics_of_the_run_not_their_own(circles: Path):
    points, labels = rings(seed=1, noise=0.7, factor=0.6)
    found = evaluated(circles, data="circles:noise=0.7,factor=0.6")
    assert_measures(found, log_probabilities(circles, points), labels)
    t = stored_tensors(circles)
    other_train, _ = rings(seed=0, noise=0.7, factor=0.6)
    refitted = (points - other_train.mean(0)) / other_train.std(0)
    as_if = refitted * t["input_statistics.std"] + t["input_statistics.mean"]
    with pytest.raises(AssertionError):
        assert_measures(found, log_probabilities(circles, as_if), labels)


def test_the_stored_statistics_are_those_of_the_train_split_alone(circles: Path):
    """Validation is no part of it: 20 of the 200 points are kept apart."""
    mean = stored_tensors(circles)["input_statistics.mean"]
    all_points, _ = rings(seed=0)
    assert not np.allclose(mean, all_points.mean(0), rtol=1e-4)
    config = run.load_config(circles)
    kept = finish(load_splits(config)).train
    kept = kept.take(torch.arange(len(kept))).double()
    assert len(kept) == 180
    assert mean == pytest.approx(kept.mean(0).numpy(), rel=1e-5)


@pytest.mark.parametrize("data", ["digits", "circles:points=50"])
def test_other_data_must_have_the_same_shape_and_classes(circles: Path, data: str):
    if data == "digits":
        with pytest.raises(ComponentError, match=r"shape \(1, 8, 8\) and 10 classes"):
            evaluated(circles, data=data)
    else:
        assert evaluated(circles, data=data).examples == 50


def test_a_damaged_newest_generation_is_passed_over_with_one_warning(circles: Path, tmp_path: Path):
    folder = Path(shutil.copytree(circles, tmp_path / "run"))
    newest = max((folder / "checkpoints").iterdir())
    (newest / "model.safetensors").write_bytes(b"damaged")
    found = evaluated(folder)
    assert found.epoch == 1
    (warning,) = found.warnings
    assert warning == (
        f"checkpoint '{newest}' is damaged (model.safetensors does not match its checksum): "
        "going back to the one before"
    )
    metrics = run.read_lines(folder / run.METRICS)
    assert found.measures.loss == metrics[0]["test"]["loss"]


def test_an_unfinished_run_is_scored_with_a_warning(circles: Path, tmp_path: Path):
    folder = Path(shutil.copytree(circles, tmp_path / "run"))
    (folder / "result.json").unlink()
    assert evaluated(folder).warnings == ("the run is not finished: 2 epochs done",)


def test_a_run_without_a_sound_checkpoint_is_refused_naming_each(circles: Path, tmp_path: Path):
    folder = Path(shutil.copytree(circles, tmp_path / "run"))
    for generation in (folder / "checkpoints").iterdir():
        (generation / "state.safetensors").unlink()
    with pytest.raises(RdfiaError, match="has no checkpoint to evaluate") as refusal:
        evaluated(folder)
    assert refusal.value.fact.count("is damaged") == 2
    assert "\n" not in refusal.value.fact
    assert refusal.value.remedy.startswith("train it first")


def test_a_run_without_validation_has_none_to_score(tmp_path: Path):
    folder = train(tmp_path / "run", model="mlp", data="circles", validation="0")
    assert evaluated(folder).examples == 200
    with pytest.raises(ComponentError, match="no validation split"):
        evaluated(folder, "validation")


def test_evaluating_writes_nothing_into_the_run(circles: Path):
    before = {path: path.stat().st_mtime_ns for path in circles.rglob("*")}
    evaluated(circles, "train")
    assert {path: path.stat().st_mtime_ns for path in circles.rglob("*")} == before


# The decision map


def test_the_decision_map_is_what_the_model_says_on_the_grid_of_the_course(circles: Path):
    found = json.loads((circles / "decision_map.json").read_bytes())
    axis = np.array(found["axis"])
    assert axis == pytest.approx(np.linspace(-2, 2, 40, endpoint=False), abs=1e-6)
    x, y = np.meshgrid(axis, axis)
    said = np.exp(log_probabilities(circles, np.stack([x.ravel(), y.ravel()], axis=1)))
    drawn = np.array(found["probabilities"])
    assert drawn.shape == (40, 40, 2)
    assert drawn.reshape(-1, 2) == pytest.approx(said, abs=1e-4)
    assert found["classes"] == ["outer", "inner"]


def test_images_have_no_decision_map(digits: Path):
    assert not (digits / "decision_map.json").exists()


def test_a_class_that_a_split_lacks_has_no_accuracy():
    found = measure(torch.eye(3)[:2], torch.tensor([0, 1]))
    assert found.per_class[:2] == [1.0, 1.0]
    assert math.isnan(found.per_class[2])
