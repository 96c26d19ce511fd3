"""One forward pass on the meta device, each operation counted where in the model it stands."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from rdfia_cli.analysis.graph import Calls, call_outermost, tensors_of, watch_calls
from rdfia_cli.analysis.operations import Convention, Work, work_of
from rdfia_cli.analysis.products import Product
from rdfia_cli.analysis.shortcuts import refuse, shortcut
from rdfia_cli.lean_torch import spare_compiler, spare_meta_kernels


@dataclass
class Tally:
    """What was counted in one module, without the modules below it; see `Work`.

    Attributes:
        inputs, outputs: the shapes that it was given and returned, of its last call.
        calls: how often it was called.
        products: how often each matrix product was made, with a word on its operands: the dotted
            name of a weight, or what an attention multiplies; empty where there is none.
    """

    macs: int = 0
    others: int = 0
    activations: int = 0
    calls: int = 0
    inputs: tuple[tuple[int, ...], ...] = ()
    outputs: tuple[tuple[int, ...], ...] = ()
    products: Counter[tuple[str, Product]] = field(default_factory=Counter[tuple[str, Product]])

    def add(self, work: Work, times: int = 1, word: str = "") -> None:
        """Add the work of one operation that runs so often."""
        for product in work.products:
            self.products[word, product] += times
        self.macs += times * work.macs
        self.others += times * work.others
        self.activations += times * work.activations


@dataclass
class Ledger:
    """What was counted in one forward pass.

    Attributes:
        tallies: of each module that was called, by its dotted name; empty for the model itself.
        uncounted: how often each operation ran whose arithmetic nobody knows.
        saved: the bytes that the backward pass needs, without weights and buffers, by the size of
            a floating-point element; 0 for all other types.
    """

    tallies: dict[str, Tally] = field(default_factory=dict[str, Tally])
    uncounted: Counter[str] = field(default_factory=Counter[str])
    saved: dict[int, int] = field(default_factory=dict[int, int])


def count_pass(
    model: nn.Module,
    inputs: Tensor,
    convention: Convention = "macs",
    *,
    shortcuts: bool = True,
) -> Ledger:
    """Call a model once and count its operations, the same on every device.

    Args:
        model: in evaluation mode, on the device of the inputs.
        inputs: (B, C, H, W) or (B, F); on the meta device nothing is computed.
        convention: what is a multiply-accumulate.
        shortcuts: let frequent operations on meta tensors return their shapes at once.
    """
    spare_compiler(_Counter)
    spare_meta_kernels()
    ledger, saved = Ledger(), _SavedTensors(model)
    with watch_calls(model) as calls, _decomposed():
        words = _Words(model)
        counter = _Counter(ledger, calls, saved, convention, words, shortcuts=shortcuts)
        with (
            torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda nothing: nothing),
            _FunctionCounter(counter),
            counter,
        ):
            call_outermost(model, inputs, calls)
    ledger.saved = saved.bytes()
    for returned in calls.returned:
        tally = ledger.tallies.setdefault(returned.call.name, Tally())
        tally.inputs, tally.outputs = returned.call.inputs, returned.shapes
        tally.calls += 1
    return ledger


@contextlib.contextmanager
def _decomposed() -> Generator[None]:
    """Keep torch from kernels that differ by device or by what a run asked for.

    Those of attention and recurrence are fused; resampling gathers by index where a run asked for
    deterministic kernels.
    """
    switches: tuple[tuple[Callable[[], bool], Callable[[bool], None]], ...] = (
        (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
        (torch._C._get_cudnn_enabled, torch._C._set_cudnn_enabled),  # pyright: ignore
        (torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled),  # pyright: ignore
        (torch.are_deterministic_algorithms_enabled, torch._C._set_deterministic_algorithms),  # pyright: ignore
    )
    before = [get() for get, _ in switches]
    for _, turn in switches:
        turn(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for (_, turn), was in zip(switches, before, strict=True):
            turn(was)


class _SavedTensors:
    """Adds up the storages that autograd keeps for the backward pass."""

    def __init__(self, model: nn.Module) -> None:
        # Held, since a model may replace a buffer as it is called: another would take its address.
        own = (*model.parameters(), *model.buffers())
        self.own = {_storage(tensor): tensor.untyped_storage() for tensor in own}
        self.kept: dict[int, tuple[torch.UntypedStorage, int, int]] = {}
        self.times = 1

    def keep(self, tensor: Tensor) -> None:
        """Note a tensor's storage, and hold it, so that no other takes its address meanwhile.

        No backward pass follows, so the graph gets nothing to hold: an output that is saved would
        hold its graph, which holds the output, a ring that nobody collects.
        """
        key = _storage(tensor)
        if key not in self.own:
            size = tensor.element_size() if tensor.is_floating_point() else 0
            self.kept.setdefault(key, (tensor.untyped_storage(), size, self.times))

    def bytes(self) -> dict[int, int]:
        """The bytes that are kept, by the size of a floating-point element; 0 for all others."""
        found: dict[int, int] = {}
        for storage, size, times in self.kept.values():
            found[size] = found.get(size, 0) + times * storage.nbytes()
        return found


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # pyright: ignore


class _Words:
    """Says what a matrix product multiplies."""

    def __init__(self, model: nn.Module) -> None:
        self._weights = {_storage(weight): name for name, weight in model.named_parameters()}
        self._next: list[str] = []

    def of(self, arguments: Sequence[Any]) -> str:
        """A word on the operands of the next product; empty where there is none."""
        if self._next:
            return self._next.pop(0)
        names = (self._weights.get(_storage(tensor)) for tensor in tensors_of(list(arguments)))
        return next((name for name in names if name is not None and "bias" not in name), "")

    @contextlib.contextmanager
    def attention(self) -> Generator[None]:
        """The two products to come are those of an attention."""
        self._next = ["queries by keys", "scores by values"]
        try:
            yield
        finally:
            self._next = []


class _Counter(TorchDispatchMode):
    """Counts what reaches torch's dispatcher."""

    def __init__(
        self,
        ledger: Ledger,
        calls: Calls,
        saved: _SavedTensors,
        convention: Convention,
        words: _Words,
        *,
        shortcuts: bool,
    ) -> None:
        super().__init__()
        self.ledger, self.calls, self.saved, self.words = ledger, calls, saved, words
        self.convention: Convention = convention
        self.shortcuts = shortcuts

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        refuse(func, args)
        output = shortcut(func, args) if self.shortcuts and not kwargs else NotImplemented
        if output is NotImplemented:
            output = func(*args, **(kwargs or {}))
        work = work_of(func, args, output, self.convention)
        if work is None:
            self.ledger.uncounted[func.name()] += self.saved.times
        else:
            self.add(work, self.words.of(args) if work.products else "")
        return output

    def add(self, work: Work, word: str = "") -> None:
        """Note the work of an operation in the module that is being called."""
        tally = self.ledger.tallies.setdefault(self.calls.current, Tally())
        tally.add(work, self.saved.times, word)

    @contextlib.contextmanager
    def repeating(self, times: int) -> Generator[None]:
        """Count everything as if it ran so often."""
        self.saved.times *= times
        try:
            yield
        finally:
            self.saved.times //= times


