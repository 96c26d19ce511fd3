"""What a shell sees: two streams, an exit code, an object on request, and never a traceback."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdfia_cli import __version__, console
from rdfia_cli.errors import (
    ComponentError,
    DivergedError,
    PreemptedError,
    RdfiaError,
    UsageError,
    nearest,
)

ERRORS = [
    (RdfiaError("it failed", "mend it"), "failed", 1),
    (UsageError("it is wrong", "write it so"), "usage", 2),
    (ComponentError("it is broken", "mend it"), "component", 4),
    (DivergedError("the loss is NaN", "lower the rate"), "diverged", 5),
    (PreemptedError("asked to stop", "run it again", signal.SIGTERM), "preempted", 75),
]
NO_SUCH_FILE = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a/b")


@pytest.fixture
def fail(capfd):
    """Run a command that raises; return the exit code, stdout and stderr."""

    def run(error: BaseException, *arguments: str) -> tuple[int, str, str]:
        def command() -> None:
            raise error

        code = console.run(command, arguments)
        return (code, *capfd.readouterr())

    return run


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `rdfia` is this project's."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, **environment},
        timeout=60,
        check=False,
    )


def on_terminal(program: str, **environment: str) -> str:
    """What a Python program shows on a terminal."""
    reader, writer = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", program],
        stdin=writer,
        stdout=writer,
        stderr=writer,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
        timeout=60,
        check=True,
    )
    os.close(writer)
    shown = b""
    try:
        while chunk := os.read(reader, 4096):
            shown += chunk
    except OSError:  # Linux says so where the other end is closed
        pass
    os.close(reader)
    return shown.decode()


@pytest.mark.parametrize(("error", "kind", "code"), ERRORS, ids=[e[1] for e in ERRORS])
def test_an_error_is_two_lines_of_stderr_and_an_exit_code(fail, error, kind, code):
    assert fail(error) == (code, "", f"error: {error.fact}\n{error.remedy}\n")


@pytest.mark.parametrize(("error", "kind", "code"), ERRORS, ids=[e[1] for e in ERRORS])
def test_an_error_under_json_is_an_object_on_one_line_too(fail, error, kind, code):
    exit_code, out, err = fail(error, "train", "--json")
    assert (exit_code, out.count("\n"), err.count("\n")) == (code, 1, 2)
    assert json.loads(out) == {
        "schema": "rdfia.error/1",
        "error": kind,
        "message": error.fact,
        "remedy": error.remedy,
        "exit_code": code,
    }


def test_an_error_about_many_files_names_them_all_in_its_object(fail):
    files = [(f"{number}.png", "not an image") for number in range(9)]
    _, out, err = fail(UsageError("9 files are bad", "mend them", files), "--json")
    assert [(e["file"], e["reason"]) for e in json.loads(out)["files"]] == files
    assert err == "error: 9 files are bad\nmend them\n"


def test_an_error_without_a_remedy_is_one_line(fail):
    assert fail(UsageError("it is wrong"))[2] == "error: it is wrong\n"


@given(st.text(), st.text())
def test_no_text_makes_an_error_longer_than_two_lines(fact, remedy):
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "say", lambda *lines: told.extend(lines))
        console.report(UsageError(fact, remedy), as_json=False)
    assert len("\n".join(told).splitlines()) <= 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "cn\nn"],
        ["train", "--set", "epo\nchs=3"],
        ["train", "--config", "a\nb.toml"],
        ["trian\nx"],
    ],
    ids=repr,
)
def test_line_breaks_in_an_argument_do_not_break_the_two_lines(rdfia, arguments):
    outcome = rdfia(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["trian"], 2, "error: no such command 'trian'"),
        (["train", "--lrr", "3"], 2, "error: no such option: --lrr"),
        (["train", "cnn", "more"], 2, "error: got unexpected extra argument(s) (more)"),
        (["train", "--epochs"], 2, "error: option '--epochs' requires an argument"),
        (["train", "--epochs", "0"], 2, "error: epochs = '0' (--epochs)"),
        (["eval"], 2, "error: missing argument 'RUN'"),
        (["train", "cnnn"], 4, "error: unknown model 'cnnn' (MODEL)\ndid you mean 'cnn'?"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_plain_words(rdfia, arguments, code, told):
    outcome = rdfia(*arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith(told)
    as_json = rdfia(*arguments[:1], "--json", *arguments[1:])
    assert as_json.json["exit_code"] == as_json.code


def test_no_arguments_show_the_help_as_it_is_laid_out(rdfia):
    outcome = rdfia()
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == rdfia("--help").out


def test_the_version_is_a_result(rdfia):
    outcome = rdfia("--version")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"rdfia {__version__}\n", "")


@pytest.mark.parametrize(
    ("error", "fact", "remedy"),
    [
        (NO_SUCH_FILE, "'a/b': No such file or directory", "check the path"),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a"),
            "'a': Permission denied",
            "choose a folder that you may write to",
        ),
        (
            OSError(errno.EROFS, os.strerror(errno.EROFS), "a"),
            "'a': Read-only file system",
            "choose a folder that you may write to",
        ),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            "No space left on device",
            "free some space; what was complete is kept, and the same command goes on",
        ),
        (
            OSError(errno.EFBIG, os.strerror(errno.EFBIG)),
            "File too large",
            "raise the limit on file sizes (ulimit -f); the same command goes on",
        ),
        (
            OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
            "Disk quota exceeded",
            "free some of your quota; the same command goes on",
        ),
        (OSError("odd"), "odd", ""),
        (MemoryError(), "the memory is exhausted", "lower --batch-size"),
        (KeyError("lr"), "KeyError: 'lr'", "see where with --traceback"),
        (ValueError("one\n  two"), "ValueError: one two", "see where with --traceback"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Exception) else "",
)
def test_an_error_of_the_system_becomes_a_fact_and_a_remedy(fail, error, fact, remedy):
    known = console.explain(error)
    assert (known.fact, known.remedy, known.exit_code) == (fact, remedy, 1)
    assert "Traceback" not in fail(error)[2]


def test_the_memory_of_a_gpu_is_memory_too():
    class OutOfMemoryError(RuntimeError):
        """As torch names it."""

    assert console.explain(OutOfMemoryError("CUDA out of memory")).remedy == "lower --batch-size"


def test_traceback_shows_where_an_error_comes_from_and_no_longer_how_to_see_it(fail):
    code, out, err = fail(KeyError("lr"), "--traceback")
    assert (code, out) == (1, "")
    assert err.startswith("Traceback (most recent call last)")
    assert err.endswith("error: KeyError: 'lr'\n")
    assert fail(KeyError("lr"))[2] == "error: KeyError: 'lr'\nsee where with --traceback\n"


@pytest.mark.parametrize(
    ("returned", "code"), [(None, 0), (0, 0), (3, 3), (5, 5)], ids=["none", "0", "3", "5"]
)
def test_what_a_command_returns_is_the_exit_code(returned, code):
    assert console.run(lambda: returned, []) == code
    assert console.call(lambda flags: returned, {}) == code


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (float("nan"), "null"),
        (float("inf"), "null"),
        (-float("inf"), "null"),
        (0.1, "0.1"),
        ([1.0, float("nan")], "[1.0, null]"),
        ((1, float("inf")), "[1, null]"),
        ({"loss": float("nan"), "n": 2}, '{"loss": null, "n": 2}'),
        (None, "null"),
        (True, "true"),
    ],
    ids=repr,
)
def test_a_number_that_json_lacks_is_null_at_any_depth(capfd, value, written):
    console.print_json({"value": value})
    assert capfd.readouterr().out == f'{{"value": {written}}}\n'


plain_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # JSON reads a pair of surrogates as one character.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab\n"), inner, max_size=3),
    max_leaves=8,
)


@given(plain_json)
def test_an_object_is_one_line_that_reads_back(value):
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "print_result", lines.append)
        console.print_json({"value": value})
    assert len(lines[0].splitlines()) == 1
    assert json.loads(lines[0]) == {"value": value}


def test_stdout_carries_the_result_only(capfd):
    def command(flags: object) -> None:
        sys.stdout.write("noise of a library\n")
        console.say("progress")
        console.warn("odd")
        console.print_result("result")

    assert console.call(command, {}) == 0
    captured = capfd.readouterr()
    assert captured.out == "result\n"
    assert captured.err == "noise of a library\nprogress\nwarning: odd\n"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], ""),
        ([("a", "b"), ("long", "c")], "a     b\nlong  c\n"),
        ([("a", "b", "c"), ("long",)], "a     b  c\nlong\n"),
        ([("a", "")], "a\n"),
    ],
)
def test_rows_are_printed_in_columns_as_wide_as_they_need(capfd, rows, text):
    console.print_columns(rows)
    assert capfd.readouterr().out == text


def test_a_table_off_a_terminal_is_plain_text(capfd):
    console.print_table(("", "loss"), [("validation", "0.5"), ("test", "12.5")], title="cnn")
    assert capfd.readouterr().out == "cnn\n            loss\nvalidation  0.5\ntest        12.5\n"


TABLE = """
from rdfia_cli import console
console.print_table(("", "loss"), [("test", "0.5")], title="cnn on digits")
"""
BAR = """
import time
from rdfia_cli.commands.progress import display
with display(quiet={quiet}):
    time.sleep(0.3)
