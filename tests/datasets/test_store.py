"""A store is whole or absent, opens at once whatever its size, and is read where it is wanted."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdfia_cli import cache
from rdfia_cli.cache import Manifest
from rdfia_cli.datasets import store
from rdfia_cli.errors import RdfiaError
from rdfia_cli.spec import Splits

SHAPE = (4, 5, 3)


def manifest(train: int = 6, test: int = 4, shape: tuple[int, int, int] = SHAPE, **key) -> Manifest:
    return Manifest(
        name="made",
        key=key,
        shape=shape,
        splits={"train": train, "test": test},
        classes=("a", "b"),
        skipped=(),
        source="a test",
        evidence={},
    )


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(count, *SHAPE), dtype=np.uint8)


def write(root: Path, described: Manifest, seed: int = 0) -> cache.Store:
    with store.drafting(root, described) as draft:
        draft.images[:] = noise(described.examples, seed)
        draft.labels[:] = np.arange(described.examples) % 2
    found = cache.read_store(cache.store_folder(root, described.name, described.key))
    assert found is not None
    return found


def left_in(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "stores").iterdir())


# Written and read


def test_a_store_gives_back_what_was_put_in(tmp_path: Path):
    splits = store.open_store(write(tmp_path, manifest()), warnings=("look",))
    images = torch.from_numpy(noise(10)).movedim(-1, 1)
    assert torch.equal(splits.train.inputs, images[:6])
    assert torch.equal(splits.test.inputs, images[6:])
    assert splits.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert splits.test.labels.tolist() == [0, 1, 0, 1]
    assert (splits.classes, splits.warnings, splits.validation) == (("a", "b"), ("look",), None)
    rows = torch.tensor([5, 0, 5])
    assert torch.equal(splits.train.take(rows), images[rows])


def test_a_validation_split_is_found_by_its_name(tmp_path: Path):
    described = replace(manifest(), splits={"train": 5, "validation": 2, "test": 3})
    splits = store.open_store(write(tmp_path, described))
    assert splits.validation is not None
    assert torch.equal(splits.validation.inputs, torch.from_numpy(noise(10)[5:7]).movedim(-1, 1))


def test_the_images_lie_one_after_the_other_with_the_channels_last(tmp_path: Path):
    made = write(tmp_path, manifest())
    assert (made.folder / "images.uint8").read_bytes() == noise(10).tobytes()
    assert sorted(path.name for path in made.folder.iterdir()) == [
        *("images.uint8", "labels.int64", "manifest.json")
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=40).filter(any), st.data())
def test_gaps_are_closed_and_the_rest_keeps_its_order(tmp_path_factory, kept: list[bool], data):
    train = data.draw(st.integers(1, len(kept) - 1))
    root = tmp_path_factory.mktemp("gaps")
    mask, images = np.array(kept), noise(len(kept))
    with store.drafting(root, manifest(train, len(kept) - train)) as draft:
        draft.images[:] = images
        draft.labels[:] = np.arange(len(kept))
        draft.keep(mask, (("x", "y"),))
    (made,) = cache.stores(root)
    assert made.manifest.splits == {"train": mask[:train].sum(), "test": mask[train:].sum()}
    assert made.manifest.skipped == (("x", "y"),)
    assert (made.folder / "images.uint8").read_bytes() == images[mask].tobytes()
    assert (
        np.fromfile(made.folder / "labels.int64").view("<i8").tolist()
        == np.flatnonzero(kept).tolist()
    )


def test_a_store_takes_the_place_of_the_one_before(tmp_path: Path):
    before = store.open_store(write(tmp_path, manifest(), seed=0))
    after = store.open_store(write(tmp_path, manifest(), seed=1))
    assert torch.equal(after.train.inputs, torch.from_numpy(noise(10, 1)[:6]).movedim(-1, 1))
    # Whoever trains from the old one goes on.
    assert torch.equal(before.train.inputs, torch.from_numpy(noise(10, 0)[:6]).movedim(-1, 1))
    assert len(left_in(tmp_path)) == 1


def test_a_store_replaced_while_it_is_opened_is_not_mixed_with_the_new_one(tmp_path: Path):
    old = write(tmp_path, manifest())
    write(tmp_path, replace(manifest(), notes=("new",)))
    with pytest.raises(RdfiaError, match="replaced while it was opened"):
        store.open_store(old)
    cache.remove_store(old.folder)
    with pytest.raises(RdfiaError, match="replaced while it was opened"):
        store.open_store(old)


# When it goes wrong


class OddError(Exception):
    """Something that nobody expects."""


def test_a_block_that_fails_leaves_nothing(tmp_path: Path):
    with pytest.raises(OddError), store.drafting(tmp_path, manifest()) as draft:
        draft.images[:] = 1
        raise OddError
    assert left_in(tmp_path) == []


def test_a_failed_replacement_leaves_the_old_store(tmp_path: Path):
    made = write(tmp_path, manifest())
    with pytest.raises(OddError), store.drafting(tmp_path, manifest()):
        raise OddError
    assert list(cache.stores(tmp_path)) == [made]
    assert left_in(tmp_path) == [made.folder.name]


@pytest.mark.parametrize("rows", [10**6, 10**10, 10**18, 10**30])
def test_a_store_too_large_for_the_disk_is_refused_before_it_is_written(tmp_path, rows: int):
    described = manifest(rows, 1, (10**4, 10**4, 3))
    draft = store.drafting(tmp_path, described)
    with pytest.raises(RdfiaError, match="cannot write") as caught, draft:
        raise AssertionError("there is no such space")
    assert "MB are needed" in caught.value.remedy
    assert "RDFIA_CACHE" in caught.value.remedy
    assert left_in(tmp_path) == []


def test_a_quota_is_an_error_in_words(tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(RdfiaError, match=r"cannot write .*File too large"):
            write(tmp_path, manifest())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_cannot_reserve_space_gets_a_file_all_the_same(
    tmp_path, monkeypatch, code
):
    def refuse(*_: object) -> None:
        raise OSError(code, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    assert write(tmp_path, manifest()).manifest.examples == 10


def test_a_cache_that_cannot_be_written_to_is_an_error_in_words(tmp_path: Path):
    (tmp_path / "stores").touch()
    preparing = store.preparing(tmp_path, tmp_path / "stores/made")
    with pytest.raises(RdfiaError, match="cannot write to the cache") as caught, preparing:
        pass
    assert "RDFIA_CACHE" in caught.value.remedy


# Several processes

HOLD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_store
from rdfia_cli.datasets import store
with {block}:
    print("inside", flush=True)
    sys.stdin.read()
"""


