"""Examples on their way to the model, whole batches at a time.

Split, move, scale, augment, normalise.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import safetensors.torch
import torch
from torch import Tensor

from rdfia_cli.config import PRESETS, parse_normalize
from rdfia_cli.errors import UsageError
from rdfia_cli.spec import (
    Augmentation,
    Batch,
    InputSpec,
    Memory,
    PixelStatistics,
    SeesExamples,
    Split,
    Splits,
    Visit,
)
from rdfia_cli.training.randomness import derive_seed

EVALUATION_BATCH = 1024
EVALUATION_VALUES = 2**24
"""Input values in a batch of evaluation at most: 64 MiB in fp32."""
STATISTICS_VALUES = 2**22
"""Input values that statistics look at together: 32 MiB in float64."""
LARGEST_WHITENING = 8192
"""Values of an input at most: the matrix takes 512 MiB in float64, its eigenvectors minutes."""
SHARE_OF_FREE_MEMORY = 0.25
"""A split that takes less than this share of a GPU's free memory lives there."""


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
    counts = torch.bincount(labels, minlength=len(splits.classes)).tolist()
    for members in labels.argsort(stable=True).split(counts):
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


def in_order(split: Split, values: int, most: int | None = None) -> Iterator[Tensor]:
    """All examples of a split in order, some at a time, while a file is read ahead.

    Args:
        split: the examples.
        values: how many input values some examples have at most, unless one alone has more.
        most: how many examples at a time at most; None for any number.

    Yields:
        Indices (B,) int64, on the split's device.
    """
    size = max(1, min(most or len(split), values // split.inputs[0].numel()))
    order = torch.arange(len(split), device=split.inputs.device).split(size)
    for examples, following in itertools.zip_longest(order, order[1:], fillvalue=order[0][:0]):
        read_ahead(split, following)
        yield examples


def read_ahead(split: Split, examples: Tensor) -> None:
    """Say which examples (B,) int64 are wanted next, so that a file can be read ahead."""
    if split.prefetch is not None and len(examples):
        split.prefetch(split.locate(examples))


def scale(inputs: Tensor) -> Tensor:
    """Bring uint8 pixels to float32 in [0, 1]; anything else to float32 as it is."""
    return inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs.float()


@dataclass(frozen=True)
class Statistics:
    """What normalises the inputs, fitted on train and saved with the weights.

    `(x - mean) / std`, or with ZCA `(x - mean) W` on the flattened input.

    Attributes:
        mean, std: (C, 1, 1) for images or (F,) for points, float32; None leaves inputs alone.
        whitening: W (D, D) float32 where D is the size of an input; then `mean` has its shape.
    """

    mean: Tensor | None = None
    std: Tensor | None = None
    whitening: Tensor | None = None

    def apply(self, inputs: Tensor) -> Tensor:
        """Normalise a batch (B, C, H, W) or (B, F)."""
        if self.mean is None:
            return inputs
        centred = inputs - self.mean
        if self.whitening is not None:
            return (centred.flatten(1) @ self.whitening).view(inputs.shape)
        # In place: of a batch to be scored, one more copy may be a good part of the memory.
        return centred if self.std is None else centred.div_(self.std)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors to save, by name."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def to(self, device: torch.device) -> Statistics:
        """The same on a device."""
        return Statistics(**{name: tensor.to(device) for name, tensor in self.tensors().items()})


def fit_statistics(normalize: str, train: Pipeline, memory: Memory | None = None) -> Statistics:
    """What `normalize` asks for, from the train split as evaluation sees it: not augmented.

    Args:
        normalize: `train`, `none`, `zca`, `zca:eps=X` or a preset, as in `RunConfig`.
        train: the training pipeline, still without statistics.
        memory: the dataset's, where `train` is found if an earlier run fitted it.

    Raises:
        UsageError: the preset is for another number of channels, or ZCA for inputs too large.
    """
    kind, epsilon = parse_normalize(normalize)
    if kind == "none":
        return Statistics()
    if kind == "zca":
        return _fit_whitening(train, epsilon)
    if kind == "train":
        return _recall_channels(train.split, memory)
    return _preset(kind, train.split.inputs.shape[1:])


def as_told(told: PixelStatistics, input: InputSpec) -> Statistics:
    """What a model's weights were trained with, for an input of any number of channels.

    A value for each channel stays; for another number of channels all get their mean.

    Raises:
        UsageError: they whiten inputs of another size.
    """
    if told.whitening is not None:
        if len(told.mean) != math.prod(input.shape):
            raise UsageError(
                f"the weights were trained on {len(told.mean):,} whitened values, not on inputs of "
                f"shape {input.shape}",
                "say how to normalise: --normalize zca or --normalize train",
            )
        return Statistics(torch.tensor(told.mean).view(input.shape), whitening=told.whitening)
    values = [torch.tensor(v).view(-1, 1, 1) for v in (told.mean, told.std)]
    if len(told.mean) not in (1, input.shape[0]):
        values = [value.mean(0, keepdim=True) for value in values]
    return Statistics(*values)


def _preset(name: str, shape: torch.Size) -> Statistics:
    mean, std = PRESETS[name]
    if len(shape) != 3 or len(mean) not in (1, shape[0]):
        raise UsageError(
            f"normalize = {name} is for images of {len(mean)} channels, not for {tuple(shape)}",
            "use --normalize train",
        )
    return Statistics(torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1))


def looks_at_data(normalize: str) -> bool:
    """Whether `normalize` asks for statistics that are fitted."""
    return parse_normalize(normalize)[0] in ("auto", "train", "zca")


def _recall_channels(train: Split, memory: Memory | None) -> Statistics:
    """The statistics of the same examples from an earlier run, or fitted now and kept."""
    if memory is None:
        return _fit_channels(train)
    rows = b"" if train.rows is None else train.rows.cpu().numpy().tobytes()
    name = f"channels {hashlib.sha256(rows).hexdigest()}"
    if (found := memory.recall(name)) is not None:
        return Statistics(**safetensors.torch.load(found))
    fitted = _fit_channels(train)
    memory.keep(name, safetensors.torch.save(fitted.tensors()))
    return fitted


def _fit_channels(train: Split) -> Statistics:
    """Mean and standard deviation of each channel, or feature, over the train split.

    The train split is read once; a constant channel gets the standard deviation 1.
    """
    pixels = train.inputs.dtype == torch.uint8
    mean, variance = _pixel_moments(train) if pixels else _value_moments(train)
    # A constant channel's deviation is the rounding of its sums, not quite 0.
    std = variance.sqrt()
    std = torch.where(std > 1e-7 * mean.abs(), std, torch.ones_like(std))
    shape = (-1, *(1,) * (train.inputs.ndim - 2))
    return Statistics(mean.float().view(shape), std.float().view(shape))


def _pixel_moments(train: Split) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) float64 of uint8 channels, from how often each level comes: exact."""
    counts = torch.zeros(train.inputs.shape[1], 256, dtype=torch.int64)
    for examples in in_order(train, STATISTICS_VALUES):
        for channel, pixels in enumerate(train.take(examples).unbind(1)):
            counts[channel] += torch.bincount(pixels.flatten(), minlength=256).cpu()
    levels = scale(torch.arange(256, dtype=torch.uint8)).double()
    shares = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    mean = shares @ levels
    return mean, (shares * (levels - mean[:, None]).square()).sum(1)


def _value_moments(train: Split) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) float64 of any channels or features."""
    axes = (0, *range(2, train.inputs.ndim))
    sums, shift = [], None
    for examples in in_order(train, STATISTICS_VALUES):
        values = scale(train.take(examples)).double()
        # Around the first examples' mean, not around 0, the squares lose no digits.
        shift = values.mean(axes, keepdim=True) if shift is None else shift
        centred = values - shift
        sums.append(torch.stack([centred.sum(axes), centred.square().sum(axes)]))
    assert shift is not None
    count = len(train) * math.prod(train.inputs.shape[2:])
    mean, square = torch.stack(sums).sum(0) / count
    return shift.flatten() + mean, (square - mean.square()).clamp(min=0)


