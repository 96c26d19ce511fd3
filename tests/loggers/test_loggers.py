"""Loggers tell what `metrics.jsonl` says, each point once, and never decide how a run goes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rdfia_cli.config import resolve
from rdfia_cli.experiment import run_experiment
from rdfia_cli.loggers.mlflow import mlflow
from rdfia_cli.loggers.scalars import scalars, step_of
from rdfia_cli.run import read_lines
from rdfia_cli.sources import Sources
from rdfia_cli.training.loop import EpochEnd, StepEnd

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # MLflow and TensorBoard use what SQLAlchemy, protobuf and others are about to change.
    pytest.mark.filterwarnings("ignore::Warning"),
]

SMALL = {"model": "mlp", "epochs": "4", "batch_size": "200", "log_every": "3", "out": "run"}
TRAIN = ("train", *("mlp", "--epochs", "4", "--batch-size", "200", "--log-every", "3"))
QUIET = (*TRAIN, "--out", "run", "-q")
BROKEN = """
class Broken:
    def write(self, line):
        if line["epoch"] == 2:
            raise OSError("the server is gone")
    def close(self, *, complete):
        pass

def broken(folder, config):
    '''Fails in the second epoch.'''
    return Broken()
"""

Points = Mapping[str, list[tuple[int, float]]]


def expected(folder: Path) -> Points:
    """What `metrics.jsonl` says, by the name of each curve."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in read_lines(folder / "metrics.jsonl"):
        for name, value in scalars(line).items():
            found.setdefault(name, []).append((step_of(line), value))
    return found


