"""Bounds in another shape of as many elements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rdfia_cli.analysis.intervals import Bounds, Field, compress, everything, guard, separate


@dataclass(frozen=True)
class Group:
    """Neighbouring axes whose product is that of neighbouring axes of the other shape.

    Attributes:
        before, after: the axes of the two shapes.
        is_plain: at most one axis on each side is longer than 1.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    is_plain: bool


def groups(before: Sequence[int], after: Sequence[int]) -> Iterator[Group]:
    """Match the axes of two shapes of as many elements, in the smallest groups possible."""
    i = j = 0
    while i < len(before) or j < len(after):
        start_i, start_j = i, j
        left = right = 1
        while True:
            if i < len(before) and (left < right or i == start_i):
                left, i = left * before[i], i + 1
            elif j < len(after) and (right < left or j == start_j):
                right, j = right * after[j], j + 1
            has_both = (i > start_i or i == len(before)) and (j > start_j or j == len(after))
            if left == right and has_both:
                break
        longer = (sum(size > 1 for size in side) for side in (before[start_i:i], after[start_j:j]))
        yield Group(tuple(range(start_i, i)), tuple(range(start_j, j)), max(longer) <= 1)


def reshape(field: Field, shape: Sequence[int]) -> Field:
    """The field of a tensor with its elements in another shape, in the same order."""
    if tuple(shape) == field.shape:
        return field
    if 0 in field.shape:
        return everything(field, shape)
    found = list(groups(field.shape, shape))
    if not all(group.is_plain for group in found):
        field = separate(field)
    source, largest = field.shape, field.largest
    moved = field.map(shape, lambda a: _regroup(a, source, shape, found, largest))
    return compress(moved) if any(len(g.after) > 1 and not g.is_plain for g in found) else moved


def _regroup(
    array: Bounds,
    before: Sequence[int],
    after: Sequence[int],
    found: Sequence[Group],
    largest: int,
) -> Bounds:
    """Write out the axes of each group where one varies, and reshape."""
    source, target = [2], [2]
    for group in found:
        varies = any(array.shape[axis + 1] > 1 for axis in group.before)
        source += [before[axis] if varies else 1 for axis in group.before]
        target += [after[axis] if varies else 1 for axis in group.after]
    guard(source, largest)
    return np.broadcast_to(array, source).reshape(target)
