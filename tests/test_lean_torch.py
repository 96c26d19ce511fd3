"""A start pays for no compiler that it does not use, and computes the same without it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

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


def test_training_imports_neither_the_compiler_nor_scikit_learn(tmp_path):
    command = "train mlp --data circles --epochs 1 -q"
    arguments = [sys.executable, "-c", PROGRAM, *command.split()]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_spared_step_is_the_same_step(kind):
    models = [nn.Linear(3, 2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [kind(model.parameters(), lr=0.1) for model in models]
    spare_step(optimizers[1])
    for step in range(3):
        inputs = torch.full((4, 3), float(step + 1))
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


def test_a_spared_step_is_seen_by_a_schedule():
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    spare_step(optimizer)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    schedule.step()  # a warning, were the step not seen, is an error here
    assert optimizer.param_groups[0]["lr"] == 0.5
