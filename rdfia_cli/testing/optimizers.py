"""What every optimizer promises."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR

from rdfia_cli import registry
from rdfia_cli.spec import InputSpec
from rdfia_cli.testing.short_run import noise, plan_for, require_exact_resume
from rdfia_cli.testing.subject import Subject, require
from rdfia_cli.training.fine_tuning import scale_rates

INPUT = InputSpec((3, 8, 8), 4)
CONVEX_STEPS = 100
LEAST_DECREASE = 0.01
"""The share of the convex loss that must be gone after CONVEX_STEPS at the default rate."""


def network() -> nn.Module:
    """A small network with every shape of parameter: kernels, matrices, vectors."""
    torch.manual_seed(0)
    return nn.Sequential(
        # A bias here would have no gradient: the norm takes it away.
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.Flatten(),
        nn.Linear(72, 16),
        nn.ReLU(),
        nn.Linear(16, INPUT.classes),
    )


def build(subject: Subject, model: nn.Module) -> Optimizer:
    """The optimizer over a model."""
    built = subject.build(model)
    require(isinstance(built, Optimizer), f"it returns {type(built).__name__}, not an Optimizer")
    return built


def _step(model: nn.Module, optimizer: Optimizer, seed: int = 0) -> None:
    batch = noise(INPUT, 8, seed)
    optimizer.zero_grad(set_to_none=True)
    F.cross_entropy(model(batch.inputs), batch.labels).backward()
    optimizer.step()


def _values(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def it_has_a_learning_rate(subject: Subject) -> None:
    """It has the hyper-parameter `lr`, which is what --lr sets, and every group starts with one."""
    require("lr" in registry.parameters(subject.component).parameters, "it has no setting 'lr'")
    for group in build(subject, network()).param_groups:
        require(float(group.get("lr", -1)) >= 0, "a group of parameters has no rate in 'lr'")


def every_parameter_moves(subject: Subject) -> None:
    """Each parameter of the model is in one group, once, and one step moves it."""
    model = network()
    optimizer = build(subject, model)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    require(len(held) == len(set(held)), "a parameter is in two groups")
    before = _values(model)
    for seed in range(3):
        _step(model, optimizer, seed)
    for name, parameter in model.named_parameters():
        require(id(parameter) in held, f"'{name}' is in no group")
        require(not torch.equal(parameter, before[name]), f"three steps do not move '{name}'")


def a_convex_loss_decreases(subject: Subject) -> None:
    """At its default rate it makes the loss of a logistic regression smaller."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 10, generator=generator)
    labels = (inputs @ torch.randn(10, 4, generator=generator)).argmax(1)
    torch.manual_seed(0)
    model = nn.Linear(10, 4)
    optimizer = build(subject, model)
    first = F.cross_entropy(model(inputs), labels).item()
    for _ in range(CONVEX_STEPS):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    last = F.cross_entropy(model(inputs), labels).item()
    require(
        last <= first * (1 - LEAST_DECREASE),
        f"{CONVEX_STEPS} steps take a logistic regression's loss from {first:.4f} to {last:.4f}",
    )


def the_rate_decides_the_step(subject: Subject) -> None:
    """Where a schedule sets the rate of every group to 0, no weight moves."""
    model = network()
    optimizer = build(subject, model)
    _step(model, optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = _values(model)
    _step(model, optimizer, seed=1)
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    require(not moved, f"at a rate of 0 it moves {', '.join(moved)}: read group['lr'] at each step")


def frozen_parameters_stay(subject: Subject) -> None:
    """Parameters that do not learn stay to the bit, weight decay or not."""
    model = network()
    frozen = [name for name, _ in model.named_parameters() if not name.startswith("7.")]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    before, optimizer = _values(model), build(subject, model)
    for seed in range(2):
        _step(model, optimizer, seed)
    after = _values(model)
    moved = [name for name in frozen if not torch.equal(after[name], before[name])]
    require(not moved, f"it moves {', '.join(moved)}, which do not learn")


def layers_may_have_their_own_rates(subject: Subject) -> None:
    """Its groups can be split into one a layer, as --layer-decay does, and still step."""
    model = network()
    optimizer = build(subject, model)
    scale_rates(optimizer, model, layer_decay=0.5, head_factor=2.0)
    before = _values(model)
    _step(model, optimizer)
    require(
        any(not torch.equal(p, before[name]) for name, p in model.named_parameters()),
        "with a rate for each layer nothing moves",
    )


def a_run_resumes_exactly(subject: Subject) -> None:
    """A run with it that is stopped and resumed ends with the same bytes as one never stopped."""

    def parts() -> tuple[nn.Module, Optimizer, type[ConstantLR]]:
        model = network()
        return model, build(subject, model), ConstantLR

    require_exact_resume(plan_for(INPUT), parts)


CHECKS = (
    it_has_a_learning_rate,
    every_parameter_moves,
    a_convex_loss_decreases,
    the_rate_decides_the_step,
    frozen_parameters_stay,
    layers_may_have_their_own_rates,
    a_run_resumes_exactly,
)
