"""What is known of a model as the objects that scripts read."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rdfia_cli.analysis.memory import estimate_memory
from rdfia_cli.analysis.parameters import fold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdfia_cli.analysis.explain import Explanation
    from rdfia_cli.analysis.layers import Analysis, Layer
    from rdfia_cli.analysis.parameters import Costs
    from rdfia_cli.analysis.parameters import Layer as LayerCosts
    from rdfia_cli.analysis.subject import Subject


def describe_costs(
    subject: Subject,
    costs: Costs,
    *,
    batch: int = 1,
    convention: str = "macs",
    depth: int | None = None,
    explanations: Sequence[Explanation] | None = None,
    images: int | None = None,
) -> dict[str, Any]:
    """The object `rdfia.parameters/1`; its layers are each without those below, and add up.

    Args:
        subject: the model.
        costs: what was measured of it.
        batch: of how many examples.
        convention: by which it was counted.
        depth: how deep layers are told apart; None for all.
        explanations: of each layer, where they are wanted.
        images: how many train images the model is held against.
    """
    total = costs.total
    content: dict[str, Any] = {
        "schema": "rdfia.parameters/1",
        "model": subject.label,
        "input": list(subject.input.shape),
        "classes": subject.input.classes,
        "batch": batch,
        "convention": convention,
        **_figures(total),
        "layers": [_costs_of(layer) for layer in fold(costs, depth)],
        "uncounted": dict(costs.uncounted),
        "on_cpu": costs.on_cpu,
        "memory": {name: asdict(memory) for name, memory in estimate_memory(costs).items()},
    }
    if images is not None:
        content |= {"images": images, "weights_per_image": total.weights / images}
    if explanations is not None:
        content["explanations"] = [
            {**asdict(explanation), "layer": explanation.layer.name} for explanation in explanations
        ]
    return content


def _figures(layer: LayerCosts) -> dict[str, int]:
    return {
        "parameters": layer.parameters,
        "weights": layer.weights,
        "biases": layer.biases,
        "trainable": layer.trainable,
        "buffers": layer.buffers,
        "macs": layer.macs,
        "flops": layer.flops,
        "activations": layer.activations,
    }


def _costs_of(layer: LayerCosts) -> dict[str, Any]:
    shapes = [list(shape) for shape in layer.outputs]
    return {
        "name": layer.name,
        "type": layer.type,
        "output": shapes[0] if len(shapes) == 1 else shapes or None,
        **_figures(layer),
        "shared": layer.shared,
    }


def has_position(layer: Layer, position: tuple[int, int]) -> bool:
    """Whether a layer has an output at a row and a column."""
    size = layer.positions
    return size is not None and position[0] < size[0] and position[1] < size[1]


def describe_fields(
    subject: Subject,
    analysis: Analysis,
    layers: Sequence[Layer],
    position: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """The object `rdfia.receptive-field/1`.

    Args:
        subject: the model.
        analysis: what was found out about it.
        layers: those that are told of.
        position: an output whose rows and columns of the input are told too.
    """
    return {
        "schema": "rdfia.receptive-field/1",
        "command": "receptive-field",
        "model": subject.label,
        "input": list(subject.input.shape),
        "layers": [_field_of(layer, position) for layer in layers],
        "exact": not any(layer.approximations for layer in layers),
        "canvas": list(analysis.canvas),
        "fixed_size": analysis.is_fixed,
    }


def _field_of(layer: Layer, position: tuple[int, int] | None) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": layer.name,
        "type": layer.kind,
        "call": layer.call,
        "output": list(layer.output),
        "size": [layer.rows.size, layer.columns.size],
        "stride": [_whole(layer.rows.stride), _whole(layer.columns.stride)],
        "padding": [_whole(layer.rows.padding), _whole(layer.columns.padding)],
        "global": layer.is_global,
        "varies": layer.varies,
        "exact": not layer.approximations,
        "share": layer.share,
        "cut": layer.is_cut,
        "leaf": layer.is_leaf,
        "range": {"smallest": list(layer.smallest), "largest": list(layer.largest)},
        "approximations": list(layer.approximations),
    }
    if position is not None:
        seen = layer.seen.at(*position) if has_position(layer, position) else None
        content |= {
            "position": list(position) if has_position(layer, position) else None,
            "rows": list(seen[0]) if seen else None,
            "columns": list(seen[1]) if seen else None,
        }
    return content


def _whole(number: float) -> float:
    """An integer where it is one."""
    return int(number) if number == int(number) else number
