"""Rules of operations that join a whole axis: reductions, norms, products, attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rdfia_cli.analysis.intervals import (
    Bounds,
    Field,
    broadcast,
    drop,
    everything,
    index_axis,
    positions,
    reduce,
    separate,
    share,
    union,
)
from rdfia_cli.analysis.operation import Operation, Rule
from rdfia_cli.analysis.reshaping import reshape
from rdfia_cli.analysis.rules_shape import concatenate


def reduction(operation: Operation) -> Field:
    """A sum, mean, maximum, norm or the like over some axes."""
    field = operation.input
    return drop(field, operation.axes("dim", field), operation.shape)


def _extreme(operation: Operation) -> Field:
    """The largest or smallest along axes, or the larger or smaller of two tensors."""
    if "other" in operation.arguments:
        return union(operation.shape, operation.operands)
    return reduction(operation)


def _along_axis(operation: Operation) -> Field:
    """What keeps the shape and joins an axis, as softmax does."""
    field = operation.input
    return replace(share(field, operation.axes("dim", field)), shape=operation.shape)


def _reduction_of_last(operation: Operation) -> list[Field]:
    """Operations along one axis that change its length, such as topk."""
    joined = reduce(operation.input, operation.axes("dim", operation.input))
    return [replace(joined, shape=tuple(output.shape)) for output in operation.outputs]


def _accumulate(operation: Operation) -> Field:
    axis = operation.axis()
    return _up_to_here(operation.input, axis)


def _up_to_here(field: Field, axis: int, *, backward: bool = False) -> Field:
    """Each element along an axis sees what those before it see (backward: those after it)."""
    field = separate(field)

    def accumulate(array: Bounds) -> Bounds:
        if backward:
            array = np.flip(array, axis + 1)
        found = np.minimum.accumulate(array, axis=axis + 1)
        return np.flip(found, axis + 1) if backward else found

    return field.map(field.shape, accumulate)


def _affine(field: Field, operation: Operation, names: Sequence[str] = ("weight", "bias")) -> Field:
    """Add what a norm's weights depend on, where they are computed from the input."""
    parts = [f for name in names if (f := operation.field(name)) is not None]
    return union(operation.shape, [field, *(everything(f, operation.shape) for f in parts)])


def _layer_norm(operation: Operation) -> Field:
    count = len(operation.arguments["normalized_shape"])
    return _affine(share(operation.input, range(-count, 0)), operation)


def _batch_norm(operation: Operation) -> Field:
    field, arguments = operation.input, operation.arguments
    statistics = arguments.get("running_mean")
    if arguments.get("training", arguments.get("use_input_stats", False)) or statistics is None:
        keeps_examples = operation.name == "instance_norm"
        axes = [i for i in range(len(field.shape)) if i != 1 and not (keeps_examples and i == 0)]
        field = share(field, axes)
    return _affine(field, operation, ("weight", "bias", "running_mean", "running_var"))


