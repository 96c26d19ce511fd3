"""The picture of augmented samples: a row an example, a column a draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdfia_cli.report.figure import drawable, styled, text_width, write_figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

CELL_INCHES = 0.9
GAP = 0.06
"""Between two cells, as a share of a cell."""
ROW = 1.22
"""The height of a row with its captions of two lines, in cells."""
FILLED = 0.92
"""The share of a cell's width that a caption may take: letters on a grid of dots are wider."""
FONT_SIZE = 6
SMALLEST = 3
"""Points of a caption whose letters can still be told apart; a longer one loses its middle."""


@dataclass(frozen=True)
class Column:
    """One column of the picture.

    Attributes:
        title: what stands above it.
        images: (N, C, H, W) float32 in [0, 1]; C is 1 or 3.
        captions: what stands below each image.
    """

    title: str
    images: NDArray[np.float32]
    captions: Sequence[str]


def draw_samples(columns: Sequence[Column], path: Path) -> None:
    """Draw columns of as many images each into a .png or .svg file, every pixel a square."""
    from matplotlib.figure import Figure

    rows = len(columns[0].images)
    step = 1 + GAP
    with styled(FONT_SIZE):
        figure = Figure(figsize=(CELL_INCHES * len(columns), CELL_INCHES * ROW * rows + 0.2))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        side = max(max(column.images.shape[2:]) for column in columns)
        for x, column in enumerate(columns):
            axes.text(x * step + 0.5, -0.08, column.title, ha="center", parse_math=False)
            for y, (image, caption) in enumerate(zip(column.images, column.captions, strict=True)):
                _draw_cell(axes, image, x * step, y * ROW, side)
                text, size = fit_caption(caption)
                axes.text(
                    *(x * step + 0.5, y * ROW + 1.02, text),
                    ha="center",
                    va="top",
                    fontsize=size,
                    linespacing=1,
                    parse_math=False,
                )
        axes.set_xlim(-GAP, len(columns) * step)
        axes.set_ylim(rows * ROW + GAP, -0.25)
        write_figure(figure, path)


def fit_caption(text: str) -> tuple[str, float]:
    """A caption that is no wider than its cell, and its size in points."""
    room = CELL_INCHES * 72 * FILLED
    lines = [_shorten(drawable(line), room) for line in text.splitlines()]
    text = "\n".join(lines)
    return text, min(FONT_SIZE, FONT_SIZE * room / max(text_width(text, FONT_SIZE), 1))


def _shorten(line: str, room: float) -> str:
    """Leave out the middle of a line that is too long even in small letters."""
    kept = len(line)
    while text_width(line, SMALLEST) > room:
        kept -= 1
        line = f"{line[: kept // 2]}...{line[-(kept - kept // 2) :]}"
    return line


def _draw_cell(axes: Axes, image: NDArray[np.float32], x: float, y: float, side: int) -> None:
    """Put an image (C, H, W) into the middle of the unit square at (x, y)."""
    height, width = (size / side for size in image.shape[1:])
    left, top = x + (1 - width) / 2, y + (1 - height) / 2
    axes.imshow(
        image.transpose(1, 2, 0).clip(0, 1),
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(left, left + width, top + height, top),
        aspect="auto",
    )
