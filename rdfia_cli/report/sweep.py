"""The pictures of a sweep: the curves of its trials, and each setting against the accuracy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rdfia_cli import run
from rdfia_cli.ranking import rank
from rdfia_cli.report.figure import drawable, label_decades, margins, styled, write_figure
from rdfia_cli.spec import brief, typed_value, value_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

CURVES, SETTINGS, MAP = "curves.png", "settings.png", "map.png"
PANEL_INCHES = (5.0, 4.0)
MOST_COLUMNS = 3
LONGEST_LABEL = 28
BEST_COLOUR, FAILED_COLOUR, POINT_COLOUR = "#D55E00", "#999999", "#0072B2"
KEY_INCHES = 0.8
RANK = "rank"
SCALE = "viridis"
"""Even in lightness, so that it holds in grey and for the colour-blind."""


def draw_sweep(folder: Path) -> list[Path]:
    """Draw what a sweep's folder tells; returns the files that were written.

    `curves.png` has the curves of all trials, `settings.png` each setting that varied against the
    accuracy on validation, and `map.png` the accuracy over two settings where exactly two varied.
    """
    content = json.loads((folder / "sweep.json").read_bytes())
    finished = [
        t
        for t in content["trials"]
        if t["state"] == "finished" and t["validation_accuracy"] is not None
    ]
    varied = [d for d in content["space"] if len({str(_value(t, d)) for t in finished}) > 1]
    with styled(10):
        figures = {CURVES: _draw_curves(content, varied)}
        if finished and varied:
            figures[SETTINGS] = _draw_settings(content, finished, varied)
        if finished and len(varied) == 2:
            figures[MAP] = _draw_map(finished, varied)
        for name, figure in figures.items():
            write_figure(figure, folder / name)
    return [folder / name for name in figures]


def _value(trial: Mapping[str, Any], dimension: Mapping[str, Any]) -> Any:
    return trial["parameters"].get(dimension["key"])


def _draw_curves(content: Mapping[str, Any], varied: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy and loss on validation by epoch, the best in front; a key tells the colours."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    best = content["best"]["number"] if content["best"] else None
    word, norm, told = _key_of_colours(content["trials"], varied)
    # Of ranks the first is the brightest.
    colours = colormaps[f"{SCALE}_r" if word == RANK else SCALE]
    width, height = 2 * PANEL_INCHES[0], PANEL_INCHES[1]
    figure = Figure(figsize=(width, height))
    room = margins(width, height)
    if len(told) > 1:
        room["right"] -= KEY_INCHES / width
    left, right = figure.subplots(1, 2, gridspec_kw=room)
    for trial in content["trials"]:
        lines = _epochs(trial["run"])
        epochs = [line["epoch"] for line in lines]
        chosen = trial["number"] == best
        value = told.get(trial["number"])
        usual = FAILED_COLOUR if value is None else colours(norm(value))
        colour = BEST_COLOUR if chosen else usual
        style = {"color": colour, "linewidth": 2 if chosen else 0.9, "alpha": 1 if chosen else 0.6}
        style["zorder"] = 3 if chosen else 2
        label = drawable(f"best: {_settings_text(trial)}") if chosen else None
        marker = "o" if len(epochs) == 1 else None
        for axes, measure in ((left, "accuracy"), (right, "loss")):
            values = [line["validation"][measure] for line in lines]
            axes.plot(epochs, values, label=label, marker=marker, **style)
    left.set(xlabel="epoch", ylabel="accuracy on validation")
    right.set(xlabel="epoch", ylabel="cross-entropy on validation (nats)")
    _limit_losses(right)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _clean(axes)
    if len(told) > 1:
        _draw_key(figure, room, word, ScalarMappable(norm, colours))
    if best is not None:
        for text in left.legend(frameon=False, loc="lower right").get_texts():
            text.set_parse_math(False)
    return figure


def _draw_key(figure: Figure, room: Mapping[str, float], word: str, scale: ScalarMappable) -> None:
    """Draw what the colours tell into the room to the right of the panels."""
    from matplotlib.colors import LogNorm

    width = 0.12 / figure.get_figwidth()
    height = room["top"] - room["bottom"]
    axes = figure.add_axes((room["right"] + width, room["bottom"], width, height))
    figure.colorbar(scale, cax=axes)
    axes.set_ylabel(drawable(word), parse_math=False)
    if isinstance(scale.norm, LogNorm):
        label_decades(axes.yaxis)


def _key_of_colours(
    trials: Sequence[Mapping[str, Any]], varied: Sequence[Mapping[str, Any]]
) -> tuple[str, Normalize, dict[int, float]]:
    """What the colours of curves tell, on which scale, and of each trial: nothing of some.

    It is the value of the only setting that varied where that is a range, else the rank.
    """
    from matplotlib.colors import LogNorm, Normalize

    if len(varied) == 1 and "values" not in varied[0]:
        (dimension,) = varied
        known = ((trial["number"], _value(trial, dimension)) for trial in trials)
        values = {number: float(value) for number, value in known if value is not None}
        norm = LogNorm if dimension.get("log") else Normalize
        return dimension["key"], norm(min(values.values()), max(values.values())), values
    ranks = {trial["number"]: float(place) for place, trial in enumerate(rank(trials), 1)}
    return RANK, Normalize(1, max(len(ranks), 2)), ranks


def _limit_losses(axes: Axes) -> None:
    """Leave out of sight what diverging trials reach."""
    import numpy as np

    ends = [np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()]
    values = np.concatenate([end for end in ends if end.size] or [np.ones(1)])
    usual = float(np.percentile(values, 90))
    axes.set_ylim(0, min(float(values.max()), 2 * usual) * 1.05 or 1)


def _epochs(folder: str) -> list[dict[str, Any]]:
    from pathlib import Path

    try:
        lines = run.read_lines(Path(folder) / run.METRICS)
    except ValueError:  # damage to one trial's log costs its own curve
        return []
    return [line for line in lines if "validation" in line]


def _settings_text(trial: Mapping[str, Any]) -> str:
    parts = [f"{key.rpartition('.')[2]}={_label(v)}" for key, v in trial["parameters"].items()]
    return ", ".join(parts)


def _label(value: Any) -> str:
    text = brief(value)
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"


def _draw_settings(
    content: Mapping[str, Any],
    finished: Sequence[Mapping[str, Any]],
    varied: Sequence[Mapping[str, Any]],
) -> Figure:
    from matplotlib.figure import Figure

    columns = min(len(varied), MOST_COLUMNS)
    rows = -(-len(varied) // columns)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axes, dimension in zip(panels, varied, strict=False):
        _draw_setting(axes, dimension, finished, content["best"])
    for axes in panels[len(varied) :]:
        axes.set_visible(False)
    panels[0].set_ylabel("accuracy on validation")
    # Outside, where its dot is not taken for a trial.
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", frameon=False)
    return figure


def _draw_setting(
    axes: Axes,
    dimension: Mapping[str, Any],
    finished: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any] | None,
) -> None:
    places = _places(axes.set_xticks, dimension, finished)
    if dimension.get("log"):
        axes.set_xscale("log")
    _mark_integers(axes.xaxis, dimension)
    accuracies = [trial["validation_accuracy"] for trial in finished]
    axes.scatter(places, accuracies, s=22, color=POINT_COLOUR, alpha=0.6, linewidths=0)
    if best is not None:
        at = next(i for i, trial in enumerate(finished) if trial["number"] == best["number"])
        axes.scatter(places[at], accuracies[at], s=48, color=BEST_COLOUR, zorder=3, label="best")
    axes.set_xlabel(drawable(dimension["key"]), parse_math=False)
    if dimension.get("log"):
        label_decades(axes.xaxis)
    _clean(axes)


def _places(
    set_ticks: Any, dimension: Mapping[str, Any], finished: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Where trials stand along a setting: at its number, or at the place of its name."""
    values = [_value(trial, dimension) for trial in finished]
    if "values" not in dimension:
        return [float(value) for value in values]
    names = dimension["values"]
    set_ticks(
        range(len(names)),
        [drawable(_label(name)) for name in names],
        rotation=30 if max(map(len, names)) > 8 else 0,
        ha="right" if max(map(len, names)) > 8 else "center",
        parse_math=False,
    )
    # Both by their value: `1e-3` was written, and 0.001 was kept.
    listed = [value_text(typed_value(name)) for name in names]
    return [float(listed.index(value_text(value))) for value in values]


