"""Random numbers inside a stacked forward pass: for each trial those that it would draw alone.

`rdfia train` seeds the global generator before each step, and the layers draw from it in the order
in which they are called. Here a first pass notes what is drawn; then a generator for each trial,
seeded alike, draws the same outside the computation, and the layers are handed the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Rates = tuple[float, ...]


@dataclass(frozen=True)
class Draw:
    """What a layer draws for one trial.

    Attributes:
        kind: `dropout`, `bernoulli` or `rand`.
        shape, stride, dtype: of the numbers; they are drawn in the order of memory.
        rates: of dropout, or the probabilities of ones, for each trial.
    """

    kind: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    rates: Rates = ()

    def make(self, generators: Sequence[torch.Generator], slots: int) -> Tensor:
        """The numbers of all trials, (T, *shape).

        Args:
            generators: of each trial.
            slots: how many there are; those beyond the trials repeat the first one.
        """
        made = [self._make_one(i, g) for i, g in enumerate(generators)]
        return torch.stack([*made, *[made[0]] * (slots - len(made))])

    def _make_one(self, trial: int, generator: torch.Generator) -> Tensor:
        numbers = torch.empty_strided(
            self.shape, self.stride, dtype=self.dtype, device=generator.device
        )
        if self.kind == "rand":
            return numbers.uniform_(generator=generator)
        rate = self.rates[trial]
        if self.kind == "bernoulli":
            return numbers.bernoulli_(rate, generator=generator)
        # Where nothing is dropped, or all, nothing is drawn.
        if rate in (0, 1):
            return numbers.fill_(1 - rate)
        return numbers.bernoulli_(1 - rate, generator=generator).div_(1 - rate)


class _Interception(TorchFunctionMode):
    """Hands each random call of a forward pass to `handle`."""

    def __init__(self, trials: int, handle: Callable[[Draw], Tensor | None]) -> None:
        super().__init__()
        self._trials = trials
        self._handle = handle

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func is torch.rand and kwargs.get("generator") is None:
            return self._rand(*args, **kwargs)
        if func is torch.Tensor.bernoulli_ and kwargs.get("generator") is None:
            return self._bernoulli(*args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(
        self,
        input: Tensor,
        p: float | Rates = 0.5,
        training: bool = True,
        inplace: bool = False,
    ) -> Tensor:
        rates = p if isinstance(p, tuple) else (p,) * self._trials
        if not training or not any(rates):
            return input
        shape, stride = tuple(input.shape), tuple(torch.empty_like(input).stride())
        mask = self._handle(Draw("dropout", shape, stride, input.dtype, rates))
        if mask is None:
            return input
        return input.mul_(mask) if inplace else input * mask

    def _rand(self, *size: Any, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
        like = torch.empty(shape, dtype=dtype)
        found = self._handle(Draw("rand", shape, like.stride(), like.dtype))
        return like.fill_(0.5) if found is None else found

    def _bernoulli(self, tensor: Tensor, p: float = 0.5) -> Tensor:
        rates = (float(p),) * self._trials
        stride = tuple(torch.empty_like(tensor).stride())
        found = self._handle(Draw("bernoulli", tuple(tensor.shape), stride, tensor.dtype, rates))
        return tensor.fill_(1) if found is None else found


def note_draws(forward: Callable[[], object], trials: int) -> list[Draw]:
    """What a forward pass of one trial draws, in order; in it nothing is random."""
    noted: list[Draw] = []
    with _Interception(trials, lambda draw: noted.append(draw)):
        forward()
    return noted


def handing_out(numbers: Sequence[Tensor], trials: int) -> TorchFunctionMode:
    """A context in which the layers get these numbers, in the order of their calls."""
    waiting: Iterator[Tensor] = iter(numbers)
    return _Interception(trials, lambda _: next(waiting))
