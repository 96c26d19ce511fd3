"""What tests share: a command line run in this process, and one run as a real process."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rdfia_cli import console, registry
from rdfia_cli.app import app
from rdfia_cli.config import resolve
from rdfia_cli.machine import processors
from rdfia_cli.sources import Sources

# Test files run side by side: more threads than one each would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# MKL reads this at its first product, which may be a test's own.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
# A shell has what it starts in the background ignore SIGINT, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """Two more than there are processors: many tests wait for a process or for the disk."""
    return processors() + 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test: were it the last, all would wait for it."""
    items.sort(key=lambda item: item.path.name != "test_pages.py")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind: its exit code, its stdout and its stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The object that is all of stdout, on one line."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The objects of a command that prints one for each model."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test stands in an empty folder, with no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for variable in os.environ:
        if variable.startswith("RDFIA_") and variable != "RDFIA_TEST_DATA":
            monkeypatch.delenv(variable)
    return tmp_path


@pytest.fixture
def rdfia(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `rdfia ARGUMENTS` in this process."""

    def run(*arguments: str) -> Outcome:
        capfd.readouterr()
        code = console.run(lambda: app(list(arguments), standalone_mode=False), list(arguments))
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return run


@pytest.fixture
def rdfia_process(tmp_path: Path) -> Callable[..., Outcome]:
    """Run `rdfia ARGUMENTS` as a process of its own; `environment` is added to the present one."""

    def run(*arguments: str, **environment: str) -> Outcome:
        finished = subprocess.run(
            [sys.executable, "-m", "rdfia_cli", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **environment},
            timeout=240,
            check=False,
        )
        return Outcome(finished.returncode, finished.stdout, finished.stderr)

    return run


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small batches on several threads wait for one another where the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_run(folder: Path, *, epochs: int = 5, best: float = 0.9, **settings: str) -> Path:
    """A finished run of made-up measures: its accuracy rises to `best`."""
    chosen = {"model": "mlp", "epochs": str(epochs), "out": str(folder), **settings}
    config = resolve(Sources(chosen)).config
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    lines: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        level = best * (1 - math.exp(-2 * epoch / epochs)) / (1 - math.exp(-2))
        lines.append(
            {
                "epoch": epoch,
                "learning_rate": 0.1 / epoch,
                "train": {"loss": 2 * (1 - level), "accuracy": min(1.0, level + 0.03)},
                "validation": {"loss": 2.1 * (1 - level), "accuracy": level},
                "test": {"loss": 2.2 * (1 - level), "accuracy": level - 0.01},
            }
        )
    write_lines(folder / "metrics.jsonl", lines)
    write_lines(
        folder / "timings.jsonl",
        [{"epoch": line["epoch"], "seconds": 1.5, "images_per_second": 1e4} for line in lines],
    )
    (folder / "environment.json").write_text(
        json.dumps(
            {
                "schema": "rdfia.environment/1",
                "python": "3.11.7",
                "versions": {"rdfia-cli": "0.1.0", "torch": "2.15.0"},
                "device": "cpu",
                "device_name": "a processor",
                "command": ["train", "--seed", "3"],
            }
        )
    )
    (folder / "result.json").write_text(
        json.dumps(
            {
                "schema": "rdfia.result/1",
                "parameters": 7510,
                "kept_epoch": epochs,
                "test": {**lines[-1]["test"], "top5": 1.0},
            }
        )
    )
    return folder


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_sweep(folder: Path, *, trials: int = 12, epochs: int = 5) -> Path:
    """The folder of a sweep over a rate, a width and a model, whose optimum is known."""
    draw = random.Random(0)
    found: list[dict[str, Any]] = []
    for number in range(trials):
        rate = round(10 ** draw.uniform(-4, 0), 6)
        hidden = draw.choice([16, 32, 64, 128])
        model = draw.choice(["mlp", "mlp:backprop=manual"])
        accuracy = 0.95 - 0.1 * abs(math.log10(rate) + 1.5) - 0.02 * (hidden < 64)
        run = folder / "trials" / f"{number:04d}"
        state = "failed" if number == 3 else "pruned" if number == 5 else "finished"
        if state != "failed":
            spec = f"{model}{',' if ':' in model else ':'}hidden={hidden}"
            make_run(run, epochs=epochs, best=accuracy, model=spec, lr=str(rate))
        found.append(
            {
                "number": number,
                "parameters": {"optimizer.lr": rate, "model.hidden": hidden, "model": model},
                "state": state,
                "validation_accuracy": None if state == "failed" else accuracy,
                "validation_loss": None if state == "failed" else 2.1 * (1 - accuracy),
                "test_accuracy": None if state != "finished" else accuracy - 0.01,
                "seconds": 7.5,
                "run": str(run),
                "error": "diverged" if state == "failed" else None,
                "message": "the loss became nan in epoch 1" if state == "failed" else None,
            }
        )
    finished = [trial for trial in found if trial["state"] == "finished"]
    content = {
        "schema": "rdfia.sweep/1",
        "command": "sweep",
        "sweep": str(folder),
        "space": [
            {"key": "optimizer.lr", "low": 1e-4, "high": 1.0, "step": None, "log": True},
            {"key": "model.hidden", "values": ["16", "32", "64", "128"]},
            {"key": "model", "values": ["mlp", "mlp:backprop=manual"]},
        ],
        "sampler": "tpe",
        "pruner": "median",
        "trials": found,
        "best": max(finished, key=lambda trial: trial["validation_accuracy"]),
        "importances": {"optimizer.lr": 0.8, "model.hidden": 0.15, "model": 0.05},
        "backend": "process",
        "seconds": 61.2,
    }
    (folder / "sweep.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def example_run(tmp_path: Path) -> Callable[..., Path]:
    """`make_run` under a name in the empty folder."""
    return lambda name="run", **settings: make_run(tmp_path / name, **settings)


@pytest.fixture
def example_sweep(tmp_path: Path) -> Callable[..., Path]:
    """`make_sweep` under a name in the empty folder."""
    return lambda name="sweep", **settings: make_sweep(tmp_path / name, **settings)


@pytest.fixture
def no_plugins() -> Iterator[None]:
    """Whatever is installed, the built-ins alone are there."""
    with registry.without_plugins():
        yield


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution as pip would, with one module and its entry points."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    reader = importlib.metadata.Distribution
    # Past a malformed file it becomes a lenient one for the rest of the process.
    monkeypatch.setattr(reader, "entry_points", reader.entry_points)
    before = set(sys.modules)
    registry.forget()

    def write(
        distribution: str,
        source: str,
        entries: str | bytes,
        *,
        version: str = "1.2",
        metadata: bool = True,
        requires: str = "",
    ) -> None:
        module = f"plug_{distribution.lower().replace('-', '_').replace('.', '_')}"
        (site / f"{module}.py").write_text(textwrap.dedent(source), encoding="utf-8")
        folder = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        if metadata:
            text = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
            text += f"Requires-Dist: {requires}\n" if requires else ""
            (folder / "METADATA").write_text(text, encoding="utf-8")
        if isinstance(entries, str):
            entries = textwrap.dedent(entries).format(module=module).encode()
        (folder / "entry_points.txt").write_bytes(entries)
        importlib.invalidate_caches()
        registry.forget()

    yield write
    registry.forget()
    for name in set(sys.modules) - before:
        if name.startswith("plug_"):
            del sys.modules[name]
