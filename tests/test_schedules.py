"""Every schedule against its closed formula, and against torch's own where there is one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from rdfia_cli.errors import UsageError
from rdfia_cli.schedules import constant, cosine, exponential, linear, one_cycle, plateau, step

RATE = 0.4
spans = {"steps_per_epoch": st.integers(1, 7), "epochs": st.integers(1, 12)}
warmups = st.one_of(st.just(0.0), st.floats(0, 5))
everything = settings(max_examples=60, deadline=None)


def new_optimizer() -> Optimizer:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)


def advance(optimizer: Optimizer, schedule: LRScheduler, steps: int) -> list[float]:
    """The rate of each of the next steps."""
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def rates_of(builder, *, steps_per_epoch: int, epochs: int, **parameters) -> list[float]:
    """The rate of every step of a run, and the one after the last."""
    optimizer = new_optimizer()
    schedule = builder(optimizer, steps_per_epoch=steps_per_epoch, epochs=epochs, **parameters)
    return advance(optimizer, schedule, steps_per_epoch * epochs + 1)


def rates_of_torch(schedule: type, steps_per_epoch: int, epochs: int, **parameters) -> list[float]:
    """The rate of every step where torch's schedule is stepped once an epoch."""
    optimizer = new_optimizer()
    reference = schedule(optimizer, **parameters)
    return [rate for rate in advance(optimizer, reference, epochs) for _ in range(steps_per_epoch)]


def warm(step: int, warmup: float, steps_per_epoch: int) -> float:
    """The linear rise: (t + 1) / (W + 1) for W steps of warm-up, then 1."""
    length = warmup * steps_per_epoch
    return (step + 1) / (length + 1) if step < length else 1.0


@everything
@given(**spans, warmup=warmups)
def test_constant_keeps_the_rate_after_its_warm_up(steps_per_epoch, epochs, warmup):
    found = rates_of(constant, steps_per_epoch=steps_per_epoch, epochs=epochs, warmup=warmup)
    assert found == pytest.approx(
        [RATE * warm(t, warmup, steps_per_epoch) for t in range(len(found))]
    )


@everything
@given(**spans, warmup=warmups, hold=st.floats(0, 0.9), floor=st.floats(0, 1))
def test_linear_holds_the_rate_and_goes_straight_down(steps_per_epoch, epochs, warmup, hold, floor):
    found = rates_of(
        linear,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        warmup=warmup,
        hold=hold,
        floor=floor,
    )
    last = steps_per_epoch * epochs
    start = max(hold * last, warmup * steps_per_epoch)
    corners = [(0, 1.0), (start, 1.0), (max(last, start + 1), floor)]
    line = np.interp(range(last + 1), *zip(*corners, strict=True))
    assert found == pytest.approx(
        [RATE * line[t] * warm(t, warmup, steps_per_epoch) for t in range(last + 1)]
    )


@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_linear_is_torch_s_linear_rate(floor: float):
    found = rates_of(linear, steps_per_epoch=5, epochs=4, floor=floor)
    optimizer = new_optimizer()
    reference = LinearLR(optimizer, start_factor=1.0, end_factor=floor, total_iters=20)
    assert found == pytest.approx(advance(optimizer, reference, 21), abs=1e-12)


@everything
@given(**spans, warmup=warmups, gamma=st.floats(0.1, 1.1))
def test_exponential_multiplies_by_gamma_after_every_epoch(steps_per_epoch, epochs, warmup, gamma):
    found = rates_of(
        exponential, steps_per_epoch=steps_per_epoch, epochs=epochs, warmup=warmup, gamma=gamma
    )
    assert found == pytest.approx(
        [
            RATE * gamma ** math.floor(t / steps_per_epoch) * warm(t, warmup, steps_per_epoch)
            for t in range(len(found))
        ]
    )


@everything
@given(**spans, warmup=warmups, gamma=st.floats(0.1, 1.1), every=st.integers(1, 6))
def test_step_multiplies_by_gamma_after_every_few_epochs(
    steps_per_epoch, epochs, warmup, gamma, every
):
    found = rates_of(
        step,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        warmup=warmup,
        gamma=gamma,
        every=every,
    )
    for t, rate in enumerate(found):
        epoch = math.floor(t / steps_per_epoch)
        expected = RATE * gamma ** math.floor(epoch / every) * warm(t, warmup, steps_per_epoch)
        assert rate == pytest.approx(expected)


@everything
@given(**spans, share=st.floats(0, 0.9), floor=st.floats(0, 1))
def test_cosine_falls_by_half_a_wave_from_the_warm_up_to_the_last_step(
    steps_per_epoch, epochs, share, floor
):
    total, warmup = steps_per_epoch * epochs, share * epochs
    found = rates_of(
        cosine, steps_per_epoch=steps_per_epoch, epochs=epochs, warmup=warmup, floor=floor
    )
    start = warmup * steps_per_epoch
    for t, rate in enumerate(found):
        done = max(t - start, 0) / max(total - start, 1)
        wave = floor + (1 - floor) * (math.cos(math.pi * done) + 1) / 2
        assert rate == pytest.approx(RATE * wave * warm(t, warmup, steps_per_epoch), abs=1e-12)


@everything
@given(**spans, gamma=st.floats(0.1, 1))
def test_exponential_equals_torch_stepped_once_an_epoch(steps_per_epoch, epochs, gamma):
    found = rates_of(exponential, steps_per_epoch=steps_per_epoch, epochs=epochs, gamma=gamma)
    expected = rates_of_torch(ExponentialLR, steps_per_epoch, epochs, gamma=gamma)
    assert found[:-1] == pytest.approx(expected)


