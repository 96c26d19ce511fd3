"""How a sweep looks while it runs: a live table on a terminal, a line a trial elsewhere."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rdfia_cli import console
from rdfia_cli.errors import count
from rdfia_cli.spec import brief, typed_value
from rdfia_cli.sweep.campaign import CampaignEvent, Planned
from rdfia_cli.sweep.round import EndedElsewhere, Retried
from rdfia_cli.sweep.trial import (
    Chosen,
    TrialEpoch,
    TrialFailed,
    TrialFinished,
    TrialPruned,
    TrialStarted,
    TrialWarned,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from rdfia_cli.sweep.campaign import Execution
    from rdfia_cli.sweep.question import Question

REFRESHES_PER_SECOND = 8
MOST_ROWS = 12
BAR_WIDTH = 24


@dataclass
class Standing:
    """Where a sweep stands, as its events tell.

    Attributes:
        wanted: how many trials this process may execute.
        keys: the settings that vary.
        given: what varies of each trial known by now, as it was written.
        ended: how many ended, those of earlier calls included.
        failed: how many of them failed.
        running: the newest epoch of each trial under way; None before its first.
        best: the best trial so far, and its accuracy on validation.
        began: when this call did.
        ended_before: how many trials had ended before it.
    """

    wanted: int
    keys: list[str]
    given: dict[int, Mapping[str, str]] = field(default_factory=dict[int, "Mapping[str, str]"])
    ended: int = 0
    failed: int = 0
    running: dict[int, TrialEpoch | None] = field(default_factory=dict[int, "TrialEpoch | None"])
    best: tuple[int, float] | None = None
    began: float = field(default_factory=time.monotonic)
    ended_before: int | None = None

    def note(self, event: CampaignEvent) -> None:
        """Take note of an event."""
        if isinstance(event, Planned):
            self.given.update(event.settings)
            self.ended = max(self.ended, event.ended)
            if self.ended_before is None:
                self.ended_before = self.ended
            if event.best is not None:
                self._note_score(*event.best)
        elif isinstance(event, TrialStarted):
            self.running.setdefault(event.number, None)
        elif isinstance(event, TrialEpoch):
            self.running[event.number] = event
        elif isinstance(event, TrialFinished | TrialFailed | TrialPruned):
            self.running.pop(event.number, None)
            self.ended += 1
            self.failed += isinstance(event, TrialFailed)
            if isinstance(event, TrialFinished) and event.result["validation"]:
                self._note_score(event.number, event.result["validation"]["accuracy"])
        elif isinstance(event, EndedElsewhere):
            self.ended += 1
            self.failed += event.state == "failed"
            if event.accuracy is not None:
                self._note_score(event.number, event.accuracy)
        elif isinstance(event, Retried):
            self.running.pop(event.number, None)

    def _note_score(self, number: int, accuracy: float) -> None:
        if self.best is None or accuracy > self.best[1]:
            self.best = number, accuracy

    @property
    def progress(self) -> float:
        """How many trials are done, those under way by the share of their epochs."""
        parts = [e.epoch / e.epochs for e in self.running.values() if e is not None]
        return self.ended + sum(parts)

    @property
    def seconds_left(self) -> float | None:
        """By the pace of this call; None before there is one."""
        done = self.progress - (self.ended_before or 0)
        left = max(self.wanted - self.progress, 0)
        return None if done <= 0 else (time.monotonic() - self.began) / done * left

    def settings(self, number: int) -> str:
        """The settings of a trial that vary, as text."""
        given = self.given.get(number, {})
        return " ".join(f"{key}={_short(given[key])}" for key in self.keys if key in given)


def _short(text: str) -> str:
    """A value in few letters where it is a number with many, else as it was written."""
    value = typed_value(text)
    return brief(value) if isinstance(value, float) else text


@contextlib.contextmanager
def display(
    question: Question, execution: Execution, *, quiet: bool
) -> Generator[Callable[[CampaignEvent], None]]:
    """A consumer of a sweep's events for the stderr at hand."""
    wanted = sum(execution.has(n) for n in range(question.search.trials))
    standing = Standing(wanted, [dimension.key for dimension in question.search.space])
    if quiet:
        yield _show_warnings
    elif console.on_terminal():
        with _live(standing, str(question.folder)) as show:
            yield show
    else:
        console.say(f"{question.folder}: {count(wanted, 'trial')}")
        yield _lines(standing)


