"""The convolutional networks of the course: a small CNN for CIFAR-10, and LeNet-5."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import nn

from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import InputSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rdfia_cli.spec import Fraction

CHANNELS = (32, 64, 64)
HIDDEN = 1000


def cnn(
    input: InputSpec = InputSpec((3, 32, 32), 10),
    *,
    dropout: Fraction = 0.0,
    batch_norm: bool = False,
) -> nn.Module:
    """Three 5x5 convolutions with max pooling and two linear layers, the CNN of the course.

    On 3x28x28 and 10 classes: 1,191,170 parameters, 320 more with batch normalisation.

    Args:
        input: images of any size from 1x1 up; the first linear layer follows the size.
        dropout: the share of the hidden linear units dropped while training.
        batch_norm: normalise right after each convolution, before ReLU.
    """
    channels, height, width = input.image("cnn")
    layers: list[tuple[str, nn.Module]] = []
    for index, outputs in enumerate(CHANNELS, start=1):
        last = index == len(CHANNELS)
        # Sizes below 2 would pool to nothing, so that small images keep at least one position.
        ceil = last or min(height, width) < 2
        layers += _block(index, channels, outputs, batch_norm=batch_norm, ceil=ceil)
        height, width = (-(-size // 2) if ceil else size // 2 for size in (height, width))
        channels = outputs
    layers += [
        ("flatten", nn.Flatten()),
        ("linear1", nn.Linear(channels * height * width, HIDDEN)),
        ("relu4", nn.ReLU()),
        *([("dropout", nn.Dropout(dropout))] if dropout else []),
        ("linear2", nn.Linear(HIDDEN, input.classes)),
    ]
    return nn.Sequential(OrderedDict(layers))


def _block(
    index: int, inputs: int, outputs: int, *, batch_norm: bool, ceil: bool
) -> Iterator[tuple[str, nn.Module]]:
    yield f"conv{index}", nn.Conv2d(inputs, outputs, kernel_size=5, padding=2)
    if batch_norm:
        yield f"norm{index}", nn.BatchNorm2d(outputs)
    # The course has ReLU before pooling. A maximum and ReLU commute, to the bit and in the
    # gradients too, and after pooling ReLU has a quarter of the work.
    yield f"pool{index}", nn.MaxPool2d(2, ceil_mode=ceil)
    yield f"relu{index}", nn.ReLU()


def lenet(input: InputSpec = InputSpec((1, 28, 28), 10)) -> nn.Module:
    """LeNet-5 with tanh and average pooling (LeCun et al. 1998): 61,706 parameters on MNIST.

    The C3 layer is fully connected to S2 and the output is linear, as in today's versions.

    Args:
        input: images of 12x12 pixels or more; the first linear layer follows the size.
    """
    channels, height, width = input.image("lenet")
    if min(height, width) < 12:
        raise ComponentError(
            f"lenet needs images of at least 12x12 pixels, not {height}x{width}",
            "use images of 28x28 (--augment resize:size=28), or cnn, which takes any size",
        )
    rows, columns = ((size // 2 - 4) // 2 for size in (height, width))
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 6, kernel_size=5, padding=2),
            tanh1=nn.Tanh(),
            pool1=nn.AvgPool2d(2),
            conv2=nn.Conv2d(6, 16, kernel_size=5),
            tanh2=nn.Tanh(),
            pool2=nn.AvgPool2d(2),
            flatten=nn.Flatten(),
            linear1=nn.Linear(16 * rows * columns, 120),
            tanh3=nn.Tanh(),
            linear2=nn.Linear(120, 84),
            tanh4=nn.Tanh(),
            linear3=nn.Linear(84, input.classes),
        )
    )
