"""`rdfia report`: a page for a run, for several runs, for a sweep, and words where it cannot be."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rdfia_cli import console, run
from rdfia_cli.app import app

pytestmark = pytest.mark.usefixtures("one_thread")

FILES_ALONE = ["curves", "again", "settings", "environment"]


def train(folder: Path, *arguments: str) -> Path:
    command = ["train", *arguments, "--out", str(folder), "-q", "--json"]
    assert console.run(lambda: app(command, standalone_mode=False), command) == 0
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a small Vision Transformer on digits."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    return train(folder, "vit:dim=8,depth=1,heads=2,patch=4", "--epochs", "1")


@pytest.fixture
def own(digits: Path, tmp_path: Path) -> Path:
    """A copy of that run to change."""
    return Path(shutil.copytree(digits, tmp_path / "own"))


def sections(page: str) -> list[str]:
    return [part.partition('"')[0] for part in page.split('<section id="')[1:]]


def test_the_page_of_a_run_shows_everything_that_there_is(rdfia: Callable, own: Path):
    found = rdfia("report", str(own), "--json")
    assert found.code == 0, found.err
    assert found.json["schema"] == "rdfia.report/1"
    assert found.json["kind"] == "run"
    assert found.json["page"] == str(own / "report.html")
    assert found.json["bytes"] == (own / "report.html").stat().st_size
    shown = ["curves", "confusion", "calibration", "mistakes", "filters", "attention", "layers"]
    assert found.json["sections"] == [*shown, *FILES_ALONE[1:]]
    page = (own / "report.html").read_text(encoding="utf-8")
    assert sections(page) == found.json["sections"]
    accuracy = json.loads((own / "result.json").read_bytes())["test"]["accuracy"]
    assert f"{100 * accuracy:.2f}%" in page
    assert "patch_embedding.weight" in page


def test_training_leaves_a_page_of_what_its_files_tell(digits: Path):
    assert sections((digits / "report.html").read_text(encoding="utf-8")) == FILES_ALONE


def test_a_perceptron_of_points_has_a_decision_map_and_no_pictures(rdfia: Callable, tmp_path: Path):
    folder = train(tmp_path / "run", "mlp", "--data", "circles", "--epochs", "1")
    found = rdfia("report", str(folder), "--json", "--out", "page.html").json["sections"]
    assert {"decision", "confusion", "calibration", "layers"} <= {*found}
    assert {"mistakes", "filters", "attention"}.isdisjoint(found)


def test_several_runs_are_compared_in_one_page(rdfia: Callable, own: Path, digits: Path):
    found = rdfia("report", str(own), str(digits), "--title", "two <b>runs</b>")
    assert found.code == 0
    assert found.out == "report.html\n"
    page = Path("report.html").read_text(encoding="utf-8")
    assert sections(page) == ["results", "curves", "again", "runs"]
    assert "<h1>two &lt;b&gt;runs&lt;/b&gt;</h1>" in page
    assert 'id="run-1-confusion"' in page


def test_a_sweep_is_told_by_its_files_alone(rdfia: Callable, example_sweep: Callable):
    folder = example_sweep()
    found = rdfia("report", str(folder), "--json")
    assert found.code == 0, found.err
    shown = ["best", "settings", "two", "parallel", "curves", "ranking", "failures"]
    assert found.json["sections"] == shown
    assert sections((folder / "report.html").read_text(encoding="utf-8")) == shown


def test_without_sound_weights_the_rest_is_shown_and_the_lack_is_told(rdfia: Callable, own: Path):
    shutil.rmtree(own / "checkpoints")
    found = rdfia("report", str(own), "--json")
    assert found.code == 0
    (line,) = found.err.splitlines()
    assert line.startswith(f"warning: '{own}': its weights are not looked into")
    assert "has no checkpoint" in line
    assert found.json["sections"] == ["curves", "layers", *FILES_ALONE[1:]]
    assert "has no checkpoint" in (own / "report.html").read_text(encoding="utf-8")


def test_a_run_whose_model_is_gone_is_told_by_its_files(rdfia: Callable, own: Path):
    config = (own / "config.toml").read_text(encoding="utf-8")
    ours = '[model]\nname = "./my_model.py:build"\nwidth = 8\n'
    (own / "config.toml").write_text(re.sub(r"\[model\][^\[]*", f"{ours}\n", config))
    found = rdfia("report", str(own), "--json")
    assert found.code == 0, found.err
    assert found.json["sections"] == FILES_ALONE
    assert all("cannot read './my_model.py'" in note for note in found.json["notes"])
    page = (own / "report.html").read_text(encoding="utf-8")
    assert "./my_model.py:build:width=8 on digits" in page
    assert "cannot read" in page


def test_a_run_that_is_being_written_is_left_alone(rdfia_process: Callable, own: Path):
    before = (own / "report.html").read_bytes()
    with run.claim(own):
        found = rdfia_process("report", str(own), "-q")
    assert found.code == 1
    assert "another process is writing" in found.err
    assert (own / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["absent"], 2, "no run at 'absent'"),
        (["."], 2, "'.' is not a run folder"),
        (["own", "own"], 2, "'own' is given twice"),
        (["own", "./own/"], 2, "is given twice"),
        (["own", "--out", "page.pdf"], 2, "cannot write 'page.pdf'"),
        (["own", "--out", "absent/page.html"], 2, "cannot write 'absent/page.html'"),
        (["own", "--device", "tpu"], 2, "it should be auto"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_told_in_two_lines(rdfia: Callable, own: Path, arguments, code, told):
    before = (own / "report.html").read_bytes()
    found = rdfia("report", *arguments)
    assert found.code == code
    assert told in found.err
    assert len(found.err.splitlines()) <= 2
    assert (own / "report.html").read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", '{"trials": [{}]}', '{"trials": 3}'])
def test_a_damaged_sweep_is_named(rdfia: Callable, tmp_path: Path, content: str):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text(content)
    found = rdfia("report", "sweep")
    assert found.code == 2
    assert "'sweep/sweep.json' is damaged" in found.err


def test_damaged_metrics_are_named(rdfia: Callable, own: Path):
    (own / "metrics.jsonl").write_text("{torn\n")
    found = rdfia("report", str(own))
    assert found.code == 2
    assert "metrics.jsonl' is damaged" in found.err


def test_a_sweep_stands_alone(rdfia: Callable, example_sweep: Callable, own: Path):
    folder = example_sweep(trials=4)
    found = rdfia("report", str(own), str(folder))
    assert found.code == 2
    assert "is a sweep, among others" in found.err


def test_of_many_runs_no_model_is_looked_into_and_that_is_told(
    rdfia: Callable, example_run: Callable
):
    folders = [str(example_run(f"run-{i}", seed=str(i), epochs=1)) for i in range(7)]
    found = rdfia("report", *folders, "--json")
    assert found.code == 0, found.err
    told = "no model is looked into: that is for at most 6 runs"
    assert found.json["notes"] == [told]
    assert found.err == f"warning: {told}\n"
    assert told in Path("report.html").read_text(encoding="utf-8")


def test_a_page_that_is_slow_to_show_is_told(rdfia: Callable, own: Path, monkeypatch):
    monkeypatch.setattr("rdfia_cli.report.page.LARGEST", 10_000)
    found = rdfia("report", str(own), "--json")
    assert found.code == 0, found.err
    (note,) = found.json["notes"]
    assert "MB, slow to show" in note
