"""What keeps a stack's kernels from treating its trials unlike, so that company changes no bit.

Four things do. A kernel for vectors computes what is left over at the end of a tensor one by one,
and some functions (sigmoid, ELU) round otherwise there, as do sums over what is not laid out trial
after trial: models with such operations get the same number of slots always. Several threads divide
a tensor wherever it comes out: a stack computes in one, and the processors are shared out to
stacks. A grouped convolution of a few channels has a kernel of its own: a stack of such models has
some slots at least. And MKL's matrix products round by how their operands lie in memory, unless
told not to, as `assembly` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

MOST_TRIALS = 64
"""Trials in a stack at most, and the slots of one whose operations are not even: four vectors of 16
floats, the most that a kernel for AVX-512 computes at once, so that nothing is ever left over."""
VECTORS_AT_ONCE = 4 * 64
"""Bytes of the vectors that a sum goes through at once with AVX-512."""
LEAST_SLOTS = 2
"""One trial alone would take other kernels than several."""
LEAST_CONVOLVING = 16
"""As many as a vector of AVX-512 has floats: a grouped convolution of fewer channels, such as one
of few trials on images of one channel, is computed by another kernel."""

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
hardswish_backward lerp lgamma log log10 log1p log2 log_sigmoid_forward mse_loss sin
smooth_l1_loss tan tanh tanh_backward"""
_BY_SLOT = """_adaptive_avg_pool2d _adaptive_avg_pool2d_backward _log_softmax
_log_softmax_backward_data _scaled_dot_product_flash_attention_for_cpu
_scaled_dot_product_flash_attention_for_cpu_backward _softmax _softmax_backward_data avg_pool2d
avg_pool2d_backward baddbmm bmm convolution convolution_backward cumsum max_pool2d_with_indices
max_pool2d_with_indices_backward native_batch_norm native_batch_norm_backward native_group_norm
native_group_norm_backward native_layer_norm native_layer_norm_backward"""
EVEN = frozenset(" ".join((_VIEWS, _EXACT, _MEASURED, _BY_SLOT)).split())
"""Operations that round each element alike wherever it stands: they move it, or round once (IEEE
754), or were measured to, element by element or slot by slot, in bf16, fp32 and fp64."""
REDUCTIONS = frozenset({"amax", "amin", "logsumexp", "mean", "prod", "std", "sum", "var"})
"""Those that are even by how the slots lie in memory."""
EVEN_BUT_IN_DOUBLE = frozenset({"gelu", "gelu_backward"})
"""The same of those that do so but in double precision, and in bf16 with AVX-512 alone."""
EVEN_BUT_SCALED = frozenset({"add", "rsub", "sub"})
"""Those that do so unless they multiply by a number besides."""
EVEN_POWERS = (1, 2, 3)
"""Powers that are products."""
JOINING = frozenset({"addmm", "addmv", "dot", "mm", "mv"})
"""Products of two matrices for all slots, whose bits may depend on how many there are."""


def least_slots(operations: Operations, device: torch.device) -> int:
    """How many slots a stack has at least; those left over repeat a trial.

    Args:
        operations: those of the models' steps and scoring.
        device: elsewhere than on a CPU kernels are chosen by size, so that the size stays.
    """
    if operations.uneven or device.type != "cpu":
        return MOST_TRIALS
    return LEAST_CONVOLVING if operations.convolving else LEAST_SLOTS


@contextlib.contextmanager
def one_thread() -> Generator[None]:
    """Compute in one thread meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    # What `vmap` computes for one slot after the other is no matter for the user.
    torch._C._functorch._set_vmap_fallback_warning_enabled(False)  # pyright: ignore
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Operations(TorchDispatchMode):
    """Notes the operations that are computed within it.

    Attributes:
        uneven: the names of those that are not known to be even.
        joining: the names of those that join all slots into one product.
        convolving: whether there is a convolution among them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.uneven: set[str] = set()
        self.joining: set[str] = set()
        self.convolving = False

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
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__.removesuffix("_")
        self.convolving |= name == "convolution"
        if name in JOINING:
            self.joining.add(name)
        elif not _is_even(name, args, kwargs):
            self.uneven.add(name)
        return func(*args, **kwargs)


def _is_even(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    if name in EVEN_BUT_IN_DOUBLE:
        kinds = {torch.float32: True, torch.bfloat16: _has_avx512()}
        return kinds.get(args[0].dtype, False) and kwargs.get("approximate", "none") == "none"
    if name in REDUCTIONS:
        return len(args) > 1 and _is_reduced_evenly(args[0], args[1])
    if name == "pow":
        return args[1] in EVEN_POWERS
    scaled = name in EVEN_BUT_SCALED and (len(args) > 2 or kwargs.get("alpha", 1) != 1)
    return name in EVEN and not scaled


def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _is_reduced_evenly(tensor: torch.Tensor, axes: Any) -> bool:
    """Whether a reduction goes through every slot, along the first axis, in the same way.

    It does where the slots lie one after the other; where each result is a sum of neighbours; and
    where it goes through rows in which each slot has whole groups of vectors.
    """
    listed = [axes] if isinstance(axes, int) else axes or range(tensor.ndim)
    reduced = {axis % tensor.ndim for axis in listed}
    others = [
        (stride, axis)
        for axis, (stride, size) in enumerate(zip(tensor.stride(), tensor.shape, strict=True))
        if axis and size > 1
    ]
    if 0 in reduced or any(stride == 0 for stride, _ in others):
        return False
    own = tensor.stride(0)
    if not others or max(others)[0] < own or min(others)[1] in reduced:
        return True
    within = [axis for stride, axis in others if stride < own]
    dense = own == prod(tensor.shape[axis] for axis in within)
    whole = own * tensor.element_size() % VECTORS_AT_ONCE == 0
    return dense and whole and reduced.isdisjoint(within)
