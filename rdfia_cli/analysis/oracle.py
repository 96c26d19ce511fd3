"""The receptive field by experiment: NaN in one row or column of the image, and where it arrives.

NaN survives every multiplication, even by zero, so that the outcome does not depend on weights.
It is found in the real model, by nothing that the exact analysis shares with it.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from rdfia_cli.analysis.graph import Call, call_outermost, tensors_of, watch_calls
from rdfia_cli.analysis.intervals import NOTHING

Key: TypeAlias = tuple[str, int, int]
"""A module's name, how often it was called before, and which of its tensors."""

Seen: TypeAlias = dict[Key, NDArray[np.int32]]
"""(2, *shape) int32 of each output: the lowest and the negated highest index that reached it."""


def observe(model: nn.Module, shape: tuple[int, ...], axis: int, batch: int) -> Seen:
    """Put NaN into one row after another, or one column, and see which elements become NaN.

    Args:
        model: with real weights, in evaluation mode; any weights will do.
        shape: of one input: (C, H, W), or (F,) for points.
        axis: of the input: -2 for rows, -1 for columns.
        batch: how many rows or columns are tried at a time.
    """
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    size = shape[axis] if len(shape) >= -axis else 1
    seen: Seen = {}
    for start in range(0, size, batch):
        indices = range(start, min(start + batch, size))
        poisoned = torch.stack([_poison(image, axis, index) for index in indices])
        for key, mask in _spoilt(model, poisoned).items():
            found = _first_and_last(mask.numpy(), start)
            seen[key] = np.minimum(seen[key], found) if key in seen else found
    return seen


def _poison(image: Tensor, axis: int, index: int) -> Tensor:
    copy = image.clone()
    copy.select(axis, index).fill_(torch.nan) if image.ndim >= -axis else copy.fill_(torch.nan)
    return copy


def _first_and_last(mask: NDArray[np.bool_], start: int) -> NDArray[np.int32]:
    """The first and the last row of a batch that reached an element, as bounds.

    Args:
        mask: (n, *shape) whether row start + i reached the element.
        start: the index of the first row.
    """
    first = mask.argmax(axis=0) + start
    last = len(mask) - 1 - mask[::-1].argmax(axis=0) + start
    bounds = np.stack([first, -last]).astype(np.int32)
    return np.where(mask.any(axis=0), bounds, np.int32(NOTHING))


class _Causal(TorchFunctionMode):
    """Gives each query of a causal attention the keys up to its own, and no others.

    The plain kernel adds a mask to all scores and multiplies all values by what is left of them:
    NaN would pass through the zeros.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = inspect.signature(_attention_parameters).bind(*args, **(kwargs or {})).arguments
        if not given.pop("is_causal", False):
            return func(*args, **(kwargs or {}))
        query, key, value = (given.pop(name) for name in ("query", "key", "value"))
        rows = [
            func(query[..., i : i + 1, :], key[..., : i + 1, :], value[..., : i + 1, :], **given)
            for i in range(query.shape[-2])
        ]
        return torch.cat(rows, -2)


def _attention_parameters(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> None:
    """The parameters of torch's function, which tells none."""


def _spoilt(model: nn.Module, images: Tensor) -> dict[Key, Tensor]:
    """Which elements of each module's output are NaN: (n, *shape) bool, of n images."""

    def masks(image: Tensor) -> dict[Key, Tensor]:
        found: dict[Key, Tensor] = {}

        def note(call: Call, output: Any) -> None:
            for number, tensor in enumerate(tensors_of(output)):
                if tensor.is_floating_point():
                    found[call.name, call.number, number] = tensor.isnan()

        with watch_calls(model, note) as calls, _Causal():
            call_outermost(model, image[None], calls, note)
        return found

    # The fused attention of the CPU loses NaN where a score is taken for a masked one.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        # vmap says of each operation that it loops over, and a few are fine.
        warnings.simplefilter("ignore")
        try:
            return torch.vmap(masks)(images)
        except (RuntimeError, ValueError):
            # Some operations cannot be batched by vmap: one image at a time, then.
            each = [masks(image) for image in images]
    return {key: torch.stack([found[key] for found in each]) for key in each[0]}
