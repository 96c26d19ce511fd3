"""What a run began with: its settings, its data and what it computes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from rdfia_cli import durable, run
from rdfia_cli.component_code import file_hashes, package_hashes
from rdfia_cli.config import spec_text
from rdfia_cli.errors import UsageError
from rdfia_cli.training.assembly import Assembly


def describe(parts: Assembly) -> dict[str, Any]:
    """What a run begins with, for `environment.json`."""
    return run.describe_environment(
        **_hardware(parts),
        **_subject(parts),
        **{run.DATA_FINGERPRINT: parts.splits.fingerprint},
    )


def write_head(
    folder: Path,
    parts: Assembly,
    *,
    begins: bool,
    environment: Mapping[str, Any] | None = None,
) -> None:
    """Write what a run began with; the configuration comes last: it makes the folder a run's.

    Why it failed before is forgotten: it goes on.

    Args:
        folder: the run folder.
        parts: what the run is made of.
        begins: whether it does not go on from a checkpoint.
        environment: from `describe`, where many runs begin with the same.
    """
    (folder / run.FAILURE).unlink(missing_ok=True)
    if begins:
        durable.write_json(folder / run.ENVIRONMENT, environment or describe(parts))
    if not (folder / run.CONFIG).exists():
        durable.write_file(folder / run.CONFIG, parts.config.to_toml().encode())


def refuse_other_data(folder: Path, parts: Assembly) -> None:
    """Refuse to go on with other data than the run began with.

    Raises:
        UsageError: the dataset has another content.
    """
    if run.data_changed(folder, parts.splits.fingerprint):
        raise UsageError(
            f"the images of '{spec_text('data', parts.config.data)}' changed since the run in "
            f"'{folder}' began",
            "bring them back, or begin anew with --if-exists new",
        )


def _hardware(parts: Assembly) -> dict[str, Any]:
    device = parts.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads(),
        "precision": parts.arithmetic.precision,
        "channels_last": parts.arithmetic.channels_last,
    }


def _subject(parts: Assembly) -> dict[str, Any]:
    """What the model is fed, and the hashes of the code and the files that it begins with."""
    splits = {n: getattr(parts.splits, n) for n in ("train", "validation", "test")}
    components = tuple(parts.config.components())
    return {
        "input": list(parts.input.shape),
        "classes": parts.input.classes,
        "examples": {name: len(split) for name, split in splits.items() if split is not None},
        run.FILES: {
            **file_hashes(components),
            **run.weights_hashes(parts.config),
        },
        run.PACKAGES: package_hashes(components),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return torch.backends.cpu.get_cpu_capability()


def changes(folder: Path, parts: Assembly) -> Iterator[str]:
    """Say where a run goes on in surroundings in which its bits may come out otherwise."""
    before = run.read_environment(folder)
    if before is None:
        return
    now = {**run.describe_environment(), **_hardware(parts), **_subject(parts)}
    for key in ("python", "versions", "plugins", "device_name", "threads", "precision"):
        if before.get(key, {}) != now[key]:
            yield (
                f"the run began with {key} {before.get(key)} and goes on with {now[key]}: "
                "its last digits may differ from an unbroken run's"
            )
    yield from run.changed_code(folder, parts.config.components())
    yield from run.changed_weights(folder, parts.config)
