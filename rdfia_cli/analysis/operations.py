"""The arithmetic of each operation: counted by a formula, free, or not known.

An operation is an overload of torch's dispatcher, what remains of a model's Python once composite
functions are taken apart. Three tables say it all: `PRODUCTS` are multiply-accumulates,
`SCALES` other arithmetic, `FREE` moves or makes values without any. What stands in none of them and
is not tagged pointwise by torch is not known, and whoever counts must say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from rdfia_cli.analysis.graph import tensors_of
from rdfia_cli.analysis.products import PRODUCTS, WITH_BIAS, Product

Convention = Literal["macs", "fvcore"]
Formula = Callable[[Sequence[Any], Any], int]
"""From the arguments and the output of an operation to a number."""


@dataclass(frozen=True)
class Work:
    """The arithmetic of one operation.

    Attributes:
        macs: multiply-accumulates.
        products: the matrix products that these are; none where they are of another kind.
        others: operations on numbers that are no multiply-accumulates, in elements computed.
        activations: the elements that a multiply-accumulate operation returns.
    """

    macs: int = 0
    others: int = 0
    activations: int = 0
    products: tuple[Product, ...] = ()


def _inputs(each: int) -> Formula:
    return lambda arguments, output: each * next(tensors_of(arguments[0])).numel()


def _outputs(each: int) -> Formula:
    return lambda arguments, output: each * next(tensors_of(output)).numel()


def _norm(weight_index: int) -> Formula:
    """Fvcore's estimate: 5 an element, 4 without weights."""

    def operations(arguments: Sequence[Any], output: Any) -> int:
        return arguments[0].numel() * (4 if arguments[weight_index] is None else 5)

    return operations


def _batch_norm(arguments: Sequence[Any], output: Any) -> int:
    """With known statistics a scale and a shift: 2 an element, 1 without weights (fvcore)."""
    inputs, weight = arguments[:2]
    is_measured = any(argument is True for argument in arguments[3:])
    each = 1 if weight is None else 2
    return inputs.numel() * (3 + each if is_measured else each)


def _pooling(arguments: Sequence[Any], output: Any) -> int:
    """Each output looks at the elements of its window."""
    window = arguments[1]
    pooled = next(tensors_of(output))
    axes = 3 if len(window) == 3 else 2
    return pooled.numel() * prod(window if len(window) > 1 else window * axes)


SCALES_OF_NORMS: Mapping[str, Formula] = {
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_batch_norm_with_update": lambda arguments, out: _batch_norm([*arguments[:3], True], out),
    "_batch_norm_no_update": _batch_norm,
    "cudnn_batch_norm": _batch_norm,
    "miopen_batch_norm": _batch_norm,
    "native_layer_norm": _norm(2),
    "_fused_rms_norm": _norm(2),
    "native_group_norm": _norm(1),
    **dict.fromkeys(
        ("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"), _outputs(1)
    ),
    **dict.fromkeys(("upsample_bilinear2d", "_upsample_bilinear2d_aa"), _outputs(4)),
    "_adaptive_avg_pool2d": _inputs(1),
    "grid_sampler_2d": _outputs(4),
    "cudnn_grid_sampler": _outputs(4),
}
"""What fvcore counts besides products, an operation on an element each; its estimates are kept."""

