"""What every picture has in common: where it may go, and the same bytes for the same content."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rdfia_cli import durable
from rdfia_cli.errors import UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

PICTURES = (".png", ".svg")
DOTS_PER_INCH = 150
FEW_DECADES = 2
"""Below so many, an axis by logarithms has labels between the powers of ten."""


def picture_path(text: str) -> Path:
    """The file that a user wants a picture in.

    Raises:
        UsageError: it is of another kind, or its folder is missing or only to be read.
    """
    path = Path(text)
    if path.suffix not in PICTURES or not path.parent.is_dir():
        raise UsageError(
            f"cannot draw '{path}'", "give a .png or .svg file in a folder that exists"
        )
    if not os.access(path.parent, os.W_OK):
        raise UsageError(
            f"cannot draw '{path}': you may not write to '{path.parent}'",
            "give a file in a folder that you may write to",
        )
    return path


def styled(font_size: float) -> AbstractContextManager[None]:
    """Draw within this: text of that size in points, and the same ids in an SVG each time."""
    from matplotlib import rc_context

    return rc_context({"svg.hashsalt": "rdfia", "font.size": font_size})


def drawable(text: str) -> str:
    r"""A text in which what the font cannot draw stands as its code, such as `\u732b`."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return "".join(
        letter
        if letter == "\n" or font.get_char_index(ord(letter))
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def text_width(text: str, size: float) -> float:
    """How wide the longest line of a text is in the usual font, both in points."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    fineness = 10  # letters at 72 dots an inch are whole dots wide
    font.set_size(size, 72 * fineness)
    widths = [0.0]
    for line in text.splitlines():
        font.set_text(line, 0)
        widths.append(font.get_width_height()[0] / 64 / fineness)
    return max(widths)


def margins(width: float, height: float) -> dict[str, float]:
    """Room for the labels around panels of curves in a row, sizes of the figure in inches.

    Measuring the labels instead takes longer than drawing the curves.
    """
    return {
        "left": 0.65 / width,
        "right": 1 - 0.1 / width,
        "bottom": 0.52 / height,
        "top": 1 - 0.12 / height,
        "wspace": 0.18,
    }


def label_decades(axis: Axis) -> None:
    """Label an axis, whose limits are set, by logarithms: 0.01 rather than a power of ten.

    The powers would be set as formulas, which takes longer than all else in a picture.
    """
    from math import floor, log10

    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = axis.get_view_interval()
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
    if floor(log10(high)) - floor(log10(low)) < FEW_DECADES:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure into a .png or .svg file, whole or not at all, and without a date."""
    picture = io.BytesIO()
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(picture, format=path.suffix[1:], dpi=DOTS_PER_INCH, metadata=metadata)
    durable.write_file(path, picture.getvalue())
