"""A pool of one worker that is this very process: no start-up, and no protection from a crash."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rdfia_cli.errors import PreemptedError, RdfiaError
from rdfia_cli.sweep.messages import Job, JobEnded, Told
from rdfia_cli.sweep.process import JobDied
from rdfia_cli.sweep.trial import TrialEpoch
from rdfia_cli.sweep.worker import execute


@dataclass
class Inline:
    """Executes one job at a time, a step whenever somebody asks for reports."""

    count: int = 1
    _running: tuple[Job, Iterator[Told]] | None = None
    _answers: deque[bool] = field(default_factory=deque[bool])

    @property
    def idle(self) -> int:
        """1 where nothing is under way."""
        return int(self._running is None)

    def submit(self, job: Job) -> None:
        """Take a job; it goes on as reports are asked for."""
        self._running = job, self._execute(job)

    def answer(self, job: Job, *, prune: bool) -> None:
        """Answer the epoch that the job asks about."""
        self._answers.append(prune)

    def reports(self, seconds: float) -> Sequence[tuple[Job, Told | JobDied]]:
        """The next thing that happens."""
        if self._running is None:
            time.sleep(seconds)
            return []
        job, events = self._running
        told = next(events)
        if isinstance(told, JobEnded):
            self._running = None
        return [(job, told)]

    def stop(self) -> None:
        """Nothing runs between two reports."""

    def close(self) -> None:
        """There is nobody to end."""

    def _execute(self, job: Job) -> Iterator[Told]:
        try:
            yield from execute(job, self._judge)
        except PreemptedError:
            raise  # nobody else is there to go on
        except RdfiaError as error:
            yield JobEnded(error.fact, error.kind)
            return
        yield JobEnded()

    def _judge(self, epoch: TrialEpoch) -> bool:
        """The answer to an epoch that has just been told; where nobody judges there is none."""
        return self._answers.popleft() if self._answers else False