SCALES: Mapping[str, Formula] = {
    **SCALES_OF_NORMS,
    **dict.fromkeys(
        (
            *(
                "sum",
                "mean",
                "prod",
                "amax",
                "amin",
                "max",
                "min",
                "argmax",
                "argmin",
                "any",
                "all",
            ),
            *("var", "var_mean", "std", "std_mean", "norm", "linalg_vector_norm", "logsumexp"),
            *("cumsum", "cumprod", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "nansum"),
            *("native_dropout", "_thnn_fused_gru_cell", "glu", "col2im"),
        ),
        _inputs(1),
    ),
    # Of each weight a square in the norm of its row, and a factor.
    "_weight_norm_interface": _inputs(2),
    # Of each four gates: their sum, their functions, then six operations on the cell.
    "_thnn_fused_lstm_cell": lambda arguments, output: 13 * arguments[0].numel() // 4,
    # A maximum, a difference, an exponential, a sum and a quotient.
    **dict.fromkeys(("_softmax", "_safe_softmax", "_log_softmax"), _inputs(5)),
    **dict.fromkeys(
        (
            *("max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "avg_pool1d", "avg_pool3d"),
            *("max_pool3d_with_indices", "mkldnn_max_pool2d", "max_pool1d"),
        ),
        _pooling,
    ),
    **dict.fromkeys(("upsample_linear1d",), _outputs(2)),
    **dict.fromkeys(("upsample_trilinear3d",), _outputs(8)),
    **dict.fromkeys(("upsample_bicubic2d", "_upsample_bicubic2d_aa"), _outputs(16)),
    **dict.fromkeys(
        (
            *("hardswish", "_prelu_kernel", "prelu", "log_sigmoid_forward", "floor_divide"),
            *("linalg_cross", "renorm", "frac", "rsub"),
        ),
        _outputs(1),
    ),
}
"""Arithmetic that is no product of matrices, by operation; pointwise ones need no line."""

FREE = frozenset(
    {
        *("clone", "copy", "_to_copy", "to", "contiguous", "cat", "stack", "where", "masked_fill"),
        *("_unsafe_view", "_reshape_copy", "unsafe_split", "unsafe_chunk", "split_with_sizes_copy"),
        *("index", "index_select", "gather", "take", "embedding", "index_put", "masked_select"),
        *(
            "_unsafe_index",
            "scatter",
            "index_copy",
            "index_fill",
            "slice_scatter",
            "select_scatter",
        ),
        *("roll", "flip", "rot90", "repeat", "repeat_interleave", "constant_pad_nd", "im2col"),
        *("reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "pixel_unshuffle"),
        *("replication_pad1d", "replication_pad2d", "replication_pad3d", "pixel_shuffle"),
        *("channel_shuffle", "native_channel_shuffle", "tril", "triu", "diag_embed", "block_diag"),
        *("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_full"),
        *("new_empty_strided", "new_zeros", "new_ones", "zeros", "zeros_like", "ones", "ones_like"),
        *("full", "full_like", "fill", "zero", "arange", "linspace", "eye", "scalar_tensor"),
        *("lift_fresh", "lift_fresh_copy", "detach", "alias", "set", "resize", "as_strided"),
        *("tril_indices", "triu_indices", "meshgrid", "nonzero", "is_same_size", "squeeze"),
        *("rand", "randn", "rand_like", "randn_like", "bernoulli", "uniform", "normal", "randperm"),
        *("sym_size", "sym_numel", "sym_stride", "_local_scalar_dense", "item", "unsqueeze"),
        *("_pack_padded_sequence",),
        *("transpose", "t", "to_mkldnn", "to_dense", "_mkldnn_reshape", "_mkldnn_transpose"),
        *("record_stream", "_assert_async", "_assert_tensor_metadata", "sort", "topk", "unbind"),
    }
)
"""Operations that move, choose or make values and compute none from others."""


@lru_cache(maxsize=4096)
def _kind(operation: Any) -> tuple[str, str]:
    """Which table an operation stands in, and its name there: in place or not is one."""
    namespace, _, name = operation.name().partition("::")
    name = name.partition(".")[0]
    name = name if name.startswith("__") else name.removesuffix("_")
    if namespace == "aten" or namespace == "mkldnn":
        for kind, table in (("product", PRODUCTS), ("scale", SCALES), ("free", FREE)):
            if name in table:
                return kind, name
    if operation.is_view or namespace == "prim":
        return "free", name
    return ("pointwise" if torch.Tag.pointwise in operation.tags else "unknown"), name


def _adds_bias(name: str, arguments: Sequence[Any]) -> bool:
    """Whether a product adds something too, which as an operation of its own would count."""
    if name in WITH_BIAS:
        return any(isinstance(argument, Tensor) for argument in arguments[2:4])
    return name.startswith(("add", "badd", "_addmm"))


def work_of(
    operation: Any, arguments: Sequence[Any], output: Any, convention: Convention
) -> Work | None:
    """The arithmetic of one call of an operation, or None where nobody knows.

    Args:
        operation: an overload, as a dispatch mode gets it.
        arguments: the positional arguments; only their shapes matter.
        output: what it returned.
        convention: whether norms and resampling are multiply-accumulates, as fvcore has it.
    """
    kind, name = _kind(operation)
    if kind == "product":
        products = tuple(PRODUCTS[name](arguments, output))
        macs = sum(product.macs for product in products)
        returned = next(tensors_of(output)).numel()
        if "_attention" in name:
            # Its scores too, which it returns to nobody: fused or not, the figure is one.
            returned += macs // (arguments[0].shape[-1] + arguments[2].shape[-1])
        biases = returned if _adds_bias(name, arguments) else 0
        return Work(macs, biases, returned, products)
    if kind == "scale":
        amount = SCALES[name](arguments, output)
        is_mac = convention == "fvcore" and name in SCALES_OF_NORMS
        return Work(macs=amount) if is_mac else Work(others=amount)
    if kind == "pointwise":
        return Work(others=sum(tensor.numel() for tensor in tensors_of(output)))
    return Work() if kind == "free" else None
