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

from rdfia_cli.analysis.parameters import Costs, Layer, is_bias
from rdfia_cli.analysis.products import Product
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
        macs: the formula of its multiply-accumulates of one example, with a word in parentheses on
            what is multiplied; empty where it has none.
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
            weights=_weights_formula(module, layer),
            macs=_macs_formula(module, layer),
            parameter_share=layer.parameters / max(costs.total.parameters, 1),
            mac_share=layer.macs / max(costs.total.macs, 1),
            fully_connected=_fully_connected(module, layer),
            unshared=_unshared(module, layer),
        )


def weights_per_image(costs: Costs, images: int) -> float:
    """The weights, without biases, for each train image."""
    return costs.total.weights / images


def _weights_formula(module: nn.Module, layer: Layer) -> str:
    """Kernel sizes first, then channels in and out; of other weights the sizes of each.

    Weights that were counted in another layer are not among them.
    """
    own = module.named_parameters(recurse=False, remove_duplicate=False)
    counted = {name: weight for name, weight in own if name in layer.own}
    terms = [
        _times(_kernel(module) if name == "weight" else weight.shape, weight.numel(), weight.shape)
        for name, weight in counted.items()
        if not is_bias(name, weight)
    ]
    return " + ".join(terms)


def _kernel(module: nn.Module) -> Sequence[int]:
    """Sizes in the order in which one speaks of them; none for other modules."""
    if isinstance(module, _ConvNd):
        inputs, outputs = module.in_channels, module.out_channels
        return (*module.kernel_size, inputs // module.groups, outputs)
    return (module.in_features, module.out_features) if isinstance(module, nn.Linear) else ()


def _macs_formula(module: nn.Module, layer: Layer) -> str:
    """Whatever its form, the numbers in it make the multiply-accumulates of the layer."""
    products = layer.products
    if len(products) == 1 and isinstance(module, _ConvNd | nn.Linear):
        weights = module.weight.numel()
        positions = layer.macs // max(weights, 1)
        if weights and layer.macs == weights * positions:
            if positions == 1:
                return f"{weights:,} weights, each once"
            return f"{weights:,} weights * {_times(_positions(module, layer), positions)} positions"
    terms = [_term(word, product, times, layer) for word, product, times in products]
    rest = layer.macs - sum(product.macs * times for _, product, times in products)
    return " + ".join([*terms, *([f"{rest:,} (norms, resampling and pooling)"] if rest else [])])


def _term(word: str, product: Product, times: int, layer: Layer) -> str:
    """A matrix product: how often, rows, inner size and columns, and what is multiplied."""
    sizes = (times, product.times, product.rows, product.inner, product.columns)
    factors = _times([size for size in sizes if size > 1])
    name = word.removeprefix(f"{layer.name}.")
    return f"{factors} ({name})" if name else factors


def _positions(module: nn.Module, layer: Layer) -> Sequence[int]:
    """The positions at which a layer's weights are used, along each axis."""
    if isinstance(module, _ConvNd):
        shapes = layer.inputs if isinstance(module, _ConvTransposeNd) else layer.outputs
        return shapes[0][2:] if shapes else ()
    return layer.outputs[0][1:-1] if layer.outputs else ()


def _times(sizes: Sequence[int], expected: int | None = None, otherwise: Sequence[int] = ()) -> str:
    """Factors as a product; where they do not make the number expected, others, or that number."""
    if expected is not None and (prod(sizes) != expected or not sizes):
        return _times(otherwise) if otherwise else f"{expected:,}"
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
