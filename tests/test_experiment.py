"""One run, however often it is killed, damaged or asked twice, ends with the same bytes."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rdfia_cli.config import RunConfig, resolve
from rdfia_cli.errors import DivergedError, PreemptedError, UsageError
from rdfia_cli.experiment import Finished, run_experiment
from rdfia_cli.run import place
from rdfia_cli.sources import Sources
from rdfia_cli.training import assembly, loop

CNN = (
    *("cnn:batch_norm=true,dropout=0.3", "--data", "digits", "--epochs", "6"),
    *("--augment", "random_crop:size=6", "--augment", "horizontal_flip"),
    *("--batch-size", "128", "--log-every", "3"),
)
ADAM = (
    *("mlp", "--data", "digits", "--epochs", "4", "--batch-size", "200", "--log-every", "2"),
    *("--optimizer", "adam", "--schedule", "cosine:warmup=1.5"),
)
CIRCLES = ("mlp", "--data", "circles", "--epochs", "2")
PRELOADED = [
    *("rdfia_cli.experiment", "rdfia_cli.app", "rdfia_cli.commands.train", "sklearn.datasets"),
    "torch._dynamo",  # which building an optimizer imports: most of a short run's time
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg"),
]
TRAIN = """
import os, sys, torch
torch.set_num_threads(1)
os.chdir(folder)
for stream, name in ((1, "stdout"), (2, "stderr")):
    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
exec(before)
from rdfia_cli import console
from rdfia_cli.app import app
arguments = ["train", *arguments, "--out", "run", "--json"]
sys.exit(console.run(lambda: app(arguments, standalone_mode=False), arguments))
"""
KILL_AT_STEP = """
import rdfia_cli.training.loop as loop, signal
real, steps = loop.training_step, []
def step(*arguments):
    steps.append(None)
    if len(steps) == {step}:
        os.kill(os.getpid(), signal.{signal})
    return real(*arguments)
loop.training_step = step
"""
KILL_AT_EACH_OPERATION = """
import os, pathlib, shutil, signal, torch
from rdfia_cli.config import resolve
from rdfia_cli.sources import Sources
from rdfia_cli.training import assembly, loop
from rdfia_cli.experiment import run_experiment
from rdfia_cli.run import place
torch.set_num_threads(1)
os.chdir(folder)

def in_a_process(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1]

def train():
    config = resolve(Sources(flags=flags)).config
    for _ in run_experiment(config, place(config).folder):
        pass

