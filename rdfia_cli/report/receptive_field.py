"""Pictures of receptive fields: boxes on an image, growth with depth, gradients in their box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rdfia_cli.report.colours import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from rdfia_cli.report.figure import drawable, styled, write_figure

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

INCHES = 2.6
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION)
"""Those of the boxes, from the first layer to the last."""


@dataclass(frozen=True)
class Box:
    """A field on the image.

    Attributes:
        name: the layer's.
        rows, columns: the first and the last that are seen; beyond the image where it is padding.
    """

    name: str
    rows: tuple[float, float]
    columns: tuple[float, float]


@dataclass(frozen=True)
class Depth:
    """One layer of the curve of growth.

    Attributes:
        name: the layer's.
        size: the field's larger side in pixels.
        is_global: it sees everything, however large the image.
    """

    name: str
    size: int
    is_global: bool


@dataclass(frozen=True)
class Heat:
    """Where the gradient of a unit lies.

    Attributes:
        title: what stands above it.
        mass: (H, W) float32, not negative.
        box: the theoretical field.
    """

    title: str
    mass: NDArray[np.float32]
    box: Box


@dataclass(frozen=True)
class Picture:
    """Everything on one page.

    Attributes:
        title: the model and its input.
        image: (C, H, W) float32 in [0, 1]; C is 1 or 3.
        boxes: at most as many as there are colours.
        growth: the layers in the order of their calls.
        heats: maps of the effective field, none where it was not measured.
    """

    title: str
    image: NDArray[np.float32]
    boxes: Sequence[Box]
    growth: Sequence[Depth]
    heats: Sequence[Heat]


def draw_fields(picture: Picture, path: Path) -> None:
    """Draw a page into a .png or .svg file."""
    from matplotlib.figure import Figure

    columns = 4
    rows = -(-len(picture.heats) // columns)
    with styled(7):
        size = (INCHES * columns, INCHES * (1.25 + rows))
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(drawable(picture.title), parse_math=False)
        grid = figure.add_gridspec(1 + rows, columns, height_ratios=[1.25] + [1.0] * rows)
        _draw_boxes(figure.add_subplot(grid[0, :2]), picture)
        _draw_growth(figure.add_subplot(grid[0, 2:]), picture.growth)
        for number, heat in enumerate(picture.heats):
            place = grid[1 + number // columns, number % columns]
            _draw_heat(figure.add_subplot(place), heat)
        write_figure(figure, path)


def _draw_boxes(axes: Axes, picture: Picture) -> None:
    image = picture.image.transpose(1, 2, 0).clip(0, 1)
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for box, colour in zip(picture.boxes, COLOURS, strict=False):
        _outline(axes, box, colour)
    height, width = image.shape[:2]
    _frame(axes, picture.boxes, height, width)
    axes.set_title("what the middle of a layer sees")
    if picture.boxes:
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _frame(axes: Axes, boxes: Sequence[Box], height: int, width: int) -> None:
    """Show the image and what the boxes reach around it, up to twice its size."""
    top = min([0.0, *(max(box.rows[0], -2 * height) for box in boxes)])
    bottom = max([height - 1.0, *(min(box.rows[1], 3 * height) for box in boxes)])
    left = min([0.0, *(max(box.columns[0], -2 * width) for box in boxes)])
    right = max([width - 1.0, *(min(box.columns[1], 3 * width) for box in boxes)])
    gap = 0.02 * max(height, width)
    axes.set_xlim(left - 0.5 - gap, right + 0.5 + gap)
    axes.set_ylim(bottom + 0.5 + gap, top - 0.5 - gap)


def _outline(axes: Axes, box: Box, colour: str) -> None:
    from matplotlib.patches import Rectangle

    (top, bottom), (left, right) = box.rows, box.columns
    corner = (left - 0.5, top - 0.5)
    size: dict[str, Any] = {"width": right - left + 1, "height": bottom - top + 1}
    shape = Rectangle(
        corner, **size, fill=False, color=colour, linewidth=1.4, label=drawable(box.name)
    )
    axes.add_patch(shape)


def _draw_growth(axes: Axes, growth: Sequence[Depth]) -> None:
    for is_global, colour, label in (
        (False, BLUE, "one size everywhere"),
        (True, VERMILION, "global"),
    ):
        places = [i for i, layer in enumerate(growth) if layer.is_global == is_global]
        if places:
            sizes = [growth[i].size for i in places]
            axes.plot(places, sizes, ".", markersize=3, color=colour, label=label)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("layer, in the order of the calls")
    axes.set_ylabel("pixels")
    axes.set_title("growth with depth")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _draw_heat(axes: Axes, heat: Heat) -> None:
    import numpy as np

    # The root shows the tail, which holds most of the area and little of the mass.
    axes.imshow(np.sqrt(heat.mass), cmap="magma", interpolation="nearest")
    _outline(axes, heat.box, SKY)
    _frame(axes, (), *heat.mass.shape)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(drawable(heat.title), parse_math=False)
