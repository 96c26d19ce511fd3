"""Images that change between two commands, or meanwhile: nothing is kept or scored as if not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rdfia_cli import cache, run
from rdfia_cli.commands.progress import watch
from rdfia_cli.config import RunConfig, resolve, resolve_component
from rdfia_cli.datasets.store import open_store
from rdfia_cli.errors import ChangedError, PreemptedError
from rdfia_cli.experiment import run_experiment
from rdfia_cli.sources import Sources
from rdfia_cli.spec import Splits
from rdfia_cli.training import assembly, inputs
from rdfia_cli.training.loop import StepEnd
from rdfia_cli.training.verification import Verification

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN = ("train", "mlp:hidden=3", "--data", "folder:path=photos", "--epochs", "1", "--out", "run")


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Forty dark cats and forty bright dogs in one tree, all files of one length."""
    monkeypatch.setenv("RDFIA_CACHE", str(tmp_path / "cache"))
    for kind, level in (("cat", 60), ("dog", 190)):
        folder = tmp_path / "photos" / kind
        folder.mkdir(parents=True)
        for number in range(40):
            picture(level).save(folder / f"{number}.bmp")
    return tmp_path / "photos"


def picture(level: int) -> Image.Image:
    return Image.fromarray(np.full((4, 4, 3), level, np.uint8))


