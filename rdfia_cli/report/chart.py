"""Charts as a page draws them: numbers in, places on a unit square out.

Lines are SVG that stretches with the page while all text is HTML around it, so that a chart is
sharp and readable at any width, without a script, and on paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

SIZE = 1000
"""The side of the square that places are told in."""
COLOURS = 7
"""How many colours the style sheet has; more curves repeat them."""
MOST_PLACES = 20_000
"""Places of all lines of a chart: about a megabyte of a page."""
FEWEST_OF_LINE = 60
"""Places that a line has in any case, were there ever so many lines."""

Scale = Literal["linear", "log", "category", "bare"]
Form = Literal["number", "percent", "integer"]


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: what it shows, with its unit.
        scale: how values are laid out; of a category, values are indices into `names`; a bare
            one goes from 0 to 1 and bears no numbers.
        form: how its values are written.
        low, high: the ends; None for those of the values.
        names: the names of the categories.
        marks: the values that are written; none for round ones.
    """

    label: str
    scale: Scale = "linear"
    form: Form = "number"
    low: float | None = None
    high: float | None = None
    names: Sequence[str] = ()
    marks: Sequence[float] = ()


@dataclass(frozen=True)
class Series:
    """Values to draw.

    Attributes:
        name: what a reader calls it.
        x, y: the places, in the order of the line.
        mark: a line, dots, or bars that stand on the lower end.
        colour: from 0, of the style sheet; None for one by `shares`, or a neutral one.
        dash: from 0: solid, dashed, dotted.
        switches: the names in the legend that must all be on for it to be seen.
        texts: what a reader is told instead of its value, at each place or, of one text, at
            all; of several lines the first is a heading.
        shares: of each place, of a line its first: from the worst to the best, in [0, 1].
        width: of a bar, in units of x.
        strong: whether it stands out.
        quiet: whether it lies behind the others and says nothing when it is pointed at.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    mark: Literal["line", "dots", "bars"] = "line"
    colour: int | None = 0
    dash: int = 0
    switches: Sequence[str] = ()
    texts: Sequence[str] = ()
    shares: Sequence[float] = ()
    width: float = 0.0
    strong: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: what stands above it.
        x, y: its axes.
        series: what is drawn, the last one in front.
        picture: a picture behind it as a data URI, or empty.
        square: both axes have the same unit.
        single: whether a reader is told of one line at a time, the nearest.
        about: what a reader who sees nothing of it is told.
    """

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    picture: str = ""
    square: bool = False
    single: bool = False
    about: str = ""


@dataclass(frozen=True)
class Switch:
    """An entry of a legend that shows or hides what bears its name.

    Attributes:
        name: what it is called.
        colour, dash: how it is drawn; None where the others decide.
        on: whether it is on at first.
        quiet: whether what it shows lies behind the rest.
    """

    name: str
    colour: int | None
    dash: int | None = 0
    on: bool = True
    quiet: bool = False


@dataclass(frozen=True)
class Group:
    """Charts side by side that share a legend.

    Attributes:
        charts: from left to right.
        switches: the entries of the legend.
        flat: whether they are only as high as a glance needs.
    """

    charts: Sequence[Chart]
    switches: Sequence[Switch] = field(default_factory=tuple[Switch, ...])
    flat: bool = False


@dataclass(frozen=True)
class Ticks:
    """An axis laid out: its ends, and where which text stands, in percent."""

    low: float
    high: float
    texts: Sequence[tuple[float, str]]


