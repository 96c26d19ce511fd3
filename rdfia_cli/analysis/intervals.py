"""Which rows and columns of the input each element of a tensor depends on, and their algebra.

Bounds are kept in one form that makes every union a minimum: the lowest index, and the highest one
negated. An axis along which they do not vary has length 1, so that the field of a plain
convolutional network costs O(H + W) numbers a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bounds: TypeAlias = NDArray[np.int32]
"""(2, *shape) int32: lowest and negated highest; an axis is as long as the tensor's, or 1."""

NOTHING = 2**30
"""Both bounds of an element that does not depend on the input: its lowest exceeds its highest."""

LARGEST = 2**25
"""The most numbers in one array: 128 MB, so that an analysis stays under a gigabyte."""


class TooLargeError(Exception):
    """The intervals of a tensor need more memory than an analysis may take."""


@dataclass(frozen=True, eq=False)
class Field:
    """The part of the input that each element of a tensor depends on.

    Attributes:
        shape: the tensor's.
        rows, columns: the bounds of every element, in input pixels.
        image: height and width of the input.
        approximations: operations without an exact rule on the way here; the true field may be
            smaller than the bounds where there are any, never larger.
        mixed: an operation over a whole axis has reached across the whole image on the way here,
            as a mean or an attention does and a window does not.
        largest: the most numbers that axes may take that are written out into one.
    """

    shape: tuple[int, ...]
    rows: Bounds
    columns: Bounds
    image: tuple[int, int]
    approximations: frozenset[str] = frozenset()
    mixed: bool = False
    largest: int = LARGEST

    def map(self, shape: Sequence[int], transform: Callable[[Bounds], Bounds]) -> Field:
        """The field of a tensor of another shape, its bounds made from these."""
        return replace(
            self,
            shape=tuple(shape),
            rows=transform(self.rows),
            columns=transform(self.columns),
        )


def field_of_image(shape: Sequence[int], largest: int = LARGEST) -> Field:
    """The field of the input itself: every pixel sees its own row and column.

    Args:
        shape: (1, C, H, W), or (1, F) for points, which count as one row of F columns.
        largest: see `Field`.
    """
    height, width = (shape[-2], shape[-1]) if len(shape) > 2 else (1, shape[-1])
    rows = _identity(height, len(shape), len(shape) - 2 if len(shape) > 2 else 0)
    columns = _identity(width, len(shape), len(shape) - 1)
    return Field(tuple(shape), rows, columns, (height, width), largest=largest)


def _identity(size: int, axes: int, axis: int) -> Bounds:
    index = np.arange(size, dtype=np.int32)
    lengths = [2, *(size if position == axis else 1 for position in range(axes))]
    return np.stack([index, -index]).reshape(lengths)


def whole_image(
    shape: Sequence[int], image: tuple[int, int], approximations: Iterable[str]
) -> Field:
    """The field of a tensor whose elements may depend on everything."""
    ones = (1,) * len(shape)
    rows, columns = (np.array([0, 1 - size], dtype=np.int32).reshape(2, *ones) for size in image)
    return Field(tuple(shape), rows, columns, image, frozenset(approximations), mixed=True)


def nothing(shape: Sequence[int], image: tuple[int, int]) -> Field:
    """The field of a constant."""
    empty = np.full((2,) + (1,) * len(shape), NOTHING, dtype=np.int32)
    return Field(tuple(shape), empty, empty, image)


def union(shape: Sequence[int], fields: Iterable[Field]) -> Field:
    """What an elementwise operation of broadcast operands depends on."""
    parts = list(dict.fromkeys(fields))
    if len(parts) == 1:
        return broadcast(parts[0], shape)
    aligned = [broadcast(separate(part), shape) for part in parts]
    return Field(
        tuple(shape),
        _minimum([part.rows for part in aligned]),
        _minimum([part.columns for part in aligned]),
        parts[0].image,
        frozenset[str]().union(*(part.approximations for part in parts)),
        any(part.mixed for part in parts),
        min(part.largest for part in parts),
    )


def _minimum(arrays: Sequence[Bounds]) -> Bounds:
    result = arrays[0]
    for array in arrays[1:]:
        if not np.array_equal(result, array):
            guard(np.broadcast_shapes(result.shape, array.shape))
            result = np.minimum(result, array)
    return result


def guard(lengths: Sequence[int], largest: int = LARGEST) -> None:
    """Refuse an array that would take too much memory.

    Raises:
        TooLargeError: it would.
    """
    if int(np.prod(lengths, dtype=np.int64)) > largest:
        raise TooLargeError(f"an array of {tuple(lengths)}")


def broadcast(field: Field, shape: Sequence[int]) -> Field:
    """The field with axes of length 1 put in front, as elementwise operations do."""
    missing = len(shape) - len(field.shape)
    if missing == 0:
        return field if field.shape == tuple(shape) else replace(field, shape=tuple(shape))
    return field.map(shape, lambda a: a.reshape(2, *(1,) * missing, *a.shape[1:]))


