"""The convolutional networks of the course, counted layer by layer."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rdfia_cli.analysis.parameters import count
from rdfia_cli.errors import ComponentError
from rdfia_cli.models.cnn import cnn, lenet
from rdfia_cli.spec import InputSpec

CROPPED = InputSpec((3, 28, 28), 10)
CIFAR = InputSpec((3, 32, 32), 10)
LAYERS = ("conv1", "conv2", "conv3", "linear1", "linear2")


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("input", [CROPPED, CIFAR], ids=["28", "32"])
def test_the_cnn_of_the_course_has_1191170_parameters(input: InputSpec):
    assert parameters(cnn(input)) == 1_191_170
    assert count(cnn(input), input).parameters == 1_191_170


def test_the_cnn_has_1190000_weights_and_1170_biases_layer_by_layer():
    model = cnn(CROPPED)
    weights = [model.get_submodule(name).weight.numel() for name in LAYERS]
    biases = [model.get_submodule(name).bias.numel() for name in LAYERS]
    assert weights == [2_400, 51_200, 102_400, 1_024_000, 10_000]
    assert sum(weights) == 1_190_000
    assert biases == [32, 64, 64, 1_000, 10]
    assert sum(biases) == 1_170


def test_batch_normalisation_adds_320_parameters():
    assert parameters(cnn(CROPPED, batch_norm=True)) == 1_191_170 + 320


def test_dropout_adds_no_parameters():
    assert parameters(cnn(CROPPED, dropout=0.5)) == 1_191_170


def kinds(model: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in model]


def test_the_plain_cnn_is_three_convolutions_and_two_linear_layers():
    assert kinds(cnn(CROPPED)) == [
        *["Conv2d", "MaxPool2d", "ReLU"] * 3,
        *["Flatten", "Linear", "ReLU", "Linear"],
    ]


def test_batch_normalisation_stands_right_after_each_convolution_before_relu():
    assert kinds(cnn(CROPPED, batch_norm=True)) == [
        *["Conv2d", "BatchNorm2d", "MaxPool2d", "ReLU"] * 3,
        *["Flatten", "Linear", "ReLU", "Linear"],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_relu_after_pooling_gives_the_bits_of_the_course_s_order(dtype: torch.dtype, batch_norm):
    torch.manual_seed(0)
    model = cnn(InputSpec((3, 15, 15), 10), batch_norm=batch_norm).to(dtype)
    layers = dict(copy.deepcopy(model).named_children())
    order = list(layers)
    for number in "123":
        first, second = order.index(f"pool{number}"), order.index(f"relu{number}")
        order[first], order[second] = order[second], order[first]
    course = nn.Sequential(*(layers[name] for name in order))
    # Coarse values, so that many windows hold several equal maxima.
    images = torch.randint(0, 3, (8, 3, 15, 15)).to(dtype)
    for network in (model, course):
        network(images).square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert torch.equal(model(images), course(images))
    assert all(map(torch.equal, gradients, (p.grad for p in course.parameters())))


def test_dropout_stands_between_the_two_linear_layers():
    model = cnn(CROPPED, dropout=0.3)
    assert kinds(model)[-5:] == ["Flatten", "Linear", "ReLU", "Dropout", "Linear"]
    assert model.dropout.p == 0.3


def test_dropout_acts_while_training_only():
    torch.manual_seed(0)
    model, images = cnn(CROPPED, dropout=0.5), torch.rand(2, 3, 28, 28)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("name", ["conv1", "conv2", "conv3"])
def test_convolutions_are_5x5_and_keep_the_size(name: str):
    layer = cnn(CROPPED).get_submodule(name)
    assert (layer.kernel_size, layer.stride, layer.padding) == ((5, 5), (1, 1), (2, 2))
    assert layer(torch.zeros(1, layer.in_channels, 9, 14)).shape[2:] == (9, 14)


def sides(model: nn.Module, images: torch.Tensor) -> list[int]:
    """The side of the images before the first layer and after each pooling."""
    found = [images.shape[-1]]
    for name, layer in model.named_children():
        images = layer(images)
        if name.startswith("pool"):
            assert images.shape[2] == images.shape[3]
            found.append(images.shape[3])
    return found


@pytest.mark.parametrize("expected", [[28, 14, 7, 4], [32, 16, 8, 4], [8, 4, 2, 1]], ids=str)
def test_each_pooling_halves_the_side_and_the_last_rounds_up(expected: list[int]):
    images = torch.zeros(1, 3, expected[0], expected[0])
    assert sides(cnn(InputSpec(images.shape[1:], 10)), images) == expected


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 5),
    height=st.integers(1, 33),
    width=st.integers(1, 33),
    classes=st.integers(1, 12),
    batch_norm=st.booleans(),
)
def test_images_of_any_size_from_1x1_up_give_finite_logits(
    channels: int, height: int, width: int, classes: int, batch_norm: bool
):
    model = cnn(InputSpec((channels, height, width), classes), batch_norm=batch_norm).eval()
    logits = model(torch.rand(2, channels, height, width))
    assert logits.shape == (2, classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize("side", [1, 2, 3])
def test_every_weight_of_a_tiny_images_cnn_can_learn(side: int):
    torch.manual_seed(0)
    model = cnn(InputSpec((1, side, side), 3))
    model(torch.randn(64, 1, side, side)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


def multiply_accumulates(side: int) -> int:
    """A convolution has its weights times its output positions, a linear layer its weights."""
    convolutions = side**2 * 2_400 + (side // 2) ** 2 * 51_200 + (side // 4) ** 2 * 102_400
    return convolutions + 1_024_000 + 10_000


def test_the_cnn_takes_23_million_multiply_accumulates_on_cifar10():
    assert count(cnn(CIFAR), CIFAR).macs == multiply_accumulates(32) == 23_152_400


def test_the_cnn_takes_18_million_multiply_accumulates_on_crops_of_28():
    assert count(cnn(CROPPED), CROPPED).macs == multiply_accumulates(28) == 17_968_400


def test_lenet_has_61706_parameters_on_mnist():
    assert parameters(lenet(InputSpec((1, 28, 28), 10))) == 61_706


@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 4),
    height=st.integers(12, 24),
    width=st.integers(12, 24),
    classes=st.integers(1, 12),
)
def test_lenet_takes_any_images_from_12x12_up(channels: int, height: int, width: int, classes: int):
    logits = lenet(InputSpec((channels, height, width), classes))(
        torch.rand(2, channels, height, width)
    )
    assert logits.shape == (2, classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize("size", [(11, 28), (28, 11), (1, 1)], ids=str)
def test_lenet_refuses_smaller_images_and_says_what_to_do(size: tuple[int, int]):
    with pytest.raises(ComponentError, match=f"12x12 pixels, not {size[0]}x{size[1]}") as caught:
        lenet(InputSpec((1, *size), 10))
    assert "cnn" in caught.value.remedy


@pytest.mark.parametrize("builder", [cnn, lenet])
def test_points_are_refused_and_a_model_for_them_is_named(builder):
    with pytest.raises(ComponentError, match=f"{builder.__name__} needs images") as caught:
        builder(InputSpec((2,), 2))
    assert "mlp" in caught.value.remedy
