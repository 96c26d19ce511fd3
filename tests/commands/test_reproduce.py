"""`rdfia reproduce` measures, compares with the report, and skips what is complete."""

from __future__ import annotations

import html
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdfia_cli import recipe
from rdfia_cli.commands.reproduce_figure import changed_settings
from rdfia_cli.config import resolve
from rdfia_cli.report.figures import FIGURES, Curve, read_curve
from rdfia_cli.run import load_config
from rdfia_cli.sources import Sources

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = ("reproduce", "--quick", "-q", "--json", "--out", "f")


def make_photos(root: Path, classes: Sequence[str], *, side: int) -> None:
    """A folder of noise: twenty square images of each class."""
    draw = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(20):
            pixels = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")


def test_every_figure_has_a_recipe_and_every_recipe_of_the_report_a_figure():
    made = {figure.recipe for figure in FIGURES}
    assert made <= {*recipe.names()}
    # At 224 x 224 from scratch it takes days on a CPU, so it is made by name only.
    assert {*recipe.names()} - made <= {"vit-small-timm", "speedrun-cifar10"}
    assert [f.name for f in FIGURES[:17]] == [str(n) for n in range(1, 18)]


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_every_figure_resolves_on_the_embedded_data(figure):
    sources = Sources({}, assignments=figure.quick, recipe=figure.recipe, sweep=True)
    assert resolve(sources).config.data.name in ("circles", "digits")


def curve(test, train=None) -> Curve:
    return Curve(train or test, test, [1.0] * len(test), [1.0] * len(test))


@pytest.mark.parametrize(
    ("name", "curves", "holds"),
    [
        ("6", {"6": curve([0.4, 0.55])}, [True]),
        ("6", {"6": curve([0.4, 0.62])}, [False]),
        ("8", {"8": curve([0.5, 0.71], [0.6, 0.99])}, [True, True]),
        ("8", {"8": curve([0.5, 0.71], [0.6, 0.8])}, [False, True]),
        ("7", {"7": curve([0.7, 0.6, 0.7]), "8": curve([0.7, 0.69, 0.7])}, [True, True]),
        ("7", {"7": curve([0.7, 0.6, 0.7])}, [None, None]),
        ("17", {"17": curve([0.7, 0.8], [0.7, 0.9]), "16": curve([0.8, 0.8])}, [False, True]),
    ],
)
def test_a_statement_is_held_against_the_numbers(name, curves, holds):
    figure = next(f for f in FIGURES if f.name == name)
    assert [claim.judge(name, curves, {}).holds for claim in figure.claims] == holds


def test_a_curve_is_read_from_the_lines_of_epochs():
    score = {"accuracy": 0.5, "loss": 2.0}
    found = read_curve([{"step": 3, "loss": 1.0}, {"epoch": 1, "train": score, "test": score}])
    assert found == Curve([0.5], [0.5], [2.0], [2.0])


