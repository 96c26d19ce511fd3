"""The contract of a component: what builders receive and return, and how one is named.

A component is a plain function found through an entry point; its keyword-only parameters are its
hyper-parameters. This module holds the types in those functions' signatures, and imports nothing
heavy: tensors are named under TYPE_CHECKING only.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol, runtime_checkable

from annotated_types import Ge, Gt, Le, Lt

from rdfia_cli.errors import ComponentError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch
    from torch import Tensor

Count = Annotated[int, Ge(1)]
Size = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Probability = Annotated[float, Ge(0), Le(1)]
Fraction = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True)
class InputSpec:
    """What a model is fed, without the batch axis.

    Attributes:
        shape: (C, H, W) for images, (F,) for points.
        classes: how many classes the labels name.
    """

    shape: tuple[int, ...]
    classes: int

    def image(self, component: str) -> tuple[int, int, int]:
        """Channels, height and width.

        Raises:
            ComponentError: the input is not an image; `component` is named.
        """
        if len(self.shape) != 3:
            raise ComponentError(
                f"{component} needs images (channels, height, width), but the data has "
                f"shape {self.shape}",
                "use a model for points, such as mlp, or an image dataset, such as digits",
            )
        channels, height, width = self.shape
        return channels, height, width


@dataclass(frozen=True)
class PixelStatistics:
    """What normalises pixels in [0, 1].

    Attributes:
        mean: of each channel, or of all; with a whitening, of each value of the flattened input.
        std: the deviation of each channel, or of all; empty with a whitening.
        whitening: (D, D) float32 for inputs of D values, or None.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    whitening: Tensor | None = None


class Batch(NamedTuple):
    """One batch on its device.

    Attributes:
        inputs: (B, C, H, W) or (B, F) float32; pixels in [0, 1] before normalisation.
        labels: (B,) int64 class indices, or (B, classes) float32 probabilities once mixed.
    """

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Split:
    """The examples of one split.

    Attributes:
        inputs: (M, C, H, W) or (M, F); uint8 pixels in [0, 255] or float32. They may lie in a file
            mapped into memory, larger than memory itself, and are never written to.
        labels: (N,) int64 class indices.
        rows: (N,) int64, where in `inputs` each example is; None where they stand in order.
        prefetch: told the rows that are wanted next, so that a file can be read ahead.
    """

    inputs: Tensor
    labels: Tensor
    rows: Tensor | None = None
    prefetch: Callable[[Tensor], None] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def locate(self, examples: Tensor) -> Tensor:
        """The rows of `inputs` of some examples (B,) int64."""
        return examples if self.rows is None else self.rows[examples]

    def take(self, examples: Tensor) -> Tensor:
        """A copy of the inputs of some examples (B,) int64, in their order."""
        rows = self.locate(examples)
        if self.inputs.is_contiguous():
            return self.inputs.index_select(0, rows)
        # With the channels last, an example is one piece of memory: 20 times as fast to copy.
        return self.inputs.movedim(1, -1).index_select(0, rows).movedim(-1, 1)

    def select(self, chosen: Tensor) -> Split:
        """The examples at some indices (K,) int64, as a split that shares the inputs."""
        return replace(self, labels=self.labels[chosen], rows=self.locate(chosen))


class Memory(Protocol):
    """Keeps beside a dataset what was computed from it, so that later runs need not."""

    def recall(self, name: str) -> bytes | None:
        """What was kept under a name, or None."""
        ...

    def keep(self, name: str, content: bytes) -> None:
        """Keep something; a failure to do so is nobody's concern."""
        ...


