"""What tests share: a command line run in this process, and one run as a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rdfia_cli import console
from rdfia_cli.app import app

# Test files run side by side: more threads than one each would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# MKL reads this at its first product, which may be a test's own.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind: its exit code, its stdout and its stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The object on the last line of stdout."""
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test stands in an empty folder, with no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for variable in os.environ:
        if variable.startswith("RDFIA_") and variable != "RDFIA_TEST_DATA":
            monkeypatch.delenv(variable)
    return tmp_path


@pytest.fixture
def rdfia(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `rdfia ARGUMENTS` in this process."""

    def run(*arguments: str) -> Outcome:
        capfd.readouterr()
        code = console.run(lambda: app(list(arguments), standalone_mode=False), list(arguments))
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return run


@pytest.fixture
def rdfia_process(tmp_path: Path) -> Callable[..., Outcome]:
    """Run `rdfia ARGUMENTS` as a process of its own; `environment` is added to the present one."""

    def run(*arguments: str, **environment: str) -> Outcome:
        finished = subprocess.run(
            [sys.executable, "-m", "rdfia_cli", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **environment},
            timeout=240,
            check=False,
        )
        return Outcome(finished.returncode, finished.stdout, finished.stderr)

    return run


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small batches on several threads wait for one another where the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
