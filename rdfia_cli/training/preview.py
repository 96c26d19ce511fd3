"""A look at what the model is fed: some examples, as they are and as a few draws make them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from rdfia_cli.config import RunConfig
from rdfia_cli.errors import UsageError
from rdfia_cli.spec import Batch, Preparing, Split
from rdfia_cli.training import assembly, inputs
from rdfia_cli.training.randomness import derive_seed


@dataclass(frozen=True)
class Preview:
    """Some training examples and what becomes of them.

    Attributes:
        originals: (N, C, H, W) float32 in [0, 1], as the dataset has them.
        evaluated: (N, C, H', W'), as they are fed at test time.
        draws: for each draw (N, C, H', W') and the labels, (N,) or mixed (N, classes).
        labels: (N,) int64.
        classes: the name of each class.
        warnings: what the user should know about the data, a line each.
    """

    originals: Tensor
    evaluated: Tensor
    draws: tuple[Batch, ...]
    labels: Tensor
    classes: tuple[str, ...]
    warnings: tuple[str, ...]


def preview(config: RunConfig, examples: int, draws: int) -> Generator[Preparing, None, Preview]:
    """Augment some training examples, drawn by the seed, as the first epochs would.

    Args:
        config: the dataset, the augmentations and the seed.
        examples: how many, at most those that there are.
        draws: how often each is augmented.

    Raises:
        UsageError: the dataset holds no images.
    """
    splits = yield from assembly.load_verified(config.data)
    shape = splits.input.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UsageError(f"dataset '{config.data.name}' holds no pictures, but inputs of {shape}")
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "preview"))
    chosen = torch.randperm(len(splits.train), generator=generator)[:examples]
    part = splits.train.select(chosen)
    part = Split(part.take(torch.arange(len(part))), part.labels)
    pipeline = inputs.Pipeline(
        part,
        assembly.build_augmentations(config, splits.input),
        inputs.Statistics(),
        torch.device("cpu"),
        torch.contiguous_format,
        config.seed,
    )
    everything = torch.arange(len(part))
    return Preview(
        originals=inputs.scale(part.inputs),
        evaluated=torch.cat([batch.inputs for batch in pipeline.evaluation_batches()]),
        draws=tuple(pipeline.batch(everything, epoch, 0) for epoch in range(draws)),
        labels=part.labels,
        classes=splits.classes,
        warnings=splits.warnings,
    )
