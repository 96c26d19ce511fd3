"""The story of one run: claim its folder, build its parts, fit, evaluate, write the result.

`run_experiment` is what `train` and every trial of a sweep call. It yields the loop's events as
they come, after it wrote them down, and last `Finished`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from rdfia_cli import durable, run
from rdfia_cli.component_code import naming_culprit
from rdfia_cli.config import RunConfig, spec_text
from rdfia_cli.errors import DivergedError, PreemptedError
from rdfia_cli.evaluation import decision_map
from rdfia_cli.spec import Preparing
from rdfia_cli.training import assembly, checkpoint, inputs, surroundings
from rdfia_cli.training.assembly import Assembly
from rdfia_cli.training.loggers import Loggers, attach
from rdfia_cli.training.loop import (
    EpochEnd,
    Event,
    Plan,
    StepEnd,
    TrainingState,
    fit,
    predict_split,
    refuse_divergence,
)
from rdfia_cli.training.metrics import Measures, measure


@dataclass(frozen=True)
class Started:
    """A run begins, or goes on.

    Attributes:
        folder: its run folder.
        epochs, steps_per_epoch: what it will do.
        epochs_done, steps_done: what it has done before: whole epochs, and steps of the next one.
        parameters: how many the model has.
        precision, device: what it computes in and on.
    """

    folder: Path
    epochs: int
    steps_per_epoch: int
    epochs_done: int
    steps_done: int
    parameters: int
    precision: str
    device: str


@dataclass(frozen=True)
class Warned:
    """Something that the user should know, in one line."""

    text: str


@dataclass(frozen=True)
class Fitted:
    """Training is over and all but the result is on disk: the moment to draw what belongs to it."""

    folder: Path


@dataclass(frozen=True)
class Finished:
    """The run is complete and its result is on disk."""

    folder: Path
    result: Mapping[str, Any]


RunEvent = Event | Preparing | Started | Warned | Fitted | Finished


@dataclass(frozen=True)
class Records:
    """Where a run writes what it measures.

    Attributes:
        logs: the files in its folder that grow, by name.
        loggers: who else is told each line of METRICS.
    """

    logs: Mapping[str, run.Log]
    loggers: Loggers


@dataclass(frozen=True)
class DryRun:
    """What a run would be.

    Attributes:
        assembly: the parts it would be made of.
        steps_per_epoch: how many steps an epoch would take.
    """

    assembly: Assembly
    steps_per_epoch: int


class StopRequest:
    """Whether SIGTERM or SIGINT asked the run to stop.

    Attributes:
        signal: the signal that came, or None.
        deferred: whether the loop looks at it after a step, since there is something to save;
            before, it stops the run at once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.deferred = False
        self._owner = os.getpid()

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: the loop looks at `signal` after each step.

        A second signal, or one to a forked child, does what it would have done without a handler.
        """
        if self.signal is not None or os.getpid() != self._owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = number
        if not self.deferred:
            raise self.at_once()

    def at_once(self) -> PreemptedError:
        """The error that stops a run which has nothing to save."""
        assert self.signal is not None
        return PreemptedError(
            f"stopped by {signal.Signals(self.signal).name} before anything was saved",
            "run the same command again",
            self.signal,
        )


def plan_experiment(config: RunConfig) -> Generator[Preparing, None, DryRun]:
    """Build a run's parts, fit nothing to the data and write no run."""
    parts = yield from assembly.load_and_assemble(config)
    unfitted = inputs.Statistics() if inputs.looks_at_data(config.normalize) else None
    _, plan = assembly.prepare(parts, unfitted)
    return DryRun(parts, plan.steps_per_epoch)


