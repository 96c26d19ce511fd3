"""Rules of operations that look at a window: convolution, pooling, unfolding, interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdfia_cli.analysis import windows
from rdfia_cli.analysis.intervals import (
    NOTHING,
    Bounds,
    Field,
    compress,
    reduce,
    separate,
    spread,
    union,
)
from rdfia_cli.analysis.operation import Operation, Rule, UnknownError
from rdfia_cli.analysis.reshaping import reshape
from rdfia_cli.analysis.windows import Window, adaptive_taps


def _each(value: Any, count: int) -> list[int]:
    """An argument that is one number for all axes, or a number for each."""
    given = list(value) if isinstance(value, list | tuple) else [value]
    return given * count if len(given) == 1 else given


def separable(field: Field, axes: Sequence[int]) -> Field:
    """Empty the elements that see no row or no column, unless windows keep the two apart.

    A window may treat rows and columns apart where the one varies along one of its axes and the
    other along another.
    """
    for array in (field.rows, field.columns):
        if sum(array.shape[axis + 1] > 1 for axis in axes) > 1:
            return separate(field)
    both = (field.rows, field.columns)
    shared = any(all(array.shape[axis + 1] > 1 for array in both) for axis in axes)
    return separate(field) if shared else field


def convolve(operation: Operation) -> Field:
    """A convolution of one to three axes, transposed or not, grouped or not."""
    arguments = operation.arguments
    kernel = list(arguments["weight"].shape[2:])
    count = len(kernel)
    transposed = "transpose" in operation.name or arguments.get("transposed", False)
    field = operation.input
    if len(field.shape) == count + 1:
        field = reshape(field, (1, *field.shape))
    stride, dilation = (_each(arguments[name], count) for name in ("stride", "dilation"))
    padding = _padding(arguments["padding"], kernel, dilation)
    mixed = _mix_channels(field, arguments["groups"], operation.outputs[0].shape[-count - 1])
    slide = windows.slide_transposed if transposed else windows.slide
    for number, axis in enumerate(range(2, 2 + count)):
        window = Window(
            kernel[number],
            stride[number],
            padding[number],
            dilation[number],
            field.shape[axis],
            operation.shape[axis - len(field.shape)],
        )
        mixed = _along(mixed, axis, window.outputs, partial(slide, axis=axis, window=window))
    return _with_weights(reshape(mixed, operation.shape), operation, transposed)


def _padding(given: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """What stands before the first element; of an odd `same` padding torch puts the rest after."""
    if given == "valid":
        return [0] * len(kernel)
    if given == "same":
        return [(k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True)]
    return _each(given, len(kernel))


def _along(field: Field, axis: int, size: int, transform: Callable[[Bounds], Bounds]) -> Field:
    shape = list(field.shape)
    shape[axis] = size
    return field.map(shape, transform)


def _mix_channels(field: Field, groups: int, outputs: int) -> Field:
    """Join the channels of each group, for as many outputs; ready for windows after it."""
    batch, channels, *sizes = field.shape
    field = separable(field, range(2, len(field.shape)))
    shape = (batch, outputs, *sizes)
    if groups == 1 or all(a.shape[2] == 1 for a in (field.rows, field.columns)):
        return replace(reduce(field, [1]), shape=shape)
    grouped = reduce(reshape(field, (batch, groups, channels // groups, *sizes)), [2])
    wide = (batch, groups, outputs // groups, *sizes)
    return reshape(replace(grouped, shape=wide), shape)


def _with_weights(field: Field, operation: Operation, transposed: bool) -> Field:
    """Kernels that are computed from the input add what they depend on."""
    parts = [field]
    count = len(operation.arguments["weight"].shape) - 2
    if (weight := operation.field("weight")) is not None:
        outputs = 1 if transposed else 0
        joined = reduce(weight, [axis for axis in range(count + 2) if axis != outputs])
        shape = (weight.shape[outputs], *(1,) * count)
        if transposed and operation.arguments["groups"] > 1:
            joined = reduce(joined, [outputs])
            shape = (1, *shape[1:])
        parts.append(joined.map(shape, lambda a: a.reshape(2, -1, *(1,) * count)))
    if (bias := operation.field("bias")) is not None:
        shape = (*bias.shape, *(1,) * count)
        parts.append(bias.map(shape, lambda a: a.reshape(*a.shape, *(1,) * count)))
    return union(operation.shape, parts)


def _pool(operation: Operation) -> Field:
    arguments, field = operation.arguments, operation.input
    count = int(operation.name.split("pool")[1][0])
    kernel = _each(arguments["kernel_size"], count)
    stride = _each(arguments.get("stride") or kernel, count)
    padding = _each(arguments.get("padding", 0), count)
    dilation = _each(arguments.get("dilation", 1), count)
    first = len(field.shape) - count
    field = separable(field, range(first, len(field.shape)))
    for number in range(count):
        axis = first + number
        window = Window(
            kernel[number],
            stride[number],
            padding[number],
            dilation[number],
            field.shape[axis],
            operation.shape[axis],
        )
        field = _along(
            field, axis, window.outputs, partial(windows.slide, axis=axis, window=window)
        )
    return field


def _adaptive_pool(operation: Operation) -> Field:
    field, shape = operation.input, operation.shape
    count = int(operation.name.split("pool")[1][0])
    axes = range(len(shape) - count, len(shape))
    if all(shape[axis] == 1 for axis in axes):
        return replace(reduce(field, axes), shape=shape)
    field = separable(field, axes)
    for axis in axes:
        taps = adaptive_taps(field.shape[axis], shape[axis])
        field = _along(field, axis, shape[axis], partial(windows.gather, axis=axis, taps=taps))
    return field


def _interpolate(operation: Operation) -> Field:
    field, shape = operation.input, operation.shape
    if operation.name.endswith("_aa") and shape[-1] == 1:
        # On the CPU torch then reads other rows than its filter says.
        raise UnknownError
    count = len(shape) - 2
    axes = range(2, len(shape))
    field = separable(field, axes)
    factors = _factors(operation, count)
    for axis, factor in zip(axes, factors, strict=True):
        size, outputs = field.shape[axis], shape[axis]
        taps = _taps_of(operation, size, outputs, factor)
        field = _along(field, axis, outputs, partial(windows.gather, axis=axis, taps=taps))
    return field


def _factors(operation: Operation, count: int) -> list[float | None]:
    """The scale factors that were given, if any: torch then computes positions from those."""
    arguments = operation.arguments
    if given := arguments.get("scale_factors"):
        return list(given)
    names = ["scales"] if count == 1 else ["scales_d", "scales_h", "scales_w"][-count:]
    return [arguments.get(name) for name in names]


def _taps_of(
    operation: Operation, size: int, outputs: int, factor: float | None
) -> NDArray[np.intp]:
    """The input indices that each output of an interpolation is computed from: (outputs, n).

    Places are computed in single precision, as torch does: one that falls on an element in exact
    arithmetic may fall just before it.
    """
    align = bool(operation.arguments.get("align_corners"))
    half = np.float32(0.5)
    scale = np.float32(1 / factor) if factor else np.float32(size) / np.float32(outputs)
    index = np.arange(outputs).astype(np.float32)
    if "nearest" in operation.name:
        shift = half if "exact" in operation.name else np.float32(0)
        return np.minimum(np.floor((index + shift) * scale), size - 1).astype(int)[:, None]
    if align:
        scale = np.float32(size - 1) / np.float32(outputs - 1) if outputs > 1 else np.float32(0)
    is_cubic = "bicubic" in operation.name
    if operation.name.endswith("_aa"):
        if size == outputs:
            return np.arange(size)[:, None]
        return _antialiased_taps(index, scale, size, 4 if is_cubic else 2)
    place = index * scale if align else (index + half) * scale - half
    if is_cubic:
        taps = np.floor(place)[:, None] + np.arange(-1, 3)
        return taps.clip(0, size - 1).astype(int)
    if size == outputs:
        return np.arange(size)[:, None]
    low = np.floor(place.clip(0)).astype(int).clip(max=size - 1)
    return np.stack([low, np.minimum(low + 1, size - 1)], axis=1)


def _antialiased_taps(
    index: NDArray[np.float32], scale: np.float32, size: int, kernel: int
) -> NDArray[np.intp]:
    """The window of torch's antialiasing filters, as wide as the scale."""
    half = np.float32(0.5)
    support = np.float32(kernel / 2) * np.maximum(scale, np.float32(1))
    centre = scale * (index + half)
    first = np.maximum((centre - support + half).astype(int), 0)
    last = np.minimum((centre + support + half).astype(int), size)
    taps = first[:, None] + np.arange(math.ceil(support) * 2 + 1)
    return np.where(taps < last[:, None], taps, -1)