def shown_by_tensorboard(folder: Path) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def shown_by_mlflow(folder: Path) -> tuple[Points, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.with_name('kept.db')}")
    experiment = client.get_experiment_by_name("rdfia")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == json.loads((folder / "mlflow.json").read_bytes())["run"]
    points = {
        name: sorted((p.step, p.value) for p in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }
    return points, run


def same(found: Points, wanted: Points) -> bool:
    """Whether all points are there once; TensorBoard keeps single precision."""
    assert found.keys() == wanted.keys()
    return all(
        [step for step, _ in found[name]] == [step for step, _ in wanted[name]]
        and [v for _, v in found[name]] == pytest.approx([v for _, v in wanted[name]], rel=1e-6)
        for name in wanted
    )


def local(folder: Path) -> str:
    """MLflow in a file of the folder."""
    return f"mlflow:uri=sqlite:///{folder / 'kept.db'}"


def stop_in_the_middle(log: str) -> None:
    """Train to the middle of the third epoch and leave without a checkpoint of it."""
    config = resolve(Sources({**SMALL, "log": [log]})).config
    events = run_experiment(config, config.folder)
    for event in events:
        if isinstance(event, StepEnd) and (event.epoch, event.step) == (3, 4):
            break
        assert not isinstance(event, EpochEnd) or event.epoch < 3
    events.close()


@pytest.mark.parametrize("stopped", [False, True], ids=["at once", "stopped and gone on"])
def test_tensorboard_has_every_point_once(rdfia: Callable, tmp_path: Path, stopped: bool):
    if stopped:
        stop_in_the_middle("tensorboard")
    assert rdfia(*QUIET, "--log", "tensorboard").code == 0
    wanted = expected(tmp_path / "run")
    assert {"loss/step", "loss/train", "accuracy/test", "learning_rate"} <= wanted.keys()
    assert same(shown_by_tensorboard(tmp_path / "run"), wanted)


@pytest.mark.parametrize("stopped", [False, True], ids=["at once", "stopped and gone on"])
def test_mlflow_has_every_point_once_in_one_run(rdfia: Callable, tmp_path: Path, stopped: bool):
    if stopped:
        stop_in_the_middle(local(tmp_path))
        assert shown_by_mlflow(tmp_path / "run")[1].info.status == "KILLED"
    assert rdfia(*QUIET, "--log", local(tmp_path)).code == 0
    points, run = shown_by_mlflow(tmp_path / "run")
    assert same(points, expected(tmp_path / "run"))
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.momentum"] == "0.9"
    assert run.data.params["model"] == "mlp"


def test_a_finished_run_can_be_told_to_a_logger_afterwards(rdfia: Callable, tmp_path: Path):
    first = rdfia(*QUIET, "--json").json
    again = rdfia(*QUIET, "--json", "--log", "tensorboard")
    assert again.json == first
    assert same(shown_by_tensorboard(tmp_path / "run"), expected(tmp_path / "run"))


def test_logging_changes_neither_the_name_of_a_run_nor_its_weights(rdfia: Callable):
    plain = rdfia(*TRAIN, "-q", "--json").json
    logged = rdfia(*TRAIN, "-q", "--json", "--log", "tensorboard", "--if-exists", "new").json
    assert logged["run"] == f"{plain['run']}-2"
    assert logged["weights_sha256"] == plain["weights_sha256"]
    assert resolve(Sources(SMALL)).config.digest == (
        resolve(Sources({**SMALL, "log": ["tensorboard", "mlflow"]})).config.digest
    )


@pytest.mark.parametrize(
    ("logger", "missing"),
    [("tensorboard", "torch.utils.tensorboard.writer"), ("mlflow", "mlflow.tracking")],
)
def test_a_missing_package_is_told_before_anything_is_written(
    rdfia: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str, missing: str
):
    monkeypatch.setitem(sys.modules, missing, None)
    found = rdfia(*TRAIN, "--log", logger, "--out", "run")
    assert found.code == 4
    fact, remedy = found.err.splitlines()
    assert fact.startswith(f"error: logger '{logger}' needs the package {logger}")
    assert remedy == f"install it: pip install 'rdfia-cli[{logger}]'"
    assert not any(tmp_path.iterdir())


def test_a_logger_that_fails_is_named_and_the_run_goes_on(rdfia: Callable, tmp_path: Path):
    (tmp_path / "own.py").write_text(BROKEN)
    found = rdfia(*QUIET, "--log", "./own.py:broken", "--log", "tensorboard")
    assert found.code == 0
    (line,) = found.err.splitlines()
    assert line.startswith("warning: logger './own.py:broken'")
    assert "OSError: the server is gone: the run goes on without it" in line
    assert same(shown_by_tensorboard(tmp_path / "run"), expected(tmp_path / "run"))


UNREACHABLE = """
def absent(folder, config):
    'Its server is down.'
    raise ConnectionError("nobody\\nanswers")
"""


def test_a_logger_that_cannot_be_built_is_named_and_the_run_goes_on(
    rdfia: Callable, tmp_path: Path
):
    (tmp_path / "own.py").write_text(UNREACHABLE)
    found = rdfia(*QUIET, "--log", "./own.py:absent", "--log", "tensorboard")
    assert found.code == 0
    (line,) = found.err.splitlines()
    assert line.startswith("warning: logger './own.py:absent'")
    assert "ConnectionError: nobody answers: the run goes on without it" in line
    assert same(shown_by_tensorboard(tmp_path / "run"), expected(tmp_path / "run"))
    again = rdfia(*QUIET, "--log", "./own.py:absent")
    assert (again.code, again.err.splitlines()) == (0, [line])


def test_a_stopped_run_goes_on_though_its_logger_can_no_longer_be_built(
    rdfia: Callable, tmp_path: Path
):
    (tmp_path / "own.py").write_text(UNREACHABLE)
    stop_in_the_middle("tensorboard")
    assert rdfia(*QUIET, "--log", "./own.py:absent").code == 0


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("raise OSError('no libfoo')\ndef own(folder, config): 0", "cannot be imported: OSError"),
        ("from rdfia_cli.errors import ComponentError\n"
         "def own(folder, config): raise ComponentError('no key', 'set KEY')", "no key"),
    ],
)  # fmt: skip
def test_a_logger_that_is_broken_or_refuses_its_work_is_an_error(
    rdfia: Callable, tmp_path: Path, source: str, told: str
):
    (tmp_path / "own.py").write_text(source)
    found = rdfia(*QUIET, "--log", "./own.py:own")
    assert (found.code, told in found.err) == (4, True)
    assert not (tmp_path / "run").exists()


def test_mlflow_asks_its_server_only_when_there_is_something_to_tell(tmp_path: Path):
    logger = mlflow(tmp_path, {}, uri="http://127.0.0.1:1")
    logger.close(complete=False)
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_without_an_mlflow_server_that_is_down(
    rdfia: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found = rdfia(*QUIET, "--log", "mlflow:uri=http://127.0.0.1:1")
    assert found.code == 0
    assert "the run goes on without it" in found.err
    assert len(expected(tmp_path / "run")["loss/train"]) == 4


def test_what_returns_no_logger_is_refused(rdfia: Callable, tmp_path: Path):
    (tmp_path / "own.py").write_text("def other(folder, config):\n    '''No logger.'''\n")
    found = rdfia(*QUIET, "--log", "./own.py:other")
    assert found.code == 4
    assert "returns NoneType, not Logger" in found.err


def test_loggers_are_listed_with_their_settings(rdfia: Callable):
    found = {
        entry["name"]: entry for entry in rdfia("list", "loggers", "--json").json["components"]
    }
    assert found.keys() >= {"tensorboard", "mlflow"}
    assert [p["name"] for p in found["mlflow"]["parameters"]] == ["uri", "experiment"]


def test_a_step_stands_behind_all_steps_of_earlier_epochs():
    line = {"epoch": 3, "step": 5, "steps_per_epoch": 10, "loss": 0.5}
    assert (step_of(line), scalars(line)) == (25, {"loss/step": 0.5})
