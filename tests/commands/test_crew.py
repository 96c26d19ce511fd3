"""Processes that share the work on many models: one order, one answer each, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdfia_cli.commands.crew import AT_MOST, ITEMS_EACH, Failed, crew_size, outcomes
from rdfia_cli.errors import ComponentError


def slower_when_smaller(number: int) -> int:
    time.sleep((10 - number) / 200)
    return number**2


def dying(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 5:
        os._exit(7)
    return number


def refusing(number: int) -> int:
    if number == 1:
        raise ComponentError("it has no layers", "add one", [("a.py", "is empty")])
    return number


def mistaken(number: int) -> int:
    return [10, 11][number]


def too_large(number: int) -> int:
    raise OSError(28, "No space left on device") if number else MemoryError


def blocked(number: int) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def worker_of(number: int) -> tuple[int, str]:
    time.sleep(0.2)  # time for the other one to begin too
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


def test_outcomes_come_in_the_order_of_the_items():
    assert list(outcomes(range(10), slower_when_smaller, 2)) == [n**2 for n in range(10)]


def test_there_are_as_many_processes_as_asked_for_with_one_thread_each():
    found = list(outcomes(range(40), worker_of, 2))
    assert len({process for process, _ in found} - {os.getpid()}) == 2
    assert {threads for _, threads in found} == {"1"}


def test_a_refusal_arrives_whole():
    first, refused, last = outcomes(range(3), refusing, 2)
    assert (first, last) == (0, 2)
    assert isinstance(refused, Failed) and isinstance(refused.error, ComponentError)
    assert (refused.error.fact, refused.error.remedy) == ("it has no layers", "add one")
    assert list(refused.error.files) == [("a.py", "is empty")]


def test_a_process_that_dies_takes_down_its_own_item_only():
    found = list(outcomes(range(8), dying, 2))
    told = [each.error.fact if isinstance(each, Failed) else each for each in found]
    killed, left = "its process ended with SIGKILL", "its process ended with exit code 7"
    assert told == [0, 1, 2, killed, 4, left, 6, 7]


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (mistaken, [10, 11, "IndexError: list index out of range"]),
        (too_large, ["the memory is exhausted", "No space left on device"]),
    ],
)
def test_what_nobody_foresaw_is_told_in_its_own_words(work, told):
    found = list(outcomes(range(len(told)), work, 2))
    assert [each.error.fact if isinstance(each, Failed) else each for each in found] == told


def test_ctrl_c_is_for_the_process_that_waits_alone():
    assert list(outcomes(range(8), blocked, 2)) == [True] * 8


def test_a_process_that_cannot_begin_ends_all_with_one_error(tmp_path: Path):
    """A script without the guard that the library asks for starts itself anew in each process."""
    (tmp_path / "unguarded.py").write_text(
        "from rdfia_cli.commands.crew import outcomes\n"
        "print(list(outcomes(range(40), abs, 2)), flush=True)\n"
    )
    command = [sys.executable, "unguarded.py"]
    finished = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.returncode == 1
    assert "of several that share the work, its process ended with exit code 1" in finished.stderr
    assert finished.stdout == ""


def test_malformed_metadata_of_anybody_stop_no_process(install, rdfia):
    install("broken", "", b"[console_scripts]\nno value at all\n")
    models = ["lenet"] * (2 * ITEMS_EACH)
    outcome = rdfia("param-count", *models, "--input", "1x28x28", "--json", "--depth", "0")
    assert outcome.code == 0, outcome.err
    assert [each["parameters"] for each in outcome.objects] == [61_706] * len(models)


def test_a_crew_is_worth_while_for_many_items_only(monkeypatch):
    monkeypatch.setattr("rdfia_cli.commands.crew.processors", lambda: 64)
    assert [crew_size(n) for n in (0, 1, ITEMS_EACH, 2 * ITEMS_EACH - 1)] == [1, 1, 1, 1]
    assert crew_size(2 * ITEMS_EACH) == 2
    assert crew_size(10_000) == AT_MOST
    monkeypatch.setattr("rdfia_cli.commands.crew.processors", lambda: 1)
    assert crew_size(10_000) == 1


SLEEPING = """
import os, pathlib, signal, sys, time
from rdfia_cli.commands.crew import outcomes

def sleep(number):
    pathlib.Path(str(os.getpid())).touch()
    time.sleep(float(sys.argv[1]))

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    list(outcomes(range(4), sleep, 2))
"""


@pytest.mark.parametrize(
    # Of a killed one they know when they have done what they are at.
    ("number", "seconds"),
    [(signal.SIGINT, "600"), (signal.SIGKILL, "2")],
)
def test_no_process_outlives_the_one_that_waits_for_it(tmp_path: Path, number, seconds):
    (tmp_path / "sleeping.py").write_text(SLEEPING)
    # A group of its own, all of which gets the signal, as from a terminal.
    waiting = subprocess.Popen(
        [sys.executable, "sleeping.py", seconds],
        cwd=tmp_path,
        process_group=0,
        stderr=subprocess.PIPE,
        text=True,
    )
    members = wait_for(lambda: [int(path.name) for path in tmp_path.glob("[0-9]*")], 2)
    if number == signal.SIGINT:
        os.killpg(waiting.pid, number)
    else:
        waiting.kill()
    said = waiting.communicate(timeout=60)[1]
    assert said.count("Traceback") == (number == signal.SIGINT)
    wait_for(lambda: [each for each in members if not is_alive(each)], 2)


def wait_for(look, number: int):
    """What is found, as soon as there are so many."""
    end = time.monotonic() + 60
    while len(found := look()) < number:
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def is_alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    if sys.platform == "linux":  # where one that nobody waits for stays in the list
        return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
