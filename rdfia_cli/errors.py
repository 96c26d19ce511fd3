"""Everything that can go wrong, with the exit code that a shell script sees.

RdfiaError            1   the run failed
├── UsageError        2   a flag, a key, a value or a file that the user gave
├── TrialsFailedError 3   some of several runs failed, the others are done
├── ComponentError    4   a component is missing, broken or incompatible
├── ChangedError      1   a dataset's source is no longer what was prepared
├── DivergedError     5   the loss became NaN or infinite
├── GateError         5   a result is beyond a limit that the user set
└── PreemptedError   75   stopped after a checkpoint; the same command goes on

An error is raised where its cause is known and becomes words once, in `console`.
"""

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar


class RdfiaError(Exception):
    """A failure that is reported in plain words.

    Args:
        fact: what was wrong and where: one line.
        remedy: what to do about it: one line, or empty where the fact says it.
        files: all files that it is about, each with what is wrong with it, where they are too many
            for a line.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "failed"

    def __init__(self, fact: str, remedy: str = "", files: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(fact)
        self.fact = fact
        self.remedy = remedy
        self.files = files

    def describe(self) -> dict[str, Any]:
        """The object `rdfia.error/1`."""
        fact, remedy = (" ".join(text.splitlines()) for text in (self.fact, self.remedy))
        files = [{"file": file, "reason": why} for file, why in self.files]
        return {
            "schema": "rdfia.error/1",
            "error": self.kind,
            "message": fact,
            "remedy": remedy,
            "exit_code": self.exit_code,
            **({"files": files} if files else {}),
        }


class UsageError(RdfiaError):
    """A flag, a key, a value or a file that the user gave cannot be used."""

    exit_code = 2
    kind = "usage"


class TrialsFailedError(RdfiaError):
    """Some of several runs failed; the others are done and reported."""

    exit_code = 3
    kind = "trials"


class ComponentError(RdfiaError):
    """A component is missing, broken, or does not fit the others."""

    exit_code = 4
    kind = "component"


class BuilderError(ComponentError):
    """A component's code failed, which it did not say in words of its own."""


class ChangedError(RdfiaError):
    """The source of a dataset changed since it was prepared; making it ready again prepares it."""


class DivergedError(RdfiaError):
    """The loss became NaN or infinite."""

    exit_code = 5
    kind = "diverged"


class GateError(RdfiaError):
    """A result is beyond a limit that the user set."""

    exit_code = 5
    kind = "gate"


class PreemptedError(RdfiaError):
    """The run stopped on request after it wrote a checkpoint."""

    exit_code = 75
    kind = "preempted"

    def __init__(self, fact: str, remedy: str, signal: int) -> None:
        super().__init__(fact, remedy)
        self.signal = signal


def count(number: int, noun: str) -> str:
    """A number of things, such as `1 image` or `60,000 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def nearest(name: str, known: Iterable[str], lister: str = "") -> str:
    """The way out of an unknown name: the nearest valid one, else all of them.

    Args:
        name: what was given.
        known: the valid names.
        lister: a command that lists the valid names, shown where they are too many to print.
    """
    names = sorted(known, key=lambda each: (int(each) if each.isdecimal() else math.inf, each))
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if match:
        return f"did you mean '{match[0]}'?"
    if not names:
        return "there is none to choose from"
    if lister and len(names) > 12:
        return f"see {lister}"
    return f"choose from {', '.join(names)}"
