"""The store: a dataset decoded once into a file of pixels that later runs map into memory.

Images lie one after the other, channels last: (N, H, W, C) uint8, the splits in the manifest's
order. Mapping the file takes no time and no memory, whatever its size; the pages that a batch needs
are read when it needs them or, in a large file, just before.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Generator
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


class Draft:
    """A store that is being written.

    Attributes:
        images: (N, H, W, C) uint8, the file mapped into memory: write each image into its place.
        labels: (N,) int64.
        manifest: what it will hold, replaced by `keep`.
    """

    def __init__(self, folder: Path, manifest: cache.Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.images: NDArray[np.uint8] = _allocate(folder / cache.IMAGES, manifest)
        self.labels: NDArray[np.int64] = np.zeros(manifest.examples, np.int64)

    def keep(self, kept: NDArray[np.bool_], skipped: tuple[tuple[str, str], ...]) -> None:
        """Close up the gaps that images without content leave.

        Args:
            kept: (N,), which images have content.
            skipped: the files that had none, each with the reason.
        """
        counts: dict[str, int] = {}
        start = 0
        for name, count in self.manifest.splits.items():
            counts[name] = int(kept[start : start + count].sum())
            start += count
        for target, source in enumerate(np.flatnonzero(kept)):
            if target != source:
                self.images[target] = self.images[source]
        self.labels = self.labels[kept]
        self.manifest = replace(self.manifest, splits=counts, skipped=skipped)


def _allocate(path: Path, manifest: cache.Manifest) -> NDArray[np.uint8]:
    """A file of zeros, mapped; its space is taken now, since a full disk would kill us later."""
    with path.open("wb+") as file:
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, manifest.image_bytes)
        else:
            file.truncate(manifest.image_bytes)
        mapped = mmap.mmap(file.fileno(), manifest.image_bytes)
    return np.frombuffer(mapped, np.uint8).reshape(manifest.examples, *manifest.shape)


@contextlib.contextmanager
def drafting(root: Path, manifest: cache.Manifest) -> Generator[Draft]:
    """Space for a store, which is whole and in its place once the block ends, or gone if it fails.

    The caller holds the lock of `preparing`.

    Raises:
        RdfiaError: the disk refuses.
    """
    final = cache.store_folder(root, manifest.name, manifest.key)
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        draft = Draft(partial, manifest)
        yield draft
        _finish(draft, final)
    except OSError as error:
        raise RdfiaError(
            f"cannot write '{final}': {error.strerror}",
            f"{manifest.image_bytes / 1e6:,.0f} MB are needed; "
            f"set {cache.VARIABLE} to a folder with space",
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _finish(draft: Draft, final: Path) -> None:
    partial = draft.folder
    with (partial / cache.IMAGES).open("rb+") as file:
        # The mapping is written back with the file; what was closed up is cut off.
        file.truncate(draft.manifest.image_bytes)
        os.fsync(file.fileno())
    durable.write_file(partial / cache.LABELS, draft.labels.astype("<i8").tobytes())
    durable.write_file(partial / cache.MANIFEST, draft.manifest.encode())
    if final.exists():
        cache.remove_store(final)
    partial.replace(final)
    durable.flush_folder(final.parent)


@contextlib.contextmanager
def preparing(root: Path, store: Path) -> Generator[None]:
    """Hold the only right to prepare a store, waiting for another process that does."""
    folder = root / cache.STORES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = durable.lock_file(folder / f".{store.name}.lock", wait=True)
    except OSError as error:
        raise RdfiaError(
            f"cannot write to the cache '{folder}': {error.strerror}",
            f"set {cache.VARIABLE} to a folder that you may write to",
        ) from None
    assert descriptor is not None
    try:
        yield
    finally:
        (folder / f".{store.name}.lock").unlink(missing_ok=True)
        os.close(descriptor)


def open_store(
    store: cache.Store, *, warnings: tuple[str, ...] = (), verify: Callable[[], None] | None = None
) -> Splits:
    """A store's splits, its images mapped into memory as (N, C, H, W) with the channels last.

    Args:
        store: from `cache.read_store`.
        warnings: what the user should know.
        verify: looks whether the source changed.
    """
    manifest = store.manifest
    with (store.folder / cache.IMAGES).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), manifest.image_bytes, prot=mmap.PROT_READ)
    labels = torch.from_numpy(np.fromfile(store.folder / cache.LABELS, "<i8").astype(np.int64))
    found: dict[str, Split] = {}
    first = 0
    for name, count in manifest.splits.items():
        images = _images(mapped, manifest.shape, first, count)
        found[name] = Split(
            images, labels[first : first + count], prefetch=_prefetch(mapped, images, first)
        )
        first += count
    return Splits(
        train=found["train"],
        test=found["test"],
        validation=found.get("validation"),
        classes=manifest.classes,
        warnings=warnings,
        verify=verify,
    )


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
            begin = (first + row) * size
            page = begin - begin % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, page, begin + size - page)

    return prefetch
