"""What a step makes smaller: the loss, the weights of the classes in it, the gradient's limit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdfia_cli.config import RunConfig
from rdfia_cli.errors import UsageError
from rdfia_cli.spec import HandDifferentiated, Split


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


def choose_objective(
    config: RunConfig, model: nn.Module, train: Split, classes: int, device: torch.device
) -> Objective:
    """The loss that the configuration asks for.

    Args:
        config: names it.
        model: what is trained.
        train: the examples, which balanced class weights count.
        classes: how many there are.
        device: where the class weights go.

    Raises:
        UsageError: the class weights do not fit the classes, or the model has a loss of its own.
    """
    weights = None
    if config.class_weights != "none":
        if isinstance(model, HandDifferentiated):
            raise UsageError(
                "class_weights do not reach a model that writes its own gradients",
                "use --set model.backprop=autograd, or --set class_weights=none",
            )
        weights = _class_weights(config, train, classes).to(device)
    return Objective(classes, config.label_smoothing, weights, config.clip_norm)


def _class_weights(config: RunConfig, train: Split, classes: int) -> Tensor:
    """The weight of each class in the loss: (classes,) float32."""
    given = config.class_weights
    if not isinstance(given, tuple):
        counts = torch.bincount(train.labels, minlength=classes)
        return (len(train) / (classes * counts.clamp(min=1))).float()
    if len(given) != classes:
        raise UsageError(
            f"class_weights has {len(given)} values for {classes} classes",
            f"give {classes}, in the order of the class names, or balanced",
        )
    return torch.tensor(given)
