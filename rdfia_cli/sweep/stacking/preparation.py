"""Trials made ready for a stack: what they share is made once, the rest as for a run of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from rdfia_cli import experiment, run
from rdfia_cli.config import RunConfig
from rdfia_cli.spec import HandDifferentiated, Split, Splits
from rdfia_cli.sweep.stacking.alike import find_difference
from rdfia_cli.sweep.stacking.fitness import ApartError, examine
from rdfia_cli.sweep.stacking.kernels import MOST_TRIALS
from rdfia_cli.sweep.stacking.stack import Member
from rdfia_cli.sweep.trial import SECONDS_FOR_A_LOCK, Trial
from rdfia_cli.training import assembly, checkpoint, inputs, surroundings
from rdfia_cli.training.assembly import Assembly
from rdfia_cli.training.precision import choose_device
from rdfia_cli.training.verification import Verification

MEMORY_FOR_ACTIVATIONS = 2**31
"""Bytes that the activations of a stack may take."""


@dataclass
class Prepared:
    """A trial that is ready for a stack.

    Attributes:
        trial: what it is.
        parts: its assembly.
        member: its state and plan.
        logs: of its run folder.
        warnings: what the user should know of it, each in a line.
    """

    trial: Trial
    parts: Assembly
    member: Member
    logs: Mapping[str, run.Log] = field(default_factory=dict[str, run.Log])
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Fit:
    """How trials are stacked.

    Attributes:
        least: slots that a stack of their models has at least, see `kernels`.
        width: how many may share a stack.
    """

    least: int
    width: int


@dataclass
class Shared:
    """What trials of one structure have in common.

    Attributes:
        splits: on the device where they fit.
        verification: of the data.
        macs: of the model; None before the first one is tried.
        statistics: the normalisation; None before it is fitted.
        environment: what every run of this process begins with.
    """

    splits: Splits
    verification: Verification
    macs: int | None = None
    statistics: inputs.Statistics | None = None
    environment: Mapping[str, Any] | None = None

    def assemble(self, config: RunConfig, *, restored: bool = False) -> Assembly:
        """The parts of one trial; the first model is tried, the others are like it.

        Raises:
            ApartError: they cannot be stacked.
            RdfiaError: they cannot be built.
        """
        if config.log:
            raise ApartError("it tells a logger")
        parts = assembly.assemble(config, self.splits, restored=restored, macs=self.macs)
        self.macs = parts.macs
        if config.log:
            raise ApartError("loggers are told of one run at a time")
        if isinstance(parts.model, HandDifferentiated):
            raise ApartError("the model writes its own gradients")
        if parts.arithmetic.precision == "fp16":
            raise ApartError("fp16 scales the loss of each run by itself")
        kinds = {p.dtype for p in parts.model.parameters()}
        if not kinds <= {torch.float32, torch.float64}:
            raise ApartError("its weights are neither of 32 nor of 64 bits")
        return replace(parts, verification=self.verification)

    def prepare(self, parts: Assembly, statistics: inputs.Statistics | None = None) -> Member:
        """The state and the plan of one trial that has not begun."""
        chosen = statistics or self.statistics
        state, plan = assembly.prepare(parts, chosen)
        if statistics is None:
            self.statistics = state.statistics
        return Member(state, plan)


def share(config: RunConfig) -> Shared:
    """Make ready what all trials of a structure share.

    Raises:
        RdfiaError: the data cannot be had.
    """
    for_all = assembly.load_dataset(config.data)
    splits = _finish(for_all)
    verification = Verification(splits.verify)
    splits = inputs.split_validation(splits, config.validation, config.split_seed)
    device = choose_device(config.device)
    settled: dict[str, Split] = {}
    for name in ("train", "validation", "test"):
        split: Split | None = getattr(splits, name)
        if split is not None:
            settled[name] = inputs.settle(split, device)
    return Shared(replace(splits, **settled), verification)


def _finish(work: Generator[Any, None, Splits]) -> Splits:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def begin(trial: Trial, shared: Shared, held: contextlib.ExitStack) -> Prepared | dict[str, Any]:
    """Claim a trial's folder and go back to its newest checkpoint.

    Args:
        trial: the trial.
        shared: what it shares with others.
        held: keeps the claim and the logs until it is closed.

    Returns:
        The trial, or the result that it has already.

    Raises:
        ApartError: it must be trained the ordinary way; the folder is free again.
        TakenError: another process writes its folder.
        RdfiaError: it cannot be trained.
    """
    with contextlib.ExitStack() as mine:
        folder = trial.folder
        mine.enter_context(run.claim(folder, patience=SECONDS_FOR_A_LOCK))
        place = run.look(trial.config, folder)
        if place.state == "finished":
            return place.result
        found, lost = checkpoint.newest(folder / run.CHECKPOINTS)
        warnings = [*shared.splits.warnings, *lost]
        if found is not None and found.manifest["step"]:
            raise ApartError("it stopped within an epoch")
        parts = shared.assemble(trial.config, restored=found is not None)
        if found is not None:
            surroundings.refuse_other_data(folder, parts)
        statistics = checkpoint.load_statistics(found).to(parts.device) if found else None
        member = shared.prepare(parts, statistics)
        checkpoint.refuse_unsavable(member.state)
        if found is not None:
            warnings += surroundings.changes(folder, parts)
        elif lost:
            warnings.append("no checkpoint is sound: starting from the beginning")
        shared.environment = shared.environment or surroundings.describe(parts)
        surroundings.write_head(folder, parts, begins=found is None, environment=shared.environment)
        logs = mine.enter_context(experiment.open_logs(folder))
        experiment.go_back(folder, found, member.state, logs)
        held.enter_context(mine.pop_all())
        return Prepared(trial, parts, member, logs, warnings)


def group_alike(prepared: Sequence[Prepared]) -> list[list[Prepared]]:
    """The trials that may share a stack, in the order of their numbers."""
    groups: list[list[Prepared]] = []
    for each in prepared:
        for group in groups:
            if explain_difference(group[0], each) is None:
                group.append(each)
                break
        else:
            groups.append([each])
    return groups


def explain_difference(one: Prepared, other: Prepared) -> str | None:
    """Why two trials cannot share a stack, in words; None where they can."""
    ours, theirs = _switches(one.member), _switches(other.member)
    for name, value in ours.items():
        if value != theirs[name]:
            return f"{name} differs"
    return find_difference(one.parts.model, other.parts.model)


def _switches(member: Member) -> dict[str, Any]:
    """What decides which operations a step has; a setting that is 0 is another operation less."""
    state, plan = member.state, member.plan
    names = {p: name for name, p in state.model.named_parameters()}
    switched = (
        *("momentum", "weight_decay", "dampening", "nesterov", "centered", "maximize", "amsgrad"),
        *("capturable", "decoupled_weight_decay"),
    )
    groups = [
        (
            tuple(names[p] for p in group["params"]),
            tuple(bool(group.get(key)) for key in switched),
            isinstance(group["lr"], torch.Tensor),
        )
        for group in state.optimizer.param_groups
    ]
    weights = plan.objective.class_weights
    return {
        "the optimizer": type(state.optimizer),
        "what the optimizer does": groups,
        "the batch size": plan.batch_size,
        "label smoothing": plan.objective.label_smoothing > 0,
        "clipping": plan.objective.clip_norm > 0,
        "the weights of the classes": None if weights is None else weights.tolist(),
        "averaging": state.average is not None,
        "the precision": plan.arithmetic,
        "freezing": len(plan.frozen),
        "the device": plan.train.device,
    }


def fit_together(group: Sequence[Prepared]) -> Fit:
    """How trials that are alike are stacked.

    Raises:
        ApartError: they cannot be.
    """
    first = group[0]
    least = examine(first.parts.model, first.member.plan)
    most = min(MOST_TRIALS, MEMORY_FOR_ACTIVATIONS // _measure_activations(first))
    if most < least:
        raise ApartError(f"the activations of {least} trials take too much memory")
    return Fit(least, most)


def _measure_activations(prepared: Prepared) -> int:
    """The bytes that a step of a trial keeps for its backward pass, 1 at least."""
    taken = 0

    def note(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal taken
        taken += tensor.numel() * tensor.element_size()
        return tensor

    plan, parts = prepared.member.plan, prepared.parts
    examples = torch.zeros(2, *parts.input.shape, device=parts.device)
    parts.model.eval()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        parts.model(examples)
    return max(1, taken * plan.batch_size // len(examples))
