"""Several models on one command line: one that fails is told, and the others are done."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from rdfia_cli import console
from rdfia_cli.commands.crew import Failed, outcomes, try_work
from rdfia_cli.commands.progress import follow
from rdfia_cli.errors import RdfiaError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from rdfia_cli.analysis.subject import Request

Found = TypeVar("Found")
Kept = TypeVar("Kept")


def try_each(
    asked: Sequence[Request],
    work: Callable[[Request], Found],
    flags: Mapping[str, Any],
    *,
    doing: str,
    on_stdout: bool,
    show: Callable[[Found], Kept],
    processes: int = 1,
) -> tuple[list[Kept], list[RdfiaError]]:
    """Do something with each model, and tell of them in their order.

    Among several, the error of one is reported in its place, with the model's name.

    Args:
        asked: the models.
        work: what is done with one.
        flags: of the command.
        doing: what that is called, such as `counting`.
        on_stdout: whether it prints results.
        show: told in this process what was found of one, as soon as those before it are done; it
            returns what is to be kept of that.
        processes: how many share the work; see `crew.outcomes`.

    Returns:
        What was kept, and the errors of those that failed.

    Raises:
        RdfiaError: the only model failed.
    """
    kept: list[Kept] = []
    failures: list[RdfiaError] = []
    with contextlib.closing(_outcomes(asked, work, processes)) as done:
        for each in follow(asked, doing, on_stdout=on_stdout, quiet=flags["quiet"]):
            for text in each.warnings:
                console.warn(text)
            outcome = next(done)
            if not isinstance(outcome, Failed):
                kept.append(show(outcome))
            elif len(asked) == 1:
                raise outcome.error
            else:
                console.report(_named(outcome.error, each), as_json=flags["json"])
                failures.append(outcome.error)
    return kept, failures


def _outcomes(
    asked: Sequence[Request], work: Callable[[Request], Found], processes: int
) -> Generator[Found | Failed]:
    if processes > 1:
        yield from outcomes(asked, work, processes)
    else:
        yield from (try_work(work, each) for each in asked)


def _named(error: RdfiaError, asked: Request) -> RdfiaError:
    """The same error, with the model that it is about."""
    return type(error)(f"{asked.label}: {error.fact}", error.remedy, error.files)
