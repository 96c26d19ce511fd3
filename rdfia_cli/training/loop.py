"""The training loop: a stream of small events. It prints nothing and writes nothing.

Between two events the state is whole: whoever consumes them may save it there, and a loop
started from the saved state goes on with the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rdfia_cli.errors import DivergedError
from rdfia_cli.spec import WatchesValidation
from rdfia_cli.training.averaging import Average, Best
from rdfia_cli.training.inputs import Pipeline, Statistics
from rdfia_cli.training.metrics import Score, count_correct, score
from rdfia_cli.training.precision import Arithmetic
from rdfia_cli.training.randomness import derive_seed, draw_order, seed_global_generators
from rdfia_cli.training.step import PLAIN, Objective, predict, training_step

REMEDY = "lower --lr, or warm up for more epochs with --set schedule.warmup=N"
STEPS_BETWEEN_LOSS_CHECKS = 100
"""How long a diverged run may go on unnoticed on a GPU, where reading the loss waits."""


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        stopped: it ended before its last epoch, since validation no longer improved.
        losses: (steps_per_epoch,) float32, the mean loss of each step of this epoch so far.
        correct: 0-dim int64, the examples of this epoch classified rightly so far.
        epoch: whole epochs done.
        step: steps done of the current epoch.
        learning_rate: of the first parameter group, in the last step.
        seconds: spent on this epoch's steps so far.
        training_seconds: spent on the steps of all whole epochs.
        evaluation_seconds: spent on scoring.
    """

    losses: Tensor
    correct: Tensor
    stopped: bool = False
    epoch: int = 0
    step: int = 0
    learning_rate: float = 0.0
    seconds: float = 0.0
    training_seconds: float = 0.0
    evaluation_seconds: float = 0.0

    @property
    def total_steps(self) -> int:
        """Steps done since the beginning."""
        return self.epoch * len(self.losses) + self.step


@dataclass
class TrainingState:
    """All that changes while training: what a checkpoint must hold.

    Attributes:
        model, optimizer, schedule, scaler: what makes the steps.
        statistics: the normalisation of the inputs.
        progress: how far it is.
        average: the moving average of the weights, where one is asked for.
        best: the weights of the best epoch, where training may stop early.
        unbounded: the names of what was NaN or infinite from the start and does not learn, such as
            a mask of attention.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    scaler: torch.amp.GradScaler
    statistics: Statistics
    progress: Progress
    average: Average | None = None
    best: Best | None = None
    unbounded: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.unbounded = frozenset(_unbounded(self.model))

    @property
    def scored(self) -> nn.Module:
        """The model that is evaluated and kept."""
        return self.average.model if self.average else self.model


def _unbounded(model: nn.Module) -> Iterator[str]:
    """What of a model's state is not finite, by name, leaving out what learns."""
    learning = {
        name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad
    }
    for name, value in model.state_dict().items():
        is_tensor = isinstance(value, Tensor)
        if name not in learning and is_tensor and not value.isfinite().all():
            yield name


