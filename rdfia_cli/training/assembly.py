"""From a configuration to the parts of a run: data, model, optimizer, schedule, pipelines.

Training and evaluation build the same parts, so they stand here once.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.flop_counter import (
    FlopCounterMode,
    _FlopCounterMode,  # pyright: ignore[reportPrivateUsage]
)

from rdfia_cli import cache, registry
from rdfia_cli.config import COMPONENT_GROUPS, ComponentConfig, RunConfig
from rdfia_cli.errors import ChangedError, ComponentError, UsageError
from rdfia_cli.lean_torch import spare_compiler, spare_step
from rdfia_cli.spec import (
    Augmentation,
    FitsInputs,
    HandDifferentiated,
    InputSpec,
    Logger,
    Preparing,
    Pretrained,
    Split,
    Splits,
    WatchesValidation,
    parse_spec,
)
from rdfia_cli.training import inputs, split_checks
from rdfia_cli.training.averaging import Average, no_best_yet
from rdfia_cli.training.fine_tuning import freeze_backbone, frozen_modules, scale_rates
from rdfia_cli.training.loop import Plan, TrainingState, begin
from rdfia_cli.training.memory import keep_freed_memory
from rdfia_cli.training.objective import choose_objective
from rdfia_cli.training.precision import Arithmetic, choose_arithmetic, choose_device
from rdfia_cli.training.randomness import derive_seed, seed_global_generators
from rdfia_cli.training.verification import Verification

EXAMPLES_FITTED = 5000
"""Train examples that a model may look at before its first step, as many as airbench takes."""

RETURNS: Mapping[str, type] = {
    "model": nn.Module,
    "data": Splits,
    "augment": Augmentation,
    "optimizer": Optimizer,
    "schedule": LRScheduler,
    "log": Logger,
}


@dataclass(frozen=True)
class Assembly:
    """The parts that training and evaluation share.

    Attributes:
        config: what they were built from.
        splits: train, validation (unless the share is 0) and test.
        augmentations: in order.
        input: what the model is fed, after the augmentations.
        model: on the device, freshly initialised.
        device: where it runs.
        arithmetic: precision and layout.
        verification: to wait for before anything is kept that was made of the splits.
        macs: multiply-accumulates of one example's forward pass.
    """

    config: RunConfig
    splits: Splits
    augmentations: Sequence[Augmentation]
    input: InputSpec
    model: nn.Module
    device: torch.device
    arithmetic: Arithmetic
    verification: Verification = field(default_factory=lambda: Verification(None))
    macs: int = 0

    @property
    def parameters(self) -> int:
        """The parameters of the model, shared ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def split(self, name: str) -> Split:
        """One of the splits by name.

        Raises:
            ComponentError: the run has no validation split.
        """
        found: Split | None = getattr(self.splits, name)
        if found is None:
            raise ComponentError("the run has no validation split", "it was trained without one")
        return found

    def pipeline(self, split: Split, statistics: inputs.Statistics) -> inputs.Pipeline:
        """Batches of a split, as this run augments, normalises and lays them out."""
        return self.passing_pipeline(inputs.settle(split, self.device), statistics)

    def passing_pipeline(self, split: Split, statistics: inputs.Statistics) -> inputs.Pipeline:
        """The same for a single pass, for which a split is not moved to the device as a whole."""
        return inputs.Pipeline(
            split,
            self.augmentations,
            statistics,
            self.device,
            self.arithmetic.memory_format,
            self.config.seed,
        )


def build_component(key: str, chosen: ComponentConfig, *arguments: Any, **supplied: Any) -> Any:
    """Call the builder that a configuration names.

    Raises:
        ComponentError: it fails, or returns something else than its group's contract says.
    """
    component = registry.find(COMPONENT_GROUPS[key], parse_spec(chosen.name))
    built = registry.build(component, *arguments, **chosen.parameters, **supplied)
    _refuse_return(key, built, component)
    return built


