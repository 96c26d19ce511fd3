"""PyTorch without its compiler, which takes longer to import than PyTorch itself.

Some of PyTorch's functions import `torch._dynamo` when they are first called, only to be left
alone by it: an optimizer's bookkeeping, every `TorchDispatchMode`, many kernels of the meta device.
Neither training nor the analysis of a model compiles anything.
"""

from __future__ import annotations

import functools
import sys
from types import CellType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer


def spare_compiler(*owners: type) -> None:
    """Mark the functions of classes that the compiler is to leave alone as left alone already.

    Where PyTorch has another way to say that, nothing is marked, and the import takes its time.

    Args:
        owners: classes such as `torch.optim.Optimizer`.
    """
    _spare([value for owner in owners for value in vars(owner).values()])


@functools.cache
def spare_meta_kernels() -> None:
    """Mark PyTorch's own kernels of the meta device in the same way."""
    from torch._decomp import global_decomposition_table

    references = [m for name, m in sys.modules.items() if name.startswith("torch._refs")]
    tables = (*global_decomposition_table.values(), *map(vars, references))
    _spare([kernel for table in tables for kernel in table.values()])


def _spare(waiting: list[Any]) -> None:
    """Mark functions, and those that they are made of, where they would ask the compiler."""
    if "torch._dynamo" in sys.modules:
        return
    seen: set[FunctionType] = set()
    while waiting:
        function = waiting.pop()
        if not isinstance(function, FunctionType) or function in seen:
            continue
        seen.add(function)
        # Not `__wrapped__`, which says what a function stands for and not what it calls.
        inner = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        waiting += inner
        if function.__code__.co_filename.endswith("torch/_compile.py"):
            for asking in inner:
                if isinstance(asking, FunctionType):
                    vars(asking).setdefault("__dynamo_disable", asking)


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def spare_step(optimizer: Optimizer) -> None:
    """Let an optimizer of PyTorch's own make its steps without asking for the compiler.

    The step is the same; what is left out is a break in the graph that nobody traces. A step that
    a hook watches is PyTorch's own, whenever the hook came. Any other class, a step that was
    replaced or is differentiated, and one of another PyTorch that has no such break stay as they
    are.

    Args:
        optimizer: just built, before a schedule watches it.
    """
    import torch
    from torch.optim import SGD, Adam, AdamW, RMSprop

    if type(optimizer) not in (SGD, Adam, AdamW, RMSprop) or "torch._dynamo" in sys.modules:
        return
    hooked: Callable[..., Any] = type(optimizer).step
    breaking = getattr(hooked, "__wrapped__", None)
    plain = getattr(breaking, "__wrapped__", None)
    if breaking is None or plain is None or breaking.__code__.co_name != "_use_grad":
        return
    if "step" in vars(optimizer) or optimizer.defaults.get("differentiable"):
        return
    lean = torch.no_grad()(plain)

    @functools.wraps(hooked)
    def step(self: Optimizer, *arguments: Any, **keywords: Any) -> Any:
        chosen = hooked if has_step_hooks(self) else lean
        return chosen(self, *arguments, **keywords)

    optimizer.step = MethodType(step, optimizer)


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Whether something is called before or after the steps of an optimizer, or of every one."""
    import torch.optim.optimizer as shared

    own = vars(optimizer)
    return any(
        own.get(f"_optimizer_step_{when}_hooks")
        or getattr(shared, f"_global_optimizer_{when}_hooks")
        for when in ("pre", "post")
    )
