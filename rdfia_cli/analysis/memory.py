"""The memory that training takes, from what was counted: an estimate for each precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rdfia_cli.analysis.parameters import Costs

FLOAT_BYTES = 4
OPTIMIZER_STATE: Mapping[str, int] = {"sgd": 0, "momentum": 1, "adam": 2}
"""Numbers of the weights' own type that an optimizer keeps for each parameter that learns."""


@dataclass(frozen=True)
class Memory:
    """Bytes by what they hold.

    Attributes:
        weights: parameters and buffers, with their copies in the precision of the arithmetic.
        gradients: one for each parameter that learns.
        optimizer: the state of each kind of optimizer.
        activations: what the forward pass keeps for the backward pass, attention's scores too.
    """

    weights: int
    gradients: int
    optimizer: Mapping[str, int]
    activations: int

    def total(self, optimizer: str) -> int:
        """All of it, with one kind of optimizer."""
        return self.weights + self.gradients + self.optimizer[optimizer] + self.activations


def estimate_memory(costs: Costs) -> dict[str, Memory]:
    """The memory of training in `fp32`, and in `bf16` with weights kept in fp32 (autocast).

    A model whose weights are of another type trains in that type, which is then meant by `fp32`.
    """
    total = costs.total
    weights, gradients = costs.held, costs.learning
    optimizer = {name: n * gradients for name, n in OPTIMIZER_STATE.items()}
    halved = sum(n // 2 if size == FLOAT_BYTES else n for size, n in costs.saved.items())
    return {
        "fp32": Memory(weights, gradients, optimizer, sum(costs.saved.values())),
        "bf16": Memory(weights + 2 * total.parameters, gradients, optimizer, halved),
    }
