"""The trials of one round on their way from waiting to an end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rdfia_cli import run
from rdfia_cli.errors import RdfiaError
from rdfia_cli.sweep.learning import Pruning
from rdfia_cli.sweep.ledger import Ledger
from rdfia_cli.sweep.messages import Job, JobEnded, JobPreempted, Told
from rdfia_cli.sweep.process import JobDied
from rdfia_cli.sweep.sharing import Execution, Pool, Sharing
from rdfia_cli.sweep.trial import (
    Chosen,
    Trial,
    TrialEpoch,
    TrialEvent,
    TrialFailed,
    TrialFinished,
    TrialPruned,
    TrialStarted,
    TrialWarned,
)

SECONDS_BETWEEN_LOOKS = 0.3
"""How often it is looked which trials other processes have ended, or have left."""


@dataclass(frozen=True)
class Retried:
    """A trial ended without an answer, and is tried again."""

    number: int
    reason: str


@dataclass(frozen=True)
class EndedElsewhere:
    """A trial ended in another process on the same folder.

    Attributes:
        number: of the trial.
        state: `finished`, `failed` or `pruned`.
        accuracy: on validation, of a finished one; None where there is no such split.
    """

    number: int
    state: str
    accuracy: float | None = None


RoundEvent = TrialEvent | Retried | EndedElsewhere


@dataclass
class Round:
    """The trials of one round and what is under way with them.

    Attributes:
        execution: how trials are executed.
        ledger: what became of them.
        pool: the workers.
        trials: of the round, by number.
        pruning: what stops trials early; None where nothing does.
        waits: whether the round ends only when all its trials have, whoever executes them.
    """

    execution: Execution
    ledger: Ledger
    pool: Pool
    trials: Mapping[int, Trial]
    pruning: Pruning | None
    waits: bool
    sharing: Sharing = field(init=False)
    _queue: deque[Job] = field(default_factory=deque[Job])
    _busy: set[int] = field(default_factory=set[int])
    _waiting: dict[int, Trial] = field(init=False)
    """The trials that have not ended and that this process waits for."""
    _stale: bool = True
    """Whether a worker is done, so that it is to be looked at once what it can do next."""

    def __post_init__(self) -> None:
        judged = self.pruning is not None
        self.sharing = Sharing(self.execution, self.ledger, self.pool, self.trials, judged)
        self._waiting = {
            number: trial
            for number, trial in self.trials.items()
            if (self.waits or self.execution.has(number))
            and self.ledger.entry(number).state == "waiting"
        }

    def execute(self) -> Iterator[RoundEvent]:
        """Execute the trials until all have ended that this process waits for."""
        yield from self._collect()
        looked = 0.0
        while True:
            if self._stale or time.monotonic() - looked > SECONDS_BETWEEN_LOOKS:
                looked, self._stale = time.monotonic(), False
                yield from self._look()
            if not self._waiting:
                return
            while self._queue and self.pool.idle:
                self.pool.submit(self._queue.popleft())
            for job, told in self.pool.reports(SECONDS_BETWEEN_LOOKS):
                yield from self._hear(job, told)

    def _collect(self) -> Iterator[RoundEvent]:
        """End the trials that somebody else has trained, such as lines of `--dry-run`."""
        mine = [n for n in self._waiting if self.execution.has(n)]
        trained = [n for n in mine if (self.trials[n].folder / run.RESULT).exists()]
        for number in self.ledger.take(trained):
            if (found := _finished_before(self.trials[number])) is not None:
                yield from self._end(found)

    def _look(self) -> Iterator[RoundEvent]:
        """See what other processes did, and find work for those who have none."""
        room = self.pool.idle - len(self._queue)
        free: list[int] = []
        if room > 0:
            mine = [n for n in self._waiting if self.execution.has(n) and n not in self._busy]
            free = self.ledger.free(mine)
        else:
            self.ledger.refresh()
        if self.pruning is not None:
            self.pruning.catch_up()
        yield from self._see_ends()
        for job in self.sharing.take(free, room):
            if job.task == "choose":
                self._queue.append(job)
            else:
                yield from self._admit(job)

    def _see_ends(self) -> Iterator[EndedElsewhere]:
        """Tell of the trials that are no longer waiting, though nobody here ended them."""
        states = {number: self.ledger.entry(number).state for number in self._waiting}
        for number, state in states.items():
            if state != "waiting":
                del self._waiting[number]
                validation = self.ledger.entry(number).end.get("validation")
                yield EndedElsewhere(number, state, validation and validation["accuracy"])

    def _admit(self, job: Job) -> Iterator[RoundEvent]:
        """Line up a job without the trials that somebody else has trained meanwhile."""
        left: list[Trial] = []
        for trial in job.trials:
            if (found := _finished_before(trial)) is not None:
                self._stale = True
                yield from self._end(found)
            else:
                left.append(trial)
        if left:
            self._busy.update(trial.number for trial in left)
            self._queue.append(Job(job.task, job.structure, left, job.judged))

    def _hear(self, job: Job, told: Told | JobDied) -> Iterator[RoundEvent]:
        if isinstance(told, JobEnded | JobPreempted | JobDied):
            self._stale = True
            if job.task != "choose":
                yield from self._clear_up(job, told)
            elif (chosen := self.sharing.conclude_timing(job.structure, told)) is not None:
                yield chosen
        elif isinstance(told, Chosen):
            yield self.sharing.choose(job.structure, told)
        elif isinstance(told, TrialEpoch):
            yield told
            if job.judged:
                prune = self.pruning is not None and self.pruning.stops(told)
                self.pool.answer(job, prune=prune)
        elif isinstance(told, TrialStarted):
            if self.pruning is not None and told.epochs_done:
                self.pruning.recall(told)
            yield told
        elif isinstance(told, TrialWarned):
            yield told
        else:
            yield from self._end(told)

    def _end(self, event: TrialFinished | TrialFailed | TrialPruned) -> Iterator[RoundEvent]:
        self._busy.discard(event.number)
        if isinstance(event, TrialFinished):
            kept = ("validation", "test", "seconds", "parameters")
            engine = event.result.get("engine", "process")
            found = {key: event.result[key] for key in kept}
            self.ledger.end(event.number, "finished", engine=engine, **found)
        elif isinstance(event, TrialFailed):
            self.ledger.end(event.number, "failed", error=event.error, message=event.message)
        else:
            self.ledger.end(event.number, "pruned", epoch=event.epoch)
        self._waiting.pop(event.number, None)
        if self.pruning is not None:
            self.pruning.catch_up()
        yield event

    def _clear_up(self, job: Job, told: JobEnded | JobPreempted | JobDied) -> Iterator[RoundEvent]:
        """See to the trials of a job that is over and told no end of them."""
        left = [trial for trial in job.trials if trial.number in self._busy]
        if not left:
            return
        if isinstance(told, JobPreempted):
            self._queue.appendleft(Job(job.task, job.structure, left, job.judged))
        elif len(left) > 1:
            # One of them is to blame: it is found by halves, and the others are not harmed.
            half = len(left) // 2
            for part in (left[half:], left[:half]):
                self._queue.appendleft(Job(job.task, job.structure, part, job.judged))
        elif isinstance(told, JobDied):
            yield from self._retry(job, left[0], told)
        else:
            message = told.error or "it ended without a result"
            yield from self._end(TrialFailed(left[0].number, told.kind or "failed", message))

    def _retry(self, job: Job, trial: Trial, died: JobDied) -> Iterator[RoundEvent]:
        number = trial.number
        self.ledger.lose([number], died.reason)
        if self.ledger.entry(number).attempts > self.execution.retries:
            yield from self._end(TrialFailed(number, died.kind, died.reason))
            return
        yield Retried(number, died.reason)
        self._queue.append(Job(job.task, job.structure, [trial], job.judged))


def _finished_before(trial: Trial) -> TrialFinished | TrialFailed | None:
    """The result of a trial that somebody else has trained, such as a line of `--dry-run`."""
    try:
        place = run.look(trial.config, trial.folder)
        return TrialFinished(trial.number, place.result) if place.state == "finished" else None
    except RdfiaError as error:
        return TrialFailed(trial.number, error.kind, error.fact)
