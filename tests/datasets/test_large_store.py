"""A store larger than the memory that a process may have is trained from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rdfia_cli import cache

IMAGES = 5_500
SHAPE = (256, 256, 3)
LIMIT = 2**29
"""Bytes of memory beyond the libraries'; the images are 1.1 GB, mostly holes of a sparse file."""

TRAIN = """
import resource, sys
from pathlib import Path
import torch
import torch._dynamo  # which building an optimizer imports
from rdfia_cli import cache
from rdfia_cli.config import resolve
from rdfia_cli.datasets.store import open_store
from rdfia_cli.sources import Sources
from rdfia_cli.training import assembly, inputs
from rdfia_cli.training.loop import EpochEnd, fit
torch.set_num_threads(1)
(store,) = cache.stores(Path(sys.argv[1]))
config = resolve(Sources({"model": "mlp:hidden=1", "epochs": "1", "device": "cpu"})).config
# What a process has of its own: not the file that it maps, which the kernel may drop.
status = Path("/proc/self/status").read_text().split()
limit = int(status[status.index("VmData:") + 1]) * 1024 + OWN_MEMORY
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
splits = open_store(store)
if sys.argv[2] == "whole":
    splits.train.inputs.clone()
splits = inputs.split_validation(splits, config.validation, config.split_seed)
state, plan = assembly.prepare(assembly.assemble(config, splits))
ends = [event for event in fit(state, plan) if isinstance(event, EpochEnd)]
seen = {name: len(flow.split) for name, flow in plan.evaluations.items()}
print(len(ends), len(plan.train.split), seen, state.statistics.mean.flatten().tolist())
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a large store of two classes."""
    root = tmp_path_factory.mktemp("large")
    manifest = cache.Manifest(
        name="large",
        key={},
        shape=SHAPE,
        splits={"train": IMAGES - 10, "test": 10},
        classes=("0", "1"),
        skipped=(),
        source="a test",
        evidence={},
    )
    folder = cache.store_folder(root, "large", {})
    folder.mkdir(parents=True)
    with (folder / cache.IMAGES).open("wb") as file:
        file.truncate(manifest.image_bytes)
        for row in range(0, IMAGES, 100):
            file.seek(row * np.prod(SHAPE))
            file.write(bytes([row % 251 + 1]) * 100)
    (folder / cache.LABELS).write_bytes((np.arange(IMAGES) % 2).astype("<i8").tobytes())
    (folder / cache.MANIFEST).write_bytes(manifest.encode())
    return root


def run(root: Path, how: str) -> subprocess.CompletedProcess[str]:
    program = TRAIN.replace("OWN_MEMORY", str(LIMIT))
    command = [sys.executable, "-W", "ignore", "-c", program, str(root), how]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits private memory")


@linux
def test_an_epoch_by_the_default_settings_fits_a_memory_limit_below_the_store(large: Path):
    assert np.prod(SHAPE) * IMAGES > 2 * LIMIT
    finished = run(large, "batches")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("1 4942 {'validation': 548, 'test': 10} [")


@linux
def test_the_same_limit_stops_whoever_reads_the_store_whole(large: Path):
    finished = run(large, "whole")
    assert finished.returncode != 0
    assert "memory" in finished.stderr.lower()
