"""Muon: momentum whose matrices are made orthogonal before each step.

Jordan, Jin, Boza, You, Cesista, Newhouse and Bernstein 2024, "Muon: An optimizer for hidden layers
in neural networks", https://kellerjordan.github.io/posts/muon.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rdfia_cli.spec import Count, Fraction, NonNegative, Positive

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that takes small singular values to 1 fastest; it leaves them within 0.68-1.13."""


def muon(
    model: nn.Module,
    *,
    lr: NonNegative = 0.02,
    momentum: Fraction = 0.95,
    nesterov: bool = True,
    iterations: Count = 5,
    weight_decay: NonNegative = 0.0,
    adam_lr: NonNegative = 3e-3,
    beta1: Fraction = 0.9,
    beta2: Fraction = 0.95,
    eps: Positive = 1e-8,
) -> Optimizer:
    """Momentum made orthogonal for matrices and kernels, AdamW for the rest (Jordan et al. 2024).

    The last matrix of the model, its head, is left to AdamW with the vectors.

    Args:
        model: its parameters are optimized.
        lr: the rate of matrices.
        momentum: the weight of the past in their averaged gradient.
        nesterov: look one step ahead.
        iterations: of Newton and Schulz, towards the nearest orthogonal matrix.
        weight_decay: decoupled, of all parameters.
        adam_lr: the rate of AdamW; the schedule moves it as it moves `lr`.
        beta1: of AdamW.
        beta2: of AdamW.
        eps: of AdamW.
    """
    learning = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in learning if p.ndim >= 2][:-1]
    chosen = {id(p) for p in matrices}
    others = [p for p in learning if id(p) not in chosen]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "lr": lr, "orthogonal": True},
        {"params": others, "lr": adam_lr, "orthogonal": False},
    ]
    settings = {
        "lr": lr,
        "momentum": momentum,
        "nesterov": nesterov,
        "iterations": iterations,
        "weight_decay": weight_decay,
        "beta1": beta1,
        "beta2": beta2,
        "eps": eps,
    }
    return Muon([group for group in groups if group["params"]], settings)


def orthogonalise(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest orthogonal matrix, roughly: U V^T for U S V^T, by Newton and Schulz.

    Args:
        matrix: (rows, columns) float32.
        iterations: each triples a small singular value; five bring all of them near 1.

    Returns:
        A matrix of that shape with the same singular vectors and singular values near 1.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if tall else matrix
    found = found / (found.norm() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        gram = found @ found.T
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found.T if tall else found


class Muon(Optimizer):
    """Groups that are `orthogonal` step along orthogonal matrices, the others as AdamW does."""

    def __init__(self, groups: list[dict[str, Any]], settings: dict[str, Any]) -> None:
        super().__init__(groups, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - float(group["lr"]) * group["weight_decay"])
                move = self._turn if group["orthogonal"] else self._adapt
                move(parameter, parameter.grad, group)

    def _turn(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["average"] = torch.zeros_like(parameter)
        average = state["average"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(average, group["momentum"]) if group["nesterov"] else average
        matrix = ahead.flatten(1)
        # A tall matrix has more rows than directions: each would otherwise move less.
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        update = orthogonalise(matrix, group["iterations"]).view_as(parameter)
        parameter.add_(update, alpha=-float(group["lr"]) * scale)

    def _adapt(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(
                step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter)
            )
        state["step"] += 1
        mean = state["mean"].lerp_(gradient, 1 - group["beta1"])
        square = state["square"].lerp_(gradient.square(), 1 - group["beta2"])
        unbiased = mean / (1 - group["beta1"] ** state["step"])
        deviation = (square / (1 - group["beta2"] ** state["step"])).sqrt()
        parameter.addcdiv_(unbiased, deviation + group["eps"], value=-float(group["lr"]))
