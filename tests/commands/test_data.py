"""`rdfia data` makes datasets ready, lists them and removes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RDFIA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """Ten images of each of two classes."""
    draws = np.random.default_rng(0)
    for label in ("cat", "dog"):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = draws.integers(256, size=(6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return f"folder:path={tmp_path / 'photos'}"


def test_a_dataset_is_prepared_listed_trained_and_removed(rdfia, photos, own_cache):
    prepared = rdfia("data", "prepare", photos, "digits", "--json").json
    assert prepared["schema"] == "rdfia.data/1"
    folder, digits = prepared["datasets"]
    assert (folder["shape"], folder["classes"]) == ([3, 6, 6], 2)
    train, test = folder["splits"]["train"], folder["splits"]["test"]
    assert train + test == 20
    assert 2 <= test <= 10
    assert digits["splits"] == {"train": 1442, "test": 355}
    (store,) = rdfia("data", "list", "--json").json["stores"]
    assert (store["dataset"], store["splits"]) == ("folder", folder["splits"])
    assert store["classes"] == ["cat", "dog"]
    assert store["bytes"] == sum(f.stat().st_size for f in Path(store["folder"]).iterdir())
    assert store["name"] in rdfia("data", "list").out
    assert rdfia("train", "mlp", "--data", photos, "--epochs", "1", "--out", "run").code == 0
    (store,) = rdfia("data", "list", "--json").json["stores"]
    removed = rdfia("data", "remove", "folder", "--json").json
    assert removed["removed"] == [store["name"]]
    assert removed["bytes"] == store["bytes"]
    assert rdfia("data", "list", "--json").json["stores"] == []
    assert rdfia("eval", "run").code == 0, "it is prepared again"


def test_downloads_are_removed_when_asked_for(rdfia, own_cache):
    (own_cache / "downloads" / "MNIST").mkdir(parents=True)
    (own_cache / "downloads" / "MNIST" / "file").write_bytes(b"12345")
    assert rdfia("data", "remove", "--all").code == 0
    assert (own_cache / "downloads").exists()
    found = rdfia("data", "remove", "--downloads", "--json").json
    assert (found["removed"], found["bytes"]) == (["downloads"], 5)
    assert not (own_cache / "downloads").exists()


@pytest.mark.parametrize(
    ("arguments", "told", "code"),
    [
        (("remove",), "nothing to remove", 2),
        (("remove", "minst"), "no store 'minst'", 2),
        (("prepare", "minst"), "mnist", 4),
        (("prepare", "folder:path=nowhere"), "nowhere", 2),
        (("prepare",), "D...", 2),
    ],
)
def test_what_cannot_be_done_is_refused(rdfia, own_cache, arguments, told, code):
    found = rdfia("data", *arguments)
    assert (found.code, found.out) == (code, "")
    assert told in found.err
    assert len(found.err.splitlines()) <= 2