def _fit_whitening(train: Pipeline, epsilon: float) -> Statistics:
    """ZCA (Bell and Sejnowski 1997): W = U diag(1 / sqrt(variance + eps)) U^T, in float64.

    U and the variances are eigenvectors and eigenvalues of the covariance of the flattened inputs,
    in the shape in which the model is fed: after the augmentations' counterparts at test time.
    """
    batches = (batch.inputs for batch in train.evaluation_batches())
    first = next(batches)
    features = first[0].numel()
    if features > LARGEST_WHITENING:
        raise UsageError(
            f"normalize = zca needs a {features:,} x {features:,} matrix for inputs of shape "
            f"{tuple(first.shape[1:])}",
            f"use --normalize train, or images of at most {LARGEST_WHITENING:,} values",
        )
    # Around the first batch's mean, not around 0, the covariance loses no digits.
    shift = _widen(first).mean(0)
    total = torch.zeros(features, dtype=torch.float64, device=shift.device)
    products = torch.zeros(features, features, dtype=torch.float64, device=shift.device)
    for inputs in itertools.chain([first], batches):
        centred = (_widen(inputs) - shift).flatten(1)
        total += centred.sum(0)
        products.addmm_(centred.T, centred)
    mean = total / len(train.split)
    covariance = products / len(train.split) - mean.outer(mean)
    variances, directions = torch.linalg.eigh(covariance)
    scales = (variances.clamp(min=0) + epsilon).rsqrt()
    whitening = (directions * scales) @ directions.T
    return Statistics((shift + mean.view_as(shift)).float(), whitening=whitening.float())


