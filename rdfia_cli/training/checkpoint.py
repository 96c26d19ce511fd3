"""Checkpoints: generations of files that are whole, verified, and free of pickle.

A generation is a folder named by the steps and the ends of epochs behind it, so that no two states
of a run share a name. It is written beside its place, flushed, renamed, and read back; only then is
the one before the previous removed. Two stay, so that there is always one to go back to when the
newest is damaged later.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rdfia_cli import durable
from rdfia_cli.errors import ComponentError, RdfiaError
from rdfia_cli.training.averaging import Best
from rdfia_cli.training.inputs import Statistics
from rdfia_cli.training.loop import TrainingState, refuse_divergence, refuse_infinite_weights

MODEL = "model.safetensors"
STATE = "state.safetensors"
MANIFEST = "manifest.json"
STATISTICS = "input_statistics."
"""Prefix of the normalisation's tensors, which travel in the file of the weights."""

GENERATIONS_KEPT = 2
LARGEST_SHARE_OF_TIME = 0.05
"""Checkpoints may take this share of the time; a slow disk gets fewer of them."""
SECONDS_WITHIN_EPOCH = 60.0
"""A long epoch is saved this often, so that a killed run loses little more."""


@dataclass(frozen=True)
class Generation:
    """One verified checkpoint, read into memory.

    Attributes:
        folder: where it lies.
        manifest: steps done, lengths of the logs, SHA-256 of each file and of itself.
        files: the bytes of each file.
    """

    folder: Path
    manifest: Mapping[str, Any]
    files: Mapping[str, bytes]


class Rhythm:
    """When the next checkpoint is due: a matter of time only, which no result depends on."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._cost = 0.0

    def due(self, *, epoch_ended: bool) -> bool:
        """Whether the time since the last one is long beside what it cost."""
        wait = self._cost / LARGEST_SHARE_OF_TIME
        if not epoch_ended:
            wait = max(wait, SECONDS_WITHIN_EPOCH)
        return time.monotonic() - self._last >= wait

    def written(self, cost: float) -> None:
        """Note that a checkpoint was written and how many seconds it took."""
        self._last, self._cost = time.monotonic(), cost


def refuse_unsavable(state: TrainingState) -> None:
    """Find out before the first step that a model or an optimizer cannot be saved.

    Raises:
        ComponentError: its state is not made of tensors, numbers and text.
    """
    encode_weights(state)
    encode_state(state)


def save(folder: Path, state: TrainingState, logs: Mapping[str, int]) -> str:
    """Write a new generation, verify it, remove the ones that it makes superfluous.

    Args:
        folder: the run's folder of checkpoints.
        state: what to save.
        logs: the length in bytes of each log that belongs to it.

    Returns:
        The SHA-256 of the weights' file, in hex.

    Raises:
        DivergedError: the state is not worth keeping; the last good generation stays.
        OSError: the disk refuses; the last good generation stays.
    """
    refuse_divergence(state)
    refuse_infinite_weights(state)
    files = {MODEL: encode_weights(state), STATE: encode_state(state)}
    manifest = {
        "schema": "rdfia.checkpoint/1",
        "epoch": state.progress.epoch,
        "step": state.progress.step,
        "logs": dict(logs),
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        },
    }
    final = folder / f"{state.progress.total_steps + state.progress.epoch:010d}"
    _write_generation(final, files, manifest)
    _remove_older(folder, final)
    return hashlib.sha256(files[MODEL]).hexdigest()


def _write_generation(final: Path, files: Mapping[str, bytes], manifest: Mapping[str, Any]) -> None:
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, content in files.items():
            durable.write_file(partial / name, content)
        durable.write_file(partial / MANIFEST, encode_manifest(manifest))
        if final.exists():
            shutil.rmtree(final)
        partial.replace(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    durable.flush_folder(final.parent)
    durable.flush_folder(final.parent.parent)
    if isinstance(read(final), str):
        raise RdfiaError(
            f"the checkpoint '{final}' reads back otherwise than it was written",
            "check the disk; the previous checkpoint is kept",
        )


def encode_manifest(content: Mapping[str, Any]) -> bytes:
    """The bytes of `manifest.json`; its last key is the SHA-256 of all that stands above."""
    seal = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return (json.dumps({**content, "sha256": seal}, indent=2) + "\n").encode()


def _remove_older(folder: Path, newest: Path) -> None:
    for old in generations(folder)[GENERATIONS_KEPT:]:
        if old != newest:
            shutil.rmtree(old, ignore_errors=True)
    for leftover in (*folder.glob(".*.partial"), *folder.glob(".*.damaged")):
        shutil.rmtree(leftover, ignore_errors=True)


def generations(folder: Path) -> list[Path]:
    """The generations of a run, the newest first, verified or not."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), reverse=True)


def read(folder: Path) -> Generation | str:
    """Read a generation and verify every checksum; the reason as text where it is damaged."""
    try:
        sealed = (folder / MANIFEST).read_bytes()
        manifest = {key: value for key, value in json.loads(sealed).items() if key != "sha256"}
        if encode_manifest(manifest) != sealed:
            return f"{MANIFEST} does not match its checksum"
        expected = {name: entry["sha256"] for name, entry in manifest["files"].items()}
        if set(expected) != {MODEL, STATE}:
            return f"{MANIFEST} does not name its files"
        files = {name: (folder / name).read_bytes() for name in expected}
        for name, content in files.items():
            if hashlib.sha256(content).hexdigest() != expected[name]:
                return f"{name} does not match its checksum"
        if not {"epoch", "step", "logs"} <= manifest.keys():
            return f"{MANIFEST} is incomplete"
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        return f"{Path(error.filename or folder).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    return Generation(folder, manifest, files)


