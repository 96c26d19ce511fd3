"""A perceptron with one hidden layer, its gradients by autograd or written by hand."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdfia_cli.spec import InputSpec

if TYPE_CHECKING:
    from rdfia_cli.spec import Count, Positive


def mlp(
    input: InputSpec = InputSpec((1, 28, 28), 10),
    *,
    hidden: Count = 100,
    backprop: Literal["manual", "autograd"] = "autograd",
    initial_std: Positive = 0.3,
) -> nn.Module:
    """Perceptron with one tanh layer; backprop=manual writes every gradient by hand.

    Args:
        input: points or images; images are flattened.
        hidden: the units of the hidden layer.
        backprop: who computes the gradients.
        initial_std: the standard deviation of the normal draw of the weights; biases start at 0.
    """
    kind = ManualPerceptron if backprop == "manual" else Perceptron
    return kind(prod(input.shape), hidden, input.classes, initial_std)


class Perceptron(nn.Module):
    """Linear, tanh, linear: `logits = W_y tanh(W_h x + b_h) + b_y`."""

    def __init__(self, features: int, hidden: int, classes: int, initial_std: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, hidden)
        self.output = nn.Linear(hidden, classes)
        for layer in (self.hidden, self.output):
            nn.init.normal_(layer.weight, std=initial_std)
            nn.init.zeros_(layer.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (B, ...) to logits (B, classes)."""
        return self.output(torch.tanh(self.hidden(inputs.flatten(1))))


class ManualPerceptron(Perceptron):
    """The same perceptron, which never calls autograd."""

    @torch.no_grad()
    def loss_and_logits(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Set `.grad` of the four parameters by the chain rule, and return (loss, logits).

        Args:
            inputs: (B, ...) float.
            labels: (B,) int64 or (B, classes) float probabilities.
        """
        x = inputs.flatten(1)
        h = torch.tanh(x @ self.hidden.weight.T + self.hidden.bias)
        logits = h @ self.output.weight.T + self.output.bias
        log_probabilities = logits - torch.logsumexp(logits, dim=1, keepdim=True)
        y = F.one_hot(labels, logits.shape[1]) if labels.ndim == 1 else labels

        d_logits = (log_probabilities.exp() - y) / len(x)
        d_preactivation = (d_logits @ self.output.weight) * (1 - h**2)
        self.output.weight.grad = d_logits.T @ h
        self.output.bias.grad = d_logits.sum(dim=0)
        self.hidden.weight.grad = d_preactivation.T @ x
        self.hidden.bias.grad = d_preactivation.sum(dim=0)
        return -(y * log_probabilities).sum(dim=1).mean(), logits