def _widen(inputs: Tensor) -> Tensor:
    """In float64, which MPS lacks: then on the CPU."""
    return (inputs.cpu() if inputs.device.type == "mps" else inputs).double()


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
            if isinstance(augmentation, SeesExamples):
                visit = Visit(indices, epoch, self.seed)
                batch = augmentation.visit(batch, generator, visit)
            else:
                batch = augmentation(batch, generator)
        return self._finish(batch)

    def expect(self, indices: Tensor) -> None:
        """Say which examples (B,) int64 the next batch is of, so that a file can be read ahead."""
        read_ahead(self.split, indices)

    def evaluation_batches(self) -> Iterator[Batch]:
        """The whole split in order, through the augmentations' deterministic counterparts."""
        counterparts = [a.evaluation for a in self.augmentations if a.evaluation is not None]
        unused = torch.Generator(self.device)
        for indices in in_order(self.split, EVALUATION_VALUES, EVALUATION_BATCH):
            batch = self._take(indices)
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
    if device.type != "cuda" or split.inputs.device.type == "cuda":
        return split
    free, _ = torch.cuda.mem_get_info(device)
    if len(split) * split.inputs[0].nbytes > SHARE_OF_FREE_MEMORY * free:
        return split
    return Split(copy_inputs(split, device), split.labels.to(device))


def copy_inputs(split: Split, device: torch.device) -> Tensor:
    """The inputs of a split on a device, a part at a time: they may be larger than memory."""
    inputs, count = split.inputs, len(split)
    if inputs.is_contiguous():
        copy = inputs.new_empty((count, *inputs.shape[1:]), device=device)
    else:
        copy = inputs.new_empty((count, *inputs.movedim(1, -1).shape[1:]), device=device)
        copy = copy.movedim(-1, 1)
    for examples in in_order(split, EVALUATION_VALUES):
        copy[examples[0] : examples[-1] + 1] = split.take(examples)
    return copy
