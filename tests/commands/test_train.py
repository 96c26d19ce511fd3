"""`rdfia train`: what it prints, where it writes, and how it refuses."""

from __future__ import annotations

import functools
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from rdfia_cli import console
from rdfia_cli.app import app
from rdfia_cli.config import resolve
from rdfia_cli.sources import Sources

FIELDS = {
    *("schema", "command", "run", "model", "data", "seed", "epochs", "parameters"),
    *("train", "validation", "test", "best", "seconds", "images_per_second"),
    *("precision", "device", "weights_sha256"),
}
FILES = {
    *("config.toml", "environment.json", "metrics.jsonl", "curves.svg", "curves.png"),
    "report.html",
    *("result.json", "checkpoints"),
}
CIRCLES = ("mlp", "--data", "circles", "--epochs", "2")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    command = ["train", *CIRCLES, "--out", str(folder), "--json"]
    assert console.run(lambda: app(command, standalone_mode=False), command) == 0
    return folder


def stored(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_bytes())


def everything_under(folder: Path) -> dict[str, bytes]:
    """Every file with its content, every folder with none."""
    return {
        str(path.relative_to(folder)): b"" if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


# The happy path


def test_the_object_has_every_field_that_a_result_has(rdfia: Callable):
    found = rdfia("train", *CIRCLES, "--seed", "7", "--out", "here", "--json")
    assert found.code == 0
    assert len(found.out.splitlines()) == 1
    result = found.json
    assert result.keys() >= FIELDS
    assert (result["schema"], result["command"], result["run"]) == (
        "rdfia.result/1",
        "train",
        "here",
    )
    assert (result["model"], result["data"], result["seed"], result["epochs"]) == (
        "mlp",
        "circles",
        7,
        2,
    )
    assert result["parameters"] == 2 * 100 + 100 + 100 * 2 + 2
    for split in ("train", "validation", "test"):
        assert result[split]["loss"] > 0
        assert 0 <= result[split]["accuracy"] <= 1
    assert result["test"]["top5"] == 1.0, "of two classes"
    assert len(result["weights_sha256"]) == 64
    assert result["seconds"] > 0
    assert result["images_per_second"] > 0
    assert result == stored(Path("here"))


def test_the_run_folder_holds_every_file_that_a_run_has(trained: Path):
    assert {path.name for path in trained.iterdir()} >= FILES


def test_the_best_epoch_has_the_highest_validation_accuracy_and_then_the_lowest_loss(
    rdfia: Callable,
):
    result = rdfia("train", *CIRCLES[:3], "--epochs", "8", "--lr", "1", "--json").json
    lines = (Path(result["run"]) / "metrics.jsonl").read_text().splitlines()
    scores = [json.loads(line)["validation"] for line in lines]
    highest = max(score["accuracy"] for score in scores)
    losses = {n: s["loss"] for n, s in enumerate(scores, 1) if s["accuracy"] == highest}
    assert len(losses) > 1
    assert result["best"] == {
        "epoch": min(losses, key=losses.__getitem__),
        "validation_accuracy": highest,
    }


def test_without_validation_those_fields_are_null(rdfia: Callable):
    result = rdfia("train", *CIRCLES, "--validation", "0", "--json").json
    assert result["validation"] is None
    assert result["best"] is None


def test_the_table_shows_the_three_splits(rdfia: Callable):
    found = rdfia("train", *CIRCLES, "--out", "here")
    title, heading, *rows = found.out.splitlines()
    assert title.startswith("mlp on circles, 2 epochs, ")
    assert heading.split() == ["split", "loss", "accuracy"]
    result = stored(Path("here"))
    assert [row.split() for row in rows] == [
        [split, f"{result[split]['loss']:.4f}", f"{result[split]['accuracy']:.4f}"]
        for split in ("train", "validation", "test")
    ]


def test_without_a_terminal_there_is_one_plain_line_an_epoch(rdfia: Callable):
    found = rdfia("train", *CIRCLES[:3], "--epochs", "3", "--out", "here", "--json")
    lines = found.err.splitlines()
    assert lines[0].startswith("here: 502 parameters, 3 epochs of 6 steps, fp32 on ")
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.split()[1] for line in epochs] == ["1/3", "2/3", "3/3"]
    assert all("validation loss" in line for line in epochs)
    assert not {"\r", "\x1b"} & set(found.err), "nothing animates"


