"""Rules of operations that move elements and compute nothing: views, slices, joins, padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rdfia_cli.analysis import windows
from rdfia_cli.analysis.intervals import (
    NOTHING,
    Bounds,
    Field,
    broadcast,
    compress,
    drop,
    index_axis,
    nothing,
    separate,
    spread,
    spread_all,
)
from rdfia_cli.analysis.operation import Operation, Rule, UnknownError
from rdfia_cli.analysis.reshaping import reshape


def _reshape(operation: Operation) -> Field:
    return reshape(operation.input, operation.shape)


def _expand(operation: Operation) -> Field:
    return broadcast(operation.input, operation.shape)


def transpose(field: Field, order: Sequence[int]) -> Field:
    """The field of a tensor with its axes in another order."""
    count = len(order)
    axes = [axis % count for axis in order]
    shape = [field.shape[axis] for axis in axes]
    return field.map(shape, lambda a: a.transpose(0, *(axis + 1 for axis in axes)))


def _permute(operation: Operation) -> Field:
    return transpose(operation.input, operation.arguments["dims"])


def _transpose(operation: Operation) -> Field:
    field = operation.input
    order = list(range(len(field.shape)))
    first, second = operation.arguments["dim0"], operation.arguments["dim1"]
    order[first], order[second] = order[second], order[first]
    return transpose(field, order)


def _matrix_transpose(operation: Operation) -> Field:
    order = list(range(len(operation.shape)))
    return transpose(operation.input, [*order[:-2], *order[-2:][::-1]])


def _slice(operation: Operation) -> Field:
    arguments = operation.arguments
    chosen = slice(arguments["start"], arguments["end"], arguments["step"])
    axis = operation.axis()
    return operation.input.map(operation.shape, lambda a: index_axis(a, axis, chosen))


def _narrow(operation: Operation) -> Field:
    axis = operation.axis()
    start = operation.arguments["start"] % max(operation.input.shape[axis], 1)
    chosen = slice(start, start + operation.arguments["length"])
    return operation.input.map(operation.shape, lambda a: index_axis(a, axis, chosen))


def _pick(field: Field, axis: int, index: int) -> Field:
    """One element of an axis, which goes."""
    shape = field.shape[:axis] + field.shape[axis + 1 :]

    def pick(array: Bounds) -> Bounds:
        one = [index if array.shape[axis + 1] > 1 else 0]
        return array.take(one, axis=axis + 1).squeeze(axis + 1)

    return field.map(shape, pick)


def _select(operation: Operation) -> Field:
    return _pick(operation.input, operation.axis(), operation.arguments["index"])


def _unbind(operation: Operation) -> list[Field]:
    axis = operation.axis()
    return [_pick(operation.input, axis, index) for index in range(len(operation.outputs))]


def _split(operation: Operation) -> list[Field]:
    axis, field = operation.axis(), operation.input
    ends = list(accumulate(output.shape[axis] for output in operation.outputs))
    if ends[-1] != field.shape[axis]:
        # tensor_split takes indices in any order, and parts may overlap then.
        raise UnknownError
    parts: list[Field] = []
    for start, end, output in zip([0, *ends], ends, operation.outputs, strict=False):
        chosen = slice(start, end)
        parts.append(field.map(output.shape, lambda a, c=chosen: index_axis(a, axis, c)))
    return parts


def concatenate(fields: Sequence[Field], axis: int, shape: Sequence[int]) -> Field:
    """The field of tensors that are put one after another along an axis."""
    if len({field.shape[axis] for field in fields}) > 1 or len(set(fields)) > 1:
        fields = [separate(field) for field in fields]
    return Field(
        tuple(shape),
        _concatenate([field.rows for field in fields], axis, fields),
        _concatenate([field.columns for field in fields], axis, fields),
        fields[0].image,
        frozenset[str]().union(*(field.approximations for field in fields)),
        any(field.mixed for field in fields),
        min(field.largest for field in fields),
    )


def _concatenate(arrays: Sequence[Bounds], axis: int, fields: Sequence[Field]) -> Bounds:
    first = arrays[0]
    if first.shape[axis + 1] == 1 and all(np.array_equal(first, array) for array in arrays):
        return first
    sizes = [field.shape[axis] for field in fields]
    written = [spread(array, axis, size) for array, size in zip(arrays, sizes, strict=True)]
    lengths = [max(lengths) for lengths in zip(*(array.shape for array in written), strict=True)]
    aligned: list[Bounds] = []
    for array, size in zip(written, sizes, strict=True):
        lengths[axis + 1] = size
        aligned.append(np.broadcast_to(array, lengths))
    return np.concatenate(aligned, axis=axis + 1)


def _cat(operation: Operation) -> Field:
    # torch skips tensors of shape (0,) here, whatever the rank of the others.
    tensors = [t for t in operation.arguments["tensors"] if tuple(t.shape) != (0,)]
    axis = operation.arguments["dim"] % len(operation.shape)
    return concatenate([operation.field_of(t) for t in tensors], axis, operation.shape)


def _stack(operation: Operation) -> Field:
    axis = operation.arguments["dim"] % len(operation.shape)
    shape = [1 if i == axis else size for i, size in enumerate(operation.shape)]
    parts = [reshape(operation.field_of(t), shape) for t in operation.arguments["tensors"]]
    return concatenate(parts, axis, operation.shape)


def _repeat(operation: Operation) -> Field:
    repeats = operation.arguments["repeats"]
    missing = len(operation.shape) - len(operation.input.shape)

    def tile(array: Bounds) -> Bounds:
        array = array.reshape(2, *(1,) * missing, *array.shape[1:])
        times = [n if size > 1 else 1 for n, size in zip(repeats, array.shape[1:], strict=True)]
        return np.tile(array, (1, *times))

    return operation.input.map(operation.shape, tile)


def _repeat_interleave(operation: Operation) -> Field:
    field, axis = operation.input, operation.arguments.get("dim")
    if axis is None:
        field, axis = reshape(field, (int(np.prod(field.shape)),)), 0
    axis %= len(field.shape)
    repeats = operation.arguments["repeats"]
    if isinstance(repeats, Tensor):
        known = operation.numbers(repeats)
        if known is None:
            raise UnknownError
        repeats = known.numpy()
    index = np.repeat(np.arange(field.shape[axis]), repeats)
    return field.map(operation.shape, lambda a: index_axis(a, axis, index))


def _roll(operation: Operation) -> Field | list[Field]:
    shifts, axes = operation.arguments["shifts"], operation.arguments["dims"]
    if not axes:
        return move(operation)
    shifts = shifts if isinstance(shifts, list | tuple) else [shifts]

    def roll(array: Bounds) -> Bounds:
        return np.roll(array, shifts, [axis + 1 if axis >= 0 else axis for axis in axes])

    return operation.input.map(operation.shape, roll)


def _flip(operation: Operation) -> Field:
    axes = tuple(axis + 1 if axis >= 0 else axis for axis in operation.arguments["dims"])

    def flip(array: Bounds) -> Bounds:
        return np.flip(array, axes)

    return operation.input.map(operation.shape, flip)


def _pad(operation: Operation) -> Field:
    mode: str = operation.arguments.get("mode", "constant")
    return pad(operation.input, operation.arguments["pad"], mode, operation.shape)


def _pad_by_name(operation: Operation) -> Field:
    mode = "reflect" if "reflection" in operation.name else "replicate"
    return pad(operation.input, operation.arguments["padding"], mode, operation.shape)


PADDINGS = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""What numpy calls torch's modes of padding."""