def run_experiment(config: RunConfig, folder: Path, *, patience: float = 0.0) -> Iterator[RunEvent]:
    """Train one configuration in its run folder, from wherever it stands there.

    Args:
        config: the resolved configuration.
        folder: the run folder, from `run.place`.
        patience: seconds to wait for another process that writes the folder.

    Raises:
        PreemptedError: asked to stop; a checkpoint is written.
        DivergedError: the loss became NaN or infinite; the last good checkpoint stays.
        TakenError: another process writes the folder.
        RdfiaError: the disk refuses.
    """
    with run.claim(folder, patience=patience), stop_requests() as stop:
        # Another process may have been here between the first look at the folder and the lock.
        place = run.look(config, folder)
        if place.state == "finished":
            yield Finished(folder, place.result)
            return
        loggers = attach(config, folder)
        yield from (Warned(text) for text in loggers.lost)
        found, lost = checkpoint.newest(folder / run.CHECKPOINTS)
        parts = yield from assembly.load_and_assemble(config, restored=found is not None)
        if found is not None:
            surroundings.refuse_other_data(folder, parts)
        yield from (Warned(text) for text in parts.splits.warnings)
        statistics = checkpoint.load_statistics(found).to(parts.device) if found else None
        state, plan = assembly.prepare(parts, statistics)
        checkpoint.refuse_unsavable(state)
        if found is not None:
            yield from (Warned(text) for text in surroundings.changes(folder, parts))
        surroundings.write_head(folder, parts, begins=found is None)
        stop.deferred = True
        with open_logs(folder) as logs, _closing(loggers):
            yield from (Warned(text) for text in lost)
            if lost and found is None:
                yield Warned("no checkpoint is sound: starting from the beginning")
            go_back(folder, found, state, logs)
            yield _started(folder, parts, plan, state)
            yield from _tell_so_far(loggers, folder)
            # Found before they are needed: a file may be gone by then.
            culprits = naming_culprit(tuple(config.components()), "fails in training")
            with culprits, _recording_divergence(folder):
                yield from _train(folder, state, plan, parts, Records(logs, loggers), stop)
            yield from (Warned(text) for text in loggers.close(complete=True))
        write_decision_map(folder, parts, state)
        yield Fitted(folder)
        yield _finish(folder, parts, state, plan)


@contextlib.contextmanager
def _recording_divergence(folder: Path) -> Generator[None]:
    """Keep in the run folder that the loss became NaN or infinite, for whoever looks later."""
    try:
        yield
    except DivergedError as error:
        run.record_failure(folder, error)
        raise


@contextlib.contextmanager
def open_logs(folder: Path) -> Generator[Mapping[str, run.Log]]:
    """The logs that grow while a run trains; their names are durable before a checkpoint is."""
    with contextlib.ExitStack() as stack:
        logs = {
            name: stack.enter_context(contextlib.closing(run.Log(folder / name)))
            for name in (run.METRICS, run.TIMINGS)
        }
        durable.flush_folder(folder)
        yield logs


def tell_loggers(config: RunConfig, folder: Path) -> Iterator[Warned]:
    """Tell a finished run's loggers what it measured.

    Raises:
        ComponentError: one cannot do its work.
        RdfiaError: another process writes the folder.
    """
    with run.claim(folder):
        loggers = attach(config, folder)
        yield from (Warned(text) for text in loggers.lost)
        with _closing(loggers):
            yield from _tell_so_far(loggers, folder)
            yield from (Warned(text) for text in loggers.close(complete=True))


def _tell_so_far(loggers: Loggers, folder: Path) -> Iterator[Warned]:
    for line in run.read_lines(folder / run.METRICS):
        yield from (Warned(text) for text in loggers.write(line))


@contextlib.contextmanager
def _closing(loggers: Loggers) -> Generator[None]:
    """Close loggers that are still open, which is where a run was stopped."""
    try:
        yield
    finally:
        loggers.close(complete=False)


