"""A worker's death is noticed, told and cleaned up after, whatever it was."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rdfia_cli.config import resolve
from rdfia_cli.sources import Sources
from rdfia_cli.sweep.messages import Job
from rdfia_cli.sweep.process import JobDied, Report, Workers
from rdfia_cli.sweep.trial import Trial, TrialEpoch

MODELS = """
import os, pathlib, time
from torch import nn

def fork():
    child = os.fork()
    if child:
        pathlib.Path("child").write_text(str(child))
    else:
        time.sleep(120)
        os._exit(0)

def forks_and_dies(input):
    fork()
    os._exit(7)

def forks_and_hangs(input):
    fork()
    time.sleep(120)

def gets_a_signal_without_a_name(input):
    os.kill(os.getpid(), 40)
"""

TELLS_EPOCHS_AND_HANGS = """#!{python} -S
import json, socket, sys, time
sweep = socket.socket(fileno=int(sys.argv[3]))
sweep.recv(1 << 16)
epoch = {{"told": "TrialEpoch", "number": 0, "epochs": 9, "loss": None, "accuracy": None}}
for number in range(1, 9):
    time.sleep(0.5)
    sweep.sendall(json.dumps({{**epoch, "epoch": number}}).encode() + b"\\n")
time.sleep(120)
"""


@pytest.fixture
def make_workers(tmp_path: Path) -> Iterator[Callable[..., Workers]]:
    """Workers that are gone after the test."""
    made: list[Workers] = []

    def make(**settings: float) -> Workers:
        made.append(Workers(1, tmp_path / "logs", **settings))
        return made[-1]

    yield make
    for workers in made:
        workers.close()


def job(folder: Path, model: str, **settings: object) -> Job:
    (folder / "models.py").write_text(MODELS)
    texts = [f"{key}={value}" for key, value in settings.items()]
    flags = {"model": f"./models.py:{model}", "data": "circles", "out": str(folder / "run")}
    return Job("process", "structure", [Trial(0, resolve(Sources(flags, texts)).config)])


def hear(workers: Workers, seconds: float = 240.0) -> Iterator[Report]:
    """What is told until a job is over."""
    end = time.monotonic() + seconds
    while workers.idle < workers.count:
        assert time.monotonic() < end, "nobody noticed"
        yield from workers.reports(0.3)


def is_gone(process: int) -> bool:
    """Whether a process ended, though perhaps nobody has asked how."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def wait_until_gone(process: int) -> None:
    end = time.monotonic() + 10
    while not is_gone(process):
        assert time.monotonic() < end, "it goes on"
        time.sleep(0.01)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@needs_proc
def test_a_death_is_noticed_and_orphans_end_though_they_hold_the_channel(tmp_path, make_workers):
    workers = make_workers()
    workers.submit(job(tmp_path, "forks_and_dies"))
    *_, (_, told) = hear(workers)
    assert isinstance(told, JobDied)
    assert "ended with 7" in told.reason
    wait_until_gone(int((tmp_path / "child").read_text()))


@needs_proc
def test_what_a_worker_forked_ends_with_it(tmp_path, make_workers):
    workers = make_workers()
    workers.submit(job(tmp_path, "forks_and_hangs"))
    end = time.monotonic() + 240
    while not (tmp_path / "child").exists():
        assert time.monotonic() < end
        workers.reports(0.05)
    workers.close()
    wait_until_gone(int((tmp_path / "child").read_text()))


@needs_proc
def test_a_signal_without_a_name_is_told_by_its_number(tmp_path, make_workers):
    assert 40 not in {*signal.Signals}
    workers = make_workers()
    workers.submit(job(tmp_path, "gets_a_signal_without_a_name"))
    *_, (_, told) = hear(workers)
    assert isinstance(told, JobDied)
    assert told.reason.startswith("its process was killed by signal 40")


def test_a_worker_that_goes_on_is_left_alone_and_one_that_hangs_is_told_soon(
    tmp_path, make_workers, monkeypatch
):
    script = tmp_path / "worker"
    script.write_text(TELLS_EPOCHS_AND_HANGS.format(python=sys.executable))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    workers = make_workers(timeout=3.0)
    one = job(tmp_path, "forks_and_dies")
    many = Job("stacked", one.structure, [replace(one.trials[0], number=n) for n in range(8)])
    began = time.monotonic()
    workers.submit(many)
    *epochs, (_, last) = hear(workers)
    assert [told.epoch for _, told in epochs if isinstance(told, TrialEpoch)] == [*range(1, 9)]
    assert last == JobDied("timeout", "no epoch ended for 3 s")
    assert time.monotonic() - began < 2 * 3 + 4 + 2