def lay_out(chart: Chart) -> Mapping[str, Any]:
    """What the template draws: ticks, paths, and what the script reads out.

    Values that are not finite have no place and leave a gap. Lines of very many values are thinned.
    """
    chart = _thinned(chart)
    x = _ticks(chart.x, [value for series in chart.series for value in _reach(series)])
    y = _ticks(chart.y, [value for series in chart.series for value in series.y])
    return {
        "chart": chart,
        "x": x.texts,
        "y": y.texts,
        "widest": max((text for _, text in y.texts), key=len, default=""),
        "cut": _cut(chart),
        "drawn": [_draw(series, chart, x, y) for series in chart.series],
        "read": {
            "single": chart.single,
            "x": {
                "form": chart.x.form,
                "label": chart.x.label,
                "names": list(chart.x.names),
                "ends": [x.low, x.high] if chart.x.scale == "linear" else None,
            },
            "y": {"form": chart.y.form},
            "series": [_read(series, chart, x, y) for series in chart.series if not series.quiet],
        },
    }


def _cut(chart: Chart) -> str:
    """The end of the upright axis as text, where values lie above it; else empty."""
    high = chart.y.high
    values = [value for series in chart.series for value in series.y if math.isfinite(value)]
    return "" if high is None or max(values, default=high) <= high else f"{high:.3g}"