def _unfold(operation: Operation) -> Field:
    """im2col: (B, C, H, W) becomes (B, C * kernel, positions)."""
    field = separate(operation.input)
    taken, sizes = field, list(field.shape)
    geometry = _two_windows(operation, (sizes[2], sizes[3]))
    for axis, window in zip((2, 4), geometry, strict=True):
        sizes[axis : axis + 1] = [window.outputs, window.kernel]
        unfold = partial(_unfold_axis, axis=axis, taps=window.taps())
        taken = taken.map(sizes, unfold)
    batch, channels, height, above, width, left = sizes
    order = (0, 1, 2, 4, 6, 3, 5)
    shape = (batch, channels, above, left, height, width)
    return reshape(taken.map(shape, lambda a: a.transpose(order)), operation.shape)


def _unfold_axis(array: Bounds, axis: int, taps: NDArray[np.intp]) -> Bounds:
    return windows.unfold(array, axis, taps)


def _two_windows(operation: Operation, sizes: tuple[int, int]) -> list[Window]:
    """The windows of im2col along rows and columns of an image of a size."""
    names = ("kernel_size", "stride", "padding", "dilation")
    given = zip(*(_each(operation.arguments[name], 2) for name in names), strict=True)
    found: list[Window] = []
    for (kernel, stride, padding, dilation), size in zip(given, sizes, strict=True):
        outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        found.append(Window(kernel, stride, padding, dilation, size, outputs))
    return found


