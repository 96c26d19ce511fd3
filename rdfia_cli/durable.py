"""Files that are whole or absent, and locks that a dead process never holds."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where no more can be written."""


def write_file(path: Path, content: bytes) -> None:
    """Write a file so that it is whole or absent, whatever happens in between.

    It is written beside its place, flushed to the disk, and renamed; an error names that place.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        error.filename = str(path)  # a full disk names no file, others the partial one
        raise
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


@contextlib.contextmanager
def naming(place: Path) -> Generator[None]:
    """Have an error that says no file, such as that of a full disk, say this place."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in FULL:
            error.filename = str(place)
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as indented JSON, whole or not at all."""
    write_file(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def flush_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_file(path: Path, *, wait: bool = False) -> int | None:
    """Lock the file of that name, made if missing; closing the descriptor returned releases it.

    The kernel releases it with the process. None where another process holds it and `wait` is
    false.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            # Not flock: a forked child would hold that lock after this process is gone.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return None
        # One that was removed meanwhile is no lock: try again.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)


@contextlib.contextmanager
def alone(path: Path) -> Generator[None]:
    """Hold the lock of the file of that name, made if missing, once nobody else does."""
    descriptor = lock_file(path, wait=True)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)