def _draw_map(finished: Sequence[Mapping[str, Any]], varied: Sequence[Mapping[str, Any]]) -> Figure:
    """The accuracy over two settings: a cell each where both are listed, else a dot each."""
    from matplotlib.figure import Figure

    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * 1.25, height), layout="constrained")
    axes = figure.subplots()
    across, up = varied
    # First of all, since another scale forgets the ticks.
    axes.set(
        xscale="log" if across.get("log") else "linear", yscale="log" if up.get("log") else "linear"
    )
    x = _places(axes.set_xticks, across, finished)
    y = _places(axes.set_yticks, up, finished)
    accuracies = [trial["validation_accuracy"] for trial in finished]
    if "values" in across and "values" in up:
        drawn = axes.pcolormesh(*_cells(across, up, x, y, accuracies), cmap=SCALE)
    else:
        drawn = axes.scatter(
            x, y, c=accuracies, s=60, cmap=SCALE, edgecolors="black", linewidths=0.4
        )
    _mark_integers(axes.xaxis, across)
    _mark_integers(axes.yaxis, up)
    figure.colorbar(drawn, label="accuracy on validation")
    axes.set_xlabel(drawable(across["key"]), parse_math=False)
    axes.set_ylabel(drawable(up["key"]), parse_math=False)
    for axis, dimension in ((axes.xaxis, across), (axes.yaxis, up)):
        if dimension.get("log"):
            label_decades(axis)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _cells(
    across: Mapping[str, Any],
    up: Mapping[str, Any],
    x: Sequence[float],
    y: Sequence[float],
    accuracies: Sequence[float],
) -> tuple[Any, Any, Any]:
    """Edges of the cells, and the mean accuracy of the trials in each; NaN where there is none."""
    import numpy as np

    total = np.zeros((len(up["values"]), len(across["values"])))
    counts = np.zeros_like(total)
    for column, row, accuracy in zip(x, y, accuracies, strict=True):
        total[int(row), int(column)] += accuracy
        counts[int(row), int(column)] += 1
    with np.errstate(invalid="ignore"):
        means = total / counts
    return np.arange(total.shape[1] + 1) - 0.5, np.arange(total.shape[0] + 1) - 0.5, means


def _mark_integers(axis: Axis, dimension: Mapping[str, Any]) -> None:
    """Keep marks off places that a range of integers has not."""
    from matplotlib.ticker import MaxNLocator

    if dimension.get("whole") and not dimension.get("log"):
        axis.set_major_locator(MaxNLocator(integer=True))


def _clean(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
