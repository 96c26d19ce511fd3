"""A start pays for no compiler that it does not use, and computes the same without it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from rdfia_cli.lean_torch import spare_step

PROGRAM = """
import sys
from rdfia_cli.app import app
try:
    app(sys.argv[1:], standalone_mode=False)
except BaseException as error:
    assert not getattr(error, "exit_code", 0), error
print([name for name in ("torch._dynamo", "sklearn", "sympy") if name in sys.modules])
"""


def run_alone(command: str, folder: Path) -> str:
    """Run a command line in a process of its own; the heavy modules that it imported."""
    arguments = [sys.executable, "-c", PROGRAM, *command.split()]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_training_imports_neither_the_compiler_nor_scikit_learn(tmp_path):
    assert run_alone("train mlp --data circles --epochs 1 -q", tmp_path) == "[]"


@pytest.mark.parametrize(
    "command", ["param-count cnn vit --json", "receptive-field vit -q", "param-count vit --explain"]
)
def test_the_analysis_of_our_models_does_not_import_the_compiler(tmp_path, command):
    assert "torch._dynamo" not in run_alone(command, tmp_path)


@pytest.fixture
def spare(monkeypatch):
    """Spare a step as where nobody imported the compiler, which the plain step beside it does."""

    def without_compiler(optimizer: torch.optim.Optimizer) -> None:
        with monkeypatch.context() as meanwhile:
            meanwhile.delitem(sys.modules, "torch._dynamo", raising=False)
            spare_step(optimizer)
        assert "step" in vars(optimizer)

    return without_compiler


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_spared_step_is_the_same_step(spare, kind):
    models = [nn.Linear(3, 2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [kind(model.parameters(), lr=0.1) for model in models]
    spare(optimizers[1])
    for step in range(3):
        inputs = torch.full((4, 3), float(step + 1))
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


def test_a_spared_step_is_seen_by_a_schedule(spare):
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    spare(optimizer)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    schedule.step()  # a warning, were the step not seen, is an error here
    assert optimizer.param_groups[0]["lr"] == 0.5


def call_all_hooks(heard: list[str], optimizer: torch.optim.Optimizer) -> list[RemovableHandle]:
    """Have both hooks of an optimizer, and both of all optimizers, say that they were called."""

    def says(name: str) -> Callable[..., None]:
        return lambda *arguments: heard.append(name)

    return [
        optimizer.register_step_pre_hook(says("before")),
        optimizer.register_step_post_hook(says("after")),
        register_optimizer_step_pre_hook(says("before any")),
        register_optimizer_step_post_hook(says("after any")),
    ]


@pytest.mark.parametrize("late", [False, True])
def test_hooks_are_called_at_each_spared_step_whenever_they_came(spare, late):
    heard: list[str] = []
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    handles = [] if late else call_all_hooks(heard, optimizer)
    spare(optimizer)
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    handles = handles or call_all_hooks(heard, optimizer)
    try:
        for _ in range(2):
            weight.grad = torch.ones(2)
            optimizer.step()
    finally:
        for handle in handles:
            handle.remove()
    assert heard == ["before any", "before", "after", "after any"] * 2
    assert weight.tolist() == [-1.0, -1.0]
    optimizer.step()
    assert len(heard) == 8


def test_a_step_that_a_builder_replaced_stays(spare):
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    calls: list[int] = []
    optimizer.step = lambda closure=None: calls.append(1)
    spare(optimizer)
    optimizer.step()
    assert calls == [1]


CLIPPED = """
import torch

def clipped(model, *, lr: float = 0.1):
    'SGD that keeps every weight within a hundredth of 0.'
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    @torch.no_grad()
    def clip(*arguments):
        for parameter in model.parameters():
            parameter.clamp_(-0.01, 0.01)

    optimizer.register_step_post_hook(clip)
    return optimizer
"""


def test_a_run_obeys_the_hooks_of_its_optimizer(tmp_path):
    (tmp_path / "hooks.py").write_text(CLIPPED)
    command = "train mlp --epochs 1 --optimizer ./hooks.py:clipped --out run -q"
    run_alone(command, tmp_path)
    (weights,) = (tmp_path / "run").glob("checkpoints/*/model.safetensors")
    tensors = safetensors.torch.load_file(weights).items()
    learned = [t.abs().max().item() for name, t in tensors if not name.startswith("input_")]
    assert learned
    assert max(learned) <= 0.01
