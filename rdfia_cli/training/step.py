"""One training step: forward, loss, gradients, update. Nothing in it waits for the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rdfia_cli.errors import ComponentError, DivergedError
from rdfia_cli.spec import Batch, HandDifferentiated
from rdfia_cli.training.objective import PLAIN, Objective

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from rdfia_cli.training.precision import Arithmetic


def training_step(
    model: nn.Module,
    batch: Batch,
    optimizer: Optimizer,
    arithmetic: Arithmetic,
    scaler: torch.amp.GradScaler,
    objective: Objective = PLAIN,
) -> tuple[Tensor, Tensor]:
    """Update the weights once.

    Args:
        model: in training mode.
        batch: inputs (B, ...) and labels (B,) or (B, classes), on the model's device.
        optimizer: over the model's parameters.
        arithmetic: the precision of the forward and backward pass.
        scaler: scales the loss in fp16; disabled otherwise.
        objective: the loss and the limit of the gradient.

    Returns:
        The mean loss, 0-dim, and the logits (B, classes), both detached and still on the device.

    Raises:
        ComponentError: the model returns no tensor.
        DivergedError: the update overflows.
    """
    optimizer.zero_grad(set_to_none=True)
    if isinstance(model, HandDifferentiated):
        labels = objective.smooth(batch.labels)
        loss, logits = model.loss_and_logits(batch.inputs, labels)
    else:
        with arithmetic.autocast(batch.inputs.device):
            logits = model(batch.inputs)
        if not isinstance(logits, Tensor):
            raise ComponentError(
                f"the model returns {type(logits).__name__} in training mode, not logits",
                "a model must return one tensor (batch, classes)",
            )
        wide = logits if logits.dtype == torch.float64 else logits.float()
        loss = objective.loss(wide, batch.labels)
        scaler.scale(loss).backward()
    if objective.clip_norm:
        scaler.unscale_(optimizer)
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        nn.utils.clip_grad_norm_(parameters, objective.clip_norm)
    try:
        scaler.step(optimizer)
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise DivergedError(
            f"the update is beyond the range of the weights' type: {error}", "lower --lr"
        ) from None
    scaler.update()
    return loss.detach(), logits.detach()


@torch.no_grad()
def predict(model: nn.Module, batch: Batch, arithmetic: Arithmetic) -> Tensor:
    """The logits (B, classes) float32 of a model in evaluation mode."""
    with arithmetic.autocast(batch.inputs.device):
        return model(batch.inputs).float()
