"""Trials of one structure, trained together in one batched computation.

The loop of `training.loop` for many trials at once, held to it by tests: the same order of the
data, the same augmentation, the same masks of dropout, the same arithmetic up to the last digits.
A trial's bits do not depend on which others shared its stack.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from rdfia_cli import durable, experiment, run
from rdfia_cli.errors import DivergedError, PreemptedError, RdfiaError
from rdfia_cli.sweep.failure import describe_failure
from rdfia_cli.sweep.ordinary import run_ordinary
from rdfia_cli.sweep.question import structure
from rdfia_cli.sweep.stacking.fitness import ApartError
from rdfia_cli.sweep.stacking.kernels import one_thread
from rdfia_cli.sweep.stacking.preparation import (
    Prepared,
    Shared,
    begin,
    fit_together,
    group_alike,
    share,
)
from rdfia_cli.sweep.stacking.stack import Stack, score_all
from rdfia_cli.sweep.trial import (
    Judge,
    Trial,
    TrialEpoch,
    TrialEvent,
    TrialFailed,
    TrialFinished,
    TrialPruned,
    TrialStarted,
    TrialWarned,
    never,
)
from rdfia_cli.training import checkpoint
from rdfia_cli.training.loop import EpochEnd, StepEnd, conclude_epoch, refuse_divergence
from rdfia_cli.training.metrics import Score, measure

WRITERS = 8
"""Threads that write the files of trials; each waits for the disk most of its time."""


def run_stacked(trials: Sequence[Trial], judge: Judge = never) -> Iterator[TrialEvent]:
    """Train trials together where they are of one structure and their models are alike.

    Args:
        trials: as the sweep planned them.
        judge: asked after each epoch of a trial.

    Yields:
        What happens to each trial; one that cannot be stacked is trained the ordinary way, last.

    Raises:
        PreemptedError: asked to stop; the trials under way have checkpoints of a whole epoch.
    """
    structures: dict[str, list[Trial]] = {}
    for trial in trials:
        structures.setdefault(structure(trial.config), []).append(trial)
    apart: dict[int, str] = {}
    with experiment.stop_requests() as stop:
        stop.deferred = True
        for members in structures.values():
            with one_thread(), contextlib.ExitStack() as held:
                yield from _run_alike(members, judge, held, apart, stop)
        _heed(stop)
    for trial in trials:
        if trial.number in apart:
            reason = apart[trial.number]
            yield TrialWarned(trial.number, f"it is trained the ordinary way: {reason}")
            yield from run_ordinary(trial, judge)


def _run_alike(
    trials: Sequence[Trial],
    judge: Judge,
    held: contextlib.ExitStack,
    apart: dict[int, str],
    stop: experiment.StopRequest,
) -> Iterator[TrialEvent]:
    """Train trials of one structure; `apart` gets those that cannot be stacked, and why."""
    try:
        shared = share(trials[0].config)
    except Exception as error:
        yield from (TrialFailed(trial.number, *describe_failure(error)) for trial in trials)
        return
    prepared: list[Prepared] = []
    for trial in trials:
        found = _begin(trial, shared, held, apart)
        if isinstance(found, Prepared):
            prepared.append(found)
            yield from (TrialWarned(trial.number, text) for text in found.warnings)
        elif found is not None:
            yield found
    stacks: list[tuple[int, list[Prepared]]] = []
    for group in group_alike(prepared):
        try:
            fit = fit_together(group)
        except ApartError as error:
            apart.update({each.trial.number: str(error) for each in group})
            continue
        for first in range(0, len(group), fit.width):
            stacks.append((fit.least, group[first : first + fit.width]))
    # A trial that ended is kept by nobody: its tensors are views, which hold those of its stack.
    prepared.clear()
    for least, waiting in stacks:
        _heed(stop)
        yield from _train(waiting, judge, apart, stop, least=least)


def _heed(stop: experiment.StopRequest) -> None:
    """Stop where that was asked for.

    Raises:
        PreemptedError: it was.
    """
    if stop.signal is not None:
        raise PreemptedError(
            f"stopped by {signal.Signals(stop.signal).name} after an epoch",
            "run the same command again to go on",
            stop.signal,
        )


def _begin(
    trial: Trial, shared: Shared, held: contextlib.ExitStack, apart: dict[int, str]
) -> Prepared | TrialEvent | None:
    try:
        found = begin(trial, shared, held)
    except (ApartError, run.TakenError) as error:
        apart[trial.number] = str(error)
        return None
    except Exception as error:
        return TrialFailed(trial.number, *describe_failure(error))
    return found if isinstance(found, Prepared) else TrialFinished(trial.number, found)


@dataclass
class _Room:
    """The stack of the trials that are under way.

    Attributes:
        live: the trials, in the order of their slots.
        least: slots that a stack of their models has at least, see `kernels`.
        stack: of their tensors.
    """

    live: list[Prepared]
    least: int
    stack: Stack = field(init=False)

    def __post_init__(self) -> None:
        self._stack_up()

    def leave(self, gone: Sequence[Prepared]) -> None:
        """Go on without some trials; the others' tensors move to a stack of their own."""
        if not gone:
            return
        leaving = {each.trial.number for each in gone}
        self.live = [each for each in self.live if each.trial.number not in leaving]
        if self.live:
            self._stack_up()

    def _stack_up(self) -> None:
        self.stack = Stack([each.member for each in self.live], least=self.least)


