"""Building a model on the meta device without pretending to fill its weights with numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

FILLING = frozenset(
    {
        *("uniform_", "normal_", "trunc_normal_", "constant_", "zeros_", "ones_", "eye_", "dirac_"),
        *("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"),
        *("orthogonal_", "sparse_", "fill_", "zero_", "copy_", "exponential_", "bernoulli_"),
        *("add_", "sub_", "mul_", "div_", "clamp_", "erfinv_", "pow_", "log_", "exp_", "sqrt_"),
    }
)
"""Functions that change the values of a tensor and nothing else, the initialisations among them."""


class _Blank(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in FILLING:
            filled = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(filled, torch.Tensor) and filled.is_meta:
                return filled
        return func(*args, **(kwargs or {}))


def leaving_blank() -> _Blank:
    """A context in which nothing is done to the values of meta tensors, which have none.

    Most of the time to build a model on the meta device goes into finding out the shapes of
    initial values; here it takes a third.
    """
    return _Blank()
