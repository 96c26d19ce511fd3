"""The store: a dataset decoded once into a file of pixels that later runs map into memory.

Images lie one after the other, channels last: (N, H, W, C) uint8, the splits in the manifest's
order. Mapping the file takes no time and no memory, whatever its size; the pages that a batch needs
are read when it needs them or, in a large file, just before.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import mmap
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rdfia_cli import cache, durable
from rdfia_cli.errors import RdfiaError
from rdfia_cli.spec import Split, Splits

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

LARGE = 2**30
"""Bytes from which a file may not stay in memory, so that each batch is read ahead by itself."""
READ_AHEAD = 2**17
"""Bytes that Linux reads ahead at one request at least, by its default `read_ahead_kb`."""
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS)


class Draft:
    """A store that is being written.

    Attributes:
        folder: where its files are until it is whole.
        images: (N, H, W, C) uint8, the file mapped into memory: write each image into its place.
        labels: (N,) int64.
        manifest: what it will hold; `keep` replaces it.
    """

    def __init__(self, folder: Path, manifest: cache.Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._mapped = _allocate(folder / cache.IMAGES, manifest.image_bytes)
        shape = (manifest.examples, *manifest.shape)
        self.images: NDArray[np.uint8] = np.frombuffer(self._mapped, np.uint8).reshape(shape)
        self.labels: NDArray[np.int64] = np.zeros(manifest.examples, np.int64)

    def keep(self, kept: NDArray[np.bool_], skipped: tuple[tuple[str, str], ...]) -> None:
        """Close up the gaps that images without content leave.

        Args:
            kept: (N,), which images have content.
            skipped: the files that had none, each with the reason.
        """
        self._close_up(kept)
        counts: dict[str, int] = {}
        start = 0
        for name, count in self.manifest.splits.items():
            counts[name] = int(kept[start : start + count].sum())
            start += count
        self.labels = self.labels[kept]
        self.manifest = replace(self.manifest, splits=counts, skipped=skipped)

    def _close_up(self, kept: NDArray[np.bool_]) -> None:
        """Move each run of images with content to where the one before ends."""
        size, target = math.prod(self.manifest.shape), 0
        edges = np.flatnonzero(np.diff(kept, prepend=False, append=False))
        for begin, end in edges.reshape(-1, 2).tolist():
            if begin != target:
                self._mapped.move(target * size, begin * size, (end - begin) * size)
            target += end - begin


def _allocate(path: Path, size: int) -> mmap.mmap:
    """A file of zeros, mapped; its space is taken now, since a full disk would kill us later."""
    with path.open("wb+") as file:
        _take_space(file.fileno(), size)
        return mmap.mmap(file.fileno(), size)


def _take_space(file: int, size: int) -> None:
    if sys.platform == "linux":
        try:
            return os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
    return os.truncate(file, size)


@contextlib.contextmanager
def drafting(root: Path, manifest: cache.Manifest) -> Generator[Draft]:
    """Space for a store, which is whole and in its place once the block ends, or gone if it fails.

    The caller holds the lock of `preparing`.

    Raises:
        RdfiaError: the disk refuses.
    """
    final = cache.store_folder(root, manifest.name, manifest.key)
    try:
        with _partial_folder(final) as partial:
            draft = Draft(partial, manifest)
            yield draft
            _finish(draft, final)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "too large for any disk"
        raise RdfiaError(
            f"cannot write '{final}': {reason}",
            f"{manifest.image_bytes / 1e6:,.0f} MB are needed; "
            f"set {cache.VARIABLE} to a folder with space",
        ) from None


@contextlib.contextmanager
def _partial_folder(final: Path) -> Generator[Path]:
    """A folder beside a store's, locked so that others see that it is in use; gone in the end."""
    final.parent.mkdir(parents=True, exist_ok=True)
    _clean(final.parent)
    partial = cache.hidden_beside(final, cache.PARTIAL)
    lock = _lock_new_folder(partial)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def _lock_new_folder(folder: Path) -> int:
    """Make and lock a folder; closing the descriptor returned releases it, as the process' end.

    By flock: a process does not shut itself out of the locks of `durable.lock_file`.
    """
    while True:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a network's file system may have no such locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # One that another process cleaned up before it was locked is no folder: try again.
        if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
        os.close(descriptor)


