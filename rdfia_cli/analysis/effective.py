"""The effective receptive field: where in the image the gradient of a unit really lies.

Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks",
2016, arXiv:1701.04128: it is far smaller than the field that the architecture allows, and Gaussian
in shape before training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rdfia_cli.analysis.graph import Call, call_outermost, tensors_of, watch_calls
from rdfia_cli.analysis.layers import Layer
from rdfia_cli.errors import ComponentError

SHARES = (0.2, 0.3, 0.5, 0.99)
"""The shares of the gradient for which the side of a box is told."""

UNITS = 32
"""Channels that are looked at, evenly spaced; each costs a backward pass."""

BATCH = 8


@dataclass(frozen=True)
class Spread:
    """How far the mass of a gradient is spread around the middle of the theoretical field.

    Attributes:
        share: of the mass.
        side: of the smallest square around the middle that holds it, in pixels: mean over images.
        error: the standard error of that mean.
    """

    share: float
    side: float
    error: float


@dataclass(frozen=True)
class Effective:
    """The gradient of the unit in the middle of a layer with respect to the image.

    Attributes:
        signed: (H, W) float32, the mean over images and channels.
        absolute: (H, W) float32, the mean of the absolute values, which sum to 1.
        signed_spread: of the gradient that is averaged over channels before its size is taken.
        absolute_spread: of each channel's gradient.
        units, images: how many channels and images were averaged over.
    """

    signed: Tensor
    absolute: Tensor
    signed_spread: tuple[Spread, ...]
    absolute_spread: tuple[Spread, ...]
    units: int
    images: int


def effective_field(model: nn.Module, images: Tensor, layer: Layer) -> Effective:
    """Average the gradient of a layer's middle unit over images and channels.

    Args:
        model: on the images' device, in evaluation mode.
        images: (N, C, H, W) float32, as the model is fed.
        layer: of which module, from the analysis on the same input size.

    Raises:
        ComponentError: no gradient arrives at the image.
    """
    maps = [_gradients(model, batch, layer) for batch in images.split(BATCH)]
    signed = torch.cat([signed for signed, _, _ in maps])
    absolute = torch.cat([absolute for _, absolute, _ in maps])
    mass = absolute.sum((1, 2), keepdim=True)
    if not mass.all():
        raise ComponentError(
            f"no gradient of '{layer.name}' arrives at the image", "choose another --layer"
        )
    seen = layer.seen.at(*layer.centre) or ((0, images.shape[-2]), (0, images.shape[-1]))
    middle = tuple((first + last) / 2 for first, last in seen)
    return Effective(
        signed=signed.mean(0),
        absolute=(absolute / mass).mean(0),
        signed_spread=tuple(_spreads(signed.abs(), middle)),
        absolute_spread=tuple(_spreads(absolute, middle)),
        units=maps[0][2],
        images=len(images),
    )


def _gradients(model: nn.Module, images: Tensor, layer: Layer) -> tuple[Tensor, Tensor, int]:
    """Signed and absolute gradient of each image, averaged over channels, and their number.

    Args:
        model: in evaluation mode.
        images: (N, C, H, W).
        layer: whose middle unit.

    Returns:
        Twice (N, H, W), and how many channels.
    """
    images = images.clone().requires_grad_()
    units = middle_units(_output_of(model, images, layer), layer)
    chosen = torch.linspace(0, units.shape[1] - 1, min(UNITS, units.shape[1])).long().unique()
    signed = torch.zeros(len(images), *images.shape[-2:])
    absolute = torch.zeros_like(signed)
    for unit in chosen.tolist():
        (found,) = torch.autograd.grad(
            units[:, unit].sum(), images, retain_graph=True, materialize_grads=True
        )
        signed += found.sum(1)
        absolute += found.abs().sum(1)
    return signed / len(chosen), absolute / len(chosen), len(chosen)


def _output_of(model: nn.Module, images: Tensor, layer: Layer) -> Tensor:
    """What a layer returns, untouched by later in-place operations."""
    found: list[Tensor] = []

    def note(call: Call, returned: Any) -> None:
        if (call.name, call.number) == (layer.module, layer.call):
            # A copy: an activation behind it may overwrite its input.
            found.append(list(tensors_of(returned))[layer.part].clone())

    with watch_calls(model, note) as calls, torch.enable_grad():
        call_outermost(model, images, calls, note)
    return found[0]


def middle_units(output: Tensor, layer: Layer) -> Tensor:
    """All channels at the middle position of a layer: (N, units).

    Without a grid of rows and columns the middle of the tokens (N, T, C) stands in for it, or of
    the axes (N, C, H, W), or every unit of (N, F).
    """
    (y, x), grid = layer.centre, layer.seen
    if len(grid.axes) == 2:
        row, column = grid.axes
        units = output.narrow(row, y, 1).narrow(column, x, 1)
        return units.flatten(1)
    if len(grid.axes) == 1 and grid.size is not None:
        return output.narrow(grid.axes[0], grid.lead + y * grid.size[1] + x, 1).flatten(1)
    if output.ndim == 3:
        return output[:, output.shape[1] // 2]
    if output.ndim == 4:
        return output[:, :, output.shape[2] // 2, output.shape[3] // 2]
    return output.flatten(1)


def _spreads(maps: Tensor, middle: Sequence[float]) -> Iterator[Spread]:
    """The side of the box around the middle for each share.

    Args:
        maps: (N, H, W), not negative.
        middle: row and column, which may lie between two pixels.
    """
    rows, columns = (
        (torch.arange(size) - place).abs()
        for size, place in zip(maps.shape[1:], middle, strict=True)
    )
    distance = torch.maximum(rows[:, None], columns[None, :]).flatten()
    rings, ring = distance.unique(return_inverse=True)
    mass = torch.zeros(len(maps), len(rings)).index_add_(1, ring, maps.flatten(1)).cumsum(1)
    for share in SHARES:
        sides = _sides(mass / mass[:, -1:], rings, share)
        error = float(sides.std() / len(sides) ** 0.5) if len(sides) > 1 else 0.0
        yield Spread(share, float(sides.mean()), error)


def _sides(mass: Tensor, rings: Tensor, share: float) -> Tensor:
    """The side of the box that holds a share, between two boxes of whole pixels in proportion.

    Args:
        mass: (N, R) the share within each ring of pixels of the same distance.
        rings: (R,) those distances from the middle.
        share: which is to be held.
    """
    reached = (mass >= share).int().argmax(1)
    before = (reached - 1).clamp(min=0)
    low, high = (mass.gather(1, at[:, None])[:, 0] for at in (before, reached))
    inner, outer = (2 * rings[at] + 1 for at in (before, reached))
    first = reached == 0
    low, inner = torch.where(first, 0.0, low), torch.where(first, 0.0, inner)
    return inner + (outer - inner) * (share - low) / (high - low)
