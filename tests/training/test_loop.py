"""The loop: a stream of events between which a run may be saved, stopped and taken up again."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rdfia_cli.augmentations.geometry import horizontal_flip, random_crop
from rdfia_cli.errors import DivergedError
from rdfia_cli.optimizers import adam, sgd
from rdfia_cli.schedules import cosine
from rdfia_cli.spec import InputSpec, Split
from rdfia_cli.training import checkpoint
from rdfia_cli.training.averaging import Average
from rdfia_cli.training.inputs import Pipeline, Statistics, fit_statistics
from rdfia_cli.training.loop import (
    EpochEnd,
    Event,
    Plan,
    StepEnd,
    TrainingState,
    begin,
    fit,
    predict_split,
    refuse_infinite_weights,
)
from rdfia_cli.training.precision import Arithmetic
from rdfia_cli.training.randomness import draw_order

CPU = torch.device("cpu")
COUNT, BATCH, EPOCHS = 23, 5, 2
STEPS = 5
EVENTS = EPOCHS * (STEPS + 1)


def examples(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(count, 2, 6, 6, generator=generator)
    return Split(inputs, torch.randint(3, (count,), generator=generator))


def network(dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.LazyLinear(3),
    )


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 6, 3))


def prepare(
    model: nn.Module, *augmentations, optimizer=sgd, seed=0, evaluated=True, **parameters
) -> tuple[TrainingState, Plan]:
    """A run that has not begun, of 23 images in batches of 5: 5 steps an epoch, 2 epochs."""
    plain = Pipeline(
        examples(COUNT, 0), augmentations, Statistics(), CPU, torch.contiguous_format, seed
    )
    statistics = fit_statistics("train", plain)

    def pipeline(split: Split) -> Pipeline:
        return Pipeline(split, augmentations, statistics, CPU, torch.contiguous_format, seed)

    evaluations = {
        name: pipeline(examples(count, number))
        for number, (name, count) in enumerate((("validation", 7), ("test", 9)), start=1)
    }
    plan = Plan(
        pipeline(examples(COUNT, 0)),
        evaluations if evaluated else {},
        EPOCHS,
        BATCH,
        seed,
        Arithmetic("fp32", channels_last=False),
    )
    stepper = optimizer(model, **parameters)
    schedule = cosine(stepper, steps_per_epoch=STEPS, epochs=EPOCHS)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingState(model, stepper, schedule, scaler, statistics, begin(plan)), plan


def prepare_linear(**changes) -> tuple[TrainingState, Plan]:
    torch.manual_seed(0)
    return prepare(linear(), **changes)


def prepare_everything(optimizer=sgd, **changes) -> tuple[TrainingState, Plan]:
    """A run with every source of randomness and state: crop, flip, dropout, batch norm, moments."""
    torch.manual_seed(0)
    model = network(dropout=0.5)
    model(torch.zeros(2, 2, 5, 5))
    spec = InputSpec((2, 6, 6), 3)
    augmentations = random_crop(spec, size=5), horizontal_flip(InputSpec((2, 5, 5), 3))
    parameters = {"lr": 0.05, "momentum": 0.9} if optimizer is sgd else {"lr": 0.01}
    return prepare(model, *augmentations, optimizer=optimizer, **parameters, **changes)


def finish(state: TrainingState, plan: Plan) -> bytes:
    """Train to the end and return the bytes of the weights."""
    for _ in fit(state, plan):
        pass
    return checkpoint.encode_weights(state)


def told(event: Event) -> tuple:
    """What an event tells but the time it took."""
    if isinstance(event, StepEnd):
        return (event.epoch, event.step, event.steps_per_epoch, event.images, event.loss.item())
    return (event.epoch, event.epochs, event.learning_rate, event.train, event.evaluations)


# Events and their numbers


def test_every_step_is_an_event_and_after_the_last_of_an_epoch_its_end():
    events = list(fit(*prepare_linear()))
    steps = [type(event) for event in events]
    assert steps == ([StepEnd] * STEPS + [EpochEnd]) * EPOCHS
    seen = [(e.epoch, e.step, e.images) for e in events if isinstance(e, StepEnd)]
    sizes = [5, 5, 5, 5, 3]
    assert seen == [(epoch, i, sizes[i - 1]) for epoch in (1, 2) for i in range(1, 6)]
    assert all(e.steps_per_epoch == STEPS for e in events if isinstance(e, StepEnd))
    assert [(e.epoch, e.epochs) for e in events if isinstance(e, EpochEnd)] == [(1, 2), (2, 2)]


def test_a_loop_in_plain_torch_sees_the_same_losses_scores_and_weights():
    state, plan = prepare_linear(lr=0.2)
    torch.manual_seed(0)
    model = linear()
    for event in fit(state, plan):
        if isinstance(event, EpochEnd):
            assert_plain_epoch(model, plan, event)
    for ours, theirs in zip(state.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def assert_plain_epoch(model: nn.Module, plan: Plan, event: EpochEnd) -> None:
    """Train an epoch by hand and compare; the loss is a mean over examples, not over batches."""
    train, statistics = plan.train.split, plan.train.statistics
    losses, right = [], 0
    for step, indices in enumerate(draw_order(COUNT, plan.seed, event.epoch - 1).split(BATCH)):
        done = (event.epoch - 1) * STEPS + step
        rate = 0.2 * (1 + math.cos(math.pi * done / (STEPS * EPOCHS))) / 2
        logits = model(statistics.apply(train.inputs[indices]))
        each = F.cross_entropy(logits, train.labels[indices], reduction="none")
        losses += each.tolist()
        right += sum(p == t for p, t in zip(logits.argmax(1), train.labels[indices], strict=True))
        gradients = torch.autograd.grad(each.mean(), list(model.parameters()))
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.data -= rate * gradient
    assert event.learning_rate == pytest.approx(rate)
    assert event.train.loss == pytest.approx(sum(losses) / COUNT, rel=1e-5)
    assert event.train.accuracy == right / COUNT
    for name, pipeline in plan.evaluations.items():
        split = pipeline.split
        logits = model(statistics.apply(split.inputs)).detach()
        expected = F.cross_entropy(logits, split.labels).item()
        assert event.evaluations[name].loss == pytest.approx(expected, rel=1e-5)
        accuracy = (logits.argmax(1) == split.labels).double().mean().item()
        assert event.evaluations[name].accuracy == accuracy


def test_the_loss_of_a_step_is_that_of_its_own_batch_before_it():
    state, plan = prepare_linear()
    before = copy.deepcopy(state.model)
    event = next(fit(state, plan))
    batch = plan.train.batch(draw_order(COUNT, 0, 0)[:BATCH], 0, 0)
    torch.testing.assert_close(
        event.loss, F.cross_entropy(before(batch.inputs), batch.labels).detach()
    )


def test_a_batch_larger_than_the_split_is_one_step_of_all():
    state, plan = prepare_linear()
    whole = Plan(plan.train, {}, 3, 1000, 0, plan.arithmetic)
    state.progress = begin(whole)
    events = [event for event in fit(state, whole) if isinstance(event, StepEnd)]
    assert [(event.step, event.images) for event in events] == [(1, COUNT)] * 3


def test_an_epoch_feeds_every_example_once():
    state, plan = prepare_linear()
    fed: list[int] = []

    class Watched(Pipeline):
        def batch(self, indices, epoch, step):
            fed.extend(indices.tolist())
            return super().batch(indices, epoch, step)

    plan = Plan(Watched(**vars(plan.train)), {}, EPOCHS, BATCH, 0, plan.arithmetic)
    finish(state, plan)
    assert sorted(fed[:COUNT]) == sorted(fed[COUNT:]) == list(range(COUNT))
    assert fed[:COUNT] != fed[COUNT:]


def test_a_finished_run_has_no_more_events():
    state, plan = prepare_linear()
    finish(state, plan)
    assert list(fit(state, plan)) == []
    assert state.progress.total_steps == EPOCHS * STEPS


def test_the_loop_prints_and_writes_nothing(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    finish(*prepare_everything())
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


# The same bits


optimizers = pytest.mark.parametrize("optimizer", [sgd, adam])


@optimizers
def test_equal_seeds_give_equal_bytes_and_another_seed_gives_others(optimizer: Callable):
    state, plan = prepare_everything(optimizer)
    torch.manual_seed(77)
    expected = finish(state, plan)
    assert finish(*prepare_everything(optimizer)) == expected
    assert finish(*prepare_everything(optimizer, seed=1)) != expected


def test_looking_at_validation_and_test_changes_no_weight():
    expected = finish(*prepare_everything())
    assert finish(*prepare_everything(evaluated=False)) == expected


def take_up_from_bytes(state: TrainingState, optimizer: Callable) -> tuple[TrainingState, Plan]:
    """A freshly built run, brought to where a checkpoint was."""
    files = {
        checkpoint.MODEL: checkpoint.encode_weights(state),
        checkpoint.STATE: checkpoint.encode_state(state),
    }
    fresh, plan = prepare_everything(optimizer)
    fresh.statistics = Statistics()
    checkpoint.restore(fresh, checkpoint.Generation(Path("saved"), {}, files))
    return fresh, plan


@optimizers
@pytest.mark.parametrize("stop", range(EVENTS))
def test_a_run_stopped_after_any_event_goes_on_from_its_checkpoint_to_the_same_bytes(
    optimizer: Callable, stop: int
):
    whole, plan = prepare_everything(optimizer)
    expected = [told(event) for event in fit(whole, plan)]

    stopped, plan = prepare_everything(optimizer)
    events = fit(stopped, plan)
    found = [told(next(events)) for _ in range(stop)]
    resumed, plan = take_up_from_bytes(stopped, optimizer)
    events.close()
    torch.manual_seed(1234 + stop)
    found += [told(event) for event in fit(resumed, plan)]

    assert found == expected
    assert checkpoint.encode_weights(resumed) == checkpoint.encode_weights(whole)
    assert resumed.progress.total_steps == whole.progress.total_steps == EPOCHS * STEPS


@pytest.mark.parametrize("stop", range(EVENTS))
def test_a_loop_left_after_any_event_goes_on_from_its_own_state(stop: int):
    expected = finish(*prepare_everything())
    state, plan = prepare_everything()
    events = fit(state, plan)
    for _ in range(stop):
        next(events)
    events.close()
    torch.manual_seed(1234 + stop)
    assert finish(state, plan) == expected


# Divergence


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused_naming_epoch_and_step(epoch: int, value: float):
    state, plan = prepare_linear()
    victim = 11
    position = draw_order(COUNT, 0, epoch - 1).tolist().index(victim)
    events = fit(state, plan)
    for _ in range((epoch - 1) * (STEPS + 1)):
        next(events)
    plan.train.split.inputs[victim] = value
    where = f"in epoch {epoch}, step {position // BATCH + 1}$"
    with pytest.raises(DivergedError, match=where) as caught:
        list(events)
    assert caught.value.exit_code == 5
    assert "--lr" in caught.value.remedy


def test_a_rate_far_too_high_is_refused_before_the_run_ends():
    with pytest.raises(DivergedError, match=r"the loss became (nan|inf) in epoch \d, step \d"):
        finish(*prepare_linear(lr=1e38))


def test_weights_that_are_not_finite_are_refused_by_name():
    state, _ = prepare_linear()
    refuse_infinite_weights(state)
    with torch.no_grad():
        state.model[1].bias[0] = math.inf
    with pytest.raises(DivergedError, match=r"'1\.bias' became NaN or infinite in epoch 1"):
        refuse_infinite_weights(state)


@pytest.mark.parametrize(("events", "epoch"), [(1, 1), (STEPS, 1), (STEPS + 1, 1), (STEPS + 2, 2)])
def test_infinite_weights_are_told_with_the_epoch_of_the_last_step(events: int, epoch: int):
    state, plan = prepare_linear()
    going = fit(state, plan)
    for _ in range(events):
        next(going)
    with torch.no_grad():
        state.model[1].bias[0] = math.nan
    with pytest.raises(DivergedError, match=f"in epoch {epoch}$"):
        refuse_infinite_weights(state)


class Masked(nn.Module):
    """A linear model with a mask of attention in its state, and a frozen one besides."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = linear()
        self.register_buffer("mask", torch.full((4, 4), -math.inf).triu(1))
        self.frozen = nn.Parameter(torch.full((2,), math.inf), requires_grad=False)
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits = self.linear(inputs)
        return logits + self.mask[0, 0] + 1 / self.frozen[0]


