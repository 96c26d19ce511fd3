"""Streams and words: results to stdout, all else to stderr, an error to an exit code, once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO

from rdfia_cli.errors import PreemptedError, RdfiaError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from types import FrameType

INTERRUPTED, TERMINATED = 130, 143
NOT_DETERMINISTIC = "does not have a deterministic implementation"
"""What torch says of an operation that a run's settings do not allow."""
NARROWEST = 12
"""Letters to which a column of text may be folded on a narrow terminal."""


class ReaderGoneError(BrokenPipeError):
    """Whoever read stdout has enough."""


class Terminated(BaseException):
    """SIGTERM came; what was begun is cleaned up on the way out."""


def call(command: Callable[[Mapping[str, Any]], int | None], flags: Mapping[str, Any]) -> int:
    """Call a command and return its exit code.

    While it runs, stdout is stderr: what a library, a plugin or a child process prints never mixes
    with a result.
    """
    try:
        with _terminable(), _stdout_for_results(), contextlib.redirect_stdout(sys.stderr):
            return command(flags) or 0
    except ReaderGoneError:
        _discard_stdout()
        return 0
    except KeyboardInterrupt:  # here, since Typer would only return an exit code
        return _interrupted()
    except Terminated:
        say("terminated")
        return _die_by(signal.SIGTERM, TERMINATED)


@contextlib.contextmanager
def _terminable() -> Generator[None]:
    """Have SIGTERM end a command as Ctrl-C does, unless somebody decided otherwise."""
    owner = os.getpid()
    untouched = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not untouched or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        # A second one, or one to a forked child, ends it at once.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != owner:
            os.kill(os.getpid(), signal.SIGTERM)
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _stdout_for_results() -> Generator[None]:
    """Give descriptor 1 to stderr, and what it was to `sys.__stdout__` alone."""
    real = sys.__stdout__
    if real is None or sys.__stderr__ is None:
        yield
        return
    saved = os.dup(1)
    results = os.fdopen(saved, "w", encoding=real.encoding, errors=real.errors)
    os.dup2(2, 1)
    sys.__stdout__ = results  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        sys.__stdout__ = real  # pyright: ignore[reportAttributeAccessIssue]
        os.dup2(saved, 1)
        with contextlib.suppress(OSError):
            results.close()


def run(command: Callable[[], int | None], arguments: Sequence[str]) -> int:
    """Run the command line and turn whatever it raises into words and an exit code.

    Args:
        command: returns an exit code, or None for success.
        arguments: the command line; `--json` and `--traceback` in it decide the form of an error.
    """
    try:
        return command() or 0
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            say(str(error))
            return UsageError.exit_code
        if "--traceback" in arguments:
            import traceback

            traceback.print_exc(file=sys.stderr)
        known = explain(error)
        if "--traceback" in arguments and "--traceback" in known.remedy:
            known.remedy = ""
        report(known, as_json="--json" in arguments)
        return _die_by(signal.SIGINT) if _is_interruption(known) else known.exit_code


def _is_interruption(error: RdfiaError) -> bool:
    """Whether a run stopped by Ctrl-C, after which the process ends by that signal too."""
    return isinstance(error, PreemptedError) and error.signal == signal.SIGINT


def _discard_stdout() -> None:
    """Whoever read the result has enough; Python would complain once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # pyright: ignore


def duration(seconds: float) -> str:
    """A time in the two largest units: 42.1 s (42 s of a whole number), 3 min 20 s, 2 h 5 min."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s" if isinstance(seconds, float) else f"{seconds} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def explain(error: Exception) -> RdfiaError:
    """Any exception as one that has a fact and a remedy."""
    if isinstance(error, RdfiaError):
        return error
    if isinstance(error, OSError):
        return _explain_system_error(error)
    message: Callable[[], str] | None = getattr(error, "format_message", None)
    if message is not None:
        fact = " ".join(message().split()).rstrip(".")
        return UsageError(fact[:1].lower() + fact[1:], f"see {_command_of(error)} --help")
    if NOT_DETERMINISTIC in str(error):
        return RdfiaError(
            str(error).partition(". ")[0].partition(", but")[0],
            "allow it with --set deterministic=false; a resumed run may then differ in last digits",
        )
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return RdfiaError("the memory is exhausted", "lower --batch-size")
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return RdfiaError(reason, "see where with --traceback")


