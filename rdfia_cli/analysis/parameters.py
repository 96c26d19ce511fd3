"""What a model costs: its parameters and the arithmetic of one forward pass, on the meta device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from rdfia_cli.analysis.blank import held_by, shadow, with_numbers
from rdfia_cli.analysis.counting import Ledger, Tally, count_pass
from rdfia_cli.analysis.graph import kind_of
from rdfia_cli.analysis.operations import Convention
from rdfia_cli.analysis.products import Product
from rdfia_cli.spec import InputSpec

NUMBERS_UP_TO = 2**30
"""Bytes of weights and buffers up to which a model that needs numbers is called on the CPU."""

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        parameters: weights and biases, shared ones once.
        macs: multiply-accumulates of convolutions and matrix products, one example forward.
    """

    parameters: int
    macs: int


@dataclass(frozen=True)
class Layer:
    """A module and what it costs by itself, without the modules below it: layers add up.

    Attributes:
        name: its dotted name, empty for the model itself.
        type: the name of its class.
        inputs, outputs: the shapes of its last call; none where it was not called.
        weights, biases: its parameters; a parameter that stands in several modules counts in the
            first. Biases are vectors that say so by name.
        trainable: the parameters that learn.
        buffers: the elements of its buffers.
        macs, others: of one example; see `operations.Work`.
        activations: of the whole batch; see `operations.Work`.
        shared: the name under which some of its parameters were counted before, or None.
        own: the names of the parameters that are counted here.
        products: the matrix products of one example, each with a word on its operands and how often
            it is made; see `counting.Tally`.
    """

    name: str
    type: str
    inputs: Shapes = ()
    outputs: Shapes = ()
    weights: int = 0
    biases: int = 0
    trainable: int = 0
    buffers: int = 0
    macs: int = 0
    others: int = 0
    activations: int = 0
    shared: str | None = None
    own: tuple[str, ...] = ()
    products: tuple[tuple[str, Product, int], ...] = ()

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.weights + self.biases

    @property
    def flops(self) -> int:
        """A multiply-accumulate is two operations; the others count as one an element."""
        return 2 * self.macs + self.others

    @property
    def depth(self) -> int:
        """How many modules stand above it."""
        return self.name.count(".") + 1 if self.name else 0


FIGURES = ("weights", "biases", "trainable", "buffers", "macs", "others", "activations")


@dataclass(frozen=True)
class Costs:
    """What a model costs, layer by layer.

    Attributes:
        layers: every module that was called or has parameters, in the order of their names.
        total: the sums.
        uncounted: how often each operation ran whose arithmetic nobody knows.
        saved: bytes that autograd keeps for the backward pass; see `counting.Ledger`.
        held: bytes of the parameters and buffers.
        learning: bytes of the parameters that learn.
        on_cpu: whether the model had to be called with numbers in it.
    """

    layers: tuple[Layer, ...]
    total: Layer
    uncounted: Mapping[str, int]
    saved: Mapping[int, int]
    held: int
    learning: int
    on_cpu: bool


def count(model: nn.Module, input: InputSpec) -> Cost:
    """Count a model, without computing anything where it can be called without numbers."""
    total = measure(model, input).total
    return Cost(total.parameters, total.macs)


def measure(
    model: nn.Module,
    input: InputSpec,
    *,
    batch: int = 1,
    convention: Convention = "macs",
    realise: Callable[[], nn.Module] | None = None,
) -> Costs:
    """Count a model layer by layer, as it is for inference.

    Args:
        model: anywhere; it is left as it is.
        input: what it is fed.
        batch: the examples of a forward pass, which needs so much more memory: activations and
            what is saved are of all of them, the arithmetic is of one.
        convention: whether norms and resampling are multiply-accumulates, as fvcore has it.
        realise: builds the model on the CPU, should it need numbers and have none.
    """
    called, single = _count_anywhere(model, (1, *input.shape), convention, realise)
    ledger = single
    if batch > 1:
        called, ledger = _count_anywhere(model, (batch, *input.shape), convention, realise)
    layers = tuple(_layers(called, ledger, single))
    itself = ledger.tallies.get("", Tally())
    head = Layer("", kind_of(model), inputs=itself.inputs, outputs=itself.outputs)
    total = _sum(head, layers)
    weights = list(called.parameters())
    return Costs(
        layers=layers,
        total=total,
        uncounted=dict(ledger.uncounted),
        saved=ledger.saved,
        held=sum(tensor.nbytes for tensor in (*weights, *called.buffers())),
        learning=sum(weight.nbytes for weight in weights if weight.requires_grad),
        on_cpu=not all(tensor.is_meta for tensor in held_by(called)),
    )


