"""The matrix products that an operation consists of: all multiply-accumulates are of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from rdfia_cli.analysis.graph import tensors_of


@dataclass(frozen=True)
class Product:
    """Some products of a matrix (rows, inner) by a matrix (inner, columns).

    Attributes:
        times: how many there are: of heads, of groups, of examples that do not share a matrix.
    """

    times: int
    rows: int
    inner: int
    columns: int

    @property
    def macs(self) -> int:
        """Each row meets each column, element by element."""
        return self.times * self.rows * self.inner * self.columns


Products = Callable[[Sequence[Any], Any], Iterator[Product]]
"""From the arguments and the output of an operation to its products."""


def _convolution(arguments: Sequence[Any], output: Tensor) -> Iterator[Product]:
    """Each weight meets each position once: of the output, or of the input if transposed."""
    inputs, weight = arguments[:2]
    is_transposed = len(arguments) > 6 and arguments[6] is True
    positions = inputs if is_transposed else output
    batch_axis = positions.shape[: positions.ndim - (weight.ndim - 1)]
    rows = prod(batch_axis) * prod(positions.shape[-(weight.ndim - 2) :])
    channels = inputs.shape[inputs.ndim - (weight.ndim - 1)]
    taps = prod(weight.shape[2:])
    if is_transposed:
        # The weight (C_in, C_out / groups, ...) stands the other way round, and tells no groups.
        yield Product(1, rows, weight.shape[0], weight.shape[1] * taps)
        return
    groups = channels // max(weight.shape[1], 1)
    yield Product(groups, rows, weight.shape[1] * taps, weight.shape[0] // max(groups, 1))


def _transposed_convolution(arguments: Sequence[Any], output: Tensor) -> Iterator[Product]:
    return _convolution([*arguments[:2], *[None] * 4, True], output)


def _product(first: int) -> Products:
    """(..., N, K) by (..., K, M), the two operands standing from index `first` on."""

    def products(arguments: Sequence[Any], output: Tensor) -> Iterator[Product]:
        left, right = arguments[first : first + 2]
        *leading, inner = left.shape
        columns = right.shape[-1] if right.ndim > 1 else 1
        rows = leading.pop() if leading else 1
        yield Product(prod(leading), rows, inner, columns)

    return products


def _linear(arguments: Sequence[Any], output: Tensor) -> Iterator[Product]:
    inputs, weight = arguments[:2]
    yield Product(1, prod(inputs.shape[:-1]), inputs.shape[-1], weight.shape[0])


def _attention(tokens_axis: int) -> Products:
    """Queries by keys and scores by values, the masked ones too: kernels may skip those or not."""

    def products(arguments: Sequence[Any], output: Any) -> Iterator[Product]:
        query, key, value = arguments[:3]
        queries, keys = query.shape[tokens_axis], key.shape[tokens_axis]
        heads = query.numel() // max(query.shape[-1] * queries, 1)
        yield Product(heads, queries, query.shape[-1], keys)
        yield Product(heads, queries, keys, value.shape[-1])

    return products


def _recurrence(arguments: Sequence[Any], output: Any) -> Iterator[Product]:
    """Each weight matrix of a recurrent layer meets each step of each sequence once."""
    inputs, *weights = tensors_of(list(arguments[:5]))
    steps = prod(inputs.shape[:-1])
    for weight in weights:
        if weight.ndim == 2:
            yield Product(1, steps, weight.shape[1], weight.shape[0])


def _trilinear(arguments: Sequence[Any], output: Tensor) -> Iterator[Product]:
    """The products of three operands, each with axes of size 1 put in; some axes are summed."""
    expanded = zip(arguments[:3], arguments[3:6], strict=True)
    shapes = [_unsqueezed(operand.shape, axes) for operand, axes in expanded]
    whole = prod(torch.broadcast_shapes(*shapes))
    yield Product(1, output.numel(), whole // max(output.numel(), 1), 1)


def _unsqueezed(shape: Sequence[int], axes: Sequence[int]) -> list[int]:
    sizes = list(shape)
    for axis in sorted(axes):
        sizes.insert(axis, 1)
    return sizes


CONVOLUTIONS = (
    *("convolution", "_convolution", "convolution_overrideable", "cudnn_convolution"),
    *("mkldnn_convolution", "miopen_convolution", "miopen_depthwise_convolution"),
    *("_slow_conv2d_forward", "slow_conv3d_forward", "slow_conv_dilated2d"),
    *("slow_conv_dilated3d", "_conv_depthwise2d", "conv_depthwise3d", "mps_convolution"),
)
TRANSPOSED = (
    *("cudnn_convolution_transpose", "miopen_convolution_transpose"),
    *("slow_conv_transpose2d", "slow_conv_transpose3d"),
)
LINEAR = ("linear", "mkldnn_linear", "_mps_linear")
WITH_BIAS = frozenset({*CONVOLUTIONS, *TRANSPOSED, *LINEAR})
"""Operations that take a bias as one of their arguments 2 and 3."""

PRODUCTS: Mapping[str, Products] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(TRANSPOSED, _transposed_convolution),
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot", "_scaled_mm", "_int_mm"), _product(0)),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "addmv", "_addmm_activation"), _product(1)),
    **dict.fromkeys(LINEAR, _linear),
    **dict.fromkeys(
        (
            *("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"),
            *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_cudnn_attention"),
            *("_scaled_dot_product_fused_attention_overrideable",),
            "_scaled_dot_product_attention_math_for_mps",
        ),
        _attention(-2),
    ),
    **dict.fromkeys(("_flash_attention_forward", "_efficient_attention_forward"), _attention(1)),
    **dict.fromkeys(("_cudnn_rnn", "miopen_rnn", "mkldnn_rnn_layer", "_lstm_mps"), _recurrence),
    "_trilinear": _trilinear,
}
"""Matrix products by operation."""
