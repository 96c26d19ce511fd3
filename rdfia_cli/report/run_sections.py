"""The sections of one run's page that its files alone tell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rdfia_cli import console
from rdfia_cli.errors import count
from rdfia_cli.report import page
from rdfia_cli.report.again import command_line, settings
from rdfia_cli.report.chart import Axis, Chart, Group, Series, Switch
from rdfia_cli.report.page import Cell, Figure, Section, Table
from rdfia_cli.report.run_record import read_run

if TYPE_CHECKING:
    from pathlib import Path

    from rdfia_cli.report.run_record import Line, RunRecord

SPLITS = ("train", "validation", "test")
COLOURS: Mapping[str, int] = {"train": 0, "validation": 2, "test": 1}
"""As in `curves.png`: blue, green, vermilion."""
REPORT = "report.html"
STEPS = "train, each step"
MOST_STEPS = 600
"""Points of the curve of the steps; of more, neighbours are averaged."""
GUESS = 7.0
"""Nats that a blind guess among a thousand classes costs: no sound model begins far above it."""
EPOCH_AXIS = Axis("epoch", form="integer", low=None)


def percent(share: float | None) -> str:
    """An accuracy as text; empty where there is none."""
    return "" if share is None else f"{100 * share:.2f}%"


def write_run_page(folder: Path) -> None:
    """Write `report.html` into the folder of a run that is fitted: what its files tell."""
    record = read_run(folder, fitted=True)
    page.write_page(run_page(record, file_sections(record)), folder / REPORT)


def run_page(
    record: RunRecord,
    sections: Sequence[Section],
    notes: Sequence[str] = (),
    title: str | None = None,
) -> page.Page:
    """The page of a run: its numbers, then the sections given."""
    return page.Page(
        title=title or record.name,
        subtitle=subtitle(record),
        figures=key_figures(record),
        sections=sections,
        notes=[*state_notes(record), *notes],
        made_by=made_by(record),
    )


def subtitle(record: RunRecord) -> str:
    """Model, data, length and seed in a line."""
    done, planned = len(record.epochs), record.config.epochs
    whole = done == planned or record.fitted
    length = count(done, "epoch") if whole else f"{done:,} of {count(planned, 'epoch')}"
    return f"{record.model} on {record.data} · {length} · seed {record.config.seed}"


def state_notes(record: RunRecord) -> list[str]:
    """What must be known of a run that is not at its end, or of which lines are lost."""
    done, planned = len(record.epochs), count(record.config.epochs, "epoch")
    if record.result is not None:
        lasted = record.result.get("epochs", done)
        missing = f"The log is damaged: it tells {done:,} of {count(lasted, 'epoch')}."
        return [missing] if done != lasted else []
    if record.failure is not None:
        return [f"The run failed after {done:,} of {planned}: {record.failure['message']}."]
    return [] if record.fitted else [f"The run is not finished: {done:,} of {planned} done."]


def made_by(record: RunRecord) -> str:
    """The versions that made the run, and where it stands."""
    versions: Mapping[str, str] = record.environment.get("versions", {})
    known = [f"{name} {versions[name]}" for name in ("rdfia-cli", "torch") if name in versions]
    return " · ".join([*known, f"run folder {record.folder}"])


def key_figures(record: RunRecord) -> list[Figure]:
    """The numbers that a reader looks for first."""
    kept, best = record.kept, record.best
    if kept is None:
        return []
    found = [
        Figure(
            f"{split.capitalize()} accuracy",
            percent(kept[split]["accuracy"]),
            _about_score(kept[split], record.examples(split)),
        )
        for split in reversed(SPLITS)
        if split in kept
    ]
    gap = kept["train"]["accuracy"] - kept["test"]["accuracy"]
    found.insert(1, Figure("Gap", f"{100 * gap:+.2f}", "train minus test, in points"))
    if best is not None:
        about = f"validation {percent(best['validation']['accuracy'])}"
        found.append(Figure("Best epoch", str(best["epoch"]), about))
    if record.parameters is not None:
        found.append(Figure("Parameters", f"{record.parameters:,}"))
    if record.seconds is not None:
        about = str(record.environment.get("device_name") or record.environment.get("device", ""))
        found.append(Figure("Training time", console.duration(record.seconds), about))
    return found


def _about_score(score: Mapping[str, float], examples: int | None) -> str:
    """The loss, and within what the accuracy on all examples of the kind is likely to lie."""
    loss = f"loss {score['loss']:.4f}"
    if examples is None:
        return loss
    low, high = interval(score["accuracy"], examples)
    return f"{loss}; 95 % interval {low:.1%} to {high:.1%}, of {examples:,}"


def interval(share: float, examples: int) -> tuple[float, float]:
    """The 95 % interval of a share of so many examples (Wilson 1927, JASA 22, 209-212)."""
    z = statistics.NormalDist().inv_cdf(0.975)
    scale = 1 + z * z / examples
    middle = (share + z * z / (2 * examples)) / scale
    half = z * math.sqrt(share * (1 - share) / examples + (z / (2 * examples)) ** 2) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def file_sections(record: RunRecord) -> list[Section]:
    """All sections that need no model: what `report.html` in a run folder has."""
    return [*result_sections(record), *origin_sections(record)]


def result_sections(record: RunRecord) -> list[Section]:
    """What came out: curves, and the decision map of points."""
    found = [curves(record)] if record.epochs else []
    return [*found, *([decision_map(record.decision)] if record.decision else [])]


def origin_sections(record: RunRecord) -> list[Section]:
    """Where it came from: the command, the settings, the environment."""
    return [again(record), settings_section(record), environment(record)]


def curves(record: RunRecord) -> Section:
    """Accuracy, loss and learning rate by epoch, and all numbers."""
    splits = [split for split in SPLITS if any(split in line for line in record.epochs)]
    steps = step_series(record)
    charts = [
        measure_chart("Accuracy", "accuracy", [_series(record, s, "accuracy") for s in splits]),
        measure_chart("Loss", "loss", [*steps, *(_series(record, s, "loss") for s in splits)]),
    ]
    rates = [line["learning_rate"] for line in record.epochs]
    switches = [
        *(Switch(split, COLOURS[split]) for split in splits),
        *([Switch(STEPS, 0, quiet=True)] if steps else []),
    ]
    bodies = [page.charts(Group(charts, switches))]
    if len({*rates}) > 1:
        epochs = [line["epoch"] for line in record.epochs]
        # In none of the colours of the splits.
        series = Series("learning rate", epochs, rates, colour=3)
        axis = Axis("in the epoch's last step", low=0.0)
        bodies.append(
            page.charts(Group([Chart("Learning rate", EPOCH_AXIS, axis, [series])], flat=True))
        )
    bodies.append(page.fold("All numbers", page.table(_numbers(record, splits), title="Epochs")))
    return Section("curves", "Curves", page.join(*bodies), _about_scores(record, splits))


def _about_scores(record: RunRecord, splits: Sequence[str]) -> str:
    """What the curves of a run are of."""
    conditions = [
        *(["with augmentation"] if record.config.augment else []),
        *(["with label smoothing"] if record.config.label_smoothing else []),
    ]
    train = ", ".join(["while the weights move", *conditions])
    others = [split for split in splits if split != "train"]
    after = f"; {' and '.join(others)} {'is' if len(others) == 1 else 'are'} scored after the epoch"
    return f"Train is the mean over an epoch's own steps, {train}{after if others else ''}."


def measure_chart(title: str, measure: str, series: Sequence[Series]) -> Chart:
    """Curves of accuracy or loss by epoch; a loss far above the rest of its curve is cut off."""
    if measure == "accuracy":
        return Chart(title, EPOCH_AXIS, Axis("share classified rightly", form="percent"), series)
    high = _loss_ceiling(series)
    axis = Axis("cross-entropy, nats", low=None if _is_flat(series) else 0.0, high=high)
    return Chart(title, EPOCH_AXIS, axis, series)


def _is_flat(series: Sequence[Series]) -> bool:
    """Whether curves of loss fall so little that an axis from 0 on would show a line."""
    values = [value for one in series if not one.quiet for value in one.y]
    return bool(values) and min(values) > max(values) / 2


def _loss_ceiling(series: Sequence[Series]) -> float | None:
    """Where the axis of losses ends: at four times the typical loss if one leaves it far behind.

    What a curve begins with is shown, unless it is worse than any guess.
    """
    values = [value for one in series if not one.quiet for value in one.y]
    if not values:
        return None
    largest, typical = max(values), statistics.median(values)
    firsts = [one.y[0] for one in series if one.y and not one.quiet]
    begun = max((first for first in firsts if first <= GUESS), default=0.0)
    ceiling = max(4 * typical, 1.04 * begun, min(max(firsts), 8 * typical))
    return 1.04 * largest if largest <= ceiling or typical == 0 else ceiling


def _series(record: RunRecord, split: str, measure: str) -> Series:
    lines = [line for line in record.epochs if split in line]
    return Series(
        split,
        [line["epoch"] for line in lines],
        [line[split][measure] for line in lines],
        colour=COLOURS[split],
        switches=[split],
    )


def step_series(record: RunRecord) -> list[Series]:
    """The loss of single steps, if they were written down, at the epoch that they belong to."""
    lines = [line for line in record.steps if "steps_per_epoch" in line]
    if not lines:
        return []
    size = -(-len(lines) // MOST_STEPS)
    chunks = [lines[start : start + size] for start in range(0, len(lines), size)]
    x = [statistics.fmean(_epoch_of(line) for line in chunk) for chunk in chunks]
    y = [statistics.fmean(line["loss"] for line in chunk) for chunk in chunks]
    return [Series(STEPS, x, y, colour=0, switches=[STEPS], quiet=True)]


def _epoch_of(line: Line) -> float:
    """How many epochs are done after a step."""
    return line["epoch"] - 1 + line["step"] / line["steps_per_epoch"]


def _numbers(record: RunRecord, splits: Sequence[str]) -> Table:
    kept = record.kept
    heading = [
        "epoch",
        *(f"{s} {m}" for m in ("accuracy", "loss") for s in splits),
        "learning rate",
    ]
    rows: list[list[Cell | str]] = []
    for line in record.epochs:
        strong = kept is not None and line["epoch"] == kept["epoch"]
        texts = [
            str(line["epoch"]),
            *(percent(line[s]["accuracy"]) for s in splits),
            *(f"{line[s]['loss']:.4f}" for s in splits),
            f"{line['learning_rate']:.4g}",
        ]
        rows.append([Cell(text, strong=strong) for text in texts])
    return Table(heading, rows, numbers=frozenset(range(len(heading))))


def decision_map(decision: Mapping[str, Any]) -> Section:
    """The class that the model gives to each point of a plane, with the test points."""
    import numpy as np

    from rdfia_cli.report.pictures import data_uri

    axis = np.array(decision["axis"])
    probabilities = np.array(decision["probabilities"])
    names: Sequence[str] = decision["classes"]
    palette = np.array([[0, 114, 178], [213, 94, 0], [0, 138, 99], [184, 80, 143], [192, 128, 0]])
    colours = palette[np.arange(probabilities.shape[-1]) % len(palette)]
    mixed = probabilities @ colours
    alpha = np.full((*mixed.shape[:2], 1), 110)
    pixels = np.concatenate([mixed, alpha], axis=-1).round().astype(np.uint8)[::-1]
    labels, points = decision["points"]["labels"], decision["points"]["inputs"]
    step = float(axis[1] - axis[0])
    low, high = float(axis[0]) - step / 2, float(axis[-1]) + step / 2
    series = [
        Series(
            name,
            [p[0] for p, label in zip(points, labels, strict=True) if label == index],
            [p[1] for p, label in zip(points, labels, strict=True) if label == index],
            mark="dots",
            colour=index % len(palette),
            switches=[name],
            quiet=True,
        )
        for index, name in enumerate(names)
    ]
    chart = Chart(
        "The class of each point",
        Axis("first coordinate", low=low, high=high),
        Axis("second coordinate", low=low, high=high),
        series,
        picture=data_uri(np.ascontiguousarray(pixels)),
        square=True,
        about="colour by class, dots are test points",
    )
    switches = [Switch(name, index % len(palette)) for index, name in enumerate(names)]
    return Section(
        "decision",
        "Decision map",
        page.charts(Group([chart], switches)),
        "The shade mixes the classes' colours by their probabilities; dots are the test points.",
    )


def again(record: RunRecord) -> Section:
    """The command that makes the run again."""
    return Section(
        "again",
        "Run it again",
        page.join(
            page.command(command_line(record.config)),
            page.fold("config.toml", page.command(record.config.to_toml(), "config.toml")),
        ),
        _about_the_same_bytes(record),
    )


def _about_the_same_bytes(record: RunRecord) -> str:
    """What can be promised of the run that the command makes."""
    if (record.result or {}).get("engine") == "stacked":
        return (
            "The run was trained in one stack with other trials of a sweep; by itself it rounds "
            "differently, and ends with other last digits."
        )
    if not record.config.deterministic:
        return (
            "The run allowed operations that are not deterministic: the command may end with "
            "other weights."
        )
    return (
        "The same command on the same machine, device and versions ends with the same bytes of "
        "weights."
    )


def settings_section(record: RunRecord) -> Section:
    """What differs from the defaults, and all settings."""
    found = settings(record.config)
    changed = [[key, text] for key, (text, usual) in found.items() if not usual]
    every: list[list[Cell | str]] = [
        [Cell(key, strong=not usual), Cell(text, strong=not usual)]
        for key, (text, usual) in found.items()
    ]
    code = frozenset({0, 1})
    first = (
        page.table(Table(["setting", "value"], changed, code=code), title="Changed settings")
        if changed
        else page.prose("All are the defaults.")
    )
    return Section(
        "settings",
        "Settings",
        page.join(
            first,
            page.fold(
                "All settings",
                page.table(Table(["setting", "value"], every, code=code), title="All settings"),
            ),
        ),
        "What differs from rdfia train without a flag; of a component that this would not choose, "
        "from the component's own defaults.",
    )


def environment(record: RunRecord) -> Section:
    """What the run ran on."""
    rows = [[key, text] for key, text in _environment_rows(record.environment)]
    body = (
        page.table(Table(["", ""], rows), title="Environment") if rows else page.prose("Unknown.")
    )
    return Section("environment", "Environment", body)


def _environment_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in found.items():
        name = key.replace("_", " ")
        if key in ("schema", "command") or value in (None, {}, [], ""):
            continue
        if isinstance(value, dict):
            rows += [(f"{name}: {part}", str(text)) for part, text in value.items()]
        elif isinstance(value, list):
            rows.append((name, "x".join(map(str, value))))
        else:
            rows.append((name, str(value)))
    if found.get("command"):
        import shlex

        rows.append(("command as typed", shlex.join(["rdfia", *map(str, found["command"])])))
    return rows
