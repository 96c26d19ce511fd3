"""A model with real numbers in it, for what a shape alone does not tell."""

from __future__ import annotations

import torch
from torch import nn

from rdfia_cli import registry
from rdfia_cli.analysis.subject import Request
from rdfia_cli.spec import InputSpec, parse_spec


def realise(asked: Request, input: InputSpec) -> nn.Module:
    """Build what was asked for on the CPU, initialised from a fixed seed, in evaluation mode.

    Raises:
        ComponentError: its builder fails.
    """
    component = registry.find("models", parse_spec(asked.chosen.name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = registry.build(component, input, **asked.chosen.parameters)
    return model.eval()
