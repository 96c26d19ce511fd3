"""Whether two models may be trained in one computation: the whole tree of modules is compared.

One module then stands for all, with the tensors of each: whatever else decides what it computes
must be equal, and what is not understood counts as different.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn

TENSORS = frozenset({"_parameters", "_buffers", "_modules"})
RATES: Mapping[type, str] = {nn.Dropout: "p"}
"""Settings that a stack takes for each trial: the rate of dropout."""
MODE = "training"
"""A stack sets the modes of its modules itself; how a trial left its own is no matter."""


def find_difference(one: nn.Module, other: nn.Module) -> str | None:
    """Why two models cannot share a computation, in words; None where they can."""
    ours = dict(one.named_modules(remove_duplicate=False))
    theirs = dict(other.named_modules(remove_duplicate=False))
    if list(ours) != list(theirs):
        return "their modules have other names"
    if _tying(one) != _tying(other):
        return "they share other tensors"
    for name, module in ours.items():
        difference = _find_in_module(module, theirs[name])
        if difference is not None:
            return f"{name or 'the model'} {difference}"
    return None


def _tying(model: nn.Module) -> list[str]:
    """For each tensor by name, the first name of the same one."""
    first: dict[int, str] = {}
    found: list[str] = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.append(first.setdefault(id(parameter), name))
    for name, buffer in model.named_buffers(remove_duplicate=False):
        found.append(first.setdefault(id(buffer), name))
    return found


def _find_in_module(ours: nn.Module, theirs: nn.Module) -> str | None:
    if type(ours) is not type(theirs):
        return f"is {type(ours).__name__} and {type(theirs).__name__}"
    mine, others = vars(ours), vars(theirs)
    if mine.keys() != others.keys():
        return "has other attributes"
    for kind in ("_parameters", "_buffers"):
        if (name := _find_in_tensors(mine[kind], others[kind])) is not None:
            return f"has another '{name}'"
    apart = {*TENSORS, MODE, RATES.get(type(ours))}
    for key, value in mine.items():
        if key not in apart and not equal(value, others[key]):
            return f"has another {key}"
    return None


def _find_in_tensors(
    ours: Mapping[str, Tensor | None], theirs: Mapping[str, Tensor | None]
) -> str | None:
    """The name of a tensor that is of another kind; the values may differ."""
    if ours.keys() != theirs.keys():
        return next(iter(ours.keys() ^ theirs.keys()))
    for name, tensor in ours.items():
        other = theirs[name]
        if tensor is None or other is None:
            if tensor is not other:
                return name
        elif _kind(tensor) != _kind(other):
            return name
    return None


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return type(tensor), tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad


def equal(one: Any, other: Any) -> bool:
    """Whether two attributes are known to be equal."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return _kind(one) == _kind(other) and torch.equal(one, other)
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(equal(v, other[k]) for k, v in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, Set | str | bytes | int | float | complex | torch.Size):
        return one == other
    if isinstance(one, functools.partial):
        same = one.func is other.func
        return same and equal(one.args, other.args) and equal(one.keywords, other.keywords)
    plain = (torch.dtype, torch.device, torch.memory_format, torch.layout, slice, range)
    return isinstance(one, plain) and one == other