def _group_norm(operation: Operation) -> Field:
    field = operation.input
    groups = operation.arguments.get("num_groups", operation.arguments.get("group"))
    batch, channels, *sizes = field.shape
    split = reshape(field, (batch, groups, channels // groups, *sizes))
    joined = share(split, range(2, len(split.shape)))
    return _affine(reshape(joined, field.shape), operation)


def _linear(operation: Operation) -> Field:
    parts = [replace(reduce(operation.input, [-1]), shape=operation.shape)]
    if (weight := operation.field("weight")) is not None:
        parts.append(drop(weight, [-1], weight.shape[:1]))
    if (bias := operation.field("bias")) is not None:
        parts.append(bias)
    return union(operation.shape, parts)


def product(left: Field | None, right: Field | None, shape: Sequence[int]) -> Field:
    """The field of a matrix product: (..., n, k) by (..., k, m)."""
    parts = [reduce(left, [-1])] if left is not None else []
    parts += [reduce(right, [-2])] if right is not None else []
    return union(shape, parts)


def _matmul(operation: Operation) -> Field:
    left, right = list(operation.arguments.values())[:2]
    if left.ndim == 1 or right.ndim == 1:
        return _vector_product(operation)
    return product(operation.fields(left), operation.fields(right), operation.shape)


def _vector_product(operation: Operation) -> Field:
    """A matrix product with a vector on one side or on both."""
    left, right = list(operation.arguments.values())[:2]
    parts: list[Field] = []
    if (found := operation.fields(left)) is not None:
        column = () if right.ndim == 1 else (1,)
        parts.append(drop(found, [-1], (*left.shape[:-1], *column)))
    if (found := operation.fields(right)) is not None:
        axis = max(right.ndim - 2, 0)
        parts.append(drop(found, [axis], (*right.shape[:axis], *right.shape[axis + 1 :])))
    return union(operation.shape, parts)


def _add_product(operation: Operation) -> Field:
    """Addmm and its like: a matrix product and what it is added to."""
    names = ("mat1", "mat2") if "mat1" in operation.arguments else ("batch1", "batch2")
    left, right = (operation.field(name) for name in names)
    parts = [product(left, right, operation.shape)] if left or right else []
    added = operation.field("self")
    return union(operation.shape, [*parts, *([added] if added else [])])


def _einsum(operation: Operation) -> Field:
    """Each operand without the axes that are summed, placed where the result has its axes."""
    equation = operation.arguments["equation"].replace(" ", "")
    inputs, _, output = equation.partition("->")
    parts: list[Field] = []
    for labels, tensor in zip(inputs.split(","), operation.arguments["tensors"], strict=True):
        if (field := operation.fields(tensor)) is not None:
            parts.append(_place(field, labels, output))
    return union(operation.shape, parts)


def is_plain_einsum(equation: str) -> bool:
    """Whether every axis has a letter, no operand one twice, and the result is spelt out."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    words = [*inputs.split(","), output]
    return bool(arrow) and "." not in equation and all(len(set(w)) == len(w) for w in words)


def _place(field: Field, labels: str, output: str) -> Field:
    """Reduce the axes whose label the result lacks, and put the others where it has them."""
    summed = [axis for axis, label in enumerate(labels) if label not in output]
    joined = reduce(field, summed)
    kept = [label for label in labels if label in output]
    order = [labels.index(label) for label in output if label in kept]
    sizes = [joined.shape[labels.index(label)] if label in kept else 1 for label in output]

    def place(array: Bounds) -> Bounds:
        moved = np.moveaxis(array, [axis + 1 for axis in order], range(1, len(order) + 1))
        moved = moved.reshape(moved.shape[: len(order) + 1])
        lengths = iter(moved.shape[1:])
        return moved.reshape(2, *(next(lengths) if label in kept else 1 for label in output))

    return joined.map(sizes, place)


def _attention(operation: Operation) -> Field:
    """Scaled dot-product attention: a query, and every key and value of its group.

    Causal, the query at i sees the keys and values up to i.
    """
    query, key, value = (operation.operand(name) for name in ("query", "key", "value"))
    heads = operation.shape[:-2]
    keys = _repeat_heads(reduce(key, [-1]), heads)
    values = _repeat_heads(value, heads)
    gather = _gather_causal if operation.arguments.get("is_causal") else _gather_all
    parts = [reduce(query, [-1]), *(gather(each, operation.shape) for each in (keys, values))]
    if (mask := operation.field("attn_mask")) is not None:
        parts.append(reduce(mask, [-1]))
    return union(operation.shape, [_of_rank(part, operation.shape) for part in parts])


def _of_rank(field: Field, shape: Sequence[int]) -> Field:
    return replace(field, shape=tuple(shape)) if len(field.shape) == len(shape) else field


def _gather_all(field: Field, shape: Sequence[int]) -> Field:
    return reduce(field, [-2])


def _gather_causal(field: Field, shape: Sequence[int]) -> Field:
    """The union up to each query; beyond the last key they see all."""
    seen = _up_to_here(field, len(field.shape) - 2)
    queries = np.minimum(np.arange(shape[-2]), field.shape[-2] - 1)
    sizes = (*field.shape[:-2], shape[-2], field.shape[-1])
    return seen.map(sizes, lambda a: index_axis(a, len(sizes) - 2, queries))


def _repeat_heads(field: Field, heads: Sequence[int]) -> Field:
    """Keys that several heads of queries share, once for each of these."""
    axis = len(heads) - 1
    if axis < 0 or field.shape[axis] in (1, heads[axis]):
        return field
    times = heads[axis] // field.shape[axis]
    shape = (*heads, *field.shape[-2:])

    def repeat(array: Bounds) -> Bounds:
        return array if array.shape[axis + 1] == 1 else np.repeat(array, times, axis=axis + 1)

    return field.map(shape, repeat)


def _recurrent(operation: Operation) -> list[Field]:
    """LSTM, GRU and plain recurrent layers: each step sees those before it, or after it."""
    arguments = operation.arguments
    field = operation.input
    batch_first, both_ways = arguments["batch_first"], arguments["bidirectional"]
    time = 1 if batch_first and len(field.shape) == 3 else 0
    width = operation.shape[-1]
    for _ in range(arguments["num_layers"]):
        field = _recurrent_layer(reduce(field, [-1]), time, width, both_ways=both_ways)
    states = [_state(operation.input, time, output.shape) for output in operation.outputs[1:]]
    found = [broadcast(field, operation.shape), *states]
    # First states and weights that are computed from the input reach every step.
    others = [f for t in operation.tensors[1:] if (f := operation.fields(t)) is not None]
    return [union(f.shape, [f, *(everything(other, f.shape) for other in others)]) for f in found]


def _state(field: Field, time: int, shape: Sequence[int]) -> Field:
    """The state after the last step, which has seen every step of its own sequence.

    Args:
        field: of the sequences, (B, T, F), (T, B, F) or (T, F).
        time: the axis of steps.
        shape: of the state, (layers, B, H) or (layers, H).
    """
    joined = reduce(field, [time, -1])
    examples = [] if len(shape) == 2 else [joined.shape[1 - time]]
    return replace(reshape(joined, (1, *examples, 1)), shape=tuple(shape))


def _recurrent_layer(field: Field, time: int, width: int, *, both_ways: bool) -> Field:
    shape = (*field.shape[:-1], width // (2 if both_ways else 1))
    forward = replace(_up_to_here(field, time), shape=shape)
    if not both_ways:
        return forward
    backward = replace(_up_to_here(field, time, backward=True), shape=shape)
    return concatenate([forward, backward], len(shape) - 1, (*shape[:-1], width))


def _fourier(operation: Operation) -> Field:
    field, arguments = operation.input, operation.arguments
    given: Any = arguments.get("dim")
    last = 2 if "fft2" in operation.name else 1
    axes = given if given is not None else range(-last, 0)
    if given is None and operation.name.endswith("fftn"):
        axes = range(len(field.shape))
    chosen = positions(field, [axes] if isinstance(axes, int) else axes)
    return replace(reduce(field, chosen), shape=operation.shape)


def _glu(operation: Operation) -> Field:
    axis, field = operation.axis(), operation.input
    half = field.shape[axis] // 2
    shape = (*field.shape[:axis], 2, half, *field.shape[axis + 1 :])
    return reshape(reduce(reshape(field, shape), [axis]), operation.shape)


def _distance(operation: Operation) -> Field:
    first, second = (operation.operand(name) for name in ("x1", "x2"))
    left = reduce(first, [-1])
    right = reduce(second, [-1])
    order = (*range(len(right.shape) - 2), -1, -2)
    turned = right.map(
        [right.shape[axis] for axis in order],
        lambda a: a.transpose(0, *(axis + 1 if axis >= 0 else axis for axis in order)),
    )
    return union(operation.shape, [left, turned])


def _table() -> Mapping[str, Rule]:
    groups: list[tuple[Rule, str]] = [
        (_extreme, "max min"),
        (reduction, "sum mean amax amin prod std var var_mean std_mean logsumexp norm "
                    "linalg_vector_norm all any argmax argmin median nanmean count_nonzero"),
        (_along_axis, "softmax log_softmax _softmax _log_softmax softmin sort argsort"),
        (_reduction_of_last, "topk kthvalue mode"),
        (_accumulate, "cumsum cumprod cummax cummin logcumsumexp"),
        (_layer_norm, "layer_norm native_layer_norm rms_norm _fused_rms_norm"),
        (_batch_norm, "batch_norm native_batch_norm _native_batch_norm_legit instance_norm "
                      "_native_batch_norm_legit_no_training cudnn_batch_norm"),
        (_group_norm, "group_norm native_group_norm"),
        (_linear, "linear"),
        (_matmul, "matmul mm bmm mv dot linalg_matmul __matmul__"),
        (_add_product, "addmm baddbmm"),
        (_einsum, "einsum"),
        (_attention, "scaled_dot_product_attention"),
        (_recurrent, "lstm gru rnn_tanh rnn_relu"),
        (_fourier, "fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 "
                   "fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_hfft fft_ihfft"),
        (_glu, "glu"),
        (_distance, "cdist _cdist_forward"),
    ]  # fmt: skip
    return {name: rule for rule, names in groups for name in names.split()}


MIXING_RULES = _table()
"""Beside these, whatever torch tags as a reduction follows `reduction`."""
