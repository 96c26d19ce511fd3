"""Examples on their way to the model, whole batches at a time.

Split, move, scale, augment, normalise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rdfia_cli.errors import ComponentError, UsageError
from rdfia_cli.spec import Augmentation, Batch, InputSpec, Split, Splits
from rdfia_cli.training.randomness import derive_seed

EVALUATION_BATCH = 1024
EVALUATION_VALUES = 2**25
"""Input values in a batch of evaluation at most: 128 MiB in fp32."""
STATISTICS_CHUNK = 8192
SHARE_OF_FREE_MEMORY = 0.25
"""A split that takes less than this share of a GPU's free memory lives there."""


def find_flaw(split: Split, expected: InputSpec) -> str | None:
    """What breaks the contract of a split, in words, or None."""
    inputs, labels, rows = split.inputs, split.labels, split.rows
    count = len(inputs) if rows is None else len(rows)
    if count != len(labels) or not count:
        return f"has {count} inputs and {len(labels)} labels"
    if rows is not None and (rows.min() < 0 or rows.max() >= len(inputs)):
        return f"has rows outside its {len(inputs)} inputs"
    if tuple(inputs.shape[1:]) != expected.shape:
        return f"has shape {tuple(inputs.shape[1:])}, but train has {expected.shape}"
    if labels.dtype != torch.int64 or labels.ndim != 1:
        return f"has labels of {labels.ndim} axes and type {labels.dtype}, not 1 and int64"
    if labels.min() < 0 or labels.max() >= expected.classes:
        return f"has labels outside 0 to {expected.classes - 1}"
    return None


def split_validation(splits: Splits, share: float, seed: int) -> Splits:
    """Take a validation split from train, the same share of each class, chosen by the seed.

    A dataset's own validation split stays. Every class keeps an example in train.

    Raises:
        UsageError: the share leaves validation empty.
    """
    if splits.validation is not None or share == 0:
        return splits
    labels = splits.train.labels
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    generator = torch.Generator().manual_seed(derive_seed(seed, "validation"))
    for label in range(len(splits.classes)):
        members = torch.nonzero(labels == label).flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        chosen[members[: min(round(share * len(members)), len(members) - 1)]] = True
    if not chosen.any():
        raise UsageError(
            f"validation = {share} of {len(labels)} training examples is none",
            "raise --validation, or set it to 0 to train without",
        )
    return replace(
        splits,
        train=splits.train.select((~chosen).nonzero().flatten()),
        validation=splits.train.select(chosen.nonzero().flatten()),
    )


def scale(inputs: Tensor) -> Tensor:
    """Bring uint8 pixels to float32 in [0, 1]; anything else to float32 as it is."""
    return inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs.float()


@dataclass(frozen=True)
class Statistics:
    """What normalises the inputs: `(x - mean) / std`, fitted on train, saved with the weights.

    Attributes:
        mean, std: (C, 1, 1) for images or (F,) for points, float32; None leaves inputs alone.
    """

    mean: Tensor | None = None
    std: Tensor | None = None

    def apply(self, inputs: Tensor) -> Tensor:
        """Normalise a batch (B, C, H, W) or (B, F)."""
        if self.mean is None or self.std is None:
            return inputs
        return (inputs - self.mean) / self.std

    def tensors(self) -> dict[str, Tensor]:
        """The tensors to save, by name."""
        if self.mean is None or self.std is None:
            return {}
        return {"mean": self.mean, "std": self.std}

    def to(self, device: torch.device) -> Statistics:
        """The same on a device."""
        return Statistics(**{name: tensor.to(device) for name, tensor in self.tensors().items()})


