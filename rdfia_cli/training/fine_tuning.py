"""Fine-tuning: which parameters learn, and how fast each does, by how deep it lies.

It works for any model and any optimizer: the parameters are ordered from the input to the head,
and the parameter groups that an optimizer made are split by their rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from rdfia_cli.errors import UsageError
from rdfia_cli.spec import HandDifferentiated, Layered


def parameter_depths(model: nn.Module) -> dict[str, int]:
    """How deep each parameter lies: 0 at the input, the head alone at the largest.

    A `Layered` model tells. For another, a layer is what stands under one name up to its first
    number (`blocks.3`, `layer1.0`, `conv1`), in the order of the model's own parameters; the head
    is the last module that has any.
    """
    if isinstance(model, Layered):
        return dict(model.parameter_depths)
    names = [name for name, _ in model.named_parameters()]
    head = names[-1].rpartition(".")[0]
    layers = [head if name.rpartition(".")[0] == head else _layer(name) for name in names]
    order = [*dict.fromkeys(layer for layer in layers if layer != head), head]
    return {name: order.index(layer) for name, layer in zip(names, layers, strict=True)}


def _layer(name: str) -> str:
    """The layer of a parameter: its module's path up to the first number."""
    parts = name.split(".")[:-1]
    for index, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: index + 1])
    return ".".join(parts[:1])


def freeze_backbone(model: nn.Module) -> None:
    """Let only the head learn.

    Raises:
        UsageError: nothing but a head is there, or the model writes its own gradients.
    """
    depths = parameter_depths(model)
    deepest = max(depths.values())
    if isinstance(model, HandDifferentiated) or not deepest:
        raise UsageError(
            "freeze = backbone needs layers below the head, and gradients by autograd",
            "use --set freeze=none, or another model",
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(depths[name] == deepest)


def frozen_modules(model: nn.Module) -> Sequence[nn.Module]:
    """The modules of a frozen model that stay in evaluation mode: those in which nothing learns.

    Batch normalisation keeps its statistics, and nothing is dropped below the head.
    """
    return [m for m in model.modules() if not any(p.requires_grad for p in m.parameters())]


def scale_rates(
    optimizer: Optimizer, model: nn.Module, *, layer_decay: float, head_factor: float
) -> None:
    """Give each layer its own learning rate: a parameter group each, the head's first.

    With L layers below the head, layer i learns at `layer_decay ** (L - i)` of the optimizer's
    rate (Clark et al. 2020, arXiv:2003.10555), the head at `head_factor` times it.

    Args:
        optimizer: just built; its groups are split, what else they hold stays.
        model: the model whose parameters it has.
        layer_decay: the rate of a layer over that of the next.
        head_factor: the head's rate over the optimizer's.
    """
    if layer_decay == 1 and head_factor == 1:
        return
    depths = parameter_depths(model)
    deepest = max(depths.values())
    factors = {
        parameter: head_factor
        if depths[name] == deepest
        else layer_decay ** (deepest - depths[name])
        for name, parameter in model.named_parameters()
    }
    optimizer.param_groups[:] = [
        part for group in optimizer.param_groups for part in _split(group, factors)
    ]
    deepness = {parameter: depths[name] for name, parameter in model.named_parameters()}
    optimizer.param_groups.sort(key=lambda group: -max(deepness[p] for p in group["params"]))


def _split(
    group: Mapping[str, Any], factors: Mapping[nn.Parameter, float]
) -> Sequence[dict[str, Any]]:
    """A parameter group for each factor, with the rate times the factor."""
    by_factor: dict[float, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        by_factor.setdefault(factors[parameter], []).append(parameter)
    return [
        {**group, "params": parameters, "lr": group["lr"] * factor}
        for factor, parameters in by_factor.items()
    ]
