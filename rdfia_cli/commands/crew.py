"""Processes that share the work on many models, whose outcomes come in the models' order.

One process works on one model at a time. Building and calling a model without numbers is Python's
work, which threads would do one after another.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

from rdfia_cli import console, entry_points
from rdfia_cli.errors import RdfiaError
from rdfia_cli.machine import ONE_THREAD, processors

ITEMS_EACH = 16
"""Models for which it is worth while to start one more process: it begins by importing torch."""
AT_MOST = 8
"""Processes, each of which needs 0.7 GB for torch and timm alone."""
SECONDS_TO_END = 5.0
"""For a process that is ending: killed at once, it would not tell how it ended."""
ALONE = "give fewer models at once: few are worked on in this process"


@dataclass(frozen=True)
class Failed:
    """What became of an item that failed."""

    error: RdfiaError


Item = TypeVar("Item")
Found = TypeVar("Found")


def crew_size(items: int) -> int:
    """How many processes share so many models; with one the caller does the work itself."""
    return max(1, min(processors(), AT_MOST, items // ITEMS_EACH))


def try_work(work: Callable[[Item], Found], item: Item) -> Found | Failed:
    """Do something with an item; what it raises in plain words is its outcome too."""
    try:
        return work(item)
    except RdfiaError as error:
        return Failed(error)


def outcomes(
    items: Sequence[Item], work: Callable[[Item], Found], size: int
) -> Generator[Found | Failed]:
    """Do something with each item in several processes.

    Args:
        items: what it is done with; they travel to a process, as `work` and what it returns do.
        work: a function of a module, or a partial of one. It prints no result.
        size: how many processes.

    Yields:
        What was found, in the order of the items, or why one failed.
    """
    waiting, found = deque(enumerate(items)), dict[int, "Found | Failed"]()
    with contextlib.ExitStack() as stack:
        members = [stack.enter_context(_Member(work)) for _ in range(size)]
        for number in range(len(items)):
            while number not in found:
                found.update(_attend(members, waiting))
            yield found.pop(number)


def _attend(
    members: Sequence[_Member[Item, Found]], waiting: deque[tuple[int, Item]]
) -> Iterator[tuple[int, Found | Failed]]:
    """Give whoever has nothing to do the next item, and take the answers that are there."""
    for member in members:
        if member.is_free and waiting:
            member.give(*waiting.popleft())
    busy = {member.connection: member for member in members if not member.is_free}
    for connection in wait(list(busy)):
        yield from busy[connection].answers()  # pyright: ignore[reportArgumentType]


class _Member(Generic[Item, Found]):
    """One process, and the number of the item that it works on."""

    def __init__(self, work: Callable[[Item], Found]) -> None:
        self._work = work

    def __enter__(self) -> _Member[Item, Found]:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end(patience=0)

    @property
    def is_free(self) -> bool:
        return self._ready and self._number is None

    def _start(self) -> None:
        self._ready, self._number = False, None
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, self._work), daemon=True)
        try:
            with _deaf_to_interrupts():
                process.start()
        except OSError as error:
            here.close()
            raise RdfiaError(f"cannot start another process: {error}", ALONE) from None
        finally:
            # When this process dies, the other finds nobody at the end of the pipe, and ends.
            there.close()
        self.connection: Connection = here
        self._process = process

    def _end(self, patience: float) -> str:
        """End the process, after some seconds in which it may do so itself, and say how it did."""
        self.connection.close()
        self._process.join(patience)
        self._process.kill()
        self._process.join()
        return _ending(self._process.exitcode)

    def give(self, number: int, item: Item) -> None:
        self._number = number
        # That it is gone shows where its answer is missed.
        with contextlib.suppress(OSError):
            self.connection.send(item)

    def answers(self) -> Iterator[tuple[int, Found | Failed]]:
        """The answer that is there, if it is one; a process that died instead is replaced.

        Raises:
            RdfiaError: it died before it could begin, as the next one would.
        """
        number = self._number
        try:
            answer: Found | Failed = self.connection.recv()
        except (EOFError, OSError):
            fact = f"its process ended with {self._end(SECONDS_TO_END)}"
            if number is None:
                raise RdfiaError(f"of several that share the work, {fact}", ALONE) from None
            self._start()
            yield number, Failed(RdfiaError(fact, "try it alone, to see what it says"))
            return
        if number is None:
            self._ready = True
        else:
            self._number = None
            yield number, answer


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


@contextlib.contextmanager
def _deaf_to_interrupts() -> Generator[None]:
    """Start a process to which Ctrl-C means nothing: it is for the one that waits for it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # It starts with the first process, and unblocks what is blocked.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, work: Callable[[Item], Found]) -> None:
    """Say that one is there, and answer requests until nobody asks any more."""
    # Before torch is imported: as many processes as processors have nothing left for threads.
    os.environ.update(ONE_THREAD)
    # Before anything else: it shields what is imported later from malformed metadata.
    entry_points.installed()
    with contextlib.suppress(EOFError, OSError):
        connection.send(None)
        while True:
            connection.send(_answer(work, connection.recv()))


def _answer(work: Callable[[Item], Found], item: Item) -> Found | Failed:
    """What comes of an item, whatever that is: the process lives on."""
    try:
        return try_work(work, item)
    except Exception as error:
        return Failed(console.explain(error))
