"""The story of a sweep: propose trials, have them executed, keep the ledger, go on where it was.

It knows nothing of torch: workers train. It yields what happens, for whoever shows it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal, Protocol

from rdfia_cli import run
from rdfia_cli.config import differences
from rdfia_cli.errors import RdfiaError, UsageError
from rdfia_cli.sweep.ledger import LEDGER, Entry, Ledger
from rdfia_cli.sweep.messages import Job, JobEnded, JobPreempted, Told
from rdfia_cli.sweep.process import JobDied
from rdfia_cli.sweep.question import TRIALS, Question, structure
from rdfia_cli.sweep.search import Adaptive, Search, propose, refuse_other_proposal, rounds
from rdfia_cli.sweep.search import Told as Learnt
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

Backend = Literal["auto", "stacked", "process", "ray"]
LEAST_STACK = 8
"""Trials that are worth a worker of their own when a stack is shared out."""
MOST_TIMED = 64
"""Trials of a structure that the timing of the engines looks at."""
SECONDS_BETWEEN_LOOKS = 0.3
"""How often it is looked whether another process has ended the trials that it took."""


class Pool(Protocol):
    """Workers somewhere: on this machine or on many."""

    @property
    def count(self) -> int:
        """How many work side by side."""
        ...

    @property
    def idle(self) -> int:
        """How many have nothing to do."""
        ...

    def submit(self, job: Job) -> None:
        """Give a job to an idle worker."""
        ...

    def answer(self, job: Job, *, prune: bool) -> None:
        """Answer the worker of a job that asked after an epoch."""
        ...

    def reports(self, seconds: float) -> Sequence[tuple[Job, Told | JobDied]]:
        """What was told meanwhile, waiting as long as that for the first of it."""
        ...


@dataclass(frozen=True)
class Execution:
    """How trials are executed.

    Attributes:
        backend: `auto` has three timed steps decide between `stacked` and `process`; so has
            `ray`, whose workers are elsewhere.
        retries: how often a trial is tried again that ended without an answer.
        shard: the place of this process, from 0, and how many share the trials.
        retry_failed: try again what failed before.
    """

    backend: Backend = "auto"
    retries: int = 2
    shard: tuple[int, int] = (0, 1)
    retry_failed: bool = False

    def has(self, number: int) -> bool:
        """Whether a trial is this process's to execute."""
        place, count = self.shard
        return number % count == place


@dataclass(frozen=True)
class Planned:
    """Trials are to be executed.

    Attributes:
        trials: those of the round, or all, by number.
        ended: how many of the sweep's trials had ended before.
    """

    trials: Mapping[int, Trial]
    ended: int


@dataclass(frozen=True)
class Retried:
    """A trial ended without an answer, and is tried again."""

    number: int
    reason: str


CampaignEvent = TrialEvent | Planned | Retried


def plan(question: Question) -> dict[int, Trial]:
    """The trials whose settings are known beforehand: all of a grid, and all random ones.

    Of another sampler a sample is looked at, so that what can never hold is refused at once.

    Raises:
        UsageError, ComponentError: a trial's settings do not hold.
    """
    search = question.search
    if search.adaptive:
        question.trial(0, {dimension.key: dimension.at(0.5) for dimension in search.space})
        return {}
    return {n: question.trial(n, propose(search, n)) for n in range(search.trials)}


def open_ledger(question: Question) -> Ledger:
    """The ledger of a sweep, begun or found.

    Raises:
        UsageError: the folder holds something else, or another sweep.
    """
    folder = question.folder
    if folder.exists() and not (folder / LEDGER).exists():
        inside = folder.iterdir() if folder.is_dir() else [folder]
        # The lines of `--dry-run` may have trained trials before there was a ledger.
        if any(not path.name.startswith(".") and path.name != TRIALS for path in inside):
            raise UsageError(
                f"'{folder}' is neither empty nor the folder of a sweep", "choose another --out"
            )
    ledger = Ledger(folder)
    ledger.begin(
        {
            "schema": "rdfia.ledger/1",
            "identity": question.identity,
            "versions": {name: metadata.version(name) for name in ("rdfia-cli", "optuna")},
        }
    )
    changed = list(differences(question.identity, ledger.head["identity"]))
    if changed:
        raise UsageError(f"'{folder}' holds another sweep: {changed[0]}", "choose another --out")
    return ledger


