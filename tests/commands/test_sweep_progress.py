"""What a sweep says while it runs."""

from __future__ import annotations

import pytest
from rich.console import Console

from rdfia_cli.commands.sweep_progress import Standing, _line, _lines, _render
from rdfia_cli.sweep.campaign import Planned
from rdfia_cli.sweep.round import EndedElsewhere, Retried
from rdfia_cli.sweep.trial import (
    Chosen,
    TrialEpoch,
    TrialFailed,
    TrialFinished,
    TrialPruned,
    TrialStarted,
)


def planned(count: int) -> dict[int, dict[str, str]]:
    return {n: {"optimizer.lr": f"0.{n + 1}"} for n in range(count)}


def finished(number: int, accuracy: float) -> TrialFinished:
    return TrialFinished(number, {"validation": {"accuracy": accuracy, "loss": 1.0}})


@pytest.fixture
def standing() -> Standing:
    found = Standing(4, ["optimizer.lr"])
    found.note(Planned(planned(4), ended=1))
    return found


def test_it_counts_what_ended_and_knows_the_best(standing: Standing):
    for event in (
        TrialStarted(1, 10),
        TrialStarted(2, 10),
        TrialStarted(3, 10),
        TrialEpoch(3, 5, 10, 0.5, 0.7),
        finished(1, 0.8),
        TrialFailed(2, "diverged", "the loss became nan"),
    ):
        standing.note(event)
    assert (standing.ended, standing.failed, standing.best) == (3, 1, (1, 0.8))
    assert list(standing.running) == [3]
    assert standing.progress == pytest.approx(3.5)
    assert standing.seconds_left is not None


def test_it_counts_the_trials_that_another_process_ended(standing: Standing):
    standing.note(EndedElsewhere(1, "finished"))
    standing.note(EndedElsewhere(2, "failed"))
    assert (standing.ended, standing.failed) == (3, 1)


def test_a_sweep_that_goes_on_knows_the_best_of_all_trials_before_and_elsewhere():
    found = Standing(4, ["optimizer.lr"])
    found.note(Planned(planned(4), ended=1, best=(0, 0.9)))
    assert found.best == (0, 0.9)
    found.note(finished(1, 0.8))
    assert found.best == (0, 0.9)
    found.note(EndedElsewhere(2, "finished", 0.95))
    assert found.best == (2, 0.95)


def test_before_the_first_epoch_nobody_knows_how_long_it_takes(standing: Standing):
    assert standing.seconds_left is None


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (finished(1, 0.8), "trial 1  optimizer.lr=0.2  validation accuracy 0.8000  2/4"),
        (TrialPruned(2, 3), "trial 2  optimizer.lr=0.3  pruned after epoch 3"),
        (TrialFailed(2, "crash", "killed"), "warning: trial 2 failed: killed"),
        (Retried(2, "killed"), "warning: trial 2 is tried again: killed"),
        (Chosen("stacked", "5 times the speed"), "engine stacked: 5 times the speed"),
        (TrialStarted(2, 10), None),
    ],
)
def test_a_line_for_each_event_that_matters(standing: Standing, event, expected):
    standing.note(event)
    assert _line(standing, event) == expected


def test_what_ended_before_is_told_once_however_many_rounds_follow(capsys):
    show = _lines(Standing(4, ["optimizer.lr"]))
    for number in (1, 2):
        show(Planned(planned(4), ended=number))
    assert capsys.readouterr().err == "1 trial ended before\n"


def test_a_trial_is_told_with_the_settings_of_its_model():
    found = Standing(2, ["model", "optimizer.lr"])
    models = ("mlp:hidden=4", "mlp:hidden=5")
    rates = ("0.123456789", "1e-3")
    given = {n: {"model": models[n], "optimizer.lr": rates[n]} for n in range(2)}
    found.note(Planned(given, ended=0))
    assert found.settings(0) == "model=mlp:hidden=4 optimizer.lr=0.1235"
    assert found.settings(1) == "model=mlp:hidden=5 optimizer.lr=0.001"


def test_the_live_table_fits_its_terminal_and_tells_the_numbers(standing: Standing):
    standing.note(TrialEpoch(3, 5, 10, 0.5, 0.7))
    standing.note(finished(1, 0.8))
    screen = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    screen.print(_render(standing, "sweeps/x"))
    shown = screen.export_text().splitlines()
    assert shown[0] == "sweeps/x"
    assert "2/4 trials" in shown[1]
    assert "best 0.8000 (trial 1: optimizer.lr=0.2)" in shown[1]
    assert any("5/10" in line and "0.7000" in line for line in shown)
    screen.file.close()
