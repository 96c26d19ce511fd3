"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rdfia_cli import durable

LIMIT = 4096
WRITE_TOO_MUCH = """
import pathlib, sys
from rdfia_cli import durable
try:
    durable.write_file(pathlib.Path("file"), b"new" * 4000)
except OSError as error:
    sys.exit(error.errno)
"""
KILL_BEFORE_THE_RENAME = """
import os, pathlib, signal
from rdfia_cli import durable
pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
durable.write_file(pathlib.Path("file"), b"new")
"""


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def run_python(program: str, **more) -> int:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, check=False, **more).returncode


def everything_under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_written_file_holds_its_content_and_nothing_lies_beside_it(tmp_path: Path):
    durable.write_file(tmp_path / "file", b"old")
    durable.write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert everything_under(tmp_path) == {"file"}


def test_a_disk_that_refuses_leaves_no_file(tmp_path: Path):
    code = run_python(WRITE_TOO_MUCH, preexec_fn=limit_file_size)
    assert code == 27, "27 is EFBIG"
    assert everything_under(tmp_path) == set()


def test_a_disk_that_refuses_leaves_the_old_file_as_it_was(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"old")
    assert run_python(WRITE_TOO_MUCH, preexec_fn=limit_file_size) == 27
    assert (tmp_path / "file").read_bytes() == b"old"
    assert everything_under(tmp_path) == {"file"}


def test_a_process_killed_while_it_writes_leaves_the_old_file_as_it_was(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"old")
    assert run_python(KILL_BEFORE_THE_RENAME) == -signal.SIGKILL
    assert (tmp_path / "file").read_bytes() == b"old"
    durable.write_file(tmp_path / "file", b"newer")
    assert everything_under(tmp_path) == {"file"}, "what the killed process left is cleaned up"


def test_a_full_disk_names_what_could_not_be_written(tmp_path: Path, monkeypatch):
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left") as caught:
        durable.write_file(tmp_path / "file", b"new")
    assert caught.value.filename == str(tmp_path / "file")


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (OSError(errno.ENOSPC, "full"), "run"),
        (OSError(errno.ENOSPC, "full", "other"), "other"),
        (OSError(errno.EPIPE, "no reader"), None),
    ],
    ids=str,
)
def test_a_full_disk_without_a_name_gets_that_of_the_place(error: OSError, named: str | None):
    with pytest.raises(OSError, match=error.strerror), durable.naming(Path("run")):
        raise error
    assert error.filename == named
