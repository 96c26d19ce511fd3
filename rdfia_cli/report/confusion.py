"""The picture of an evaluation: confusion matrix and accuracy of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rdfia_cli.report.colours import BLUE, VERMILION
from rdfia_cli.report.figure import drawable, styled, write_figure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

LARGEST_WITH_NUMBERS = 20


def draw_evaluation(result: Mapping[str, Any], path: Path) -> None:
    """Draw an evaluation (`rdfia.result/1` of eval) into a .png or .svg file."""
    from matplotlib.figure import Figure

    classes = len(result["classes"])
    side = min(4 + 0.28 * classes, 24)
    with styled(9):
        figure = Figure(figsize=(side * 1.6, side), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
        _draw_confusion(left, result)
        _draw_accuracies(right, result)
        # A class or run name is text, never a formula.
        title = f"{result['run']}: {result['split']} split of {result['data']}"
        figure.suptitle(drawable(title), parse_math=False)
        write_figure(figure, path)


def _draw_confusion(axes: Axes, result: Mapping[str, Any]) -> None:
    """Counts as numbers, the share of the true class as shade."""
    import numpy as np

    counts = np.array(result["confusion"])
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [drawable(entry["name"]) for entry in result["classes"]]
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=90 if max(map(len, names)) > 2 else 0, parse_math=False)
    axes.set_yticks(ticks, names, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    if len(names) > LARGEST_WITH_NUMBERS:
        return
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)


def _draw_accuracies(axes: Axes, result: Mapping[str, Any]) -> None:
    names = [drawable(entry["name"]) for entry in result["classes"]]
    accuracies = [entry["accuracy"] for entry in result["classes"]]
    mean = result[result["split"]]["accuracy"]
    axes.barh(range(len(names)), accuracies, color=BLUE)
    axes.axvline(mean, color=VERMILION, linewidth=1)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel=f"accuracy of each class; all: {mean:.4f}")
    axes.spines[["top", "right"]].set_visible(False)
