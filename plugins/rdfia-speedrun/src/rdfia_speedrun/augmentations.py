"""A flip that shows each example from both sides, in turn (Jordan 2024, arXiv:2404.00498)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rdfia_cli.spec import Augmentation, Batch, InputSpec, Visit


def alternating_flip(input: InputSpec) -> Augmentation:
    """Mirror half of the examples in one epoch and the other half in the next, in turn.

    Any two epochs in a row show each example from both sides; a random flip repeats half of them.
    """
    input.image("alternating_flip")
    return AlternatingFlip(input)


class AlternatingFlip(nn.Module):
    """Mirrors images (B, C, H, W) left and right."""

    def __init__(self, output: InputSpec) -> None:
        super().__init__()
        self.output = output
        self.evaluation: Augmentation | None = None

    def visit(self, batch: Batch, generator: torch.Generator, visit: Visit) -> Batch:
        """Mirror the examples whose turn it is."""
        turn = (first_side(visit.examples, visit.seed) + visit.epoch) % 2
        return _mirror(batch, turn == 1)

    def forward(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Where nobody tells the examples, mirror each with a chance of one half."""
        drawn = torch.rand(len(batch.inputs), device=generator.device, generator=generator)
        return _mirror(batch, drawn < 0.5)


def _mirror(batch: Batch, chosen: Tensor) -> Batch:
    chosen = chosen.to(batch.inputs.device)[:, None, None, None]
    return Batch(torch.where(chosen, batch.inputs.flip(3), batch.inputs), batch.labels)


def first_side(examples: Tensor, seed: int) -> Tensor:
    """Whether each example (B,) int64 is mirrored in the first epoch: (B,) 0 or 1, as by a coin.

    A hash of (seed, example), so that no table of the train split is kept.
    """
    mixed = examples * 6364136223846793005 + _signed(seed * 1442695040888963407 + 1)
    for _ in range(2):
        mixed = (mixed ^ (mixed >> 33)) * _signed(0xFF51AFD7ED558CCD)
    return (mixed >> 40) & 1


def _signed(value: int) -> int:
    """The same 64 bits as a signed number."""
    return (value + 2**63) % 2**64 - 2**63