def test_figures_are_made_compared_and_not_made_twice(rdfia, tmp_path):
    command = ("reproduce", "1", "3", "--quick", "--epochs", "2", "-q", "--json", "--out", "f")
    outcome = rdfia(*command)
    assert outcome.code == 0, outcome.err
    first, third = outcome.json["figures"]
    assert (first["name"], third["name"]) == ("1", "3")
    result = json.loads((tmp_path / third["run"] / "result.json").read_text())
    assert third["test"] == result["test"]["accuracy"]
    assert third["gap"] == pytest.approx(third["train"] - third["test"])
    assert [claim["statement"] for claim in third["claims"]] == ["slow", "underfits"]
    assert all(claim["holds"] is not None for claim in third["claims"])
    assert third["changed"] == ["epochs=2 (the recipe has 150)"]
    page = (tmp_path / "f/index.html").read_text()
    assert "underfits" in page
    assert "epochs=2 (the recipe has 150)" in page
    assert not re.search(r"""(src|href)=["']?https?:""", page)
    assert (tmp_path / "f/figure-3.png").stat().st_size > 5_000
    written = (tmp_path / third["run"] / "result.json").stat().st_mtime_ns
    assert rdfia(*command).code == 0
    assert (tmp_path / third["run"] / "result.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("18",), "there is no figure '18'"),
        (("mlp-circle",), "did you mean 'mlp-circles'"),
        (("1", "--data", "cifar11=digits"), "is not NAME=SPEC"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(rdfia, tmp_path, arguments, said):
    outcome = rdfia("reproduce", *arguments)
    assert outcome.code == 2
    assert said in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_fails_takes_no_other_with_it(rdfia, tmp_path):
    (tmp_path / "f/runs/mlp-circles").mkdir(parents=True)
    (tmp_path / "f/runs/mlp-circles/letter.txt").write_text("dear")
    outcome = rdfia(*SHORT, "1", "3", "--epochs", "1")
    assert outcome.code == 3
    stored = outcome.json["figures"]
    assert json.loads((tmp_path / "f/reproduction.json").read_text())["figures"] == stored
    assert "neither empty nor a run folder" in stored[0]["error"]
    assert stored[1]["error"] is None
    assert stored[1]["claims"][0]["measured"] == "figure 1 failed"


def test_the_table_has_a_line_for_what_failed(rdfia, tmp_path):
    (tmp_path / "f/runs/mlp-circles").mkdir(parents=True)
    (tmp_path / "f/runs/mlp-circles/letter.txt").write_text("dear")
    outcome = rdfia("reproduce", "1", "3", "--quick", "-q", "--out", "f", "--epochs", "1")
    assert outcome.code == 3, outcome.err
    assert re.search(r"^1 +mlp-circles .*neither empty nor a run folder", outcome.out, re.MULTILINE)
    remedy = json.loads((tmp_path / "f/reproduction.json").read_bytes())["figures"][0]["remedy"]
    assert remedy
    assert remedy in html.unescape((tmp_path / "f/index.html").read_text())


def test_an_earlier_call_s_figures_stay_and_are_held_against_the_new_ones(rdfia, tmp_path):
    assert rdfia(*SHORT, "1", "--epochs", "2").code == 0
    picture = (tmp_path / "f/figure-1.png").read_bytes()
    outcome = rdfia(*SHORT, "3", "--epochs", "2")
    assert outcome.code == 0, outcome.err
    (made,) = outcome.json["figures"]
    assert all(claim["holds"] is not None for claim in made["claims"]), "figure 1 is there"
    stored = json.loads((tmp_path / "f/reproduction.json").read_bytes())["figures"]
    assert [each["name"] for each in stored] == ["1", "3"]
    assert (tmp_path / "f/figure-1.png").read_bytes() == picture
    again = rdfia(*SHORT, "3", "--epochs", "1", "--set", "if_exists=new").json["figures"][0]
    assert {claim["measured"] for claim in again["claims"]} == {
        "figure 1 was made with other settings"
    }
    (tmp_path / "f/reproduction.json").write_text('{"quick": true, "figures": [{"name": "1"}]}')
    assert rdfia(*SHORT, "3", "--epochs", "2").code == 0, "an older version's are left out"


def test_settings_with_which_nothing_can_be_made_are_refused_before_anything(rdfia, tmp_path):
    outcome = rdfia("reproduce", "1", "3", "--optimizer", "sdg")
    assert outcome.code == 4
    assert "did you mean 'sgd'?" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_else_is_refused(rdfia, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/index.html").write_text("dear")
    (tmp_path / "letter").write_text("dear")
    for out in ("mine", "letter"):
        outcome = rdfia("reproduce", "1", "--quick", "--out", out)
        assert outcome.code == 2
        assert "choose another --out" in outcome.err
    assert (tmp_path / "mine/index.html").read_text() == "dear"


def test_circles_from_a_folder_are_other_data_and_no_error(rdfia, tmp_path):
    make_photos(tmp_path / "photos", ("inner", "outer"), side=8)
    outcome = rdfia(*SHORT, "1", "--data", "circles=folder:path=photos", "--epochs", "1")
    assert outcome.code == 0, outcome.err
    assert outcome.json["figures"][0]["compared"] is False


def test_an_out_among_the_settings_takes_no_figure_elsewhere(rdfia, tmp_path):
    figures = ("vit-mnist-dim", "vit-mnist-position")
    outcome = rdfia(*SHORT, *figures, "--epochs", "1", "--set", "out=elsewhere")
    assert outcome.code == 0, outcome.err
    assert {each["sweep"] for each in outcome.json["figures"]} == {f"f/sweeps/{n}" for n in figures}
    assert not (tmp_path / "elsewhere").exists()


def test_a_page_without_a_single_figure_says_that_none_could_be_made(rdfia, tmp_path):
    (tmp_path / "f/runs/mlp-circles").mkdir(parents=True)
    (tmp_path / "f/runs/mlp-circles/letter.txt").write_text("dear")
    assert rdfia(*SHORT, "1", "--epochs", "1").code == 3
    assert "no figure could be made" in (tmp_path / "f/index.html").read_text()


def test_a_failed_trial_of_a_figure_is_tried_again(rdfia, tmp_path):
    figure = (*SHORT, "vit-mnist-position", "--epochs", "1")
    (tmp_path / "f/sweeps/vit-mnist-position/trials/0001").mkdir(parents=True)
    (tmp_path / "f/sweeps/vit-mnist-position/ledger.jsonl").touch()
    letter = tmp_path / "f/sweeps/vit-mnist-position/trials/0001/letter.txt"
    letter.write_text("dear")
    assert rdfia(*figure).code == 3
    letter.unlink()
    outcome = rdfia(*figure)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("figures", [("1", "2"), ("vit-mnist-dim", "vit-mnist-position")])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, -2)])
