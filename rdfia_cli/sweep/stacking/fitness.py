"""Whether a model can be stacked: one step of a copy is tried before any trial begins.

What a stack would silently do otherwise than a run of its own is looked for here: random numbers
that nobody hands out, and anything but tensors that changes from one call to the next.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from rdfia_cli.sweep.stacking.alike import TENSORS, equal
from rdfia_cli.sweep.stacking.draws import Draw, handing_out, note_draws
from rdfia_cli.sweep.stacking.kernels import Operations, least_slots
from rdfia_cli.training.loop import Plan
from rdfia_cli.training.precision import Arithmetic
from rdfia_cli.training.randomness import draw_order

SLOTS = 2
TOLERANCE = 0.1
"""How far the logits of a stack may be from the model's own, by the largest of them: what differs
by rounding is nearer, in bf16 too; what differs by meaning is not."""


class ApartError(Exception):
    """A trial must be trained the ordinary way; the message says why."""


def examine(model: nn.Module, plan: Plan) -> int:
    """Try a step and a scoring on a copy of a model.

    Args:
        model: as it begins; it stays as it is.
        plan: of a run of it.

    Returns:
        How many slots a stack of it has at least, see `kernels`.

    Raises:
        ApartError: it cannot be stacked.
    """
    order = draw_order(len(plan.train.split), plan.seed, 0)[: plan.batch_size]
    inputs = plan.train.batch(order.to(plan.train.split.inputs.device), 0, 0).inputs
    try:
        tried = _copy_to_train(model, plan.frozen)
        logits, draws = _call_plainly(tried, inputs, plan.arithmetic)
        with Operations() as operations:
            stacked = _step_stacked(tried, inputs, draws, plan.arithmetic)
            _score_stacked(tried.eval(), inputs, plan.arithmetic)
        _compare(stacked, logits)
    except ApartError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if "randomness" in text:
            raise ApartError("it draws random numbers in its forward pass") from None
        raise ApartError(f"it fails in a stack: {type(error).__name__}: {text}") from error
    if operations.joining:
        raise ApartError("it multiplies the numbers of all trials by one matrix")
    if operations.uneven and plan.arithmetic.precision == "bf16":
        raise ApartError(f"in bf16 {min(operations.uneven)} may round by the company of a trial")
    return least_slots(operations, inputs.device)


def _copy_to_train(model: nn.Module, frozen: Sequence[nn.Module]) -> nn.Module:
    copied = copy.deepcopy(model).train()
    waiting = {id(module) for module in frozen}
    for module, original in zip(copied.modules(), model.modules(), strict=True):
        if id(original) in waiting:
            module.eval()
    return copied


def _call_plainly(
    model: nn.Module, inputs: Tensor, arithmetic: Arithmetic
) -> tuple[Tensor, Sequence[Draw]]:
    """The logits where nothing is random, and what would be drawn."""
    before, buffers, generators = _attributes(model), _buffers(model), _generators()
    found: list[Tensor] = []
    with torch.no_grad(), arithmetic.autocast(inputs.device):
        draws = note_draws(lambda: found.append(model(inputs)), SLOTS)
    if not equal(_generators(), generators):
        raise ApartError("it draws random numbers in its forward pass")
    for name, attributes in _attributes(model).items():
        for key, value in attributes.items():
            if key not in before[name] or not equal(before[name][key], value):
                raise ApartError(f"{name or 'it'} changes {key} in its forward pass")
    if _buffers(model) != buffers:
        raise ApartError("it puts other tensors into the place of its buffers")
    return found[0], draws


def _attributes(model: nn.Module) -> dict[str, dict[str, Any]]:
    return {
        name: {
            key: copy.copy(value) if isinstance(value, list | dict | set) else value
            for key, value in vars(module).items()
            if key not in TENSORS
        }
        for name, module in model.named_modules()
    }


def _buffers(model: nn.Module) -> Mapping[str, int]:
    return {name: id(buffer) for name, buffer in model.named_buffers()}


def _generators() -> Sequence[Any]:
    """The states of the generators that a layer may draw from without saying so."""
    numbers: Any = np.random.get_state(legacy=False)
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states += torch.cuda.get_rng_state_all()
    return [random.getstate(), numbers["state"]["pos"], numbers["state"]["key"].tolist(), *states]


def _step_stacked(
    model: nn.Module, inputs: Tensor, draws: Sequence[Draw], arithmetic: Arithmetic
) -> Tensor:
    """The logits (2, B, classes) of two slots, after a backward pass."""
    parameters = _twice(dict(model.named_parameters()))
    for name, parameter in model.named_parameters():
        parameters[name].requires_grad_(parameter.requires_grad)
    numbers = [_nothing_dropped(draw, inputs.device) for draw in draws]

    def call(p: Any, b: Any, x: Tensor, drawn: Sequence[Tensor]) -> Tensor:
        with handing_out(drawn, SLOTS):
            return functional_call(model, (p, b), (x,))

    buffers = _twice(dict(model.named_buffers()))
    with arithmetic.autocast(inputs.device):
        logits = torch.vmap(call, randomness="error")(
            parameters, buffers, torch.stack([inputs] * SLOTS), numbers
        )
    learning = [p for p in parameters.values() if p.requires_grad]
    losses = (logits * logits).flatten(1).sum(1).unbind()
    torch.autograd.grad(losses, learning, allow_unused=True)
    return logits.detach()


@torch.no_grad()
def _score_stacked(model: nn.Module, inputs: Tensor, arithmetic: Arithmetic) -> None:
    def call(p: Any, b: Any, x: Tensor) -> Tensor:
        return functional_call(model, (p, b), (x,))

    tensors = _twice(dict(model.named_parameters())), _twice(dict(model.named_buffers()))
    repeated = inputs.expand(SLOTS, *inputs.shape)
    with arithmetic.autocast(inputs.device):
        torch.vmap(call, randomness="error")(*tensors, repeated)


def _twice(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.stack([tensor.detach()] * SLOTS) for name, tensor in tensors.items()}


def _nothing_dropped(draw: Draw, device: torch.device) -> Tensor:
    value = 0.5 if draw.kind == "rand" else 1.0
    return torch.full((SLOTS, *draw.shape), value, dtype=draw.dtype, device=device)


def _compare(stacked: Tensor, plain: Tensor) -> None:
    allowed = TOLERANCE * plain.abs().max()
    if stacked.shape != (SLOTS, *plain.shape) or (stacked - plain).abs().max() > allowed:
        raise ApartError("it computes something else in a stack")
