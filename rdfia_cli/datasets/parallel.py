"""Images decoded by as many processes as there are processors.

Threads would wait for one another: with small images most of the work is Python's. A process can
also die of a file, which is then named like any other that cannot be read.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rdfia_cli.datasets.worker import READY
from rdfia_cli.errors import RdfiaError
from rdfia_cli.machine import ONE_THREAD, processors

if TYPE_CHECKING:
    from pathlib import Path

    from rdfia_cli.datasets.decode import Rule

FILES_IN_REQUEST = 16
REQUESTS_AHEAD = 2
"""So that a worker has the next one when it is done with one."""
COMMAND = (sys.executable, "-P", "-W", "ignore", "-m", "rdfia_cli.datasets.worker")

Request = Sequence[tuple[int, str]]
"""Files, each with its row in the store."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What became of a file.

    Attributes:
        fault: why it has no pixels, or None.
        shape: (H, W, C) of its pixels, or None.
        digest: the SHA-256 of its bytes; empty where they cannot be read.
    """

    fault: str | None
    shape: tuple[int, int, int] | None
    digest: str


class WorkerDiedError(Exception):
    """A worker is gone before it answered."""


class _Worker:
    """One process, and the requests that it has not answered yet, in order."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        self.requests: deque[Request] = deque()
        self._rest = b""
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ONE_THREAD},
            # Ctrl-C is for the process that asks; this one ends with it.
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self.output = self._process.stdin, self._process.stdout
        self._send(task)

    def give(self, request: Request) -> None:
        self.requests.append(request)
        self._send(request)

    def _send(self, content: Any) -> None:
        # That it is gone shows where its answer is missed.
        with contextlib.suppress(BrokenPipeError):
            self._input.write(json.dumps(content).encode() + b"\n")
            self._input.flush()

    def receive(self) -> list[Any]:
        """The answers that are whole by now; what is read ahead here would wake nobody later."""
        received = os.read(self.output.fileno(), 2**16)
        if not received:
            raise WorkerDiedError
        *lines, self._rest = (self._rest + received).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._input, self.output):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class _Crew:
    """Workers with one task, and the requests that none of them has."""

    def __init__(self, task: Mapping[str, Any], requests: deque[Request]) -> None:
        self._task, self._waiting = task, requests
        self._busy = selectors.DefaultSelector()

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._busy.get_map().values()):
            key.data.end()
        self._busy.close()

    def hire(self) -> None:
        try:
            worker = _Worker(self._task)
        except OSError as error:
            raise _unstartable(str(error)) from None
        self._busy.register(worker.output, selectors.EVENT_READ, worker)

    def work(self) -> Generator[dict[int, Examined]]:
        while self._busy.get_map():
            for key, _ in self._busy.select():
                yield self._attend(key.data)

    def _attend(self, worker: _Worker) -> dict[int, Examined]:
        """Take a worker's answers, and give it more to do or let it go."""
        try:
            answers = worker.receive()
        except WorkerDiedError:
            return self._replace(worker)
        found: dict[int, Examined] = {}
        for answer in answers:
            if answer != READY:
                found |= _read_answer(worker.requests.popleft(), answer)
        if not answers:
            return found
        while self._waiting and len(worker.requests) < REQUESTS_AHEAD:
            worker.give(self._waiting.popleft())
        if not worker.requests:
            self._dismiss(worker)
        return found

    def _dismiss(self, worker: _Worker) -> None:
        self._busy.unregister(worker.output)
        worker.end()

    def _replace(self, worker: _Worker) -> dict[int, Examined]:
        """Put another in a dead worker's place, and find the file that it died of."""
        self._dismiss(worker)
        if not worker.requests:
            raise _unstartable("it ended at once")
        suspects = worker.requests.popleft()
        self._waiting.extendleft(worker.requests)
        found: dict[int, Examined] = {}
        if len(suspects) == 1:
            found[suspects[0][0]] = Examined("its decoder crashes", None, "")
        else:
            self._waiting.extendleft([file] for file in suspects)
        if self._waiting:
            self.hire()
        return found


def _unstartable(reason: str) -> RdfiaError:
    return RdfiaError(
        f"cannot start a process that decodes images: {reason}", f"try {' '.join(COMMAND)}"
    )


def _read_answer(request: Request, answer: Any) -> dict[int, Examined]:
    if isinstance(answer, int):
        raise OSError(answer, os.strerror(answer))
    assert len(answer) == len(request)
    return {
        row: Examined(fault, None if shape is None else tuple(shape), digest)
        for row, fault, shape, digest in answer
    }


def examine(
    paths: Sequence[str],
    rule: Rule,
    images: Path | None = None,
    shape: tuple[int, int, int] | None = None,
    processes: int | None = None,
) -> Generator[dict[int, Examined]]:
    """Decode files, and put the pixels of each into its row of a file of images.

    Args:
        paths: the files, in the order of their rows.
        rule: how they come to pixels.
        images: where to write pixels that have the shape; None only looks.
        shape: (H, W, C) of an image.
        processes: how many work at a time; None for one a processor.

    Yields:
        What became of the files, by row, in the order in which they are done.

    Raises:
        OSError: the disk refuses.
    """
    task = {"rule": asdict(rule), "images": str(images), "shape": images and shape}
    files = list(enumerate(paths))
    requests: deque[Request] = deque(
        files[start : start + FILES_IN_REQUEST] for start in range(0, len(files), FILES_IN_REQUEST)
    )
    with _Crew(task, requests) as crew:
        for _ in range(min(processes or processors(), len(requests))):
            crew.hire()
        yield from crew.work()