@dataclass(frozen=True)
class Plan:
    """All that stays while training.

    Attributes:
        train: the training pipeline.
        evaluations: the pipelines scored after each epoch, by split.
        epochs: passes over the train split.
        batch_size: examples a step; the last step of an epoch may have fewer.
        seed: the seed of the run.
        arithmetic: precision and layout.
        objective: the loss, and the limit of the gradient.
        patience: epochs without a better validation score before it stops; 0: never.
        frozen: the parts of the model that stay in evaluation mode.
    """

    train: Pipeline
    evaluations: Mapping[str, Pipeline]
    epochs: int
    batch_size: int
    seed: int
    arithmetic: Arithmetic
    objective: Objective = PLAIN
    patience: int = 0
    frozen: Sequence[nn.Module] = ()

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one epoch."""
        return -(-len(self.train.split) // self.batch_size)


@dataclass(frozen=True)
class StepEnd:
    """A step is done. `loss` is 0-dim and on the device: reading it waits."""

    epoch: int
    step: int
    steps_per_epoch: int
    images: int
    loss: Tensor


@dataclass(frozen=True)
class EpochEnd:
    """An epoch is done and scored.

    Attributes:
        epoch: its number, from 1, of `epochs`.
        learning_rate: of the first parameter group, in the epoch's last step.
        train: mean over the epoch's own steps: weights moving, augmentation on.
        evaluations: the scores after the epoch, by split.
        seconds: the epoch took, scoring included.
        images_per_second: through the training steps.
        last: the run is over; the weights are those that it keeps.
    """

    epoch: int
    epochs: int
    learning_rate: float
    train: Score
    evaluations: Mapping[str, Score]
    seconds: float
    images_per_second: float
    last: bool


Event = StepEnd | EpochEnd


def begin(plan: Plan) -> Progress:
    """The progress of a run that has not begun."""
    device = plan.train.device
    return Progress(
        losses=torch.zeros(plan.steps_per_epoch, device=device),
        correct=torch.zeros((), dtype=torch.int64, device=device),
    )


def fit(state: TrainingState, plan: Plan) -> Iterator[Event]:
    """Train from where the state is to the end: an event a step and an event an epoch.

    The weights are looked at where they are saved, by `refuse_infinite_weights`.

    Raises:
        DivergedError: a loss became NaN or infinite.
    """
    while state.progress.epoch < plan.epochs and not state.progress.stopped:
        yield from _take_steps(state, plan)
        yield _finish_epoch(state, plan)


def _take_steps(state: TrainingState, plan: Plan) -> Iterator[StepEnd]:
    progress, device = state.progress, plan.train.device
    order = draw_order(len(plan.train.split), plan.seed, progress.epoch)
    order = order.to(plan.train.split.inputs.device)
    state.model.train()
    for part in plan.frozen:
        part.eval()
    for step in range(progress.step, plan.steps_per_epoch):
        clock = time.perf_counter()
        indices = order[step * plan.batch_size : (step + 1) * plan.batch_size]
        plan.train.expect(order[(step + 1) * plan.batch_size : (step + 2) * plan.batch_size])
        batch = plan.train.batch(indices, progress.epoch, step)
        progress.learning_rate = float(state.optimizer.param_groups[0]["lr"])
        seed = derive_seed(plan.seed, "layers", progress.epoch, step)
        seed_global_generators(seed, device)
        loss, logits = training_step(
            state.model, batch, state.optimizer, plan.arithmetic, state.scaler, plan.objective
        )
        state.schedule.step()
        if state.average is not None:
            state.average.update(state.model, progress.total_steps)
        progress.losses[step] = loss
        progress.correct += count_correct(logits, batch.labels)
        progress.step = step + 1
        if device.type == "cpu" or progress.step % STEPS_BETWEEN_LOSS_CHECKS == 0:
            refuse_divergence(state)
        progress.seconds += time.perf_counter() - clock
        yield StepEnd(progress.epoch + 1, progress.step, plan.steps_per_epoch, len(indices), loss)


def _finish_epoch(state: TrainingState, plan: Plan) -> EpochEnd:
    clock = time.perf_counter()
    refuse_divergence(state)
    state.progress.seconds += time.perf_counter() - clock
    clock = time.perf_counter()
    evaluations = {
        name: score(*predict_split(state.scored, pipeline, plan.arithmetic))
        for name, pipeline in plan.evaluations.items()
    }
    return conclude_epoch(state, plan, evaluations, time.perf_counter() - clock)


def conclude_epoch(
    state: TrainingState, plan: Plan, evaluations: Mapping[str, Score], evaluation_seconds: float
) -> EpochEnd:
    """Count an epoch whose steps are made and scored, and learn from how it did.

    Args:
        state: after the last step of the epoch.
        plan: of the run.
        evaluations: the scores after it, by split.
        evaluation_seconds: how long scoring took.

    Raises:
        DivergedError: a loss is not finite.
    """
    progress = state.progress
    train = _score_of_steps(progress, plan)
    for name, found in evaluations.items():
        if not math.isfinite(found.loss):
            raise DivergedError(
                f"the {name} loss became {found.loss} after epoch {progress.epoch + 1}", REMEDY
            )
    training_seconds = progress.seconds
    progress.epoch += 1
    progress.step, progress.seconds = 0, 0.0
    progress.training_seconds += training_seconds
    progress.evaluation_seconds += evaluation_seconds
    progress.losses.zero_()
    progress.correct.zero_()
    if "validation" in evaluations:
        _learn_from_validation(state, plan, evaluations["validation"])
    last = progress.stopped or progress.epoch == plan.epochs
    if last and state.best is not None:
        state.scored.load_state_dict(state.best.weights)
    return EpochEnd(
        epoch=progress.epoch,
        epochs=plan.epochs,
        learning_rate=progress.learning_rate,
        train=train,
        evaluations=evaluations,
        seconds=training_seconds + evaluation_seconds,
        images_per_second=len(plan.train.split) / training_seconds,
        last=last,
    )


def _learn_from_validation(state: TrainingState, plan: Plan, found: Score) -> None:
    """Tell the schedule how the epoch went, and stop if none was better for a while."""
    if isinstance(state.schedule, WatchesValidation):
        state.schedule.observe(found.loss)
    if state.best is not None:
        state.best.improve(state.progress.epoch, found, state.scored)
        state.progress.stopped = state.progress.epoch - state.best.epoch >= plan.patience


def _score_of_steps(progress: Progress, plan: Plan) -> Score:
    examples = len(plan.train.split)
    *full, last = progress.losses.tolist()
    remaining = examples - plan.batch_size * len(full)
    total = math.fsum([*(loss * plan.batch_size for loss in full), last * remaining])
    return Score(total / examples, progress.correct.item() / examples)


def refuse_divergence(state: TrainingState) -> None:
    """Stop where a loss of this epoch is not finite; it waits for the device.

    Raises:
        DivergedError: naming the epoch and the step.
    """
    progress = state.progress
    finite = progress.losses[: progress.step].isfinite()
    if not finite.all():
        first = int(finite.logical_not().nonzero()[0].item())
        value = progress.losses[first].item()
        raise DivergedError(
            f"the loss became {value} in epoch {progress.epoch + 1}, step {first + 1}", REMEDY
        )


def refuse_infinite_weights(state: TrainingState) -> None:
    """Refuse to keep weights that are NaN or infinite though the last loss was not.

    What was so from the start, and does not learn, may stay so.

    Raises:
        DivergedError: naming the weights and the epoch of the last step.
    """
    progress = state.progress
    for name, tensor in state.model.state_dict().items():
        if name not in state.unbounded and not tensor.isfinite().all():
            epoch = max(1, progress.epoch + (progress.step > 0))
            raise DivergedError(
                f"the weights '{name}' became NaN or infinite in epoch {epoch}", REMEDY
            )


def predict_split(
    model: nn.Module, pipeline: Pipeline, arithmetic: Arithmetic
) -> tuple[Tensor, Tensor]:
    """Logits (N, classes) float32 and labels (N,) int64 of a whole split, on the CPU."""
    model.eval()
    logits, labels = [], []
    for batch in pipeline.evaluation_batches():
        logits.append(predict(model, batch, arithmetic).cpu())
        labels.append(batch.labels.cpu())
    return torch.cat(logits), torch.cat(labels)
