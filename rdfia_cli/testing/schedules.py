"""What every schedule promises."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rdfia_cli.spec import WatchesValidation
from rdfia_cli.testing.optimizers import INPUT, network
from rdfia_cli.testing.short_run import EPOCHS, descent, plan_for, require_exact_resume
from rdfia_cli.testing.subject import Subject, require

LENGTHS = ((1, 1), (3, 2), (7, 10), (391, 3))
"""Steps an epoch and epochs: the shortest run, short ones, one of real length."""
RATES = (0.1, 0.001)


def build(subject: Subject, optimizer: Optimizer, steps_per_epoch: int, epochs: int) -> LRScheduler:
    """The schedule of a run of some length."""
    built = subject.build(optimizer, steps_per_epoch=steps_per_epoch, epochs=epochs)
    require(isinstance(built, LRScheduler), f"it returns {type(built).__name__}, no LRScheduler")
    return built


def _optimizer() -> Optimizer:
    """Plain descent over two groups, each with its own rate."""
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in RATES]
    return descent(groups, lr=RATES[0], momentum=0.9)


def _rates(subject: Subject, steps_per_epoch: int, epochs: int) -> list[list[float]]:
    """The rates of every group at each step of a run."""
    optimizer = _optimizer()
    schedule = build(subject, optimizer, steps_per_epoch, epochs)
    found: list[list[float]] = []
    for step in range(steps_per_epoch * epochs):
        found.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
        if isinstance(schedule, WatchesValidation) and (step + 1) % steps_per_epoch == 0:
            schedule.observe(1.0)
    return found


def rates_are_finite_to_the_last_step(subject: Subject) -> None:
    """Runs of any length have a finite rate of at least 0 at each step, and not 0 at all."""
    for steps_per_epoch, epochs in LENGTHS:
        rates = [r for step in _rates(subject, steps_per_epoch, epochs) for r in step]
        where = f"in {epochs} epochs of {steps_per_epoch} steps"
        require(all(math.isfinite(r) and r >= 0 for r in rates), f"a rate is no rate {where}")
        require(any(r > 0 for r in rates), f"all rates are 0 {where}")


def groups_keep_their_ratio(subject: Subject) -> None:
    """Groups with rates of their own keep the ratio of their rates."""
    for step, (first, second) in enumerate(_rates(subject, 7, 10)):
        require(
            math.isclose(first * RATES[1], second * RATES[0], rel_tol=1e-6, abs_tol=1e-12),
            f"rates of {RATES[0]} and {RATES[1]} become {first:g} and {second:g} in step {step}",
        )


def nothing_is_kept_between_runs(subject: Subject) -> None:
    """Two runs of the same length have the same rates."""
    require(_rates(subject, 7, 10) == _rates(subject, 7, 10), "two equal runs have other rates")


def a_run_resumes_exactly(subject: Subject) -> None:
    """A run with it that is stopped and resumed ends with the same bytes as one never stopped."""
    plan = plan_for(INPUT)

    def scheduled(optimizer: Optimizer) -> LRScheduler:
        return build(subject, optimizer, plan.steps_per_epoch, EPOCHS)

    def parts() -> tuple[nn.Module, Optimizer, Callable[[Optimizer], LRScheduler]]:
        model = network()
        return model, descent(model.parameters(), 0.1, momentum=0.9), scheduled

    require_exact_resume(plan, parts)


CHECKS = (
    rates_are_finite_to_the_last_step,
    groups_keep_their_ratio,
    nothing_is_kept_between_runs,
    a_run_resumes_exactly,
)