def _refuse_return(key: str, built: Any, component: registry.Component) -> None:
    expected = RETURNS[key]
    if not isinstance(built, expected):
        raise ComponentError(
            f"{component.address} returns {type(built).__name__}, not {expected.__name__}",
            "its builder breaks the contract of its group: see rdfia_cli/spec.py",
        )


def load_splits(config: RunConfig) -> Generator[Preparing, None, Splits]:
    """Make the dataset ready, as it is now, and take its validation split from train."""
    splits = yield from load_verified(config.data)
    return inputs.split_validation(splits, config.validation, config.split_seed)


def load_verified(chosen: ComponentConfig) -> Generator[Preparing, None, Splits]:
    """Make a dataset ready as its source is now: where that changed, it is prepared anew.

    Raises:
        ChangedError: it changed once more meanwhile.
    """
    splits = yield from load_dataset(chosen)
    try:
        Verification(splits.verify).wait()
    except ChangedError:
        splits = yield from load_dataset(chosen)
        Verification(splits.verify).wait()
    return splits


def load_dataset(chosen: ComponentConfig) -> Generator[Preparing, None, Splits]:
    """Make a dataset ready; whether its source changed in its place is still to be verified.

    Yields:
        How far a long preparation is.

    Raises:
        ComponentError: the dataset's builder breaks its contract.
    """
    seed_global_generators(derive_seed(0, "dataset"), torch.device("cpu"))
    component = registry.find(COMPONENT_GROUPS["data"], parse_spec(chosen.name))
    splits = registry.build(component, cache.folder(), **chosen.parameters)
    if isinstance(splits, Generator):
        with registry.naming(component, "fails"):
            splits = yield from splits
    _refuse_return("data", splits, component)
    for name in ("train", "validation", "test"):
        split: Split | None = getattr(splits, name)
        if split is not None and (flaw := split_checks.find_flaw(split, splits.input)):
            raise ComponentError(
                f"the {name} split of dataset '{chosen.name}' {flaw}",
                "its builder breaks the contract of a Split: see rdfia_cli/spec.py",
            )
    return splits


def build_augmentations(config: RunConfig, input: InputSpec) -> list[Augmentation]:
    """The chain of augmentations, each fed with what the one before produces."""
    chain: list[Augmentation] = []
    for chosen in config.augment:
        chain.append(build_component("augment", chosen, inputs.output_of(chain, input)))
    return chain


def build_model(config: RunConfig, input: InputSpec, *, restored: bool = False) -> nn.Module:
    """The model, initialised from the seed and the weights that it starts from.

    Args:
        config: names the model.
        input: what it is fed.
        restored: a checkpoint's weights will take the place of the first ones, which need not be
            found again.

    Raises:
        ComponentError: it has nothing to train.
    """
    seed_global_generators(derive_seed(config.seed, "initialisation"), torch.device("cpu"))
    chosen = config.model
    component = registry.find("models", parse_spec(chosen.name))
    if restored:
        dropped = registry.first_weights(component)
        kept = {k: v for k, v in chosen.parameters.items() if k not in dropped}
        chosen = chosen.model_copy(update={"parameters": kept})
    model: nn.Module = build_component("model", chosen, input)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ComponentError(
            f"{component.address} has no parameters to train", "its builder must return some"
        )
    return model