def separate(field: Field) -> Field:
    """Make an element that sees no row see no column, and the reverse.

    Bounds of rows and of columns are kept apart; an element in a padded row has a column still.
    As long as the two vary along different axes that does no harm: a union of products is the
    product of the unions. Before fields are mixed otherwise, such elements must be emptied.
    """
    no_row, no_column = field.rows[:1] == NOTHING, field.columns[:1] == NOTHING
    if not (no_row.any() or no_column.any()):
        return field
    if no_row.shape == no_column.shape and np.array_equal(no_row, no_column):
        return field
    empty = no_row | no_column
    guard(empty.shape)
    blank = np.int32(NOTHING)
    rows, columns = (np.where(empty, blank, a) for a in (field.rows, field.columns))
    return replace(field, rows=rows, columns=columns)


def positions(field: Field, axes: Iterable[int]) -> tuple[int, ...]:
    """Axes counted from the front, each once."""
    count = len(field.shape)
    return tuple(sorted({axis % count for axis in axes})) if count else ()


def reduce(field: Field, axes: Iterable[int]) -> Field:
    """Join all elements along some axes, which are kept with length 1."""
    chosen = positions(field, axes)
    shape = [1 if axis in chosen else size for axis, size in enumerate(field.shape)]
    return _note_mixing(field, _join(separate(field), chosen, shape))


def share(field: Field, axes: Iterable[int]) -> Field:
    """Let each element see what any other along some axes sees, as softmax and norms do."""
    return replace(reduce(field, axes), shape=field.shape)


def drop(field: Field, axes: Iterable[int], shape: Sequence[int]) -> Field:
    """Join all elements along some axes, which then go or stay as a shape says."""
    chosen = positions(field, axes)
    joined = reduce(field, chosen)
    if len(shape) == len(joined.shape):
        return replace(joined, shape=tuple(shape))
    gone = tuple(axis + 1 for axis in chosen)
    return joined.map(shape, lambda a: np.squeeze(a, gone))


def _join(field: Field, axes: Sequence[int], shape: Sequence[int]) -> Field:
    chosen = tuple(axis + 1 for axis in axes)

    def lowest(array: Bounds) -> Bounds:
        varying = tuple(axis for axis in chosen if array.shape[axis] > 1)
        return array.min(axis=varying, keepdims=True) if varying else array

    return field.map(shape, lowest)


def _note_mixing(before: Field, after: Field) -> Field:
    """Remember where a reduction first reaches across the whole image."""
    if after.mixed or not sees_all(after) or sees_all(before):
        return after
    return replace(after, mixed=True)


def sees_all(field: Field) -> bool:
    """Whether every element depends on the first and the last row and column."""
    height, width = field.image
    return all(
        bool((array[0] == 0).all() and (array[1] == 1 - size).all())
        for array, size in ((field.rows, height), (field.columns, width))
    )


def everything(field: Field, shape: Sequence[int]) -> Field:
    """The field of a tensor each element of which may depend on every element of another."""
    joined = reduce(field, range(len(field.shape)))
    return joined.map(shape, lambda a: a.reshape(2, *(1,) * len(shape)))


def compress(field: Field) -> Field:
    """Shorten the axes along which nothing varies."""
    return field.map(field.shape, _compress_bounds)


def _compress_bounds(array: Bounds) -> Bounds:
    for axis in range(1, array.ndim):
        if array.shape[axis] > 1:
            every = (slice(None),) * axis
            first = array[(*every, slice(0, 1))]
            # Most axes that vary do so at once.
            if (array[(*every, slice(1, 2))] == first).all() and (array == first).all():
                array = first
    return array


def spread(array: Bounds, axis: int, size: int) -> Bounds:
    """Write out one axis of an array: (2, ..., 1, ...) becomes (2, ..., size, ...)."""
    if array.shape[axis + 1] == size:
        return array
    lengths = list(array.shape)
    lengths[axis + 1] = size
    return np.broadcast_to(array, lengths)


def spread_all(field: Field) -> tuple[Bounds, Bounds]:
    """The bounds of every single element: rows and columns, each (2, *shape)."""
    guard((2, *field.shape))
    rows, columns = (np.broadcast_to(a, (2, *field.shape)) for a in (field.rows, field.columns))
    return rows, columns


def index_axis(array: Bounds, axis: int, index: Any) -> Bounds:
    """Pick from one axis of bounds; where nothing varies along it, nothing changes.

    Args:
        array: bounds.
        axis: of the tensor.
        index: an integer array or a slice.
    """
    if array.shape[axis + 1] == 1:
        return array
    return array[(slice(None),) * (axis + 1) + (index,)]
