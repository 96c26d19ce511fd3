"""The exact receptive field of every module of any model, from one pass on the meta device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from rdfia_cli.analysis.graph import Call, tensors_of, watch_calls
from rdfia_cli.analysis.intervals import Field, TooLargeError, field_of_image, nothing
from rdfia_cli.analysis.tracker import Tracker

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Output(Generic[Kept]):
    """What one call of a module returned.

    Attributes:
        name, number: of the call, and how often the module was called before.
        kind: the module's class.
        depth: how many calls stood around it.
        part: which of several tensors; 0 where there is one.
        parts: how many tensors there were.
        is_leaf: the module has no modules inside.
        shape: of the tensor, batch of 1 included.
        kept: what the caller wanted to keep of its field.
    """

    name: str
    number: int
    kind: str
    depth: int
    part: int
    parts: int
    is_leaf: bool
    shape: tuple[int, ...]
    kept: Kept

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells it from every other output of a pass."""
        return self.name, self.number, self.part


@dataclass(frozen=True)
class Pass(Generic[Kept]):
    """One forward pass.

    Attributes:
        outputs: of every call, in the order in which the calls began.
        failure: why it ended early: an input of that size does not fit, or takes too much memory.
    """

    outputs: tuple[Output[Kept], ...]
    failure: Exception | None


def run_pass(
    model: nn.Module, shape: tuple[int, ...], keep: Callable[[Field], Kept]
) -> Pass[Kept]:
    """Run a model once on the meta device and look at the field of every module's output.

    Args:
        model: on the meta device, in evaluation mode.
        shape: of one input: (C, H, W), or (F,) for points.
        keep: what to keep of each field.
    """
    outputs: list[Output[Kept]] = []
    image = (shape[-2], shape[-1]) if len(shape) > 1 else (1, shape[-1])
    tracker = Tracker(image)

    def note(call: Call, returned: Any) -> None:
        tensors = list(tensors_of(returned))
        place = len(outputs)
        while place and outputs[place - 1].depth > call.depth:
            place -= 1
        outputs[place:place] = [
            Output(
                call.name,
                call.number,
                type(call.module).__name__,
                call.depth,
                part,
                len(tensors),
                next(call.module.children(), None) is None,
                tuple(tensor.shape),
                keep(tracker.field(tensor) or nothing(tensor.shape, image)),
            )
            for part, tensor in enumerate(tensors)
        ]

    failure: Exception | None = None
    with torch.inference_mode(), watch_calls(model, note):
        images = torch.empty(1, *shape, device="meta")
        tracker.follow(images, field_of_image(images.shape))
        try:
            with tracker:
                model(images)
        except (RuntimeError, ValueError, AssertionError, TypeError, TooLargeError) as error:
            failure = error
    return Pass(tuple(outputs), failure)
