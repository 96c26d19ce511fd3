"""Operations that are taken as even round each element alike, wherever it stands in a tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rdfia_cli.sweep.stacking.kernels import Operations, least_slots, one_thread

ATEN = torch.ops.aten
FUNCTIONS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "add": lambda a, b, c: a + b,
    "multiply": lambda a, b, c: a * b,
    "divide": lambda a, b, c: a / b,
    "addcmul": torch.addcmul,
    "addcdiv": lambda a, b, c: torch.addcdiv(a, b, c, value=0.3),
    "lerp": lambda a, b, c: a.lerp(b, c.abs()),
    "tanh": lambda a, b, c: a.tanh(),
    "tanh backward": lambda a, b, c: ATEN.tanh_backward(a, b.tanh()),
    "relu": lambda a, b, c: F.relu(a),
    "threshold backward": lambda a, b, c: ATEN.threshold_backward(a, b, 0),
    "leaky relu": lambda a, b, c: F.leaky_relu(a),
    "hardswish": lambda a, b, c: F.hardswish(a),
    "hardswish backward": lambda a, b, c: ATEN.hardswish_backward(a, b),
    "hardsigmoid": lambda a, b, c: F.hardsigmoid(a),
    "log sigmoid": lambda a, b, c: F.logsigmoid(a),
    "square": lambda a, b, c: a**2,
    "cube": lambda a, b, c: a**3,
    "mean squared error": lambda a, b, c: ATEN.mse_loss(a, b, 0),
    "smooth l1": lambda a, b, c: ATEN.smooth_l1_loss(a, b, 0),
    "gelu": lambda a, b, c: F.gelu(a),
    "gelu backward": lambda a, b, c: ATEN.gelu_backward(a, b),
    **{
        name: lambda a, b, c, name=name: getattr(torch, name)(a)
        for name in (
            *("exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "sin", "cos", "tan"),
            *("asin", "acos", "atan", "erf", "erfc", "lgamma", "digamma"),
        )
    },
}
LEFT_OVER = 31
"""Fewer than two vectors of 16 floats: all are computed one by one."""


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_even_function_rounds_alike_in_a_vector_and_alone(name: str, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    count = LEFT_OVER * 640
    values = [2 * torch.randn(count, generator=generator).to(dtype) for _ in range(3)]
    with Operations() as operations:
        whole = FUNCTIONS[name](*values)
    if operations.uneven:
        assert name.startswith("gelu")
        assert dtype != torch.float32
        return
    pieces = [
        FUNCTIONS[name](*(v[i : i + LEFT_OVER].clone() for v in values))
        for i in range(0, count, LEFT_OVER)
    ]
    assert torch.equal(whole.nan_to_num(), torch.cat(pieces).nan_to_num())


@pytest.mark.parametrize(
    "function",
    [
        *(torch.sigmoid, F.silu, F.elu, F.softplus, F.mish, torch.rsqrt),
        lambda a: F.gelu(a, approximate="tanh"),
        lambda a: torch.add(a, a, alpha=0.3),
        lambda a: a**0.3,
        lambda a: a.sum(),
        lambda a: a.sum(0),
    ],
)
def test_what_may_round_by_its_place_is_not_taken_as_even(function: Callable[[Tensor], Tensor]):
    with Operations() as operations:
        function(torch.rand(4, 8))
    assert operations.uneven


def test_sums_over_interleaved_slots_are_even_only_in_whole_vectors():
    for columns, even in ((64, True), (63, False), (7, False)):
        rows = torch.rand(5, 3, columns).transpose(0, 1)
        with Operations() as operations:
            rows.sum(1)
        assert (not operations.uneven) == even


@pytest.mark.parametrize(
    ("function", "device", "least"),
    [
        (torch.tanh, "cpu", 2),
        (lambda x: F.conv2d(x, x), "cpu", 16),
        (torch.sigmoid, "cpu", 64),
        (torch.tanh, "meta", 64),
    ],
    ids=["even", "a convolution", "uneven", "elsewhere"],
)
def test_a_stack_has_as_many_slots_as_its_operations_need(
    function: Callable[[Tensor], Tensor], device: str, least: int
):
    inputs = torch.rand(2, 2, 3, 3)
    with Operations() as operations:
        function(inputs)
    assert least_slots(operations, torch.device(device)) == least


def test_one_thread_is_given_back():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
