"""Small pictures inside a page: arrays in, PNG as data URIs out."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from rdfia_cli.report.colours import BLUE, VERMILION, red_green_blue

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

LONGEST_SIDE = 96
"""Pixels to which a larger image is brought, so that a page stays small."""
POSITIVE, NEGATIVE = red_green_blue(VERMILION), red_green_blue(BLUE)
LOOKED_AT = (255, 150, 30)
"""An orange that shows on black and on white."""


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """Pixels (H, W), (H, W, 3) or with alpha (H, W, 4) as `data:image/png;base64,...`."""
    from PIL import Image

    return png_uri(Image.fromarray(pixels))


def png_uri(image: Image) -> str:
    """A picture as `data:image/png;base64,...`."""
    content = io.BytesIO()
    image.save(content, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def image_uri(image: NDArray[np.float32]) -> str:
    """An image (C, H, W) in [0, 1], made small; but for 1 or 3 channels their mean."""
    import numpy as np
    from PIL import Image

    if len(image) not in (1, 3):
        image = image.mean(0, keepdims=True)
    pixels = np.round(image.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    if pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    longest = max(pixels.shape[:2])
    if longest > LONGEST_SIDE:
        height, width = (max(1, round(s * LONGEST_SIDE / longest)) for s in pixels.shape[:2])
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))
    return data_uri(pixels)


def heat_uri(shares: NDArray[np.float32]) -> str:
    """A map (H, W) in [0, 1] as one colour that covers more, the more there is."""
    import numpy as np

    pixels = np.empty((*shares.shape, 4), np.uint8)
    pixels[..., :3] = LOOKED_AT
    pixels[..., 3] = np.round(shares.clip(0, 1) * 220)
    return data_uri(pixels)


def signed_uri(values: NDArray[np.float32]) -> str:
    """A map (H, W) in [-1, 1]: blue below 0, nothing at 0 and at NaN, vermilion above."""
    import numpy as np

    values = np.nan_to_num(values)
    pixels = np.empty((*values.shape, 4), np.uint8)
    pixels[..., :3] = np.where((values > 0)[..., None], POSITIVE, NEGATIVE)
    pixels[..., 3] = np.round(np.abs(values).clip(0, 1) * 255)
    return data_uri(pixels)


def share_uri(shares: NDArray[np.float64]) -> str:
    """A confusion matrix (classes, classes) of shares: right ones blue, wrong ones vermilion."""
    import numpy as np

    pixels = np.empty((*shares.shape, 4), np.uint8)
    pixels[..., :3] = POSITIVE
    pixels[np.arange(len(shares)), np.arange(len(shares)), :3] = NEGATIVE
    pixels[..., 3] = np.round(np.sqrt(shares.clip(0, 1)) * 255)
    return data_uri(pixels)


def filter_uri(weights: NDArray[np.float32]) -> str:
    """A filter (C, h, w): colours where it has three channels, else the sign of their mean.

    It is scaled to its own largest weight; 0 is grey where there are colours.
    """
    import numpy as np

    largest = float(np.abs(weights).max()) or 1.0
    if len(weights) != 3:
        return signed_uri(weights.mean(0) / (float(np.abs(weights.mean(0)).max()) or 1.0))
    return image_uri(0.5 + weights / (2 * largest))
