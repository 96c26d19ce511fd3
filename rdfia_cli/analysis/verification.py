"""The exact analysis held against the experiment with NaN, element for element."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rdfia_cli.analysis.constants import fixed_numbers
from rdfia_cli.analysis.intervals import Bounds, Field, separate
from rdfia_cli.analysis.oracle import observe
from rdfia_cli.analysis.receptive_field import run_pass

PIXELS_AT_ONCE = 2**21
"""Numbers in one batch of poisoned images; more would not be faster, and take more memory."""


@dataclass(frozen=True)
class Verdict:
    """How the bounds of one module's output compare with what NaN reached.

    Attributes:
        name, call, part: which output.
        kind: the module's class.
        bounds: how many were compared: two of rows and two of columns for each element.
        larger: how many promise more than NaN reached.
        smaller: how many promise less; more than none is an error of the analysis.
    """

    name: str
    call: int
    part: int
    kind: str
    bounds: int
    larger: int
    smaller: int


def verify(shadow: nn.Module, model: nn.Module, shape: tuple[int, ...]) -> tuple[Verdict, ...]:
    """Compare every module's output, where NaN can stand in it.

    Args:
        shadow: the model on the meta device, in evaluation mode.
        model: the same with real weights, whichever they are, on the CPU.
        shape: of one input.
    """
    batch = max(1, min(64, PIXELS_AT_ONCE // int(np.prod(shape))))
    exact = run_pass(shadow, shape, separate, numbers=fixed_numbers(shadow, model))
    observed = [observe(model, shape, axis, batch) for axis in (-2, -1)]
    return tuple(
        Verdict(*output.key, output.kind, *_compare(output.kept, [o[output.key] for o in observed]))
        for output in exact.outputs
        if all(output.key in seen for seen in observed)
    )


def _compare(found: Field, observed: list[NDArray[np.int32]]) -> tuple[int, int, int]:
    """How many bounds there are, and how many of them are too wide and too narrow."""
    counts = np.zeros(3, dtype=np.int64)
    for bounds, seen in zip((found.rows, found.columns), observed, strict=True):
        counts += list(_count(bounds, seen))
    total, larger, smaller = counts.tolist()
    return total, larger, smaller


def _count(bounds: Bounds, seen: Bounds) -> Iterator[int]:
    """Of bounds in which a union is a minimum, the lower is the wider."""
    yield seen.size
    yield int((bounds < seen).sum())
    yield int((bounds > seen).sum())