def test_quiet_says_nothing_but_the_result(rdfia: Callable):
    found = rdfia("train", *CIRCLES, "-q")
    assert found.err == ""
    assert len(found.out.splitlines()) == 5


def test_quiet_json_is_one_line_in_all(rdfia: Callable):
    found = rdfia("train", *CIRCLES, "-q", "--json")
    assert (found.code, found.err, found.out.count("\n")) == (0, "", 1)


def test_the_same_command_again_prints_the_stored_result(rdfia: Callable):
    first = rdfia("train", *CIRCLES, "--json")
    before = everything_under(Path())
    again = rdfia("train", *CIRCLES, "--json")
    assert again.out == first.out
    assert "is finished" in again.err
    assert everything_under(Path()) == before


def test_if_exists_new_trains_again_beside_the_first_to_the_same_weights(rdfia: Callable):
    command = ("train", *CIRCLES, "--out", "here", "--json", "--if-exists", "new")
    one, two = rdfia(*command).json, rdfia(*command).json
    assert (one["run"], two["run"]) == ("here", "here-2")
    assert one["weights_sha256"] == two["weights_sha256"]


def test_if_exists_skip_leaves_an_unfinished_run_as_it_is(rdfia: Callable, trained: Path):
    shutil.copytree(trained, "here")
    Path("here/result.json").unlink()
    before = everything_under(Path())
    found = rdfia("train", *CIRCLES, "--out", "here", "--if-exists", "skip", "--json")
    assert found.code == 0
    assert found.json["state"] == "unfinished"
    assert everything_under(Path()) == before


# The configuration of a run runs it again


@pytest.mark.parametrize(
    "arguments",
    [
        CIRCLES,
        (*CIRCLES, "--optimizer", "adam", "--schedule", "step:every=1", "--seed", "5"),
        (*CIRCLES, "--normalize", "none", "--validation", "0", "--batch-size", "7"),
        ("mlp:backprop=manual", "--data", "circles:noise=0.1,points=60", "--epochs", "2"),
        ("lenet", "--epochs", "1", "--augment", "random_crop:size=12,padding=2"),
    ],
    ids=" ".join,
)
def test_the_stored_configuration_runs_it_again_to_the_same_weights(
    rdfia: Callable, arguments: tuple[str, ...]
):
    one = rdfia("train", *arguments, "--out", "one", "--json").json
    two = rdfia("train", "--config", "one/config.toml", "--out", "two", "--json").json
    assert two["weights_sha256"] == one["weights_sha256"]
    assert Path("two/config.toml").read_bytes() == Path("one/config.toml").read_bytes()
    assert Path("two/metrics.jsonl").read_bytes() == Path("one/metrics.jsonl").read_bytes()


def test_every_source_of_a_setting_gives_the_same_run(
    rdfia: Callable, monkeypatch: pytest.MonkeyPatch
):
    def checksum(*arguments: str) -> str:
        return rdfia("train", "--data", "circles", "--if-exists", "new", "--json", *arguments).json[
            "weights_sha256"
        ]

    expected = checksum("mlp:hidden=8", "--epochs", "1", "--lr", "0.5")
    assert checksum("mlp", *settings("model.hidden=8", "epochs=1", "optimizer.lr=0.5")) == expected
    Path("it.toml").write_text(
        'epochs = 1\n[model]\nname = "mlp"\nhidden = 8\n[optimizer]\nlr = 0.5\n'
    )
    assert checksum("--config", "it.toml") == expected
    monkeypatch.setenv("RDFIA_EPOCHS", "1")
    monkeypatch.setenv("RDFIA_MODEL", "mlp:hidden=8")
    monkeypatch.setenv("RDFIA_OPTIMIZER__LR", "0.5")
    assert checksum() == expected
    assert checksum("mlp:hidden=9") != expected, "flags win"


