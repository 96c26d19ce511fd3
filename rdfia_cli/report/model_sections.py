"""The sections of one run's page that its model tells: numbers and arrays in, sections out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rdfia_cli.report import page
from rdfia_cli.report.chart import Axis, Chart, Group, Series
from rdfia_cli.report.page import Cell, Section, Table, Tile

if TYPE_CHECKING:
    import numpy as np
    from markupsafe import Markup
    from numpy.typing import NDArray

    from rdfia_cli.report.attention import AttentionPicture

MOST_WITH_NUMBERS = 20
"""Classes up to which a confusion matrix is a table; beyond, it is a picture."""
MOST_FILTERS = 96
MOST_PAIRS = 10
MOST_HEADS = 8
SMOOTH_FROM = 48
"""Pixels of a side from which on an image is a photograph rather than a grid of dots."""


@dataclass(frozen=True)
class Wrong:
    """A wrongly classified example.

    Attributes:
        image: (C, H, W) float32 in [0, 1].
        example: where it stands in its split.
        truth, guess: the names of its class and of the one that it was taken for.
        confidence: the probability that the model gave to that.
    """

    image: NDArray[np.float32]
    example: int
    truth: str
    guess: str
    confidence: float


@dataclass(frozen=True)
class Bin:
    """Examples of about one confidence: how many, how many of them right, the mean confidence."""

    low: float
    high: float
    examples: int
    right: int
    confidence: float


@dataclass(frozen=True)
class Findings:
    """What was found in a trained model.

    Attributes:
        result: the object `rdfia.result/1` of an evaluation, with classes and confusion.
        bins: its accuracy by confidence.
        wrong: the mistakes of highest confidence; None where the inputs are no images.
        mistakes: how many mistakes there are in all.
        filters: the first layer's weights (N, C, h, w), or None.
        filter_name: the name of that parameter.
        attention: None where the model shows none.
        parameters: the object `rdfia.parameters/1`, or None.
        fields: the object `rdfia.receptive-field/1`, or None.
    """

    result: Mapping[str, Any]
    bins: Sequence[Bin]
    wrong: Sequence[Wrong] | None
    mistakes: int
    filters: NDArray[np.float32] | None
    filter_name: str
    attention: AttentionPicture | None
    parameters: Mapping[str, Any] | None
    fields: Mapping[str, Any] | None


def model_sections(found: Findings) -> list[Section]:
    """Every section that there is something for."""
    return [
        confusion(found.result),
        calibration(found),
        *([mistakes(found)] if found.wrong is not None else []),
        *([filters(found.filters, found.filter_name)] if found.filters is not None else []),
        *([attention(found.attention)] if found.attention is not None else []),
        *([layers(found.parameters, found.fields)] if found.parameters is not None else []),
    ]


def confusion(result: Mapping[str, Any]) -> Section:
    """What is taken for what, the commonest mistakes, and the accuracy of each class."""
    import numpy as np

    from rdfia_cli.report.pictures import share_uri

    names = [entry["name"] for entry in result["classes"]]
    counts = np.array(result["confusion"])
    if len(names) <= MOST_WITH_NUMBERS:
        matrix = page.confusion(names, result["confusion"])
    else:
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        about = (
            f"{len(names)} classes: true class by row from the top, predicted class by column from "
            "the left, both in the order of the table below"
        )
        matrix = page.picture(share_uri(shares), about)
    bodies = [matrix]
    pairs = _pairs(names, counts)
    if pairs:
        heading = ["true", "taken for", "how often", "of the class"]
        rows = Table(heading, pairs, numbers=frozenset({2, 3}))
        # Where the matrix is a picture, these are what one reads.
        mistakes = page.table(rows, title="Commonest mistakes")
        opened = len(names) > MOST_WITH_NUMBERS
        bodies.append(page.fold("Commonest mistakes", mistakes, opened=opened))
    bodies.append(page.fold("Each class", page.table(_classes(result, counts), title="Each class")))
    lead = (
        f"{result['examples']:,} examples of the {result['split']} split, true class by row; the "
        "shade is the share of the row, blue where it is right. Shades of mistakes are "
        "exaggerated."
    )
    return Section("confusion", "Confusion", page.join(*bodies), lead)


def _pairs(names: Sequence[str], counts: NDArray[np.int64]) -> list[list[str]]:
    import numpy as np

    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    places = [divmod(int(place), len(names)) for place in order]
    return [
        [names[r], names[c], str(wrong[r, c]), f"{100 * wrong[r, c] / counts[r].sum():.1f}%"]
        for r, c in places
        if wrong[r, c]
    ]


def _classes(result: Mapping[str, Any], counts: NDArray[np.int64]) -> Table:
    """Each class, how much of it is found, and how many others are taken for it."""
    taken = [int(column) for column in counts.sum(0) - counts.diagonal()]
    rows: list[list[Cell | str]] = []
    for entry, others in zip(result["classes"], taken, strict=True):
        accuracy: float = entry["accuracy"]
        known = not math.isnan(accuracy)
        rows.append(
            [
                Cell(entry["name"]),
                Cell(f"{entry['examples']:,}", order=entry["examples"]),
                Cell(f"{100 * accuracy:.2f}%", order=accuracy, share=accuracy)
                if known
                else Cell("none"),
                Cell(f"{others:,}", order=others),
            ]
        )
    heading = ["class", "examples", "accuracy", "others taken for it"]
    return Table(heading, rows, numbers=frozenset({1, 2, 3}), sortable=True)


def calibration(found: Findings) -> Section:
    """Whether the model is right as often as it says."""
    filled = [b for b in found.bins if b.examples]
    width = found.bins[0].high - found.bins[0].low
    middles = [(b.low + b.high) / 2 for b in filled]
    accuracies = [b.right / b.examples for b in filled]
    texts = [
        f"{100 * b.right / b.examples:.1f}% right of {b.examples:,}, "
        f"sure to {100 * b.confidence:.1f}%"
        for b in filled
    ]
    share = Axis("confidence", form="percent", low=0.0, high=1.0)
    diagram = Chart(
        "Accuracy by confidence",
        share,
        Axis("share that is right", form="percent", low=0.0, high=1.0),
        [
            Series("accuracy", middles, accuracies, "bars", 0, texts=texts, width=width),
            Series("as sure as right", [0, 1], [0, 1], colour=None, dash=1, quiet=True),
        ],
    )
    counts = [b.examples for b in filled]
    wrong = [b.examples - b.right for b in filled]
    histogram = Chart(
        "Examples by confidence",
        share,
        Axis("examples, the wrong ones in orange", form="integer", low=0.0),
        [
            Series("all", middles, counts, "bars", 5, width=width),
            Series("wrong", middles, wrong, "bars", 1, width=width),
        ],
    )
    body = page.charts(Group([diagram, histogram]))
    lead = (
        f"The expected calibration error is {found.result['calibration_error']:.4f}: the mean gap "
        "between how sure the model is and how often it is right (15 bins). Bars below the dashed "
        "line are overconfident."
    )
    return Section("calibration", "Calibration", body, lead)


def mistakes(found: Findings) -> Section:
    """The images that the model was wrong about and most sure of."""
    from rdfia_cli.report.pictures import image_uri

    wrong = list(found.wrong or [])
    shown = [
        Tile(
            image_uri(one.image),
            [f"{one.truth}, not {one.guess}", f"{100 * one.confidence:.1f}%, no. {one.example:,}"],
            f"example {one.example}: {one.truth} taken for {one.guess}",
        )
        for one in wrong
    ]
    if not shown:
        return Section("mistakes", "Mistakes", page.prose("There is none."))
    smooth = max(wrong[0].image.shape[1:]) >= SMOOTH_FROM
    of = f"The {len(shown)} surest of {found.mistakes:,}" if found.mistakes > len(shown) else "All"
    lead = f"{of} mistakes: what it is, what it was taken for, how sure, and the example's number."
    body = page.tiles(shown, size="medium", smooth=smooth)
    return Section("mistakes", "Most confident mistakes", body, lead)


def filters(weights: NDArray[np.float32], name: str) -> Section:
    """What the first layer looks for."""
    from rdfia_cli.report.pictures import filter_uri

    count, channels, height, width = weights.shape
    shown = [
        Tile(filter_uri(weight), (), f"filter {index}")
        for index, weight in enumerate(weights[:MOST_FILTERS])
    ]
    part = f"the first {len(shown)} of {count}" if count > len(shown) else f"all {count}"
    colours = (
        "as colours, grey is 0" if channels == 3 else "vermilion above 0, blue below, blank at 0"
    )
    mean = "; the mean over channels" if channels not in (1, 3) else ""
    lead = (
        f"{part[0].upper()}{part[1:]} of {name}, {channels}x{height}x{width} each, {colours}"
        f"{mean}. Each is scaled to its own largest weight."
    )
    return Section("filters", "First layer", page.tiles(shown, size="small"), lead)


def attention(content: AttentionPicture) -> Section:
    """Where a Vision Transformer looks, and how alike its positions are."""
    import numpy as np

    from rdfia_cli.report.pictures import heat_uri, image_uri

    heads = min(content.heads.shape[1], MOST_HEADS)
    bodies: list[Markup] = []
    for image, caption, seen, rollout in zip(
        content.images, content.captions, content.heads, content.rollout, strict=True
    ):
        uri = image_uri(image)
        maps = [("all blocks", rollout), *((f"head {i + 1}", seen[i]) for i in range(heads))]
        shown = [Tile("", [caption], caption)]
        for name, one in maps:
            heat = heat_uri((one - one.min()) / (float(np.ptp(one)) or 1.0))
            shown.append(Tile("", [name], f"{caption}: {name}", over=heat))
        smooth = max(image.shape[1:]) >= SMOOTH_FROM
        bodies.append(page.tiles(shown, smooth=smooth, shared=uri))
    if content.positions is not None:
        bodies += [page.heading("Positions"), _positions(content.positions)]
    of = content.heads.shape[1]
    first = f"the first {heads} of {of} heads" if of > heads else f"each of {of} heads"
    lead = (
        f"The more orange a patch, the more the head of the network reads it: through all blocks "
        f"(attention rollout), and by {first} of the last block. Each map goes from its own "
        "smallest to its largest value."
    )
    return Section("attention", "Attention", page.join(*bodies), lead)


def _positions(positions: NDArray[np.float32]) -> Markup:
    from rdfia_cli.report.attention import lay_out_positions
    from rdfia_cli.report.pictures import signed_uri

    about = "cosine similarity of the position embeddings of the patches"
    return page.join(
        page.prose(
            "The small map at a patch's place shows the cosine similarity of its position to every "
            "other's: vermilion alike, blue opposite, blank unrelated."
        ),
        page.picture(signed_uri(lay_out_positions(positions)), about),
    )


def layers(parameters: Mapping[str, Any], fields: Mapping[str, Any] | None) -> Section:
    """What each layer has, computes and sees."""
    seen = {layer["name"]: layer for layer in (fields or {}).get("layers", ()) if layer["leaf"]}
    total, macs = parameters["parameters"], parameters["macs"]
    heading = ["layer", "type", "output", "parameters", "share", "MACs", "share"]
    rows: list[list[Cell | str]] = []
    for layer in parameters["layers"]:
        if not (layer["parameters"] or layer["macs"] or layer["name"] in seen):
            continue
        field = seen.get(layer["name"])
        rows.append(
            [
                Cell(layer["name"] or "(itself)"),
                Cell(layer["type"]),
                Cell(_shape(layer["output"])),
                *_share(layer["parameters"], total),
                *_share(layer["macs"], macs),
                *(_field(field) if fields is not None else ()),
            ]
        )
    numbers = {3, 4, 5, 6}
    if fields is not None:
        heading += ["receptive field", "stride"]
        numbers |= {7, 8}
    content = Table(heading, rows, numbers=frozenset(numbers), code=frozenset({0}), sortable=True)
    lead = f"{total:,} parameters; one example takes {macs:,} multiply-accumulates forward."
    if fields is not None:
        lead += " The receptive field is what one output position depends on, in pixels."
    return Section("layers", "Layers", page.table(content, title="Layers"), lead)


def _shape(output: Any) -> str:
    """An output's shape without its batch axis; of several the first."""
    if not output:
        return ""
    first = output[0] if isinstance(output[0], list) else output
    return "x".join(map(str, first[1:]))


def _share(number: int, total: int) -> tuple[Cell, Cell]:
    if not number:
        return Cell("", order=0), Cell("", order=0)
    share = number / max(total, 1)
    return Cell(f"{number:,}", order=number), Cell(f"{share:.1%}", order=share, share=share)


def _field(layer: Mapping[str, Any] | None) -> tuple[Cell, Cell]:
    if layer is None:
        return Cell(""), Cell("")
    area = layer["size"][0] * layer["size"][1]
    if layer["global"]:
        return Cell("all", order=area), Cell("")
    about = "" if layer["exact"] else "at most "
    return (
        Cell(f"{about}{_square(layer['size'])}", order=area),
        Cell(_square(layer["stride"]), order=layer["stride"][0]),
    )


def _square(pair: Sequence[float]) -> str:
    return f"{pair[0]:g}" if pair[0] == pair[1] else f"{pair[0]:g}x{pair[1]:g}"
