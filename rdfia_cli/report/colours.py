"""The palette of Okabe and Ito (2008), which most colour-blind readers can tell apart."""

from __future__ import annotations

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, YELLOW, BLACK = "#E69F00", "#56B4E9", "#F0E442", "#000000"

CURVES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
"""Those for things side by side, in the order in which they are taken."""


def red_green_blue(colour: str) -> tuple[int, int, int]:
    """A colour as three bytes."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