@dataclass(frozen=True)
class Splits:
    """What a dataset builder returns.

    Attributes:
        train: the examples to learn from; validation is taken from them where it is None.
        test: the examples to report on, never used to choose anything.
        classes: the name of each class, in the order of the labels.
        validation: a validation split of the dataset's own, or None.
        warnings: what the user should know about the data, a line each.
        verify: looks whether the source changed since it was prepared, and says so by a
            `ChangedError`; called in a thread beside other work, since it may take seconds.
        fingerprint: text that another content of the dataset has not; empty where it always has
            the same.
        memory: keeps what was computed from this content.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    validation: Split | None = None
    warnings: tuple[str, ...] = ()
    verify: Callable[[], None] | None = None
    fingerprint: str = ""
    memory: Memory | None = None

    @property
    def input(self) -> InputSpec:
        """The shape of one example and the number of classes."""
        return InputSpec(tuple(self.train.inputs.shape[1:]), len(self.classes))


@dataclass(frozen=True)
class Preparing:
    """How far a dataset is on its way to the cache.

    A builder that takes long is a generator: it yields these and returns its `Splits`.

    Attributes:
        what: what is going on, such as `downloading cifar-10-python.tar.gz`.
        done: how much is done, in `unit`s.
        total: how much there is to do, or None where nobody knows.
        unit: what is counted: `images` or `bytes`.
    """

    what: str
    done: int
    total: int | None
    unit: Literal["images", "bytes"]


@runtime_checkable
class Augmentation(Protocol):
    """An `nn.Module` on a whole batch that is already on the device, a draw for each sample.

    Attributes:
        output: the input spec that it produces.
        evaluation: its deterministic counterpart for test time, or None where it has none.
    """

    output: InputSpec
    evaluation: Augmentation | None

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return an augmented batch; the batch given is left as it was."""
        ...


@dataclass(frozen=True)
class Visit:
    """Which examples a training batch holds, and when.

    Attributes:
        examples: (B,) int64, their indices in the train split: the same in every epoch.
        epoch: how many whole epochs came before.
        seed: of the run.
    """

    examples: Tensor
    epoch: int
    seed: int


@runtime_checkable
class SeesExamples(Protocol):
    """An augmentation that treats an example by what it did to it in other epochs."""

    def visit(self, batch: Batch, generator: torch.Generator, visit: Visit) -> Batch:
        """Take the place of a call while training; what it does follows from its arguments."""
        ...


@runtime_checkable
class FitsInputs(Protocol):
    """A model whose first weights follow from what it is fed, such as a whitening first layer."""

    def fit_inputs(self, inputs: Tensor) -> None:
        """Look at normalised train examples (N, ...) float32, once, before the first step."""
        ...


