"""Randomness as a pure function of (seed, purpose, epoch, step).

No generator keeps a state from one step to the next, so that a resumed run needs none: each draw's
generator is seeded anew from a hash of what the draw is for.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor


def derive_seed(seed: int, purpose: str, epoch: int = 0, step: int = 0) -> int:
    """A 63-bit seed: equal arguments give equal seeds, others unrelated ones."""
    text = f"{seed}/{purpose}/{epoch}/{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def seed_global_generators(seed: int, device: torch.device) -> None:
    """Seed the generators that layers such as dropout, and plugins, may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def draw_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits the examples: (count,) int64, drawn on the CPU."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)
