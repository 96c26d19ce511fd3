"""Files of a published dataset: found where they are, or downloaded whole and checked.

What was received before a kill or a cut connection stays beside its place, and the next attempt
goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from rdfia_cli import cache, durable
from rdfia_cli.errors import RdfiaError, UsageError
from rdfia_cli.spec import Preparing

if TYPE_CHECKING:
    from _hashlib import HASH
    from collections.abc import Generator, Sequence
    from http.client import HTTPResponse

TIMEOUT = 30
"""Seconds without a byte after which a server is given up."""
CHUNK = 2**18
SECONDS_BETWEEN_EVENTS = 0.1
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416


class _UnavailableError(Exception):
    """A server does not give the file; the message is the reason."""


@dataclass(frozen=True)
class Published:
    """A file as its publisher offers it.

    Attributes:
        path: where it belongs.
        urls: where it can be had, the best first.
        md5: of its content, in hex.
        unpacked: what serves in its place in the same folder; empty where nothing does.
    """

    path: Path
    urls: tuple[str, ...]
    md5: str
    unpacked: str = ""


def find_root(path: str, inside: str) -> Path:
    """The root of a download, by which a user may mean a folder on the way to its files.

    Args:
        path: what was given.
        inside: where the files are from the root, such as `MNIST/raw`.

    Raises:
        UsageError: there is no such folder.
    """
    given, parts = Path(path).expanduser().resolve(), Path(inside).parts
    if not given.is_dir():
        raise UsageError(
            f"'{given}' is a file, not a folder"
            if given.exists()
            else f"there is no folder '{path}'",
            f"path= is the folder that has {inside or 'the files'}, looked for from '{Path.cwd()}'",
        )
    for depth, root in enumerate((given, *given.parents)[: len(parts) + 1]):
        if given == root.joinpath(*parts[:depth]) and (root / inside).is_dir():
            return root
    return given


def obtain(
    files: Sequence[Published], *, download: bool, option: str
) -> Generator[Preparing, None, list[Path]]:
    """The files' paths, once all are there and right.

    Args:
        files: what is wanted, all of one folder.
        download: fetch what is missing; otherwise the folder is the user's own.
        option: how a user names a folder that holds them, such as `path`.

    Raises:
        UsageError: the user's own folder lacks one.
        RdfiaError: one cannot be downloaded, or is not what was published.
    """
    missing = [file for file in files if not file.path.exists()]
    for file in files:
        if file not in missing:
            refuse_changed(file.path, file.md5)
    if missing and not download:
        raise UsageError(
            f"'{missing[0].path}' is missing",
            f"put the file of {missing[0].urls[0]} there{_or_unpacked(missing[0])}, "
            f"or leave out {option}= to download it",
        )
    for index, file in enumerate(missing):
        try:
            yield from _fetch(file)
        except _UnavailableError as error:
            raise RdfiaError(
                f"cannot download {file.path.name}: {error}", _by_hand(missing[index:], option)
            ) from None
        except OSError as error:
            raise RdfiaError(
                f"cannot write '{file.path}': {error.strerror}",
                f"free some space, or set {cache.VARIABLE} to a folder that has it",
            ) from None
    return [file.path for file in files]


def _or_unpacked(file: Published) -> str:
    return f", or unpacked as '{file.unpacked}'" if file.unpacked else ""


def _by_hand(files: Sequence[Published], option: str) -> str:
    """How to do without a network, all files at once."""
    listed = " and ".join(f"{file.urls[0]} (md5 {file.md5})" for file in files)
    return f"put {listed} in '{files[0].path.parent}', or give {option}=FOLDER that holds them"


def refuse_changed(path: Path, md5: str) -> None:
    """Refuse a file whose content is not the published one.

    Raises:
        RdfiaError: it differs, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = _digest(file).hexdigest()
    except OSError as error:
        raise RdfiaError(f"cannot read '{path}': {error.strerror}") from None
    if found != md5:
        raise RdfiaError(
            f"'{path}' is not the published file: its md5 is {found}, not {md5}",
            "delete it, and get it again",
        )


