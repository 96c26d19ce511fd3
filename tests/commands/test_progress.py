"""What is seen of a run while it goes on."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from rdfia_cli import console
from rdfia_cli.commands.progress import REFRESHES_PER_SECOND, display
from rdfia_cli.experiment import Started
from rdfia_cli.spec import Preparing

pytestmark = pytest.mark.usefixtures("one_thread")


def started(**more: int) -> Started:
    numbers = {"epochs": 5, "steps_per_epoch": 40, "epochs_done": 0, "steps_done": 0, **more}
    return Started(folder=Path("run"), parameters=502, precision="fp32", device="cpu", **numbers)


def announced(event: Started, capfd: pytest.CaptureFixture[str]) -> str:
    with display(quiet=False) as show:
        show(event)
    return capfd.readouterr().err


def test_one_of_a_kind_is_said_in_the_singular(capfd):
    told = announced(started(epochs=1, steps_per_epoch=1), capfd)
    assert "502 parameters, 1 epoch of 1 step, fp32 on cpu" in told


@pytest.mark.parametrize(
    ("done", "told"),
    [
        ({}, "on cpu\n"),
        ({"epochs_done": 2}, "on cpu, going on after epoch 2\n"),
        ({"steps_done": 28}, "on cpu, going on at step 29 of epoch 1\n"),
        ({"epochs_done": 2, "steps_done": 28}, "on cpu, going on at step 29 of epoch 3\n"),
    ],
    ids=str,
)
def test_a_run_that_goes_on_says_from_where(capfd, done, told):
    assert announced(started(**done), capfd).endswith(told)


def test_on_a_narrow_terminal_the_numbers_of_a_split_stay_together(rdfia, monkeypatch):
    monkeypatch.setattr(console, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    found = rdfia("train", "mlp", "--data", "circles", "--epochs", "1", "--out", "run")
    splits = [line for line in found.err.splitlines() if " loss " in line]
    assert max(map(len, splits)) <= 80
    named = [re.findall(r"(\w+) loss \d\.\d{4} accuracy \d\.\d{4}", line) for line in splits]
    assert [name for names in named for name in names] == ["train", "validation", "test"]


def test_on_a_terminal_the_line_of_each_epoch_stays_above_the_bar(rdfia, monkeypatch):
    monkeypatch.setattr(console, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    found = rdfia("train", "mlp", "--data", "circles", "--epochs", "3", "--out", "run")
    epochs = [line for line in found.err.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in epochs] == ["1/3", "2/3", "3/3"]
    assert all("validation loss" in line for line in epochs)


@pytest.mark.parametrize("name", ["[bold]photos", "[/photos]"])
def test_what_a_user_calls_a_thing_is_no_markup_of_the_bar(capfd, monkeypatch, name):
    monkeypatch.setattr(console, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")  # else a bar is drawn on terminals alone
    with display(quiet=False) as show:
        show(Preparing(f"reading {name}", 3, 8, "images"))
        time.sleep(3 / REFRESHES_PER_SECOND)
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capfd.readouterr().err)
    assert f"reading {name}" in drawn
    assert "3/8 images" in drawn


def test_the_help_says_where_a_new_run_goes(rdfia):
    assert "DIR-2" in rdfia("train", "--help").out