def run_campaign(
    question: Question,
    execution: Execution,
    ledger: Ledger,
    pool: Pool,
    planned: Mapping[int, Trial],
) -> Iterator[CampaignEvent]:
    """Execute all trials that have not ended.

    Args:
        question: the sweep.
        execution: how.
        ledger: from `open_ledger`.
        pool: who.
        planned: from `plan`.
    """
    search = question.search
    pruned = search.pruner != "none"
    adaptive = Adaptive(search) if search.adaptive or pruned else None
    with ledger.owning():
        if execution.retry_failed:
            ledger.reopen(range(search.trials))
        for numbers in rounds(search):
            settings = _settings(search, adaptive, numbers, ledger)
            trials, refused = _configure(question, settings, planned)
            ledger.propose(settings)
            for number, error in refused.items():
                ledger.end(number, "failed", error=error.kind, message=error.fact)
            judge = adaptive if pruned else None
            hall = _Hall(execution, ledger, pool, judge, search.adaptive)
            yield Planned(trials, sum(e.state != "waiting" for e in ledger.entries.values()))
            yield from hall.execute(trials)
            if adaptive is not None and search.adaptive:
                for number in numbers:
                    folder = question.folder_of(number)
                    adaptive.tell(number, _learnt(folder, ledger.entry(number)))


def _settings(
    search: Search, adaptive: Adaptive | None, numbers: Iterable[int], ledger: Ledger
) -> dict[int, Mapping[str, str]]:
    """What each trial of a round is given, the same as when it was first proposed."""
    found: dict[int, Mapping[str, str]] = {}
    for number in numbers:
        if search.adaptive and adaptive is not None:
            found[number] = adaptive.ask(number)
        else:
            found[number] = propose(search, number)
            if adaptive is not None:
                adaptive.enter(number)
        before = ledger.entry(number).settings
        if before is not None:
            refuse_other_proposal(number, before, found[number])
    return found


def _configure(
    question: Question,
    settings: Mapping[int, Mapping[str, str]],
    planned: Mapping[int, Trial],
) -> tuple[dict[int, Trial], dict[int, RdfiaError]]:
    """The trials of a round, and those that an adaptive sampler proposed in vain."""
    trials: dict[int, Trial] = {}
    refused: dict[int, RdfiaError] = {}
    for number, values in settings.items():
        try:
            trials[number] = planned.get(number) or question.trial(number, values)
        except RdfiaError as error:
            refused[number] = error
    return trials, refused


def _learnt(folder: Path, entry: Entry) -> Learnt:
    """How a trial ended, as a sampler or a pruner learns it."""
    accuracies = reported(folder)
    if entry.state == "finished":
        validation = entry.end["validation"]
        return Learnt("finished", accuracies, validation["accuracy"])
    if entry.state == "pruned":
        return Learnt("pruned", accuracies[: entry.end["epoch"]])
    return Learnt("failed")


def reported(folder: Path) -> Sequence[float]:
    """The accuracies on validation after each epoch that a run folder tells."""
    lines = run.read_lines(folder / run.METRICS)
    return [line["validation"]["accuracy"] for line in lines if "validation" in line]