def count_down(left, operation):
    def counted(*arguments, **keywords):
        left.append(left.pop() - 1)
        if left == [0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return operation(*arguments, **keywords)
    return counted

def train_and_die(operations):
    left = [operations]
    os.fsync = count_down(left, os.fsync)
    os.mkdir = count_down(left, os.mkdir)
    pathlib.Path.replace = count_down(left, pathlib.Path.replace)
    shutil.rmtree = count_down(left, shutil.rmtree)
    train()

resolve(Sources(flags=flags))  # what that reads and imports is there for every child
operations, killed = 0, signal.SIGKILL
while killed:
    operations += 1
    flags["out"] = f"run-{operations}"
    killed = in_a_process(lambda: train_and_die(operations))
    assert killed in (0, signal.SIGKILL), killed
    assert in_a_process(train) == 0, operations
"""


@dataclass(frozen=True)
class Leavings:
    """What a process left: its exit code, what it printed, and its run folder."""

    code: int
    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def err(self) -> str:
        return (self.folder / "stderr").read_text()

    @property
    def printed(self) -> dict[str, Any]:
        return json.loads((self.folder / "stdout").read_text().splitlines()[-1])

    @property
    def bytes(self) -> dict[str, object]:
        """All that two runs of the same settings must share."""
        result = json.loads((self.run / "result.json").read_bytes())
        for key in ("seconds", "images_per_second"):
            del result[key]
        newest = max((self.run / "checkpoints").iterdir())
        return {
            "result": result,
            "metrics": (self.run / "metrics.jsonl").read_bytes(),
            "weights": (newest / "model.safetensors").read_bytes(),
            "config": (self.run / "config.toml").read_bytes(),
        }


class Trainer:
    """Starts `rdfia train` in processes that are forked from one that has torch imported."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)

    def start(self, folder: Path, *arguments: str, before: str = "") -> Any:
        folder.mkdir(exist_ok=True)
        names = {"folder": str(folder), "arguments": arguments, "before": before}
        process = self._context.Process(target=exec, args=(TRAIN, names))
        process.start()
        return process

    def finish(self, folder: Path, *arguments: str, before: str = "") -> Leavings:
        process = self.start(folder, *arguments, before=before)
        process.join()
        return Leavings(process.exitcode, folder)

    def execute(self, program: str, **names: object) -> int:
        process = self._context.Process(target=exec, args=(program, names))
        process.start()
        process.join()
        return process.exitcode


@pytest.fixture(scope="session")
def trainer() -> Trainer:
    return Trainer()


@dataclass(frozen=True)
class Unbroken:
    """A run that nothing disturbed, and how long it took."""

    leavings: Leavings
    seconds: float

    @property
    def bytes(self) -> dict[str, object]:
        return self.leavings.bytes


@pytest.fixture(scope="session")
def unbroken(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Unbroken]:
    """The unbroken run of some settings, trained once."""
    trainer.execute("pass")
    known: dict[tuple[str, ...], Unbroken] = {}

    def train(*arguments: str) -> Unbroken:
        if arguments not in known:
            began = time.monotonic()
            leavings = trainer.finish(tmp_path_factory.mktemp("unbroken"), *arguments)
            assert leavings.code == 0, leavings.err
            known[arguments] = Unbroken(leavings, time.monotonic() - began)
        return known[arguments]

    return train


# Killed


def test_a_run_killed_twenty_times_at_random_instants_ends_with_the_same_bytes(
    trainer: Trainer, unbroken: Callable[..., Unbroken], tmp_path: Path
):
    expected = unbroken(*CNN)
    draw = random.Random(20)
    early = [draw.uniform(0, 0.2) for _ in range(8)]
    late = [draw.uniform(0.1, 0.9) for _ in range(12)]
    delays = draw.sample(early + late, k=20)
    folders = (tmp_path / str(number) for number in range(100))
    folder, resumed = next(folders), 0
    while delays:
        process = trainer.start(folder, *CNN)
        process.join(delays[-1] * expected.seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            delays.pop()
        assert process.exitcode in (0, -signal.SIGKILL), Leavings(1, folder).err
        resumed += said_to_go_on(folder)
        if process.exitcode == 0:
            assert Leavings(0, folder).bytes == expected.bytes
            folder = next(folders)
    final = trainer.finish(folder, *CNN)
    assert final.code == 0, final.err
    assert "damaged" not in final.err
    assert final.bytes == expected.bytes
    assert resumed + said_to_go_on(folder) > 0, "no process went on from a checkpoint"


def said_to_go_on(folder: Path) -> bool:
    """Whether the last process in a folder got as far as to go on after an epoch."""
    said = folder / "stderr"
    return said.exists() and "going on after epoch" in said.read_text()


def test_a_run_killed_at_any_operation_on_the_disk_ends_with_the_same_bytes(
    trainer: Trainer, unbroken: Callable[..., Unbroken], tmp_path: Path
):
    flags = {"model": "mlp", "data": "circles", "epochs": "2"}
    names = {"folder": str(tmp_path), "flags": flags}
    assert trainer.execute(KILL_AT_EACH_OPERATION, **names) == 0
    expected = {**unbroken(*CIRCLES).bytes}
    runs = sorted(tmp_path.iterdir())
    assert len(runs) > 40, "two epochs sync, make, rename and remove more often than that"
    for path in runs:
        (tmp_path / path.name / "here").mkdir()
        found = Leavings(0, as_only_run(path)).bytes
        found["result"]["run"] = "run"
        assert found == expected, path


def as_only_run(path: Path) -> Path:
    """A folder in which the run lies under the name `run`."""
    (path / "here" / "run").symlink_to(path)
    return path / "here"


@pytest.mark.parametrize("step", [1, 2, 7, 8, 14, 15, 25, 28])
def test_adam_with_cosine_and_warm_up_goes_on_exactly_from_any_step(
    trainer: Trainer, unbroken: Callable[..., Unbroken], tmp_path: Path, step: int
):
    """A checkpoint is written at that very step, on SIGTERM; seven steps are an epoch."""
    stop = KILL_AT_STEP.format(step=step, signal="SIGTERM")
    first = trainer.finish(tmp_path, *ADAM, before=stop)
    assert first.code == 75, first.err
    manifest = json.loads((newest_generation(first.run) / "manifest.json").read_bytes())
    assert manifest["epoch"] * 7 + manifest["step"] == step
    last = trainer.finish(tmp_path, *ADAM)
    assert last.code == 0, last.err
    assert last.bytes == unbroken(*ADAM).bytes


def newest_generation(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def test_a_run_interrupted_at_every_step_by_turns_ends_with_the_same_bytes(
    trainer: Trainer, unbroken: Callable[..., Unbroken], tmp_path: Path
):
    stop = KILL_AT_STEP.format(step=5, signal="SIGTERM")
    codes = [trainer.finish(tmp_path, *CIRCLES, before=stop).code for _ in range(3)]
    assert codes == [75, 75, 0], "twelve steps are two times five, and two"
    assert Leavings(0, tmp_path).bytes == unbroken(*CIRCLES).bytes


# Asked to stop


@pytest.fixture
def command_line(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the real command line, with as many threads as the other runs have."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "rdfia_cli", *arguments],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, -2)])
def test_a_signal_in_the_middle_of_an_epoch_saves_it_and_going_on_gives_the_same_bytes(
    trainer: Trainer,
    unbroken: Callable[..., Unbroken],
    command_line: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
):
    process = command_line("train", *CNN, "--out", "run", "--json")
    wait_for_lines(tmp_path / "run" / "metrics.jsonl", 2)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == code, err
    assert f"error: stopped by {number.name} in epoch " in err
    assert "run the same command again" in err
    assert "Traceback" not in err
    error = json.loads(out)
    assert error["schema"] == "rdfia.error/1"
    assert error["exit_code"] == (code if code > 0 else 128 - code), "that of a shell"
    assert not (tmp_path / "run" / "result.json").exists()
    last = trainer.finish(tmp_path, *CNN)
    assert last.code == 0, last.err
    assert last.bytes == unbroken(*CNN).bytes


def wait_for_lines(path: Path, count: int) -> None:
    """Wait until a running process wrote so many lines."""
    until = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < until, f"{path} does not grow"
        time.sleep(0.005)


def test_a_signal_after_the_last_step_lets_the_run_finish(
    trainer: Trainer, unbroken: Callable[..., Unbroken], tmp_path: Path
):
    stop = """
import rdfia_cli.experiment as experiment, signal
real = experiment.describe_result
def describe(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    return real(*arguments)
experiment.describe_result = describe
"""
    found = trainer.finish(tmp_path, *CIRCLES, before=stop)
    assert found.code == 0, found.err
    assert found.bytes == unbroken(*CIRCLES).bytes


# Asked twice


def test_the_same_command_again_prints_the_stored_result_without_torch(
    unbroken: Callable[..., Unbroken], tmp_path: Path
):
    shutil.copytree(unbroken(*CIRCLES).leavings.run, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    program = (
        "import sys; from rdfia_cli import console; from rdfia_cli.app import app\n"
        "code = console.run(lambda: app(sys.argv[1:], standalone_mode=False), sys.argv[1:])\n"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    command = [sys.executable, "-c", program, "train", *CIRCLES, "--out", "run", "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == json.loads((tmp_path / "run/result.json").read_bytes())
    assert finished.stderr == "'run' is finished; --if-exists new trains again\n"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_of_two_processes_on_one_run_the_second_is_refused_and_the_first_unharmed(
    trainer: Trainer, unbroken: Callable[..., Unbroken], tmp_path: Path
):
    second = tmp_path / "second"
    second.mkdir()
    (second / "run").symlink_to(tmp_path / "run")
    slow = "import rdfia_cli.training.loop as l, time\n" + (
        "r = l.training_step\ndef s(*a):\n time.sleep(0.3)\n return r(*a)\nl.training_step = s"
    )
    first = trainer.start(tmp_path, *CIRCLES, before=slow)
    wait_for_lines(tmp_path / "run" / "metrics.jsonl", 1)
    refused = trainer.finish(second, *CIRCLES)
    assert refused.code == 1
    assert refused.err == (
        "error: another process is writing 'run'\n"
        "wait for it, or choose another --out or --if-exists new\n"
    )
    assert refused.printed["schema"] == "rdfia.error/1"
    first.join()
    assert first.exitcode == 0
    assert Leavings(0, tmp_path).bytes == unbroken(*CIRCLES).bytes


def test_without_its_result_a_run_reproduces_it(
    trainer: Trainer, unbroken: Callable[..., Unbroken], tmp_path: Path
):
    shutil.copytree(unbroken(*CNN).leavings.run, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    again = trainer.finish(tmp_path, *CNN)
    assert again.code == 0, again.err
    assert "epoch 6/6  " not in again.err, "nothing is trained again"
    assert again.bytes == unbroken(*CNN).bytes
    assert again.printed["weights_sha256"] == unbroken(*CNN).leavings.printed["weights_sha256"]


# Damaged


@pytest.fixture
def stopped(trainer: Trainer, tmp_path: Path) -> Leavings:
    """A run that stopped in its third epoch, with two generations."""
    found = trainer.finish(tmp_path, *CNN, before=KILL_AT_STEP.format(step=25, signal="SIGTERM"))
    assert found.code == 75, found.err
    assert len(list((found.run / "checkpoints").iterdir())) == 2
    return found


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "manifest.json"])
def test_a_damaged_newest_generation_costs_one_warning_and_no_bit(
    trainer: Trainer, unbroken: Callable[..., Unbroken], stopped: Leavings, name: str
):
    newest = newest_generation(stopped.run)
    damaged = bytearray((newest / name).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (newest / name).write_bytes(damaged)
    last = trainer.finish(stopped.folder, *CNN)
    assert last.code == 0, last.err
    warnings = [line for line in last.err.splitlines() if "damaged" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"warning: checkpoint 'run/checkpoints/{newest.name}' is damaged")
    assert "going on after epoch" in last.err
    assert last.bytes == unbroken(*CNN).bytes


def test_when_every_generation_is_damaged_the_run_begins_again_and_says_so(
    trainer: Trainer, unbroken: Callable[..., Unbroken], stopped: Leavings
):
    for generation in (stopped.run / "checkpoints").iterdir():
        (generation / "manifest.json").unlink()
    last = trainer.finish(stopped.folder, *CNN)
    assert last.code == 0, last.err
    assert "warning: no checkpoint is sound: starting from the beginning" in last.err
    assert last.bytes == unbroken(*CNN).bytes


def test_a_log_that_was_shortened_from_outside_is_refused_in_plain_words(
    trainer: Trainer, stopped: Leavings
):
    (stopped.run / "metrics.jsonl").write_bytes(b"")
    refused = trainer.finish(stopped.folder, *CNN)
    assert refused.code == 1
    assert "metrics.jsonl is shorter than when the checkpoint was written" in refused.err
    assert "Traceback" not in refused.err


def test_lines_that_a_killed_process_logged_after_its_checkpoint_are_cut(
    trainer: Trainer, unbroken: Callable[..., Unbroken], stopped: Leavings
):
    with (stopped.run / "metrics.jsonl").open("ab") as log:
        log.write(b'{"epoch": 3, "step": 9, "loss": 77.0}\n{"epoch": 3, "st')
    last = trainer.finish(stopped.folder, *CNN)
    assert last.code == 0, last.err
    assert last.bytes == unbroken(*CNN).bytes


# Diverged


def test_a_diverging_run_exits_5_and_keeps_the_last_good_checkpoint(
    trainer: Trainer, tmp_path: Path
):
    arguments = (*CIRCLES[:3], "--epochs", "9")
    found = trainer.finish(tmp_path, *arguments, before=EXPLODE_IN_EPOCH_3)
    assert found.code == 5, found.err
    assert "error: the loss became nan in epoch 3, step 2\nlower --lr" in found.err
    assert found.printed == {
        "schema": "rdfia.error/1",
        "error": "diverged",
        "message": "the loss became nan in epoch 3, step 2",
        "remedy": "lower --lr, or warm up for more epochs with --set schedule.warmup=N",
        "exit_code": 5,
    }
    assert json.loads((found.run / "failure.json").read_bytes()) == found.printed
    assert not (found.run / "result.json").exists()
    manifest = json.loads((newest_generation(found.run) / "manifest.json").read_bytes())
    assert (manifest["epoch"] in (1, 2), manifest["step"]) == (True, 0)
    assert trainer.finish(tmp_path, *arguments, before=EXPLODE_IN_EPOCH_3).code == 5
    assert trainer.finish(tmp_path, *arguments).code == 0
    assert not (found.run / "failure.json").exists()


EXPLODE_IN_EPOCH_3 = """
import rdfia_cli.training.loop as loop
real = loop.training_step
def step(model, batch, optimizer, *more):
    epoch = optimizer.param_groups[0].setdefault("steps", 0) // 6 + 1
    optimizer.param_groups[0]["steps"] += 1
    optimizer.param_groups[0]["lr"] = float("inf") if epoch == 3 else 0.1
    return real(model, batch, optimizer, *more)
loop.training_step = step
"""


def test_a_learning_rate_far_too_high_exits_5_before_anything_is_saved(
    trainer: Trainer, tmp_path: Path
):
    found = trainer.finish(tmp_path, "cnn", "--lr", "1e10", "--epochs", "2")
    assert found.code == 5, found.err
    assert "became" in found.err
    assert "Traceback" not in found.err
    assert not (found.run / "result.json").exists()
    assert not any((found.run / "checkpoints").glob("*"))


def test_a_signal_that_comes_with_the_divergence_saves_nothing_broken(
    trainer: Trainer, tmp_path: Path
):
    """The second step starts from weights so large that its loss is infinite."""
    stop = KILL_AT_STEP.format(step=2, signal="SIGTERM")
    found = trainer.finish(tmp_path, "mlp", "--data", "digits", "--lr", "1e39", before=stop)
    assert found.code == 5, found.err
    assert not any((found.run / "checkpoints").glob("*"))


def test_a_logged_step_that_diverged_where_the_loop_does_not_wait_for_its_loss_exits_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """On an accelerator the loop itself looks at the losses only now and then."""
    config = resolve(
        Sources({"model": "mlp", "optimizer.lr": "1e38", "log_every": "1", "out": "run"})
    ).config
    monkeypatch.setattr(loop, "refuse_divergence", lambda state: None)
    with pytest.raises(DivergedError, match=r"the loss became (nan|inf) in epoch 1, step \d+$"):
        finish(config, Path("run"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))


# Randomness


def test_another_seed_gives_other_weights(unbroken: Callable[..., Unbroken]):
    one, other = unbroken(*CIRCLES), unbroken(*CIRCLES, "--seed", "1")
    assert one.bytes["weights"] != other.bytes["weights"]


def test_logging_more_often_does_not_change_a_bit_of_the_weights(
    unbroken: Callable[..., Unbroken],
):
    one, other = unbroken(*CIRCLES), unbroken(*CIRCLES, "--log-every", "1")
    assert one.bytes["weights"] == other.bytes["weights"]
    epochs, all_lines = one.bytes["metrics"].splitlines(), other.bytes["metrics"].splitlines()
    assert epochs == [line for line in all_lines if b'"step"' not in line]
    assert len(all_lines) == len(epochs) + 12


def test_what_another_process_finished_before_the_lock_is_not_taken_for_ones_own(tmp_path: Path):
    ours, theirs = (
        resolve(
            Sources({"model": "mlp", "data": "circles", "epochs": "1", "seed": seed, "out": "run"})
        ).config
        for seed in ("1", "2")
    )
    folder = place(ours).folder
    finish(theirs, folder)
    with pytest.raises(UsageError, match="holds another run: seed is 2 there and 1 here"):
        finish(ours, folder)
    before = (folder / "result.json").read_bytes()
    assert finish(theirs, folder)["seed"] == 2
    assert (folder / "result.json").read_bytes() == before


def finish(config: RunConfig, folder: Path) -> Mapping[str, Any]:
    """The result of a run, trained here or found."""
    *_, last = run_experiment(config, folder)
    assert isinstance(last, Finished)
    return last.result


def test_a_passing_read_error_costs_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = resolve(
        Sources({"model": "mlp", "data": "circles", "epochs": "2", "out": "run"})
    ).config
    result = finish(config, Path("run"))
    (Path("run") / "result.json").unlink()
    before = sorted(Path("run/checkpoints").rglob("*"))
    real = Path.read_bytes

    def busy(path: Path) -> bytes:
        if path.name == "model.safetensors":
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", busy)
    with pytest.raises(OSError, match="Too many open files"):
        finish(config, Path("run"))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert sorted(Path("run/checkpoints").rglob("*")) == before
    assert finish(config, Path("run"))["weights_sha256"] == result["weights_sha256"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_step_stops_at_once_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
):
    config = resolve(Sources({"model": "mlp", "data": "circles", "out": "run"})).config

    def slow_dataset(config: RunConfig, splits: object, **others: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(assembly, "assemble", slow_dataset)
    with pytest.raises(PreemptedError, match="before anything was saved") as stopped:
        finish(config, Path("run"))
    assert (stopped.value.exit_code, stopped.value.signal) == (75, number)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_was_ignored_before_stays_ignored(number: signal.Signals):
    config = resolve(Sources({"model": "mlp", "data": "circles", "epochs": "1", "out": "r"})).config
    before = signal.signal(number, signal.SIG_IGN)
    try:
        told = run_experiment(config, Path("r"))
        last = [event for event in told if os.kill(os.getpid(), number) is None][-1]
        assert isinstance(last, Finished)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
