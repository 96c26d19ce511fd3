"""A store larger than the memory that a process may have is trained from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rdfia_cli import cache

IMAGES = 6_000
SHAPE = (256, 256, 3)
LIMIT = 2**29
"""Bytes of memory beyond the libraries'; the images are 1.2 GB, mostly holes of a sparse file."""

TRAIN = """
import resource, sys
from pathlib import Path
import torch
from rdfia_cli import cache
from rdfia_cli.datasets.store import open_store
from rdfia_cli.training.inputs import Pipeline, Statistics
torch.set_num_threads(1)
(store,) = cache.stores(Path(sys.argv[1]))
splits = open_store(store)
# What a process has of its own: not the file that it maps, which the kernel may drop.
status = Path("/proc/self/status").read_text().split()
limit = int(status[status.index("VmData:") + 1]) * 1024 + OWN_MEMORY
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
layout = torch.channels_last
train = Pipeline(splits.train, [], Statistics(), torch.device("cpu"), layout, 0)
order = torch.randperm(len(splits.train))
if sys.argv[2] == "whole":
    splits.train.inputs.clone()
total = 0.0
for step, indices in enumerate(order.split(64)):
    train.expect(order[(step + 1) * 64 : (step + 2) * 64])
    total += train.batch(indices, 0, step).inputs.double().sum().item()
print(len(order), round(total * 255))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A cache with a large store, and the sum of all its pixels."""
    root = tmp_path_factory.mktemp("large")
    manifest = cache.Manifest(
        name="large",
        key={},
        shape=SHAPE,
        splits={"train": IMAGES - 10, "test": 10},
        classes=("0",),
        skipped=(),
        source="a test",
        evidence={},
    )
    folder = cache.store_folder(root, "large", {})
    folder.mkdir(parents=True)
    total = 0
    with (folder / cache.IMAGES).open("wb") as file:
        file.truncate(manifest.image_bytes)
        for row in range(0, IMAGES - 10, 100):
            file.seek(row * np.prod(SHAPE))
            file.write(bytes([row % 251 + 1]) * 100)
            total += (row % 251 + 1) * 100
    (folder / cache.LABELS).write_bytes(bytes(8 * IMAGES))
    (folder / cache.MANIFEST).write_bytes(manifest.encode())
    return root, total


def run(root: Path, how: str) -> subprocess.CompletedProcess[str]:
    program = TRAIN.replace("OWN_MEMORY", str(LIMIT))
    command = [sys.executable, "-W", "ignore", "-c", program, str(root), how]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's own memory")
def test_an_epoch_goes_through_a_store_larger_than_the_memory_limit(large: tuple[Path, int]):
    root, total = large
    assert np.prod(SHAPE) * IMAGES > 2 * LIMIT
    finished = run(root, "batches")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == [str(IMAGES - 10), str(total)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's own memory")
def test_the_same_limit_stops_whoever_reads_the_store_whole(large: tuple[Path, int]):
    finished = run(large[0], "whole")
    assert finished.returncode != 0
    assert "memory" in finished.stderr.lower()