def assemble(
    config: RunConfig, splits: Splits, *, restored: bool = False, macs: int | None = None
) -> Assembly:
    """Build what training and evaluation share, for the splits from `load_splits`.

    Args:
        config: names the parts.
        splits: the examples.
        restored: a checkpoint's weights will be loaded.
        macs: the arithmetic of one example where a model of the same structure has been tried;
            otherwise this one is tried.
    """
    device = choose_device(config.device)
    _use_deterministic_kernels(config.deterministic)
    keep_freed_memory()
    spare_compiler(Optimizer, _FlopCounterMode)
    augmentations = build_augmentations(config, splits.input)
    fed = inputs.output_of(augmentations, splits.input)
    model = build_model(config, fed, restored=restored)
    model.to(device)
    if macs is None or any(is_lazy(parameter) for parameter in model.parameters()):
        macs = _try_model(model, config, fed, device)
    arithmetic = choose_arithmetic(
        config.precision,
        device,
        macs,
        images=len(fed.shape) == 3,
        by_hand=isinstance(model, HandDifferentiated),
    )
    model.to(memory_format=arithmetic.memory_format)  # pyright: ignore[reportCallIssue]
    return Assembly(config, splits, augmentations, fed, model, device, arithmetic, macs=macs)


def load_and_assemble(
    config: RunConfig, *, restored: bool = False
) -> Generator[Preparing, None, Assembly]:
    """Make the dataset ready and build the rest for it, while its source is looked at.

    Training need not wait for that look: whoever keeps something waits for `verification`.

    Args:
        config: names the parts.
        restored: a checkpoint's weights will be loaded.
    """
    splits = yield from load_dataset(config.data)
    verification = Verification(splits.verify)
    splits = inputs.split_validation(splits, config.validation, config.split_seed)
    parts = assemble(config, splits, restored=restored)
    return replace(parts, verification=verification)


@torch.no_grad()
def _try_model(model: nn.Module, config: RunConfig, input: InputSpec, device: torch.device) -> int:
    """Try the model on two blank examples before anything is written.

    Returns:
        The multiply-accumulates of one example.

    Raises:
        ComponentError: the model fails, or returns no logits (2, classes).
    """
    component = registry.find("models", parse_spec(config.model.name))
    model.eval()
    with (
        registry.naming(component, f"fails on inputs of shape {input.shape}"),
        FlopCounterMode(display=False) as counter,
    ):
        logits = model(torch.zeros(2, *input.shape, device=device))
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != (2, input.classes):
        raise ComponentError(
            f"{component.address} returns {shape} for 2 examples of {input.classes} "
            f"classes, not (2, {input.classes})",
            "a model must return logits (batch, classes)",
        )
    return counter.get_total_flops() // 4


def _use_deterministic_kernels(wanted: bool) -> None:
    # cuBLAS reads this when it starts: without it some matrix products vary from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # So does MKL, whose products otherwise round by how their operands lie in memory.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    # torch.use_deterministic_algorithms would import the compiler, which takes as long as torch.
    torch._C._set_deterministic_algorithms(wanted, warn_only=False)  # pyright: ignore
    # Filling fresh memory only guards against code that reads it before it writes it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore
    torch.backends.cudnn.benchmark = not wanted


def _refuse_lonely_example(assembly: Assembly, plan: Plan) -> None:
    """Batch normalisation cannot train on a single value a channel; find that out at once.

    Raises:
        ComponentError: the epoch's last batch has one example, on which the model fails.
    """
    examples, size = len(assembly.splits.train), plan.batch_size
    normalised = any(isinstance(module, _BatchNorm) for module in assembly.model.modules())
    if not normalised or (examples - 1) % size:
        return
    trial = copy.deepcopy(assembly.model).train()
    for part in frozen_modules(trial) if plan.frozen else ():
        part.eval()
    try:
        trial(torch.zeros(1, *assembly.input.shape, device=assembly.device))
    except ValueError as error:
        raise ComponentError(
            f"{examples} examples in batches of {size} leave one alone, on which batch "
            f"normalisation fails: {error}",
            "choose another --batch-size",
        ) from None


