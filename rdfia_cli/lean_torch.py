"""PyTorch without its compiler, which takes longer to import than PyTorch itself.

Some of PyTorch's functions import `torch._dynamo` when they are first called, only to be left
alone by it: an optimizer's bookkeeping, every `TorchDispatchMode`. Training compiles nothing. (On
meta tensors PyTorch's own kernels are among them, so the analysis of a model pays for it.)
"""

from __future__ import annotations

import functools
import sys
from types import FunctionType, MethodType
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
    if "torch._dynamo" in sys.modules:
        return
    for owner in owners:
        for value in vars(owner).values():
            if isinstance(value, FunctionType) and value.__code__.co_filename.endswith(
                "torch/_compile.py"
            ):
                original = getattr(value, "__wrapped__", None)
                if isinstance(original, FunctionType):
                    vars(original).setdefault("__dynamo_disable", original)


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