def fit_statistics(kind: str, train: Split) -> Statistics:
    """Mean and standard deviation of each channel, or feature, over the train split.

    Accumulated in float64 over chunks; a constant channel gets the standard deviation 1.

    Args:
        kind: `train` to fit, `none` for no normalisation.
        train: the examples to fit on.
    """
    if kind == "none":
        return Statistics()
    axes = (0,) if train.inputs.ndim == 2 else (0, 2, 3)
    count = len(train) * train.inputs[0].numel() // train.inputs.shape[1]
    chunks = torch.arange(len(train)).split(STATISTICS_CHUNK)
    sums = [scale(train.take(chunk)).double().sum(axes) for chunk in chunks]
    mean = torch.stack(sums).sum(0) / count
    around = mean.view(-1, *(1,) * (len(axes) - 1))
    squares = [((scale(train.take(chunk)).double() - around) ** 2).sum(axes) for chunk in chunks]
    std = (torch.stack(squares).sum(0) / count).sqrt()
    # A constant channel's deviation is the rounding of its sums, not quite 0.
    std = torch.where(std > 1e-7 * mean.abs(), std, torch.ones_like(std)).view_as(around)
    return Statistics(around.float(), std.float())


def output_of(augmentations: Sequence[Augmentation], input: InputSpec) -> InputSpec:
    """What the model is fed after the augmentations."""
    return augmentations[-1].output if augmentations else input


@dataclass(frozen=True)
class Pipeline:
    """One split as batches on the device.

    Attributes:
        split: the examples, wherever they are.
        augmentations: applied in order, after scaling and before normalisation.
        statistics: the normalisation, on the device.
        device, memory_format: where and how the batches lie.
        seed: the seed of the run.
    """

    split: Split
    augmentations: Sequence[Augmentation]
    statistics: Statistics
    device: torch.device
    memory_format: torch.memory_format
    seed: int

    def batch(self, indices: Tensor, epoch: int, step: int) -> Batch:
        """The augmented batch of some examples; the draws belong to (seed, epoch, step).

        Args:
            indices: (B,) int64 on the split's device.
            epoch: what the draws belong to.
            step: what the draws belong to.
        """
        batch = self._take(indices)
        for position, augmentation in enumerate(self.augmentations):
            seed = derive_seed(self.seed, f"augmentation {position}", epoch, step)
            generator = torch.Generator(self.device).manual_seed(seed)
            batch = augmentation(batch, generator)
        return self._finish(batch)

    def evaluation_batches(self) -> Iterator[Batch]:
        """The whole split in order, through the augmentations' deterministic counterparts."""
        counterparts = [a.evaluation for a in self.augmentations if a.evaluation is not None]
        unused = torch.Generator(self.device)
        values = self.split.inputs[0].numel()
        size = max(1, min(EVALUATION_BATCH, EVALUATION_VALUES // values))
        for indices in torch.arange(len(self.split)).split(size):
            batch = self._take(indices.to(self.split.inputs.device))
            for counterpart in counterparts:
                batch = counterpart(batch, unused)
            yield self._finish(batch)

    def _take(self, indices: Tensor) -> Batch:
        inputs = self.split.take(indices).to(self.device, non_blocking=True)
        labels = self.split.labels[indices].to(self.device, non_blocking=True)
        return Batch(scale(inputs), labels)

    def _finish(self, batch: Batch) -> Batch:
        inputs = self.statistics.apply(batch.inputs)
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=self.memory_format)
        return Batch(inputs, batch.labels)


def settle(split: Split, device: torch.device) -> Split:
    """Move a split to the GPU where it is small beside the free memory; otherwise leave it."""
    if device.type != "cuda":
        return split
    free, _ = torch.cuda.mem_get_info(device)
    if len(split) * split.inputs[0].nbytes > SHARE_OF_FREE_MEMORY * free:
        return split
    return Split(split.take(torch.arange(len(split))).to(device), split.labels.to(device))


def refuse_unlike(found: Splits, expected: InputSpec, name: str) -> None:
    """Refuse a dataset whose examples or classes are not those of the model.

    Raises:
        ComponentError: shape or number of classes differ.
    """
    if found.input != expected:
        raise ComponentError(
            f"dataset '{name}' has shape {found.input.shape} and {found.input.classes} classes, "
            f"the run has {expected.shape} and {expected.classes}",
            "evaluate on data of the same shape and classes",
        )


def statistics_from(tensors: Mapping[str, Tensor]) -> Statistics:
    """Statistics from the tensors saved with the weights."""
    return Statistics(tensors.get("mean"), tensors.get("std"))
