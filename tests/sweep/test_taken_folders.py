"""A trial whose run folder somebody else writes is waited for: it did not fail."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from rdfia_cli.sweep import ordinary
from rdfia_cli.sweep.ordinary import run_ordinary
from rdfia_cli.sweep.stacked import run_stacked
from rdfia_cli.sweep.stacking import preparation
from rdfia_cli.sweep.trial import Trial, TrialEvent, TrialFinished, TrialWarned

pytestmark = pytest.mark.usefixtures("one_thread")

HOLD = """
import sys
from pathlib import Path
from rdfia_cli import run
with run.claim(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold() -> Iterator[Callable[[Path], Callable[[], None]]]:
    """Have another process claim a run folder; returns what makes it let go."""
    holders: list[subprocess.Popen[str]] = []

    def start(folder: Path) -> Callable[[], None]:
        command = [sys.executable, "-c", HOLD, str(folder)]
        pipe = subprocess.PIPE
        holder = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holders.append(holder)
        return lambda: holder.communicate() and None

    yield start
    for holder in holders:
        holder.communicate()


def each_alone(trials: Sequence[Trial]) -> Iterator[TrialEvent]:
    for trial in trials:
        yield from run_ordinary(trial)


@pytest.mark.parametrize("engine", [each_alone, run_stacked])
def test_a_trial_that_another_process_writes_is_warned_of_and_waited_for(
    engine, make_trials, hold, monkeypatch
):
    for module in (ordinary, preparation):
        monkeypatch.setattr(module, "SECONDS_FOR_A_LOCK", 0.05)
    trials = make_trials([{"seed": n} for n in range(3)], "taken", epochs=1)
    let_go = hold(trials[1].folder)
    told: list[str] = []
    finished: list[int] = []
    for event in engine(trials):
        if isinstance(event, TrialWarned):
            assert event.number == 1
            told.append(event.text)
            if event.text.endswith("waited for"):
                let_go()
        elif isinstance(event, TrialFinished):
            finished.append(event.number)
    assert any("another process is writing" in text for text in told)
    assert sorted(finished) == [0, 1, 2]


@pytest.mark.parametrize("engine", [each_alone, run_stacked])
def test_a_folder_that_is_let_go_of_soon_is_nothing_to_tell(engine, make_trials, hold, monkeypatch):
    trials = make_trials([{"seed": n} for n in range(2)], "taken", epochs=1)
    let_go = hold(trials[0].folder)
    monkeypatch.setattr("rdfia_cli.run.time.sleep", lambda seconds: let_go())
    events = list(engine(trials))
    assert not [event for event in events if isinstance(event, TrialWarned)]
    assert len([event for event in events if isinstance(event, TrialFinished)]) == 2