def _clean(stores: Path) -> None:
    """Remove what killed processes left."""
    for path in stores.iterdir():
        if path.name.startswith(".") and path.name.endswith((cache.PARTIAL, cache.REMOVED)):
            cache.remove_unused(path)


def _finish(draft: Draft, final: Path) -> None:
    partial = draft.folder
    with (partial / cache.IMAGES).open("rb+") as file:
        # The mapping is written back with the file; what was closed up is cut off.
        file.truncate(draft.manifest.image_bytes)
        os.fsync(file.fileno())
    durable.write_file(partial / cache.LABELS, draft.labels.astype("<i8").tobytes())
    durable.write_file(partial / cache.MANIFEST, draft.manifest.encode())
    cache.remove_store(final)
    partial.replace(final)
    durable.flush_folder(final.parent)


@contextlib.contextmanager
def preparing(root: Path, store: Path) -> Generator[None]:
    """Hold the only right to prepare a store, waiting for another process that does."""
    folder = root / cache.STORES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = durable.lock_file(folder / f".{store.name}{cache.LOCK}", wait=True)
    except OSError as error:
        raise RdfiaError(
            f"cannot write to the cache '{folder}': {error.strerror}",
            f"set {cache.VARIABLE} to a folder that you may write to",
        ) from None
    assert descriptor is not None
    try:
        yield
    finally:
        (folder / f".{store.name}{cache.LOCK}").unlink(missing_ok=True)
        os.close(descriptor)


def open_store(
    store: cache.Store, *, warnings: tuple[str, ...] = (), verify: Callable[[], None] | None = None
) -> Splits:
    """A store's splits, its images mapped into memory as (N, C, H, W) with the channels last.

    Args:
        store: from `cache.read_store`.
        warnings: what the user should know.
        verify: looks whether the source changed.

    Raises:
        RdfiaError: it was replaced or removed meanwhile.
    """
    manifest = store.manifest
    try:
        with (store.folder / cache.IMAGES).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), manifest.image_bytes, prot=mmap.PROT_READ)
        labels = np.fromfile(store.folder / cache.LABELS, "<i8").astype(np.int64)
    except (OSError, ValueError):
        raise _vanished(store) from None
    if cache.read_store(store.folder) != store:
        raise _vanished(store)
    found = dict(_map_splits(mapped, torch.from_numpy(labels), manifest))
    return Splits(
        train=found["train"],
        test=found["test"],
        validation=found.get("validation"),
        classes=manifest.classes,
        warnings=warnings,
        verify=verify,
        fingerprint=manifest.fingerprint,
        memory=cache.StoreMemory(store.folder, manifest.fingerprint),
    )


def _vanished(store: cache.Store) -> RdfiaError:
    return RdfiaError(
        f"'{store.folder}' was replaced while it was opened", "run the same command again"
    )


def _map_splits(
    mapped: mmap.mmap, labels: Tensor, manifest: cache.Manifest
) -> Iterator[tuple[str, Split]]:
    first = 0
    for name, count in manifest.splits.items():
        images = _images(mapped, manifest.shape, first, count)
        prefetch = _prefetch(mapped, images, first)
        yield name, Split(images, labels[first : first + count], prefetch=prefetch)
        first += count


def _images(mapped: mmap.mmap, shape: tuple[int, int, int], first: int, count: int) -> Tensor:
    """Images `first` to `first + count` of the file, as (count, C, H, W) uint8."""
    size = math.prod(shape)
    pixels = np.frombuffer(mapped, np.uint8, count * size, first * size)
    with warnings.catch_warnings():
        # Nobody writes to a split's inputs, and the kernel would not let them.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(pixels).view(count, *shape).movedim(-1, 1)


def _prefetch(mapped: mmap.mmap, images: Tensor, first: int) -> Callable[[Tensor], None] | None:
    """Ask the kernel to read rows of a large file ahead, and only those; small files stay as is."""
    if len(mapped) < LARGE or not hasattr(mmap, "MADV_WILLNEED"):
        return None
    mapped.madvise(mmap.MADV_RANDOM)
    size = images[0].numel()

    def prefetch(rows: Tensor) -> None:
        for row in rows.tolist():
            begin, end = ((first + row + after) * size for after in (0, 1))
            for piece in range(begin - begin % mmap.PAGESIZE, end, READ_AHEAD):
                mapped.madvise(mmap.MADV_WILLNEED, piece, min(READ_AHEAD, end - piece))

    return prefetch
