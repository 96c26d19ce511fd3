"""What keeps a stack's kernels from treating its trials unlike, so that company changes no bit.

Three things do. A kernel for vectors computes the last elements of a tensor one by one, and some
functions (sigmoid, ELU) round otherwise there: a model with such functions gets a number of slots
that leaves no element over. Several threads divide a tensor wherever it comes out: a stack computes
in one, and the processors are shared out to stacks. And MKL's matrix products round by how their
operands lie in memory, unless told not to, as `assembly` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

MOST_TRIALS = 64
"""Trials in a stack at most."""
LEAST_SLOTS = 2
"""One trial alone would take other kernels than several."""
WHOLE_VECTORS = 32
"""Two vectors of 16 floats, which a kernel for AVX-512 computes at once; others take fewer."""

_VIEWS = """alias as_strided cat clone contiguous copy detach empty empty_like empty_strided expand
fill full full_like index_select lift_fresh movedim new_empty new_empty_strided new_full new_zeros
ones ones_like permute pixel_shuffle pixel_unshuffle repeat reshape roll scalar_tensor select
select_backward slice slice_backward split split_with_sizes squeeze stack t to transpose unbind
unfold unsqueeze view zero zeros zeros_like _reshape_alias _to_copy _unsafe_view"""
_EXACT = """abs add bitwise_and bitwise_not bitwise_or ceil clamp clamp_max clamp_min div eq
floor ge gt hardtanh hardtanh_backward isfinite isnan le leaky_relu leaky_relu_backward logical_and
logical_not logical_or lt masked_fill maximum minimum mul ne neg reciprocal relu round rsub sign
sqrt square sub threshold threshold_backward trunc where"""
_MEASURED = """acos addcdiv addcmul asin atan cos digamma erf erfc exp expm1 hardsigmoid hardswish
hardswish_backward lerp lgamma log log10 log1p log2 log_sigmoid_forward mse_loss rsqrt sin
smooth_l1_loss tan tanh tanh_backward"""
_BY_SLOT = """_adaptive_avg_pool2d _adaptive_avg_pool2d_backward _log_softmax
_log_softmax_backward_data _scaled_dot_product_flash_attention_for_cpu
_scaled_dot_product_flash_attention_for_cpu_backward _softmax _softmax_backward_data amax amin
avg_pool2d avg_pool2d_backward baddbmm bmm convolution convolution_backward cumsum logsumexp
max_pool2d_with_indices max_pool2d_with_indices_backward mean native_batch_norm
native_batch_norm_backward native_group_norm native_group_norm_backward native_layer_norm
native_layer_norm_backward prod std sum var"""
EVEN = frozenset(" ".join((_VIEWS, _EXACT, _MEASURED, _BY_SLOT)).split())
"""Operations that round each element alike wherever it stands: they move it, or round once (IEEE
754), or were measured to, element by element or slot by slot, in float32 and float64."""
JOINING = frozenset({"addmm", "addmv", "dot", "mm", "mv"})
"""Products of two matrices for all slots, whose bits may depend on how many there are."""


def slots_for(trials: int, *, even: bool, device: torch.device) -> int:
    """How many slots a stack of some trials has; those left over repeat a trial.

    Args:
        trials: how many, up to `MOST_TRIALS`.
        even: the model's operations are all in `EVEN`.
        device: elsewhere than on a CPU kernels are chosen by size, so that the size stays.
    """
    if device.type != "cpu":
        return MOST_TRIALS
    if even:
        return max(LEAST_SLOTS, trials)
    return -(-trials // WHOLE_VECTORS) * WHOLE_VECTORS


@contextlib.contextmanager
def one_thread() -> Generator[None]:
    """Compute in one thread meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Operations(TorchDispatchMode):
    """Notes the operations that are computed within it.

    Attributes:
        seen: their names, without the underscore of those that are made in place.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Asking the compiler to leave this alone would import it.
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.seen.add(func.overloadpacket.__name__.removesuffix("_"))
        return func(*args, **(kwargs or {}))

    @property
    def joins(self) -> bool:
        """Whether some of them join all slots into one product."""
        return not self.seen.isdisjoint(JOINING)

    @property
    def even(self) -> bool:
        """Whether all of them round alike wherever an element stands."""
        return self.seen <= EVEN