def test_a_signal_ends_the_command_and_not_just_its_figure(tmp_path, figures, number, code):
    process = subprocess.Popen(
        [sys.executable, "-m", "rdfia_cli", *SHORT, *figures, "--epochs", "50"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        text=True,
    )
    while not list(tmp_path.glob("f/**/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"stopped by {number.name}" in told
    assert "run the same command again" in told
    assert not (tmp_path / "f/reproduction.json").exists()
    assert len(list(tmp_path.glob("f/**/metrics.jsonl"))) == 1


def test_what_is_told_of_a_figure_is_of_the_run_that_was_made(rdfia, tmp_path):
    assert rdfia(*SHORT, "1", "--epochs", "1").code == 0
    outcome = rdfia(*SHORT, "1", "--epochs", "2", "--set", "if_exists=new")
    assert outcome.code == 0, outcome.err
    (made,) = outcome.json["figures"]
    assert made["run"] == "f/runs/mlp-circles-2"
    assert len(made["curve"]["test"]) == made["epochs"] == 2
    curves = (tmp_path / made["run"] / "curves.png").read_bytes()
    assert (tmp_path / "f/figure-1.png").read_bytes() == curves


def test_help_tells_no_default_that_a_recipe_would_replace(rdfia):
    told = rdfia("reproduce", "--help").out
    assert "--batch-size N" in told
    assert "(default 32)" not in told
    assert "(default 32)" in rdfia("train", "--help").out


def test_a_flag_is_for_every_recipe_and_set_goes_over_it(rdfia, tmp_path):
    given = ("--optimizer", "adam", "--lr", "0.002", "--validation", "0.2", "--epochs", "3")
    more = ("--log", "tensorboard", "--augment", "random_crop:size=7", "--augment", "mixup")
    outcome = rdfia(*SHORT, "mlp-mnist", *given, *more, "--set", "epochs=1")
    assert outcome.code == 0, outcome.err
    config = load_config(tmp_path / outcome.json["figures"][0]["run"])
    assert (config.optimizer.name, config.optimizer.parameters["lr"]) == ("adam", 0.002)
    assert (config.validation, config.epochs) == (0.2, 1)
    assert [each.name for each in config.augment] == ["random_crop", "mixup"]
    assert config.augment[0].parameters["size"] == 7


def test_a_recipe_s_own_settings_are_no_change_and_neither_is_a_seed(rdfia):
    plain = resolve(Sources({}, recipe="cnn-cifar10")).config
    given = ["seed=3", "device=cpu", "data=digits"]
    assert (
        changed_settings(
            resolve(Sources({}, assignments=given, recipe="cnn-cifar10")).config, plain
        )
        == []
    )
    given = ["optimizer=adam", "optimizer.lr=0.001", "epochs=3"]
    other = resolve(Sources({}, assignments=given, recipe="cnn-cifar10")).config
    found = changed_settings(other, plain)
    assert "optimizer=adam (the recipe has sgd)" in found
    assert "epochs=3 (the recipe has 20)" in found


def test_a_run_that_is_left_unfinished_is_no_figure(rdfia, tmp_path):
    assert rdfia(*SHORT, "1", "--epochs", "1").code == 0
    (tmp_path / "f/runs/mlp-circles/result.json").unlink()
    outcome = rdfia(*SHORT, "1", "--epochs", "1", "--set", "if_exists=skip")
    assert outcome.code == 3
    (left,) = outcome.json["figures"]
    assert left["error"] == "'f/runs/mlp-circles' is unfinished, and left as it is"


def test_what_is_on_other_data_says_so_and_which_command_made_it(rdfia, tmp_path):
    arguments = ("reproduce", "8", "--quick", "--epochs", "1", "--out", "f")
    first, again = rdfia(*arguments), rdfia(*arguments)
    assert first.code == again.code == 0, first.err
    assert "not compared: on other data than the report's" in first.out
    assert "digits" in first.out
    assert "--set if_exists=new trains again" in again.err
    page = html.unescape((tmp_path / "f/index.html").read_text())
    assert "Recipe cnn-cifar10 on digits, which are not the report's data: 1 epoch" in page
    assert " of 0" not in page
    assert (tmp_path / "f" / re.search(r'href="(runs/[^"]*)"', page)[1]).is_file()
    command = re.search(r"<code>(rdfia train .*?)</code>", page, re.DOTALL)[1]
    made = rdfia(*shlex.split(command.replace("\\\n", " "))[1:], "--out", "again", "-q", "--json")
    stored = json.loads((tmp_path / "f/runs/cnn-cifar10/result.json").read_text())
    assert made.json["weights_sha256"] == stored["weights_sha256"]


def test_a_sweep_tells_its_best_trial_and_its_command(rdfia, tmp_path):
    outcome = rdfia(*SHORT, "vit-mnist-patch", "--epochs", "1", "--set", "model.dim=8")
    assert outcome.code == 0, outcome.err
    (made,) = outcome.json["figures"]
    best = max(made["trials"], key=lambda trial: trial["validation_accuracy"])
    assert (made["test"], made["data"]) == (best["test_accuracy"], "digits")
    for trial in made["trials"]:
        result = json.loads((tmp_path / trial["run"] / "result.json").read_bytes())
        assert trial["train"] == result["train"]["accuracy"]
        assert trial["gap"] == pytest.approx(trial["train"] - result["test"]["accuracy"])
        assert trial["model_parameters"] == result["parameters"]
    assert "dim=8 (the recipe has 32)" in " ".join(made["changed"])
    assert "model.patch over 1,2,4,8 (the recipe has 2,4,7,14,28)" in made["changed"]
    assert not [text for text in made["changed"] if text.startswith("model.patch=")]
    plan = rdfia(*shlex.split(made["command"])[1:], "--dry-run")
    assert plan.code == 0, plan.err
    assert len(plan.out.splitlines()) == len(made["trials"])
    assert "best of 4 trials" in (tmp_path / "f/index.html").read_text()


@pytest.mark.parametrize(
    ("figure", "data", "expected"),
    [
        ("8", "cifar10=digits", False),
        ("mlp-mnist", "cifar10=digits", False),
        ("1", "circles=circles", True),
    ],
)
def test_only_the_reports_data_are_compared_with_it(rdfia, figure, data, expected):
    outcome = rdfia(*SHORT, figure, "--data", data, "--epochs", "1")
    assert outcome.code == 0, outcome.err
    assert [made["compared"] for made in outcome.json["figures"]] == [expected]


def test_a_folder_in_the_place_of_the_reports_data_is_compared_where_it_may_hold_them(
    rdfia, tmp_path
):
    make_photos(tmp_path / "photos", ("cat", "dog"), side=32)
    given = ("--data", "cifar10=folder:path=photos", "--epochs", "1", "--set", "batch_size=8")

    def compared() -> bool:
        outcome = rdfia(*SHORT, "8", *given)
        assert outcome.code == 0, outcome.err
        return outcome.json["figures"][0]["compared"]

    assert not compared(), "two classes are not CIFAR-10"
    path = tmp_path / "f/runs/cnn-cifar10/environment.json"
    told = json.loads(path.read_bytes())
    assert sum(told["examples"].values()) == 40
    sizes = {"train": 45_000, "validation": 5_000, "test": 10_000}
    for content, expected in (
        ({**told, "classes": 10}, False),
        ({**told, "classes": 10, "examples": sizes}, True),
        ({**told, "classes": 2, "examples": sizes}, False),
    ):
        path.write_text(json.dumps(content))
        assert compared() is expected


def test_a_figure_that_fails_has_no_picture_of_another(rdfia, tmp_path):
    (tmp_path / "curves.png").write_bytes(b"unrelated")
    assert rdfia(*SHORT, "1", "--epochs", "1").code == 0
    (tmp_path / "f/runs/mlp-circles/config.toml").write_text("damaged")
    assert rdfia(*SHORT, "1", "--epochs", "1").code == 3
    assert not (tmp_path / "f/figure-1.png").exists()