def _train(
    waiting: list[Prepared],
    judge: Judge,
    apart: dict[int, str],
    stop: experiment.StopRequest,
    *,
    least: int,
) -> Iterator[TrialEvent]:
    """Train trials in one stack; they are taken out of the list."""
    room = _Room(list(waiting), least)
    waiting.clear()
    for each in room.live:
        progress, plan = each.member.state.progress, each.member.plan
        yield TrialStarted(each.trial.number, plan.epochs, progress.epoch)
    yield from _finish(room, [each for each in room.live if _is_complete(each)])
    rhythm, first = checkpoint.Rhythm(), True
    while room.live:
        for step in range(room.live[0].member.plan.steps_per_epoch):
            if step == 0:
                room.stack.begin_epoch()
            try:
                losses = room.stack.step(step)
            except RuntimeError as error:
                if not first:
                    raise
                reason = " ".join(str(error).split())
                apart.update({each.trial.number: reason for each in room.live})
                return
            first = False
            _record_step(room, step + 1, losses)
            if not losses.isfinite().all():
                yield from _drop_diverged(room)
                if not room.live:
                    return
                room.stack.begin_epoch()
        yield from _end_epoch(room, judge, rhythm, stop)


def _record_step(room: _Room, step: int, losses: Tensor) -> None:
    """Write down the loss of a step, where a trial asks for it."""
    if not any(each.trial.config.log_every for each in room.live):
        return
    for each, loss in zip(room.live, losses, strict=False):
        plan, epoch = each.member.plan, each.member.state.progress.epoch + 1
        told = StepEnd(epoch, step, plan.steps_per_epoch, plan.batch_size, loss)
        if experiment.is_logged(told, each.trial.config) and loss.isfinite():
            experiment.record(told, each.trial.config, each.logs)


def _is_complete(each: Prepared) -> bool:
    """Whether a trial was killed between its last checkpoint and its result."""
    progress = each.member.state.progress
    return progress.stopped or progress.epoch >= each.member.plan.epochs


def _drop_diverged(room: _Room) -> Iterator[TrialEvent]:
    gone: list[Prepared] = []
    for each in room.live:
        try:
            refuse_divergence(each.member.state)
        except DivergedError as error:
            gone.append(each)
            run.record_failure(each.trial.folder, error)
            yield TrialFailed(each.trial.number, *describe_failure(error))
    room.leave(gone)


