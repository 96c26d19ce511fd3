"""A warm worker: a process that imports torch once and executes jobs until its sweep is gone.

Started by `process.py` as `python -m rdfia_cli.sweep.worker DESCRIPTOR MEMORY`, with one end of a
socket. When the other end closes, however the sweep ended, the process ends at once.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rdfia_cli.errors import PreemptedError, RdfiaError
from rdfia_cli.sweep.messages import (
    Job,
    JobEnded,
    JobPreempted,
    Told,
    decode_job,
    encode_told,
)
from rdfia_cli.sweep.trial import Judge, TrialEpoch, TrialEvent, never

SECONDS_BETWEEN_EPOCHS = 0.25
"""How often the epochs of a trial are told where nobody judges them."""


def main() -> None:
    """Serve the sweep at the other end of the socket."""
    descriptor, memory = int(sys.argv[1]), int(sys.argv[2])
    sweep = socket.socket(fileno=descriptor)
    messages: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sweep, messages), daemon=True).start()

    def tell(told: Told) -> None:
        sweep.sendall(encode_told(told))

    def ask(epoch: TrialEpoch) -> bool:
        tell(epoch)
        return bool(messages.get()["prune"])

    importlib.import_module("rdfia_cli.experiment")  # before the first job comes
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    while True:
        serve(decode_job(messages.get()), tell, ask)


def _listen(sweep: socket.socket, messages: queue.SimpleQueue[Mapping[str, Any]]) -> None:
    """Hand on what the sweep says; end the process as soon as it is gone."""
    try:
        with sweep.makefile("rb") as lines:
            for line in lines:
                messages.put(json.loads(line))
    finally:
        os._exit(PreemptedError.exit_code)


def serve(job: Job, tell: Any, ask: Judge) -> None:
    """Execute a job and tell its events, and last how it ended."""
    try:
        throttled = _throttle(execute(job, ask if job.judged else never), told=job.judged)
        for event in throttled:
            tell(event)
        tell(JobEnded())
    except PreemptedError:
        tell(JobPreempted())
    except RdfiaError as error:
        tell(JobEnded(error.fact, error.kind))
    except MemoryError as error:
        tell(JobEnded(str(error) or "the memory is used up", "memory"))
    except Exception as error:
        tell(JobEnded(f"{type(error).__name__}: {error}", "failed"))


def execute(job: Job, judge: Judge) -> Iterator[TrialEvent]:
    """The events of a job's trials, or the engine that was chosen for them."""
    if job.task == "process":
        from rdfia_cli.sweep.ordinary import run_ordinary

        for trial in job.trials:
            yield from run_ordinary(trial, judge)
        return
    if job.task == "choose":
        from rdfia_cli.sweep.engines import choose_engine

        yield choose_engine(job.trials)
        return
    from rdfia_cli.sweep.stacked import run_stacked

    yield from run_stacked(job.trials, judge)


def _throttle(events: Iterator[TrialEvent], *, told: bool) -> Iterator[TrialEvent]:
    """Leave out epochs that come faster than anyone looks; `told`: the judge told them already."""
    spoke: dict[int, float] = {}
    for event in events:
        if isinstance(event, TrialEpoch):
            now = time.monotonic()
            if told or now - spoke.get(event.number, 0.0) < SECONDS_BETWEEN_EPOCHS:
                continue
            spoke[event.number] = now
        yield event


if __name__ == "__main__":
    main()