"""
COLOUR = re.compile(r"\x1b\[[\d;]*(3[0-8]|4[0-8]|9[0-7])[\d;]*m")


def test_a_table_on_a_terminal_is_drawn_with_its_title():
    shown = on_terminal(TABLE)
    assert "─" in shown
    for text in ("cnn on digits", "loss", "test", "0.5"):
        assert text in shown


@pytest.mark.parametrize("columns", ["20", "60", "200"])
def test_a_name_and_a_number_are_whole_on_a_terminal_however_narrow(columns):
    name, number, text = "folder-0123456789abcdef", "70,000,000", "all that is said of it " * 3
    program = (
        "from rdfia_cli import console\n"
        f"console.print_table(('store', 'images', 'rest'), [({name!r}, {number!r}, {text!r})])\n"
    )
    shown = on_terminal(program, COLUMNS=columns)
    assert name in shown
    assert number in shown
    assert "…" not in shown
    assert set(text.split()) <= set(shown.split()), "what does not fit is folded"


def test_the_bar_on_a_terminal_has_colours_unless_no_color_is_set():
    program = BAR.format(quiet=False)
    coloured, plain = on_terminal(program), on_terminal(program, NO_COLOR="1")
    assert "preparing" in coloured
    assert "preparing" in plain
    assert COLOUR.search(coloured)
    assert not COLOUR.search(plain)


@pytest.mark.parametrize(
    ("quiet", "environment"), [(True, {}), (False, {"TERM": "dumb"})], ids=["quiet", "dumb"]
)
def test_nothing_moves_where_nothing_should(quiet, environment):
    assert on_terminal(BAR.format(quiet=quiet), **environment) == ""


@pytest.mark.parametrize(
    ("command", "code", "out"),
    [
        ("rdfia list | head -1", 0, "models\n"),
        ("rdfia list | true", 0, ""),
        ("rdfia list --json | true", 0, ""),
        ("(sleep 0.3; rdfia train cnnn --json) | true", 4, ""),
        ("rdfia list > /dev/full", 1, ""),
        ("rdfia list --json > /dev/full", 1, ""),
        ("rdfia train cnnn --json > /dev/full", 4, ""),
    ],
)
def test_a_closed_pipe_or_a_full_disk_brings_no_traceback(command, code, out):
    finished = shell(command)
    assert (finished.returncode, finished.stdout) == (code, out)
    assert "Traceback" not in finished.stderr
    assert "Exception ignored" not in finished.stderr
    assert len(finished.stderr.splitlines()) <= 2


def test_a_path_that_is_no_text_can_be_told_in_json():
    finished = shell("rdfia train --json --config $'\\xff.toml'", PYTHONIOENCODING="utf-8:strict")
    assert finished.returncode == 2
    assert json.loads(finished.stdout)["message"] == "config file '\udcff.toml' does not exist"
    assert "Traceback" not in finished.stderr


def test_ctrl_c_says_so_and_ends_as_the_signal_would():
    program = (
        "import os, signal\n"
        "from rdfia_cli import console\n"
        # Whoever runs the tests in the background of a shell script ignores it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "console.run(lambda: os.kill(os.getpid(), signal.SIGINT), [])\n"
        "print('went on')\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert finished.returncode == -signal.SIGINT
    assert (finished.stdout, finished.stderr) == ("", "interrupted\n")


def test_a_run_that_ctrl_c_preempted_stops_the_loop_of_a_shell_too():
    program = (
        "import signal\n"
        "from rdfia_cli import console\n"
        "from rdfia_cli.errors import PreemptedError\n"
        "def stop(): raise PreemptedError('asked to stop', 'run it again', signal.SIGINT)\n"
        "console.run(stop, ['--json'])\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert finished.returncode == -signal.SIGINT
    # What a shell has in $? after a process that ended by SIGINT.
    assert json.loads(finished.stdout)["exit_code"] == 128 + signal.SIGINT


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("rdfia train cn", ["cnn"]),
        ("rdfia train --optimizer ad", ["adam", "adamw"]),
        ("rdfia train --data d", ["digits"]),
        ("rdfia train --augment random_c", ["random_crop"]),
        ("rdfia train --schedule cos", ["cosine"]),
        ("rdfia tr", ["train"]),
    ],
)
def test_completion_offers_what_is_installed(words, offered):
    finished = shell(
        "rdfia",
        _RDFIA_COMPLETE="complete_bash",
        COMP_WORDS=words,
        COMP_CWORD=str(words.count(" ")),
    )
    assert finished.stdout.split() == offered
    assert finished.stderr == ""


@pytest.mark.parametrize(
    ("name", "known", "lister", "told"),
    [
        ("cnnn", ["cnn", "vit"], "", "did you mean 'cnn'?"),
        ("zzz", ["vit", "cnn"], "", "choose from cnn, vit"),
        ("zzz", [], "rdfia list", "there is none to choose from"),
        (
            "zzz",
            map(str, range(12)),
            "rdfia list",
            "choose from 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11",
        ),
        ("zzz", map(str, range(13)), "rdfia list", "see rdfia list"),
    ],
)
def test_an_unknown_name_comes_with_a_way_out(name, known, lister, told):
    assert nearest(name, known, lister).startswith(told)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_does_not_stop_a_command(closed):
    assert shell(f"rdfia list {closed}").returncode == 0
    assert shell(f"rdfia train cnnn {closed}").returncode == 4


@pytest.mark.parametrize(
    ("seconds", "said"), [(4, "4 s"), (4.4, "4.4 s"), (65, "1 min 5 s"), (7300, "2 h 1 min")]
)
def test_a_duration_has_two_units_at_most(seconds: float, said: str):
    assert console.duration(seconds) == said