def _end_epoch(
    room: _Room, judge: Judge, rhythm: checkpoint.Rhythm, stop: experiment.StopRequest
) -> Iterator[TrialEvent]:
    """Score all trials, tell of it, keep what is due, and let go of those that ended."""
    clock = time.perf_counter()
    pipelines = room.live[0].member.plan.evaluations
    scores: dict[str, list[Score]] = {}
    for name, pipeline in pipelines.items():
        scores[name] = score_all(*room.stack.predict(pipeline))
    seconds = (time.perf_counter() - clock) / len(room.live)
    gone: list[Prepared] = []
    complete: list[Prepared] = []
    for index, each in enumerate(room.live):
        found = {name: of_all[index] for name, of_all in scores.items()}
        try:
            ended = conclude_epoch(each.member.state, each.member.plan, found, seconds)
        except DivergedError as error:
            gone.append(each)
            run.record_failure(each.trial.folder, error)
            yield TrialFailed(each.trial.number, *describe_failure(error))
            continue
        experiment.record(ended, each.trial.config, each.logs)
        told = _tell(each, ended)
        yield told
        pruned = judge(told)
        if ended.last:
            complete.append(each)
        elif pruned:
            gone.append(each)
            yield TrialPruned(each.trial.number, ended.epoch)
    room.leave(gone)
    stops = stop.signal is not None
    if room.live and (stops or rhythm.due(epoch_ended=True)):
        began = time.monotonic()
        yield from _keep(room, [each for each in room.live if each not in complete])
        rhythm.written(time.monotonic() - began)
    yield from _finish(room, complete)
    if stops:
        _heed(stop)


def _tell(each: Prepared, ended: EpochEnd) -> TrialEpoch:
    score = ended.evaluations.get("validation")
    return TrialEpoch(
        each.trial.number,
        ended.epoch,
        ended.epochs,
        score.loss if score else None,
        score.accuracy if score else None,
    )


def _keep(room: _Room, some: Sequence[Prepared]) -> Iterator[TrialEvent]:
    """Write checkpoints; a trial whose weights are not worth keeping leaves."""
    with ThreadPoolExecutor(WRITERS) as writers:
        outcomes = list(writers.map(_save, some))
    gone = [each for each, error in zip(some, outcomes, strict=True) if error is not None]
    for each, error in zip(some, outcomes, strict=True):
        if error is not None:
            yield TrialFailed(each.trial.number, *describe_failure(error))
    room.leave(gone)


def _save(each: Prepared) -> Exception | None:
    try:
        each.parts.verification.wait()
        lengths = {name: log.flush() for name, log in each.logs.items()}
        checkpoint.save(each.trial.folder / run.CHECKPOINTS, each.member.state, lengths)
    except (RdfiaError, OSError) as error:
        return error
    return None


def _finish(room: _Room, complete: Sequence[Prepared]) -> Iterator[TrialEvent]:
    """Write the results of trials that are trained, and go on without them."""
    if not complete:
        return
    places = [room.live.index(each) for each in complete]
    test = room.live[0].member.plan.evaluations["test"]
    logits, labels = room.stack.predict(test, places)
    with ThreadPoolExecutor(WRITERS) as writers:
        yield from writers.map(partial(_conclude, labels=labels), complete, logits)
    room.leave(complete)


def _conclude(each: Prepared, logits: Tensor, labels: Tensor) -> TrialEvent:
    if (error := _save(each)) is not None:
        return TrialFailed(each.trial.number, *describe_failure(error))
    folder, state = each.trial.folder, each.member.state
    try:
        experiment.write_decision_map(folder, each.parts, state)
        result = experiment.describe_result(folder, each.parts, state, measure(logits, labels))
        result = {**result, "engine": "stacked"}
        durable.write_json(folder / run.RESULT, result)
    except (RdfiaError, OSError) as error:
        return TrialFailed(each.trial.number, *describe_failure(error))
    return TrialFinished(each.trial.number, result)
