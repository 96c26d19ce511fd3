"""How the C allocator treats the large buffers that every step asks for and gives back."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""From malloc.h of glibc."""
LARGEST_HEAP_BLOCK = 32 * 2**20
"""The largest threshold that glibc accepts on 64-bit machines."""


def keep_freed_memory() -> bool:
    """Have freed buffers kept for the next step, and not given back to the kernel.

    A step frees each activation and asks for as much again. By default glibc gives such memory
    back at once, and the kernel clears it page by page when it is touched anew: a fifth of the
    time of the course's CNN at batch 128 (`benchmarks/pipeline.py`). The process keeps its peak.

    Returns:
        Whether there is such an allocator to tell.
    """
    if sys.platform != "linux":
        return False
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    if tell is None:
        return False
    kept = tell(M_TRIM_THRESHOLD, 2**31 - 1)
    return bool(kept and tell(M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK))
