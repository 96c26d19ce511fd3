"""Images that patches do not divide: what a model would silently ignore is refused."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import InputSpec


def refuse_ignored_pixels(
    model: nn.Module, input: InputSpec, name: str, *, keyword: str | None = None
) -> None:
    """Refuse a model whose patch embedding leaves out the images' last rows or columns.

    A patch embedding is a convolution of the image that moves by its kernel, or by four pixels or
    more, or an `nn.Unfold` of what comes of it; what the last step does not reach is never seen.
    A model may pad the image first: where the image itself does not fit, the size that reaches
    the embedding decides. The stems of plain CNNs, which move by two, may lose a last row.

    Args:
        model: any module on images.
        input: what it is fed.
        name: how errors name it.
        keyword: the keyword of its builder that chooses the patch, if it has one.

    Raises:
        ComponentError: pixels would be ignored; it says how many, and the ways out.
    """
    channels, height, width = input.image(name)
    embeddings = [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Unfold) and _is_embedding(module, channels)
    ]
    fits = (_ignored(module, (height, width)) == (0, 0) for module in embeddings)
    if all(fits) and not any(isinstance(module, nn.Unfold) for module in embeddings):
        return
    for module, size in _reached(model, embeddings, input):
        ignored = _ignored(module, size)
        if ignored != (0, 0):
            scale = max(1, height // size[0])
            patch = tuple(side * scale for side in _pair(module.kernel_size))
            lost = tuple(side * scale for side in ignored)
            refuse_patch(name, patch, (height, width), lost, keyword=keyword)


def _is_embedding(module: nn.Conv2d | nn.Unfold, channels: int) -> bool:
    if isinstance(module, nn.Unfold):
        return True
    if module.in_channels != channels:
        return False
    moves_by_itself = module.kernel_size == module.stride and module.kernel_size != (1, 1)
    return moves_by_itself or min(module.stride) >= 4


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _ignored(module: nn.Conv2d | nn.Unfold, size: tuple[int, ...]) -> tuple[int, int]:
    """The last rows and columns of an image that a patch embedding never sees."""
    if isinstance(module.padding, str):
        return (0, 0)
    settings = (module.kernel_size, module.stride, module.padding)
    kernel, stride, padding = (_pair(value) for value in settings)
    rows, columns = (
        max(0, (size[axis] + 2 * padding[axis] - kernel[axis]) % stride[axis] - padding[axis])
        for axis in range(2)
    )
    return rows, columns


def _reached(
    model: nn.Module, embeddings: Sequence[nn.Conv2d | nn.Unfold], input: InputSpec
) -> Sequence[tuple[nn.Conv2d | nn.Unfold, tuple[int, ...]]]:
    """The embeddings that are used, each with the size of the image that reaches it."""
    found: list[tuple[nn.Conv2d | nn.Unfold, tuple[int, ...]]] = []

    def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d | nn.Unfold)
        found.append((module, tuple(arguments[0].shape[-2:])))

    shadow = copy.deepcopy(model).to("meta").eval()
    marked = {id(module) for module in embeddings}
    for ours, theirs in zip(model.modules(), shadow.modules(), strict=True):
        if id(ours) in marked:
            theirs.register_forward_pre_hook(note)
    # Where the rest of the model fails at this size, whoever runs it for real will hear why.
    with torch.no_grad(), contextlib.suppress(Exception):
        shadow(torch.empty(1, *input.shape, device="meta"))
    return found


def refuse_patch(
    name: str,
    patch: tuple[int, ...],
    size: tuple[int, ...],
    lost: tuple[int, ...] | None = None,
    *,
    keyword: str | None,
) -> None:
    """Refuse a patch that does not divide the image, with the ways out.

    Args:
        name: how the error names the model.
        patch: its height and width.
        size: the image's.
        lost: the rows and columns that no patch holds; what is left over where not given.
        keyword: the keyword of the model's builder that chooses the patch, if it has one.

    Raises:
        ComponentError: always.
    """
    lost = lost or tuple(side % part for part, side in zip(patch, size, strict=True))
    used = math.prod(side - less for less, side in zip(lost, size, strict=True))
    ignored = 1 - used / math.prod(size)
    ways = [f"images of {side}x{side} (--augment {way})" for side, way in _other_sizes(patch, size)]
    divisors = [d for d in range(2, min(size) + 1) if all(side % d == 0 for side in size)]
    if keyword is not None and divisors:
        nearest = min(divisors, key=lambda d: (abs(d - patch[0]), d))
        ways.insert(0, f"a patch that divides, such as {keyword}={nearest}")
    raise ComponentError(
        f"{name} would cut {size[0]}x{size[1]} images into patches of {patch[0]}x{patch[1]} "
        f"and ignore {ignored:.0%} of the pixels",
        f"use {', or '.join(ways)}",
    )


def _other_sizes(patch: tuple[int, ...], size: tuple[int, ...]) -> Iterator[tuple[int, str]]:
    """Sides of images that the patch divides, each with the augmentation that brings them there."""
    padded = [-(-side // part) * part for part, side in zip(patch, size, strict=True)]
    if padded[0] == padded[1]:
        yield padded[0], f"pad:size={padded[0]}"
    yield 14 * patch[0], f"resize:size={14 * patch[0]}"
