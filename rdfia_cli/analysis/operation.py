"""One operation that a model performed, as the rules see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from rdfia_cli.analysis.intervals import Field, nothing, positions


class UnknownError(Exception):
    """A rule does not know what an operation with these arguments depends on."""


@dataclass(frozen=True)
class Operation:
    """An operation with its arguments, its result and the fields of what it was given.

    Attributes:
        function: the operator's overload.
        name: its name without the overload, such as `conv2d`; of an in-place one the plain name.
        arguments: by the names of its schema, defaults included.
        outputs: the tensors that it returned, on the meta device.
        fields: of the tensors that depend on the input.
        numbers: on the CPU, of the tensors that do not, as far as they are known.
        image: height and width of the model's input.
    """

    function: Any
    name: str
    arguments: Mapping[str, Any]
    outputs: Sequence[Tensor]
    fields: Callable[[Tensor], Field | None]
    numbers: Callable[[Tensor], Tensor | None]
    image: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first output."""
        return tuple(self.outputs[0].shape)

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments, those in lists too."""
        return list(tensors_in(self.arguments.values()))

    @property
    def operands(self) -> list[Field]:
        """The fields of those arguments that depend on the input."""
        return [f for tensor in self.tensors if (f := self.fields(tensor)) is not None]

    def field(self, name: str) -> Field | None:
        """The field of an argument; None for what does not depend on the input."""
        value = self.arguments.get(name)
        return self.fields(value) if isinstance(value, Tensor) else None

    def operand(self, name: str) -> Field:
        """The field of a tensor argument, empty for a constant."""
        return self.field_of(self.arguments[name])

    def field_of(self, tensor: Tensor) -> Field:
        """The field of a tensor, empty for a constant."""
        return self.fields(tensor) or nothing(tensor.shape, self.image)

    @property
    def input(self) -> Field:
        """The field of the first argument."""
        return self.field_of(next(iter(self.arguments.values())))

    def axes(self, name: str, field: Field) -> tuple[int, ...]:
        """An argument that names one axis or several, or all where it is absent or empty."""
        given = self.arguments.get(name)
        if given is None or given == []:
            return tuple(range(len(field.shape)))
        return positions(field, [given] if isinstance(given, int) else given)

    def axis(self, name: str = "dim") -> int:
        """An argument that names one axis of the first output's rank or of the input's."""
        count = len(self.input.shape)
        return int(self.arguments[name]) % max(count, 1)


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among values and in lists of these."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


Rule: TypeAlias = Callable[[Operation], Field | Sequence[Field]]
"""What the outputs of an operation depend on; one field for all outputs of the same shape."""
