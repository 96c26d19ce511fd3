"""One image file into pixels by a stated rule, or the reason why it cannot be.

Nothing here trusts a file. Its type and length are looked at before it is opened, and the size that
its header claims before anything is decoded.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 2
"""Raised when the same file would come out as other pixels: older stores are then not used."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Not among them: those that are read by running a program, such as EPS."""
ENDINGS = frozenset(
    (
        *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm"),
        *(".ppm", ".tif", ".tiff", ".webp"),
    )
)
LARGEST_FILE = 2**30
"""Bytes; at Pillow's limit of 89 million pixels, an image without compression takes 0.7 GB."""
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image upright, by the orientation that its EXIF gives (EXIF 2.3, 4.6.4)."""

Resize = Literal["shorter", "squash", "pad"]
Mode = Literal["colour", "grey"]


class UnreadableError(Exception):
    """A file has no pixels to give; the message is the reason in a few words."""


@dataclass(frozen=True)
class Rule:
    """How an image comes to its pixels.

    Attributes:
        size: height and width, or None to leave them.
        resize: what becomes of an image that is not square.
        mode: three channels or one.
    """

    size: int | None
    resize: Resize
    mode: Mode

    @property
    def channels(self) -> int:
        """The channels of an image."""
        return 3 if self.mode == "colour" else 1


def read(path: str) -> bytes:
    """The bytes of a regular file; a pipe or a device is never waited for.

    Raises:
        UnreadableError: there is no such file, or it may not be read.
    """
    try:
        _refuse_special(look_at(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            _refuse_special(os.fstat(descriptor))
            return file.readall()
    except OSError as error:
        is_broken = isinstance(error, FileNotFoundError) and Path(path).is_symlink()
        reason = "broken link" if is_broken else (error.strerror or "unreadable").lower()
        raise UnreadableError(reason) from None


def look_at(path: str) -> os.stat_result:
    """A file's `stat`: making a `Path` of each of a million files takes longer than that."""
    return os.stat(path)  # noqa: PTH116


def _refuse_special(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise UnreadableError("a folder")
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableError("not a regular file")
    if found.st_size > LARGEST_FILE:
        raise UnreadableError(f"{found.st_size / 1e9:.1f} GB, too large for an image")


def digest(path: str) -> str:
    """The SHA-256 of a file's bytes, empty where it cannot be read."""
    try:
        return hashlib.sha256(read(path)).hexdigest()
    except UnreadableError:
        return ""


def decode(content: bytes, rule: Rule) -> NDArray[np.uint8]:
    """The pixels (H, W, C) of a file's bytes; of an animation, those of the first frame.

    Raises:
        UnreadableError: they are no whole image, or one that takes too much memory.
    """
    if not content:
        raise UnreadableError("empty")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.format == "TIFF" and image.mode == "I":
                raise UnreadableError("32-bit or signed pixels, whose white is unknown")
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or 0):
                raise UnreadableError(f"decompression bomb of {image.width}x{image.height} pixels")
            image.load()
            brought = _resize(_convert(_turn_upright(image), rule), rule)
            return np.asarray(brought).reshape(brought.height, brought.width, rule.channels)
    except UnreadableError:
        raise
    except Exception as error:  # on damaged files Pillow raises whatever comes
        raise UnreadableError(_reason(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "decompression bomb"
    if isinstance(error, MemoryError):
        return "more than the memory holds"
    message = (str(error) or type(error).__name__).splitlines()[0][:80]
    return "truncated" if "truncated" in message.lower() else f"damaged: {message}"


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # EXIF that cannot be read says nothing about the pixels
        turn = None
    return image if turn is None else image.transpose(turn)


def _convert(image: Image.Image, rule: Rule) -> Image.Image:
    """Bring any kind of pixels to 8 bits of colour or grey."""
    if image.mode == "F":
        raise UnreadableError("floating-point pixels, whose white is unknown")
    if image.mode.startswith("I"):
        image = _upper_bits(image)
    elif image.has_transparency_data:
        drawn = image.convert("RGBA")
        # As on a page: what is drawn on nothing is mostly dark.
        image = Image.new("RGBA", drawn.size, "white")
        image.alpha_composite(drawn)
    wanted = "RGB" if rule.mode == "colour" else "L"
    return image if image.mode == wanted else image.convert(wanted)


def _upper_bits(image: Image.Image) -> Image.Image:
    """The upper 8 of 16 bits, which Pillow itself takes of colour, but for grey it would clip."""
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _resize(image: Image.Image, rule: Rule) -> Image.Image:
    """Bring an image to its size; where it shrinks, every pixel counts (antialiased bilinear)."""
    size = rule.size
    if size is None:
        return image
    if rule.resize == "pad":
        return _pad(image, size)
    width, height = image.size
    left = top = 0.0
    if rule.resize == "shorter":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, width - left, height - top)
    return image.resize((size, size), Image.Resampling.BILINEAR, box)


def _pad(image: Image.Image, size: int) -> Image.Image:
    scale = size / max(image.size)
    width, height = (max(1, round(scale * side)) for side in image.size)
    padded = Image.new(image.mode, (size, size))
    shrunk = image.resize((width, height), Image.Resampling.BILINEAR)
    padded.paste(shrunk, ((size - width) // 2, (size - height) // 2))
    return padded
