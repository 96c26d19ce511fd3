"""Size, stride and padding: the numbers that say what every position of an axis sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdfia_cli.analysis.intervals import Bounds


@dataclass(frozen=True)
class Measure:
    """Size, stride and padding along one axis of the image.

    Attributes:
        size: input pixels that the position in the middle sees.
        stride: input pixels from one position to the next; the ratio of the sizes where positions
            are not evenly spaced.
        padding: how far the field of position 0 begins before the image.
        holds: every position follows from these numbers.
        is_clipped: the field in the middle meets a border of the image.
    """

    size: int
    stride: float
    padding: float
    holds: bool
    is_clipped: bool


def measure(bounds: Bounds, outputs: int, size: int) -> Measure:
    """Find the numbers of one axis.

    Args:
        bounds: (2, outputs or 1, others) of positions along the axis, and across it.
        outputs: the positions along the axis.
        size: of the input along the axis.
    """
    bounds = np.broadcast_to(bounds, (2, outputs, bounds.shape[2]))
    low, high = bounds[0].astype(np.int64), -bounds[1].astype(np.int64)
    here, across = outputs // 2, bounds.shape[2] // 2
    first, last = int(low[here, across]), int(high[here, across])
    if first > last:
        return Measure(0, size / outputs, 0, holds=False, is_clipped=False)
    is_clipped = first <= 0 or last >= size - 1
    step = int(low[here, across] - low[here - 1, across]) if outputs > 1 else size
    holds = not is_clipped and _follow(low, high, first - here * step, step, last - first, size)
    stride = step if holds else size / outputs
    return Measure(last - first + 1, stride, here * stride - first, holds, is_clipped)


def _follow(
    low: NDArray[np.int64], high: NDArray[np.int64], start: int, step: int, reach: int, size: int
) -> bool:
    """Whether position j sees start + j * step and reach more pixels, as far as there are any."""
    first = (start + np.arange(len(low)) * step)[:, None]
    last = first + reach
    is_inside = (first >= 0) & (last < size)
    exact = (low == first) & (high == last)
    within = (low >= np.maximum(first, 0)) & (high <= np.minimum(last, size - 1))
    return bool(np.where(is_inside, exact, within | (low > high)).all())