@contextlib.contextmanager
def stop_requests() -> Generator[StopRequest]:
    """Turn SIGTERM and SIGINT into a request while a run goes on, unless they are ignored.

    A shell ignores SIGINT for what it starts in the background, so that Ctrl-C is not for it.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    heard = [
        number
        for number in (signal.SIGTERM, signal.SIGINT)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, stop.note) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def go_back(
    folder: Path,
    found: checkpoint.Generation | None,
    state: TrainingState,
    logs: Mapping[str, run.Log],
) -> None:
    """Go back to the checkpoint that was found; what was written after it is cut off."""
    checkpoint.discard_newer(folder / run.CHECKPOINTS, found)
    if found is not None:
        checkpoint.restore(state, found)
    lengths: Mapping[str, int] = found.manifest["logs"] if found else dict.fromkeys(logs, 0)
    for name, log in logs.items():
        log.cut(lengths[name])


def _started(folder: Path, parts: Assembly, plan: Plan, state: TrainingState) -> Started:
    return Started(
        folder=folder,
        epochs=plan.epochs,
        steps_per_epoch=plan.steps_per_epoch,
        epochs_done=state.progress.epoch,
        steps_done=state.progress.step,
        parameters=parts.parameters,
        precision=parts.arithmetic.precision,
        device=str(parts.device),
    )


def _train(
    folder: Path,
    state: TrainingState,
    plan: Plan,
    parts: Assembly,
    records: Records,
    stop: StopRequest,
) -> Iterator[Event | Warned]:
    rhythm = checkpoint.Rhythm()
    for event in fit(state, plan):
        ended = isinstance(event, EpochEnd)
        complete = ended and event.last
        due = complete or stop.signal is not None or rhythm.due(epoch_ended=ended)
        if due or ended:
            _await_verification(parts, stop)
        if is_logged(event, parts.config):
            # On an accelerator nobody has read this loss yet, and no line can hold NaN.
            refuse_divergence(state)
        line = record(event, parts.config, records.logs)
        if line is not None:
            yield from (Warned(text) for text in records.loggers.write(line))
        if due:
            began = time.monotonic()
            lengths = {name: log.flush() for name, log in records.logs.items()}
            checkpoint.save(folder / run.CHECKPOINTS, state, lengths)
            rhythm.written(time.monotonic() - began)
        if stop.signal is not None and not complete:
            raise PreemptedError(
                f"stopped by {signal.Signals(stop.signal).name} in epoch "
                f"{state.progress.epoch + 1}, after a checkpoint in '{folder}'",
                "run the same command again to go on",
                stop.signal,
            )
        yield event


def _await_verification(parts: Assembly, stop: StopRequest) -> None:
    """Wait until it is known that the source of the data is unchanged, unless asked to stop.

    Raises:
        ChangedError: it changed.
        PreemptedError: asked to stop before that was known.
    """
    if parts.verification.pending:
        if stop.signal is not None:
            raise stop.at_once()
        stop.deferred = False
    parts.verification.wait()
    stop.deferred = True


def is_logged(event: Event, config: RunConfig) -> bool:
    """Whether an event is a step whose loss is written down."""
    return (
        isinstance(event, StepEnd) and config.log_every > 0 and event.step % config.log_every == 0
    )


def record(
    event: Event, config: RunConfig, logs: Mapping[str, run.Log]
) -> Mapping[str, Any] | None:
    """Write down what an event measured and, in a log of its own, how long it took.

    Returns:
        The line of METRICS, or None where the event leaves none.
    """
    if isinstance(event, StepEnd):
        if not is_logged(event, config):
            return None
        line = {
            "epoch": event.epoch,
            "step": event.step,
            "steps_per_epoch": event.steps_per_epoch,
            "loss": event.loss.item(),
        }
        logs[run.METRICS].append(line)
        return line
    scores = {name: {**vars(score)} for name, score in event.evaluations.items()}
    line = {
        "epoch": event.epoch,
        "learning_rate": event.learning_rate,
        "train": {**vars(event.train)},
        **scores,
    }
    logs[run.METRICS].append(line)
    logs[run.TIMINGS].append(
        {
            "epoch": event.epoch,
            "seconds": event.seconds,
            "images_per_second": event.images_per_second,
        }
    )
    return line


def write_decision_map(folder: Path, parts: Assembly, state: TrainingState) -> None:
    """Write what the model makes of the plane, where the inputs are 2-D points."""
    found = decision_map(replace(parts, model=state.scored), state.statistics)
    if found is not None:
        durable.write_json(folder / run.DECISION_MAP, found)


def _finish(folder: Path, parts: Assembly, state: TrainingState, plan: Plan) -> Finished:
    test = measure(*predict_split(state.scored, plan.evaluations["test"], plan.arithmetic))
    result = describe_result(folder, parts, state, test)
    durable.write_json(folder / run.RESULT, result)
    return Finished(folder, result)


def describe_result(
    folder: Path, parts: Assembly, state: TrainingState, test: Measures
) -> dict[str, Any]:
    """The object `rdfia.result/1` of a run whose last checkpoint is written."""
    epochs = [line for line in run.read_lines(folder / run.METRICS) if "step" not in line]
    found, _ = checkpoint.newest(folder / run.CHECKPOINTS)
    progress, config = state.progress, parts.config
    best = run.best_epoch(epochs)
    kept = epochs[state.best.epoch - 1 if state.best else -1]
    return {
        "schema": "rdfia.result/1",
        "command": "train",
        "run": str(folder),
        "model": spec_text("model", config.model),
        "data": spec_text("data", config.data),
        "seed": config.seed,
        "epochs": progress.epoch,
        "parameters": parts.parameters,
        "train": kept["train"],
        "validation": kept.get("validation"),
        "test": {"loss": test.loss, "accuracy": test.accuracy, "top5": test.top5},
        "best": None
        if best is None
        else {"epoch": best["epoch"], "validation_accuracy": best["validation"]["accuracy"]},
        "kept_epoch": kept["epoch"],
        "seconds": progress.training_seconds + progress.evaluation_seconds,
        "images_per_second": progress.epoch * len(parts.splits.train) / progress.training_seconds,
        "precision": parts.arithmetic.precision,
        "channels_last": parts.arithmetic.channels_last,
        "device": str(parts.device),
        "weights_sha256": found.manifest["files"][checkpoint.MODEL]["sha256"] if found else None,
    }