def _thinned(chart: Chart) -> Chart:
    """The same chart, its lines of no more places than a page can bear."""
    lines = sum(series.mark == "line" for series in chart.series)
    most = max(MOST_PLACES // max(lines, 1), FEWEST_OF_LINE)
    return replace(chart, series=[_thin(series, most) for series in chart.series])


def _thin(series: Series, most: int) -> Series:
    """The ends of a line, and of each stretch its lowest, its highest and a gap: no spike is lost.

    Places are left out rather than averaged, since a reader is told the value at each.
    """
    count = len(series.x)
    if series.mark != "line" or count <= most:
        return series
    size = math.ceil(2 * count / most)
    kept = {0, count - 1}
    for start in range(0, count, size):
        stretch = range(start, min(start + size, count))
        finite = [index for index in stretch if math.isfinite(series.y[index])]
        if finite:
            kept |= {min(finite, key=series.y.__getitem__), max(finite, key=series.y.__getitem__)}
        kept |= {*[index for index in stretch if not math.isfinite(series.y[index])][:1]}
    order = sorted(kept)
    texts = series.texts if len(series.texts) <= 1 else [series.texts[index] for index in order]
    return replace(
        series,
        x=[series.x[index] for index in order],
        y=[series.y[index] for index in order],
        texts=texts,
    )


def _reach(series: Series) -> Sequence[float]:
    if series.mark != "bars":
        return series.x
    half = series.width / 2
    return [value + side for value in series.x for side in (-half, half)]


def _ticks(axis: Axis, values: Sequence[float]) -> Ticks:
    if axis.scale == "category":
        count = len(axis.names)
        places = [(100 * (index + 0.5) / count, name) for index, name in enumerate(axis.names)]
        return Ticks(-0.5, count - 0.5, places)
    if axis.scale == "bare":
        return Ticks(0.0, 1.0, ())
    finite = [v for v in values if math.isfinite(v) and (axis.scale == "linear" or v > 0)]
    low, high = _ends(axis, finite)
    usual = log_marks(low, high) if axis.scale == "log" else marks_between(low, high, axis.form)
    marks = [mark for mark in axis.marks if low <= mark <= high] or usual
    texts = [(_place(axis, low, high, mark) / SIZE * 100, write(mark, axis.form)) for mark in marks]
    return Ticks(low, high, texts)


def _ends(axis: Axis, values: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis: those asked for, else those of the values with a little air."""
    if axis.scale == "log":
        low, high = min(values, default=1.0), max(values, default=10.0)
        air = (high / low) ** 0.05 if high > low else 2.0
        return low / air, high * air
    low, high = min(values, default=0.0), max(values, default=1.0)
    air = 0.04 * (high - low) or 0.5 * abs(high) or 1.0
    if axis.form == "percent":
        return (
            max(0.0, low - air) if axis.low is None else axis.low,
            min(1.0, high + air) if axis.high is None else axis.high,
        )
    return (
        low - air if axis.low is None else axis.low,
        high + air if axis.high is None else axis.high,
    )


def marks_between(low: float, high: float, form: Form = "number", most: int = 6) -> list[float]:
    """Round numbers between two ends: steps of 1, 2 or 5 times a power of ten (Heckbert 1990)."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    if form == "integer":
        step = max(1.0, step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def log_marks(low: float, high: float) -> list[float]:
    """Powers of ten between two ends above 0; 2 and 5 times them too where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    found = [factor * 10.0**power for power in powers for factor in factors]
    return [round(v, 12) if v >= 1e-6 else v for v in found if low <= v <= high] or [low, high]


def write(value: float, form: Form) -> str:
    """A number as an axis bears it."""
    value += 0.0  # there is no -0
    if form == "percent":
        return f"{round(100 * value, 6):g}%"
    if form == "integer" or (value == round(value) and abs(value) >= 1000):
        return f"{round(value):,}"
    if value and abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.3g}".partition("e")
        if exponent:
            raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
            return f"10{raised}" if mantissa == "1" else f"{mantissa}·10{raised}"
    return f"{value:.6g}"


def _place(axis: Axis, low: float, high: float, value: float) -> float:
    """Where a value lies, 0 at the low end and SIZE at the high one."""
    if axis.scale == "log":
        if value <= 0:
            return math.nan
        low, high, value = math.log(low), math.log(high), math.log(value)
    return SIZE * (value - low) / (high - low) if high > low else SIZE / 2


def _places(series: Series, chart: Chart, x: Ticks, y: Ticks) -> list[tuple[float, float]]:
    """Across from the left and down from the top, one decimal; NaN where there is no place."""
    return [
        (
            round(_place(chart.x, x.low, x.high, across), 1),
            round(SIZE - _place(chart.y, y.low, y.high, up), 1),
        )
        for across, up in zip(series.x, series.y, strict=True)
    ]


def _draw(series: Series, chart: Chart, x: Ticks, y: Ticks) -> Mapping[str, Any]:
    places = _places(series, chart, x, y)
    if series.mark == "bars":
        half = SIZE * series.width / (x.high - x.low) / 2
        return {
            "series": series,
            "path": " ".join(_bar(across, top, half) for across, top in places),
        }
    if series.mark == "dots" or len(places) == 1:
        shown = [(place, share) for place, share in zip(places, _shares(series), strict=True)]
        dots = [
            (f"M{across:g} {down:g}h0", share)
            for (across, down), share in shown
            if _seen(across, down)
        ]
        return {"series": series, "dots": dots}
    share = series.shares[0] if series.shares else None
    return {"series": series, "path": _line(places), "share": share}


def _shares(series: Series) -> Sequence[float | None]:
    return series.shares or [None] * len(series.x)


def _seen(across: float, down: float) -> bool:
    return math.isfinite(across) and math.isfinite(down)


def _line(places: Sequence[tuple[float, float]]) -> str:
    parts: list[str] = []
    pen = "M"
    for across, down in places:
        if _seen(across, down):
            parts.append(f"{pen}{across:g} {down:g}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def _bar(across: float, top: float, half: float) -> str:
    if not _seen(across, top):
        return ""
    gap = 0.12 * half
    return f"M{across - half + gap:.1f} {SIZE}V{top:g}H{across + half - gap:.1f}V{SIZE}Z"


def _read(series: Series, chart: Chart, x: Ticks, y: Ticks) -> Mapping[str, Any]:
    """What the script needs of a series: where its values lie, and what it says of them."""
    places = [
        (index, place) for index, place in enumerate(_places(series, chart, x, y)) if _seen(*place)
    ]
    return {
        "name": series.name,
        "mark": series.mark,
        "colour": series.colour,
        "switches": list(series.switches),
        "places": [place for _, place in places],
        "x": [series.x[index] for index, _ in places],
        "y": [series.y[index] for index, _ in places],
        "texts": _texts(series, [index for index, _ in places]),
    }


def _texts(series: Series, kept: Sequence[int]) -> list[str]:
    if len(series.texts) <= 1:
        return [*series.texts]
    return [series.texts[index] for index in kept]
