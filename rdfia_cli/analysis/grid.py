"""From the field of every element to that of every position, and to size, stride and padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdfia_cli.analysis.intervals import NOTHING, Bounds, Field, compress, reduce, sees_all
from rdfia_cli.analysis.measure import Measure, measure

Extents = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Grid:
    """What each position of a module's output sees, whatever the layout of its axes.

    Attributes:
        rows: (2, h, w or 1) int32 bounds of the rows that the position (y, x) sees.
        columns: (2, h or 1, w) int32 bounds of its columns.
        size: (h, w) of the output; None where its elements stand in no grid of rows and columns,
            and the bounds are those of the element in the middle.
        axes: the tensor's axes of rows and columns, or its one axis of tokens; none without a grid.
        lead: tokens that stand before the grid, such as a class token.
        image: height and width of the input.
        down, across: size, stride and padding along rows and along columns.
        smallest, largest: height and width of the smallest and of the largest field of any element.
        is_global: every position sees the whole image, through more than windows.
        mixed: an operation over whole axes stands before it.
        approximations: operations without an exact rule before it.
    """

    rows: Bounds
    columns: Bounds
    size: tuple[int, int] | None
    axes: tuple[int, ...]
    lead: int
    image: tuple[int, int]
    down: Measure
    across: Measure
    smallest: tuple[int, int]
    largest: tuple[int, int]
    is_global: bool
    mixed: bool
    approximations: frozenset[str]

    def at(self, y: int, x: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """First and last row and column that the position sees; None for none."""
        rows, columns = (
            array[:, min(y, array.shape[1] - 1), min(x, array.shape[2] - 1)]
            for array in (self.rows, self.columns)
        )
        if NOTHING in (rows[0], columns[0]):
            return None
        return (int(rows[0]), int(-rows[1])), (int(columns[0]), int(-columns[1]))


def lay_out(field: Field) -> Grid:
    """Find the rows and columns of positions in a tensor's axes.

    An axis of rows is one along which the rows that are seen vary and the columns do not. Tokens
    are such a grid written out row by row, perhaps after some that see nothing yet. What else
    varies are channels, of which a position is the union.
    """
    field = compress(field)
    rows, columns = _varying(field.rows), _varying(field.columns)
    axes = _spatial_axes(field.shape, rows, columns)
    if axes is not None and (joined := _join_channels(field, axes, rows | columns)) is not None:
        shape = (joined.shape[axes[0]], joined.shape[axes[1]])
        planes = (_plane(array, axes) for array in (joined.rows, joined.columns))
        return _grid(joined, *planes, size=shape, axes=axes)
    if axes is None and len(rows | columns) == 1:
        tokens = _unfold_tokens(field, *(rows | columns))
        if tokens is not None:
            down, across = tokens
            size = (down.shape[1], across.shape[2])
            (axis,) = rows | columns
            lead = field.shape[axis] - size[0] * size[1]
            return _grid(field, down, across, size=size, axes=(axis,), lead=lead)
    middle = (_middle(array, field.shape) for array in (field.rows, field.columns))
    return _grid(field, *middle, size=None)


def _grid(
    field: Field,
    rows: Bounds,
    columns: Bounds,
    size: tuple[int, int] | None,
    axes: tuple[int, ...] = (),
    lead: int = 0,
) -> Grid:
    source = (rows, columns) if size else (field.rows, field.columns)
    extents = [_extents(array) for array in source]
    height, width = size or (1, 1)
    return Grid(
        rows=rows,
        columns=columns,
        size=size,
        axes=axes,
        lead=lead,
        image=field.image,
        down=measure(rows, height, field.image[0]),
        across=measure(columns.transpose(0, 2, 1), width, field.image[1]),
        smallest=(int(extents[0].min()), int(extents[1].min())),
        largest=(int(extents[0].max()), int(extents[1].max())),
        is_global=field.mixed and sees_all(field),
        mixed=field.mixed,
        approximations=field.approximations,
    )


def _varying(array: Bounds) -> frozenset[int]:
    return frozenset(axis - 1 for axis in range(1, array.ndim) if array.shape[axis] > 1)


def _extents(array: Bounds) -> Extents:
    """How many rows or columns each element sees."""
    return np.maximum(1 - array[0] - array[1], 0)


def _spatial_axes(
    shape: Sequence[int], rows: frozenset[int], columns: frozenset[int]
) -> tuple[int, int] | None:
    """The axes of rows and of columns, or None where there are no two such axes."""
    down, across, both = rows - columns, columns - rows, rows & columns
    if len(down) == len(across) == 1:
        return min(down), min(across)
    if len(down) + len(across) == 1 and not both:
        # The other axis shows no difference; it stands where it stands in every layout.
        axis = min(down | across)
        other = axis + 1 if down else axis - 1
        return ((axis, other) if down else (other, axis)) if 0 < other < len(shape) else None
    if not rows | columns:
        return None
    if len(both) == 2 and not down | across and len(shape) == 4:
        first, second = sorted(both)
        return (first, second) if second == first + 1 else None
    return None


def _join_channels(field: Field, axes: tuple[int, int], varying: frozenset[int]) -> Field | None:
    """The union over all other axes, unless these are no channels.

    Where one of them counts windows, as of an attention, the union would see far more than any
    element: channels may add one step, as those of a space-to-depth do.
    """
    channels = varying - set(axes)
    if not channels:
        return field
    if 0 in channels:
        return None
    joined = reduce(field, channels)
    for each, union, axis in (
        (field.rows, joined.rows, axes[0]),
        (field.columns, joined.columns, axes[1]),
    ):
        length = union.shape[axis + 1]
        here, there = length // 2, max(length // 2 - 1, 0)
        single = _extents(_at(each, axis, min(here, each.shape[axis + 1] - 1))).max()
        middle = _at(union, axis, here)
        step = abs(middle[0] - _at(union, axis, there)[0]).max()
        if _extents(middle).max() > single + max(step, 1):
            return None
    return joined


def _at(array: Bounds, axis: int, index: int) -> Bounds:
    """The bounds at one place of an axis of the tensor."""
    return array[(slice(None),) * (axis + 1) + (index,)]


def _plane(array: Bounds, axes: tuple[int, int]) -> Bounds:
    """(2, *shape) bounds as (2, h or 1, w or 1); nothing varies along the other axes."""
    moved = np.moveaxis(array, [axis + 1 for axis in axes], [1, 2])
    return moved.reshape(moved.shape[:3])


def _middle(array: Bounds, shape: Sequence[int]) -> Bounds:
    """The bounds of the element in the middle, as a plane of one position that holds no other."""
    index = tuple(
        0 if n == 1 else size // 2 for n, size in zip(array.shape[1:], shape, strict=True)
    )
    return array[(slice(None), *index)].reshape(2, 1, 1).copy()


def _unfold_tokens(field: Field, axis: int) -> tuple[Bounds, Bounds] | None:
    """Rows and columns of tokens that stand row by row: (2, h, 1) and (2, 1, w)."""
    size = field.shape[axis]
    rows, columns = (np.broadcast_to(_flat(a), (2, size)) for a in (field.rows, field.columns))
    seeing = np.flatnonzero(rows[0] != NOTHING)
    if len(seeing) == 0 or len(seeing) < size - seeing[0]:
        return None
    rows, columns = rows[:, seeing[0] :], columns[:, seeing[0] :]
    changes = np.flatnonzero(rows[0] != rows[0, 0])
    width = int(changes[0]) if len(changes) else rows.shape[1]
    if rows.shape[1] % width:
        return None
    down, across = (a.reshape(2, -1, width) for a in (rows, columns))
    if (down != down[:, :, :1]).any() or (across != across[:, :1]).any():
        return None
    return down[:, :, :1].copy(), across[:, :1].copy()


def _flat(array: Bounds) -> Bounds:
    return array.reshape(2, -1)