@runtime_checkable
class HandDifferentiated(Protocol):
    """A model that writes its own gradients; the training step then never calls autograd."""

    def loss_and_logits(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Set `.grad` of every parameter to the gradient of the mean cross-entropy.

        Args:
            inputs: (B, ...) float.
            labels: (B,) int64 or (B, classes) float.

        Returns:
            The mean cross-entropy, a scalar, and the logits (B, classes).
        """
        ...


@runtime_checkable
class MadeFor(Protocol):
    """A model that knows what it was made for, such as a member of a family.

    A model builder's `input` may have a default: the input that it was made for, used where nobody
    names another. A family's default is None; the member that it then builds tells here.
    """

    made_for: InputSpec


@runtime_checkable
class Pretrained(Protocol):
    """A model that may start from weights that were trained before.

    Attributes:
        pixel_statistics: what its weights' input was normalised by; None where it starts afresh.
    """

    pixel_statistics: PixelStatistics | None


@runtime_checkable
class Layered(Protocol):
    """A model that tells how deep its parameters lie, for fine-tuning layer by layer.

    Attributes:
        parameter_depths: by parameter name, 0 at the input; the head's is the largest, and its
            alone.
    """

    parameter_depths: Mapping[str, int]


@runtime_checkable
class ShowsAttention(Protocol):
    """A Vision Transformer whose attention can be looked at.

    Attributes:
        grid: patches a column and a row.
        prefix: tokens that stand before those of the patches, a class token first.
        position_embedding: (1, prefix + patches, D), or None.
    """

    grid: tuple[int, int]
    prefix: int
    position_embedding: Tensor | None

    def attention(self, images: Tensor) -> Tensor:
        """Who looks at whom: (depth, B, heads, T, T), each row sums to 1."""
        ...


@runtime_checkable
class Logger(Protocol):
    """Tells another program what a run measures.

    A builder of a logger is called with the run folder (`Path`) and the settings by their dotted
    keys (`Mapping[str, Any]`), before the run has written anything: what the logger writes there
    comes with the first line. It raises `ComponentError` where it cannot do its work.
    """

    def write(self, line: Mapping[str, Any]) -> None:
        """Tell one object of `metrics.jsonl`.

        A run that goes on tells all that it has so far first: what was told before must not stand
        there twice.
        """
        ...

    def close(self, *, complete: bool) -> None:
        """Tell that there is no more for now; `complete` where the run is at its end."""
        ...


@runtime_checkable
class WatchesValidation(Protocol):
    """A schedule that looks at how well each epoch did; the run must have a validation split."""

    def observe(self, loss: float) -> None:
        """Take note of the validation loss after an epoch, and set the rate of the next steps."""
        ...


@dataclass(frozen=True)
class Spec:
    """A component as it is written on the command line, `name@distribution:key=value,...`.

    Attributes:
        name: the component's name, `timm/resnet18` for a member of a family,
            `./file.py:function` for a function of a file.
        distribution: the distribution that must provide it, or None for the only one.
        parameters: the values as text, not yet checked.
    """

    name: str
    distribution: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def file(self) -> tuple[str, str] | None:
        """The path and the function of `./file.py:function`, None for any other component."""
        match = FILE_PATTERN.fullmatch(self.name)
        return (match["path"], match["function"]) if match else None

    @property
    def reference(self) -> str:
        """The name, with the distribution where one was asked for."""
        return f"{self.name}@{self.distribution}" if self.distribution else self.name


FILE_PATTERN = re.compile(r"(?P<path>[^:]*/[^:]*\.py):(?P<function>[^\W\d]\w*)")
NEEDS_QUOTES = re.compile(r"""[][(){}"',]|^\s|\s$""")
SPEC_PATTERN = re.compile(
    rf"(?P<file>{FILE_PATTERN.pattern})(?::(?P<settings>.*))?"
    r"|(?P<name>[\w./-]+)(?:@(?P<distribution>[\w.-]+))?(?::(?P<parameters>.*))?",
    re.DOTALL,
)


def parse_spec(text: str) -> Spec:
    """Parse `name`, `name:key=value,key=value`, `name@distribution:key=value`.

    A function of a file is named `./file.py:function`; the slash tells it from a component's name.

    A value may hold commas inside brackets or quotes.

    Raises:
        UsageError: the text does not follow the grammar.
    """
    match = SPEC_PATTERN.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"'{text}' is not a component", "write NAME or NAME:key=value,key=value")
    name = match["file"] or match["name"]
    parameters: dict[str, str] = {}
    for item in split_outside_brackets(match["settings"] or match["parameters"] or ""):
        key, equals, value = item.partition("=")
        if not equals or not key.strip().isidentifier():
            way = f"./{text.strip()}" if name.endswith(".py") else f"{name}:key=value"
            raise UsageError(f"'{item}' in '{text}' is not key=value", f"write {way}")
        if key.strip() in parameters:
            raise UsageError(f"'{key.strip()}' is given twice in '{text}'", "give it once")
        parameters[key.strip()] = value.strip()
    return Spec(name, match["distribution"], parameters)


def split_outside_brackets(text: str) -> Iterator[str]:
    """Split at the commas that stand outside brackets and quotes; blank text yields nothing.

    Raises:
        UsageError: a bracket or a quote is not closed.
    """
    depth, quote, escaped, item = 0, "", False, ""
    for character in text:
        if character == "," and depth == 0 and not quote:
            yield item
            item = ""
            continue
        if quote:
            quote = "" if character == quote and not escaped else quote
            escaped = character == "\\" and quote == '"' and not escaped
        elif character in "\"'":
            quote = character
        else:
            depth += (character in "[{(") - (character in "]})")
        item += character
    if depth or quote:
        raise UsageError(
            f"a bracket or a quote is not closed in '{text}'", 'put such a value in quotes: "..."'
        )
    if item.strip():
        yield item


def value_text(value: Any) -> str:
    """A value as one writes it in a spec: `true`, `none`, `[1, 2]`."""
    if isinstance(value, bool | None):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return json.dumps(value, ensure_ascii=False)
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if NEEDS_QUOTES.search(text) else text


def brief(value: Any) -> str:
    """A value for a person to read: a real number in four digits, text as it is."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else value_text(value)


def typed_value(text: str) -> Any:
    """A value that somebody wrote in its TOML type; what is none, or no finite number, is text."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    if isinstance(value, float) and not math.isfinite(value):
        return text
    return value if isinstance(value, bool | int | float | list) else text