def pad(field: Field, widths: Sequence[int], mode: str, shape: Sequence[int]) -> Field:
    """The field of a padded tensor.

    Args:
        field: what is padded.
        widths: before and after, the last axis first, as torch.nn.functional.pad takes them.
        mode: constant, reflect, replicate or circular.
        shape: of the result.
    """
    for number in range(len(widths) // 2):
        axis = len(shape) - 1 - number
        before, after = widths[2 * number : 2 * number + 2]
        if before or after:
            pads = _pad_with_nothing if mode == "constant" else _pad_with_copies
            field = pads(field, axis, before, after, PADDINGS.get(mode, ""))
    return replace(field, shape=tuple(shape))


def _pad_with_nothing(field: Field, axis: int, before: int, after: int, mode: str) -> Field:
    # An element is empty where one of its two bounds is: it is enough to pad what varies here.
    is_flat = field.rows.shape[axis + 1] == 1 and field.columns.shape[axis + 1] == 1
    size = field.shape[axis]
    shape = list(field.shape)
    shape[axis] = size + before + after

    def widen(array: Bounds) -> Bounds:
        if array.shape[axis + 1] == 1 and (not is_flat or max(before, after) <= 0) and size > 1:
            return array
        return windows.pad(spread(array, axis, size), axis, before, after)

    return field.map(shape, widen)


def _pad_with_copies(field: Field, axis: int, before: int, after: int, mode: str) -> Field:
    index: Any = np.arange(field.shape[axis])
    chosen = index[max(0, -before) : len(index) - max(0, -after)]
    chosen = np.pad(chosen, (max(0, before), max(0, after)), mode=mode)  # pyright: ignore
    shape = list(field.shape)
    shape[axis] = len(chosen)
    return field.map(shape, lambda a: index_axis(a, axis, chosen))


def move(operation: Operation) -> list[Field]:
    """The rule of any operation that only moves elements: let it move the bounds themselves."""
    arguments = list(operation.arguments.items())
    moved = next(v for _, v in arguments if isinstance(v, Tensor) and operation.fields(v))
    field = operation.field_of(moved)
    planes: list[list[Bounds]] = []
    for bounds in spread_all(separate(field)):
        for plane in bounds:
            values = {k: torch.from_numpy(plane.copy()) if v is moved else v for k, v in arguments}
            found = operation.function(**values)
            found = [found] if isinstance(found, Tensor) else found
            planes.append([part.numpy() for part in found])
    parts: list[Field] = []
    for low, high, left, right in zip(*planes, strict=True):
        rows, columns = np.stack([low, high]), np.stack([left, right])
        parts.append(compress(replace(field, shape=low.shape, rows=rows, columns=columns)))
    return parts


def _constant(operation: Operation) -> Field:
    return nothing(operation.shape, operation.image)


def _fill(operation: Operation) -> Field:
    """What is written everywhere may be a tensor that holds one number."""
    value = operation.field("value")
    return _constant(operation) if value is None else broadcast(value, operation.shape)


def _triangle(operation: Operation) -> Field:
    """What lies beyond a diagonal becomes a constant."""
    field = separate(operation.input)
    kept = torch.ones(field.shape[-2:], dtype=torch.bool)
    kept = operation.function(kept, operation.arguments["diagonal"]).numpy()
    lead = (1,) * (len(field.shape) - 2)
    blank = np.int32(NOTHING)
    return compress(
        field.map(field.shape, lambda a: np.where(kept.reshape(1, *lead, *kept.shape), a, blank))
    )


def _as_strided(operation: Operation) -> list[Field]:
    """A view of memory: known where the elements of the tensor lie there in their order."""
    source = operation.arguments["self"]
    is_whole = source.untyped_storage().nbytes() == source.numel() * source.element_size()
    if not source.is_contiguous() or not is_whole or source is operation.outputs[0]:
        raise UnknownError
    return move(operation)


def _as_real(operation: Operation) -> Field:
    """Real and imaginary part, side by side in a last axis."""
    return operation.input.map(operation.shape, lambda a: a[..., None])


def _as_complex(operation: Operation) -> Field:
    return drop(operation.input, [-1], operation.shape)


def _table() -> Mapping[str, Rule]:
    groups: list[tuple[Rule, str]] = [
        (_reshape, "view reshape flatten unflatten _unsafe_view squeeze unsqueeze _reshape_alias "
                   "reshape_as view_as ravel"),
        (_expand, "expand expand_as broadcast_to"),
        (_permute, "permute"),
        (_transpose, "transpose"),
        (_matrix_transpose, "t adjoint mT numpy_T matrix_H"),
        (_slice, "slice"),
        (_narrow, "narrow"),
        (_select, "select"),
        (_unbind, "unbind"),
        (_split, "split split_with_sizes chunk tensor_split unsafe_split unsafe_chunk"),
        (_cat, "cat concat concatenate"),
        (_stack, "stack"),
        (_repeat, "repeat"),
        (_repeat_interleave, "repeat_interleave"),
        (_roll, "roll"),
        (_flip, "flip"),
        (_pad, "pad constant_pad_nd"),
        (_pad_by_name, "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
                       "replication_pad2d replication_pad3d"),
        (move, "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle unfold "
               "rot90 diagonal movedim moveaxis swapaxes tile hsplit vsplit dsplit"),
        (_as_strided, "as_strided"),
        (_as_real, "view_as_real"),
        (_as_complex, "view_as_complex"),
        (_triangle, "tril triu"),
        (_fill, "fill"),
        (_constant, "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros "
                    "new_ones new_empty new_full zero"),
    ]  # fmt: skip
    return {name: rule for rule, names in groups for name in names.split()}


SHAPE_RULES = _table()
