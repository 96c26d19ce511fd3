"""The exact receptive field of every module of any model, from one pass on the meta device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from rdfia_cli.analysis.graph import (
    Call,
    call_outermost,
    can_be_watched,
    kind_of,
    tensors_of,
    watch_calls,
)
from rdfia_cli.analysis.intervals import LARGEST, Field, field_of_image, nothing
from rdfia_cli.analysis.tracker import Tracker
from rdfia_cli.lean_torch import spare_compiler, spare_meta_kernels

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Output(Generic[Kept]):
    """What one call of a module returned.

    Attributes:
        name, number: of the call, and how often the module was called before.
        kind: the module's class.
        part: which of several tensors; 0 where there is one.
        parts: how many tensors there were.
        ended: how many calls had ended before it did.
        is_leaf: the module has no modules inside, or they are not told apart.
        shape: of the tensor, batch of 1 included.
        kept: what the caller wanted to keep of its field.
    """

    name: str
    number: int
    kind: str
    part: int
    parts: int
    ended: int
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


class Journal(Generic[Kept]):
    """The outputs of calls, put in the order in which the calls began.

    Args:
        keep: what to keep of each field.
    """

    def __init__(self, keep: Callable[[Field], Kept]) -> None:
        self._keep = keep
        self._over: dict[int, list[Output[Kept]]] = {}
        self._ended = 0
        self._kept: tuple[Field, Kept] | None = None

    @property
    def outputs(self) -> tuple[Output[Kept], ...]:
        """What was added; calls that never ended are missing, those inside them are not."""
        return tuple(output for depth in sorted(self._over) for output in self._over[depth])

    def add(self, call: Call, returned: Sequence[tuple[Tensor, Field]]) -> None:
        """Note a call that has ended, before the calls inside it, which ended earlier."""
        inside = self._over.pop(call.depth + 1, [])
        is_leaf = not can_be_watched(call.module) or not any(True for _ in call.module.children())
        own = [
            Output(
                name=call.name,
                number=call.number,
                kind=kind_of(call.module),
                part=part,
                parts=len(returned),
                ended=self._ended,
                is_leaf=is_leaf,
                shape=tuple(tensor.shape),
                kept=self._once(found),
            )
            for part, (tensor, found) in enumerate(returned)
        ]
        self._ended += 1
        self._over.setdefault(call.depth, []).extend([*own, *inside])

    def _once(self, found: Field) -> Kept:
        """Containers and activations return fields that were looked at just before."""
        if self._kept is None or self._kept[0] is not found:
            self._kept = found, self._keep(found)
        return self._kept[1]


def run_pass(
    model: nn.Module,
    shape: tuple[int, ...],
    keep: Callable[[Field], Kept],
    largest: int | None = None,
    numbers: Mapping[Tensor, Tensor] | None = None,
) -> Pass[Kept]:
    """Run a model once on the meta device and look at the field of every module's output.

    Args:
        model: on the meta device, in evaluation mode.
        shape: of one input: (C, H, W), or (F,) for points.
        keep: what to keep of each field.
        largest: the pass ends where more numbers than these would be written out; without it, an
            operation for which memory does not suffice counts as one without a rule.
        numbers: of the constants that the model holds, on the CPU, as far as they are known.
    """
    spare_compiler(Tracker)
    spare_meta_kernels()
    *_, height, width = (1, *shape)
    image = (height, width)
    tracker, journal = Tracker(image, stops=largest is not None, numbers=numbers), Journal(keep)

    def note(call: Call, returned: Any) -> None:
        tensors = list(tensors_of(returned))
        journal.add(call, [(t, tracker.field(t) or nothing(t.shape, image)) for t in tensors])

    failure: Exception | None = None
    with torch.inference_mode(), _usual_kernels(), watch_calls(model, note) as calls:
        images = torch.empty(1, *shape, device="meta")
        tracker.follow(images, field_of_image(images.shape, largest or LARGEST))
        try:
            with tracker, tracker.literals:
                call_outermost(model, images, calls, note)
        except Exception as error:
            failure = error
    return Pass(journal.outputs, failure)


@contextlib.contextmanager
def _usual_kernels() -> Generator[None]:
    """Let torch resample on meta as on the CPU, though a run asked for deterministic kernels.

    Asked for them, it gathers the neighbours by index there, which blurs what each output sees.
    """
    before = torch.are_deterministic_algorithms_enabled()
    # The public function would import the compiler.
    torch._C._set_deterministic_algorithms(False)  # pyright: ignore[reportPrivateUsage]
    try:
        yield
    finally:
        torch._C._set_deterministic_algorithms(before)  # pyright: ignore[reportPrivateUsage]