@everything
@given(**spans, gamma=st.floats(0.1, 1), every=st.integers(1, 6))
def test_step_equals_torch_stepped_once_an_epoch(steps_per_epoch, epochs, gamma, every):
    found = rates_of(step, steps_per_epoch=steps_per_epoch, epochs=epochs, gamma=gamma, every=every)
    expected = rates_of_torch(StepLR, steps_per_epoch, epochs, gamma=gamma, step_size=every)
    assert found[:-1] == pytest.approx(expected)


@everything
@given(**spans, floor=st.floats(0, 0.9))
def test_cosine_equals_torch_stepped_after_every_step(steps_per_epoch, epochs, floor):
    total = steps_per_epoch * epochs
    found = rates_of(cosine, steps_per_epoch=steps_per_epoch, epochs=epochs, floor=floor)
    optimizer = new_optimizer()
    reference = CosineAnnealingLR(optimizer, total, eta_min=floor * RATE)
    assert found == pytest.approx(advance(optimizer, reference, total + 1), abs=1e-9)


@pytest.mark.parametrize("floor", [0.0, 0.25, 1.0])
def test_cosine_begins_at_the_rate_never_rises_and_ends_at_the_floor(floor: float):
    found = rates_of(cosine, steps_per_epoch=5, epochs=4, floor=floor)
    assert found[0] == RATE
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(floor * RATE, abs=1e-15)


@pytest.mark.parametrize("builder", [constant, exponential, step, cosine])
def test_a_warm_up_rises_from_near_zero_by_equal_parts(builder):
    found = rates_of(builder, steps_per_epoch=10, epochs=20, warmup=1)
    assert 0 < found[0] < 0.1 * RATE
    rises = [after - before for before, after in itertools.pairwise(found[:10])]
    assert rises == pytest.approx([found[0]] * 9)
    assert max(found) <= RATE


@pytest.mark.parametrize("builder", [constant, exponential, step, cosine])
def test_a_warm_up_longer_than_the_run_is_a_rise_to_the_end(builder):
    found = rates_of(builder, steps_per_epoch=3, epochs=2, warmup=50)[:3]
    assert found == pytest.approx([RATE * t / 151 for t in (1, 2, 3)])


@pytest.mark.parametrize("builder", [constant, exponential, step, cosine])
def test_a_schedule_restored_from_its_saved_state_goes_on_where_it_was(builder):
    parameters = {"steps_per_epoch": 3, "epochs": 20, "warmup": 1.5}
    optimizer = new_optimizer()
    schedule = builder(optimizer, **parameters)
    advance(optimizer, schedule, 31)
    again = new_optimizer()
    restored = builder(again, **parameters)
    again.load_state_dict(optimizer.state_dict())
    restored.load_state_dict(schedule.state_dict())
    assert advance(again, restored, 29) == advance(optimizer, schedule, 29)


def test_the_rates_of_the_parameter_groups_keep_their_ratio():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = SGD(groups)
    schedule = exponential(optimizer, steps_per_epoch=1, epochs=3, gamma=0.5)
    advance(optimizer, schedule, 2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.25, 0.025])


@everything
@given(steps_per_epoch=st.integers(1, 7), epochs=st.integers(4, 12))
def test_one_cycle_is_by_default_torch_s_own(steps_per_epoch, epochs):
    ours, theirs = new_optimizer(), new_optimizer()
    total = steps_per_epoch * epochs
    schedule = one_cycle(ours, steps_per_epoch=steps_per_epoch, epochs=epochs)
    reference = OneCycleLR(theirs, RATE, total_steps=total, cycle_momentum=False)
    found = advance(ours, schedule, total)
    assert found == pytest.approx(advance(theirs, reference, total), rel=1e-9)
    assert found[0] == pytest.approx(RATE / 25)


@pytest.mark.parametrize(("rise", "steps"), [(0.5, 2), (0.1, 10), (0.25, 4), (1 / 3, 3)])
def test_one_cycle_may_rise_for_one_step_which_has_the_highest_rate(rise: float, steps: int):
    optimizer = new_optimizer()
    schedule = one_cycle(optimizer, steps_per_epoch=steps, epochs=1, rise=rise)
    found = advance(optimizer, schedule, steps)
    assert found[0] == pytest.approx(RATE, rel=1e-6)
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(RATE * 4e-6, rel=1e-6)


def test_one_cycle_needs_rates_above_0_at_its_ends():
    with pytest.raises(UsageError, match="above 0"):
        one_cycle(new_optimizer(), steps_per_epoch=1, epochs=9, end=0.0)


@everything
@given(
    losses=st.lists(st.floats(0.1, 2.0), min_size=1, max_size=40),
    patience=st.integers(1, 4),
    factor=st.floats(0.1, 0.9),
    floor=st.sampled_from([0.0, 0.05]),
)
def test_plateau_lowers_the_rate_where_torch_s_own_does(losses, patience, factor, floor):
    ours, theirs = new_optimizer(), new_optimizer()
    settings = {"factor": factor, "patience": patience, "floor": floor}
    schedule = plateau(ours, steps_per_epoch=3, epochs=len(losses), **settings)
    # torch's patience is the number of epochs that are forgiven, one less.
    reference = ReduceLROnPlateau(
        theirs, factor=factor, patience=patience - 1, min_lr=floor * RATE, eps=0.0
    )
    for loss in losses:
        advance(ours, schedule, 3)
        schedule.observe(loss)
        reference.step(loss)
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-9)


def test_plateau_rises_over_its_warm_up_first():
    found = rates_of(plateau, steps_per_epoch=4, epochs=2, warmup=1.0)
    assert found == pytest.approx([RATE * warm(step, 1.0, 4) for step in range(9)])
