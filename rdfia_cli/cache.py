"""Datasets made ready once: where they are kept and what is written beside them.

The cache holds downloads and stores. A store is a folder with the decoded images, their labels and
a manifest. The manifest is written last, and the folder renamed to its name after that: a store is
whole or absent.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import durable
from rdfia_cli.errors import RdfiaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VARIABLE = "RDFIA_CACHE"
STORES = "stores"
DOWNLOADS = "downloads"

IMAGES = "images.uint8"
LABELS = "labels.int64"
MANIFEST = "manifest.json"
SCHEMA = "rdfia.store/1"
PARTIAL, REMOVED, LOCK = ".partial", ".removed", ".lock"
"""The endings of what is hidden: a store being written, one on its way out, a right to prepare."""


@dataclass(frozen=True)
class Manifest:
    """What a store holds.

    Attributes:
        name: the dataset's name.
        key: what decides the content: the source, and the rule that brings it to one shape.
        shape: (H, W, C) of one image.
        splits: the number of images of each split, in the order in which they lie in the file.
        classes: the name of each class, in the order of the labels.
        skipped: the files that were left out, each with the reason.
        source: where the images came from, in words: a folder, or a file of the cache.
        evidence: what tells later whether the source is still what it was; its `content` is a
            digest of all that was read.
        notes: what the user should know about the source, a line each.
    """

    name: str
    key: Mapping[str, Any]
    shape: tuple[int, int, int]
    splits: Mapping[str, int]
    classes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    source: str
    evidence: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def examples(self) -> int:
        """The images of all splits."""
        return sum(self.splits.values())

    @property
    def image_bytes(self) -> int:
        """The length of the file of images."""
        height, width, channels = self.shape
        return self.examples * height * width * channels

    @property
    def fingerprint(self) -> str:
        """What tells this content from any other, wherever its source lies."""
        key = {name: value for name, value in self.key.items() if name != "path"}
        content = self.evidence.get("content")
        parts = (self.name, key, self.shape, self.splits, self.classes, content)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def encode(self) -> bytes:
        """The bytes of `manifest.json`."""
        return (json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n").encode()


@dataclass(frozen=True)
class Store:
    """A whole store on disk."""

    folder: Path
    manifest: Manifest

    @property
    def bytes(self) -> int:
        """What it takes on the disk."""
        return sum(file.stat().st_size for file in self.folder.iterdir())


@dataclass(frozen=True)
class StoreMemory:
    """Keeps what was computed from a store in the store's folder, and goes with it.

    Attributes:
        folder: the store's.
        fingerprint: its content's; another store may come into the same folder.
    """

    folder: Path
    fingerprint: str

    def recall(self, name: str) -> bytes | None:
        """What was kept under a name, whole, or None."""
        try:
            digest, content = self._place(name).read_bytes().split(b"\n", 1)
        except (OSError, ValueError):
            return None
        return content if digest == _digest(content) else None

    def keep(self, name: str, content: bytes) -> None:
        """Keep something where the cache can be written."""
        with contextlib.suppress(OSError):
            durable.write_file(self._place(name), _digest(content) + b"\n" + content)

    def _place(self, name: str) -> Path:
        digest = hashlib.sha256(f"{self.fingerprint}\0{name}".encode()).hexdigest()
        return self.folder / f"memory-{digest[:16]}"


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def folder() -> Path:
    """Where datasets are kept: `RDFIA_CACHE`, else a folder in the user's cache."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rdfia"


def store_folder(root: Path, name: str, key: Mapping[str, Any]) -> Path:
    """The folder of the store of that name and key, whether it is there or not."""
    text = json.dumps({"schema": SCHEMA, "name": name, "key": key}, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return root / STORES / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{digest[:16]}"


def read_store(store: Path) -> Store | None:
    """The store in a folder, or None where there is no whole one."""
    try:
        content: dict[str, Any] = json.loads((store / MANIFEST).read_bytes())
        if content.pop("schema") != SCHEMA:
            return None
        manifest = _decode_manifest(content)
        sizes = {name: (store / name).stat().st_size for name in (IMAGES, LABELS)}
        whole = sizes == {IMAGES: manifest.image_bytes, LABELS: 8 * manifest.examples}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Store(store, manifest) if whole else None


def _decode_manifest(content: dict[str, Any]) -> Manifest:
    """The manifest in a decoded `manifest.json`: JSON has lists where it has tuples."""
    height, width, channels = content.pop("shape")
    skipped = tuple((file, reason) for file, reason in content.pop("skipped"))
    classes, notes = (tuple(content.pop(name)) for name in ("classes", "notes"))
    shape = (height, width, channels)
    return Manifest(**content, shape=shape, classes=classes, skipped=skipped, notes=notes)


def renew_manifest(store: Store, manifest: Manifest) -> Store:
    """Describe the same images and labels anew; the caller holds the right to prepare the store.

    Raises:
        RdfiaError: the disk refuses.
    """
    try:
        durable.write_file(store.folder / MANIFEST, manifest.encode())
    except OSError as error:
        raise RdfiaError(
            f"cannot write '{store.folder}': {error.strerror}",
            f"set {VARIABLE} to a folder that you may write to",
        ) from None
    return Store(store.folder, manifest)


def stores(root: Path) -> Iterator[Store]:
    """The whole stores of a cache, by name."""
    if not (root / STORES).is_dir():
        return
    for path in sorted((root / STORES).iterdir()):
        if not path.name.startswith(".") and (found := read_store(path)) is not None:
            yield found


def remove_store(store: Path) -> None:
    """Remove a store: out of sight first, so that a process killed meanwhile leaves no half of it.

    A process that trains from it keeps the files open and goes on. It may be gone already.

    Raises:
        RdfiaError: the disk refuses.
    """
    aside = hidden_beside(store, REMOVED)
    try:
        store.replace(aside)
        shutil.rmtree(aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RdfiaError(
            f"cannot remove '{store}': {error.strerror}", "remove that folder yourself"
        ) from None


def leftovers(root: Path) -> Iterator[Path]:
    """What lies among the stores of a cache and is none: damaged, of another version, or left."""
    if not (root / STORES).is_dir():
        return
    for path in sorted((root / STORES).iterdir()):
        if path.name.startswith(".") or read_store(path) is None:
            yield path


def remove_leftover(path: Path) -> int:
    """Remove what is no store, unless a process uses it, and return the bytes that this frees."""
    if not path.is_dir():
        return _remove_lock(path)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if path.name.startswith("."):
        return size if remove_unused(path) else 0
    remove_store(path)
    return size


def _remove_lock(path: Path) -> int:
    with contextlib.suppress(OSError):
        descriptor = durable.lock_file(path)
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)
    return 0


def remove_unused(folder: Path) -> bool:
    """Remove a hidden folder that no process holds locked, and say whether it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return not folder.exists()


def hidden_beside(store: Path, ending: str) -> Path:
    """A name beside a store that is no store's and nobody's yet."""
    return store.with_name(f".{store.name}.{secrets.token_hex(4)}{ending}")
