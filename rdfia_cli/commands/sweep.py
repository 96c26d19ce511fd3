"""`rdfia sweep MODEL --over KEY=VALUES`: execute the trials of a space, rank them, keep it all."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import time
from typing import TYPE_CHECKING, Any

from rdfia_cli import console
from rdfia_cli.commands.running import conclude
from rdfia_cli.errors import PreemptedError, TrialsFailedError, UsageError, count, nearest
from rdfia_cli.machine import processors
from rdfia_cli.spec import brief

if TYPE_CHECKING:
    from collections.abc import Container, Generator, Mapping, Sequence
    from pathlib import Path

    from rdfia_cli.sweep.campaign import Execution, Pool
    from rdfia_cli.sweep.ledger import Ledger
    from rdfia_cli.sweep.question import Question

BACKENDS = ("auto", "stacked", "process", "ray")
SWEEP_FLAGS = frozenset(
    {
        *("over", "trials", "sampler", "pruner", "round", "backend", "workers", "retries"),
        *("timeout", "memory", "shard", "retry_failed", "address"),
    }
)
BEST_SHOWN = 10
UNITS: Mapping[str, int] = {"": 1, "M": 2**20, "G": 2**30, "MIB": 2**20, "GIB": 2**30}


def run(flags: Mapping[str, Any]) -> int:
    """Sweep what the flags say, from wherever it stands, and return the exit code."""
    from rdfia_cli.sweep.question import ask

    began = time.monotonic()
    execution = _execution(flags)
    question = ask(_sources(flags), flags)
    if flags["dry_run"]:
        _print_lines(question, execution, as_json=flags["json"])
        return 0
    _refuse_shared_search(question, execution)
    told = _execute(question, execution, flags)
    return _report(question, flags, time.monotonic() - began, told)


def _sources(flags: Mapping[str, Any]) -> Any:
    from rdfia_cli.sources import sources_of

    settings = {k: v for k, v in flags.items() if k not in SWEEP_FLAGS | {"out"}}
    return sources_of(settings, os.environ)


def _execution(flags: Mapping[str, Any]) -> Execution:
    from rdfia_cli.sweep.campaign import Execution

    backend = flags["backend"]
    if backend not in BACKENDS:
        raise UsageError(f"unknown backend '{backend}'", nearest(backend, BACKENDS))
    _memory(flags["memory"])
    if flags["address"] is not None and backend != "ray":
        raise UsageError("--address is of Ray", "add --backend ray")
    return Execution(backend, flags["retries"], _shard(flags["shard"]), flags["retry_failed"])


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text} is no share", "write --shard 1/4 to --shard 4/4")
    return int(match[1]) - 1, int(match[2])


def _memory(text: str | None) -> int:
    """Bytes of `4G`, `512M` or a plain number."""
    if text is None:
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    if not match or match[2].upper() not in UNITS or not float(match[1]):
        raise UsageError(f"--memory {text} is no size", "write --memory 4G or --memory 512M")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _refuse_shared_search(question: Question, execution: Execution) -> None:
    if question.search.adaptive and execution.shard[1] > 1:
        raise UsageError(
            f"the sampler {question.search.sampler} learns from all trials, so it has no shards",
            "use --sampler random, or start the same sweep several times on one --out",
        )


def _print_lines(question: Question, execution: Execution, *, as_json: bool) -> None:
    """Print a line of shell for each trial, or all in an object `rdfia.sweep-plan/1`."""
    from rdfia_cli.spec import typed_value
    from rdfia_cli.sweep.question import command_line
    from rdfia_cli.sweep.search import propose

    if question.search.adaptive:
        raise UsageError(
            f"the sampler {question.search.sampler} proposes trials only as others end",
            "use --sampler random or grid with --dry-run",
        )
    numbers = [n for n in range(question.search.trials) if execution.has(n)]
    settings = {number: propose(question.search, number) for number in numbers}
    trials = [question.trial(number, settings[number]) for number in numbers]
    if not as_json:
        for trial in trials:
            console.print_result(command_line(trial))
        return
    console.print_json(
        {
            "schema": "rdfia.sweep-plan/1",
            "command": "sweep",
            "sweep": str(question.folder),
            "trials": [
                {
                    "number": trial.number,
                    "parameters": {k: typed_value(v) for k, v in settings[trial.number].items()},
                    "run": str(trial.folder),
                    "line": command_line(trial),
                }
                for trial in trials
            ],
        }
    )


def _execute(question: Question, execution: Execution, flags: Mapping[str, Any]) -> set[int]:
    """Execute what is left; returns the trials whose failure was told meanwhile."""
    from rdfia_cli.commands.sweep_progress import display
    from rdfia_cli.sweep.campaign import open_ledger, plan, run_campaign
    from rdfia_cli.sweep.ledger import LEDGER
    from rdfia_cli.sweep.trial import TrialFailed

    planned = plan(question)
    # A cluster that cannot be reached leaves nothing behind.
    begins = flags["backend"] == "ray" and not (question.folder / LEDGER).exists()
    ledger = None if begins else open_ledger(question)
    told: set[int] = set()
    if ledger is not None and _complete(question, execution, ledger):
        return told
    with (
        _workers(question, flags) as pool,
        display(question, execution, quiet=flags["quiet"]) as show,
    ):
        ledger = ledger or open_ledger(question)
        for event in run_campaign(question, execution, ledger, pool, planned):
            show(event)
            if isinstance(event, TrialFailed):
                told.add(event.number)
    return told


def _complete(question: Question, execution: Execution, ledger: Ledger) -> bool:
    """Whether there is nothing left to execute, so that no worker need start."""
    wanted = [n for n in range(question.search.trials) if execution.has(n)]
    entries = [ledger.entry(number) for number in wanted]
    # A damaged ledger may have lost what a trial was given: it is proposed again.
    states = ["waiting" if entry.settings is None else entry.state for entry in entries]
    return "waiting" not in states and not (execution.retry_failed and "failed" in states)


@contextlib.contextmanager
def _workers(question: Question, flags: Mapping[str, Any]) -> Generator[Pool]:
    """Workers that are gone afterwards; asked to stop, they write checkpoints first.

    A stack does so at the end of an epoch, where that comes before a worker's time to stop is up.

    Raises:
        PreemptedError: SIGINT or SIGTERM came.
    """
    if flags["backend"] == "ray":
        from rdfia_cli.sweep.ray import connect

        pool = connect(
            flags["address"], flags["workers"], _memory(flags["memory"]), flags["timeout"]
        )
    else:
        from rdfia_cli.sweep.process import Workers

        workers = flags["workers"] or 1
        memory = _memory(flags["memory"])
        logs = question.folder / "workers"
        pool = Workers(workers, logs, threads_of_each(workers), memory, flags["timeout"])
        pool.warm_up()
        # The pictures at the end need it; now the workers are importing torch anyway.
        importlib.import_module("matplotlib.backends.backend_agg")
    try:
        yield pool
    except (KeyboardInterrupt, console.Terminated) as error:
        number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
        pool.stop()
        raise PreemptedError(
            f"stopped by {signal.Signals(number).name}; what was done is in '{question.folder}'",
            "run the same command again to go on",
            number,
        ) from None
    finally:
        pool.close()


def threads_of_each(workers: int) -> int:
    """The threads of each worker's arithmetic, that all have a processor; 0: as torch likes."""
    return max(1, processors() // workers) if workers > 1 else 0


def _report(
    question: Question, flags: Mapping[str, Any], seconds: float, told: Container[int]
) -> int:
    """Write and print what was found, and return the exit code."""
    from rdfia_cli.ranking import rank
    from rdfia_cli.sweep.outcome import explain_unranked

    content, drawn = conclude(question, flags["backend"], seconds)
    if (kept := len(content["trials"]) - question.search.trials) > 0:
        asked = f"more than the {question.search.trials} of --trials"
        console.say(f"{count(kept, 'trial')} {asked} ended before and stay in the result")
    if (reason := explain_unranked(content["trials"])) is not None:
        console.warn(reason)
    if flags["json"]:
        console.print_json(content)
    else:
        _print_ranking(content, rank(content["trials"]))
        if not flags["quiet"]:
            _say_where(question.folder, drawn, content)
    return _refuse_failures(content, question.folder, told)


def _print_ranking(content: Mapping[str, Any], ranked: Sequence[Mapping[str, Any]]) -> None:
    keys = [dimension["key"] for dimension in content["space"]]
    rows = [
        (
            str(trial["number"]),
            *(brief(trial["parameters"].get(key)) for key in keys),
            f"{trial['validation_accuracy']:.4f}",
            f"{trial['test_accuracy']:.4f}",
            f"{trial['seconds']:.1f}",
        )
        for trial in ranked[:BEST_SHOWN]
    ]
    states = [trial["state"] for trial in content["trials"]]
    tally = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(sorted(states)))
    told = f"{count(len(states), 'trial')}: {tally}"
    if not rows:
        console.print_result(f"{told}; none has a rank")
        return
    console.print_table(
        ("trial", *keys, "validation", "test", "seconds"),
        rows,
        title=f"{told}; the best by accuracy on validation",
    )
    if len(content["importances"]) > 1:
        console.print_result("")
        console.print_table(
            ("setting", "importance"),
            [(key, f"{value:.2f}") for key, value in content["importances"].items()],
        )


def _say_where(folder: Path, drawn: Sequence[Path], content: Mapping[str, Any]) -> None:
    from rdfia_cli.sweep.outcome import TABLE

    console.say(f"all trials  {folder / TABLE}")
    console.say(f"pictures    {', '.join(str(path) for path in drawn)}")
    if content["best"]:
        console.say(f"the best    rdfia eval {content['best']['run']}")


def _refuse_failures(content: Mapping[str, Any], folder: Path, told: Container[int]) -> int:
    """Say which trials failed, in words alone since stdout has the object; the exit code.

    Those of which it was told already are in the count alone.
    """
    from rdfia_cli.sweep.outcome import TABLE

    failed = [trial for trial in content["trials"] if trial["state"] == "failed"]
    for trial in failed:
        if trial["number"] in told:
            continue
        console.say(f"trial {trial['number']} failed ({trial['error']}): {trial['message']}")
    if not failed:
        return 0
    return console.conclude_with(
        TrialsFailedError(
            f"{len(failed)} of {count(len(content['trials']), 'trial')} failed",
            f"see '{folder / TABLE}'; --retry-failed tries them again",
        )
    )