def repaint(photos: Path, kind: str, level: int) -> None:
    """Change all images of a class in their places, with the times of before."""
    for path in (photos / kind).iterdir():
        times = path.stat()
        picture(level).save(path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def configuration(**flags: object) -> RunConfig:
    settings = {"model": "mlp:hidden=3", "data": "folder:path=photos", "out": "run", "epochs": "1"}
    return resolve(Sources({**settings, **flags})).config


# Whoever looks at images sees them as they are


def test_an_evaluation_scores_the_images_as_they_are_and_says_that_they_changed(rdfia, photos):
    assert rdfia(*TRAIN, "--epochs", "20", "--lr", "0.1").code == 0
    assert rdfia("eval", "run", "--json").json["test"]["accuracy"] == 1
    repaint(photos, "cat", 190)
    found = rdfia("eval", "run", "--json")
    cats, dogs = found.json["classes"]
    assert (cats["accuracy"], dogs["accuracy"]) == (0, 1)
    assert "warning: the images of 'folder' changed since the run began" in found.err


def test_other_data_are_scored_as_they_are_too(rdfia, photos):
    assert rdfia(*TRAIN, "--epochs", "20", "--lr", "0.1").code == 0
    other = Path(shutil.copytree(photos, photos.with_name("others")))
    arguments = ("eval", "run", "--data", "folder:path=others", "--json")
    assert rdfia(*arguments).json["test"]["accuracy"] == 1
    repaint(other, "cat", 190)
    assert rdfia(*arguments).json["classes"][0]["accuracy"] == 0


def test_a_picture_of_augmented_samples_is_of_the_images_as_they_are(rdfia, photos):
    arguments = ("augment", "--data", "folder:path=photos", "--samples", "8", "--draws", "1")
    drawn = []
    for name in ("one.png", "two.png"):
        assert rdfia(*arguments, "--out", name).code == 0
        drawn.append(Path(name).read_bytes())
        repaint(photos, "cat", 0)
    assert drawn[0] != drawn[1]


def test_preparing_again_is_all_that_a_change_in_its_place_needs(rdfia, photos):
    arguments = ("data", "prepare", "folder:path=photos")
    assert rdfia(*arguments).code == 0
    repaint(photos, "cat", 0)
    found = rdfia(*arguments)
    assert found.code == 0, found.err
    chosen = resolve_component("data", "folder:path=photos", "a test")
    splits = watch(assembly.load_dataset(chosen), lambda event: None)
    cats = splits.train.take(torch.nonzero(splits.train.labels == 0).flatten())
    assert cats.max() == 0


# A run goes on with the images that it began with


def another_image(photos: Path) -> None:
    picture(60).save(photos / "cat/new.bmp")


def another_class(photos: Path) -> None:
    shutil.copytree(photos / "cat", photos / "bird")


@pytest.mark.parametrize("change", [another_image, another_class])
def test_a_run_whose_images_changed_does_not_go_on(rdfia, photos, change):
    assert rdfia(*TRAIN).code == 0
    Path("run/result.json").unlink()
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    aside = Path(shutil.copytree(photos, photos.with_name("aside")))
    change(photos)
    found = rdfia(*TRAIN, "--json")
    assert found.code == 2
    assert "changed since the run in 'run' began" in found.json["message"]
    assert "--if-exists new" in found.json["remedy"]
    assert {path: path.read_bytes() for path in before} == before
    shutil.rmtree(photos)
    aside.rename(photos)
    assert rdfia(*TRAIN).code == 0


def test_a_run_that_kept_nothing_yet_begins_with_the_images_that_there_are(rdfia, photos):
    assert rdfia(*TRAIN).code == 0
    Path("run/result.json").unlink()
    for path in sorted(Path("run/checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    began = json.loads(Path("run/environment.json").read_bytes())[run.DATA_FINGERPRINT]
    picture(60).save(photos / "cat/new.bmp")
    assert rdfia(*TRAIN).code == 0
    goes_on = json.loads(Path("run/environment.json").read_bytes())[run.DATA_FINGERPRINT]
    assert began != goes_on


def test_where_the_images_lie_is_no_part_of_what_they_are(rdfia, photos, monkeypatch, tmp_path):
    assert rdfia(*TRAIN).code == 0
    Path("run/result.json").unlink()
    moved = tmp_path / "moved"
    moved.mkdir()
    photos.rename(moved / "photos")
    Path("run").rename(moved / "run")
    monkeypatch.chdir(moved)
    found = rdfia(*TRAIN)
    assert found.code == 0, found.err


def test_a_change_in_its_place_stops_a_run_before_it_keeps_anything(rdfia, photos):
    assert rdfia("data", "prepare", "folder:path=photos").code == 0
    repaint(photos, "cat", 0)
    found = rdfia(*TRAIN)
    assert found.code == 1
    assert "changed since they were prepared" in found.err
    assert not list(Path("run").glob("checkpoints/*"))
    assert Path("run/metrics.jsonl").read_bytes() == b""
    assert rdfia(*TRAIN).code == 0


# The look at the source runs beside the training


class Gate:
    """A look at the source that takes as long as the test wants."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.error: Exception | None = None

    def __call__(self) -> None:
        self.open.wait(60)
        if self.error is not None:
            raise self.error


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, real = Gate(), assembly.load_dataset

    def load(chosen: object) -> Iterator[object]:
        splits: Splits = yield from real(chosen)
        return replace(splits, verify=gate)

    monkeypatch.setattr(assembly, "load_dataset", load)
    yield gate
    gate.open.set()


def test_training_begins_before_the_source_is_seen_and_keeps_nothing_until_then(gate: Gate):
    events = run_experiment(configuration(), Path("run"))
    next(event for event in events if isinstance(event, StepEnd))
    assert not gate.open.is_set()
    opener = threading.Timer(0.5, gate.open.set)
    opener.start()
    for _ in events:
        assert gate.open.is_set() or not list(Path("run").glob("checkpoints/*"))
    opener.join()
    assert list(Path("run").glob("checkpoints/*"))


def test_a_change_that_is_seen_late_stops_the_run_at_the_end_of_its_first_epoch(gate: Gate):
    gate.error = ChangedError("the images changed")
    threading.Timer(0.5, gate.open.set).start()
    with pytest.raises(ChangedError):
        for _ in run_experiment(configuration(epochs="50"), Path("run")):
            pass
    assert not list(Path("run").glob("checkpoints/*"))
    assert Path("run/metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize("instant", ["in a step", "in the wait"])
def test_a_request_to_stop_does_not_wait_for_the_look_at_the_source(gate: Gate, instant: str):
    began = time.monotonic()
    if instant == "in the wait":
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(PreemptedError, match="before anything was saved"):
        for event in run_experiment(configuration(), Path("run")):
            if isinstance(event, StepEnd) and instant == "in a step":
                os.kill(os.getpid(), signal.SIGTERM)
    assert time.monotonic() - began < 30
    assert not list(Path("run").glob("checkpoints/*"))


def test_whatever_a_look_raises_comes_to_whoever_waits():
    def broken() -> None:
        raise ZeroDivisionError

    verification = Verification(broken)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            verification.wait()
    assert not verification.pending
    Verification(None).wait()


# What was computed from a store is kept beside it


def fitted(splits: Splits) -> inputs.Statistics:
    layout = torch.contiguous_format
    flow = inputs.Pipeline(splits.train, [], inputs.Statistics(), torch.device("cpu"), layout, 0)
    return inputs.fit_statistics("train", flow, splits.memory)


def loaded(seed: int = 0) -> Splits:
    config = configuration(split_seed=str(seed))
    return watch(assembly.load_splits(config), lambda event: None)


def test_statistics_are_fitted_once_for_the_same_examples(monkeypatch: pytest.MonkeyPatch):
    first, real = fitted(loaded()), inputs._fit_channels
    monkeypatch.setattr(inputs, "_fit_channels", None)
    again = fitted(loaded())
    assert torch.equal(first.mean, again.mean)
    assert torch.equal(first.std, again.std)
    monkeypatch.setattr(inputs, "_fit_channels", real)
    other = fitted(loaded(seed=1))
    assert torch.equal(other.mean, real(loaded(seed=1).train).mean)
    assert len({path.name for path in memories()}) == 2


def memories() -> list[Path]:
    (store,) = cache.stores(cache.folder())
    return list(store.folder.glob("memory-*"))


def test_damaged_statistics_are_fitted_anew():
    first = fitted(loaded())
    (path,) = memories()
    content = bytearray(path.read_bytes())
    for damage in (content[:40], content[:-1], content[:-1] + b"\0", b""):
        path.write_bytes(damage)
        assert torch.equal(fitted(loaded()).mean, first.mean)
        assert path.read_bytes() == content


def test_statistics_of_a_store_that_was_replaced_are_not_taken_for_its_successors(photos: Path):
    old = loaded()
    repaint(photos, "cat", 0)
    new = loaded()
    before = fitted(old)
    after = fitted(new)
    assert before.mean.max() > after.mean.max()
    (store,) = cache.stores(cache.folder())
    expected = inputs._fit_channels(inputs.split_validation(open_store(store), 0.1, 0).train)
    assert torch.equal(after.mean, expected.mean)
