"""What a sweep found: the object `rdfia.sweep/1`, its ranking, and its table as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdfia_cli import run
from rdfia_cli.errors import count
from rdfia_cli.ranking import rank
from rdfia_cli.spec import typed_value
from rdfia_cli.sweep.ledger import Entry, Ledger
from rdfia_cli.sweep.question import Question
from rdfia_cli.sweep.search import importances

OUTCOME = "sweep.json"
TABLE = "trials.csv"


def summarise(
    question: Question, ledger: Ledger, *, backend: str, seconds: float
) -> dict[str, Any]:
    """The object `rdfia.sweep/1`: every trial by its number, and the best one.

    Trials that ended when more were asked for stay in it.

    Args:
        question: the sweep.
        ledger: what became of its trials.
        backend: what executed them.
        seconds: how long this call took.
    """
    asked = range(question.search.trials)
    numbers = [*asked, *ended_beyond(question, ledger)]
    trials = [_describe(question, ledger, number) for number in numbers]
    ranked = rank(trials)
    measured = [
        (settings, trial["validation_accuracy"])
        for trial in trials
        if trial["state"] == "finished"
        and trial["validation_accuracy"] is not None
        # None where the ledger is damaged.
        and (settings := ledger.entry(trial["number"]).settings) is not None
    ]
    identity = question.identity
    return {
        "schema": "rdfia.sweep/1",
        "command": "sweep",
        "sweep": str(question.folder),
        "space": identity["over"],
        "sampler": question.search.sampler,
        "pruner": question.search.pruner,
        "seed": question.search.seed,
        "versions": ledger.head["versions"],
        "trials": trials,
        "best": ranked[0] if ranked else None,
        "importances": importances(question.search.space, measured, question.search.seed),
        "engines": [
            {"engine": choice["engine"], "reason": choice["reason"]}
            for choice in ledger.choices.values()
        ],
        "backend": backend,
        "seconds": seconds,
    }


def ended_beyond(question: Question, ledger: Ledger) -> list[int]:
    """The trials that ended though fewer are asked for now."""
    return sorted(
        number
        for number, entry in ledger.entries.items()
        if number >= question.search.trials
        and entry.state != "waiting"
        and entry.settings is not None
    )


def _describe(question: Question, ledger: Ledger, number: int) -> dict[str, Any]:
    entry = ledger.entry(number)
    folder = question.folder_of(number)
    end = {**entry.end, **(_read_stopped(folder, entry) if entry.state == "pruned" else {})}
    validation, test = end.get("validation"), end.get("test")
    return {
        "number": number,
        "parameters": {key: typed_value(text) for key, text in (entry.settings or {}).items()},
        "state": entry.state,
        "validation_accuracy": validation["accuracy"] if validation else None,
        "validation_loss": validation["loss"] if validation else None,
        "test_accuracy": test["accuracy"] if test else None,
        "seconds": end.get("seconds"),
        "engine": end.get("engine"),
        "run": str(folder),
        "epoch": end.get("epoch"),
        "error": end.get("error"),
        "message": end.get("message"),
    }


def _read_stopped(folder: Path, entry: Entry) -> Mapping[str, Any]:
    """What a pruned trial had reached, and how long that took, as far as its folder tells."""
    last = entry.end["epoch"]
    try:
        epochs = [line for line in run.read_lines(folder / run.METRICS) if "validation" in line]
        timings = run.read_lines(folder / run.TIMINGS)
        scores = [line["validation"] for line in epochs if line["epoch"] == last]
        seconds = [line["seconds"] for line in timings if line["epoch"] <= last]
    except (ValueError, KeyError, OSError):  # a damaged log costs the scores alone
        return {}
    return {"validation": scores[-1] if scores else None, "seconds": sum(seconds) or None}


def explain_unranked(trials: Sequence[Mapping[str, Any]]) -> str | None:
    """Why finished trials have no rank, in a line; None where all have one."""
    unranked = sum(trial["state"] == "finished" for trial in trials) - len(rank(trials))
    if not unranked:
        return None
    has = "has" if unranked == 1 else "have"
    return (
        f"{count(unranked, 'trial')} {has} no validation split and so no rank, since the test "
        "split chooses nothing: set validation above 0 to compare them"
    )


def table(trials: Sequence[Mapping[str, Any]]) -> str:
    """The trials as CSV, by number; without times, so that equal sweeps have equal bytes.

    `epoch` is the one after which a trial was pruned, and its scores are of that one.
    """
    keys = list(dict.fromkeys(key for trial in trials for key in trial["parameters"]))
    measured = ("validation_accuracy", "validation_loss", "test_accuracy", "epoch")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "state", *keys, *measured, "error", "message", "run"])
    for trial in trials:
        values = [_plain(trial["parameters"].get(key)) for key in keys]
        numbers = [_plain(trial[name]) for name in measured]
        ends = [trial["error"] or "", trial["message"] or "", trial["run"]]
        writer.writerow([trial["number"], trial["state"], *values, *numbers, *ends])
    return text.getvalue()


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