def hold(block: str) -> subprocess.Popen[str]:
    """Another process inside a block of this module, until its input ends."""
    program = HOLD.format(tests=str(Path(__file__).parent), block=block)
    other = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "inside\n"
    return other


def end(other: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    other.send_signal(number)
    other.communicate(timeout=30)


def test_what_a_killed_process_left_goes_with_the_next_preparation(tmp_path: Path):
    end(hold("store.drafting(Path(), test_store.manifest(size=1))"))
    (partial,) = left_in(tmp_path)
    assert partial.endswith(".partial")
    (tmp_path / "stores/.made.0.removed").mkdir()
    made = write(tmp_path, manifest(size=2))
    assert left_in(tmp_path) == [made.folder.name]


def test_what_another_process_is_writing_stays(tmp_path: Path):
    other = hold("store.drafting(Path(), test_store.manifest(size=1))")
    (partial,) = left_in(tmp_path)
    made = write(tmp_path, manifest(size=2))
    assert left_in(tmp_path) == sorted([partial, made.folder.name])
    other.communicate(timeout=30)
    assert other.returncode == 0
    assert len(list(cache.stores(tmp_path))) == 2
    assert not any(name.startswith(".") for name in left_in(tmp_path))


def test_two_drafts_in_one_process_do_not_disturb_one_another(tmp_path: Path):
    with store.drafting(tmp_path, manifest(size=1)) as one:
        with store.drafting(tmp_path, manifest(size=2)) as other:
            other.images[:] = 2
        one.images[:] = 1
    assert {image[0, 0, 0] for image in (one.images[0], other.images[0])} == {1, 2}
    assert len(list(cache.stores(tmp_path))) == 2


def test_one_process_waits_for_the_other_to_prepare(tmp_path: Path):
    other = hold("store.preparing(Path(), Path('stores/made'))")
    inside = threading.Event()

    def prepare() -> None:
        with store.preparing(tmp_path, tmp_path / "stores/made"):
            inside.set()

    waiting = threading.Thread(target=prepare)
    waiting.start()
    assert not inside.wait(0.3)
    end(other)
    assert inside.wait(10)
    waiting.join()
    assert left_in(tmp_path) == []


# Large files


def sparse(root: Path, rows: int, shape: tuple[int, int, int]) -> cache.Store:
    """A store of black images that takes no space on the disk."""
    described = manifest(rows - 1, 1, shape, rows=rows)
    folder = cache.store_folder(root, described.name, described.key)
    folder.mkdir(parents=True)
    (folder / cache.IMAGES).touch()
    os.truncate(folder / cache.IMAGES, described.image_bytes)
    (folder / cache.LABELS).write_bytes(bytes(8 * rows))
    (folder / cache.MANIFEST).write_bytes(described.encode())
    return cache.Store(folder, described)


def quickest(action: Callable[[], object], tries: int = 5) -> float:
    """Seconds of the quickest of some tries: others use the machine, too."""
    seconds: list[float] = []
    for _ in range(tries):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@pytest.mark.parametrize(("rows", "side"), [(60_000, 32), (20_000, 1_000), (1_300_000, 224)])
def test_a_store_opens_in_a_tenth_of_a_second_whatever_its_size(tmp_path, rows: int, side: int):
    made = sparse(tmp_path, rows, (side, side, 3))

    def open_and_take() -> None:
        found = cache.read_store(made.folder)
        assert found is not None
        store.open_store(found).train.take(torch.tensor([rows - 2]))

    assert quickest(open_and_take) < 0.1


class Asked(mmap.mmap):
    """A mapping that takes note of what is asked of the kernel."""

    requests: list[tuple[int, int, int]]

    def madvise(self, option: int, start: int = 0, length: int | None = None) -> None:
        if length is not None:
            self.requests.append((option, start, length))
        super().madvise(option, start, len(self) - start if length is None else length)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """What the kernel is asked to read ahead of stores that are all taken for large."""
    monkeypatch.setattr(store, "LARGE", 1)
    monkeypatch.setattr(mmap, "mmap", Asked)
    Asked.requests = []
    return Asked.requests


def prefetched(splits: Splits, part: str, rows: list[int]) -> None:
    split = getattr(splits, part)
    assert split.prefetch is not None
    split.prefetch(torch.tensor(rows))


@pytest.mark.parametrize("side", [10, 37, 300])
@pytest.mark.parametrize("part", ["train", "test"])
def test_what_is_read_ahead_are_the_images_asked_for_and_nothing_else(tmp_path, asked, part, side):
    size = side * side * 3
    splits = store.open_store(sparse(tmp_path, 50, (side, side, 3)))
    rows = [0] if part == "test" else [0, 48, 17, 18, 17]
    prefetched(splits, part, rows)
    offset = 49 if part == "test" else 0
    wanted = {page for row in rows for page in pages((offset + row) * size, size)}
    read = {page for _, start, length in asked for page in pages(start, length)}
    assert read == wanted
    for option, start, length in asked:
        assert option == mmap.MADV_WILLNEED
        assert start % mmap.PAGESIZE == 0
        assert 0 < length <= 2**17
        assert start + length <= 50 * size


def pages(start: int, length: int) -> range:
    return range(start // mmap.PAGESIZE, (start + length - 1) // mmap.PAGESIZE + 1)


def test_a_small_store_is_left_to_the_kernel(tmp_path: Path):
    splits = store.open_store(write(tmp_path, manifest()))
    assert splits.train.prefetch is None


def test_a_part_of_a_split_reads_ahead_in_the_rows_of_the_whole(tmp_path: Path, asked):
    splits = store.open_store(sparse(tmp_path, 50, (64, 64, 1)))
    chosen = splits.train.select(torch.tensor([40, 7]))
    assert chosen.prefetch is not None
    chosen.prefetch(chosen.locate(torch.tensor([1])))
    assert [start for _, start, _ in asked] == [7 * 4096]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_nobody_can_write_into_a_store(tmp_path: Path):
    splits = store.open_store(write(tmp_path, manifest()))
    maps = Path("/proc/self/maps").read_text().splitlines()
    (mapping,) = (line for line in maps if str(tmp_path) in line)
    assert mapping.split()[1] == "r--s"
    assert len(splits.train) == 6
