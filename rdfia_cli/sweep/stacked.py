"""Trials of one structure, trained together in one batched computation.

The loop of `training.loop` for many trials at once, held to it by tests: the same order of the
data, the same augmentation, the same masks of dropout, the same arithmetic up to the last digits.
A trial's bits do not depend on which others shared its stack.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from rdfia_cli import durable, experiment, run
from rdfia_cli.errors import DivergedError, RdfiaError
from rdfia_cli.sweep.failure import describe_failure
from rdfia_cli.sweep.ordinary import run_ordinary
from rdfia_cli.sweep.stacking.preparation import (
    ApartError,
    Prepared,
    Shared,
    begin,
    group_alike,
    share,
    widest,
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
from rdfia_cli.training.loop import EpochEnd, conclude_epoch, refuse_divergence
from rdfia_cli.training.metrics import Score, measure

WRITERS = 8
"""Threads that write the files of trials; each waits for the disk most of its time."""


def run_stacked(trials: Sequence[Trial], judge: Judge = never) -> Iterator[TrialEvent]:
    """Train trials of one structure, together where their models are alike.

    Args:
        trials: as the sweep planned them.
        judge: asked after each epoch of a trial.

    Yields:
        What happens to each trial; one that cannot be stacked is trained the ordinary way, last.
    """
    apart: dict[int, str] = {}
    shared = share(trials[0].config)
    with contextlib.ExitStack() as held:
        prepared: list[Prepared] = []
        for trial in trials:
            found = _begin(trial, shared, held, apart)
            if isinstance(found, Prepared):
                prepared.append(found)
            elif found is not None:
                yield found
        for group in group_alike(prepared):
            width = widest(group[0])
            for first in range(0, len(group), width):
                yield from _train(group[first : first + width], judge, apart)
    for trial in trials:
        if trial.number in apart:
            reason = apart[trial.number]
            yield TrialWarned(trial.number, f"it is trained the ordinary way: {reason}")
            yield from run_ordinary(trial, judge)


def _begin(
    trial: Trial, shared: Shared, held: contextlib.ExitStack, apart: dict[int, str]
) -> Prepared | TrialEvent | None:
    try:
        found = begin(trial, shared, held)
    except ApartError as error:
        apart[trial.number] = str(error)
        return None
    except Exception as error:
        return TrialFailed(trial.number, *describe_failure(error))
    return found if isinstance(found, Prepared) else TrialFinished(trial.number, found)


@dataclass
class _Room:
    """The stack of the trials that are under way."""

    live: list[Prepared]
    stack: Stack

    def leave(self, gone: Sequence[Prepared]) -> None:
        """Go on without some trials; the others' tensors move to a stack of their own."""
        self.live = [each for each in self.live if each not in gone]
        if self.live:
            self.stack = Stack([each.member for each in self.live])


def _train(group: Sequence[Prepared], judge: Judge, apart: dict[int, str]) -> Iterator[TrialEvent]:
    room = _Room([], Stack([each.member for each in group]))
    complete = [each for each in group if _is_complete(each)]
    room.live = list(group)
    for each in group:
        progress, plan = each.member.state.progress, each.member.plan
        yield TrialStarted(each.trial.number, plan.epochs, progress.epoch)
    if complete:
        yield from _finish(room, complete)
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
                apart.update({e.trial.number: _in_a_line(error) for e in room.live})
                return
            first = False
            if not losses.isfinite().all():
                yield from _drop_diverged(room)
                if not room.live:
                    return
                room.stack.begin_epoch()
        yield from _end_epoch(room, judge, rhythm)


def _in_a_line(error: RuntimeError) -> str:
    text = " ".join(str(error).split())
    return "it draws random numbers in its forward pass" if "randomness" in text else text


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
            yield TrialFailed(each.trial.number, *describe_failure(error))
    room.leave(gone)


def _end_epoch(room: _Room, judge: Judge, rhythm: checkpoint.Rhythm) -> Iterator[TrialEvent]:
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
            yield TrialFailed(each.trial.number, *describe_failure(error))
            continue
        experiment.record(ended, each.trial.config, each.logs)
        told = _tell(each, ended)
        yield told
        if ended.last:
            complete.append(each)
        elif judge(told):
            gone.append(each)
            yield TrialPruned(each.trial.number, ended.epoch)
    room.leave(gone)
    if room.live and rhythm.due(epoch_ended=True):
        began = time.monotonic()
        yield from _keep(room, [each for each in room.live if each not in complete])
        rhythm.written(time.monotonic() - began)
    if complete:
        yield from _finish(room, complete)


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
    if gone:
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
    test = room.live[0].member.plan.evaluations["test"]
    logits, labels = room.stack.predict(test)
    places = {id(each): index for index, each in enumerate(room.live)}
    with ThreadPoolExecutor(WRITERS) as writers:
        of_each = [logits[places[id(each)]] for each in complete]
        yield from writers.map(partial(_conclude, labels=labels), complete, of_each)
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