def _count_anywhere(
    model: nn.Module,
    shape: tuple[int, ...],
    convention: Convention,
    realise: Callable[[], nn.Module] | None,
) -> tuple[nn.Module, Ledger]:
    """Count on the meta device, else on the CPU: the figures are the same.

    There is no telling beforehand whether a model can do without numbers, nor whether the tensors
    that it makes as it goes should be without.
    """
    dtype = _dtype(model)
    error: Exception | None = None
    for surroundings in (contextlib.nullcontext(), torch.device("meta")):
        blank = shadow(model)
        try:
            with surroundings, torch.enable_grad():
                inputs = torch.empty(shape, dtype=dtype, device="meta")
                return blank, count_pass(blank, inputs, convention)
        except Exception as failure:
            error = failure
    real = _on_cpu(model, realise)
    if real is None:
        assert error is not None
        raise error
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        return real, count_pass(real, torch.zeros(shape, dtype=dtype), convention)


def _on_cpu(model: nn.Module, realise: Callable[[], nn.Module] | None) -> nn.Module | None:
    """The model with numbers in it, in evaluation mode; None where it is too large or has none."""
    held = {id(tensor): tensor for tensor in held_by(model)}.values()
    if sum(tensor.nbytes for tensor in held) > NUMBERS_UP_TO:
        return None
    if not any(tensor.is_meta for tensor in held):
        return with_numbers(model)
    return None if realise is None else realise().eval()


def _dtype(model: nn.Module) -> torch.dtype:
    """The type of number that a model is fed: that of its weights."""
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floating, torch.get_default_dtype())


def _layers(model: nn.Module, ledger: Ledger, single: Ledger) -> Iterator[Layer]:
    """What stands in each module.

    Args:
        model: which was called.
        ledger: of a batch.
        single: of one example.
    """
    counted: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        tally, one = (each.tallies.get(name, Tally()) for each in (ledger, single))
        own = list(module.named_parameters(recurse=False, remove_duplicate=False))
        shared = next((counted[id(p)] for _, p in own if id(p) in counted), None)
        fresh = {id(p): (key, p) for key, p in own if id(p) not in counted}
        buffers = {id(b): b for b in module.buffers(recurse=False) if id(b) not in counted}
        counted.update(dict.fromkeys((*fresh, *buffers), name))
        biases = sum(p.numel() for key, p in fresh.values() if is_bias(key, p))
        parameters = sum(p.numel() for _, p in fresh.values())
        layer = Layer(
            name=name,
            type=kind_of(module),
            inputs=tally.inputs,
            outputs=tally.outputs,
            weights=parameters - biases,
            biases=biases,
            trainable=sum(p.numel() for _, p in fresh.values() if p.requires_grad),
            buffers=sum(buffer.numel() for buffer in buffers.values()),
            macs=one.macs,
            others=one.others,
            activations=tally.activations,
            shared=shared,
            own=tuple(key for key, _ in fresh.values()),
            products=tuple((word, product, n) for (word, product), n in one.products.items()),
        )
        # The model itself has a line where it does something besides calling its modules.
        if name or any(getattr(layer, key) for key in FIGURES):
            yield layer


def is_bias(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a vector that says by name that it is a bias."""
    return "bias" in name and parameter.ndim <= 1


def _sum(head: Layer, layers: tuple[Layer, ...]) -> Layer:
    """The figures of some layers in one."""
    return replace(head, **{key: sum(getattr(layer, key) for layer in layers) for key in FIGURES})


def fold(costs: Costs, depth: int | None) -> tuple[Layer, ...]:
    """The layers down to a depth, those of the last one with all that stands below them.

    Their figures still add up to the total.
    """
    if depth is None:
        return costs.layers
    groups: dict[str, list[Layer]] = {}
    for layer in costs.layers:
        name = ".".join(layer.name.split(".")[:depth]) if depth else ""
        groups.setdefault(name, []).append(layer)
    heads = {layer.name: layer for layer in costs.layers}
    return tuple(
        _sum(heads.get(name, costs.total), tuple(members)) for name, members in groups.items()
    )


def subtrees(costs: Costs, depth: int) -> tuple[Layer, ...]:
    """The layers down to a depth, each with all that stands below it; the model itself alone.

    At depth 0 there is but the model, with all of it.
    """
    if not depth:
        return (costs.total,)
    return tuple(
        _sum(head, tuple(layer for layer in costs.layers if _is_within(layer, head)))
        for head in costs.layers
        if head.depth <= depth
    )


def _is_within(layer: Layer, head: Layer) -> bool:
    return layer is head or (head.name != "" and layer.name.startswith(f"{head.name}."))
