"""What a sweep and its workers tell one another: a line of JSON each, over a socket.

To a worker: a job, or the answer whether a trial is to be pruned. From it: the events of its
trials, and how a job ended. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rdfia_cli.config import RunConfig
from rdfia_cli.sweep import trial as words
from rdfia_cli.sweep.trial import Trial, TrialEvent

Task = Literal["choose", "stacked", "process"]


@dataclass(frozen=True)
class Job:
    """Work for one worker.

    Attributes:
        task: `choose` times the engines; `stacked` and `process` train.
        structure: the name of what its trials have in common.
        trials: of one structure; `process` has a single one.
        judged: whether the worker asks after each epoch if a trial is to be pruned.
    """

    task: Task
    structure: str
    trials: Sequence[Trial]
    judged: bool = False


@dataclass(frozen=True)
class JobEnded:
    """A worker is done with its job.

    Attributes:
        error: what broke the job as a whole; the trials that told no end are to be tried apart.
        kind: of that error.
    """

    error: str = ""
    kind: str = ""


@dataclass(frozen=True)
class JobPreempted:
    """A worker was asked to stop and did, after a checkpoint."""


Told = TrialEvent | JobEnded | JobPreempted
KINDS: Mapping[str, Any] = {
    kind.__name__: kind
    for kind in (
        *(words.TrialStarted, words.TrialEpoch, words.TrialFinished, words.TrialFailed),
        *(words.TrialPruned, words.TrialWarned, words.Chosen, JobEnded, JobPreempted),
    )
}


def encode_job(job: Job) -> bytes:
    """A job as a line."""
    trials = [
        {"number": trial.number, "config": trial.config.model_dump_json()} for trial in job.trials
    ]
    content = {"task": job.task, "structure": job.structure, "trials": trials}
    return _line({"job": content, "judged": job.judged})


def decode_job(message: Mapping[str, Any]) -> Job:
    """The job of a line."""
    content = message["job"]
    trials = [
        Trial(each["number"], RunConfig.model_validate_json(each["config"]))
        for each in content["trials"]
    ]
    return Job(content["task"], content["structure"], trials, message["judged"])


def encode_answer(*, prune: bool) -> bytes:
    """The answer to an epoch as a line."""
    return _line({"prune": prune})


def encode_told(told: Told) -> bytes:
    """What a worker tells, as a line."""
    return _line({"told": type(told).__name__, **asdict(told)})


def decode_told(line: bytes) -> Told:
    """What a worker told."""
    content = json.loads(line)
    return KINDS[content.pop("told")](**content)


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
