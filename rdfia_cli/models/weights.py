"""Where a model's weights start: a safetensors file, or what a library publishes."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rdfia_cli.errors import ComponentError, RdfiaError
from rdfia_cli.spec import InputSpec, PixelStatistics

STATISTICS = "input_statistics."
"""How the names of the tensors begin with which a run's weights normalise their input."""

MARK = "rdfia"
"""A key of the metadata of a run's weights."""
UNTOUCHED = PixelStatistics((0.0,), (1.0,))
"""What a run without normalisation was fed."""


@dataclass(frozen=True)
class Weights:
    """What a safetensors file holds.

    Attributes:
        path: the file.
        tensors: the weights by name.
        statistics: the normalisation of the run of rdfia that stored them, or None for others.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    statistics: PixelStatistics | None

    def rows(self, layer: str) -> int:
        """The outputs of a layer: the length of its weight, 0 where the file has none."""
        found = self.tensors.get(f"{layer}.weight")
        return 0 if found is None else len(found)


def read_weights(path: Path) -> Weights:
    """Read a safetensors file; pickles are not read.

    Raises:
        ComponentError: there is no such file, or it is none of safetensors.
    """
    if path.is_dir():
        stored = sorted(path.glob("checkpoints/*/model.safetensors"))
        raise ComponentError(
            f"weights file '{path}' is a folder",
            f"write weights={stored[-1]}" if stored else "give a safetensors file in it",
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            is_a_run_s = MARK in (file.metadata() or {})
    except FileNotFoundError:
        raise ComponentError(
            f"weights file '{path}' does not exist", "check weights=FILE"
        ) from None
    except (SafetensorError, OSError) as error:
        raise ComponentError(
            f"weights file '{path}' cannot be read as safetensors: {error}",
            "save the weights with safetensors.torch.save_file; pickles are not read",
        ) from None
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(STATISTICS)}
    return Weights(path, own, _statistics(tensors) or (UNTOUCHED if is_a_run_s else None))


def _statistics(tensors: Mapping[str, Tensor]) -> PixelStatistics | None:
    found = {
        name.removeprefix(STATISTICS): tensor
        for name, tensor in tensors.items()
        if name.startswith(STATISTICS)
    }
    mean, std = (
        tuple(found[name].flatten().tolist()) if name in found else () for name in ("mean", "std")
    )
    return PixelStatistics(mean, std, found.get("whitening")) if found else None


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load weights that must be the model's, each of them and no other.

    Args:
        model: what is filled.
        tensors: the weights by the model's own names.
        source: how errors name where they come from.

    Raises:
        ComponentError: a tensor is missing, left over, or of another shape; it is named.
    """
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in tensors:
            raise ComponentError(f"{source} has no '{name}'", _count_words(own, tensors))
        if tensors[name].shape != tensor.shape:
            raise ComponentError(
                f"{source} has '{name}' of shape {tuple(tensors[name].shape)}, "
                f"the model needs {tuple(tensor.shape)}",
                "choose the model's settings as the weights were made",
            )
    for name in tensors:
        if name not in own:
            raise ComponentError(
                f"{source} has '{name}', which the model has not", _count_words(own, tensors)
            )
    model.load_state_dict(dict(tensors))


def _count_words(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    shared = len(own.keys() & tensors.keys())
    return f"{shared} of the model's {len(own)} tensors are there under their names"


def fit_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution's weight (K, C, h, w) for another number of input channels.

    One channel gets the sum, so that a grey image answers as its coloured copy would; more repeat
    the channels in turn, scaled so that equal channels keep the size of the answer.
    """
    have = weight.shape[1]
    if channels == have:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeated = weight[:, torch.arange(channels) % have]
    return repeated * (have / channels)


def tell(model: nn.Module, **facts: InputSpec | PixelStatistics | Mapping[str, int] | None) -> None:
    """Make a model `MadeFor`, `Pretrained` or `Layered`, by attributes outside its state."""
    vars(model).update(facts)


@contextlib.contextmanager
def naming_download(model: str, remedy: str, *, wanted: bool) -> Generator[None]:
    """Say what to do where published weights cannot be downloaded.

    Args:
        model: how the error names the model.
        remedy: which file to put where.
        wanted: whether weights are asked for; otherwise an error is left as it is.

    Raises:
        ComponentError: there is no way to them.
    """
    try:
        yield
    except RdfiaError:
        raise
    except Exception as error:
        if not wanted:
            raise
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ComponentError(
            f"the weights of {model} cannot be had: {reason}",
            remedy,
        ) from error
