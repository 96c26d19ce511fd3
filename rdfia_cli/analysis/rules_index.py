"""Rules of operations that pick elements by tensors of indices, whose numbers may not be known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rdfia_cli.analysis.intervals import (
    Bounds,
    Field,
    compress,
    drop,
    guard,
    index_axis,
    reduce,
    separate,
    union,
)
from rdfia_cli.analysis.operation import Operation, Rule, UnknownError


def _index(operation: Operation) -> Field:
    """Picking by tensors of indices, whose numbers may not be known on the meta device."""
    field, indices = operation.input, operation.arguments["indices"]
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    numbers = [operation.numbers(index) if index is not None else None for index in indices]
    if all(numbers[axis] is not None for axis in axes):
        return _pick_known(field, numbers, operation.shape)
    picked = _note_unknown(field, axes, operation)
    kept = [axis for axis in range(len(field.shape)) if axis not in axes]
    rank = max(indices[axis].ndim for axis in axes)
    adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
    before = sum(axis < axes[0] for axis in kept) if adjacent else 0

    def place(array: Bounds) -> Bounds:
        lengths = [array.shape[axis + 1] for axis in kept]
        flat = np.squeeze(array, tuple(axis + 1 for axis in axes))
        return flat.reshape(2, *lengths[:before], *(1,) * rank, *lengths[before:])

    found = picked.map(operation.shape, place)
    chosen_by = [f for axis in axes if (f := operation.fields(indices[axis]))]
    if not chosen_by:
        return found
    lead = len(operation.shape) - before - rank
    wide = [
        f.map((*f.shape, *(1,) * lead), lambda a: a.reshape(*a.shape, *(1,) * lead))
        for f in chosen_by
    ]
    return union(operation.shape, [found, *wide])


def _pick_known(field: Field, indices: Sequence[Tensor | None], shape: Sequence[int]) -> Field:
    """Picking by indices of known numbers; None stands for a whole axis."""
    found = torch.broadcast_tensors(*(index for index in indices if index is not None))
    if found[0].dtype == torch.bool or not found[0].ndim:
        raise UnknownError
    numbers = iter(index.numpy() for index in found)
    places = [None if index is None else next(numbers) for index in indices]

    def pick(array: Bounds) -> Bounds:
        chosen = tuple(
            slice(None) if place is None else place * (array.shape[axis + 1] > 1)
            for axis, place in enumerate(places)
        )
        guard((2, found[0].numel(), *array.shape[len(places) + 1 :]))
        return np.stack([plane[chosen] for plane in array])

    return compress(separate(field).map(shape, pick))


def _note_unknown(field: Field, axes: Sequence[int], operation: Operation) -> Field:
    """Join the axes from which unknown elements are picked; inexact only where they differ."""
    joined = reduce(field, axes)
    same = joined.rows.shape == field.rows.shape and joined.columns.shape == field.columns.shape
    if same:
        return joined
    names = field.approximations | {operation.name}
    return replace(joined, approximations=names)


def _index_select(operation: Operation) -> Field:
    axis, field = operation.axis(), operation.input
    numbers = operation.numbers(operation.arguments["index"])
    if numbers is not None:
        chosen = numbers.reshape(-1).numpy()
        return field.map(operation.shape, lambda a: index_axis(a, axis, chosen))
    joined = _note_unknown(field, [axis], operation)
    parts = [replace(joined, shape=operation.shape)]
    if (index := operation.field("index")) is not None:
        lengths = [-1 if i == axis else 1 for i in range(len(operation.shape))]
        shape = [size if i == axis else 1 for i, size in enumerate(operation.shape)]
        parts.append(index.map(shape, lambda a: a.reshape(2, *lengths)))
    return union(operation.shape, parts)


def _gather(operation: Operation) -> Field:
    numbers = operation.numbers(operation.arguments["index"])
    if numbers is not None:
        return _gather_known(operation.input, numbers, operation.axis())
    joined = _note_unknown(operation.input, [operation.axis()], operation)
    index = operation.field("index")
    parts = [replace(joined, shape=operation.shape), *([index] if index else [])]
    return union(operation.shape, parts)


def _gather_known(field: Field, numbers: Tensor, axis: int) -> Field:
    """Picking along one axis by an index of known numbers for each element."""
    shape = tuple(numbers.shape)
    guard((2, *shape))
    within = tuple(slice(None) if i == axis else slice(size) for i, size in enumerate(shape))
    index = numbers.numpy()[None]

    def gather(array: Bounds) -> Bounds:
        whole = np.broadcast_to(array, (2, *field.shape))[(slice(None), *within)]
        return np.take_along_axis(whole, index, axis + 1)

    return compress(separate(field).map(shape, gather))


def _embedding(operation: Operation) -> Field:
    indices = operation.operand("indices")
    parts = [indices.map((*indices.shape, 1), lambda a: a[..., None])]
    if (table := operation.field("weight")) is not None:
        joined = _note_unknown(table, [0], operation)
        parts.append(drop(joined, [0], (operation.shape[-1],)))
    return union(operation.shape, parts)


INDEX_RULES: Mapping[str, Rule] = {
    "index": _index,
    "index_select": _index_select,
    "gather": _gather,
    "embedding": _embedding,
}
