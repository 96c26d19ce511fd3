"""The numbers of tensors that do not depend on the input, as far as they can be known.

A pass on the meta device has none. Yet a fixed index decides what an element sees, and most are
made as the model runs, from ranges and lists: these few operations are carried out on the CPU too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

LARGEST_CONSTANT = 2**20
"""Elements up to which numbers are worth knowing: an index of more is never seen."""

BLANK = ("empty", "new_empty")
"""How the names of operations begin whose result has no meaning."""


class _UnknownConstantError(Exception):
    """An operand's numbers are not known."""


class Constants:
    """What constant tensors on the meta device would hold.

    Args:
        known: those that are known from the start.
    """

    def __init__(self, known: Mapping[Tensor, Tensor]) -> None:
        self._numbers: Any = WeakTensorKeyDictionary()
        for tensor, numbers in known.items():
            self._numbers[tensor] = numbers.clone()

    def of(self, tensor: Tensor) -> Tensor | None:
        """The numbers of a tensor on the CPU, or None."""
        return self._numbers.get(tensor) if tensor.is_meta else tensor

    def learn(self, tensor: Tensor, numbers: Tensor) -> None:
        """From here on the numbers of a tensor are known."""
        self._numbers[tensor] = numbers

    def forget(self, tensors: Iterable[Tensor]) -> None:
        """Something unknown was written to these."""
        for tensor in tensors:
            self._numbers.pop(tensor, None)

    def follow(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Sequence[Tensor]
    ) -> bool:
        """Carry out an operation on constants with their numbers; whether these are known."""
        is_small = all(output.numel() <= LARGEST_CONSTANT for output in outputs)
        name = func.name().partition("::")[2]
        is_fixed = torch.Tag.nondeterministic_seeded not in func.tags
        if not (is_small and is_fixed) or name.startswith(BLANK):
            return False
        try:
            given = tree_map_only(Tensor, self._demand, (list(args), dict(kwargs)))
            numbers, named = tree_map_only(torch.device, lambda _: torch.device("cpu"), given)
            found = func(*numbers, **named)
        except (_UnknownConstantError, RuntimeError):
            return False
        parts = [found] if isinstance(found, Tensor) else list(found)
        for output, part in zip(outputs, parts, strict=False):
            if output.is_meta:
                self._numbers[output] = part
        return True

    def _demand(self, tensor: Tensor) -> Tensor:
        found = self.of(tensor)
        if found is None:
            raise _UnknownConstantError
        return found


class Literals(TorchFunctionMode):
    """Sees the numbers that a model's code writes into a tensor; no dispatch mode does.

    Args:
        constants: which are told.
    """

    def __init__(self, constants: Constants) -> None:
        super().__init__()
        self._constants = constants

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and made.is_meta:
            on_cpu = {**(kwargs or {}), "device": "cpu"}
            with contextlib.suppress(RuntimeError, NotImplementedError):
                self._constants.learn(made, func(*args, **on_cpu))
        return made


def fixed_numbers(blank: nn.Module, real: nn.Module) -> dict[Tensor, Tensor]:
    """The integers and truth values that a model holds, by the same tensors without numbers.

    Args:
        blank: on the meta device.
        real: the same on the CPU.
    """
    numbers = dict(_held_integers(real))
    return {
        tensor: numbers[place]
        for place, tensor in _held_integers(blank)
        if tensor.is_meta and place in numbers and numbers[place].shape == tensor.shape
    }


def _held_integers(model: nn.Module) -> Iterator[tuple[tuple[str, str], Tensor]]:
    for name, module in model.named_modules():
        for key, tensor in (*module.named_buffers(recurse=False), *vars(module).items()):
            if isinstance(tensor, Tensor) and not tensor.is_floating_point():
                yield (name, key), tensor