def prepare(
    assembly: Assembly, statistics: inputs.Statistics | None = None
) -> tuple[TrainingState, Plan]:
    """The state of a run that has not begun, and the plan that it follows.

    Args:
        assembly: the parts.
        statistics: the normalisation, where a run that goes on has it; otherwise it is fitted.

    Raises:
        UsageError: an option needs what the run has not.
    """
    config, model = assembly.config, assembly.model
    train = assembly.splits.train
    if statistics is None:
        statistics = _fit_statistics(assembly).to(assembly.device)
        _fit_model(assembly, statistics)
    evaluated = {
        name: assembly.pipeline(split, statistics)
        for name, split in (
            ("validation", assembly.splits.validation),
            ("test", assembly.splits.test),
        )
        if split is not None
    }
    plan = Plan(
        train=assembly.pipeline(train, statistics),
        evaluations=evaluated,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        arithmetic=assembly.arithmetic,
        objective=choose_objective(config, model, train, assembly.input.classes, assembly.device),
        patience=config.early_stopping,
        frozen=_freeze(assembly),
    )
    _refuse_lonely_example(assembly, plan)
    optimizer: Optimizer = build_component("optimizer", config.optimizer, model)
    spare_step(optimizer)
    scale_rates(optimizer, model, layer_decay=config.layer_decay, head_factor=config.head_lr_factor)
    schedule = build_component(
        "schedule",
        config.schedule,
        optimizer,
        steps_per_epoch=plan.steps_per_epoch,
        epochs=config.epochs,
    )
    _refuse_missing_validation(assembly, schedule)
    scaler = torch.amp.GradScaler(
        assembly.device.type, enabled=assembly.arithmetic.precision == "fp16"
    )
    average = Average(model, config.ema_decay) if config.ema_decay else None
    best = no_best_yet(model) if config.early_stopping else None
    state = TrainingState(
        model, optimizer, schedule, scaler, statistics, begin(plan), average, best
    )
    return state, plan


def _freeze(assembly: Assembly) -> Sequence[nn.Module]:
    """Freeze what the configuration says; the modules that stay in evaluation mode."""
    if assembly.config.freeze == "none":
        return ()
    freeze_backbone(assembly.model)
    return frozen_modules(assembly.model)


def _fit_model(assembly: Assembly, statistics: inputs.Statistics) -> None:
    """Show a model that asks for them examples from all over the train split, not augmented."""
    if not isinstance(assembly.model, FitsInputs):
        return
    train = assembly.splits.train
    most = max(1, inputs.EVALUATION_VALUES // train.inputs[0].numel())
    count = min(len(train), EXAMPLES_FITTED, most)
    chosen = train.select(torch.arange(count) * len(train) // count)
    batches = assembly.passing_pipeline(chosen, statistics).evaluation_batches()
    shown = torch.cat([batch.inputs for batch in batches])
    component = registry.find("models", parse_spec(assembly.config.model.name))
    with registry.naming(component, "cannot look at its inputs"), torch.no_grad():
        assembly.model.fit_inputs(shown)


def _fit_statistics(assembly: Assembly) -> inputs.Statistics:
    """The normalisation that the configuration asks for; `auto` asks the model's own weights."""
    train, kind, model = assembly.splits.train, assembly.config.normalize, assembly.model
    if kind == "auto":
        told = model.pixel_statistics if isinstance(model, Pretrained) else None
        if told is not None:
            return inputs.as_told(told, assembly.input)
        kind = "train"
    unnormalised = assembly.passing_pipeline(train, inputs.Statistics())
    return inputs.fit_statistics(kind, unnormalised, assembly.splits.memory)


def _refuse_missing_validation(assembly: Assembly, schedule: LRScheduler) -> None:
    """Refuse what looks at the validation split where there is none.

    Raises:
        UsageError: there is none, and early stopping or the schedule asks for it.
    """
    if assembly.splits.validation is not None:
        return
    if assembly.config.early_stopping or isinstance(schedule, WatchesValidation):
        asking = (
            "early_stopping"
            if assembly.config.early_stopping
            else f"schedule '{assembly.config.schedule.name}'"
        )
        raise UsageError(
            f"{asking} needs a validation split, and validation is 0", "set --validation 0.1"
        )
