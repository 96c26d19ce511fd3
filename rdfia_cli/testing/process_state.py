"""What a component must leave alone: the settings and generators that the whole process shares."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

BEFORE = frozenset(os.environ)
DECISIVE = ("CUBLAS_", "CUDA_", "MKL_", "OMP_", "PYTHON", "PYTORCH_", "RDFIA_")
"""How the names of environment variables begin that change what is computed, or where."""


def settings_of_torch() -> Mapping[str, str]:
    """The global switches of torch that change what everybody computes."""
    return {
        "torch's default dtype": str(torch.get_default_dtype()),
        "torch's default device": str(torch.get_default_device()),
        "torch's threads": str(torch.get_num_threads()),
        "whether torch records gradients": str(torch.is_grad_enabled()),
        "whether torch is deterministic": str(torch.are_deterministic_algorithms_enabled()),
        "torch's anomaly detection": str(torch.is_anomaly_enabled()),
        "torch's precision of matrix products": torch.get_float32_matmul_precision(),
        "cuDNN's benchmarking": str(torch.backends.cudnn.benchmark),
    }


def generators() -> Mapping[str, str]:
    """The states of the global generators, each as a hash."""
    return {
        "torch's seed": _hash(bytes(torch.get_rng_state().tolist())),
        "numpy's seed": _hash(repr(np.random.get_state()).encode()),
        "Python's seed": _hash(repr(random.getstate()).encode()),
    }


def process() -> Mapping[str, str]:
    """What else belongs to the process: its environment, folder, handlers and threads."""
    return {
        **{f"the environment variable {name}": os.environ.get(name, "") for name in _variables()},
        **{f"the handler of {s.name}": str(signal.getsignal(s)) for s in _signals()},
        "the working directory": str(Path.cwd()),
        "the files in the working directory": str(sorted(p.name for p in Path.cwd().iterdir())),
        "the handlers of the root logger": str(logging.getLogger().handlers),
        "the level of the root logger": str(logging.getLogger().level),
        "the limit of recursion": str(sys.getrecursionlimit()),
        "sys.stdout": str(id(sys.stdout)),
        "sys.excepthook": str(sys.excepthook),
        "the running threads": str(sorted(thread.name for thread in threading.enumerate())),
    }


def _variables() -> Iterator[str]:
    """Those that decide what others compute; libraries add harmless ones of their own."""
    for name in os.environ:
        if name in BEFORE or name.startswith(DECISIVE):
            yield name


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """What differs between two states, by name."""
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield name


def _signals() -> tuple[signal.Signals, ...]:
    return (signal.SIGINT, signal.SIGTERM)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
