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
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

from rdfia_cli.errors import RdfiaError
from rdfia_cli.machine import processors

ITEMS_EACH = 16
"""Models for which it is worth while to start one more process: it begins by importing torch."""
AT_MOST = 8
"""Processes, each of which needs 0.7 GB for torch and timm alone."""


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
        if member.number is None and waiting:
            member.give(*waiting.popleft())
    busy = {member.connection: member for member in members if member.number is not None}
    for connection in wait(list(busy)):
        member = busy[connection]  # pyright: ignore[reportArgumentType]
        assert member.number is not None
        yield member.number, member.take()


class _Member(Generic[Item, Found]):
    """One process, and the number of the item that it works on."""

    def __init__(self, work: Callable[[Item], Found]) -> None:
        self._work = work
        self.number: int | None = None

    def __enter__(self) -> _Member[Item, Found]:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection: Connection
        self.connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, self._work), daemon=True)
        with _deaf_to_interrupts():
            self._process.start()
        # When this process dies, the other finds nobody at the end of the pipe, and ends.
        there.close()

    def give(self, number: int, item: Item) -> None:
        self.number = number
        # That it is gone shows where its answer is missed.
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(item)

    def take(self) -> Found | Failed:
        """The answer; a process that died without one is replaced."""
        self.number = None
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.__exit__()
            code = self._process.exitcode
            self._start()
            fact = f"its process ended with {_ending(code)}"
            return Failed(RdfiaError(fact, "try it alone, to see what it says"))


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
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, work: Callable[[Item], Found]) -> None:
    """Answer requests until nobody asks any more."""
    # Before torch is imported: as many processes as processors have nothing left for threads.
    os.environ["OMP_NUM_THREADS"] = "1"
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            connection.send(try_work(work, connection.recv()))
