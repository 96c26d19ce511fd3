"""The sections of a page that compares runs: what differs, what came out, all curves."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rdfia_cli import console
from rdfia_cli.config import spec_text
from rdfia_cli.report import page
from rdfia_cli.report.again import command_line, settings
from rdfia_cli.report.chart import COLOURS, Group, Series, Switch
from rdfia_cli.report.page import Cell, Figure, Page, Section, Table
from rdfia_cli.report.run_sections import (
    measure_chart,
    percent,
    state_notes,
    subtitle,
)

if TYPE_CHECKING:
    from markupsafe import Markup

    from rdfia_cli.report.run_record import RunRecord

DASHES: Mapping[str, int] = {"test": 0, "train": 1, "validation": 2}
MOST_COLUMNS = 4
"""Settings that differ up to which each is a column of the results."""
MOST_NAMED = 2
"""Models or datasets up to which each is named below the heading."""
MOST_WITH_TRAIN = 4
"""Runs up to which the train curves are shown at first."""
ENVIRONMENT = ("versions", "python", "plugins", "git", "device_name", "threads", "precision")


def names_of(records: Sequence[RunRecord]) -> list[str]:
    """What a reader calls each run: its folder's name, or its path where names are alike."""
    names = [record.name for record in records]
    return names if len({*names}) == len(names) else [str(record.folder) for record in records]


def comparison_page(
    records: Sequence[RunRecord], sections: Sequence[Section], title: str, notes: Sequence[str] = ()
) -> Page:
    """The page of several runs: the best one's numbers, then the sections given."""
    named = list(zip(names_of(records), records, strict=True))
    models, datasets = [r.model for r in records], [r.data for r in records]
    about = f"{_named(models, 'model')} on {_named(datasets, 'dataset')}"
    states = [f"{name}: {note}" for name, record in named for note in state_notes(record)]
    return Page(title, about, _figures(named), sections, [*states, *notes])


def _named(texts: Sequence[str], noun: str) -> str:
    """What runs have, by name where there are few."""
    known = list(dict.fromkeys(texts))
    return " and ".join(known) if len(known) <= MOST_NAMED else f"{len(known)} {noun}s"


def _figures(named: Sequence[tuple[str, RunRecord]]) -> list[Figure]:
    """How many runs there are, which is the best, and how far apart they lie on the test split."""
    tests = [record.kept["test"]["accuracy"] for _, record in named if record.kept]
    found = [Figure("Runs", str(len(named)))]
    best = _best([record for _, record in named])
    if best is not None and best.kept is not None:
        name = next(name for name, record in named if record is best)
        chosen, test = best.kept["validation"], best.kept["test"]
        found += [
            Figure("Best on validation", percent(chosen["accuracy"]), name),
            Figure("Its test accuracy", percent(test["accuracy"]), "which chose nothing"),
        ]
    if tests:
        low, high = min(tests), max(tests)
        about = f"points of test accuracy, {percent(low)} to {percent(high)}"
        found.append(Figure("Between them", f"{100 * (high - low):.2f}", about))
    return found


def _best(records: Sequence[RunRecord]) -> RunRecord | None:
    """The best of the runs that are at their end, by validation; the test split chooses nothing.

    At equal accuracies it is the one with the lowest loss. None where a run has no such split.
    """
    finished = [(r, r.kept) for r in records if r.kept is not None and r.result is not None]
    scores = [kept["validation"] for _, kept in finished if "validation" in kept]
    if not scores or len(scores) < len(finished):
        return None
    order = [(-score["accuracy"], score["loss"]) for score in scores]
    return finished[order.index(min(order))][0]


def comparison_sections(records: Sequence[RunRecord]) -> list[Section]:
    """All sections that need no model."""
    seeds = over_seeds(records)
    return [
        results(records),
        *([seeds] if seeds is not None else []),
        overlaid_curves(records),
        *environments(records),
        commands(records),
    ]


