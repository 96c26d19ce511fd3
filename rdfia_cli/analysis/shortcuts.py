"""What the meta device takes long to find out: the shapes of frequent operations' results.

A shortcut answers only where torch would: unless shapes and types fit it returns NotImplemented and
torch is asked, which raises what it raises everywhere. What the meta device alone lets pass is
refused here too: a model that cannot run has no cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def _blank(like: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device="meta")


def _is_plain(tensor: Tensor) -> bool:
    """Whether what a function of each element returns has this tensor's type and layout."""
    return tensor.is_meta and tensor.is_floating_point() and tensor.is_contiguous()


def _fits(tensor: Tensor | None, like: Tensor, shape: Sequence[int]) -> bool:
    """Whether an operand that may be missing has the other's type and device, and a shape."""
    if tensor is None:
        return True
    is_alike = tensor.is_meta and tensor.dtype == like.dtype
    return is_alike and tuple(tensor.shape) == tuple(shape)


def _broadcasts_to(shape: Sequence[int], whole: Sequence[int]) -> bool:
    """Whether a tensor can be stretched to a shape, which stays as it is."""
    if len(shape) > len(whole):
        return False
    pairs = zip(reversed(shape), reversed(whole), strict=False)
    return all(size in (1, full) for size, full in pairs)


def _are_axes(axes: Sequence[int], tensor: Tensor) -> bool:
    """Whether these are axes of a tensor, each once."""
    is_each = all(-tensor.ndim <= axis < tensor.ndim for axis in axes)
    return is_each and len({axis % tensor.ndim for axis in axes}) == len(axes)


def _like_first(func: Any, arguments: Sequence[Any]) -> Any:
    first, *others = arguments
    if not _is_plain(first) or any(isinstance(other, complex) for other in others):
        return NotImplemented
    return _blank(first, first.shape)


def _softmax(func: Any, arguments: Sequence[Any]) -> Any:
    inputs, axis, *widens = arguments
    if any(widens) or not _are_axes((axis,), inputs):
        return NotImplemented
    return _like_first(func, arguments)


def _roll(func: Any, arguments: Sequence[Any]) -> Any:
    inputs, shifts, *axes = arguments
    # Without axes all elements are one row.
    if axes and not (len(shifts) == len(axes[0]) and _are_axes(axes[0], inputs)):
        return NotImplemented
    return _like_first(func, arguments)


def _itself(func: Any, arguments: Sequence[Any]) -> Any:
    first, *others = arguments
    if not _is_plain(first) or any(isinstance(other, complex) for other in others):
        return NotImplemented
    tensors = [other for other in others if isinstance(other, Tensor)]
    fit = all(not x.is_complex() and _broadcasts_to(x.shape, first.shape) for x in tensors)
    return first if fit and all(x.is_meta for x in tensors) else NotImplemented


def _like_both(func: Any, arguments: Sequence[Any]) -> Any:
    first, second = arguments[:2]
    if not isinstance(second, Tensor):
        return _like_first(func, arguments)
    if first.dtype != second.dtype or not (_is_plain(first) and _is_plain(second)):
        return NotImplemented
    if first.shape == second.shape:
        return _blank(first, first.shape)
    return _blank(first, torch.broadcast_shapes(first.shape, second.shape))


def _batch_norm(func: Any, arguments: Sequence[Any]) -> Any:
    inputs, *vectors, trains = arguments[:6]
    channels = inputs.shape[1:2]
    if not _is_plain(inputs) or not all(_fits(vector, inputs, channels) for vector in vectors):
        return NotImplemented
    # By running statistics it computes none to keep, though the meta device returns some.
    statistics = channels if trains else (0,)
    return tuple(_blank(inputs, shape) for shape in (inputs.shape, statistics, statistics))


def _layer_norm(func: Any, arguments: Sequence[Any]) -> Any:
    inputs, shape, *affine = arguments[:4]
    leading = inputs.ndim - len(shape)
    is_tail = leading >= 0 and tuple(inputs.shape[leading:]) == tuple(shape)
    fit = is_tail and all(_fits(operand, inputs, shape) for operand in affine)
    if not fit or not inputs.is_meta or not inputs.is_floating_point():
        return NotImplemented
    statistics = (*inputs.shape[:leading], *[1] * len(shape))
    return tuple(_blank(inputs, shape) for shape in (inputs.shape, statistics, statistics))


def _group_norm(func: Any, arguments: Sequence[Any]) -> Any:
    inputs, *affine, images, channels, _, groups = arguments[:7]
    if not _is_plain(inputs) or not all(_fits(vector, inputs, (channels,)) for vector in affine):
        return NotImplemented
    statistics = (images, groups)
    return tuple(_blank(inputs, shape) for shape in (inputs.shape, statistics, statistics))


