"""The receptive field of every module: on a canvas large enough that no border cuts it off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rdfia_cli.analysis.constants import fixed_numbers
from rdfia_cli.analysis.grid import Grid, lay_out
from rdfia_cli.analysis.intervals import TooLargeError
from rdfia_cli.analysis.measure import Measure
from rdfia_cli.analysis.receptive_field import Output, Pass, run_pass
from rdfia_cli.errors import ComponentError

CANVAS = 4096
"""The side of the large canvas, in pixels: more than any convolutional network is known to see."""

LARGEST_CANVAS = 32768
"""Where growing ends for a field that a canvas of 4096 still cuts off."""

LARGEST_MERGED = 2**21
"""The most numbers for axes that are written out into one: a flattened canvas is not worth more."""

INDEXING = frozenset({"index", "index_select", "gather", "repeat_interleave"})
"""Operations that are exact once the numbers of their index are known."""

Key = tuple[str, int, int]


@dataclass(frozen=True)
class Layer:
    """What one module's output sees of the input.

    Attributes:
        name: the module's, with the number of the tensor where it returns several.
        kind: its class.
        module: its name without that number.
        call: how often it was called before in one forward pass.
        part: the number of the tensor.
        is_leaf: it has no modules inside.
        output: the shape of the tensor, with a batch of 1.
        rows, columns: size, stride and padding of the field.
        is_global: every position sees beyond any finite size; the sizes are then the image's.
        varies: no size, stride and padding hold for every position; they are the middle's.
        is_cut: the field in the middle meets a border of every canvas that the model takes.
        smallest, largest: height and width over all positions, on the image itself.
        positions: how many there are, down and across; None without rows and columns.
        share: of the image that the middle sees.
        seen: on the image itself, for any position.
        approximations: operations without an exact rule before it.
    """

    name: str
    kind: str
    module: str
    call: int
    part: int
    is_leaf: bool
    output: tuple[int, ...]
    rows: Measure
    columns: Measure
    is_global: bool
    varies: bool
    is_cut: bool
    smallest: tuple[int, int]
    largest: tuple[int, int]
    positions: tuple[int, int] | None
    share: float
    seen: Grid
    approximations: tuple[str, ...]

    @property
    def centre(self) -> tuple[int, int]:
        """The position in the middle, the later one of two."""
        return middle(self.positions)


@dataclass(frozen=True)
class Analysis:
    """The fields of all modules.

    Attributes:
        layers: in the order in which their calls began.
        canvas: the largest input that the model was given, height and width.
        is_fixed: the model takes no other size than its own, at least not as a whole.
    """

    layers: tuple[Layer, ...]
    canvas: tuple[int, int]
    is_fixed: bool


def analyse(
    model: nn.Module,
    shape: tuple[int, ...],
    *,
    clip: bool = False,
    realise: Callable[[], nn.Module] | None = None,
) -> Analysis:
    """Find the receptive field of every module.

    Args:
        model: on the meta device, in evaluation mode.
        shape: of one input: (C, H, W), or (F,) for points, which count as a row of F columns.
        clip: sizes as the image itself allows them.
        realise: builds the model on the CPU, should an index that it holds decide what is seen.

    Raises:
        ComponentError: the model fails on its input.
    """
    own = run_pass(model, shape, lay_out)
    if own.failure is not None:
        raise _explain_failure(own.failure, shape, realise)
    numbers = None
    if realise is not None and any(INDEXING & run.kept.approximations for run in own.outputs):
        numbers = fixed_numbers(model, realise())
        own = run_pass(model, shape, lay_out, numbers=numbers)
    passes = [own, *_larger_passes(model, shape, own, numbers)]
    layers = tuple(_settle(passes, clip=clip))
    canvas = max(output.kept.image for run in passes for output in run.outputs)
    larger = [run.failure for run in passes[1:]]
    is_fixed = None not in larger and any(not isinstance(e, TooLargeError) for e in larger)
    return Analysis(layers, canvas, is_fixed)


def _explain_failure(
    failure: Exception, shape: tuple[int, ...], realise: Callable[[], nn.Module] | None
) -> ComponentError:
    """Why a model cannot be followed: it does not take the input, or it asks for numbers."""
    reason = " ".join(f"{type(failure).__name__}: {failure}".split())
    if realise is not None and _takes(realise, shape):
        return ComponentError(
            f"the model asks for numbers, and fields are found from shapes alone: {reason}",
            "in evaluation mode it must not decide by item(), tolist() or the truth of a tensor",
        )
    return ComponentError(
        f"the model fails on an input of {'x'.join(map(str, shape))}: {reason}",
        "give the size that it takes with --input CxHxW",
    )


def _takes(realise: Callable[[], nn.Module], shape: tuple[int, ...]) -> bool:
    """Whether a model takes an input once that has numbers in it."""
    try:
        with torch.inference_mode():
            realise().eval()(torch.zeros(1, *shape))
    except Exception:  # why it failed is told of the analysis, not of this trial
        return False
    return True


def _larger_passes(
    model: nn.Module,
    shape: tuple[int, ...],
    own: Pass[Grid],
    numbers: Mapping[Tensor, Tensor] | None,
) -> Iterator[Pass[Grid]]:
    """The same model on larger canvases, until no border cuts a field off; the largest last."""
    side = max(shape[-2:])
    far = max(1 << max(CANVAS // side, 2).bit_length() - 1, 2)
    factor = far if _waits(own) else 2
    found: list[tuple[int, Pass[Grid]]] = []
    while factor > 1 and factor * side <= max(LARGEST_CANVAS, 2 * side):
        channels, sizes = shape[:-2], shape[-2:]
        larger = (*channels, *(size * factor for size in sizes))
        run = run_pass(model, larger, lay_out, LARGEST_MERGED, numbers)
        found.append((factor, run))
        if isinstance(run.failure, TooLargeError):
            factor //= 4
        elif run.failure is not None or not _waits(run):
            break
        else:
            factor = far if factor < far else 4 * factor
        if factor in [tried for tried, _ in found]:
            break
    yield from (run for _, run in sorted(found, key=lambda pair: pair[0]))


def _waits(run: Pass[Grid]) -> bool:
    """Whether a border cuts a field off that only windows have made."""
    return any(
        not output.kept.mixed and (output.kept.down.is_clipped or output.kept.across.is_clipped)
        for output in run.outputs
    )


def _settle(passes: Sequence[Pass[Grid]], *, clip: bool) -> Iterator[Layer]:
    """Choose for each module the pass that tells most.

    What adaptive pooling returns depends on the canvas, and what stands behind a flattened image
    is on no canvas at all. Where such an output sees, on the image itself, what an earlier one
    sees, it has that one's numbers.
    """
    runs = [{output.key: output for output in run.outputs} for run in passes]
    known: dict[object, Layer] = {}
    settled: dict[Key, Layer] = {}
    for output in sorted(passes[0].outputs, key=lambda output: output.ended):
        best, trace = _best(output, runs), _trace(output.kept)
        layer = _layer(output, best.kept)
        if not layer.is_global and trace in known and (best is output or not best.kept.size):
            layer = _seeing_as(layer, known[trace])
        if not layer.varies:
            known[trace] = layer
        settled[output.key] = _clipped(layer) if clip else layer
    yield from (settled[output.key] for output in passes[0].outputs)


def _trace(grid: Grid) -> object:
    """What tells apart the views of two outputs on the same image."""
    return grid.rows.tobytes(), grid.columns.tobytes(), grid.smallest, grid.largest


def _best(own: Output[Grid], runs: Sequence[Mapping[Key, Output[Grid]]]) -> Output[Grid]:
    """The output on the largest canvas that got so far.

    An output of the same size on every canvas is not one that windows have made.
    """
    best = own
    for run in runs[1:]:
        larger = run.get(own.key)
        if larger is not None and (larger.shape != own.shape or larger.kept.is_global):
            best = larger
    return best


def _layer(own: Output[Grid], grid: Grid) -> Layer:
    """Put together what the image itself and what the best canvas tell."""
    here = grid if grid.size else own.kept
    rows, columns = here.down, here.across
    positions = own.kept.size or _positions(own.shape, grid)
    if grid.is_global:
        rows, columns = (
            replace(each, size=size, stride=size / outputs, padding=0)
            for each, size, outputs in zip(
                (rows, columns), own.kept.image, positions or (1, 1), strict=True
            )
        )
    seen = own.kept.at(*middle(positions))
    height, width = (last - first + 1 for first, last in seen) if seen else (0, 0)
    return Layer(
        name=own.name + (f"[{own.part}]" if own.parts > 1 else ""),
        kind=own.kind,
        module=own.name,
        call=own.number,
        part=own.part,
        is_leaf=own.is_leaf,
        output=own.shape,
        rows=rows,
        columns=columns,
        is_global=grid.is_global,
        varies=not grid.is_global and not (grid.size and rows.holds and columns.holds),
        is_cut=not grid.is_global and (rows.is_clipped or columns.is_clipped),
        smallest=own.kept.smallest,
        largest=own.kept.largest,
        positions=positions,
        share=height * width / (own.kept.image[0] * own.kept.image[1]),
        seen=own.kept,
        approximations=tuple(sorted(own.kept.approximations | grid.approximations)),
    )


def middle(positions: tuple[int, int] | None) -> tuple[int, int]:
    """The position in the middle, the later one of two."""
    return (positions[0] // 2, positions[1] // 2) if positions else (0, 0)


def _positions(shape: Sequence[int], grid: Grid) -> tuple[int, int] | None:
    """Rows and columns of an output that sees the same everywhere, by the axes of a larger one."""
    return (shape[grid.axes[0]], shape[grid.axes[1]]) if len(grid.axes) == 2 else None


def _seeing_as(layer: Layer, other: Layer) -> Layer:
    return replace(
        layer,
        rows=other.rows,
        columns=other.columns,
        is_global=other.is_global,
        varies=other.varies,
        is_cut=other.is_cut,
    )


def _clipped(layer: Layer) -> Layer:
    """The sizes that the image itself allows in the middle."""
    seen = layer.seen.at(*layer.centre)
    sizes = [last - first + 1 for first, last in seen] if seen else [0, 0]
    rows, columns = (
        replace(each, size=size)
        for each, size in zip((layer.rows, layer.columns), sizes, strict=True)
    )
    return replace(layer, rows=rows, columns=columns)
