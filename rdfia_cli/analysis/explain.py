"""Where a model's parameters and arithmetic come from: each layer's formula, its numbers filled in.

These are the questions of the course: what a convolution costs, what a fully connected layer of the
same output would cost, and what it would cost did its positions not share their weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd  # pyright: ignore[reportPrivateUsage]

from rdfia_cli.analysis.parameters import Costs, Layer
from rdfia_cli.spec import InputSpec

PUBLISHED: Mapping[str, tuple[InputSpec, int]] = {
    # Krizhevsky 2009; LeCun et al. 1998; Xiao et al. 2017; Netzer et al. 2011.
    "cifar10": (InputSpec((3, 32, 32), 10), 50_000),
    "cifar100": (InputSpec((3, 32, 32), 100), 50_000),
    "mnist": (InputSpec((1, 28, 28), 10), 60_000),
    "fashion_mnist": (InputSpec((1, 28, 28), 10), 60_000),
    "svhn": (InputSpec((3, 32, 32), 10), 73_257),
}
"""The images and the train split of datasets that need no look at the files."""


@dataclass(frozen=True)
class Explanation:
    """Where the cost of a layer comes from.

    Attributes:
        layer: which one.
        weights: the formula of its weights, such as `5*5*3*32`.
        macs: the formula of its multiply-accumulates of one example; empty where it has none.
        parameter_share, mac_share: its part of all, in [0, 1].
        fully_connected: the weights of a linear layer between the same input and output.
        unshared: the weights were each output position to have its own; None for no convolution.
    """

    layer: Layer
    weights: str
    macs: str
    parameter_share: float
    mac_share: float
    fully_connected: int | None
    unshared: int | None


def explain(model: nn.Module, costs: Costs) -> Iterator[Explanation]:
    """Explain each layer that has parameters or multiply-accumulates of its own.

    Args:
        model: what was measured.
        costs: of one example.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for layer in costs.layers:
        if not layer.parameters and not layer.macs:
            continue
        module = modules[layer.name]
        yield Explanation(
            layer=layer,
            weights=_weights_formula(module),
            macs=_macs_formula(module, layer),
            parameter_share=layer.parameters / max(costs.total.parameters, 1),
            mac_share=layer.macs / max(costs.total.macs, 1),
            fully_connected=_fully_connected(module, layer),
            unshared=_unshared(module, layer),
        )


def weights_per_image(costs: Costs, images: int) -> float:
    """The weights, without biases, for each train image."""
    return costs.total.weights / images


def _weights_formula(module: nn.Module) -> str:
    """Kernel sizes first, then channels in and out; of other layers the sizes of each matrix."""
    if isinstance(module, _ConvNd):
        inputs = module.in_channels // module.groups
        return _times((*module.kernel_size, inputs, module.out_channels))
    if isinstance(module, nn.Linear):
        return _times((module.in_features, module.out_features))
    own = module.named_parameters(recurse=False)
    return " + ".join(_times(p.shape) for name, p in own if "bias" not in name or p.ndim > 1)


def _macs_formula(module: nn.Module, layer: Layer) -> str:
    if not layer.macs or not isinstance(module, _ConvNd | nn.Linear):
        return ""
    weights = module.weight.numel()
    positions = layer.macs // weights
    if layer.macs != weights * positions:
        return ""
    if positions == 1:
        return "each weight once"
    return f"{weights:,} weights * {_times(_positions(module, layer), positions)} positions"


def _positions(module: nn.Module, layer: Layer) -> Sequence[int]:
    """The positions at which a layer's weights are used, along each axis."""
    if isinstance(module, _ConvNd):
        shapes = layer.inputs if isinstance(module, _ConvTransposeNd) else layer.outputs
        return shapes[0][2:] if shapes else ()
    return layer.outputs[0][1:-1] if layer.outputs else ()


def _times(sizes: Sequence[int], expected: int | None = None) -> str:
    """Factors as a product; where they do not make the number expected, that number."""
    if expected is not None and (prod(sizes) != expected or not sizes):
        return f"{expected:,}"
    return "*".join(str(size) for size in sizes) or "1"


def _fully_connected(module: nn.Module, layer: Layer) -> int | None:
    if not isinstance(module, _ConvNd | nn.Linear) or not (layer.inputs and layer.outputs):
        return None
    return prod(layer.inputs[0][1:]) * prod(layer.outputs[0][1:])


def _unshared(module: nn.Module, layer: Layer) -> int | None:
    """A weight for each output position: k*k*C_in*C_out*H_out*W_out (not H_in*W_in)."""
    if not isinstance(module, _ConvNd) or not layer.outputs:
        return None
    return module.weight.numel() * prod(_positions(module, layer))
