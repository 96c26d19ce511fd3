"""More than a thousand damaged image files: none hangs, crashes or goes unnamed."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdfia_cli import cache
from rdfia_cli.commands.progress import watch
from rdfia_cli.datasets.folder import folder
from rdfia_cli.errors import RdfiaError

FORMATS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "WEBP": "webp", "TIFF": "tiff"}
EACH = 180


def encode(draws: np.random.Generator, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(draws.integers(256, size=(20, 24, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def damage(draws: np.random.Generator, content: bytes, way: int) -> bytes:
    """Cut, flip, overwrite, repeat, empty or replace some bytes."""
    where = int(draws.integers(len(content)))
    if way == 0:
        return content[:where]
    if way == 1:
        flipped = bytearray(content)
        for place in draws.integers(len(content), size=8):
            flipped[place] ^= 1 << int(draws.integers(8))
        return bytes(flipped)
    if way == 2:
        return (
            content[:where] + bytes(draws.integers(256, size=64, dtype=np.uint8)) + content[where:]
        )
    if way == 3:
        head = int(draws.integers(1, min(64, len(content))))
        return content[:head] + b"\xff" * 16 + content[head + 16 :]
    if way == 4:
        return b""
    return bytes(draws.integers(256, size=200, dtype=np.uint8))


def huge_png(side: int) -> bytes:
    """A PNG whose header promises side x side pixels, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def can_be_read(path: Path) -> bool:
    """Whether Pillow by itself decodes the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=tuple(FORMATS)) as image:
                image.convert("RGB").load()
    except Exception:
        return False
    return True


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draws = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("damaged")
    for label in ("a", "b"):
        (root / label).mkdir()
        for number in range(10):
            (root / label / f"whole-{number}.png").write_bytes(encode(draws, "PNG"))
    for kind, ending in FORMATS.items():
        for number in range(EACH):
            content = damage(draws, encode(draws, kind), number % 6)
            (root / "ab"[number % 2] / f"{kind}-{number}.{ending}").write_bytes(content)
    (root / "a" / "bomb.png").write_bytes(huge_png(60_000))
    (root / "b" / "text.jpg").write_text("this is no image")
    (root / "b" / "nowhere.jpg").symlink_to("missing")
    (root / "b" / "folder.jpg").mkdir()
    os.mkfifo(root / "b" / "pipe.jpg")
    return root


@pytest.mark.timeout(120)
def test_every_file_is_either_in_the_store_or_named_with_a_reason(damaged: Path, tmp_path: Path):
    splits = watch(folder(tmp_path, path=str(damaged), size=8, on_error="skip"), lambda event: None)
    (store,) = cache.stores(tmp_path)
    skipped = dict(store.manifest.skipped)
    files = list(damaged.rglob("*.*"))
    assert len(files) > 1000
    assert len(splits.train) + len(splits.test) + len(skipped) == len(files)
    assert all(reason.strip() for reason in skipped.values())
    named = {Path(name).name for name in skipped}
    special = ("folder.jpg", "pipe.jpg", "nowhere.jpg", "bomb.png", "text.jpg")
    assert named >= set(special)
    unreadable = {p.name for p in files if p.name in special or not can_be_read(p)}
    assert len(unreadable) > 400
    assert unreadable <= named
    assert not any(name.startswith("whole") for name in named)
    assert any(str(len(skipped)) in text for text in splits.warnings)


@pytest.mark.timeout(120)
def test_without_skipping_they_are_refused_by_name_and_nothing_is_kept(damaged, tmp_path: Path):
    with pytest.raises(RdfiaError) as caught:
        watch(folder(tmp_path, path=str(damaged), size=8), lambda event: None)
    assert "on_error=skip" in str(caught.value.remedy)
    assert any(ending in caught.value.fact for ending in FORMATS.values())
    assert list(cache.stores(tmp_path)) == []
