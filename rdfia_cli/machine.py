"""What this machine lends to this process."""

from __future__ import annotations

import os


def processors() -> int:
    """The processors that this process may use; taskset, Slurm and containers may allow it few."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
