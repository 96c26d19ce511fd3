"""Windows over one axis of bounds: convolution, pooling, their transposes, interpolation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rdfia_cli.analysis.intervals import NOTHING, Bounds, guard, index_axis, spread


@dataclass(frozen=True)
class Window:
    """How an output index of one axis meets input indices.

    Output j looks at j * stride - padding + k * dilation for k in 0 .. kernel - 1.

    Attributes:
        kernel: taps.
        stride, dilation: in input elements.
        padding: how far the first window begins before the first element.
        size: the length of the input axis.
        outputs: the length of the output axis.
    """

    kernel: int
    stride: int
    padding: int
    dilation: int
    size: int
    outputs: int

    @property
    def reach(self) -> int:
        """Elements from the first tap to the last."""
        return (self.kernel - 1) * self.dilation + 1

    def is_inside(self) -> bool:
        """Whether every output has a tap on some element, and not on padding alone."""
        return bool((self.taps() >= 0).any(axis=1).all())

    def taps(self) -> NDArray[np.intp]:
        """(outputs, kernel): the input index of each tap; -1 in the padding."""
        first = np.arange(self.outputs)[:, None] * self.stride - self.padding
        index = first + np.arange(self.kernel)[None, :] * self.dilation
        return np.where((index < 0) | (index >= self.size), -1, index)


def slide(array: Bounds, axis: int, window: Window) -> Bounds:
    """The union over each window; padding adds nothing."""
    if array.shape[axis + 1] == 1:
        if window.is_inside():
            return array
        array = spread(array, axis, window.size)
    end = (window.outputs - 1) * window.stride - window.padding + window.reach
    padded = pad(array, axis, window.padding, end - window.size)
    views = sliding_window_view(padded, window.reach, axis=axis + 1)
    every = (slice(None),) * (axis + 1)
    taps = views[(*every, slice(None, None, window.stride))][..., :: window.dilation]
    return taps.min(axis=-1)


def pad(array: Bounds, axis: int, before: int, after: int) -> Bounds:
    """Put elements that see nothing around an axis; negative widths cut elements off."""
    size = array.shape[axis + 1]
    kept = array
    if before < 0 or after < 0:
        kept = index_axis(array, axis, slice(max(0, -before), size - max(0, -after)))
    if before <= 0 and after <= 0:
        return kept
    widths = [(0, 0)] * array.ndim
    widths[axis + 1] = (max(0, before), max(0, after))
    guard([size + sum(width) for size, width in zip(kept.shape, widths, strict=True)])
    return np.pad(kept, widths, constant_values=NOTHING)


def slide_transposed(array: Bounds, axis: int, window: Window) -> Bounds:
    """The union over each window of a transposed convolution.

    Args:
        array: bounds.
        axis: of the tensor.
        window: of the convolution that this is the transpose of: `size` is the length of this
            operation's input and `outputs` of its output.
    """
    spaced = _space_out(spread(array, axis, window.size), axis, window.stride)
    direct = Window(
        kernel=window.kernel,
        stride=1,
        padding=window.reach - 1 - window.padding,
        dilation=window.dilation,
        size=spaced.shape[axis + 1],
        outputs=window.outputs,
    )
    return slide(spaced, axis, direct)


def _space_out(array: Bounds, axis: int, stride: int) -> Bounds:
    """Put stride - 1 empty elements between each two."""
    if stride == 1:
        return array
    lengths = list(array.shape)
    lengths[axis + 1] = (lengths[axis + 1] - 1) * stride + 1
    guard(lengths)
    spaced = np.full(lengths, NOTHING, dtype=np.int32)
    spaced[(slice(None),) * (axis + 1) + (slice(None, None, stride),)] = array
    return spaced


def gather(array: Bounds, axis: int, taps: NDArray[np.intp]) -> Bounds:
    """The union over listed taps.

    Args:
        array: bounds.
        axis: of the tensor.
        taps: (outputs, n) input indices; -1 adds nothing.
    """
    if array.shape[axis + 1] == 1 and (taps >= 0).any(axis=1).all():
        return array
    return unfold(array, axis, taps).min(axis=axis + 2)


def unfold(array: Bounds, axis: int, taps: NDArray[np.intp]) -> Bounds:
    """Every listed tap, as a new axis after the given one: (..., outputs, n, ...)."""
    size = max(array.shape[axis + 1], int(taps.max()) + 1)
    padded = pad(spread(array, axis, size), axis, 0, 1)
    guard([*array.shape[: axis + 1], *taps.shape, *array.shape[axis + 2 :]])
    return padded.take(taps, axis=axis + 1)


def adaptive_taps(size: int, outputs: int) -> NDArray[np.intp]:
    """The windows of adaptive pooling: (outputs, n), -1 where a window is shorter than another."""
    index = np.arange(outputs)
    first = index * size // outputs
    last = -((-(index + 1) * size) // outputs)
    taps = first[:, None] + np.arange(int((last - first).max()))[None, :]
    return np.where(taps < last[:, None], taps, -1)
