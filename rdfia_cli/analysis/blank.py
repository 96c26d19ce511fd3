"""A model without numbers: built on the meta device unfilled, or copied there without a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rdfia_cli.analysis.graph import tensors_of

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


def shadow(model: nn.Module) -> nn.Module:
    """A copy on the meta device in evaluation mode, for which no number is copied.

    What is one tensor stays one, so that shared weights are shared. A model that is like that
    already is returned itself.
    """
    is_ready = not any(module.training for module in model.modules())
    if is_ready and all(tensor.is_meta for tensor in held_by(model)):
        return model
    return _copied(model, lambda tensor: torch.empty_like(tensor, device="meta"))


def with_numbers(model: nn.Module) -> nn.Module:
    """A copy on the CPU in evaluation mode."""
    return _copied(model, lambda tensor: tensor.to("cpu", copy=True))


@torch.no_grad()
def _copied(model: nn.Module, copy_of: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy whose tensors are made by a function, those too that autograd made."""
    copies: dict[int, Any] = {}
    for tensor in held_by(model):
        copied = copy_of(tensor.detach())
        is_weight = isinstance(tensor, nn.Parameter)
        copies[id(tensor)] = (
            nn.Parameter(copied, requires_grad=tensor.requires_grad) if is_weight else copied
        )
    return copy.deepcopy(model, copies).eval()


def held_by(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and the tensors that modules hold without saying so to torch."""
    for module in model.modules():
        # Those below it are visited by themselves.
        yield from tensors_of({k: v for k, v in vars(module).items() if k != "_modules"})
