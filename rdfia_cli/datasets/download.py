"""Files of a published dataset: found where they are, or downloaded whole and checked."""

from __future__ import annotations

import hashlib
import http.client
import secrets
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdfia_cli.errors import RdfiaError
from rdfia_cli.spec import Preparing

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

TIMEOUT = 30
"""Seconds without a byte after which a server is given up."""
CHUNK = 2**18
SECONDS_BETWEEN_EVENTS = 0.1


@dataclass(frozen=True)
class Published:
    """A file as its publisher offers it.

    Attributes:
        path: where it belongs.
        urls: where it can be had, the best first.
        md5: of its content, in hex.
    """

    path: Path
    urls: tuple[str, ...]
    md5: str


def obtain(file: Published, *, download: bool, option: str) -> Generator[Preparing, None, Path]:
    """The file's path, once it is there and right.

    Args:
        file: what is wanted.
        download: fetch it if it is missing; otherwise the folder is the user's own.
        option: how a user names a folder that holds it, such as `data.path`.

    Raises:
        RdfiaError: it is missing and cannot be downloaded, or it is not what was published.
    """
    if file.path.exists():
        refuse_changed(file.path, file.md5)
        return file.path
    if not download:
        raise RdfiaError(
            f"'{file.path}' is missing",
            f"put the file of {file.urls[0]} there, or leave out {option} to download it",
        )
    reason = ""
    for url in file.urls:
        try:
            yield from _download(url, file)
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
        else:
            return file.path
    raise RdfiaError(
        f"cannot download {file.urls[0]}: {reason}",
        f"put that file at '{file.path}' (md5 {file.md5}), or give {option}=FOLDER that holds it",
    )


def refuse_changed(path: Path, md5: str) -> None:
    """Refuse a file whose content is not the published one.

    Raises:
        RdfiaError: it differs, or cannot be read.
    """
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise RdfiaError(f"cannot read '{path}': {error.strerror}") from None
    if digest.hexdigest() != md5:
        raise RdfiaError(
            f"'{path}' is not the published file: its md5 is {digest.hexdigest()}, not {md5}",
            "delete it, and get it again",
        )


def _download(url: str, file: Published) -> Generator[Preparing]:
    """Stream a file beside its place and rename it there once its checksum is right."""
    partial = file.path.with_name(f".{file.path.name}.{secrets.token_hex(4)}.partial")
    digest = hashlib.md5(usedforsecurity=False)
    request = urllib.request.Request(url, headers={"User-Agent": "rdfia"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            total = int(answer.headers.get("Content-Length") or 0) or None
            what, done, told = f"downloading {file.path.name}", 0, 0.0
            with partial.open("wb") as target:
                while chunk := answer.read(CHUNK):
                    target.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    if time.monotonic() - told >= SECONDS_BETWEEN_EVENTS:
                        told = time.monotonic()
                        yield Preparing(what, done, total, "bytes")
        if digest.hexdigest() != file.md5:
            raise urllib.error.URLError(f"it has the md5 {digest.hexdigest()}, not {file.md5}")
        partial.replace(file.path)
    finally:
        partial.unlink(missing_ok=True)
