"""-q alone leaves out the progress, in every command that shows some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdfia_cli import console
from rdfia_cli.app import app

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, which have to be decoded first."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for index in range(8):
                pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on those images."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RDFIA_CACHE", str(tmp_path_factory.mktemp("cache")))
        command = ["train", "mlp", "--data", f"folder:path={photos}", "--epochs", "1", "-q"]
        command += ["--batch-size", "4", "--out", str(folder)]
        assert console.run(lambda: app(command, standalone_mode=False), command) == 0
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ("eval", "RUN"),
        ("augment", "--data", "folder:path=PHOTOS", "--samples", "1", "--draws", "1"),
        ("param-count", "mlp", "--data", "folder:path=PHOTOS"),
        (
            *("receptive-field", "cnn", "--input", "3x16x16", "--layer", "conv1", "--effective"),
            *("--images", "2", "--data", "folder:path=PHOTOS"),
        ),
    ],
    ids=lambda command: command[0],
)
def test_progress_is_shown_under_json_and_left_out_under_q(
    rdfia: Callable, photos: Path, trained: Path, tmp_path: Path, monkeypatch, command
):
    given = [word.replace("PHOTOS", str(photos)).replace("RUN", str(trained)) for word in command]
    monkeypatch.setenv("RDFIA_CACHE", str(tmp_path / "one"))
    shown = rdfia(*given, "--json")
    assert shown.code == 0, shown.err
    assert "photos" in shown.err
    monkeypatch.setenv("RDFIA_CACHE", str(tmp_path / "another"))
    quiet = rdfia(*given, "--json", "-q")
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.json["schema"] == shown.json["schema"]


def test_many_models_are_counted_without_a_word(rdfia: Callable, monkeypatch):
    monkeypatch.setattr("rdfia_cli.commands.progress.SECONDS_BETWEEN_LINES", 0)
    assert rdfia("param-count", "mlp", "lenet", "--json", "-q").err == ""