class _FunctionCounter(TorchFunctionMode):
    """Sees composite functions before they are taken apart for the dispatcher."""

    def __init__(self, counter: _Counter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in RECURRENCES and self.counter.shortcuts and _is_plain_recurrence(args):
            return self._recur(func, args)
        is_attention = func is F.scaled_dot_product_attention
        with self.counter.words.attention() if is_attention else contextlib.nullcontext():
            output = func(*args, **(kwargs or {}))
        # To the dispatcher, pooling to one position is a mean like any other.
        is_global = func is F.adaptive_avg_pool2d and output.shape[-2:].numel() == 1
        if is_global and self.counter.convention == "fvcore":
            self.counter.add(Work(macs=args[0].numel()))
        return output

    def _recur(self, func: Any, arguments: Sequence[Any]) -> Any:
        """Count one step of a recurrent layer as many times as there are steps: all are alike."""
        inputs, rest = arguments[0], arguments[1:]
        axis = 1 if arguments[-1] else 0
        steps = inputs.shape[axis]
        with self.counter.repeating(steps):
            output, *states = func(inputs.narrow(axis, 0, 1).clone(), *rest)
        sizes = [steps if index == axis else -1 for index in range(output.ndim)]
        return (output.expand(sizes).contiguous(), *states)


RECURRENCES = frozenset(
    getattr(torch._VF, name)  # pyright: ignore
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
)


def _is_plain_recurrence(arguments: Sequence[Any]) -> bool:
    """Whether the sequences are meta tensors of one length; packed ones come with their lengths.

    Their arguments are inputs, lengths, states, weights, and then whether there are biases.
    """
    return arguments[0].is_meta and isinstance(arguments[3], bool)
