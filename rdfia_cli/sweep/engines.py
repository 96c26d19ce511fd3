"""Which engine is the faster for trials of a structure: three timed steps of each decide."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal

from rdfia_cli.sweep.failure import describe_failure
from rdfia_cli.sweep.space import number_text
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
from rdfia_cli.training.loop import StepEnd, fit

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
        way = fit_together(group)
        single = Prepared(group[0].trial, alone, shared.prepare(alone))
        gain = _compare(group[: way.width], single, least=way.least)
    except ApartError as error:
        return Chosen("process", f"not stacked: {error}")
    except RuntimeError as error:
        return Chosen("process", f"not stacked: {' '.join(str(error).split())}")
    if gain < LEAST_GAIN:
        return Chosen("process", f"stacked would be {_two_digits(gain)} times as fast")
    return Chosen("stacked", f"{_two_digits(gain)} times the speed of one after the other")


def _two_digits(gain: float) -> str:
    return number_text(Decimal(f"{gain:.2g}"))


def _compare(group: Sequence[Prepared], alone: Prepared, *, least: int) -> float:
    """How many times as fast a stack is as its trials one after the other."""
    stack = Stack([each.member for each in group], least=least)
    stack.begin_epoch()
    plans = [each.member.plan for each in group]
    steps = plans[0].steps_per_epoch
    # A schedule may refuse to go beyond the end of its run.
    count = min(TIMED_STEPS + 1, *(steps * plan.epochs for plan in plans))
    ordinary = _time_steps(alone)
    together: list[float] = []
    apart: list[float] = []
    for index in range(count):
        step = index % steps
        with one_thread():
            together.append(_time(lambda step=step: stack.step(step)))
        apart.append(next(ordinary))
    # The first of each warms up, where there is another one.
    warm = min(1, count - 1)
    return len(group) * statistics.median(apart[warm:]) / statistics.median(together[warm:])


def _time_steps(alone: Prepared) -> Iterator[float]:
    """The seconds of one step after the other in the ordinary way; nothing is scored."""
    state, plan = alone.member.state, replace(alone.member.plan, evaluations={})
    events = fit(state, plan)
    began = time.perf_counter()
    for event in events:
        if isinstance(event, StepEnd):
            yield time.perf_counter() - began
        began = time.perf_counter()


def _time(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