def settings(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


# Dry run


def test_a_dry_run_tells_the_cost_and_the_origins_and_writes_nothing(
    rdfia: Callable, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RDFIA_SEED", "4")
    found = rdfia("train", *CIRCLES, *settings("model.hidden=50"), "--dry-run", "--json")
    assert found.code == 0
    plan = found.json
    assert plan["schema"] == "rdfia.plan/1"
    assert plan["parameters"] == 2 * 50 + 50 + 50 * 2 + 2
    assert plan["macs"] == 2 * 50 + 50 * 2
    assert plan["steps_per_epoch"] == 6, "180 points in batches of 32"
    assert plan["steps"] == 12
    assert plan["config"].keys() == plan["origins"].keys()
    origins = ("model", "model.hidden", "epochs", "seed", "batch_size", "data.noise")
    assert [plan["origins"][key] for key in origins] == [
        *("MODEL", "--set model.hidden", "--epochs", "environment RDFIA_SEED", "default", "default")
    ]
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize("normalize", ["train", "zca"])
def test_a_dry_run_fits_nothing_to_the_data_and_says_what_is_odd_about_them(
    rdfia: Callable, empty_folder: Path, monkeypatch: pytest.MonkeyPatch, normalize: str
):
    from rdfia_cli.training import assembly, inputs

    real = assembly.load_dataset

    def load(chosen: object) -> Iterator[object]:
        return replace((yield from real(chosen)), warnings=("two images are odd",))

    monkeypatch.setattr(assembly, "load_dataset", load)
    for fit in ("_fit_channels", "_fit_whitening"):
        monkeypatch.setattr(inputs, fit, None)
    found = rdfia("train", *CIRCLES, "--normalize", normalize, "--dry-run")
    assert found.code == 0, found.err
    assert "warning: two images are odd" in found.err


def test_a_dry_run_prints_a_line_for_each_setting(rdfia: Callable, empty_folder: Path):
    found = rdfia("train", *CIRCLES, "--dry-run")
    lines = [line.split() for line in found.out.splitlines()]
    assert lines[0] == ["setting", "value", "origin"]
    assert ["epochs", "2", "--epochs"] in lines
    assert ["batch_size", "32", "default"] in lines
    assert ["parameters", "502"] in lines
    assert ["steps", "12"] in lines
    assert ["deterministic", "true", "default"] in lines, "as TOML and specs spell it"
    assert ["out", "none", "default"] in lines
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--if-exists", "error"), "'r1' holds a run already"),
        (("--seed", "7"), "'r1' holds another run: seed is 0 there and 7 here"),
    ],
    ids=" ".join,
)
def test_a_dry_run_refuses_what_the_run_would(rdfia: Callable, given: tuple[str, ...], told: str):
    command = ("train", *CIRCLES, "--out", "r1", "-q")
    assert rdfia(*command).code == 0
    refused = rdfia(*command, *given, "--dry-run")
    assert refused.code == 2
    assert told in refused.err
    assert rdfia(*command, *given).err == refused.err


def test_a_dry_run_names_the_new_folder_that_the_run_would_take(rdfia: Callable):
    command = ("train", *CIRCLES, "--out", "r1", "--if-exists", "new", "--json", "-q")
    assert rdfia(*command).code == 0
    assert rdfia(*command, "--dry-run").json["run"] == "r1-2"
    assert rdfia(*command).json["run"] == "r1-2"


def test_a_dry_run_names_the_folder_that_the_run_then_takes(rdfia: Callable):
    planned = rdfia("train", *CIRCLES, "--dry-run", "--json").json["run"]
    assert rdfia("train", *CIRCLES, "--json").json["run"] == planned


# Bad input


@dataclass(frozen=True)
class Bad:
    """A command line that is refused.

    Attributes:
        line: its words.
        code: the exit code.
        said: what stderr must hold.
        environment: variables besides.
    """

    line: str
    code: int
    said: str
    environment: Mapping[str, str] = field(default_factory=dict)


