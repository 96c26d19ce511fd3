"""The picture of a Vision Transformer's attention: where it looks, and what its positions know."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdfia_cli.report.figure import drawable, styled, write_figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure
    from numpy.typing import NDArray

CELL_INCHES = 1.1


@dataclass(frozen=True)
class AttentionPicture:
    """What is drawn.

    Attributes:
        title: what stands above all.
        captions: what stands beside each image.
        images: (N, C, H, W) float32 in [0, 1]; but for 1 or 3 channels their mean is shown.
        heads: (N, heads, rows, columns), the last block's attention.
        rollout: (N, rows, columns), the attention through all blocks.
        positions: (rows, columns, rows, columns), similarities in [-1, 1], or None.
    """

    title: str
    captions: Sequence[str]
    images: NDArray[np.float32]
    heads: NDArray[np.float32]
    rollout: NDArray[np.float32]
    positions: NDArray[np.float32] | None


def draw_attention(content: AttentionPicture, path: Path) -> None:
    """Draw attention into a .png or .svg file: a row an image, a column a head, then the rollout.

    All maps have one scale, on which 1 is a look at all patches alike. Below stands the similarity
    of positions: the small map at a patch's place says how alike its position is to each other's.
    """
    from matplotlib.figure import Figure

    rows, heads = content.heads.shape[:2]
    columns = heads + 2
    below = 0.0 if content.positions is None else CELL_INCHES * min(columns, 5)
    above = CELL_INCHES * rows + 0.5
    with styled(7):
        figure = Figure(figsize=(CELL_INCHES * columns, above + below), layout="constrained")
        figure.suptitle(drawable(content.title), parse_math=False)
        ratios = [above, below] if below else [above]
        parts = figure.subfigures(len(ratios), 1, height_ratios=ratios, squeeze=False)[:, 0]
        _draw_maps(parts[0], content)
        if content.positions is not None:
            _draw_positions(parts[1].subplots(), content.positions)
        write_figure(figure, path)


def _draw_maps(figure: SubFigure, content: AttentionPicture) -> None:
    import numpy as np

    rows, heads = content.heads.shape[:2]
    grid = figure.subplots(rows, heads + 2, squeeze=False)
    titles = ["image", *(f"head {head}" for head in range(1, heads + 1)), "rollout"]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    maps = np.concatenate([content.heads, content.rollout[:, None]], axis=1)
    maps = maps * math.prod(maps.shape[2:])
    # A few patches may draw far more than all others, which would then look alike.
    brightest = max(float(np.quantile(maps, 0.99)), 1.0)
    shown = None
    for row, caption in enumerate(content.captions):
        grid[row, 0].set_ylabel(drawable(caption), parse_math=False)
        _draw_image(grid[row, 0], content.images[row])
        for axes, seen in zip(grid[row, 1:], maps[row], strict=True):
            shown = axes.imshow(seen, cmap="inferno", vmin=0, vmax=brightest)
            axes.set(xticks=[], yticks=[])
    if shown is not None:
        beyond = "max" if maps.max() > brightest else "neither"
        bar = figure.colorbar(shown, ax=grid, extend=beyond, aspect=40, fraction=0.03, pad=0.01)
        bar.set_label("attention; 1: as much as to any other patch")


def _draw_image(axes: Axes, image: NDArray[np.float32]) -> None:
    if len(image) not in (1, 3):
        image = image.mean(0, keepdims=True)
    axes.imshow(image.transpose(1, 2, 0).clip(0, 1), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])


def _draw_positions(axes: Axes, positions: NDArray[np.float32]) -> None:
    shown = axes.imshow(lay_out_positions(positions), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set(xticks=[], yticks=[], title="how alike the positions of the patches are")
    bar = axes.figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.set_label("cosine similarity")


def lay_out_positions(positions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every patch's map of similarities in its place, with a gap of NaN between two.

    Args:
        positions: (rows, columns, rows, columns).

    Returns:
        (height, width) of all maps beside one another.
    """
    import numpy as np

    height, width = positions.shape[:2]
    gap = max(1, min(height, width) // 7)
    tall, wide = height + gap, width + gap
    canvas = np.full((height * tall - gap, width * wide - gap), np.nan, np.float32)
    for row, column in np.ndindex(height, width):
        top, left = row * tall, column * wide
        canvas[top : top + height, left : left + width] = positions[row, column]
    return canvas
