"""Which modules are being called during one forward pass, and what they returned.

A dispatch mode sees an operation and does not know where in the model it stands; this does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class Call:
    """One call of a module.

    Attributes:
        name: its dotted name, empty for the model; of several names the one below its caller.
        module: what was called.
        number: how often it was called before in this pass, under any name.
        depth: how many calls stand around it.
        inputs: the shapes of the tensors in its positional arguments.
    """

    name: str
    module: nn.Module
    number: int
    depth: int
    inputs: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Returned:
    """A call that is over.

    Attributes:
        call: which one.
        shapes: of each tensor that it returned, in order, however they are nested.
    """

    call: Call
    shapes: tuple[tuple[int, ...], ...]


@dataclass
class Calls:
    """The calls of one forward pass.

    Attributes:
        stack: the calls that are going on, the outermost first.
        returned: those that are over, in the order in which they ended.
    """

    stack: list[Call] = field(default_factory=list[Call])
    returned: list[Returned] = field(default_factory=list[Returned])

    @property
    def current(self) -> str:
        """The name of the innermost module that is being called; empty for the model itself."""
        return self.stack[-1].name if self.stack else ""


def names(model: nn.Module) -> dict[nn.Module, tuple[str, ...]]:
    """Every module with all of its dotted names, in the order of `named_modules`."""
    found: dict[nn.Module, tuple[str, ...]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found[module] = (*found.get(module, ()), name)
    return found


@contextlib.contextmanager
def watch_calls(
    model: nn.Module, on_return: Callable[[Call, Any], None] | None = None
) -> Generator[Calls]:
    """Know which modules are being called while the model runs inside this context.

    Hooks are put on every module and taken off again. They also keep torch from replacing a
    transformer layer by its fused kernel, which calls no module. A scripted module takes none: what
    it and the modules below it do is its caller's.

    Args:
        model: what will be called.
        on_return: told each call as it ends, with what it returned, while it is still on the stack.
    """
    known, calls, counts = names(model), Calls(), dict[nn.Module, int]()

    def enter(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        name = _name_below(known[module], calls.current)
        shapes = _shapes(arguments)
        calls.stack.append(Call(name, module, counts.get(module, 0), len(calls.stack), shapes))
        counts[module] = counts.get(module, 0) + 1

    def leave(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        call = calls.stack[-1]
        calls.returned.append(Returned(call, _shapes(output)))
        if on_return is not None:
            on_return(call, output)
        calls.stack.pop()

    hooks = list[RemovableHandle]()
    try:
        for module in filter(can_be_watched, known):
            hooks.append(module.register_forward_pre_hook(enter, prepend=True))
            hooks.append(module.register_forward_hook(leave))
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def call_outermost(
    model: nn.Module,
    inputs: Tensor,
    calls: Calls,
    on_return: Callable[[Call, Any], None] | None = None,
) -> Any:
    """Call the model that is being watched; of a scripted one, which takes no hooks, tell here."""
    if can_be_watched(model):
        return model(inputs)
    call = Call("", model, 0, 0, _shapes([inputs]))
    calls.stack.append(call)
    output = model(inputs)
    calls.returned.append(Returned(call, _shapes(output)))
    if on_return is not None:
        on_return(call, output)
    calls.stack.pop()
    return output


def can_be_watched(module: nn.Module) -> bool:
    """Whether calls of a module can be told: not of a scripted one, which runs without Python."""
    is_traced = isinstance(module, torch.jit.TopLevelTracedModule)  # pyright: ignore
    return is_traced or not isinstance(module, torch.jit.ScriptModule)


def kind_of(module: nn.Module) -> str:
    """The name of a module's class; of a compiled one that of what was compiled."""
    return getattr(module, "original_name", type(module).__name__)


def _name_below(candidates: tuple[str, ...], caller: str) -> str:
    """Of a module's names the one below the module that calls it, else the first."""
    if len(candidates) == 1:
        return candidates[0]
    prefix = f"{caller}." if caller else ""
    return next((name for name in candidates if name.startswith(prefix)), candidates[0])


def _shapes(values: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors_of(values))


ATOMS = frozenset({type(None), bool, int, float, str, bytes})
"""What holds no tensor, told by its type alone: a model holds hundreds of thousands of them."""


def tensors_of(output: Any) -> Iterator[Tensor]:
    """The tensors in what a module returned: a tensor, or any nest of containers."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | list | tuple | set):
        for value in output.values() if isinstance(output, Mapping) else output:
            if type(value) not in ATOMS:
                yield from tensors_of(value)
    elif is_dataclass(output) and not isinstance(output, type):
        for member in fields(output):
            yield from tensors_of(getattr(output, member.name))
