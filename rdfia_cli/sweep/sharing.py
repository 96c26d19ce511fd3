"""Which trials a process takes next, by which engine, and how they are cut into jobs.

It takes no more than its idle workers can begin with: what is left is for other processes on the
same folder, and for these workers when they are done.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from rdfia_cli.sweep.ledger import Ledger
from rdfia_cli.sweep.messages import Job, JobEnded, Told
from rdfia_cli.sweep.process import JobDied
from rdfia_cli.sweep.question import structure
from rdfia_cli.sweep.trial import Chosen, Trial

Backend = Literal["auto", "stacked", "process", "ray"]
LEAST_STACK = 8
"""Trials that are worth a worker of their own when a stack is shared out."""
MOST_STACKED = 256
"""Trials that a worker prepares at once: stacks of 64, and several kinds of them may be full."""
MOST_TIMED = 64
"""Trials of a structure that the timing of the engines looks at."""
FILES_OF_A_TRIAL = 3
"""A lock and two logs, open while it is stacked."""
FILES_OF_A_WORKER = 64
"""What else a worker may have open, with a margin."""


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


@dataclass
class Sharing:
    """What a process takes of the trials of a round.

    Attributes:
        execution: how trials are executed.
        ledger: says which trials are free.
        pool: the workers.
        trials: of the round, by number.
        judged: whether workers ask after each epoch if a trial goes on.
    """

    execution: Execution
    ledger: Ledger
    pool: Pool
    trials: Mapping[int, Trial]
    judged: bool
    _structures: dict[int, str] = field(default_factory=dict[int, str])
    _sizes: dict[str, int] = field(default_factory=dict[str, int])
    _timed: set[str] = field(default_factory=set[str])
    _deaths: dict[str, int] = field(default_factory=dict[str, int])

    def take(self, free: Iterable[int], room: int) -> list[Job]:
        """Jobs for idle workers.

        Args:
            free: the trials that nobody has, in order.
            room: how many jobs can begin now.

        Returns:
            As many jobs at most; their trials are taken, but for those that only time the engines.
        """
        groups: dict[str, list[int]] = {}
        for number in free:
            groups.setdefault(self._structure(number), []).append(number)
        jobs: list[Job] = []
        for name, numbers in groups.items():
            if len(jobs) >= room:
                break
            jobs += self._begin(name, numbers, room - len(jobs))
        return jobs

    def _structure(self, number: int) -> str:
        if number not in self._structures:
            self._structures[number] = structure(self.trials[number].config)
        return self._structures[number]

    def _begin(self, name: str, numbers: Sequence[int], room: int) -> list[Job]:
        """Jobs of one structure, none while its engines are timed."""
        engine = "auto" if self.execution.backend == "ray" else self.execution.backend
        if engine == "auto":
            if name in self.ledger.choices:
                engine = self.ledger.choices[name]["engine"]
            elif name in self._timed:
                return []
            elif len(numbers) == 1:
                engine = "process"
            else:
                self._timed.add(name)
                return [Job("choose", name, [self.trials[n] for n in numbers[:MOST_TIMED]])]
        size = 1 if engine == "process" else self._share(name, len(numbers))
        taken = [self.trials[n] for n in self.ledger.take(numbers[: size * room])]
        parts = math.ceil(len(taken) / size)
        task = "process" if engine == "process" else "stacked"
        return [Job(task, name, taken[part::parts], self.judged) for part in range(parts)]

    def _share(self, name: str, count: int) -> int:
        """How many of a structure's free trials make a job; what remains later is cut no finer."""
        company = self.ledger.company if self.execution.shard[1] == 1 else 1
        workers = min(self.pool.count * company, count // LEAST_STACK)
        parts = max(1, workers, math.ceil(count / most_stacked()))
        self._sizes[name] = max(self._sizes.get(name, 1), math.ceil(count / parts))
        return self._sizes[name]

    def choose(self, name: str, chosen: Chosen) -> Chosen:
        """Keep the engine of a structure; the first choice stays, and is returned."""
        kept = self.ledger.choose(name, chosen.engine, chosen.reason)
        return Chosen(kept["engine"], kept["reason"])

    def conclude_timing(self, name: str, told: Told | JobDied) -> Chosen | None:
        """See to the end of a job that timed the engines of a structure.

        Returns:
            The engine, where the job told none and they are not to be timed again.
        """
        if name in self.ledger.choices:
            return None
        if isinstance(told, JobDied):
            self._deaths[name] = self._deaths.get(name, 0) + 1
            if self._deaths[name] > self.execution.retries:
                reason = f"timing the engines failed: {told.reason}"
                return self.choose(name, Chosen("process", reason))
        elif isinstance(told, JobEnded):
            reason = f"timing the engines failed: {told.error}" if told.error else "none was chosen"
            return self.choose(name, Chosen("process", reason))
        self._timed.discard(name)
        return None


def most_stacked() -> int:
    """How many trials a job may have, as far as the system lets a process open their files."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MOST_STACKED
    return max(1, min(MOST_STACKED, (allowed - FILES_OF_A_WORKER) // FILES_OF_A_TRIAL))
