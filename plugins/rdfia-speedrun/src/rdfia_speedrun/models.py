"""A small network without residual connections whose first layer whitens its patches.

After Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, and Page
2019, "How to Train Your ResNet 8: Bag of Tricks".
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import Count, InputSpec

PATCH = 2
"""The side of the patches that are whitened."""
EPSILON = 5e-4
"""Added to the variances of patches: directions of less variance than that are noise."""
LOGIT_SCALE = 1 / 9
SMALLEST = 9
"""The side of an image that three poolings leave a pixel of."""


def speednet(
    input: InputSpec = InputSpec((3, 32, 32), 10), *, width: Count = 64, mirror: bool = True
) -> nn.Module:
    """Whitened patches, three blocks without residuals, mirrored at test time (arXiv:2404.00498).

    Args:
        input: images of 9x9 pixels or more.
        width: the channels of the first block; the others have four times as many.
        mirror: at test time, the mean of the logits of an image and of its mirror image.
    """
    channels, height, length = input.image("speednet")
    if min(height, length) < SMALLEST:
        raise ComponentError(
            f"speednet needs images of at least {SMALLEST}x{SMALLEST}, not {height}x{length}",
            "add --augment resize:size=32",
        )
    return SpeedNet(channels, input.classes, width, mirror=mirror)


class SpeedNet(nn.Module):
    """Logits (B, classes) of images (B, C, H, W)."""

    def __init__(self, channels: int, classes: int, width: int, *, mirror: bool) -> None:
        super().__init__()
        self.mirror = mirror
        # Both signs of each direction, since GELU takes one of them away.
        self.whitening = nn.Conv2d(channels, 2 * PATCH * PATCH * channels, PATCH)
        self.whitening.weight.requires_grad_(False)
        sizes = [self.whitening.out_channels, width, 4 * width, 4 * width]
        self.blocks = nn.Sequential(*(nn.Sequential(*_block(*pair)) for pair in pairwise(sizes)))
        self.head = nn.Linear(4 * width, classes, bias=False)
        nn.init.normal_(self.head.weight, std=1.0)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32, normalised, to logits (B, classes)."""
        logits = self._logits(images)
        if self.mirror and not self.training:
            logits = (logits + self._logits(images.flip(3))) / 2
        return logits

    def _logits(self, images: Tensor) -> Tensor:
        found = self.blocks(F.gelu(self.whitening(images)))
        return LOGIT_SCALE * self.head(found.amax((2, 3)))

    @torch.no_grad()
    def fit_inputs(self, inputs: Tensor) -> None:
        """Set the first layer to what makes patches of the train split white.

        Args:
            inputs: (N, C, H, W) float32, normalised.
        """
        weight = self.whitening.weight
        directions = whitening_filters(inputs).to(weight)
        weight.copy_(torch.cat([directions, -directions]).view_as(weight))


def whitening_filters(inputs: Tensor) -> Tensor:
    """The directions of patches, each scaled to a variance of 1.

    Args:
        inputs: (N, C, H, W) float32.

    Returns:
        (D, D) float64 with D = C * PATCH * PATCH, a filter a row, the strongest first; on the CPU,
        where an eigenvector has the same sign each time.
    """
    moments = None
    count = 0
    for part in inputs.split(256):
        patches = F.unfold(part, PATCH).movedim(1, 2).flatten(0, 1).double()
        products = patches.T @ patches
        moments = products if moments is None else moments + products
        count += len(patches)
    assert moments is not None
    values, vectors = torch.linalg.eigh((moments / count).cpu())
    return (vectors / (values.clamp(min=0) + EPSILON).sqrt()).T.flip(0)


def _block(inputs: int, outputs: int) -> Iterator[nn.Module]:
    yield _convolution(inputs, outputs)
    yield nn.MaxPool2d(2)
    yield from _activation(outputs)
    yield _convolution(outputs, outputs)
    yield from _activation(outputs)


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution whose first outputs are at first its inputs."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight[: min(inputs, outputs)])
    return convolution


def _activation(channels: int) -> Iterator[nn.Module]:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    # The convolution after it has the same freedom.
    norm.weight.requires_grad_(False)
    yield norm
    yield nn.GELU()