BAD = {
    # the command line itself
    "unknown command": Bad("trian", 2, "'trian'. Did you mean 'train'?"),
    "unknown flag": Bad("train --lrr 1", 2, "no such option: --lrr (Possible options:"),
    "flag without its value": Bad("train --lr", 2, "'--lr' requires an argument"),
    "two models": Bad("train mlp cnn", 2, "unexpected extra argument(s) (cnn)"),
    "flag with an empty value": Bad("train --epochs=", 2, "epochs = '' (--epochs)"),
    # unknown names
    "unknown model": Bad("train cnnn", 4, "unknown model 'cnnn' (MODEL)\ndid you mean 'cnn'?"),
    "unknown model far off": Bad("train qqqq", 4, "unknown model 'qqqq' (MODEL)"),
    "empty model": Bad("train ''", 2, "'' is not a component"),
    "unknown dataset": Bad("train --data digit", 4, "(--data)\ndid you mean 'digits'?"),
    "unknown augmentation": Bad("train --augment random_crp", 4, "did you mean 'random_crop'?"),
    "unknown optimizer": Bad("train --optimizer adm", 4, "(--optimizer)\ndid you mean 'adam'?"),
    "unknown schedule": Bad("train --schedule cosin", 4, "did you mean 'cosine'?"),
    "unknown recipe": Bad("train --recipe mlp-circle", 2, "did you mean 'mlp-circles'?"),
    "unknown distribution": Bad("train cnn@rdfia", 4, "not provided by 'rdfia'"),
    "unknown setting": Bad("train --set epoch=1", 2, "(--set epoch)\ndid you mean 'epochs'?"),
    "unknown part": Bad("train --set epochs.x=1", 2, "'epochs' has no part 'x'"),
    "unknown setting of a model": Bad(
        "train cnn:dropuot=0.5", 2, "model 'cnn' has no setting 'dropuot'", {}
    ),
    "unknown setting of an optimizer": Bad(
        "train --set optimizer.momentun=0.5", 2, "did you mean 'momentum'?"
    ),
    "setting of another component": Bad("train mlp --set model.dropout=0.5", 2, "no setting"),
    "unknown setting in the environment": Bad(
        "train", 2, "RDFIA_EPOCH)\ndid you mean 'epochs'?", {"RDFIA_EPOCH": "1"}
    ),
    "unknown model in the environment": Bad(
        "train", 4, "'ccn' (environment RDFIA_MODEL)", {"RDFIA_MODEL": "ccn"}
    ),
    "wrong value in the environment": Bad(
        "train", 2, "= 'x' (environment RDFIA_OPTIMIZER__LR)", {"RDFIA_OPTIMIZER__LR": "x"}
    ),
    "unknown setting in a file": Bad("train --config key.toml", 2, "did you mean 'epochs'?"),
    "unknown setting of a model in a file": Bad(
        "train --config part.toml", 2, "did you mean 'dropout'?"
    ),
    "wrong type in a file": Bad("train --config type.toml", 2, "epochs = '3' (file type.toml)"),
    "a number for a model in a file": Bad("train --config kind.toml", 2, "not a component"),
    "no such augmentation": Bad(
        "train --set augment.0.size=3", 2, "there is no augmentation number 0"
    ),
    # values
    "no epochs": Bad("train --epochs 0", 2, "epochs = '0' (--epochs)"),
    "half an epoch": Bad("train --epochs 1.5", 2, "epochs = '1.5' (--epochs)"),
    "negative batch": Bad("train --batch-size -1", 2, "batch_size = '-1' (--batch-size)"),
    "lr nan": Bad("train --lr nan", 2, "optimizer.lr = 'nan' (--lr): it should be a finite"),
    "lr inf": Bad("train --lr inf", 2, "optimizer.lr = 'inf' (--lr): it should be a finite"),
    "lr abc": Bad("train --lr abc", 2, "optimizer.lr = 'abc' (--lr): it should be a valid"),
    "lr negative": Bad("train --lr -1", 2, "optimizer.lr = '-1' (--lr)"),
    "dropout": Bad("train cnn:dropout=1.5", 2, "model.dropout = '1.5'"),
    "negative seed": Bad("train --seed -1", 2, "seed = '-1' (--seed)"),
    "large seed": Bad("train --seed 9223372036854775808", 2, "less than 9223372036854775808"),
    "precision": Bad("train --precision fp8", 2, "'auto', 'fp32', 'bf16' or 'fp16'"),
    "device": Bad("train --device gpu", 2, "auto, cpu, cuda, cuda:N or mps"),
    "if-exists": Bad("train --if-exists maybe", 2, "'skip', 'resume', 'new' or 'error'"),
    "validation all": Bad("train --validation 1", 2, "validation = '1' (--validation)"),
    "truth": Bad("train cnn:batch_norm=perhaps", 2, "model.batch_norm = 'perhaps'"),
    "choice": Bad("train mlp:backprop=hand", 2, "'manual' or 'autograd'"),
    "a deterministic word": Bad("train --set deterministic=maybe", 2, "deterministic = 'maybe'"),
    # grammar
    "set without a value": Bad("train --set epochs", 2, "--set epochs is not key=value"),
    "set without a key": Bad("train --set =3", 2, "is not key=value"),
    "spec without a value": Bad("train cnn:dropout", 2, "'dropout' in 'cnn:dropout' is not"),
    "spec with a value twice": Bad("train cnn:dropout=0.1,dropout=0.2", 2, "given twice"),
    "spec with spaces": Bad("train 'c n n'", 2, "'c n n' is not a component"),
    "spec of dots": Bad("train ../cnn", 4, "unknown model '../cnn'"),
    # files
    "bad TOML": Bad("train --config bad.toml", 2, "bad.toml"),
    "TOML that is a folder": Bad("train --config thesis", 2, "thesis"),
    "TOML that is binary": Bad("train --config binary.toml", 2, "binary.toml"),
    "missing TOML": Bad("train --config absent.toml", 2, "absent.toml"),
    "a run folder as TOML": Bad("train --config taken", 2, "taken"),
    # what does not fit together
    "images from points": Bad("train cnn --data circles", 4, "cnn needs images"),
    "flipped points": Bad("train mlp --data circles --augment horizontal_flip", 4, "needs images"),
    "large crop": Bad("train --augment random_crop:size=9", 4, "set size to 8 or less"),
    "second crop": Bad(
        "train --augment random_crop:size=6 --augment random_crop:size=7", 4, "images of 6x6"
    ),
    "small images": Bad("train lenet", 4, "at least 12x12 pixels, not 8x8"),
    "fp16 on cpu": Bad("train --precision fp16 --device cpu", 2, "fp16 needs a CUDA device"),
    "hand and bf16": Bad("train mlp:backprop=manual --precision bf16", 2, "by hand are in fp32"),
    "absent device": Bad("train --device cuda:99", 2, "device 'cuda:99' is not there"),
    "empty validation": Bad("train --validation 0.0001", 2, "examples is none"),
    "nesterov alone": Bad("train --optimizer sgd:nesterov=true,momentum=0", 2, "momentum=0.9"),
    # folders
    "out is a file": Bad("train mlp --out file", 2, "'file' is a file, not a run folder"),
    "out under a file": Bad("train mlp --out file/run", 1, "Not a directory"),
    "out under /proc": Bad("train mlp --out /proc/rdfia/run", 1, "/proc/rdfia"),
    "out is no run": Bad("train mlp --out thesis", 2, "neither empty nor a run folder"),
    "out is another run": Bad("train mlp --out taken", 2, "'taken' holds another run"),
    "out is taken": Bad("train mlp --out taken --if-exists error", 2, "holds a run already"),
    "out has a long name": Bad(f"train mlp --out {'x' * 300}", 1, "File name too long"),
    # eval
    "eval nothing": Bad("eval", 2, "missing argument 'RUN'"),
    "eval an absent run": Bad("eval absent", 2, "no run at 'absent'"),
    "eval no run": Bad("eval thesis", 2, "'thesis' is not a run folder"),
    "eval a file": Bad("eval file", 2, "'file' is not a run folder"),
    "eval another split": Bad("eval taken --split tets", 2, "did you mean 'test'?"),
    "eval into a gif": Bad("eval taken --plot x.gif", 2, ".png or .svg"),
    "eval into an absent folder": Bad("eval taken --plot absent/x.png", 2, "a folder that exists"),
    "eval unknown data": Bad("eval taken --data circle", 4, "did you mean 'circles'?"),
    "eval on an unknown device": Bad("eval taken --device tpu", 2, "cuda:N or mps"),
    "eval untrained": Bad("eval taken", 1, "no checkpoint to evaluate"),
    # list
    "list nonsense": Bad("list nonsense", 2, "choose from augmentations, datasets, loggers"),
    "list in the singular": Bad("list model", 2, "did you mean 'models'?"),
    "list two": Bad("list models datasets", 2, "no models fit 'datasets'"),
}


