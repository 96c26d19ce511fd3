"""Warm worker processes on this machine, and what goes wrong with them.

A worker that crashes, hangs or is killed takes down its job only; another takes its place.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from rdfia_cli.sweep.messages import (
    Job,
    JobEnded,
    JobPreempted,
    Told,
    decode_told,
    encode_answer,
    encode_job,
)

SECONDS_TO_STOP = 15.0
"""How long a worker has to write a checkpoint before it is killed."""


@dataclass(frozen=True)
class JobDied:
    """A worker ended, or was ended, in the middle of its job.

    Attributes:
        kind: `crash` or `timeout`.
        reason: in a line.
    """

    kind: str
    reason: str


Report = tuple[Job, Told | JobDied]


@dataclass
class Patience:
    """How long a worker may say nothing, so that one that hangs is told from one that works.

    Attributes:
        seconds: between two things that it says; 0: any time.
    """

    seconds: float
    _end: float = float("inf")

    def begin(self) -> None:
        """Count from now on."""
        if self.seconds:
            self._end = time.monotonic() + self.seconds

    def stop(self) -> None:
        """Count no more: nothing is expected."""
        self._end = float("inf")

    @property
    def left(self) -> float:
        """Seconds that are left; infinite where nothing is expected."""
        return max(0.0, self._end - time.monotonic())

    def describe_end(self) -> JobDied:
        """What became of the job when it ran out."""
        return JobDied("timeout", f"no epoch ended for {self.seconds:g} s")


@dataclass
class Worker:
    """One worker process and the job that it has."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    log: Path
    patience: Patience
    job: Job | None = None
    received: bytes = b""


@dataclass
class Workers:
    """The workers of a sweep.

    Attributes:
        count: how many work side by side.
        logs: the folder of what they print.
        threads: of each one's arithmetic; 0 leaves that to torch.
        memory: bytes that each may allocate; 0: any.
        timeout: seconds that one may say nothing, see `Patience`; 0: any.
    """

    count: int
    logs: Path
    threads: int = 0
    memory: int = 0
    timeout: float = 0.0
    _workers: list[Worker] = field(default_factory=list[Worker])
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _started: int = 0

    def warm_up(self) -> None:
        """Start all workers, so that they import torch while others think."""
        while len(self._workers) < self.count:
            self._start()

    @property
    def idle(self) -> int:
        """How many workers have nothing to do."""
        return self.count - sum(worker.job is not None for worker in self._workers)

    def submit(self, job: Job) -> None:
        """Give a job to an idle worker."""
        self.warm_up()
        worker = next(worker for worker in self._workers if worker.job is None)
        worker.job = job
        worker.patience.begin()
        # A worker that died meanwhile is noticed by `reports`.
        with contextlib.suppress(OSError):
            worker.channel.sendall(encode_job(job))

    def answer(self, job: Job, *, prune: bool) -> None:
        """Tell the worker of a job whether the trial that it asked about is to be pruned."""
        for worker in self._workers:
            if worker.job is job:
                with contextlib.suppress(OSError):
                    worker.channel.sendall(encode_answer(prune=prune))

    def reports(self, seconds: float) -> list[Report]:
        """What the workers told meanwhile, waiting for the first of it as long as that."""
        nearest = min((worker.patience.left for worker in self._workers), default=seconds)
        found: list[Report] = []
        for key, _ in self._selector.select(min(seconds, nearest)):
            found.extend(self._receive(key.data))
        for worker in list(self._workers):
            if worker.process.poll() is not None:
                # A process that it forked may keep its channel open: what stands in it is the end.
                with contextlib.suppress(OSError):
                    worker.channel.shutdown(socket.SHUT_RD)
            elif worker.job is not None and not worker.patience.left:
                found.append((worker.job, worker.patience.describe_end()))
                self._remove(worker)
        return found

    def stop(self) -> None:
        """Ask all workers to write a checkpoint and end; kill those that take too long."""
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + SECONDS_TO_STOP
        for worker in list(self._workers):
            while worker.job is not None and time.monotonic() < end:
                if not self._selector.select(0.1):
                    continue
                told = [told for _, told in self._receive(worker)]
                if any(isinstance(each, JobPreempted | JobEnded | JobDied) for each in told):
                    break
        self.close()

    def close(self) -> None:
        """End all workers at once."""
        for worker in list(self._workers):
            self._remove(worker)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._started += 1
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{os.getpid()}-{self._started}.log"
        environment = dict(os.environ)
        if self.threads:
            environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        with log.open("wb") as printed:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "rdfia_cli.sweep.worker"),
                    *(str(theirs.fileno()), str(self.memory)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,  # Ctrl-C is the sweep's to hear
            )
        theirs.close()
        worker = Worker(process, ours, log, Patience(self.timeout))
        self._selector.register(ours, selectors.EVENT_READ, worker)
        self._workers.append(worker)

    def _receive(self, worker: Worker) -> list[Report]:
        try:
            fresh = worker.channel.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:
            fresh = b""
        job = worker.job
        if not fresh:
            died = self._describe_death(worker)
            self._remove(worker)
            return [] if job is None else [(job, died)]
        *lines, worker.received = (worker.received + fresh).split(b"\n")
        told = [decode_told(line) for line in lines]
        worker.patience.begin()
        if any(isinstance(each, JobEnded | JobPreempted) for each in told):
            worker.job = None
            worker.patience.stop()
        return [] if job is None else [(job, each) for each in told]

    def _describe_death(self, worker: Worker) -> JobDied:
        try:
            code = worker.process.wait(5)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            code = worker.process.wait()
        how = f"killed by {_name_signal(-code)}" if code < 0 else f"ended with {code}"
        if code == -signal.SIGKILL:
            how += ", as the system does when memory runs out"
        printed = worker.log.read_bytes().decode(errors="replace").strip().splitlines()
        return JobDied("crash", f"its process was {how}{f': {printed[-1]}' if printed else ''}")

    def _remove(self, worker: Worker) -> None:
        self._workers.remove(worker)
        self._selector.unregister(worker.channel)
        worker.channel.close()
        # Its session is its own: with it go the processes that it forked.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        if worker.log.exists() and not worker.log.stat().st_size:
            worker.log.unlink()


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals have no name
        return f"signal {number}"
