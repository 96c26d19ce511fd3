"""Images that patches do not divide: what a model would silently ignore is refused."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import InputSpec


def refuse_ignored_pixels(
    model: nn.Module, input: InputSpec, name: str, *, keyword: str | None = None
) -> None:
    """Refuse a model whose patch embedding leaves out the images' last rows or columns.

    A patch embedding is a convolution of the image whose stride is its kernel, so that what the
    stride does not reach is never seen. A model may pad the image first: where the image itself
    is not divisible, the size that reaches the convolution decides.

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
        if isinstance(module, nn.Conv2d)
        and module.in_channels == channels
        and module.kernel_size == module.stride
        and module.kernel_size != (1, 1)
        and module.padding in ((0, 0), "valid")
    ]
    if all(_divides(module.kernel_size, (height, width)) for module in embeddings):
        return
    for patch, size in _reached(model, embeddings, input):
        if not _divides(patch, size):
            refuse_patch(name, patch, size, keyword=keyword)


def _divides(patch: tuple[int, ...], size: tuple[int, ...]) -> bool:
    return all(side % part == 0 for part, side in zip(patch, size, strict=True))


def _reached(
    model: nn.Module, embeddings: list[nn.Conv2d], input: InputSpec
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The patch of each embedding that is used, and the size of the image that reaches it."""
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def note(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        found.append((module.kernel_size, tuple(arguments[0].shape[-2:])))

    shadow = copy.deepcopy(model).to("meta").eval()
    marked = {id(module) for module in embeddings}
    for ours, theirs in zip(model.modules(), shadow.modules(), strict=True):
        if id(ours) in marked:
            theirs.register_forward_pre_hook(note)
    # Where the rest of the model fails at this size, whoever runs it for real will hear why.
    with torch.no_grad(), contextlib.suppress(Exception):
        shadow(torch.empty(1, *input.shape, device="meta"))
    yield from found


def refuse_patch(
    name: str, patch: tuple[int, ...], size: tuple[int, ...], *, keyword: str | None
) -> None:
    """Refuse a patch that does not divide the image, with the ways out.

    Raises:
        ComponentError: always.
    """
    used = math.prod(side // part * part for part, side in zip(patch, size, strict=True))
    ignored = 1 - used / math.prod(size)
    ways = [f"--augment {way}" for way in _other_sizes(patch, size)]
    divisors = [d for d in range(2, min(size) + 1) if all(side % d == 0 for side in size)]
    if keyword is not None and divisors:
        nearest = min(divisors, key=lambda d: (abs(d - patch[0]), d))
        ways.insert(0, f"a patch that divides, such as {keyword}={nearest}")
    raise ComponentError(
        f"{name} would cut {size[0]}x{size[1]} images into patches of {patch[0]}x{patch[1]} "
        f"and ignore {ignored:.0%} of the pixels",
        f"use {', or '.join(ways)}",
    )


def _other_sizes(patch: tuple[int, ...], size: tuple[int, ...]) -> Iterator[str]:
    padded = [-(-side // part) * part for part, side in zip(patch, size, strict=True)]
    if padded[0] == padded[1]:
        yield f"pad:size={padded[0]}"
    yield f"resize:size={14 * patch[0]}"