def _show_warnings(event: CampaignEvent) -> None:
    if (text := _warning(event)) is not None:
        console.warn(text)


def _warning(event: CampaignEvent) -> str | None:
    if isinstance(event, TrialWarned):
        return f"trial {event.number}: {event.text}"
    if isinstance(event, TrialFailed):
        return f"trial {event.number} failed: {event.message}"
    if isinstance(event, Retried):
        return f"trial {event.number} is tried again: {event.reason}"
    return None


def _lines(standing: Standing) -> Callable[[CampaignEvent], None]:
    """A line for each trial that ends."""

    def show(event: CampaignEvent) -> None:
        first = standing.ended_before is None
        standing.note(event)
        if first and standing.ended_before:
            console.say(f"{count(standing.ended_before, 'trial')} ended before")
        if (line := _line(standing, event)) is not None:
            console.say(line)

    return show


def _line(standing: Standing, event: CampaignEvent) -> str | None:
    if (warning := _warning(event)) is not None:
        return f"warning: {warning}"
    if isinstance(event, Chosen):
        return f"engine {event.engine}: {event.reason}"
    if not isinstance(event, TrialPruned | TrialFinished):
        return None
    head = f"trial {event.number}  {standing.settings(event.number)}"
    if isinstance(event, TrialPruned):
        return f"{head}  pruned after epoch {event.epoch}"
    name = "validation" if event.result["validation"] else "test"
    accuracy = event.result[name]["accuracy"]
    return f"{head}  {name} accuracy {accuracy:.4f}  {standing.ended}/{standing.wanted}"


@contextlib.contextmanager
def _live(standing: Standing, title: str) -> Generator[Callable[[CampaignEvent], None]]:
    """A table that is there before the workers are, since torch takes seconds to load."""
    from rich.console import Console, RenderableType
    from rich.live import Live

    class Shown:
        """Draws itself anew at each refresh."""

        def __rich__(self) -> RenderableType:
            return _render(standing, title)

    screen = Console(stderr=True)
    with Live(
        Shown(), console=screen, refresh_per_second=REFRESHES_PER_SECOND, transient=True
    ) as live:

        def show(event: CampaignEvent) -> None:
            standing.note(event)
            if isinstance(event, TrialFinished):
                return
            if (line := _line(standing, event)) is not None:
                live.console.print(line, markup=False, highlight=False)

        yield show


def _render(standing: Standing, title: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    left = standing.seconds_left
    parts = [f"{standing.ended}/{standing.wanted} trials"]
    if standing.failed:
        parts.append(f"{standing.failed} failed")
    if standing.best is not None:
        number, accuracy = standing.best
        parts.append(f"best {accuracy:.4f} (trial {number}: {standing.settings(number)})")
    if left is not None:
        parts.append(f"{console.duration(round(left))} left")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("trial", "settings", "epoch", "validation"):
        table.add_column(name, justify="left" if name == "settings" else "right", no_wrap=True)
    for number, epoch in list(standing.running.items())[:MOST_ROWS]:
        done = "" if epoch is None else f"{epoch.epoch}/{epoch.epochs}"
        score = "" if epoch is None or epoch.accuracy is None else f"{epoch.accuracy:.4f}"
        table.add_row(str(number), Text(standing.settings(number)), done, score)
    more = len(standing.running) - MOST_ROWS
    running = [table] if standing.running else [Text("starting the workers")]
    head = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=standing.wanted, completed=standing.progress, width=BAR_WIDTH)
    head.add_row(bar, Text("  ".join(parts)))
    return Group(
        Text(title),
        head,
        *running,
        *([Text(f"and {count(more, 'trial')} more")] if more > 0 else []),
    )
