"""One training step: forward, loss, gradients, update. Nothing in it waits for the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdfia_cli.errors import ComponentError, DivergedError
from rdfia_cli.spec import Batch, HandDifferentiated

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from rdfia_cli.training.precision import Arithmetic


@dataclass(frozen=True)
class Objective:
    """What a step makes smaller, and how far it may go at once.

    Attributes:
        classes: how many there are.
        label_smoothing: the share of each label that all classes get alike (Szegedy et al. 2016,
            arXiv:1512.00567).
        class_weights: (classes,) float32, the weight of each class in the loss, or None.
        clip_norm: the largest norm of the whole gradient; 0 leaves it as it is.
    """

    classes: int = 0
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    clip_norm: float = 0.0

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy, 0-dim, of logits (B, classes) and labels as in `Batch`.

        With class weights it is the mean by the weights of the examples' classes; a mixed example
        counts by its shares of them, so that a label that is all one class is that class.
        """
        if self.class_weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        weights = self.class_weights.to(logits.dtype)
        if labels.ndim == 2:
            return self._weighted_loss(logits, labels, weights)
        return F.cross_entropy(logits, labels, weight=weights, label_smoothing=self.label_smoothing)

    def _weighted_loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """PyTorch's weighted mean for labels (B, classes), where it divides by the examples."""
        terms = -weights * logits.log_softmax(1)
        smoothed = labels * (1 - self.label_smoothing) + self.label_smoothing / logits.shape[1]
        return (smoothed * terms).sum() / (labels * weights).sum()

    def smooth(self, labels: Tensor) -> Tensor:
        """The smoothed labels, (B, classes) float32, for a model that has no loss to tell."""
        if not self.label_smoothing:
            return labels
        shares = F.one_hot(labels, self.classes).float() if labels.ndim == 1 else labels
        return shares * (1 - self.label_smoothing) + self.label_smoothing / self.classes


PLAIN = Objective()


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
