"""Watch every operation of a forward pass and keep the field of every tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from rdfia_cli.analysis.aliases import Aliases, write_through
from rdfia_cli.analysis.constants import Constants, Literals
from rdfia_cli.analysis.intervals import Field, TooLargeError, everything, nothing, whole_image
from rdfia_cli.analysis.operation import Operation, Rule, UnknownError, tensors_in
from rdfia_cli.analysis.rules_index import INDEX_RULES
from rdfia_cli.analysis.rules_mixing import MIXING_RULES, is_plain_einsum, reduction
from rdfia_cli.analysis.rules_pointwise import POINTWISE_RULES, elementwise
from rdfia_cli.analysis.rules_shape import SHAPE_RULES
from rdfia_cli.analysis.rules_window import WINDOW_RULES

RULES: Mapping[str, Rule] = {
    **POINTWISE_RULES,
    **SHAPE_RULES,
    **INDEX_RULES,
    **WINDOW_RULES,
    **MIXING_RULES,
}
"""The rule of each operation, by its name without overload and without the _ of in-place ones."""


def _is_same_view(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same elements of the same memory."""
    forms = [(x.shape, x.stride(), int(x.storage_offset()), x.dtype) for x in (one, other)]
    return forms[0] == forms[1]


RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


@dataclass(frozen=True)
class Signature:
    """What the schema of an operator tells.

    Attributes:
        name: without the overload, and without the _ of an in-place operation.
        parameters: their names and defaults, in order.
        written: the parameters whose tensors it changes.
        rule: what its result depends on, where that is known.
        composite: it can be carried out as other operations.
    """

    name: str
    parameters: tuple[tuple[str, Any], ...]
    written: tuple[str, ...]
    rule: Rule | None
    composite: bool

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments by name."""
        bound = dict(self.parameters)
        bound.update(zip(bound, args, strict=False))
        bound.update(kwargs)
        return bound


@cache
def signature_of(function: Any) -> Signature:
    """Read an operator's schema once."""
    schema = function._schema
    name = schema.name.partition("::")[2]
    plain = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    arguments = schema.arguments
    return Signature(
        plain,
        tuple((a.name, a.default_value) for a in arguments),
        tuple(a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write),
        _rule_of(plain, function.tags),
        bool(function._can_decompose()),
    )


def _rule_of(name: str, tags: Sequence[torch.Tag]) -> Rule | None:
    if name in RULES:
        return RULES[name]
    if torch.Tag.pointwise in tags:
        return elementwise
    return reduction if torch.Tag.reduction in tags else None


