"""The curves of a run, drawn from the files in its folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rdfia_cli import run
from rdfia_cli.report.colours import BLUE, CURVES, GREEN, VERMILION, YELLOW
from rdfia_cli.report.figure import PICTURES, drawable, margins, styled, write_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPLITS = ("train", "validation", "test")
COLOURS: Mapping[str, str] = {"train": BLUE, "validation": GREEN, "test": VERMILION}
CLASS_COLOURS = (*CURVES, YELLOW)
PANEL_INCHES = (5.0, 4.0)


def draw_run(folder: Path) -> None:
    """Write `curves.png` and `curves.svg`: accuracy, loss, and for 2-D points the decision map."""
    epochs = [line for line in run.read_lines(folder / run.METRICS) if "step" not in line]
    map_file = folder / run.DECISION_MAP
    decision = json.loads(map_file.read_bytes()) if map_file.exists() else None
    with styled(10):
        figure = _draw(epochs, decision)
        for ending in PICTURES:
            write_figure(figure, folder / f"curves{ending}")


def _draw(epochs: Sequence[Mapping[str, Any]], decision: Mapping[str, Any] | None) -> Figure:
    from matplotlib.figure import Figure

    panels = 2 if decision is None else 3
    width, height = PANEL_INCHES
    figure = Figure(figsize=(panels * width, height))
    axes: Sequence[Axes] = figure.subplots(1, panels, gridspec_kw=margins(panels * width, height))
    _draw_measure(axes[0], epochs, "accuracy", "accuracy")
    _draw_measure(axes[1], epochs, "loss", "cross-entropy (nats)")
    axes[1].set_ylim(bottom=0)
    if decision is not None:
        _draw_decision(axes[2], decision)
    return figure


def _draw_measure(
    axes: Axes, epochs: Sequence[Mapping[str, Any]], measure: str, label: str
) -> None:
    from matplotlib.ticker import MaxNLocator

    marker = "o" if len(epochs) == 1 else None
    for split in SPLITS:
        points = [(line["epoch"], line[split][measure]) for line in epochs if split in line]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, label=split, color=COLOURS[split], marker=marker)
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _draw_decision(axes: Axes, decision: Mapping[str, Any]) -> None:
    """The probability of the likeliest class as shade, its class as colour, test points on top."""
    import numpy as np
    from matplotlib.colors import to_rgb

    axis, probabilities = np.array(decision["axis"]), np.array(decision["probabilities"])
    labels = np.array(decision["points"]["labels"])
    points = np.array(decision["points"]["inputs"])
    count = probabilities.shape[-1]
    colours = np.array([to_rgb(CLASS_COLOURS[i % len(CLASS_COLOURS)]) for i in range(count)])
    mixed = probabilities @ colours
    step = axis[1] - axis[0]
    low, high = axis[0] - step / 2, axis[-1] + step / 2
    axes.imshow(mixed * 0.55 + 0.45, origin="lower", extent=(low, high, low, high))
    for label in range(count):
        others = np.delete(probabilities, label, axis=-1).max(-1)
        lead = probabilities[..., label] - others
        if lead.min() < 0 < lead.max():
            axes.contour(axis, axis, lead, levels=[0], colors="black", linewidths=0.8)
    handles = [
        axes.scatter(
            *points[labels == label].T,
            s=12,
            color=colours[label],
            edgecolors="white",
            linewidths=0.5,
        )
        for label in range(count)
    ]
    axes.set(xlim=(low, high), ylim=(low, high), xlabel="decision map and test points")
    legend = axes.legend(handles, [str(label) for label in range(count)], loc="upper right")
    for text, name in zip(legend.get_texts(), decision["classes"], strict=True):
        # Set afterwards: a name is text, never a formula, and shown though it begins with "_".
        text.set(text=drawable(name), parse_math=False)