def _fetch(file: Published) -> Generator[Preparing]:
    """Download a file beside its place and rename it there, unless another process was first."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    partial = file.path.with_name(f".{file.path.name}.partial")
    # The partial file is its own lock: whoever waited for it finds it renamed.
    descriptor = durable.lock_file(partial, wait=True)
    assert descriptor is not None
    with os.fdopen(descriptor, "rb+") as target:
        try:
            if not file.path.exists():
                yield from _receive_from_any(file, target)
                os.fsync(descriptor)
                partial.replace(file.path)
        finally:
            if file.path.exists() or not os.fstat(descriptor).st_size:
                partial.unlink(missing_ok=True)
    durable.flush_folder(file.path.parent)


def _receive_from_any(file: Published, target: BinaryIO) -> Generator[Preparing]:
    reasons: list[str] = []
    for url in file.urls:
        yield Preparing(f"downloading {file.path.name}", 0, None, "bytes")
        try:
            yield from _receive(url, file, target)
            return
        except _UnavailableError as error:
            reasons.append(f"{urlsplit(url).hostname}: {error}")
        finally:
            target.flush()
    raise _UnavailableError("; ".join(reasons))


def _receive(url: str, file: Published, target: BinaryIO) -> Generator[Preparing]:
    """Append what the file lacks, and see that the whole is right."""
    digest, start = _digest(target), target.tell()
    if digest.hexdigest() == file.md5:
        return
    with contextlib.closing(_open(url, start)) as answer:
        if start and answer.status != PARTIAL_CONTENT:
            digest, start = _empty(target), 0
        total = None if answer.length is None else start + answer.length
        told = 0.0
        while chunk := _read(answer):
            target.write(chunk)
            digest.update(chunk)
            if time.monotonic() - told >= SECONDS_BETWEEN_EVENTS:
                told = time.monotonic()
                yield Preparing(f"downloading {file.path.name}", target.tell(), total, "bytes")
    if total is not None and target.tell() < total:
        raise _UnavailableError(f"it ended after {target.tell():,} of {total:,} bytes")
    if digest.hexdigest() == file.md5:
        return
    _empty(target)
    if not start:
        raise _UnavailableError(f"it has the md5 {digest.hexdigest()}, not {file.md5}")
    # What was there before may have been wrong, not what came now.
    yield from _receive(url, file, target)


def _digest(file: BinaryIO) -> HASH:
    """The checksum of a whole file, which stands at its end afterwards."""
    digest = hashlib.md5(usedforsecurity=False)
    file.seek(0)
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest


def _empty(file: BinaryIO) -> HASH:
    file.seek(0)
    file.truncate()
    return _digest(file)


def _open(url: str, start: int) -> HTTPResponse:
    """Ask for a file from a byte on; a server that has no more is asked for the whole."""
    headers = {"User-Agent": "rdfia", **({"Range": f"bytes={start}-"} if start else {})}
    with _network():
        try:
            return urlopen(Request(url, headers=headers), timeout=TIMEOUT)
        except HTTPError as error:
            if not start or error.code != RANGE_NOT_SATISFIABLE:
                raise
            error.close()
    return _open(url, 0)


def _read(answer: HTTPResponse) -> bytes:
    with _network():
        return answer.read(CHUNK)


@contextlib.contextmanager
def _network() -> Generator[None]:
    """Tell what goes wrong on the network from what goes wrong on the disk."""
    try:
        yield
    except (OSError, HTTPException) as error:
        reason = _reason(error)
        if isinstance(error, HTTPError):
            error.close()
        raise _UnavailableError(reason) from None


def _reason(error: BaseException | str) -> str:
    if isinstance(error, HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, URLError):
        return _reason(error.reason)
    if isinstance(error, TimeoutError):
        return f"no answer in {TIMEOUT} seconds"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
