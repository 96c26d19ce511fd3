"""A file's pixels are Pillow's own, brought to one shape by the stated rule, or it is refused."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdfia_cli.datasets.decode import Mode, Resize, Rule, UnreadableError, decode, read

COLOUR = Rule(None, "shorter", "colour")
GREY = Rule(None, "shorter", "grey")


def noise(height: int, width: int, *channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(height, width, *channels), dtype="u1")


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(pixels: np.ndarray, **options) -> bytes:
    return encoded(Image.fromarray(pixels), **options)


# Kinds of files and of pixels


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_those_of_pillow(kind: str, mode: str):
    content = encoded(Image.fromarray(noise(13, 17, 3)).convert(mode), kind)
    with Image.open(io.BytesIO(content)) as image:
        colour, grey = np.asarray(image.convert("RGB")), np.asarray(image.convert("L"))
    assert np.array_equal(decode(content, COLOUR), colour)
    assert np.array_equal(decode(content, GREY), grey[:, :, None])


@pytest.mark.parametrize("kind", ["BMP", "PNG", "PPM", "TIFF"])
def test_a_lossless_file_gives_back_what_was_put_in(kind: str):
    pixels = noise(9, 5, 3)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels), kind), COLOUR), pixels)


def test_grey_is_the_luma_of_colour():
    red, green, blue = np.moveaxis(noise(20, 20, 3).astype(float), 2, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    found = decode(png(noise(20, 20, 3)), GREY)[:, :, 0]
    assert np.abs(found - luma).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_of_grey_are_brought_to_8_and_not_clipped(kind: str):
    levels = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    content = encoded(Image.fromarray(levels), kind)
    assert np.array_equal(decode(content, GREY)[:, :, 0], levels // 256)
    assert np.array_equal(decode(content, COLOUR), np.repeat((levels // 256)[..., None], 3, 2))


def test_a_palette_becomes_its_colours():
    image = Image.fromarray(noise(11, 11, 3)).quantize(16)
    assert np.array_equal(decode(encoded(image), COLOUR), np.asarray(image.convert("RGB")))


def test_what_is_transparent_is_shown_on_white():
    pixels = noise(16, 16, 4)
    colour, alpha = pixels[..., :3].astype(float), pixels[..., 3:] / 255
    shown = alpha * colour + (1 - alpha) * 255
    assert np.abs(decode(png(pixels), COLOUR) - shown).max() <= 1
    grey = noise(16, 16, 2).astype(float)
    shown = grey[..., 0] * grey[..., 1] / 255 + 255 - grey[..., 1]
    content = encoded(
        Image.merge("LA", [Image.fromarray(x) for x in np.moveaxis(noise(16, 16, 2), 2, 0)])
    )
    assert np.abs(decode(content, GREY)[..., 0] - shown).max() <= 1


def test_a_palette_with_a_transparent_entry_is_shown_on_white():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    found = decode(encoded(image, transparency=0), COLOUR)
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[1, 1].tolist() == [0, 0, 255]


def test_one_bit_is_black_or_white():
    bits = noise(8, 8) > 127
    assert np.array_equal(decode(encoded(Image.fromarray(bits)), GREY)[..., 0], bits * 255)


def test_the_inks_of_a_cmyk_image_become_colours():
    inks = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    red, green, blue = decode(encoded(inks, "TIFF"), COLOUR)[0, 0].tolist()
    assert red < 20
    assert min(green, blue) > 230


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_an_animation_gives_its_first_frame(kind: str):
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("black", "white", "red")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert decode(content, COLOUR).max() <= 2


AS_SHOWN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""What a viewer shows of stored pixels, by the orientation (EXIF 2.3, 4.6.4)."""


