"""Which engine is the faster for trials of a structure: three timed steps of each decide."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from rdfia_cli.sweep.failure import describe_failure
from rdfia_cli.sweep.stacking.fitness import ApartError
from rdfia_cli.sweep.stacking.kernels import one_thread
from rdfia_cli.sweep.stacking.preparation import (
    Prepared,
    explain_difference,
    fit_together,
    group_alike,
    share,
)
from rdfia_cli.sweep.stacking.stack import Stack
from rdfia_cli.sweep.trial import Chosen, Trial
from rdfia_cli.training.loop import fit

TIMED_STEPS = 3
LEAST_GAIN = 1.05
"""What is hardly faster is not worth another engine."""


def choose_engine(trials: Sequence[Trial]) -> Chosen:
    """Time both engines on copies that are thrown away; nothing is written.

    Args:
        trials: some of one structure.

    Returns:
        The engine, and the reason in words.
    """
    shared = share(trials[0].config)
    prepared: list[Prepared] = []
    for trial in trials:
        try:
            parts = shared.assemble(trial.config)
            prepared.append(Prepared(trial, parts, shared.prepare(parts)))
        except ApartError as error:
            return Chosen("process", f"not stacked: {error}")
        except Exception as error:  # told of the trial itself, when it is executed
            reason = describe_failure(error)[1]
            if trial is trials[-1] and not prepared:
                return Chosen("process", f"not stacked: {reason}")
    group = max(group_alike(prepared), key=len)
    if len(group) < 2:
        difference = explain_difference(prepared[0], prepared[-1]) if len(prepared) > 1 else None
        return Chosen("process", f"not stacked: {difference or 'there is only one'}")
    alone = shared.assemble(group[0].trial.config)
    try:
        fit = fit_together(group)
        single = Prepared(group[0].trial, alone, shared.prepare(alone))
        gain = _compare(group[: fit.width], single, even=fit.even)
    except ApartError as error:
        return Chosen("process", f"not stacked: {error}")
    except RuntimeError as error:
        return Chosen("process", f"not stacked: {' '.join(str(error).split())}")
    if gain < LEAST_GAIN:
        return Chosen("process", f"stacked would be {gain:.2g} times as fast")
    return Chosen("stacked", f"{gain:.2g} times the speed of one after the other")


def _compare(group: Sequence[Prepared], alone: Prepared, *, even: bool) -> float:
    """How many times as fast a stack is as its trials one after the other."""
    stack = Stack([each.member for each in group], even=even)
    stack.begin_epoch()
    steps = group[0].member.plan.steps_per_epoch
    ordinary = fit(alone.member.state, alone.member.plan)
    together: list[float] = []
    apart: list[float] = []
    for index in range(TIMED_STEPS + 1):
        step = index % steps
        with one_thread():
            together.append(_time(lambda step=step: stack.step(step)))
        apart.append(_time(lambda: next(ordinary)))
    # The first of each warms up.
    return len(group) * statistics.median(apart[1:]) / statistics.median(together[1:])


def _time(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