def _fold(operation: Operation) -> Field:
    """col2im: the sum of overlapping patches."""
    height, width = operation.arguments["output_size"]
    above, left = _two_windows(operation, (height, width))
    field = operation.input
    batch, channels = operation.shape[0], operation.shape[1]
    shape = (batch, channels, above.kernel, left.kernel, above.outputs, left.outputs)
    patches = separate(reshape(field, shape))
    rows, columns = (_add_patches(a, above, left) for a in (patches.rows, patches.columns))
    return compress(replace(field, shape=operation.shape, rows=rows, columns=columns))


def _add_patches(patches: Bounds, above: Window, left: Window) -> Bounds:
    """Union where patches overlap: (2, B, C, kh, kw, oh, ow) becomes (2, B, C, H, W)."""
    shape = (above.kernel, left.kernel, above.outputs, left.outputs)
    lengths = (above.size + 2 * above.padding, left.size + 2 * left.padding)
    for axis, size in zip(range(2, 6), shape, strict=True):
        patches = spread(patches, axis, size)
    canvas = np.full((*patches.shape[:3], *lengths), NOTHING, dtype=np.int32)
    for i in range(above.kernel):
        for j in range(left.kernel):
            target = canvas[(..., _taps_at(above, i), _taps_at(left, j))]
            np.minimum(target, patches[:, :, :, i, j], out=target)
    inside = slice(above.padding, above.padding + above.size)
    return canvas[..., inside, slice(left.padding, left.padding + left.size)]


def _taps_at(window: Window, number: int) -> slice:
    """Where the tap of that number falls, over all windows, counted from the padding's start."""
    first = number * window.dilation
    return slice(first, first + (window.outputs - 1) * window.stride + 1, window.stride)


def _sample(operation: Operation) -> Field:
    """What reads the input at computed places may read any."""
    field, axes = operation.input, range(2, len(operation.shape))
    names = field.approximations | {operation.name}
    anywhere = replace(reduce(field, axes), approximations=names)
    parts = [replace(anywhere, shape=(*anywhere.shape[:2], *operation.shape[2:]))]
    if (grid := operation.field("grid")) is not None:
        one = reduce(grid, [-1])
        parts.append(one.map((one.shape[0], 1, *one.shape[1:-1]), lambda a: a[..., 0][:, :, None]))
    return union(operation.shape, parts)


def _table() -> Mapping[str, Rule]:
    kinds = "nearest1d nearest2d nearest3d linear1d bilinear2d trilinear3d bicubic2d"
    interpolations = [
        *(f"upsample_{kind}" for kind in kinds.split()),
        *(f"_upsample_{kind}" for kind in ("bilinear2d_aa", "bicubic2d_aa")),
        *(f"_upsample_nearest_exact{n}d" for n in (1, 2, 3)),
    ]
    groups: list[tuple[Rule, str]] = [
        (convolve, "conv1d conv2d conv3d convolution _convolution conv_transpose1d "
                   "conv_transpose2d conv_transpose3d"),
        (_pool, "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d "
                "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices"),
        (_adaptive_pool, "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
                         "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d "
                         "adaptive_max_pool2d adaptive_max_pool3d"),
        (_interpolate, " ".join(interpolations)),
        (_unfold, "im2col"),
        (_fold, "col2im"),
        (_sample, "grid_sampler grid_sampler_2d grid_sampler_3d"),
    ]  # fmt: skip
    return {name: rule for rule, names in groups for name in names.split()}


WINDOW_RULES = _table()
