"""The sections of a sweep's page, from the object `rdfia.sweep/1` and the folders of its trials."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import console, run
from rdfia_cli.errors import RdfiaError, count
from rdfia_cli.report import page
from rdfia_cli.report.again import command_line
from rdfia_cli.report.page import Cell, Figure, Page, Section, Table
from rdfia_cli.report.run_sections import percent
from rdfia_cli.report.sweep_charts import (
    against_accuracy,
    axis_of,
    learning_curves,
    parallel,
    two_settings,
)
from rdfia_cli.report.sweep_record import Sweep, Trial
from rdfia_cli.spec import brief, value_text

if TYPE_CHECKING:
    from markupsafe import Markup


def sweep_page(sweep: Sweep, title: str | None = None) -> Page:
    """The page of a sweep."""
    varied = sweep.varied
    search = [sweep.content.get(key) for key in ("sampler", "pruner")]
    about = [f"{len(sweep.trials)} trials over {', '.join(varied) or 'nothing'}"]
    about += [
        f"{name} {value}"
        for name, value in zip(("by", "pruned by"), search, strict=True)
        if value and value != "none"
    ]
    return Page(title or sweep.name, " · ".join(about), _figures(sweep), sweep_sections(sweep))


def _figures(sweep: Sweep) -> list[Figure]:
    states = Counter(trial["state"] for trial in sweep.trials)
    others = ", ".join(f"{n} {state}" for state, n in states.items() if state != "finished")
    found = [Figure("Trials finished", str(states["finished"]), others)]
    ranked = sweep.ranked
    if ranked:
        best = ranked[0]
        accuracies = [t["validation_accuracy"] for t in ranked]
        middle = statistics.median(accuracies)
        found = [
            Figure("Best on validation", percent(accuracies[0]), f"trial {best['number']}"),
            Figure("Its test accuracy", percent(best["test_accuracy"]), "which chose nothing"),
            Figure("Median on validation", percent(middle)),
            *found,
        ]
    times = [t["seconds"] for t in sweep.trials if t.get("seconds") is not None]
    if times:
        found.append(Figure("Training, all trials", console.duration(sum(times)), _engines(sweep)))
    return found


def _engines(sweep: Sweep) -> str:
    """What trained the trials, in words."""
    counts = Counter(trial["engine"] for trial in sweep.trials if trial.get("engine"))
    words = {"stacked": "together in a stack", "process": "each by itself"}
    if len(counts) == 1:
        return words.get(next(iter(counts)), "")
    return ", ".join(f"{number} {words.get(engine, engine)}" for engine, number in counts.items())


def sweep_sections(sweep: Sweep) -> list[Section]:
    """Every section that there is something for."""
    ranked, varied = sweep.ranked, sweep.varied
    return [
        *([best(sweep)] if ranked else []),
        *([against_accuracy(sweep)] if ranked and varied else []),
        *([two_settings(sweep)] if ranked and len(varied) > 1 else []),
        *([parallel(sweep)] if len(ranked) > 1 and len(varied) > 1 else []),
        *learning_curves(sweep),
        ranking(sweep),
        *failures(sweep),
    ]


def best(sweep: Sweep) -> Section:
    """The settings of the best trial, what matters, and the command that trains it again."""
    chosen = sweep.ranked[0]
    rows = [[key, value_text(value)] for key, value in chosen["parameters"].items()]
    bodies = [page.table(Table(["setting", "value"], rows, code=frozenset({0, 1})), title="Best")]
    folder = sweep.run_folder(chosen)
    try:
        bodies.append(page.command(command_line(run.load_config(folder))))
    except (RdfiaError, OSError) as error:
        fact = error.fact if isinstance(error, RdfiaError) else str(error)
        bodies.append(page.prose(f"The command cannot be told: {fact}."))
    importances: Mapping[str, float] = sweep.content.get("importances") or {}
    if len(importances) > 1:
        bodies += [page.heading("What matters"), _importances(importances)]
    lead = f"Trial {chosen['number']} has the highest accuracy on validation."
    highest = chosen["validation_accuracy"]
    alike = [t for t in sweep.ranked[1:] if t["validation_accuracy"] == highest]
    if alike:
        others = f"{count(len(alike), 'other trial')} {'has' if len(alike) == 1 else 'have'} it too"
        lead = f"{lead[:-1]}; {others}, with no lower loss."
    return Section("best", "Best trial", page.join(*bodies), lead)


def _importances(importances: Mapping[str, float]) -> Markup:
    rows: list[list[Cell | str]] = [
        [key, Cell(f"{100 * share:.0f}%", order=share, share=share)]
        for key, share in sorted(importances.items(), key=lambda item: -item[1])
    ]
    heading = ["setting", "share of the variance"]
    content = Table(heading, rows, numbers=frozenset({1}), code=frozenset({0}))
    return page.table(content, title="Importances")


def ranking(sweep: Sweep) -> Section:
    """All trials, the best first; those without a rank last."""
    ranked = sweep.ranked
    numbers = {trial["number"] for trial in ranked}
    rest = [trial for trial in sweep.trials if trial["number"] not in numbers]
    keys = list(dict.fromkeys(key for trial in sweep.trials for key in trial["parameters"]))
    rows: list[list[Cell | str]] = []
    for place, trial in enumerate([*ranked, *rest]):
        is_ranked = place < len(ranked)
        rows.append(
            [
                Cell(str(place + 1) if is_ranked else "", order=place + 1),
                Cell(str(trial["number"]), order=trial["number"]),
                *(_value(trial["parameters"].get(key)) for key in keys),
                _accuracy(trial["validation_accuracy"], strong=place == 0 and is_ranked),
                _accuracy(trial["test_accuracy"]),
                _seconds(trial.get("seconds")),
                Cell(_state(trial)),
                Cell("/".join(Path(trial["run"]).parts[-2:])),
            ]
        )
    heading = ["rank", "trial", *keys, "validation", "test", "seconds", "state", "run"]
    start = 2 + len(keys)
    counted = {2 + i for i, key in enumerate(keys) if axis_of(sweep, key).scale != "category"}
    content = Table(
        heading,
        rows,
        numbers=frozenset({0, 1, *counted, *range(start, start + 3)}),
        code=frozenset({start + 4}),
        sortable=True,
    )
    lead = "By accuracy on validation, then by loss; press a heading to sort by it."
    return Section("ranking", "All trials", page.table(content, title="All trials"), lead)


def _state(trial: Trial) -> str:
    pruned = trial["state"] == "pruned" and trial.get("epoch") is not None
    return f"pruned after epoch {trial['epoch']}" if pruned else trial["state"]


def _value(value: Any) -> Cell:
    if value is None:
        return Cell("")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(brief(value), order=float(value) if is_number else None)


def _accuracy(share: float | None, *, strong: bool = False) -> Cell:
    return Cell(percent(share), order=share, strong=strong)


def _seconds(seconds: float | None) -> Cell:
    return Cell("" if seconds is None else f"{seconds:.1f}", order=seconds)


def failures(sweep: Sweep) -> list[Section]:
    """What went wrong with trials that failed: a section, or none."""
    failed = [trial for trial in sweep.trials if trial["state"] == "failed"]
    if not failed:
        return []
    rows = [
        [str(t["number"]), str(t.get("error") or ""), str(t.get("message") or "")] for t in failed
    ]
    content = Table(["trial", "error", "message"], rows, numbers=frozenset({0}))
    return [Section("failures", "Failed trials", page.table(content, title="Failed trials"))]
