"""Streams and words: results to stdout, all else to stderr, an error to an exit code, once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from rdfia_cli.errors import PreemptedError, RdfiaError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

INTERNAL_ERROR = 1
INTERRUPTED = 130


def call(command: Callable[[Mapping[str, Any]], int | None], flags: Mapping[str, Any]) -> int:
    """Call a command and return its exit code.

    While it runs, stdout is stderr: what a library or a plugin prints never mixes with a result.
    """
    with contextlib.redirect_stdout(sys.stderr):
        return command(flags) or 0


def run(command: Callable[[], int | None], arguments: Sequence[str]) -> int:
    """Run the command line and turn whatever it raises into words and an exit code.

    Args:
        command: returns an exit code, or None for success.
        arguments: the command line; `--json` and `--traceback` in it decide the form of an error.
    """
    try:
        return command() or 0
    except BrokenPipeError:
        # Whoever read the result has enough; Python would complain once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # pyright: ignore
        return 0
    except KeyboardInterrupt:
        _say("interrupted")
        return _die_by(signal.SIGINT)
    except Exception as error:
        if "--traceback" in arguments:
            import traceback

            traceback.print_exc(file=sys.stderr)
        known = explain(error)
        report(known, as_json="--json" in arguments)
        if isinstance(known, PreemptedError) and known.signal == signal.SIGINT:
            return _die_by(signal.SIGINT)
        return known.exit_code


def explain(error: Exception) -> RdfiaError:
    """Any exception as one that has a fact and a remedy."""
    if isinstance(error, RdfiaError):
        return error
    if isinstance(error, OSError):
        return _explain_system_error(error)
    message: Callable[[], str] | None = getattr(error, "format_message", None)
    if message is not None:
        fact = " ".join(message().split()).rstrip(".")
        return UsageError(fact[:1].lower() + fact[1:], "see rdfia --help")
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return RdfiaError("the memory is exhausted", "lower --batch-size")
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return RdfiaError(reason, "see where with --traceback")


def _explain_system_error(error: OSError) -> RdfiaError:
    remedies = {
        errno.ENOSPC: "free some space; what was complete is kept, and the same command goes on",
        errno.EFBIG: "raise the limit on file sizes (ulimit -f); the same command goes on",
        errno.EDQUOT: "free some of your quota; the same command goes on",
        errno.EACCES: "choose a folder that you may write with --out",
        errno.EROFS: "choose a folder that you may write with --out",
        errno.ENOENT: "check the path",
    }
    where = f"'{error.filename}': " if error.filename else ""
    what = error.strerror or str(error)
    return RdfiaError(f"{where}{what}", remedies.get(error.errno or 0, ""))


def _die_by(number: int) -> int:
    """End as an unhandled signal would, so that a shell's loop stops too."""
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return INTERRUPTED


def report(error: RdfiaError, *, as_json: bool) -> None:
    """Say an error in two lines of stderr, and as an object on stdout where JSON is asked."""
    _say(f"error: {error.fact}", *([error.remedy] if error.remedy else []))
    if as_json:
        print_json(
            {
                "schema": "rdfia.error/1",
                "error": error.kind,
                "message": error.fact,
                "remedy": error.remedy,
                "exit_code": error.exit_code,
            }
        )


def warn(text: str) -> None:
    """Say in one line of stderr what the user should know."""
    _say(f"warning: {text}")


def say(text: str) -> None:
    """Say something that is no result."""
    _say(text)


def _say(*lines: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(*lines, sep="\n", file=sys.stderr, flush=True)  # noqa: T201


def print_result(text: str) -> None:
    """Print a line of the result to the real stdout."""
    print(text, file=sys.__stdout__, flush=True)


def print_json(content: Mapping[str, Any]) -> None:
    """Print an object as one line of stdout; a number that JSON lacks (NaN) becomes null."""
    print_result(json.dumps(_finite(content), ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def on_terminal() -> bool:
    """Whether stderr is a terminal that can animate."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def print_table(rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print rows to stdout, the first as a heading, in columns as wide as they need.

    On a terminal it is a drawn table; elsewhere plain text with two spaces between columns.
    """
    table = [tuple(row) for row in rows]
    if title and sys.__stdout__ is not None and sys.__stdout__.isatty():
        _draw_table(table, title)
        return
    if title:
        print_result(title)
    count = max((len(row) for row in table), default=0)
    widths = [max((len(row[i]) for row in table if i < len(row)), default=0) for i in range(count)]
    for row in table:
        cells = [cell.ljust(widths[i]) for i, cell in enumerate(row)]
        print_result("  ".join(cells).rstrip())


def _draw_table(table: Sequence[Sequence[str]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title), title_justify="left")
    for heading in table[0]:
        drawn.add_column(Text(heading), justify="left" if heading in ("", "class") else "right")
    for row in table[1:]:
        drawn.add_row(*(Text(cell) for cell in row))
    Console(file=sys.__stdout__).print(drawn)