def newest(folder: Path) -> tuple[Generation | None, list[str]]:
    """The newest sound generation, and a warning for each damaged one above it.

    A generation that vanishes while it is read was superseded by a running process: look again.
    """
    warnings: list[str] = []
    for path in generations(folder):
        found = read(path)
        if isinstance(found, Generation):
            return found, warnings
        if not path.exists():
            return newest(folder)
        warnings.append(f"checkpoint '{path}' is damaged ({found}): going back to the one before")
    return None, warnings


def discard_newer(folder: Path, sound: Generation | None) -> None:
    """Put aside the damaged generations above the one that a run goes on from.

    They are removed once a newer one is verified.
    """
    for path in generations(folder):
        if sound is not None and path == sound.folder:
            return
        aside = path.with_name(f".{path.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        path.replace(aside)


def encode_weights(state: TrainingState) -> bytes:
    """The bytes of `model.safetensors`: parameters, buffers and input statistics."""
    tensors = {
        **state.scored.state_dict(),
        **{f"{STATISTICS}{name}": t for name, t in state.statistics.tensors().items()},
    }
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ComponentError(
                f"the model's state '{name}' is a {type(tensor).__name__}, not a tensor",
                "checkpoints hold tensors only: make it a buffer",
            )
    # By the mark a reader tells a run without normalisation from a file that says nothing of it.
    return safetensors.torch.save(_separate(tensors), {"rdfia": "weights"})


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU, so that tied weights are stored once under each name."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }


def encode_state(state: TrainingState) -> bytes:
    """The bytes of `state.safetensors`: optimizer, schedule, loss scale and progress.

    And the weights that are trained or were best, where they are not those of `model.safetensors`.

    Tensors are stored as such; what surrounds them is JSON in the file's metadata, in which a
    tensor is `{"tensor": name}` and floats keep all their digits.
    """
    tensors: dict[str, Tensor] = {}
    tree = {
        "optimizer": state.optimizer.state_dict(),
        "schedule": state.schedule.state_dict(),
        "scaler": state.scaler.state_dict(),
        "progress": vars(state.progress),
        "trained": dict(state.model.state_dict()) if state.average else {},
        "best": vars(state.best) if state.best else {},
    }
    plain = {key: _flatten(value, key, tensors) for key, value in tree.items()}
    return safetensors.torch.save(_separate(tensors), {"tree": json.dumps(plain)})


def _flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"{path}#{len(tensors)}"  # the number tells apart keys such as "0" and 0
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        items = [[key, _flatten(item, f"{path}.{key}", tensors)] for key, item in value.items()]
        return {"items": items}
    if isinstance(value, list | tuple):
        items = [_flatten(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
        return {type(value).__name__: items}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ComponentError(
        f"the state '{path}' is a {type(value).__name__}, which a checkpoint cannot hold",
        "keep tensors, numbers, text, lists and dictionaries in state_dict()",
    )


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "items":
        return {key: _unflatten(item, tensors) for key, item in content}
    items = [_unflatten(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def _load(generation: Generation, name: str) -> dict[str, Tensor]:
    """The tensors of a file; nothing but safetensors is ever read.

    Raises:
        RdfiaError: the file is something else, though it matches its checksum.
    """
    try:
        return safetensors.torch.load(generation.files[name])
    except (SafetensorError, ValueError) as error:
        raise RdfiaError(
            f"'{generation.folder / name}' is no safetensors file: {error}",
            "it was not written by rdfia: delete that checkpoint",
        ) from None


def load_weights(model: nn.Module, generation: Generation) -> Statistics:
    """Put the weights into the model and return the statistics that normalise its inputs.

    Raises:
        ComponentError: the weights are not those of this model.
    """
    weights, statistics = _split_statistics(_load(generation, MODEL))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ComponentError(
            f"the weights in '{generation.folder}' do not fit the model: {reason}",
            "the model's code changed since; install the version that environment.json names",
        ) from None
    return statistics


def load_statistics(generation: Generation) -> Statistics:
    """The normalisation that was stored with the weights."""
    return _split_statistics(_load(generation, MODEL))[1]


def _split_statistics(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Statistics]:
    weights = {name: t for name, t in tensors.items() if not name.startswith(STATISTICS)}
    others = {
        name.removeprefix(STATISTICS): t for name, t in tensors.items() if name not in weights
    }
    return weights, Statistics(**others)


def restore(state: TrainingState, generation: Generation) -> None:
    """Bring a freshly built state to where the generation was written."""
    device = state.progress.losses.device
    state.statistics = load_weights(state.scored, generation).to(device)
    tensors = {name: t.clone() for name, t in _load(generation, STATE).items()}
    plain = json.loads(_metadata(generation.files[STATE])["tree"])
    tree = {key: _unflatten(value, tensors) for key, value in plain.items()}
    if state.average:
        state.model.load_state_dict(tree["trained"])
    if state.best:
        state.best = Best(**tree["best"])
    state.optimizer.load_state_dict(tree["optimizer"])
    _match_layout(state.optimizer)
    state.schedule.load_state_dict(tree["schedule"])
    if tree["scaler"]:
        state.scaler.load_state_dict(tree["scaler"])
    for name, value in tree["progress"].items():
        setattr(state.progress, name, value.to(device) if isinstance(value, Tensor) else value)


def _metadata(content: bytes) -> Mapping[str, str]:
    """The text metadata of safetensors bytes: a JSON header behind its 8-byte length."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay the loaded moments out in memory as their parameters, as they were before saving."""
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
