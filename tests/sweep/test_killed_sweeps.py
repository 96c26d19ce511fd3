"""Killed at any instant, a sweep that is started again ends as if nobody had killed it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from rdfia_cli.sweep.ledger import LEDGER, decode

SWEEP = (
    *("sweep", "mlp", "--data", "circles", "--epochs", "3", "--batch-size", "20", "-q"),
    *("--over", "optimizer.lr=log:0.001..1", "--workers", "2", "--retries", "1000"),
)


def start(out: str, trials: int, backend: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "rdfia_cli", *SWEEP),
            *("--trials", str(trials), "--backend", backend, "--out", out),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def children(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children")
    with contextlib.suppress(OSError):
        return [int(child) for child in listed.read_text().split()]
    return []


def break_often(out: str, trials: int, backend: str, kills: int, seed: int) -> int:
    """Kill the sweep, or one of its workers, at random instants; returns how often."""
    chance, done = random.Random(seed), 0
    process = start(out, trials, backend)
    while done < kills:
        time.sleep(chance.uniform(0, 6) if chance.random() < 0.5 else chance.uniform(3, 4))
        if process.poll() is not None:
            assert process.returncode == 0
            return done
        workers = children(process.pid)
        victim = chance.choice([process.pid, *workers])
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            done += 1
        if victim == process.pid:
            process.wait()
            process = start(out, trials, backend)
    assert process.wait(timeout=280) == 0
    return done


def check_broken_equals_unbroken(tmp_path: Path, trials: int, backend: str, kills: int) -> int:
    broken, whole = tmp_path / "sweep", tmp_path / "whole"
    done, seed = 0, 0
    assert start("sweep", trials, backend).wait(timeout=280) == 0
    broken.rename(whole)
    while done < kills:
        if broken.exists():
            subprocess.run(["rm", "-rf", str(broken)], check=True)
        done += break_often("sweep", trials, backend, kills - done, seed)
        seed += 1
        _compare(whole, broken, trials)
    return done


def _compare(whole: Path, broken: Path, trials: int) -> None:
    assert (broken / "trials.csv").read_bytes() == (whole / "trials.csv").read_bytes()
    for number in range(trials):
        digests = [
            json.loads((folder / f"trials/{number:04d}/result.json").read_text())["weights_sha256"]
            for folder in (whole, broken)
        ]
        assert digests[0] == digests[1], number
    records = [decode(line) for line in (broken / LEDGER).read_bytes().splitlines()]
    ends = Counter(r["trial"] for r in records if r and r["event"] == "finished")
    assert ends == Counter(range(trials))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
@pytest.mark.parametrize("backend", ["process", "stacked"])
def test_a_sweep_killed_at_random_instants_ends_with_the_same_table_and_weights(tmp_path, backend):
    assert check_broken_equals_unbroken(tmp_path, 12, backend, kills=3) == 3


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("backend", ["process", "stacked"])
def test_a_hundred_kills_for_each_engine_lose_nothing(tmp_path, backend):
    assert check_broken_equals_unbroken(tmp_path, 60, backend, kills=100) == 100