@pytest.fixture
def surroundings(empty_folder: Path) -> Path:
    """A folder with what bad command lines name."""
    files = {
        "file": b"dear",
        "thesis/chapter.tex": b"dear",
        "bad.toml": b"epochs = = 3\n",
        "binary.toml": b"\xff\xfe\x00\x01",
        "key.toml": b"epoch = 3\n",
        "part.toml": b'[model]\nname = "cnn"\ndropuot = 0.5\n',
        "type.toml": b'epochs = "3"\n',
        "kind.toml": b"model = 3\n",
        "taken/config.toml": another_configuration(),
    }
    for name, content in files.items():
        (empty_folder / name).parent.mkdir(exist_ok=True)
        (empty_folder / name).write_bytes(content)
    return empty_folder


@functools.cache
def another_configuration() -> bytes:
    return resolve(Sources(flags={"model": "mlp", "seed": "99"})).config.to_toml().encode()


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_input_is_refused_in_two_lines_and_leaves_nothing_behind(
    rdfia: Callable, surroundings: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad
):
    for variable, value in bad.environment.items():
        monkeypatch.setenv(variable, value)
    before = everything_under(surroundings)
    words = shlex.split(bad.line)
    found = rdfia(*words)
    assert found.code == bad.code, found.err
    assert found.out == ""
    assert_plain(found.err)
    assert bad.said in found.err
    as_object = rdfia(words[0], "--json", *words[1:])
    assert as_object.code == bad.code
    assert as_object.err == found.err
    error = as_object.json
    assert error["schema"] == "rdfia.error/1"
    assert error["exit_code"] == bad.code
    said = [f"error: {error['message']}", *filter(None, [error["remedy"]])]
    assert found.err.splitlines() == said
    assert everything_under(surroundings) == before


