"""A process that decodes images for another, so that no file can bring that one down.

It reads a task, then requests, and answers each request with what became of its files; where its
input ends, so does it. It lives without torch, which takes seconds to import.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from rdfia_cli.datasets.decode import Rule, UnreadableError, decode, read

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

READY = "ready"


def main() -> None:
    """Answer until the input ends."""
    # What is odd about a file but no fault is nobody's concern, whatever -W says.
    warnings.simplefilter("ignore")
    task = json.loads(sys.stdin.buffer.readline())
    rule, shape = Rule(**task["rule"]), task["shape"]
    images = os.open(task["images"], os.O_WRONLY | os.O_CLOEXEC) if shape else None
    _answer(READY)
    for request in sys.stdin.buffer:
        try:
            files: list[tuple[int, str]] = json.loads(request)
            answer = [_examine(row, path, rule, images, shape) for row, path in files]
        except OSError as error:
            answer = error.errno
        _answer(answer)


def _answer(content: Any) -> None:
    sys.stdout.buffer.write(json.dumps(content).encode() + b"\n")
    sys.stdout.buffer.flush()


def _examine(
    row: int, path: str, rule: Rule, images: int | None, shape: list[int] | None
) -> tuple[int, str | None, tuple[int, ...] | None, str]:
    """Decode a file and put its pixels into their row of the store, if they have its shape.

    Returns:
        The row, what is wrong with the file or None, the shape of its pixels or None, and the
        digest of its bytes.
    """
    digest = ""
    try:
        content = read(path)
        digest = hashlib.sha256(content).hexdigest()
        pixels = decode(content, rule)
    except UnreadableError as error:
        return row, str(error), None, digest
    if images is not None and list(pixels.shape) == shape:
        _write(images, pixels, row * pixels.nbytes)
    return row, None, pixels.shape, digest


def _write(images: int, pixels: NDArray[np.uint8], offset: int) -> None:
    rest = memoryview(pixels.tobytes())
    while rest:
        written = os.pwrite(images, rest, offset)
        rest, offset = rest[written:], offset + written


if __name__ == "__main__":
    main()