def _command_of(error: Exception) -> str:
    """The command whose help tells more about a usage error."""
    context = getattr(error, "ctx", None)
    path: str = getattr(context, "command_path", "")
    return " ".join(["rdfia", *path.split()[1:]])


def _explain_system_error(error: OSError) -> RdfiaError:
    remedies = {
        errno.ENOSPC: "free some space; what was complete is kept, and the same command goes on",
        errno.EFBIG: "raise the limit on file sizes (ulimit -f); the same command goes on",
        errno.EDQUOT: "free some of your quota; the same command goes on",
        errno.EACCES: "choose a folder that you may write to",
        errno.EROFS: "choose a folder that you may write to",
        errno.ENOENT: "check the path",
    }
    where = f"'{error.filename}': " if error.filename else ""
    what = error.strerror or str(error)
    return RdfiaError(f"{where}{what}", remedies.get(error.errno or 0, ""))


def _interrupted() -> int:
    say("interrupted")
    return _die_by(signal.SIGINT)


def _die_by(number: int, otherwise: int = INTERRUPTED) -> int:
    """End as an unhandled signal would, so that a shell's loop stops too."""
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return otherwise


def report(error: RdfiaError, *, as_json: bool) -> None:
    """Say an error in two lines of stderr, and as an object on stdout where JSON is asked."""
    content = error.describe()
    say(f"error: {content['message']}", *([content["remedy"]] if content["remedy"] else []))
    if not as_json:
        return
    if _is_interruption(error):
        content["exit_code"] = INTERRUPTED
    try:
        print_json(content)
    except OSError:  # a full disk or a closed pipe: stderr has said it
        _discard_stdout()


def conclude_with(error: RdfiaError) -> int:
    """Say an error whose result stands on stdout already, in words alone; returns its exit code."""
    report(error, as_json=False)
    return error.exit_code


def warn(text: str) -> None:
    """Say in one line of stderr what the user should know."""
    say(f"warning: {text}")


def say(*lines: str) -> None:
    """Say something that is no result, where there is a stderr to say it on."""
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        return
    with contextlib.suppress(BrokenPipeError):
        print(*lines, sep="\n", file=sys.stderr, flush=True)  # noqa: T201


def print_result(text: str) -> None:
    """Print a line of the result to the real stdout."""
    try:
        print(text, file=sys.__stdout__, flush=True)
    except BrokenPipeError:
        raise ReaderGoneError from None


def print_json(content: Mapping[str, Any]) -> None:
    """Print an object as one line of stdout; a number that JSON lacks (NaN) becomes null.

    The line is ASCII, so that every stdout can take it: a path may hold bytes that are no UTF-8.
    """
    try:
        line = json.dumps(content, default=str, allow_nan=False)
    except ValueError:  # nearly always there is none to replace
        line = json.dumps(_finite(content), default=str)
    print_result(line)


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
    stderr: TextIO | None = sys.stderr
    return stderr is not None and stderr.isatty() and os.environ.get("TERM") != "dumb"


def print_columns(rows: Iterable[Sequence[str]]) -> None:
    """Print rows to stdout in columns as wide as they need."""
    table = [tuple(row) for row in rows]
    count = max((len(row) for row in table), default=0)
    widths = [max((len(row[i]) for row in table if i < len(row)), default=0) for i in range(count)]
    for row in table:
        cells = [cell.ljust(widths[i]) for i, cell in enumerate(row)]
        print_result("  ".join(cells).rstrip())


def print_table(heading: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table to stdout: drawn on a terminal, plain columns elsewhere."""
    if title:
        print_result(title)
    if sys.__stdout__ is not None and sys.__stdout__.isatty():
        _draw_table(heading, list(rows))
    else:
        print_columns([heading, *rows])


def _draw_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(heading):
        cells = [row[index] for row in rows]
        is_number = all(cell[:1].isdigit() or not cell for cell in cells)
        # A name or a number that is cut or folded reads as another one.
        is_whole = is_number or not index
        longest = max(map(cell_len, [name, *cells]))
        drawn.add_column(
            Text(name),
            justify="right" if index and is_number else "left",
            overflow="fold",
            no_wrap=is_whole,
            min_width=longest if is_whole else min(longest, NARROWEST),
        )
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console = Console(file=sys.__stdout__)
    gap = 2
    needed = sum((column.min_width or 0) + gap for column in drawn.columns) + gap
    console.width = max(console.width, needed)
    console.print(drawn, crop=False)
