"""What a model costs: its parameters and the arithmetic of one forward pass, on the meta device."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rdfia_cli.spec import InputSpec


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        parameters: weights and biases, shared ones once.
        macs: multiply-accumulates of convolutions and matrix products, one example forward.
    """

    parameters: int
    macs: int


def count(model: nn.Module, input: InputSpec) -> Cost:
    """Count a model without computing anything: nothing is allocated."""
    shadow = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, *input.shape, device="meta"))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, counter.get_total_flops() // 2)