def _addmm(func: Any, arguments: Sequence[Any]) -> Any:
    bias, left, right = arguments
    is_alike = all(x.is_meta and x.dtype == left.dtype for x in (bias, left, right))
    if not is_alike or left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
        return NotImplemented
    shape = (left.shape[0], right.shape[1])
    return _blank(left, shape) if _broadcasts_to(bias.shape, shape) else NotImplemented


def _mean(func: Any, arguments: Sequence[Any]) -> Any:
    inputs, axes, *rest = arguments
    if not _is_plain(inputs) or not axes or len(rest) > 1 or not _are_axes(axes, inputs):
        return NotImplemented
    gone = {axis % inputs.ndim for axis in axes}
    keep = bool(rest and rest[0])
    sizes = [
        1 if index in gone else size
        for index, size in enumerate(inputs.shape)
        if keep or index not in gone
    ]
    return _blank(inputs, sizes)


SHORTCUTS: Mapping[str, Callable[[Any, Sequence[Any]], Any]] = {
    **{
        f"aten::{name}": _like_first
        for name in (
            *("relu", "gelu", "silu", "sigmoid", "tanh", "hardsigmoid", "hardswish", "mish"),
            *("mul.Scalar", "add.Scalar", "exp", "rsqrt"),
        )
    },
    **{
        f"aten::{name}_": _itself
        for name in ("relu", "silu", "hardswish", "hardtanh", "mish", "leaky_relu", "sigmoid")
    },
    **{f"aten::{name}.Tensor": _like_both for name in ("add", "sub", "mul", "div")},
    **{f"aten::{name}_.Tensor": _itself for name in ("add", "mul", "sub", "div")},
    **dict.fromkeys(("aten::_softmax", "aten::_safe_softmax"), _softmax),
    "aten::roll": _roll,
    "aten::native_batch_norm": _batch_norm,
    "aten::native_layer_norm": _layer_norm,
    "aten::native_group_norm": _group_norm,
    "aten::addmm": _addmm,
    "aten::mean.dim": _mean,
}
"""The result of an operation by its name and arguments, or NotImplemented: ask torch."""


def _refuse_mixed_product(arguments: Sequence[Any]) -> None:
    types = {operand.dtype for operand in arguments if isinstance(operand, Tensor)}
    if len(types) > 1:
        raise RuntimeError(f"the operands of a product are {_listed(types)}")


def _refuse_mixed_norm(arguments: Sequence[Any]) -> None:
    """Inputs of half precision may meet weights of single precision, and nothing else mixes."""
    inputs, *weights = (operand for operand in arguments if isinstance(operand, Tensor))
    types = {weight.dtype for weight in weights} - {inputs.dtype}
    if inputs.dtype in (torch.float16, torch.bfloat16):
        types -= {torch.float32}
    if types:
        raise RuntimeError(f"a norm of {inputs.dtype} has weights of {_listed(types)}")


def _listed(types: set[torch.dtype]) -> str:
    return " and ".join(sorted(map(str, types)))


def _refuse_axis(arguments: Sequence[Any]) -> None:
    inputs, axis = arguments[:2]
    bound = max(inputs.ndim, 1)
    if not -bound <= axis < bound:
        raise IndexError(f"there is no axis {axis} in {tuple(inputs.shape)}")


def _refuse_complex(arguments: Sequence[Any]) -> None:
    first, second = arguments[:2]
    is_complex = second.is_complex() if isinstance(second, Tensor) else type(second) is complex
    if is_complex and not first.is_complex():
        raise RuntimeError(f"a complex number cannot be written into {first.dtype}")


REFUSALS: Mapping[str, Callable[[Sequence[Any]], None]] = {
    **dict.fromkeys(
        (f"aten::{name}" for name in ("mm", "bmm", "addmm", "baddbmm")), _refuse_mixed_product
    ),
    **dict.fromkeys(
        (f"aten::native_{name}_norm" for name in ("batch", "layer", "group")), _refuse_mixed_norm
    ),
    **dict.fromkeys(
        (f"aten::{name}" for name in ("_softmax", "_safe_softmax", "_log_softmax")), _refuse_axis
    ),
    **{f"aten::{name}_.Tensor": _refuse_complex for name in ("add", "mul", "sub", "div")},
}
"""What every device refuses but the meta device."""


def refuse(func: Any, arguments: Sequence[Any]) -> None:
    """Raise what every device raises for operands that do not fit, but the meta device does not."""
    check = REFUSALS.get(func.name())
    if check is not None and arguments[0].is_meta:
        check(arguments)


def shortcut(func: Any, arguments: Sequence[Any]) -> Any:
    """The result of a frequent operation on meta tensors, or NotImplemented: ask torch."""
    known = SHORTCUTS.get(func.name())
    return NotImplemented if known is None else known(func, arguments)
