"""A user's images are decoded once, rightly, and anew whenever they change."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rdfia_cli import cache
from rdfia_cli.commands.progress import watch
from rdfia_cli.datasets import decode, folder, layout, parallel, store
from rdfia_cli.errors import RdfiaError, UsageError
from rdfia_cli.spec import InputSpec, Preparing, Split, Splits

PARTS = {"train": 5, "test": 3}


def noise(path: Path, size: tuple[int, int] = (6, 4)) -> None:
    """Write an image that its name decides: width x height."""
    draws = np.random.default_rng(list(os.fsencode(path.name)))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draws.integers(256, size=(*size[::-1], 3), dtype=np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images for the test and five to train on of each of two classes."""
    for part, count in PARTS.items():
        for kind in ("cat", "dog"):
            for number in range(count):
                noise(tmp_path / "photos" / part / kind / f"{part}-{kind}-{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changed a moment ago counts as long ago."""
    monkeypatch.setattr(layout, "COARSEST_CLOCK", 0)


def load(photos: Path, events: list[Preparing] | None = None, **options) -> Splits:
    show = (lambda event: None) if events is None else events.append
    return watch(folder.folder(photos.parent / "cache", path=str(photos), **options), show)


def decoded(photos: Path, **options) -> bool:
    """Whether loading decodes images."""
    events: list[Preparing] = []
    load(photos, events, **options)
    return any(event.what.startswith("decoding") for event in events)


def left_in_cache(photos: Path) -> list[str]:
    stores = photos.parent / "cache/stores"
    return sorted(path.name for path in stores.iterdir()) if stores.exists() else []


def refusal(photos: Path, **options) -> str:
    """The words of a refusal, which leaves nothing in the cache."""
    with pytest.raises(UsageError) as caught:
        load(photos, **options)
    assert left_in_cache(photos) == []
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.fact + caught.value.remedy
    return f"{caught.value.fact}\n{caught.value.remedy}"


def verify(splits: Splits) -> None:
    assert splits.verify is not None
    splits.verify()


def pillow(path: Path, mode: str = "RGB") -> torch.Tensor:
    """(C, H, W), as Pillow reads it."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert(mode))
    return torch.from_numpy(pixels.copy()).view(*pixels.shape[:2], -1).movedim(-1, 0)


def images(split: Split | None) -> torch.Tensor:
    assert split is not None
    return split.take(torch.arange(len(split)))


# What comes out


@pytest.mark.parametrize(("mode", "kind"), [("colour", "RGB"), ("grey", "L")])
def test_the_splits_are_the_files_as_pillow_reads_them(photos: Path, mode, kind: str):
    splits = load(photos, mode=mode)
    assert splits.input == InputSpec((3 if mode == "colour" else 1, 4, 6), 2)
    assert splits.classes == ("cat", "dog")
    assert splits.warnings == ()
    for part, split in (("train", splits.train), ("test", splits.test)):
        files = sorted((photos / part).rglob("*.png"))
        assert torch.equal(images(split), torch.stack([pillow(file, kind) for file in files]))
        assert split.labels.tolist() == [file.parent.name == "dog" for file in files]


def test_a_folder_for_validation_becomes_that_split(photos: Path):
    for kind in ("cat", "dog"):
        noise(photos / f"val/{kind}/v.png")
    splits = load(photos)
    expected = torch.stack([pillow(photos / f"val/{kind}/v.png") for kind in ("cat", "dog")])
    assert torch.equal(images(splits.validation), expected)
    assert len(splits.train) == 10


def test_one_tree_is_split_by_the_seed(photos: Path):
    one = photos / "train"
    found = load(one, test_share=0.4)
    assert len(found.train) + len(found.test) == 10
    assert all(torch.bincount(split.labels).min() > 0 for split in (found.train, found.test))
    assert torch.equal(images(found.test), images(load(one, test_share=0.4).test))
    other = load(one, test_share=0.4, split_seed=1)
    assert not torch.equal(images(found.test), images(other.test))
    both = torch.cat([images(found.train), images(found.test)])
    files = {pillow(file).numpy().tobytes() for file in one.rglob("*.png")}
    assert {image.contiguous().numpy().tobytes() for image in both} == files


def test_images_of_any_size_are_brought_to_one(photos: Path):
    for number, size in enumerate([(30, 10), (3, 50), (7, 7)]):
        noise(photos / f"train/cat/odd-{number}.png", size)
    for resize in ("shorter", "squash", "pad"):
        splits = load(photos, size=5, resize=resize)
        assert splits.input.shape == (3, 5, 5)
        rule = decode.Rule(5, resize, "colour")
        for row, file in enumerate(sorted((photos / "train").rglob("*.png"))):
            pixels = torch.from_numpy(decode.decode(file.read_bytes(), rule).copy())
            assert torch.equal(splits.train.take(torch.tensor([row]))[0], pixels.movedim(-1, 0))


def test_without_a_size_images_that_differ_are_refused_by_name(photos: Path):
    noise(photos / "train/dog/tall.png", (4, 9))
    words = refusal(photos)
    assert "train/cat/train-cat-0.png is 6x4" in words
    assert "train/dog/tall.png is 4x9" in words
    assert f"folder:path={photos},size=64" in words, "which every command takes"
    assert "resize=shorter" in words


@pytest.mark.parametrize("place", ["first", "last"])
def test_photos_that_differ_in_size_are_refused_before_there_is_room_for_them(
    photos: Path, monkeypatch, place: str
):
    monkeypatch.setattr(store, "_take_space", None)
    noise(photos / f"test/dog/{'a' if place == 'first' else 'z'}.png", (4, 9))
    words = refusal(photos)
    assert "differ in size" in words
    assert "is 4x9" in words


def test_a_first_image_that_cannot_be_read_does_not_decide_the_size(photos: Path):
    for kind in ("cat", "dog"):
        for part in ("train", "test"):
            for name in ("a.png", "z.png"):
                (photos / part / kind / name).write_text("no image")
    assert load(photos, on_error="skip").input.shape == (3, 4, 6)


def test_preparing_says_how_far_it_is(photos: Path):
    events: list[Preparing] = []
    load(photos, events)
    assert events[0].total is None
    counts = [event.done for event in events if event.total == 16]
    assert counts == sorted(counts)
    assert counts[-1] == 16
    assert {event.unit for event in events} == {"images"}
    assert all("photos" in event.what for event in events)


def test_progress_comes_at_most_about_ten_times_a_second(photos: Path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(parallel, "FILES_IN_REQUEST", 1)
    events: list[Preparing] = []
    load(photos, events)
    assert len([event for event in events if event.what.startswith("decoding")]) == 2


@pytest.mark.parametrize("change", [{"size": 4}, {"mode": "grey"}, {"on_error": "skip"}], ids=str)
def test_another_rule_has_another_store(photos: Path, change):
    load(photos)
    assert decoded(photos, **change)
    assert not decoded(photos)
    assert len(left_in_cache(photos)) == 2


def test_another_version_of_the_decoding_has_another_store(photos: Path, monkeypatch):
    load(photos)
    monkeypatch.setattr(decode, "VERSION", decode.VERSION + 1)
    assert decoded(photos)


def test_the_same_folder_by_another_path_has_the_same_store(photos: Path, monkeypatch):
    load(photos)
    monkeypatch.chdir(photos.parent)
    (photos.parent / "link").symlink_to(photos)
    for path in ("photos", "./photos/", "link", "photos/../photos"):
        events: list[Preparing] = []
        watch(folder.folder(photos.parent / "cache", path=path), events.append)
        assert events == []


# What cannot be read


def spoil(photos: Path) -> None:
    """Files of which none can be read, of many kinds."""
    cats = photos / "train/cat"
    (cats / "bomb.bmp").write_bytes(
        b"BM" + bytes(12) + b"\x28\0\0\0\0\0\1\0\0\0\1\0\1\0\x18" + bytes(25)
    )
    (cats / "empty.jpg").touch()
    (cats / "folder.gif").mkdir()
    (cats / "link.png").symlink_to("nowhere")
    os.mkfifo(cats / "pipe.webp")
    (photos / "test/dog/text.tif").write_text("I am a dog")
    whole = (cats / "train-cat-0.png").read_bytes()
    (photos / "test/dog/half.png").write_bytes(whole[: len(whole) - 40])


def test_files_that_cannot_be_read_are_counted_and_named_and_nothing_is_kept(photos: Path):
    spoil(photos)
    fact, remedy = refusal(photos).splitlines()
    assert "7 of 23 images" in fact
    assert "train/cat/bomb.bmp (decompression bomb" in fact
    assert "train/cat/empty.jpg (empty)" in fact
    assert "train/cat/folder.gif (a folder) and 4 more" in fact
    assert ",on_error=skip" in remedy


def test_skipped_files_are_counted_and_named_at_each_start_and_the_rest_is_there(photos: Path):
    clean = load(photos)
    spoil(photos)
    for _ in range(2):
        splits = load(photos, on_error="skip")
        assert torch.equal(images(splits.train), images(clean.train))
        assert torch.equal(images(splits.test), images(clean.test))
        assert torch.equal(splits.test.labels, clean.test.labels)
        (warning,) = splits.warnings
        assert warning.startswith(f"7 of 23 images in '{photos}' skipped: train/cat/bomb.bmp (")
        assert "and 4 more" in warning
    (skipping,) = (s for s in cache.stores(photos.parent / "cache") if s.manifest.skipped)
    reasons = {Path(name).name: reason for name, reason in skipping.manifest.skipped}
    assert reasons["link.png"] == "broken link"
    assert reasons["pipe.webp"] == "not a regular file"
    assert reasons["text.tif"] == "not an image"
    assert reasons["half.png"] == "truncated"


def test_a_class_that_loses_all_its_images_is_refused(photos: Path):
    for file in (photos / "test/dog").iterdir():
        file.write_bytes(b"gone")
    assert "no image of class 'dog' in test can be read" in refusal(photos, on_error="skip")


def test_a_folder_without_one_image_that_can_be_read_is_refused(photos: Path):
    for file in photos.rglob("*.png"):
        file.write_bytes(b"gone")
    assert "16 of 16 images" in refusal(photos)
    assert "16 of 16 images" in refusal(photos, on_error="skip")


def test_files_left_out_are_counted_at_each_start(photos: Path):
    (photos / "train/cat/notes.txt").touch()
    (photos / "train/.hidden.png").touch()
    for _ in range(2):
        (warning,) = load(photos).warnings
        assert warning.startswith("2 files in")
        assert "train/cat/notes.txt" in warning


def test_an_odd_name_is_written_on_one_line(photos: Path):
    (photos / "train/cat/two\nlines.png").touch()
    assert "two\\nlines.png (empty)" in refusal(photos)


# The next start


def test_the_next_start_decodes_nothing_and_looks_at_no_file(photos: Path, monkeypatch):
    first = load(photos)
    seen: list[str] = []

    def look_at(path: str) -> os.stat_result:
        seen.append(path)
        return Path(path).stat()

    monkeypatch.setattr(decode, "look_at", look_at)
    events: list[Preparing] = []
    second = load(photos, events)
    assert events == []
    assert len(seen) == 7, "the folder, two splits, four classes"
    assert torch.equal(images(first.train), images(second.train))


CHANGES: dict[str, Callable[[Path], object]] = {
    "added": lambda cats: noise(cats / "new.png"),
    "removed": lambda cats: (cats / "train-cat-1.png").unlink(),
    "renamed": lambda cats: (cats / "train-cat-1.png").rename(cats / "zzz.png"),
    "moved": lambda cats: (cats / "train-cat-1.png").rename(cats.parent / "dog/moved.png"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_comes_or_goes_is_noticed_at_the_next_start(photos: Path, change):
    load(photos)
    time.sleep(0.02)  # the clock of the file system goes on
    change(photos / "train/cat")
    splits = load(photos)
    files = sorted((photos / "train").rglob("*.png"))
    assert torch.equal(images(splits.train), torch.stack([pillow(file) for file in files]))
    assert splits.train.labels.tolist() == [file.parent.name == "dog" for file in files]
    assert len(left_in_cache(photos)) == 1


@pytest.mark.usefixtures("settled")
def test_what_is_no_image_may_come_without_another_decoding(photos: Path):
    load(photos)
    time.sleep(0.02)
    (photos / "train/cat/notes.txt").touch()
    assert not decoded(photos)
    assert load(photos).warnings
    events: list[Preparing] = []
    load(photos, events)
    assert events == []


def overwrite(path: Path, content: bytes) -> None:
    """Write the same number of bytes and bring back the time of the last change."""
    times = path.stat()
    path.write_bytes(content)
    assert path.stat().st_size == times.st_size
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def plain(photos: Path) -> Path:
    """Photos without compression, so that all files have one size."""
    for file in photos.rglob("*.png"):
        with Image.open(file) as image:
            image.save(file.with_suffix(".bmp"))
        file.unlink()
    return photos


@pytest.mark.parametrize("age", ["settled", "young"])
def test_an_image_that_changed_in_its_place_stops_the_run_and_is_right_in_the_next(
    plain: Path, age: str, request: pytest.FixtureRequest
):
    if age == "settled":
        request.getfixturevalue("settled")
    load(plain)
    some, other = (plain / f"train/{kind}/train-{kind}-0.bmp" for kind in ("cat", "dog"))
    content = some.read_bytes(), other.read_bytes()
    time.sleep(0.02)
    overwrite(some, content[1])
    overwrite(other, content[0])
    splits = load(plain)
    with pytest.raises(RdfiaError, match="changed since they were prepared") as caught:
        verify(splits)
    assert "the same command again" in caught.value.remedy
    again = load(plain)
    assert torch.equal(again.train.take(torch.tensor([0]))[0], pillow(some))
    verify(again)


def test_an_image_added_behind_the_clocks_back_stops_the_run(photos: Path):
    load(photos)
    cats = photos / "train/cat"
    before = cats.stat()
    noise(cats / "new.png")
    os.utime(cats, ns=(before.st_atime_ns, before.st_mtime_ns))
    splits = load(photos)
    assert len(splits.train) == 10
    with pytest.raises(RdfiaError, match="changed"):
        verify(splits)
    assert len(load(photos).train) == 11


def test_untouched_images_are_found_so(photos: Path):
    verify(load(photos))
    verify(load(photos))


def evidence(photos: Path) -> str:
    (store,) = cache.stores(photos.parent / "cache")
    return store.manifest.evidence["files"]


@pytest.mark.parametrize(
    "change", [lambda path: path.chmod(0o600), lambda path: path.touch()], ids=["rights", "time"]
)
def test_files_that_only_look_otherwise_are_read_once_and_stop_nobody(photos, monkeypatch, change):
    monkeypatch.setattr(layout, "COARSEST_CLOCK", 0)
    load(photos)
    before = evidence(photos)
    time.sleep(0.02)
    change(photos / "test/cat/test-cat-0.png")
    verify(load(photos))
    assert evidence(photos) not in (before, "")
    monkeypatch.setattr(decode, "read", None)  # nothing is read any more
    verify(load(photos))


def test_a_cache_that_can_only_be_read_serves_as_well(photos: Path, monkeypatch):
    load(photos)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(decode, "digest", plain_digest)
    verify(load(photos))


def plain_digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_store_that_another_process_made_anew_is_not_removed(photos: Path):
    old = load(photos)
    time.sleep(0.02)
    noise(photos / "train/cat/new.png")
    load(photos)
    with pytest.raises(RdfiaError, match="changed"):
        verify(old)
    assert not decoded(photos)


def test_a_damaged_store_is_made_anew(photos: Path):
    load(photos)
    (store,) = cache.stores(photos.parent / "cache")
    (store.folder / cache.IMAGES).write_bytes(b"short")
    assert torch.equal(images(load(photos).test)[0], pillow(photos / "test/cat/test-cat-0.png"))


# Killed, stopped, and at once


def test_an_interrupt_leaves_no_store_and_no_process(photos: Path):
    before = children()
    work = folder.folder(photos.parent / "cache", path=str(photos))
    while not next(work).what.startswith("decoding"):
        pass
    assert children() != before or sys.platform != "linux"
    with pytest.raises(KeyboardInterrupt):
        work.throw(KeyboardInterrupt)
    assert left_in_cache(photos) == []
    assert children() == before


def children() -> list[str]:
    """The processes that this one started, where the system tells."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    return listed.read_text().split() if listed.exists() else []


FORKED = """
import os, signal, sys, time
from pathlib import Path
from rdfia_cli import cache
from rdfia_cli.commands.progress import watch
from rdfia_cli.datasets import layout
from rdfia_cli.datasets.folder import folder

layout.COARSEST_CLOCK = 0
root, photos = Path(sys.argv[1]), sys.argv[2]

def begin(at):
    \"\"\"A process that prepares the photos; its exit code says whether it decoded.\"\"\"
    child = os.fork()
    if child == 0:
        events = []
        watch(folder(at, path=photos), events.append)
        os._exit(any(event.what.startswith("decoding") for event in events))
    return child

def content(at):
    return {p.name: p.read_bytes() for s in cache.stores(at) for p in s.folder.iterdir()}
"""
KILLED = """
began = time.monotonic()
os.waitpid(begin(root / "undisturbed"), 0)
span, killed = time.monotonic() - began, 0
for instant in range(INSTANTS):
    child = begin(root / "killed")
    time.sleep(span * (instant + 0.5) / INSTANTS)
    os.kill(child, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    for store in cache.stores(root / "killed"):
        assert content(root / "killed") == content(root / "undisturbed")
        cache.remove_store(store.folder)
os.waitpid(begin(root / "killed"), 0)
assert content(root / "killed") == content(root / "undisturbed") != {}
print(killed, *os.listdir(root / "killed/stores"))
"""
TWICE = """
children = [begin(root) for _ in range(2)]
print(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
print(*os.listdir(root / "stores"))
"""


def forked(program: str, root: Path, photos: Path) -> Sequence[str]:
    """The words that a process prints, which imports torch once for all that it forks."""
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED + program, str(root), str(photos)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.split()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough photos for several requests to each worker, unchanged for long enough."""
    root = tmp_path_factory.mktemp("many")
    for part in ("train", "test"):
        for number in range(300):
            noise(root / part / "ab"[number % 2] / f"{part}-{number}.png", (24, 24))
    return root


@pytest.mark.timeout(120)
def test_a_preparation_killed_at_any_instant_ends_with_the_same_bytes(tmp_path: Path, many: Path):
    killed, *left = forked(KILLED.replace("INSTANTS", "12"), tmp_path, many)
    assert int(killed) >= 6
    assert len(left) == 1, "no partial store and no lock is left"
    assert not left[0].startswith(".")


def test_two_processes_that_prepare_at_once_end_with_one_store(tmp_path: Path, many: Path):
    decodings, *left = forked(TWICE, tmp_path, many)
    assert decodings == "1"
    assert len(left) == 1
    assert not left[0].startswith(".")


# From the command line

TRAIN = ("train", "mlp", "--epochs", "1", "--validation", "0.2", "-q", "--json")


@pytest.fixture
def own_cache(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDFIA_CACHE", str(photos.parent / "cache"))


@pytest.mark.usefixtures("own_cache", "one_thread")
def test_a_model_is_trained_on_a_folder(photos: Path, rdfia):
    outcome = rdfia(*TRAIN, "--data", "folder:path=photos,size=none", "--lr", "0.01")
    assert outcome.code == 0, outcome.err
    assert outcome.json["test"]["loss"] > 0
    assert outcome.json["data"].startswith("folder:")


@pytest.mark.usefixtures("own_cache", "one_thread")
def test_the_command_line_names_what_it_cannot_read_and_goes_on_without(photos: Path, rdfia):
    (photos / "train/cat/bad.jpg").write_text("no image")
    outcome = rdfia(*TRAIN, "--data", "folder:path=photos", "--lr", "0.01")
    assert outcome.code == 2
    assert "train/cat/bad.jpg (not an image)" in json.dumps(outcome.json)
    skipping = rdfia(
        *TRAIN, "--data", "folder:path=photos", "--set", "data.on_error=skip", "--lr", "0.01"
    )
    assert skipping.code == 0, skipping.err
    assert "warning: 1 of 17 images in 'photos' skipped: train/cat/bad.jpg" in skipping.err


@pytest.mark.usefixtures("own_cache")
def test_a_folder_without_a_path_is_refused_with_the_key(rdfia):
    outcome = rdfia(*TRAIN, "--data", "folder")
    assert outcome.code == 2
    assert "folder:path=" in outcome.err


@pytest.mark.usefixtures("own_cache")
def test_all_files_that_cannot_be_read_are_named_where_json_is_asked(rdfia, photos: Path):
    bad = [f"photos/train/cat/bad-{number}.jpg" for number in range(9)]
    for name in bad:
        (photos.parent / name).write_bytes(b"no image")
    outcome = rdfia("data", "prepare", "folder:path=photos", "--json")
    assert outcome.code == 2
    assert [entry["file"] for entry in outcome.json["files"]] == bad
    assert {entry["reason"] for entry in outcome.json["files"]} == {"not an image"}
    assert "and 6 more" in outcome.json["message"]
    assert "folder:path=photos,on_error=skip" in outcome.json["remedy"]
    assert "--json names them all" in outcome.json["remedy"]
