"""The cost of a model, against formulas written here."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rdfia_cli.analysis.memory import estimate_memory
from rdfia_cli.analysis.parameters import Cost, count, measure
from rdfia_cli.models.cnn import cnn, lenet
from rdfia_cli.models.perceptron import mlp
from rdfia_cli.spec import InputSpec

MNIST = InputSpec((1, 28, 28), 10)
checks = settings(max_examples=50, deadline=None)


@checks
@given(features=st.integers(1, 50), outputs=st.integers(1, 50), bias=st.booleans())
def test_a_linear_layer_multiplies_every_input_by_every_weight(features, outputs, bias):
    cost = count(nn.Linear(features, outputs, bias=bias), InputSpec((features,), outputs))
    assert cost.macs == features * outputs
    assert cost.parameters == features * outputs + bias * outputs


@checks
@given(
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    groups=st.integers(1, 3),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    side=st.integers(5, 12),
)
def test_a_convolution_uses_each_weight_once_for_each_output_position(
    kernel, stride, padding, groups, inputs, outputs, side
):
    layer = nn.Conv2d(
        inputs * groups, outputs * groups, kernel, stride, padding, groups=groups, bias=False
    )
    cost = count(layer, InputSpec((inputs * groups, side, side), 2))
    weights = kernel**2 * inputs * outputs * groups
    positions = ((side + 2 * padding - kernel) // stride + 1) ** 2
    assert (cost.parameters, cost.macs) == (weights, weights * positions)


@pytest.mark.parametrize(
    ("build", "parameters", "macs"),
    [
        (mlp, 79_510, 784 * 100 + 100 * 10),
        # C1 28x28x6x25, C3 10x10x16x150, then the linear layers of LeNet-5.
        (lenet, 61_706, 117_600 + 240_000 + 400 * 120 + 120 * 84 + 84 * 10),
    ],
)
def test_the_models_of_the_course_cost_what_their_formulas_say(build, parameters: int, macs: int):
    cost = count(build(MNIST), MNIST)
    assert (cost.parameters, cost.macs) == (parameters, macs)


@pytest.mark.parametrize("tokens", [1, 17])
def test_attention_counts_its_projections_its_products_and_its_feed_forward(tokens: int):
    width, hidden = 12, 40
    layer = nn.TransformerEncoderLayer(width, 3, hidden, batch_first=True)
    projections = tokens * 4 * width**2
    products = 2 * tokens**2 * width
    feed_forward = tokens * 2 * width * hidden
    cost = count(layer, InputSpec((tokens, width), 2))
    assert cost.macs == projections + products + feed_forward


class Twice(nn.Module):
    """One layer used twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(7, 7)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs))


def test_shared_weights_are_counted_once_and_their_arithmetic_each_time():
    cost = count(Twice(), InputSpec((7,), 7))
    assert (cost.parameters, cost.macs) == (7 * 7 + 7, 2 * 7 * 7)


def test_frozen_weights_are_parameters_and_buffers_are_not():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4)).requires_grad_(False)
    assert count(model, InputSpec((1, 3, 3), 2)).parameters == 4 + 4 + 4 + 4


def test_a_model_too_large_for_the_memory_can_be_counted():
    with torch.device("meta"):
        model = nn.Linear(10**6, 10**6)
    assert count(model, InputSpec((10**6,), 10**6)).macs == 10**12


def test_counting_leaves_the_model_as_it_was():
    model = cnn(MNIST, dropout=0.5, batch_norm=True)
    before = copy.deepcopy(model.state_dict())
    count(model, MNIST)
    assert model.training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_batch_norm_of_one_position_can_be_counted():
    tiny = InputSpec((1, 1, 1), 10)
    model = cnn(tiny, batch_norm=True)
    assert count(model, tiny).macs == sum(p.numel() for p in model.parameters() if p.ndim > 1)


def test_counting_draws_nothing():
    model = cnn(MNIST, dropout=0.5)
    before = torch.get_rng_state()
    count(model, MNIST)
    assert torch.equal(torch.get_rng_state(), before)


class Holding(nn.Module):
    """Holds a tensor that is no buffer, makes one as it goes, and ties two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = torch.ones(7)
        self.first, self.second = nn.Linear(7, 7), nn.Linear(7, 7, bias=False)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs * self.mask)) + torch.arange(7)


def test_tensors_that_a_model_holds_or_makes_need_no_device():
    costs = measure(Holding(), InputSpec((7,), 7))
    assert (costs.total.parameters, costs.total.macs, costs.on_cpu) == (56, 98, False)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_a_weight_that_autograd_computed_can_be_counted():
    model = nn.utils.weight_norm(nn.Linear(5, 4))
    assert count(model, InputSpec((5,), 4)) == Cost(5 * 4 + 4 + 4, 20)


class Looking(nn.Module):
    """Looks at the numbers that it is fed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(7, 7)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) if inputs.sum().item() >= 0 else inputs


def test_a_model_that_needs_numbers_is_called_with_some():
    costs = measure(Looking(), InputSpec((7,), 7))
    assert (costs.total.macs, costs.on_cpu) == (49, True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_model_is_fed_the_type_of_its_weights_and_takes_its_memory(dtype: torch.dtype):
    costs = measure(nn.Linear(5, 4).to(dtype), InputSpec((5,), 4))
    assert costs.total.macs == 20
    assert estimate_memory(costs)["fp32"].weights == 24 * dtype.itemsize