def assert_plain(err: str) -> None:
    """An error is one line of fact and at most one of remedy."""
    assert err.startswith("error: ")
    assert 1 <= len(err.splitlines()) <= 2
    assert "Traceback" not in err
    assert "see where with --traceback" not in err, "an error that nobody foresaw"


def test_an_unforeseen_error_is_two_lines_too_and_a_traceback_where_asked(
    rdfia: Callable, monkeypatch: pytest.MonkeyPatch
):
    def fail(config: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr("rdfia_cli.run.place", fail)
    found = rdfia("train", "mlp")
    assert (found.code, found.err) == (
        1,
        "error: ZeroDivisionError: by zero\nsee where with --traceback\n",
    )
    assert "Traceback" in rdfia("train", "mlp", "--traceback").err


# A full disk


def train_on_a_disk_that_takes(size: int, out: str) -> subprocess.CompletedProcess[str]:
    """Run the command line where no file may grow beyond a size."""
    return subprocess.run(
        [sys.executable, "-m", "rdfia_cli", "train", *CIRCLES, "--out", out, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )


def test_a_disk_that_takes_nothing_is_refused_and_nothing_is_left(empty_folder: Path):
    finished = train_on_a_disk_that_takes(100, "a/b/run")
    assert finished.returncode == 1
    assert_plain(finished.stderr)
    assert "File too large" in finished.stderr
    assert json.loads(finished.stdout)["exit_code"] == 1
    assert list(empty_folder.iterdir()) == []


def test_a_disk_that_fills_up_while_training_keeps_a_run_that_goes_on_when_there_is_room(
    rdfia: Callable, trained: Path
):
    finished = train_on_a_disk_that_takes(2000, "run")
    assert finished.returncode == 1
    *progress, fact, remedy = finished.stderr.splitlines()
    assert fact.startswith("error: ")
    assert "File too large" in fact
    assert "goes on" in remedy
    assert len(progress) <= 2
    assert not list(Path("run").rglob("*.partial")), "no half-written file is left"
    again = rdfia("train", *CIRCLES, "--out", "run", "--json")
    assert again.code == 0, again.err
    assert again.json["weights_sha256"] == stored(trained)["weights_sha256"]
