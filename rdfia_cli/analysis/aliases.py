"""Tensors that share memory: what is written through one is seen through the others."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rdfia_cli.analysis.intervals import (
    NOTHING,
    Bounds,
    Field,
    compress,
    guard,
    separate,
    spread_all,
)


class Aliases:
    """The living tensors of each storage."""

    def __init__(self) -> None:
        self._living: dict[int, list[weakref.ref[Tensor]]] = {}

    def add(self, tensor: Tensor) -> None:
        """Remember a tensor for as long as it lives."""
        key = _memory(tensor)
        kept = [
            ref
            for ref in self._living.get(key, ())
            if (other := ref()) is not None and other is not tensor
        ]
        self._living[key] = [*kept, weakref.ref(tensor)]

    def is_new(self, tensor: Tensor) -> bool:
        """Whether a tensor was never added but shares its storage with one that was."""
        known = self._living.get(_memory(tensor))
        return known is not None and all(ref() is not tensor for ref in known)

    def others(self, tensor: Tensor) -> Iterator[Tensor]:
        """The other tensors that share a tensor's storage."""
        for ref in self._living.get(_memory(tensor), ()):
            if (other := ref()) is not None and other is not tensor:
                yield other


def _memory(tensor: Tensor) -> int:
    """Which storage a tensor stands in; on the meta device storages have no address."""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def write_through(
    target: Tensor, written: Field, others: Sequence[tuple[Tensor, Field]]
) -> Mapping[Tensor, Field]:
    """The fields of tensors after one of the same storage was overwritten.

    Args:
        target: the tensor that was written to.
        written: what its elements depend on now.
        others: the tensors that share its storage, with their fields before.
    """
    count = target.untyped_storage().nbytes() // target.element_size()
    guard((2, count))
    memory = np.full((2, 2, count), NOTHING, dtype=np.int32)
    for tensor, found in (*((t, f) for t, f in others), (target, written)):
        places = _places(tensor)
        for plane, bounds in zip(memory, spread_all(separate(found)), strict=True):
            plane[:, places] = bounds
    return {
        t: _read(
            memory,
            t,
            written if f.mixed < written.mixed else f,
            f.approximations | written.approximations,
        )
        for t, f in others
    }


def _read(
    memory: NDArray[np.int32], tensor: Tensor, like: Field, approximations: frozenset[str]
) -> Field:
    rows, columns = (_pick(plane, tensor) for plane in memory)
    found = replace(like, shape=tuple(tensor.shape), rows=rows, columns=columns)
    return compress(replace(found, approximations=approximations))


def _pick(plane: Bounds, tensor: Tensor) -> Bounds:
    return plane[:, _places(tensor)]


def _places(tensor: Tensor) -> NDArray[np.intp]:
    """Where each element of a tensor stands in its storage: an array of the tensor's shape."""
    places = np.full((1,) * tensor.ndim, tensor.storage_offset(), dtype=np.intp)
    for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        lengths = [size if position == axis else 1 for position in range(tensor.ndim)]
        places = places + (np.arange(size) * stride).reshape(lengths)
    return places