@dataclass
class _Hall:
    """The trials of one round and what is under way with them."""

    execution: Execution
    ledger: Ledger
    pool: Pool
    judge: Adaptive | None
    waits: bool
    """Whether the round ends only when all its trials have, whoever executes them."""
    trials: dict[int, Trial] = field(default_factory=dict[int, Trial])
    queue: deque[Job] = field(default_factory=deque[Job])
    busy: set[int] = field(default_factory=set[int])
    held: dict[str, list[Trial]] = field(default_factory=dict[str, list[Trial]])
    """Trials that wait until an engine is chosen for their structure."""

    def execute(self, trials: Mapping[int, Trial]) -> Iterator[CampaignEvent]:
        self.trials = dict(trials)
        looked = 0.0
        while True:
            if time.monotonic() - looked > SECONDS_BETWEEN_LOOKS or not self.busy:
                looked = time.monotonic()
                yield from self._take()
            if not any(self.ledger.entry(n).state == "waiting" for n in self._wanted()):
                return
            while self.queue and self.pool.idle:
                self.pool.submit(self.queue.popleft())
            for job, told in self.pool.reports(SECONDS_BETWEEN_LOOKS):
                yield from self._hear(job, told)

    def _wanted(self) -> Iterator[int]:
        return (n for n in self.trials if self.waits or self.execution.has(n))

    def _take(self) -> Iterator[CampaignEvent]:
        """Take the trials that are free, and plan jobs for them."""
        wanted = [n for n in self.trials if self.execution.has(n) and n not in self.busy]
        if not any(self.ledger.entry(n).state == "waiting" for n in wanted):
            if self.waits:
                self.ledger.refresh()
            return
        groups: dict[str, list[Trial]] = {}
        for number in self.ledger.take(wanted):
            trial = self.trials[number]
            if (found := _finished_before(trial)) is not None:
                yield from self._end(found)
                continue
            self.busy.add(number)
            groups.setdefault(structure(trial.config), []).append(trial)
        for name, members in groups.items():
            self._plan(name, members)

    def _plan(self, name: str, members: Sequence[Trial]) -> None:
        engine = "auto" if self.execution.backend == "ray" else self.execution.backend
        if engine == "auto":
            if name in self.ledger.choices:
                engine = self.ledger.choices[name]["engine"]
            elif name in self.held:
                self.held[name].extend(members)
                return
            elif len(members) == 1:
                engine = "process"
            else:
                self.held[name] = list(members)
                self.queue.append(Job("choose", name, members[:MOST_TIMED]))
                return
        self._share_out(engine, name, members)

    def _share_out(self, engine: str, name: str, members: Sequence[Trial]) -> None:
        judged = self.judge is not None
        if engine == "process":
            self.queue.extend(Job("process", name, [trial], judged) for trial in members)
            return
        parts = max(1, min(self.pool.count, len(members) // LEAST_STACK))
        for part in range(parts):
            self.queue.append(Job("stacked", name, members[part::parts], judged))

    def _hear(self, job: Job, told: Told | JobDied) -> Iterator[CampaignEvent]:
        if isinstance(told, Chosen):
            yield told
            self._settle(job.structure, told)
        elif isinstance(told, TrialEpoch):
            yield told
            if job.judged:
                self.pool.answer(job, prune=self._prunes(told))
        elif isinstance(told, TrialFinished | TrialFailed | TrialPruned):
            yield from self._end(told)
        elif isinstance(told, TrialStarted):
            self._recall(told)
            yield told
        elif isinstance(told, TrialWarned):
            yield told
        elif job.task == "choose":
            self._settle(job.structure, Chosen("process", _why_not(told)))
        else:
            yield from self._clear_up(job, told)

    def _settle(self, name: str, chosen: Chosen) -> None:
        """Go on with the trials that waited for an engine; the first choice stays."""
        members = self.held.pop(name, [])
        engine = self.ledger.choose(name, chosen.engine, chosen.reason)["engine"]
        if members:
            self._share_out(engine, name, members)

    def _recall(self, started: TrialStarted) -> None:
        """Report again the epochs that a trial had before it goes on."""
        if self.judge is not None and started.epochs_done:
            before = reported(self.trials[started.number].folder)
            for epoch, accuracy in enumerate(before[: started.epochs_done], start=1):
                self.judge.should_prune(started.number, epoch, accuracy)

    def _prunes(self, epoch: TrialEpoch) -> bool:
        if self.judge is None or epoch.accuracy is None or epoch.epoch == epoch.epochs:
            return False
        return self.judge.should_prune(epoch.number, epoch.epoch, epoch.accuracy)

    def _end(self, event: TrialFinished | TrialFailed | TrialPruned) -> Iterator[CampaignEvent]:
        self.busy.discard(event.number)
        if isinstance(event, TrialFinished):
            kept = ("validation", "test", "seconds", "parameters")
            self.ledger.end(event.number, "finished", **{k: event.result[k] for k in kept})
        elif isinstance(event, TrialFailed):
            self.ledger.end(event.number, "failed", error=event.error, message=event.message)
        else:
            self.ledger.end(event.number, "pruned", epoch=event.epoch)
        if self.judge is not None and not self.waits:
            folder = self.trials[event.number].folder
            self.judge.tell(event.number, _learnt(folder, self.ledger.entry(event.number)))
        yield event

    def _clear_up(self, job: Job, told: Told | JobDied) -> Iterator[CampaignEvent]:
        """See to the trials of a job that is over and told no end of them."""
        left = [trial for trial in job.trials if trial.number in self.busy]
        if not left:
            return
        if isinstance(told, JobPreempted):
            self.queue.appendleft(Job(job.task, job.structure, left, job.judged))
        elif len(left) > 1:
            # One of them is to blame: it is found by halves, and the others are not harmed.
            half = len(left) // 2
            for part in (left[half:], left[:half]):
                self.queue.appendleft(Job(job.task, job.structure, part, job.judged))
        elif isinstance(told, JobDied):
            yield from self._retry(job, left[0].number, told)
        else:
            assert isinstance(told, JobEnded)
            message = told.error or "it ended without a result"
            yield from self._end(TrialFailed(left[0].number, told.kind or "failed", message))

    def _retry(self, job: Job, number: int, died: JobDied) -> Iterator[CampaignEvent]:
        self.ledger.lose([number], died.reason)
        if self.ledger.entry(number).attempts > self.execution.retries:
            yield from self._end(TrialFailed(number, died.kind, died.reason))
            return
        yield Retried(number, died.reason)
        self.queue.append(Job(job.task, job.structure, job.trials, job.judged))


def _why_not(told: Told | JobDied) -> str:
    if isinstance(told, JobDied):
        return f"timing the engines failed: {told.reason}"
    reason = told.error if isinstance(told, JobEnded) else ""
    return f"timing the engines failed: {reason}" if reason else "nothing was chosen"


def _finished_before(trial: Trial) -> TrialFinished | TrialFailed | None:
    """The result of a trial that somebody else has trained, such as a line of `--dry-run`."""
    try:
        place = run.look(trial.config, trial.folder)
        return TrialFinished(trial.number, place.result) if place.state == "finished" else None
    except RdfiaError as error:
        return TrialFailed(trial.number, error.kind, error.fact)