@pytest.mark.parametrize("averaged", [False, True])
def test_a_mask_that_was_infinite_from_the_start_is_kept(averaged: bool, tmp_path: Path):
    torch.manual_seed(0)
    state, plan = prepare(Masked(), lr=0.01)
    if averaged:
        state.average = Average(state.model, 0.9)
    finish(state, plan)
    checkpoint.save(tmp_path / "checkpoints", state, {})
    expected = torch.full((4, 4), -math.inf).triu(1)
    assert torch.equal(state.scored.get_buffer("mask"), expected)


def test_a_buffer_that_became_infinite_is_refused_beside_one_that_always_was():
    state, _ = prepare(Masked())
    state.model.get_buffer("mean").fill_(math.nan)
    with pytest.raises(DivergedError, match="the weights 'mean'"):
        refuse_infinite_weights(state)


# Predictions


def test_a_split_is_predicted_whole_in_order_and_without_dropout():
    state, plan = prepare_everything()
    state.model.train()
    logits, labels = predict_split(state.model, plan.evaluations["test"], plan.arithmetic)
    split = plan.evaluations["test"].split
    assert torch.equal(labels, split.labels)
    # The centre of 6x6 cut to 5x5 begins at offset 0.
    centres = state.statistics.apply(split.inputs)[:, :, :5, :5]
    torch.testing.assert_close(logits, state.model.eval()(centres).detach())
