"""Attention by two ways that agree to rounding: three products written out, or the fused kernel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EXPLICIT_UP_TO = 1025
"""Tokens up to which attention is written out in bf16 on a CPU.

Measured by `benchmarks/attention.py`: forward and backward, the fused kernel takes 6.2 times as
long at 17 tokens and 1.6 times at 1,025, the longest tried. In fp32 it is the faster one at most
lengths.
"""


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """`softmax(q k^T / sqrt(d)) v`, (B, H, T, d), by the way that is faster here.

    Args:
        queries: (B, H, T, d).
        keys: (B, H, T, d).
        values: (B, H, T, d).
    """
    on_cpu_in_bf16 = queries.device.type == "cpu" and queries.dtype == torch.bfloat16
    if (on_cpu_in_bf16 and keys.shape[-2] <= EXPLICIT_UP_TO) or _is_stacked(queries):
        return attention_probabilities(queries, keys) @ values
    return F.scaled_dot_product_attention(queries, keys, values)


def attention_probabilities(queries: Tensor, keys: Tensor) -> Tensor:
    """`softmax(q k^T / sqrt(d))`, (B, H, T, T); each row sums to 1.

    Args:
        queries: (B, H, T, d).
        keys: (B, H, T, d).
    """
    scaled = queries * queries.shape[-1] ** -0.5
    return (scaled @ keys.mT).softmax(-1)


def _is_stacked(tensor: Tensor) -> bool:
    """Whether it stands for those of many models, which the fused kernel takes one by one."""
    return torch._C._functorch.is_batchedtensor(tensor)  # pyright: ignore
