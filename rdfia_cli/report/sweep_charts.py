"""The charts of a sweep: its settings against the accuracy, two of them, all of them, curves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rdfia_cli import run
from rdfia_cli.report import page
from rdfia_cli.report.chart import Axis, Chart, Form, Group, Series
from rdfia_cli.report.page import Cell, Section
from rdfia_cli.report.run_sections import percent
from rdfia_cli.report.sweep_record import LOG_FROM, Sweep, Trial, value_of
from rdfia_cli.spec import brief

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_CELLS = 16
"""Values of a setting up to which two of them make a table."""
MOST_MARKS = 6
"""Values of a setting up to which each is written at its axis."""
MEASURES: Sequence[tuple[str, str, Form]] = (
    ("Accuracy", "accuracy", "percent"),
    ("Loss", "loss", "number"),
)


def against_accuracy(sweep: Sweep) -> Section:
    """Each setting against the accuracy on validation."""
    y = Axis("validation accuracy", form="percent")
    groups = [Group([_scatter(sweep, key, y) for key in sweep.varied])]
    lead = "A dot a finished trial, the stronger its colour the better; the best one is marked."
    return Section("settings", "Each setting", page.join(*map(page.charts, groups)), lead)


def _scatter(sweep: Sweep, key: str, y: Axis) -> Chart:
    axis = axis_of(sweep, key)
    series = _dots(
        sweep,
        lambda trial: _place(axis, trial, key),
        lambda trial: trial["validation_accuracy"],
    )
    return Chart(key, replace(axis, label=""), y, series, about=f"{y.label} by {key}")


def _dots(sweep: Sweep, x: Callable[[Trial], float], y: Callable[[Trial], float]) -> list[Series]:
    """A dot a finished trial, the best one in front; the places are functions of a trial."""
    ranked = sweep.ranked
    others = ranked[:0:-1]
    return [
        Series(
            "trial",
            [x(trial) for trial in chosen],
            [y(trial) for trial in chosen],
            mark="dots",
            colour=1 if strong else None,
            texts=[_about(trial) for trial in chosen],
            shares=() if strong else [sweep.share(trial) for trial in chosen],
            strong=strong,
        )
        for chosen, strong in ((others, False), (ranked[:1], True))
        if chosen
    ]


def _about(trial: Trial) -> str:
    settings = [f"{key} {brief(value)}" for key, value in trial["parameters"].items()]
    heading = f"trial {trial['number']}: {percent(trial['validation_accuracy'])}"
    return "\n".join([heading, *settings])


def axis_of(sweep: Sweep, key: str) -> Axis:
    """The axis of a setting: as the space says, or as its values are."""
    space: Sequence[Mapping[str, Any]] = sweep.content.get("space") or ()
    told = next((dimension for dimension in space if dimension.get("key") == key), {})
    values = [trial["parameters"].get(key) for trial in sweep.trials]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return Axis(
            key, scale="category", names=list(dict.fromkeys(value_of(t, key) for t in sweep.trials))
        )
    numbers = [float(v) for v in values if v is not None]
    whole = all(isinstance(v, int) for v in values)
    positive = min(numbers) > 0
    listed = "values" in told or not told
    marks = sorted({*numbers}) if listed and len({*numbers}) <= MOST_MARKS else ()
    if positive and (told.get("log") or (listed and _by_ratio(numbers))):
        return Axis(key, scale="log", marks=marks)
    return Axis(key, form="integer" if whole else "number", marks=marks)


def _by_ratio(numbers: Sequence[float]) -> bool:
    """Whether listed numbers are laid out by their ratio: they are far apart, or evenly so."""
    listed = sorted({*numbers})
    ratios = [right / left for left, right in itertools.pairwise(listed)]
    even = len(ratios) > 1 and max(ratios) / min(ratios) < 1.001
    return listed[-1] / listed[0] >= LOG_FROM or even


def _place(axis: Axis, trial: Trial, key: str) -> float:
    if axis.scale == "category":
        return float(axis.names.index(value_of(trial, key)))
    return float(trial["parameters"][key])


def two_settings(sweep: Sweep) -> Section:
    """The accuracy over the two settings that matter most."""
    importances: Mapping[str, float] = sweep.content.get("importances") or {}
    down, across = sorted(sweep.varied, key=lambda key: -importances.get(key, 0.0))[:2]
    ranked = sweep.ranked
    columns, rows = (_values(ranked, key) for key in (across, down))
    others = "; the best over the other settings" if len(sweep.varied) > 2 else ""
    if _is_grid(len(columns), len(rows), len(ranked)):
        body = _heat(ranked, down, across, rows, columns)
        lead = f"The accuracy on validation in percent{others}."
    else:
        x, y = axis_of(sweep, across), axis_of(sweep, down)
        dots = _dots(sweep, lambda t: _place(x, t, across), lambda t: _place(y, t, down))
        body = page.charts(Group([Chart(f"{down} and {across}", x, y, dots)]))
        lead = "A dot a finished trial, the stronger its colour the better; the best one is marked."
    return Section("two", "Two settings", body, lead)


def _is_grid(columns: int, rows: int, trials: int) -> bool:
    """Whether trials share values of two settings, so that a table has few gaps."""
    return max(columns, rows) <= MOST_CELLS and (columns * rows <= 2 * trials)


def _values(trials: Sequence[Trial], key: str) -> list[str]:
    """The values of a setting as text: numbers by size, words as they come."""
    pairs = {value_of(t, key): t["parameters"].get(key) for t in trials}
    if all(isinstance(v, int | float) for v in pairs.values()):
        return sorted(pairs, key=lambda text: float(pairs[text]))
    return [*pairs]


def _heat(
    ranked: Sequence[Trial], down: str, across: str, rows: Sequence[str], columns: Sequence[str]
) -> Markup:
    found: dict[tuple[str, str], float] = {}
    for trial in reversed(ranked):
        found[value_of(trial, down), value_of(trial, across)] = trial["validation_accuracy"]
    order = sorted(found.values())
    low, high = order[len(order) // 10], order[-1]

    def cell(place: tuple[str, str]) -> Cell:
        if place not in found:
            return Cell("")
        share = (found[place] - low) / (high - low) if high > low else 1.0
        return Cell(f"{100 * found[place]:.1f}", share=min(max(share, 0.0), 1.0))

    content = [(row, [cell((row, column)) for column in columns]) for row in rows]
    return page.heat(across, down, columns, content)


def parallel(sweep: Sweep) -> Section:
    """A line a trial through all settings, to its accuracy."""
    axes = {key: axis_of(sweep, key) for key in sweep.varied}
    ends = {
        key: _ends(axis, [_place(axis, t, key) for t in sweep.ranked]) for key, axis in axes.items()
    }
    accuracies = [t["validation_accuracy"] for t in sweep.ranked]
    span = (min(accuracies), max(accuracies))
    names = [*(_bounds(key, axes[key], ends[key]) for key in axes)]
    names.append(f"accuracy {percent(span[0])} to {percent(span[1])}")
    lines = [
        Series(
            f"trial {trial['number']}",
            list(range(len(axes) + 1)),
            [
                *(_level(axes[key], ends[key], _place(axes[key], trial, key)) for key in axes),
                _level(Axis(""), span, trial["validation_accuracy"]),
            ],
            colour=1 if strong else None,
            texts=[_about(trial)],
            shares=() if strong else [sweep.share(trial)],
            strong=strong,
        )
        for trial, strong in _in_front(sweep)
    ]
    x = Axis("", scale="category", names=names)
    chart = Chart(
        "",
        x,
        Axis("from low to high", scale="bare"),
        lines,
        single=True,
        about="a line a trial through its settings to its accuracy",
    )
    lead = "A line a finished trial, from left to right through its settings to its accuracy."
    return Section("parallel", "All settings at once", page.charts(Group([chart])), lead)


def _in_front(sweep: Sweep) -> list[tuple[Trial, bool]]:
    """The finished trials from the worst to the best, which alone is marked."""
    ranked = sweep.ranked
    return [(trial, trial is ranked[0]) for trial in reversed(ranked)]


def _ends(axis: Axis, places: Sequence[float]) -> tuple[float, float]:
    return (0.0, len(axis.names) - 1.0) if axis.scale == "category" else (min(places), max(places))


def _bounds(key: str, axis: Axis, ends: tuple[float, float]) -> str:
    if axis.scale == "category":
        return f"{key} {axis.names[0]} to {axis.names[-1]}"
    return f"{key} {ends[0]:.4g} to {ends[1]:.4g}"


def _level(axis: Axis, ends: tuple[float, float], value: float) -> float:
    """Where a value lies between the ends, from 0 to 1."""
    low, high = ends
    if axis.scale == "log":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low) if high > low else 0.5


def learning_curves(sweep: Sweep) -> list[Section]:
    """Accuracy and loss on validation by epoch of all trials, where their folders are there."""
    charts: list[Chart] = []
    ranked = {trial["number"] for trial in sweep.ranked}
    stopped = [t for t in sweep.trials if t["number"] not in ranked and t["state"] == "pruned"]
    order = [*((t, False) for t in stopped), *_in_front(sweep)]
    lines = {t["number"]: _validation_lines(sweep, t) for t, _ in order}
    if not any(lines.values()):
        return []
    for title, measure, form in MEASURES:
        series = [
            Series(
                f"trial {trial['number']}",
                [line["epoch"] for line in lines[trial["number"]]],
                [line["validation"][measure] for line in lines[trial["number"]]],
                colour=1 if strong else None,
                dash=0 if trial["number"] in ranked else 2,
                texts=[_about(trial)],
                shares=() if strong else [sweep.share(trial) if trial["number"] in ranked else 0.0],
                strong=strong,
            )
            for trial, strong in order
            if lines[trial["number"]]
        ]
        y = Axis("on validation", form=form, high=_ceiling(series) if measure == "loss" else None)
        charts.append(Chart(title, Axis("epoch", form="integer"), y, series, single=True))
    dotted = "; dotted were pruned" if stopped else ""
    lead = f"A line a trial, the stronger its colour the better; the best one is marked{dotted}."
    return [Section("curves", "Curves of all trials", page.charts(Group(charts)), lead)]


def _ceiling(series: Sequence[Series]) -> float:
    """Losses of trials that went astray must not flatten the others."""
    values = sorted(value for one in series for value in one.y)
    return 1.05 * values[min(len(values) - 1, int(0.95 * len(values)))]


def _validation_lines(sweep: Sweep, trial: Trial) -> list[Mapping[str, Any]]:
    try:
        lines = run.read_lines(sweep.run_folder(trial) / run.METRICS)
    except ValueError:
        return []
    return [line for line in lines if "validation" in line]
