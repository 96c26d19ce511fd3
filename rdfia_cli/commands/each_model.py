"""Several models on one command line: one that fails is told, and the others are done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from rdfia_cli import console
from rdfia_cli.commands.progress import follow
from rdfia_cli.errors import RdfiaError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rdfia_cli.analysis.subject import Request

Found = TypeVar("Found")


def try_each(
    asked: Sequence[Request],
    work: Callable[[Request], Found],
    flags: Mapping[str, Any],
    *,
    doing: str,
    on_stdout: bool,
) -> tuple[list[Found], list[RdfiaError]]:
    """Do something with each model, in their order.

    Among several, the error of one is reported in its place, with the model's name.

    Args:
        asked: the models.
        work: what is done with one.
        flags: of the command.
        doing: what that is called, such as `counting`.
        on_stdout: whether it prints results.

    Returns:
        What was found, and the errors of those that failed.

    Raises:
        RdfiaError: the only model failed.
    """
    found: list[Found] = []
    failures: list[RdfiaError] = []
    for each in follow(asked, doing, on_stdout=on_stdout, quiet=flags["quiet"]):
        try:
            found.append(work(each))
        except RdfiaError as error:
            if len(asked) == 1:
                raise
            console.report(_named(error, each), as_json=flags["json"])
            failures.append(error)
    return found, failures


def _named(error: RdfiaError, asked: Request) -> RdfiaError:
    """The same error, with the model that it is about."""
    return type(error)(f"{asked.label}: {error.fact}", error.remedy, error.files)