@pytest.mark.parametrize("orientation", AS_SHOWN)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_an_image_stands_upright_as_its_exif_says(kind: str, orientation: int):
    pixels = noise(6, 9, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(encoded(Image.fromarray(pixels), kind, exif=exif), COLOUR)
    assert np.array_equal(found, AS_SHOWN[orientation](pixels))


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0", b"\xff" * 40])
def test_exif_that_cannot_be_read_does_no_harm(exif: bytes):
    pixels = noise(6, 9, 3)
    assert np.array_equal(decode(png(pixels, exif=exif), COLOUR), pixels)


# The rule


def bilinear(pixels: np.ndarray, axis: int, size: int, start: float, length: float) -> np.ndarray:
    """Weighted means along an axis, by a triangle as wide as the shrinking, in float64."""
    source = np.arange(pixels.shape[axis]) + 0.5
    scale = length / size
    centres = start + (np.arange(size) + 0.5) * scale
    weights = np.clip(1 - np.abs(source - centres[:, None]) / max(scale, 1), 0, None)
    weights /= weights.sum(1, keepdims=True)
    return np.moveaxis(np.tensordot(weights, pixels.astype(float), (1, axis)), 0, axis)


def by_hand(pixels: np.ndarray, rule: Rule) -> np.ndarray:
    """The rule in float64."""
    height, width = pixels.shape[:2]
    size = rule.size
    assert size is not None
    if rule.resize == "squash":
        return bilinear(bilinear(pixels, 0, size, 0, height), 1, size, 0, width)
    if rule.resize == "shorter":
        side = min(height, width)
        tall = bilinear(pixels, 0, size, (height - side) / 2, side)
        return bilinear(tall, 1, size, (width - side) / 2, side)
    inner = [max(1, round(size * side / max(height, width))) for side in (height, width)]
    shrunk = bilinear(bilinear(pixels, 0, inner[0], 0, height), 1, inner[1], 0, width)
    top, left = ((size - side) // 2 for side in inner)
    padded = np.zeros((size, size, pixels.shape[2]))
    padded[top : top + inner[0], left : left + inner[1]] = shrunk
    return padded


@pytest.mark.parametrize("resize", ["shorter", "squash", "pad"])
@pytest.mark.parametrize("mode", ["colour", "grey"])
@pytest.mark.parametrize("shape", [(40, 40), (61, 40), (40, 90), (7, 5), (3, 200)], ids=str)
def test_each_rule_is_its_formula(resize: Resize, mode: Mode, shape: tuple[int, int]):
    rule = Rule(16, resize, mode)
    pixels = noise(*shape, 3)
    plain = decode(png(pixels), Rule(None, resize, mode))
    found = decode(png(pixels), rule)
    assert found.shape == (16, 16, rule.channels)
    # Pillow rounds after each of the two axes, and its weights to 22 bits.
    assert np.abs(found - by_hand(plain, rule)).max() <= 1.5


@pytest.mark.parametrize("resize", ["shorter", "squash", "pad"])
def test_an_image_of_the_size_stays_as_it_is(resize: Resize):
    pixels = noise(12, 12, 3)
    assert np.array_equal(decode(png(pixels), Rule(12, resize, "colour")), pixels)


@pytest.mark.parametrize("resize", ["shorter", "squash", "pad"])
def test_a_line_of_pixels_takes_no_more_memory_than_others(resize: Resize):
    line = np.full((1, 30_000, 3), 200, np.uint8)
    assert decode(png(line), Rule(32, resize, "colour")).shape == (32, 32, 3)


# What cannot be read


def reason(content: bytes) -> str:
    with pytest.raises(UnreadableError) as caught:
        decode(content, COLOUR)
    return str(caught.value)


def test_the_reason_is_named_in_a_few_words():
    whole = encoded(Image.fromarray(noise(64, 64, 3)), "JPEG")
    assert reason(b"") == "empty"
    assert reason(b"<svg>") == "not an image"
    assert reason(whole[: len(whole) // 2]) == "truncated"
    assert reason(encoded(Image.fromarray(noise(4, 4).astype(np.float32)), "TIFF")).startswith(
        "float"
    )


@pytest.mark.parametrize("white", [10**6, 255, 1])
def test_integers_of_32_bits_are_refused_whatever_they_hold(white: int):
    wide = np.linspace(0, white, 16).astype(np.int32).reshape(4, 4)
    assert reason(encoded(Image.fromarray(wide), "TIFF")).startswith("32-bit")


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICNS", "JPEG2000", "TGA"])
def test_other_kinds_of_files_are_no_images_whatever_they_are_called(kind: str):
    assert reason(encoded(Image.fromarray(noise(16, 16, 3)), kind)) == "not an image"


@pytest.mark.parametrize("side", [9_460, 20_000, 60_000])
def test_more_pixels_than_pillow_allows_are_a_bomb_before_they_are_decoded(side: int):
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, side, side, 1, 24, *[0] * 6)
    assert side**2 > 89_478_485
    assert reason(header).startswith("decompression bomb")


def test_text_that_unpacks_to_too_much_is_refused():
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("comment", "a" * 10**8, zip=True)
    content = png(noise(4, 4, 3), pnginfo=text)
    assert len(content) < 200_000
    assert reason(content).startswith("damaged")


# What is no file of bytes


def refusal(path: Path) -> str:
    with pytest.raises(UnreadableError) as caught:
        read(str(path))
    return str(caught.value)


@pytest.mark.timeout(10)
def test_only_regular_files_are_read_and_none_is_waited_for(tmp_path: Path):
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "link.jpg").symlink_to("missing")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert refusal(tmp_path / "folder.jpg") == "a folder"
    assert refusal(tmp_path / "pipe.jpg") == "not a regular file"
    assert refusal(tmp_path / "device.jpg") == "not a regular file"
    assert refusal(tmp_path / "link.jpg") == "broken link"
    assert "symbolic links" in refusal(tmp_path / "loop.jpg")
    assert refusal(tmp_path / "gone.jpg") == "no such file or directory"


@pytest.mark.timeout(10)
def test_a_file_too_long_for_an_image_is_not_read(tmp_path: Path):
    (tmp_path / "long.jpg").touch()
    os.truncate(tmp_path / "long.jpg", 2**40)
    assert "too large" in refusal(tmp_path / "long.jpg")


def test_a_file_without_the_right_to_read_it_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.jpg").touch(mode=0o000)
    tmp_path.chmod(0o755)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root may read anything
    try:
        assert refusal(Path("secret.jpg")) == "permission denied"
    finally:
        os.seteuid(user)