def differing(records: Sequence[RunRecord]) -> dict[str, list[str]]:
    """The settings that are not alike in all runs: the text of each by run, empty where absent.

    Of components with different names each is one text, as one writes it.
    """
    tables = [{key: text for key, (text, _) in settings(r.config).items()} for r in records]
    for key, texts in _components_that_differ(records).items():
        for table, text in zip(tables, texts, strict=True):
            for own in [name for name in table if name.startswith(f"{key}.")]:
                del table[own]
            table[key] = text
    keys = dict.fromkeys(key for table in tables for key in table)
    found = {key: [table.get(key, "") for table in tables] for key in keys}
    return {key: texts for key, texts in found.items() if len({*texts}) > 1}


def _components_that_differ(records: Sequence[RunRecord]) -> dict[str, list[str]]:
    """The components by dotted key that have not the same name in all runs, as specs by run."""
    chosen = [dict(record.config.placed_components()) for record in records]
    found: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for each in chosen for key in each):
        if len({each[key].name if key in each else "" for each in chosen}) > 1:
            head = key.partition(".")[0]
            found[key] = [spec_text(head, each[key]) if key in each else "" for each in chosen]
    return found


def results(records: Sequence[RunRecord]) -> Section:
    """A row a run: the settings that differ, where they are few, and what was measured."""
    differ = differing(records)
    shown = differ if len(differ) <= MOST_COLUMNS else {}
    heading = ["run", *shown, "validation", "test", "test loss", "train", "gap", "parameters"]
    heading.append("time")
    best = _best(records)
    rows: list[list[Cell | str]] = []
    for index, (name, record) in enumerate(zip(names_of(records), records, strict=True)):
        given = [_setting(texts[index]) for texts in shown.values()]
        rows.append(
            [Cell(name, colour=index % COLOURS), *given, *_measures(record, strong=record is best)]
        )
    first = 1 + len(shown)
    content = Table(
        heading,
        rows,
        numbers=frozenset(range(first, len(heading))),
        code=frozenset(range(1, first)),
        sortable=True,
    )
    bodies = [page.table(content, title="Results")]
    if not shown:
        bodies.append(_differences(records, differ))
    lead = "Accuracies are those of the weights kept; the gap is train minus test in points."
    if best is not None:
        lead += " Bold is the best on validation of the runs that are finished."
    return Section("results", "Results", page.join(*bodies), lead)


def _differences(records: Sequence[RunRecord], differ: Mapping[str, Sequence[str]]) -> Markup:
    """A row for each of many settings that differ, a column a run."""
    if not differ:
        return page.prose("All settings are alike.")
    rows = [[key, *texts] for key, texts in differ.items()]
    heading = ["setting", *names_of(records)]
    content = Table(heading, rows, code=frozenset(range(len(heading))))
    title = "Settings that differ"
    return page.join(page.heading(title), page.table(content, title=title))


def _setting(text: str) -> Cell:
    try:
        return Cell(text, order=float(text))
    except ValueError:
        return Cell(text)


def _measures(record: RunRecord, *, strong: bool) -> list[Cell]:
    kept = record.kept
    if kept is None:
        return [Cell("")] * 7
    chosen: float | None = kept["validation"]["accuracy"] if "validation" in kept else None
    test, train = kept["test"], kept["train"]
    gap = train["accuracy"] - test["accuracy"]
    count, seconds = record.parameters, record.seconds
    return [
        Cell("" if chosen is None else percent(chosen), order=chosen, strong=strong),
        Cell(percent(test["accuracy"]), order=test["accuracy"]),
        Cell(f"{test['loss']:.4f}", order=test["loss"]),
        Cell(percent(train["accuracy"]), order=train["accuracy"]),
        Cell(f"{100 * gap:+.2f}", order=gap),
        Cell("" if count is None else f"{count:,}", order=count),
        Cell("" if seconds is None else console.duration(seconds), order=seconds),
    ]


