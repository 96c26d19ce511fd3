"""The page of the course report's figures: what was measured beside what the report states."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import __version__
from rdfia_cli.errors import count
from rdfia_cli.report.chart import COLOURS, Group, Series, Switch
from rdfia_cli.report.figures import HOLDS
from rdfia_cli.report.page import (
    Cell,
    Figure,
    Page,
    Section,
    Table,
    charts,
    command,
    join,
    link,
    prose,
    table,
)
from rdfia_cli.report.run_sections import COLOURS as SPLIT_COLOURS
from rdfia_cli.report.run_sections import REPORT, measure_chart
from rdfia_cli.spec import brief

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup

SPLITS = ("train", "test")
MEASURES = (("accuracy", ""), ("loss", "_loss"))
"""What is drawn, and how the keys of a curve end that hold it."""


def make_page(content: Mapping[str, Any], folder: Path) -> Page:
    """The page of `rdfia.reproduction/1`.

    Args:
        content: the object.
        folder: where the page will stand, from which it leads to those of the runs.
    """
    figures = content["figures"]
    # With other settings than the recipe's a statement is told of, and not counted.
    claims = [claim for each in figures if not each["changed"] for claim in each["claims"]]
    compared = [claim["holds"] for claim in claims if claim["holds"] is not None]
    done = [each for each in figures if not each["error"]]
    others = "the data are not the report's" if done else "no figure could be made"
    if any(each["compared"] for each in done):
        changed = any(each["compared"] and each["changed"] for each in done)
        others = (
            "the settings are not the recipes'" if changed else "the report says nothing of them"
        )
    numbers = [
        Figure("figures", str(len(figures))),
        Figure("statements that hold", str(sum(compared)), f"of {len(compared)}")
        if compared
        else Figure("statements compared", "none", others),
        Figure("seconds of training", f"{sum(each.get('seconds', 0) for each in figures):,.0f}"),
    ]
    notes = ["A small run on the embedded data: its numbers are not the report's."]
    return Page(
        title="The figures of the course report, measured again",
        subtitle="accuracy and loss of each run; the report's words beside the numbers",
        figures=numbers,
        sections=[_overview(figures), *(_section(each, folder) for each in figures)],
        notes=notes if content["quick"] else [],
        made_by=f"rdfia {__version__}",
    )


def _overview(figures: Sequence[Mapping[str, Any]]) -> Section:
    rows: list[list[Cell | str]] = []
    for each in figures:
        rows.append(
            [
                Cell(each["name"]),
                each["recipe"],
                each["data"] or "",
                *(_share(each.get(key)) for key in ("train", "test")),
                _points(each.get("gap")),
                verdicts(each),
            ]
        )
    heading = ("figure", "recipe", "data", "train", "test", "gap", "the report")
    content = Table(heading, rows, numbers=frozenset({3, 4, 5}), code=frozenset({1, 2}))
    lead = (
        "Accuracies after the last epoch, their gap in points; of a sweep, that of its best trial."
    )
    return Section("overview", "All figures", table(content), lead)


def verdicts(each: Mapping[str, Any]) -> str:
    """What became of a figure's statements, in a line."""
    if each["error"]:
        return each["error"]
    told = [f"best of {count(len(each['trials']), 'trial')}"] if "trials" in each else []
    if not each["compared"]:
        return "; ".join([*told, "not compared: on other data than the report's"])
    claims = each["claims"]
    reasons = {claim["measured"] for claim in claims if claim["holds"] is None}
    if len(reasons) == 1 and all(claim["holds"] is None for claim in claims):
        told.append(f"not compared: {reasons.pop()}")
    else:
        told += [f"{claim['statement']}: {HOLDS[claim['holds']]}" for claim in claims]
    return "; ".join([*told, *_about_settings(each)])


def _about_settings(each: Mapping[str, Any]) -> list[str]:
    """Which settings are not the recipe's, in a few words, if any are."""
    if not each["changed"]:
        return []
    first, *others = each["changed"]
    return [f"with {first}" + (f" and {len(others)} more" if others else "")]


def _share(value: float | None) -> Cell:
    return Cell("" if value is None else f"{value:.1%}", value)


