"""ConvMixer: patches, then convolutions that mix places and channels in turn.

Trockman and Kolter 2022, "Patches Are All You Need?", arXiv:2201.09792.
"""

from __future__ import annotations

from einops.layers.torch import Reduce
from torch import Tensor, nn

from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import Count, InputSpec


def convmixer(
    input: InputSpec = InputSpec((3, 32, 32), 10),
    *,
    dim: Count = 64,
    depth: Count = 4,
    kernel: Count = 5,
    patch: Count = 2,
) -> nn.Module:
    """ConvMixer (Trockman and Kolter 2022, arXiv:2201.09792).

    The paper's ConvMixer-256/8 for CIFAR-10 is `dim=256,depth=8,kernel=5,patch=2`.

    Args:
        input: images whose sides the patch divides.
        dim: the channels of every layer.
        depth: how often places and channels are mixed.
        kernel: the odd side of the depthwise kernels.
        patch: the side of a patch, in pixels.
    """
    channels, height, width = input.image("convmixer")
    if height % patch or width % patch:
        raise ComponentError(
            f"convmixer cannot cut {height}x{width} images into patches of {patch}x{patch}",
            "choose a patch that divides both sides, or add --augment resize:size=32",
        )
    if kernel % 2 == 0:
        raise ComponentError(f"convmixer has no middle in a kernel of {kernel}", "make it odd")
    return nn.Sequential(
        _activated(nn.Conv2d(channels, dim, patch, stride=patch), dim),
        *(_mix(dim, kernel) for _ in range(depth)),
        Reduce("batch dim height width -> batch dim", "mean"),
        nn.Linear(dim, input.classes),
    )


def _activated(convolution: nn.Module, dim: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.GELU(), nn.BatchNorm2d(dim))


def _mix(dim: int, kernel: int) -> nn.Sequential:
    """Mix the places of each channel, then the channels of each place."""
    places = nn.Conv2d(dim, dim, kernel, groups=dim, padding=kernel // 2)
    return nn.Sequential(Residual(_activated(places, dim)), _activated(nn.Conv2d(dim, dim, 1), dim))


class Residual(nn.Module):
    """What a module returns, and what it was given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        """(B, dim, H, W) to the same."""
        return self.module(images) + images