class Tracker(TorchDispatchMode):
    """Inside this context every tensor that depends on the input has a field.

    In inference mode torch shows whole operations here (an attention, a group norm) and not their
    parts, and views keep their identity.

    Args:
        image: height and width of the input.
        stops: an operation for which memory does not suffice is an error; else one without a rule.
        numbers: of constants on the meta device, as far as they are known.

    Attributes:
        literals: another mode beside this one, which sees numbers written in the model's code.
    """

    def __init__(
        self,
        image: tuple[int, int],
        *,
        stops: bool = False,
        numbers: Mapping[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self._constants = Constants(numbers or {})
        self.literals = Literals(self._constants)
        self.image = image
        self._stops = stops
        self._fields: Any = WeakTensorKeyDictionary()
        self._aliases = Aliases()

    def field(self, tensor: Tensor) -> Field | None:
        """What a tensor's elements depend on; None for a constant."""
        found = self._fields.get(tensor)
        if found is None and self._aliases.is_new(tensor):
            # `x.data` and what an autograd function returns are views that no operation made.
            found = self._adopt(tensor)
        return found

    def _adopt(self, tensor: Tensor) -> Field | None:
        """The field of a view by those of the tensors with which it shares its memory."""
        others = list(self._aliases.others(tensor))
        self._aliases.add(tensor)
        known = [(other, f) for other in others if (f := self._fields.get(other)) is not None]
        if not known:
            return None
        found = next((f for other, f in known if _is_same_view(other, tensor)), None)
        if found is None:
            names = frozenset({"view"}).union(*(f.approximations for _, f in known))
            found = whole_image(tensor.shape, self.image, names)
        self._fields[tensor] = found
        return found

    def follow(self, tensor: Tensor, found: Field) -> None:
        """From here on the tensor has a field."""
        self._fields[tensor] = found
        self._aliases.add(tensor)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Carry an operation out and note what its outputs depend on."""
        signature, kwargs = signature_of(func), kwargs or {}
        arguments = signature.bind(args, kwargs)
        depends = any(self.field(tensor) is not None for tensor in tensors_in(arguments.values()))
        if depends and signature.composite and _needs_parts(signature, arguments):
            with self:
                return func.decompose(*args, **kwargs)
        result = _shortcut(func, signature, arguments)
        if result is None:
            result = func(*args, **kwargs)
        outputs = list(tensors_in([result]))
        for output in outputs:
            self._aliases.add(output)
        is_known = not depends and self._constants.follow(func, args, kwargs, outputs)
        if signature.written and not is_known:
            self._forget(arguments[name] for name in signature.written)
        if depends and outputs:
            self._note(func, signature, arguments, outputs)
        if depends and signature.written:
            self._write_unreturned(func, signature, arguments, outputs)
        return result

    def _forget(self, written: Iterable[Any]) -> None:
        for tensor in tensors_in(written):
            self._constants.forget([tensor, *self._aliases.others(tensor)])

    def _note(
        self, func: Any, signature: Signature, arguments: dict[str, Any], outputs: list[Tensor]
    ) -> None:
        operation = Operation(
            func, signature.name, arguments, outputs, self.field, self._constants.of, self.image
        )
        found = self._apply(operation, signature.rule)
        for output, new in zip(outputs, found, strict=True):
            if signature.written:
                self._write(output, new)
            else:
                self._fields[output] = new

    def _apply(self, operation: Operation, rule: Rule | None) -> list[Field]:
        """What the outputs depend on; where a rule does not know its arguments, on everything."""
        try:
            return fields_of_outputs(operation, rule)
        except TooLargeError:
            if self._stops:
                raise
        except (UnknownError, LookupError, TypeError, ValueError, RuntimeError):
            # A rule may meet arguments that nobody thought of: the result then says its name.
            pass
        return fields_of_outputs(operation, None)

    def _write_unreturned(
        self, func: Any, signature: Signature, arguments: dict[str, Any], outputs: list[Tensor]
    ) -> None:
        """An operation may write to tensors that it does not return, or to a list of them."""
        returned = {id(output) for output in outputs}
        targets = [
            tensor
            for tensor in tensors_in(arguments[name] for name in signature.written)
            if id(tensor) not in returned
        ]
        if targets:
            operation = Operation(
                func, signature.name, arguments, targets, self.field, self._constants.of, self.image
            )
            for target, new in zip(targets, fields_of_outputs(operation, None), strict=True):
                self._write(target, new)

    def _write(self, target: Tensor, new: Field) -> None:
        """Note what a tensor holds after an in-place operation, and all views of it."""
        before = self.field(target)
        if before is new:
            return
        others = [
            (other, self.field(other) or nothing(other.shape, self.image))
            for other in self._aliases.others(target)
        ]
        self._fields[target] = new
        if others:
            self._fields.update(write_through(target, new, others))


def _shortcut(func: Any, signature: Signature, arguments: Mapping[str, Any]) -> Any:
    """The result of what takes long on the meta device though nothing is computed.

    Half of the time on a ResNet went into the decomposition of batch normalisation, and a
    recurrent layer is unrolled step by step.
    """
    if signature.name == "batch_norm" and not arguments["training"]:
        return torch.empty_like(arguments["input"])
    if signature.name in RECURRENT and "batch_first" in arguments:
        images = arguments["input"]
        axis = 1 if arguments["batch_first"] and images.ndim == 3 else 0
        one, *states = func(**{**arguments, "input": images.narrow(axis, 0, 1)})
        sizes = list(one.shape)
        sizes[axis] = images.shape[axis]
        return (one.new_empty(sizes), *states)
    return None


def _needs_parts(signature: Signature, arguments: Mapping[str, Any]) -> bool:
    """Whether a composite operation must be seen as the operations that it consists of."""
    return signature.rule is None or (
        signature.name == "einsum" and not is_plain_einsum(arguments["equation"])
    )


def fields_of_outputs(operation: Operation, rule: Rule | None) -> list[Field]:
    """What each output depends on; without a rule on everything, and that is noted."""
    if rule is None:
        return [_unknown(operation, output) for output in operation.outputs]
    given = rule(operation)
    found = [given] if isinstance(given, Field) else list(given)
    outputs = operation.outputs
    for output in outputs[len(found) :]:
        same = tuple(output.shape) == found[0].shape
        found.append(found[0] if same else everything(found[0], tuple(output.shape)))
    return [
        new if _fits(new, output) else _unknown(operation, output)
        for new, output in zip(found, outputs, strict=True)
    ]


def _unknown(operation: Operation, output: Tensor) -> Field:
    names = {operation.name}.union(*(f.approximations for f in operation.operands))
    return whole_image(output.shape, operation.image, names)


def _fits(found: Field, output: Tensor) -> bool:
    """Whether a rule has kept to the form of bounds: each axis as long as the tensor's, or 1."""
    return found.shape == tuple(output.shape) and all(
        array.ndim == output.ndim + 1
        and all(n in (1, size) for n, size in zip(array.shape[1:], output.shape, strict=True))
        for array in (found.rows, found.columns)
    )
