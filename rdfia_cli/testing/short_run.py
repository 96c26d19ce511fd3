"""A run of a few steps on noise, through the loop and the checkpoints of every run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import ParamsT

from rdfia_cli.lean_torch import spare_compiler, spare_step
from rdfia_cli.spec import Augmentation, Batch, InputSpec, Split
from rdfia_cli.testing.subject import require
from rdfia_cli.training import checkpoint
from rdfia_cli.training.inputs import Pipeline, Statistics
from rdfia_cli.training.loop import Plan, StepEnd, TrainingState, begin, fit
from rdfia_cli.training.precision import Arithmetic

EXAMPLES, BATCH, EPOCHS = 20, 8, 2
"""Three steps an epoch, the last of them smaller."""
STOP_AFTER = 4
"""Steps before the interruption: in the middle of the second epoch."""
FP32 = Arithmetic("fp32", channels_last=False)

Parts = Callable[[], tuple[nn.Module, Optimizer, Callable[[Optimizer], LRScheduler]]]
"""Builds a model, its optimizer and what builds their schedule, the same each time."""


def noise(input: InputSpec, count: int, seed: int = 0) -> Batch:
    """Normalised noise (count, *input.shape) float32 and labels (count,) int64."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, *input.shape, generator=generator)
    return Batch(inputs, torch.randint(input.classes, (count,), generator=generator))


def pixels(input: InputSpec, count: int, seed: int = 0) -> Batch:
    """Pixels in [0, 1], (count, *input.shape) float32, and labels (count,) int64."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(count, *input.shape, generator=generator)
    return Batch(inputs, torch.randint(input.classes, (count,), generator=generator))


def plan_for(input: InputSpec, augmentations: Sequence[Augmentation] = ()) -> Plan:
    """The plan of a short run on noise, with a validation split."""
    images = pixels(input, EXAMPLES)
    pipeline = Pipeline(
        Split(images.inputs, images.labels),
        augmentations,
        Statistics(),
        torch.device("cpu"),
        torch.contiguous_format,
        seed=0,
    )
    return Plan(pipeline, {"validation": pipeline}, EPOCHS, BATCH, seed=0, arithmetic=FP32)


def descent(parameters: ParamsT, lr: float, momentum: float = 0.0) -> Optimizer:
    """Stochastic gradient descent, without the compiler: its import takes longer than a check."""
    spare_compiler(Optimizer)
    optimizer = torch.optim.SGD(parameters, lr, momentum)
    spare_step(optimizer)
    return optimizer


def begin_run(plan: Plan, parts: Parts) -> TrainingState:
    """The state of a short run before its first step."""
    torch.manual_seed(0)
    model, optimizer, build_schedule = parts()
    spare_step(optimizer)
    schedule = build_schedule(optimizer)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingState(model, optimizer, schedule, scaler, Statistics(), begin(plan))


def require_exact_resume(plan: Plan, parts: Parts) -> None:
    """A run that is stopped, saved, built anew and restored ends with the same bytes.

    Raises:
        NonConformityError: it does not, or two runs that nobody stopped differ already.
        ComponentError: the state cannot be saved.
    """
    whole, again = (_finish(begin_run(plan, parts), plan) for _ in range(2))
    require(whole == again, "two runs with the same seed end with different weights")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "checkpoints"
        stopped = begin_run(plan, parts)
        for event in fit(stopped, plan):
            steps = plan.steps_per_epoch * (event.epoch - 1)
            if isinstance(event, StepEnd) and steps + event.step == STOP_AFTER:
                break
        checkpoint.save(place, stopped, {})
        found, _ = checkpoint.newest(place)
    assert found is not None
    resumed = begin_run(plan, parts)
    checkpoint.restore(resumed, found)
    require(
        _finish(resumed, plan) == whole,
        f"a run that is stopped after {STOP_AFTER} steps and resumed ends with other weights than "
        "one never stopped: all that changes must be in state_dict()",
    )


def _finish(state: TrainingState, plan: Plan) -> bytes:
    """Train to the end; the bytes of the weights."""
    for _ in fit(state, plan):
        pass
    return checkpoint.encode_weights(state)
