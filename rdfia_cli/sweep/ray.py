"""Workers on the machines of a Ray cluster, which share the sweep's folder.

The plan and the ledger are the sweep's own: Ray starts the workers, tells where they are, and
says when one is gone. Each is an actor that serves the same jobs as a process of this machine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdfia_cli.errors import ComponentError, RdfiaError, UsageError
from rdfia_cli.sweep.messages import (
    Job,
    JobEnded,
    JobPreempted,
    Told,
    decode_job,
    decode_told,
    encode_job,
    encode_told,
)
from rdfia_cli.sweep.process import JobDied, Patience

SECONDS_TO_ANSWER = 5.0
CLIENT = "ray://"


class Remote:
    """What runs on a machine of the cluster: an actor with two threads."""

    def __init__(self, folder: str, memory: int) -> None:
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        try:
            os.chdir(folder)
        except OSError as error:
            raise FileNotFoundError(
                f"{folder} is not there on {os.uname().nodename}: {error.strerror}"
            ) from None
        if memory:
            import resource

            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))

    def serve(self, line: bytes) -> Iterator[bytes]:
        """Execute a job and yield what it tells, as lines."""
        import json

        from rdfia_cli.sweep.worker import serve

        told: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        job = decode_job(json.loads(line))

        def ask(epoch: Any) -> bool:
            told.put(encode_told(epoch))
            return self._answers.get()

        def tell(each: Told) -> None:
            told.put(encode_told(each))

        threading.Thread(target=serve, args=(job, tell, ask)).start()
        while True:
            content = told.get()
            yield content
            if isinstance(decode_told(content), JobEnded | JobPreempted):
                return

    def answer(self, *, prune: bool) -> None:
        """Answer the epoch that the job asks about."""
        self._answers.put(prune)


@dataclass
class Actor:
    """An actor and the job that it has."""

    handle: Any
    patience: Patience
    job: Job | None = None
    stream: Any = None


@dataclass
class Actors:
    """The workers of a sweep on a Ray cluster; a `Pool`.

    Attributes:
        count: how many work side by side.
        memory: bytes that each may allocate; 0: any.
        timeout: seconds that one may say nothing, see `Patience`; 0: any.
    """

    count: int
    memory: int = 0
    timeout: float = 0.0
    _actors: list[Actor] = field(default_factory=list[Actor])

    @property
    def idle(self) -> int:
        """How many workers have nothing to do."""
        return self.count - sum(actor.job is not None for actor in self._actors)

    def submit(self, job: Job) -> None:
        """Give a job to an idle worker."""
        actor = next((actor for actor in self._actors if actor.job is None), None) or self._start()
        actor.job = job
        actor.stream = actor.handle.serve.options(num_returns="streaming").remote(encode_job(job))
        actor.patience.begin()

    def answer(self, job: Job, *, prune: bool) -> None:
        """Answer the worker of a job that asked after an epoch."""
        for actor in self._actors:
            if actor.job is job:
                actor.handle.answer.remote(prune=prune)

    def reports(self, seconds: float) -> Sequence[tuple[Job, Told | JobDied]]:
        """What was told meanwhile, waiting as long as that for the first of it."""
        import ray

        busy = {actor.stream: actor for actor in self._actors if actor.job is not None}
        if not busy:
            time.sleep(seconds)
            return []
        ready, _ = ray.wait(list(busy), num_returns=1, timeout=seconds, fetch_local=False)
        found = [report for stream in ready for report in self._receive(busy[stream])]
        for actor in list(self._actors):
            if actor.job is not None and not actor.patience.left:
                found.append((actor.job, actor.patience.describe_end()))
                self._remove(actor)
        return found

    def stop(self) -> None:
        """End all workers; trials go on from their newest checkpoints."""
        self.close()

    def close(self) -> None:
        """End all workers at once, and leave the cluster."""
        import ray

        for actor in list(self._actors):
            self._remove(actor)
        ray.shutdown()

    def _start(self) -> Actor:
        import ray

        kind: Any = ray.remote(Remote)
        kind = kind.options(num_cpus=1, max_concurrency=2, max_restarts=0)
        actor = Actor(kind.remote(str(Path.cwd()), self.memory), Patience(self.timeout))
        self._actors.append(actor)
        return actor

    def _receive(self, actor: Actor) -> list[tuple[Job, Told | JobDied]]:
        import ray
        from ray.exceptions import RayError

        job = actor.job
        assert job is not None
        try:
            line: Any = ray.get(next(actor.stream))
        except RayError as error:
            self._remove(actor)
            reason = next(iter(str(error).strip().splitlines()[-1:]), type(error).__name__)
            return [(job, JobDied("crash", f"its worker is gone: {reason}"))]
        told = decode_told(line)
        actor.patience.begin()
        if isinstance(told, JobEnded | JobPreempted):
            actor.job, actor.stream = None, None
            actor.patience.stop()
        return [(job, told)]

    def _remove(self, actor: Actor) -> None:
        import ray

        self._actors.remove(actor)
        with contextlib.suppress(Exception):
            ray.kill(actor.handle)


def connect(address: str | None, workers: int | None, memory: int, timeout: float) -> Actors:
    """Workers on a cluster, or on a local one where no address is given.

    Args:
        address: as Ray has it, such as `auto` or `head:6379`; None for that of `RAY_ADDRESS`.
        workers: how many; None for one a CPU of the cluster.
        memory: bytes that each may allocate; 0: any.
        timeout: seconds that one may say nothing; 0: any.

    Raises:
        ComponentError: Ray is not installed.
        RdfiaError: the cluster cannot be reached.
        UsageError: the address is of Ray Client, or there are fewer CPUs than workers.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is not None and address.startswith(CLIENT):
        raise UsageError(
            f"'{address}' is an address of Ray Client, which cannot follow what workers tell",
            "run rdfia on a machine of the cluster, with --address auto",
        )
    # Else it would ship the project of `uv run` to workers that have it.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ComponentError(
            "the backend 'ray' needs Ray", "install it: pip install 'rdfia-cli[ray]'"
        ) from None
    _refuse_unreachable(address)
    environment = {k: v for k, v in os.environ.items() if k.startswith("RDFIA_")}
    try:
        ray.init(
            address or "local",
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": environment} if environment else None,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RdfiaError(
            f"Ray does not start: {reason}"
            if address is None
            else f"no Ray cluster at '{address}': {reason}",
            "start a cluster with `ray start --head`, and name it with --address",
        ) from None
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if workers is not None and workers > cpus:
        ray.shutdown()
        raise UsageError(f"the cluster has {cpus} CPUs for {workers} workers", "lower --workers")
    return Actors(workers or max(1, cpus), memory, timeout)


def _refuse_unreachable(address: str | None) -> None:
    """Knock at a cluster's port, since Ray itself waits for minutes where nobody answers.

    Raises:
        RdfiaError: nobody answers.
    """
    host, colon, port = (address or "").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise RdfiaError(
            f"no Ray cluster at '{address}': {error}", "start one with `ray start --head`"
        ) from None
