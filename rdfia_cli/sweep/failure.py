"""What went wrong with a trial, as its event and the ledger have it."""

from __future__ import annotations

import torch

from rdfia_cli.errors import RdfiaError


def describe_failure(error: BaseException) -> tuple[str, str]:
    """The kind and the message of an error of a trial."""
    if isinstance(error, RdfiaError):
        return error.kind, error.fact
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if memory or "can't allocate memory" in str(error):
        return "memory", " ".join(str(error).split()) or "the memory is used up"
    return "failed", f"{type(error).__name__}: {' '.join(str(error).split())}"
