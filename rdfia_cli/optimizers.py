"""Optimizers: builders from a model to a torch optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rdfia_cli.errors import UsageError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from rdfia_cli.spec import Fraction, NonNegative, Positive


def sgd(
    model: nn.Module,
    *,
    lr: NonNegative = 0.1,
    momentum: Fraction = 0.0,
    nesterov: bool = False,
    weight_decay: NonNegative = 0.0,
) -> Optimizer:
    """Stochastic gradient descent, with momentum where asked for."""
    if nesterov and not momentum:
        raise UsageError(
            "optimizer.nesterov needs a momentum above 0", "add --set optimizer.momentum=0.9"
        )
    return torch.optim.SGD(
        model.parameters(), lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )


def adam(
    model: nn.Module,
    *,
    lr: NonNegative = 1e-3,
    beta1: Fraction = 0.9,
    beta2: Fraction = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Optimizer:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980); weight decay is an L2 term of the loss."""
    return torch.optim.Adam(model.parameters(), lr, (beta1, beta2), eps, weight_decay)


def adamw(
    model: nn.Module,
    *,
    lr: NonNegative = 1e-3,
    beta1: Fraction = 0.9,
    beta2: Fraction = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 1e-2,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv:1711.05101)."""
    return torch.optim.AdamW(model.parameters(), lr, (beta1, beta2), eps, weight_decay)


def rmsprop(
    model: nn.Module,
    *,
    lr: NonNegative = 1e-3,
    alpha: Fraction = 0.99,
    eps: Positive = 1e-8,
    momentum: Fraction = 0.0,
    centered: bool = False,
    weight_decay: NonNegative = 0.0,
) -> Optimizer:
    """RMSprop (Hinton, lecture 6e of 2012): the gradient over the root of its squares' average."""
    return torch.optim.RMSprop(model.parameters(), lr, alpha, eps, weight_decay, momentum, centered)
