"""A comparison of models: the table, and the picture of accuracy and of what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rdfia_cli.report.colours import BLACK, CURVES
from rdfia_cli.report.figure import drawable, styled, write_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

HEADING = ("model", "accuracy", "parameters", "MACs", "images/s", "seconds")
COLOURS = (*CURVES, BLACK)
MARKERS = "osD^vP*"


def table(content: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The heading and a row a model, as text; the spread is the deviation over the seeds."""
    return [HEADING, *(_row(entry) for entry in content["models"])]


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    mean, std = entry["accuracy"]["mean"], entry["accuracy"]["std"]
    if mean is None:
        return (
            entry["model"],
            "diverged" if entry["failed"] else "unfinished",
            f"{entry['parameters']:,}",
            f"{entry['macs']:,}",
            "",
            "",
        )
    spread = f" ± {std:.4f}" if std is not None else ""
    lacking = {"diverged": entry["failed"], "unfinished": entry["unfinished"]}
    others = [f", {number} {state}" for state, number in lacking.items() if number]
    return (
        entry["model"],
        f"{mean:.4f}{spread}{''.join(others)}",
        f"{entry['parameters']:,}",
        f"{entry['macs']:,}",
        f"{entry['images_per_second']:,.0f}",
        f"{entry['seconds']:.1f}",
    )


def draw_comparison(content: Mapping[str, Any], path: Path) -> None:
    """Draw a comparison (`rdfia.comparison/1`) into a .png or .svg file.

    Left a dot a seed with the mean; right the mean against the arithmetic of one image.
    """
    from matplotlib.figure import Figure

    entries = [entry for entry in content["models"] if entry["accuracy"]["values"]]
    with styled(9):
        figure = Figure(figsize=(10, 1.2 + 0.45 * max(len(entries), 5)), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_accuracies(left, entries)
        _draw_cost(right, entries)
        seeds = ", ".join(map(str, content["seeds"]))
        title = drawable(f"test accuracy on {content['data']}, seeds {seeds}")
        figure.suptitle(title, parse_math=False)
        write_figure(figure, path)


def _draw_accuracies(axes: Axes, entries: Sequence[Mapping[str, Any]]) -> None:
    for row, entry in enumerate(entries):
        values, mean = entry["accuracy"]["values"], entry["accuracy"]["mean"]
        colour = COLOURS[row % len(COLOURS)]
        axes.plot(values, [row] * len(values), "o", color=colour, alpha=0.5)
        axes.plot([mean, mean], [row - 0.3, row + 0.3], color=colour, linewidth=2)
    names = [drawable(entry["model"]) for entry in entries]
    axes.set_yticks(range(len(entries)), names, parse_math=False)
    axes.set_ylim(max(len(entries), 1) - 0.5, -0.5)
    axes.set_xlabel("accuracy of each seed, and their mean")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_cost(axes: Axes, entries: Sequence[Mapping[str, Any]]) -> None:
    for row, entry in enumerate(entries):
        accuracy = entry["accuracy"]
        axes.errorbar(
            entry["macs"],
            accuracy["mean"],
            yerr=accuracy["std"] or 0,
            fmt=MARKERS[row % len(MARKERS)],
            color=COLOURS[row % len(COLOURS)],
            capsize=3,
            label=drawable(f"{entry['model']}: {entry['parameters']:,} parameters"),
        )
    axes.set(xscale="log", xlabel="multiply-accumulates an image", ylabel="mean accuracy")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if entries:
        legend = axes.legend(frameon=False, fontsize="small")
        for text in legend.get_texts():
            text.set_parse_math(False)
