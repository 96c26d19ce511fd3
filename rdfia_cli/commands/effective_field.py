"""The part of `rdfia receptive-field` that looks at images: `--effective` and `--plot`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import console

if TYPE_CHECKING:
    from torch import nn

    from rdfia_cli.analysis.effective import Effective, Spread
    from rdfia_cli.analysis.layers import Layer
    from rdfia_cli.analysis.subject import Request, Subject
    from rdfia_cli.report.receptive_field import Box, Heat
    from rdfia_cli.training.inspection import Sample

MOST_BOXES = 6
"""Boxes on one image: as many as there are colours for."""

MOST_LAYERS = 4
"""Layers whose gradients are measured: each costs many backward passes."""


@dataclass(frozen=True)
class Chosen:
    """The layers of a model.

    Attributes:
        every: all of them.
        named: those that were asked for; all where none was.
    """

    every: Sequence[Layer]
    named: Sequence[Layer]

    @property
    def is_narrowed(self) -> bool:
        """Whether some were asked for."""
        return len(self.named) < len(self.every)

    def deepest(self) -> list[Layer]:
        """The layers that were asked for, else the last one with a field of finite size."""
        if self.is_narrowed:
            return list(self.named[:MOST_LAYERS])
        leaves = [layer for layer in self.every if layer.is_leaf]
        finite = [layer for layer in leaves if not layer.is_global and not layer.varies]
        return (finite or leaves)[-1:]

    def boxes(self) -> list[Layer]:
        """What is drawn: the layers that were asked for, else the last of each resolution."""
        if self.is_narrowed:
            return list(self.named[:MOST_BOXES])
        last = {
            layer.positions: layer
            for layer in self.every
            if layer.is_leaf and layer.positions and not layer.is_global and not layer.varies
        }
        return list(last.values())[-MOST_BOXES:]


@dataclass(frozen=True)
class Material:
    """What is looked at.

    Attributes:
        models: by what is known about their weights: untrained, trained, pretrained.
        sample: the images.
    """

    models: Mapping[str, nn.Module]
    sample: Sample


@dataclass(frozen=True)
class Measured:
    """The effective field of one layer under some weights."""

    layer: Layer
    weights: str
    field: Effective


def add_pictures(
    asked: Request,
    subject: Subject,
    layers: Chosen,
    content: dict[str, Any],
    flags: Mapping[str, Any],
) -> None:
    """Measure the effective fields and draw what the flags ask for; say so in the object."""
    for text in _left_out(layers, flags):
        console.warn(text)
    material = _gather(asked, subject, flags)
    measured: list[Measured] = []
    if flags["effective"]:
        measured = list(_measure(material, layers.deepest()))
        content["effective"] = [_describe(each) for each in measured]
        content["data"] = material.sample.data
    if flags["plot"]:
        _draw(subject, layers, material, measured, Path(flags["plot"]))
        content["plot"] = flags["plot"]
        console.say(f"drawn: {flags['plot']}")
    if measured and not flags["json"]:
        print_spreads(content)


def _left_out(layers: Chosen, flags: Mapping[str, Any]) -> Iterator[str]:
    """What was asked for and is too much, a line each."""
    asked = len(layers.named)
    if flags["effective"] and layers.is_narrowed and asked > MOST_LAYERS:
        yield f"gradients are measured for the first {MOST_LAYERS} of {asked} layers asked for"
    if flags["plot"] and layers.is_narrowed and asked > MOST_BOXES:
        yield f"'{flags['plot']}' outlines the first {MOST_BOXES} of {asked} layers asked for"


def _gather(asked: Request, subject: Subject, flags: Mapping[str, Any]) -> Material:
    from rdfia_cli.analysis.realised import realise
    from rdfia_cli.commands.progress import display, watch
    from rdfia_cli.config import resolve_component
    from rdfia_cli.insight import before_and_after
    from rdfia_cli.training.inspection import sample_images

    data = flags["data"] and resolve_component("data", flags["data"], "--data")
    with display(quiet=flags["quiet"]) as show:
        if asked.folder is not None:
            found = watch(before_and_after(asked.folder, data, flags["images"]), show)
            for text in found.warnings:
                console.warn(text)
            return Material({"untrained": found.untrained, "trained": found.trained}, found.sample)
        data = data or resolve_component("data", "digits", "--data")
        sample = watch(sample_images(data, subject.input.shape, flags["images"]), show)
    is_trained = bool({"pretrained", "weights"} & set(asked.chosen.parameters))
    weights = "pretrained" if is_trained else "untrained"
    return Material({weights: realise(asked, subject.input)}, sample)


def _measure(material: Material, layers: Sequence[Layer]) -> Iterator[Measured]:
    from rdfia_cli.analysis.effective import effective_field

    for layer in layers:
        for weights, model in material.models.items():
            field = effective_field(model, material.sample.fed, layer)
            yield Measured(layer, weights, field)


def _describe(measured: Measured) -> dict[str, Any]:
    layer, field = measured.layer, measured.field
    return {
        "name": layer.name,
        "weights": measured.weights,
        "theoretical": [layer.rows.size, layer.columns.size],
        "images": field.images,
        "units": field.units,
        "absolute": [_describe_spread(spread) for spread in field.absolute_spread],
        "signed": [_describe_spread(spread) for spread in field.signed_spread],
    }


def _describe_spread(spread: Spread) -> dict[str, float]:
    return {"share": spread.share, "side": spread.side, "error": spread.error}


def print_spreads(content: Mapping[str, Any]) -> None:
    """Print the sides of the boxes that hold each share of the gradient."""
    shares = [spread["share"] for spread in content["effective"][0]["absolute"]]
    console.print_table(
        ("layer", "weights", "gradient", *(f"{share:.0%}" for share in shares), "theory"),
        [
            (
                entry["name"],
                entry["weights"],
                kind,
                *(f"{each['side']:.1f} ± {each['error']:.1f}" for each in entry[kind]),
                "x".join(map(str, entry["theoretical"])),
            )
            for entry in content["effective"]
            for kind in ("absolute", "signed")
        ],
        title=f"side of the box that holds a share of the gradient, in pixels, "
        f"over {content['effective'][0]['images']} images of {content['data']}",
    )


def _draw(
    subject: Subject,
    layers: Chosen,
    material: Material,
    measured: Sequence[Measured],
    path: Path,
) -> None:
    from rdfia_cli.report.receptive_field import Depth, Picture, draw_fields

    shape = "x".join(map(str, subject.input.shape))
    picture = Picture(
        title=f"{subject.label} on {shape}",
        image=material.sample.pictures[0].numpy()[: 3 if subject.input.shape[0] > 2 else 1],
        boxes=[_box(layer) for layer in layers.boxes()],
        growth=[
            Depth(x.name, max(x.rows.size, x.columns.size), x.is_global)
            for x in layers.every
            if x.is_leaf and x.rows.size and not x.is_cut
        ],
        heats=[_heat(each) for each in measured],
    )
    draw_fields(picture, path)


def _box(layer: Layer) -> Box:
    """The field of the middle position, with the padding that it reaches into."""
    from rdfia_cli.report.receptive_field import Box

    seen = layer.seen.at(*layer.centre) or ((0, 0), (0, 0))
    ends = [
        (place * axis.stride - axis.padding, place * axis.stride - axis.padding + axis.size - 1)
        if axis.holds and not layer.is_global
        else (float(clipped[0]), float(clipped[1]))
        for place, axis, clipped in zip(
            layer.centre, (layer.rows, layer.columns), seen, strict=True
        )
    ]
    size = f"{layer.rows.size}x{layer.columns.size}"
    return Box(f"{layer.name}  {size}", ends[0], ends[1])


def _heat(measured: Measured) -> Heat:
    from rdfia_cli.report.receptive_field import Heat

    mass = measured.field.absolute.numpy()
    half = next(s.side for s in measured.field.absolute_spread if s.share == 0.5)
    title = f"{measured.layer.name}, {measured.weights}\nhalf of the mass in {half:.1f} px"
    return Heat(title, mass, _box(measured.layer))