def over_seeds(records: Sequence[RunRecord]) -> Section | None:
    """The mean over runs that differ in their seed alone; None where there are none."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.kept is not None:
            identity = record.config.model_copy(update={"seed": 0}).digest
            groups.setdefault(identity, []).append(record)
    if all(len({record.config.seed for record in group}) == 1 for group in groups.values()):
        return None
    differ = {key: texts for key, texts in differing(records).items() if key != "seed"}
    rows: list[list[Cell | str]] = []
    for group in groups.values():
        place = next(i for i, record in enumerate(records) if record is group[0])
        accuracies = [r.kept["test"]["accuracy"] for r in group if r.kept]
        mean = statistics.fmean(accuracies)
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else None
        rows.append(
            [
                *(texts[place] for texts in differ.values()),
                Cell(str(len(group)), order=len(group)),
                Cell(percent(mean), order=mean),
                Cell("" if spread is None else f"± {100 * spread:.2f}", order=spread),
                Cell(f"{percent(min(accuracies))} to {percent(max(accuracies))}", order=mean),
            ]
        )
    heading = [*differ, "runs", "mean test accuracy", "deviation", "range"]
    start = len(differ)
    content = Table(
        heading,
        rows,
        numbers=frozenset(range(start, len(heading))),
        code=frozenset(range(start)),
        sortable=True,
    )
    lead = "Runs that differ in their seed alone; the deviation is the sample's standard deviation."
    return Section("seeds", "Over seeds", page.table(content, title="Over seeds"), lead)


def overlaid_curves(records: Sequence[RunRecord]) -> Section:
    """Accuracy and loss of all runs: a colour a run, a dash a split."""
    named = list(zip(names_of(records), records, strict=True))
    splits = [s for s in ("test", "train", "validation") if _has(records, s)]
    charts = [
        measure_chart(
            title,
            measure,
            [
                _series(n, i, r, s, measure)
                for s in reversed(splits)
                for i, (n, r) in enumerate(named)
                if _has([r], s)
            ],
        )
        for title, measure in (("Accuracy", "accuracy"), ("Loss", "loss"))
    ]
    on = {"test", "train"} if len(records) <= MOST_WITH_TRAIN else {"test"}
    switches = [
        *(Switch(name, index % COLOURS) for index, (name, _) in enumerate(named)),
        *(Switch(split, None, DASHES[split], on=split in on) for split in splits),
    ]
    lead = "A colour a run; solid is test, dashed train, dotted validation."
    return Section("curves", "Curves", page.charts(Group(charts, switches)), lead)


def _has(records: Sequence[RunRecord], split: str) -> bool:
    return any(split in line for record in records for line in record.epochs)


def _series(name: str, index: int, record: RunRecord, split: str, measure: str) -> Series:
    lines = [line for line in record.epochs if split in line]
    return Series(
        f"{name}, {split}",
        [line["epoch"] for line in lines],
        [line[split][measure] for line in lines],
        colour=index % COLOURS,
        dash=DASHES[split],
        switches=[name, split],
    )


def environments(records: Sequence[RunRecord]) -> list[Section]:
    """Where the runs began on different ground: a section, or none."""
    flat = [_flatten(record.environment) for record in records]
    keys = dict.fromkeys(key for table in flat for key in table)
    rows = [[key, *(table.get(key, "") for table in flat)] for key in keys]
    unlike = [row for row in rows if len({*row[1:]}) > 1]
    if not unlike:
        return []
    content = Table(["", *names_of(records)], unlike)
    return [
        Section(
            "environment",
            "Environments differ",
            page.table(content, title="Environments"),
            "What is not alike may change more than the settings do.",
        )
    ]


def _flatten(environment: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key in ENVIRONMENT:
        value = environment.get(key)
        if isinstance(value, dict):
            found.update({f"{key}: {part}": str(text) for part, text in value.items()})
        elif value is not None:
            found[key.replace("_", " ")] = str(value)
    return found


def commands(records: Sequence[RunRecord]) -> Section:
    """The command that makes each run again."""
    bodies = [
        page.join(page.heading(name), page.command(command_line(record.config), name))
        for name, record in zip(names_of(records), records, strict=True)
    ]
    return Section("again", "Run them again", page.join(*bodies))


def single_runs(
    records: Sequence[RunRecord], inside: Sequence[Sequence[Section]]
) -> Section | None:
    """What was seen in the model of each run, to be opened; None where nothing was."""
    folds = [
        page.fold(name, page.join(page.prose(subtitle(record)), page.sections(found, f"run-{i}")))
        for i, (name, record, found) in enumerate(
            zip(names_of(records), records, inside, strict=True)
        )
        if found
    ]
    if not folds:
        return None
    return Section("runs", "Each run", page.join(*folds), "Open a run to look inside its model.")
