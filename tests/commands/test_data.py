"""`rdfia data` makes datasets ready, lists them and removes them."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
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
    assert (folder["cached"], digits["cached"]) == (True, False)
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


def test_all_means_what_stopped_processes_left_and_what_is_damaged_too(rdfia, photos, own_cache):
    assert rdfia("data", "prepare", photos).code == 0
    stores = own_cache / "stores"
    (store,) = stores.iterdir()
    damaged = Path(shutil.copytree(store, stores / "folder-damaged"))
    (damaged / "manifest.json").write_text("{")
    older = Path(shutil.copytree(store, stores / "folder-older"))
    manifest = (older / "manifest.json").read_text()
    (older / "manifest.json").write_text(manifest.replace("rdfia.store/1", "rdfia.store/0"))
    for name in (".folder-1.abcd.partial", ".folder-2.abcd.removed"):
        shutil.copytree(store, stores / name)
    (stores / ".folder-3.lock").touch()
    used = stores / ".folder-4.abcd.partial"
    used.mkdir()
    holder = os.open(used, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    assert "6 in" in rdfia("data", "list").err
    found = rdfia("data", "remove", "--all", "--json").json
    assert list(stores.iterdir()) == [used]
    assert found["removed"] == [store.name]
    assert found["bytes"] > 5 * 20 * 6 * 6 * 3
    os.close(holder)
    assert rdfia("data", "remove", "--all").code == 0
    assert list(stores.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_preparing_leaves_nothing_and_kills_as_it_does(
    tmp_path: Path, own_cache: Path, number: signal.Signals
):
    draws = np.random.default_rng(0)
    for row in range(400):
        folder = tmp_path / "many" / "ab"[row % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draws.integers(256, size=(256, 256, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png", compress_level=1)
    preparing = subprocess.Popen(
        [sys.executable, "-m", "rdfia_cli", "data", "prepare", "folder:path=many"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not list(own_cache.glob("stores/.*.partial/images.uint8")):
        assert preparing.poll() is None
        time.sleep(0.01)
    preparing.send_signal(number)
    _, told = preparing.communicate(timeout=60)
    assert preparing.returncode == -number, told
    assert list((own_cache / "stores").iterdir()) == []


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


@pytest.fixture
def sizes(rdfia, photos) -> list[str]:
    """The names of three stores of one folder: as it is, of size 4, and of size 4 padded."""
    specs = [photos, f"{photos},size=4", f"{photos},size=4,resize=pad"]
    assert rdfia("data", "prepare", *specs).code == 0
    stores = rdfia("data", "list", "--json").json["stores"]
    assert sorted(store["spec"] for store in stores) == sorted(specs)
    return [store["name"] for spec in specs for store in stores if store["spec"] == spec]


def test_stores_of_one_folder_are_told_apart_by_how_one_writes_them(rdfia, sizes):
    heading, *rows = [line.split() for line in rdfia("data", "list").out.splitlines()[1:]]
    assert (heading[0], heading[2], heading[-1]) == ("store", "shape", "dataset")
    shown = {row[0]: (row[2], row[-1]) for row in rows}
    assert [shown[name] for name in sizes] == [
        ("3x6x6", "folder:path=photos"),
        ("3x4x4", "folder:path=photos,size=4"),
        ("3x4x4", "folder:path=photos,size=4,resize=pad"),
    ]


def test_a_store_is_removed_by_its_spec_or_the_beginning_of_its_name(rdfia, sizes):
    plain, small, padded = sizes
    by_spec = rdfia("data", "remove", "folder:path=photos,size=4", "-q")
    assert (by_spec.out, by_spec.err) == (f"{small}\n", "")
    ambiguous = rdfia("data", "remove", "folder-")
    assert (ambiguous.code, ambiguous.out) == (2, "")
    assert "2 stores begin with 'folder-'" in ambiguous.err
    gone = rdfia("data", "remove", "folder:path=photos,size=4")
    assert gone.code == 2
    assert "no store of 'folder:path=photos,size=4'" in gone.err
    assert rdfia("data", "remove", padded[:-4]).out == f"{padded}\n"
    assert rdfia("data", "remove", "fold").out == f"{plain}\n"


def test_an_embedded_dataset_says_that_it_needs_nothing(rdfia):
    found = rdfia("data", "prepare", "digits")
    assert "digits is embedded: it needs no preparing" in found.err
    assert found.out.split()[6:9] == ["digits", "1x8x8", "10"]
    assert rdfia("data", "prepare", "digits", "-q").err == ""
    assert rdfia("data", "list", "-q").err == ""