def _points(gap: float | None) -> Cell:
    return Cell("" if gap is None else f"{100 * gap:+.1f}", gap)


def _section(each: Mapping[str, Any], folder: Path) -> Section:
    anchor = f"figure-{each['name']}"
    number = f"Figure {each['name']}: " if each["name"].isdigit() else ""
    title = f"{number}{each['title']}"
    if each["error"]:
        return Section(anchor, title, join(*(prose(text) for text in _reasons(each))))
    claims = [
        [claim["statement"], claim["measured"], HOLDS[claim["holds"]]] for claim in each["claims"]
    ]
    bodies = [_curves_of_trials(each["trials"]) if "trials" in each else _curves(each)]
    if claims:
        bodies.append(table(Table(("the report", "measured", ""), claims)))
    if each.get("changed"):
        bodies.append(
            prose(f"Made with other settings than the recipe's: {'; '.join(each['changed'])}.")
        )
    if "trials" in each:
        bodies.append(table(_trials(each["trials"])))
    bodies.append(command(each["command"]))
    report = Path(each.get("run") or each["sweep"]) / REPORT
    if report.exists():
        bodies.append(link("More about this run", Path(os.path.relpath(report, folder))))
    return Section(anchor, title, join(*bodies), _lead(each))


def _reasons(each: Mapping[str, Any]) -> list[str]:
    return [text for text in (each["error"], each["remedy"]) if text]


def _curves(each: Mapping[str, Any]) -> Markup:
    """Accuracy on the left and loss on the right, train and test, as in the report."""
    curve = each["curve"]
    drawn = [
        measure_chart(
            measure.capitalize(),
            measure,
            [_by_epoch(s, curve[f"{s}{end}"], SPLIT_COLOURS[s], [s]) for s in SPLITS],
        )
        for measure, end in MEASURES
    ]
    return charts(Group(drawn, [Switch(split, SPLIT_COLOURS[split]) for split in SPLITS]))


def _curves_of_trials(trials: Sequence[Mapping[str, Any]]) -> Markup:
    """The same of the test split alone, with a colour for each trial."""
    named = [(_about_trial(t), t["curve"], i % COLOURS) for i, t in enumerate(trials)]
    drawn = [
        measure_chart(
            f"{measure.capitalize()} on test",
            measure,
            [_by_epoch(name, curve[f"test{end}"], colour, [name]) for name, curve, colour in named],
        )
        for measure, end in MEASURES
    ]
    return charts(Group(drawn, [Switch(name, colour) for name, _, colour in named]))


def _by_epoch(name: str, values: Sequence[float], colour: int, switches: Sequence[str]) -> Series:
    epochs = range(1, len(values) + 1)
    return Series(name, epochs, values, colour=colour, switches=switches)


def _about_trial(trial: Mapping[str, Any]) -> str:
    """What a trial's settings are, without the component that they belong to."""
    given = trial["parameters"].items()
    return ", ".join(f"{key.rpartition('.')[2]} {brief(value)}" for key, value in given)


def _lead(each: Mapping[str, Any]) -> str:
    other = "" if each["compared"] else ", which are not the report's data"
    about = f"Recipe {each['recipe']} on {each['data']}{other}"
    if "trials" in each:
        return f"{about}: {count(len(each['trials']), 'trial')}"
    return (
        f"{about}: {count(each['epochs'], 'epoch')}, {count(each['parameters'], 'parameter')}, "
        f"{each['seconds']:,.0f} s"
    )


def _trials(trials: Sequence[Mapping[str, Any]]) -> Table:
    keys = list(trials[0]["parameters"])
    rows: list[list[Cell | str]] = [
        [
            *(str(trial["parameters"][key]) for key in keys),
            Cell(f"{trial['model_parameters']:,}", order=trial["model_parameters"]),
            *(_share(trial[key]) for key in ("validation_accuracy", "train", "test_accuracy")),
            _points(trial["gap"]),
        ]
        for trial in trials
    ]
    heading = (*keys, "parameters", "validation", "train", "test", "gap")
    numbers = frozenset(range(len(keys), len(heading)))
    return Table(heading, rows, numbers=numbers, sortable=True)
