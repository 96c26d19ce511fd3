"""How the events of a run look: a bar on a terminal, a plain line an epoch elsewhere."""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, TypeVar

from rdfia_cli import console
from rdfia_cli.errors import count

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from rdfia_cli.experiment import RunEvent, Started
    from rdfia_cli.spec import Preparing
    from rdfia_cli.training.loop import EpochEnd, StepEnd

REFRESHES_PER_SECOND = 10
SECONDS_BETWEEN_LINES = 30
"""Where there is no terminal: a line now and then says that something long goes on."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def watch(work: Generator[Preparing, None, Result], show: Callable[[RunEvent], None]) -> Result:
    """Do work that says how far it is, and return what it returns."""
    while True:
        try:
            show(next(work))
        except StopIteration as end:
            return end.value


@contextlib.contextmanager
def display(*, quiet: bool) -> Generator[Callable[[RunEvent], None]]:
    """A consumer of a run's events for the stderr at hand."""
    if quiet:
        yield _show_warnings
    elif console.on_terminal():
        with _bar() as show:
            yield show
    else:
        yield _lines()


def follow(
    items: Sequence[Item], doing: str, *, on_stdout: bool, quiet: bool = False
) -> Iterator[Item]:
    """Items one after another, and on stderr how many are done where that takes long.

    Args:
        items: what is worked on, each of which says its name as text.
        doing: such as `counting`.
        on_stdout: results go to stdout meanwhile, so that no bar may stand on the same terminal.
        quiet: say nothing.
    """
    if quiet:
        yield from items
        return
    if len(items) > 1 and console.on_terminal() and not on_stdout:
        yield from _bar_of(items, doing)
        return
    said = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            console.say(f"{doing} {item} ({number:,} of {len(items):,} done)")
        yield item


def _bar_of(items: Sequence[Item], doing: str) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        refresh_per_second=REFRESHES_PER_SECOND,
        transient=True,
    )
    with progress:
        task = progress.add_task(doing, total=len(items))
        for item in items:
            progress.update(task, description=f"{doing} {item}")
            yield item
            progress.advance(task)


def _show_warnings(event: RunEvent) -> None:
    from rdfia_cli.experiment import Warned

    if isinstance(event, Warned):
        console.warn(event.text)


def _lines() -> Callable[[RunEvent], None]:
    """A line for what begins, and a line for each epoch."""
    announced: set[str] = set()

    def show(event: RunEvent) -> None:
        from rdfia_cli.experiment import Started
        from rdfia_cli.spec import Preparing
        from rdfia_cli.training.loop import EpochEnd

        _show_warnings(event)
        if isinstance(event, Preparing) and event.what not in announced:
            announced.add(event.what)
            console.say(event.what)
        elif isinstance(event, Started):
            console.say(_headline(event))
        elif isinstance(event, EpochEnd):
            console.say(_epoch_line(event))

    return show


def _headline(event: Started) -> str:
    length = f"{count(event.epochs, 'epoch')} of {count(event.steps_per_epoch, 'step')}"
    return (
        f"{event.folder}: {count(event.parameters, 'parameter')}, {length}, "
        f"{event.precision} on {event.device}{_whence(event)}"
    )


def _whence(event: Started) -> str:
    """Where a run goes on; empty where it begins."""
    if event.steps_done:
        return f", going on at step {event.steps_done + 1} of epoch {event.epochs_done + 1}"
    return f", going on after epoch {event.epochs_done}" if event.epochs_done else ""


def _epoch_line(event: EpochEnd, width: float = math.inf) -> str:
    """What an epoch gave; where it is wider than that, in lines that keep each split's whole."""
    scores = {"train": event.train, **event.evaluations}
    lines = [f"epoch {event.epoch}/{event.epochs}"]
    for part in (
        *(f"{name} loss {s.loss:.4f} accuracy {s.accuracy:.4f}" for name, s in scores.items()),
        f"{event.images_per_second:,.0f} images/s",
    ):
        if len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(f"  {part}")
    return "\n".join(lines)


@contextlib.contextmanager
def _bar() -> Generator[Callable[[RunEvent], None]]:
    """A bar that is there before the libraries are, since loading them takes seconds."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[measured]}", markup=False),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        refresh_per_second=REFRESHES_PER_SECOND,
        transient=True,
    )
    task = progress.add_task("preparing", total=None, measured="")
    throttle = Throttle()

    def say(line: str) -> None:
        """Print a line that stays above the bar."""
        progress.console.print(line, markup=False, highlight=False)

    def show(event: RunEvent) -> None:
        from rdfia_cli.experiment import Fitted, Started, Warned
        from rdfia_cli.spec import Preparing
        from rdfia_cli.training.loop import EpochEnd, StepEnd

        if isinstance(event, Preparing):
            progress.update(
                task,
                description=event.what,
                completed=event.done,
                total=event.total,
                measured=_amount(event),
            )
        elif isinstance(event, Warned):
            say(f"warning: {event.text}")
        elif isinstance(event, Started):
            say(_headline(event))
            total, done = (n * event.steps_per_epoch for n in (event.epochs, event.epochs_done))
            progress.reset(task, total=total, completed=done + event.steps_done)
            throttle.epochs = event.epochs
        elif isinstance(event, StepEnd) and (rate := throttle.rate(event)) is not None:
            # Reading the loss waits for the device, so only as often as the bar is redrawn.
            progress.update(
                task,
                completed=(event.epoch - 1) * event.steps_per_epoch + event.step,
                description=f"epoch {event.epoch}/{throttle.epochs}",
                measured=f"loss {event.loss.item():.4f}  {throttle.accuracy}{rate:,.0f} images/s",
            )
        elif isinstance(event, EpochEnd):
            name = "validation" if "validation" in event.evaluations else "test"
            throttle.accuracy = f"{name} accuracy {event.evaluations[name].accuracy:.4f}  "
            say(_epoch_line(event, progress.console.width))
        elif isinstance(event, Fitted):
            progress.update(task, description="drawing curves", measured="")

    with progress:
        yield show


def _amount(event: Preparing) -> str:
    """What is done of what there is, such as `12,000/60,000 images` or `12/170 MB`."""
    scale, unit = (1e6, "MB") if event.unit == "bytes" else (1, event.unit)
    total = "" if event.total is None else f"/{event.total / scale:,.0f}"
    return f"{event.done / scale:,.0f}{total} {unit}"


class Throttle:
    """Lets a step through as often as the bar is redrawn, with the images a second since."""

    def __init__(self) -> None:
        self.epochs = 0
        self.accuracy = ""
        self._since = time.monotonic()
        self._images = 0

    def rate(self, event: StepEnd) -> float | None:
        """Images a second since the last step let through, or None to skip this one."""
        self._images += event.images
        elapsed = time.monotonic() - self._since
        if elapsed < 1 / REFRESHES_PER_SECOND:
            return None
        rate = self._images / elapsed
        self._since, self._images = time.monotonic(), 0
        return rate
