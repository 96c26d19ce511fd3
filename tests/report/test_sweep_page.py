"""The page of a sweep tells what became of its trials, whenever it was written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from markupsafe import escape

from rdfia_cli.report.page import render
from rdfia_cli.report.sweep import draw_sweep
from rdfia_cli.report.sweep_record import Sweep, read_sweep
from rdfia_cli.report.sweep_sections import sweep_page


@pytest.fixture
def changed(example_sweep: Callable) -> Callable[..., Sweep]:
    """A sweep of four trials whose object has other values of some keys."""

    def make(**content: Any) -> Sweep:
        folder = example_sweep(trials=4)
        path = folder / "sweep.json"
        path.write_text(json.dumps({**json.loads(path.read_bytes()), **content}))
        return read_sweep(folder)

    return make


def figures(sweep: Sweep) -> Mapping[str, tuple[str, str]]:
    return {figure.name: (figure.value, figure.about) for figure in sweep_page(sweep).figures}


def test_a_pruned_trial_is_told_with_its_epoch(changed: Callable):
    sweep = changed()
    sweep.trials[1].update(state="pruned", epoch=2)
    ranking = next(s for s in sweep_page(sweep).sections if s.anchor == "ranking")
    assert "pruned after epoch 2" in ranking.body


def test_the_reason_of_a_failure_is_shown_to_its_end(changed: Callable):
    reason = "the model './m.py:net' cannot be built: " + "RuntimeError: no such layer " * 6
    sweep = changed()
    sweep.trials[3]["message"] = reason
    page = render(sweep_page(sweep))
    assert escape(reason) in page
    (rule,) = re.findall(r"#failures td \{(.*?)\}", page)
    assert "white-space: normal" in rule


def test_its_time_is_that_of_its_trials_however_short_the_last_call_was(changed: Callable):
    sweep = changed(seconds=0.7, backend="process")
    for trial, seconds in zip(sweep.trials, (20.0, None, 13.0, 14.0), strict=True):
        trial.update(seconds=seconds, engine=None if seconds is None else "stacked")
    assert figures(sweep)["Training, all trials"] == ("47.0 s", "together in a stack")
    sweep.trials[0]["engine"] = "process"
    told = figures(sweep)["Training, all trials"]
    assert told == ("47.0 s", "1 each by itself, 2 together in a stack")


def test_the_median_of_an_even_number_of_trials_lies_between_two(changed: Callable):
    sweep = changed()
    for trial, accuracy in zip(sweep.trials, (0.4, 0.7, None, None), strict=True):
        trial.update(validation_accuracy=accuracy, state="finished" if accuracy else "failed")
    assert figures(sweep)["Median on validation"][0] == "55.00%"


def test_a_damaged_log_of_a_trial_costs_its_curve_alone(changed: Callable):
    sweep = changed()
    (sweep.folder / "trials/0001/metrics.jsonl").write_text("{\n{}\n")
    assert {path.name for path in draw_sweep(sweep.folder)} >= {"curves.png"}
