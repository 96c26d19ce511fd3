"""The curves of a run: real pictures of its files, the same bytes for the same run."""

from __future__ import annotations

import html
import json
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from rdfia_cli.report.curves import draw_run

HOSTILE = ("$x<script>", "$\\frac$ & no formula", '"><b>', "_hidden")


def write_run(
    folder: Path,
    epochs: int = 5,
    *,
    validation: bool = True,
    steps: bool = False,
    classes: tuple[str, ...] = (),
) -> Path:
    """The files that curves are drawn from."""
    folder.mkdir(exist_ok=True)
    lines = []
    for epoch in range(1, epochs + 1):
        if steps:
            lines.append({"epoch": epoch, "step": 3, "loss": 99.0})
        score = {"loss": 2.3 / epoch, "accuracy": 1 - 1 / (epoch + 1)}
        line = {"epoch": epoch, "learning_rate": 0.1, "train": score, "test": score}
        lines.append({**line, "validation": score} if validation else line)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    if classes:
        (folder / "decision_map.json").write_text(json.dumps(decision_map(classes)))
    return folder


def decision_map(classes: tuple[str, ...]) -> dict:
    """Every class has a vertical band of the grid and a point of its own."""
    count = len(classes)
    bands = np.eye(count)[np.arange(8) * count // 8]
    return {
        "schema": "rdfia.decision-map/1",
        "axis": np.linspace(-2, 1.5, 8).tolist(),
        "classes": list(classes),
        "probabilities": np.tile(bands, (8, 1, 1)).tolist(),
        "points": {"inputs": [[0.5, i - 1.0] for i in range(count)], "labels": [*range(count)]},
    }


def assert_whole_png(path: Path) -> None:
    """Every chunk of it has the checksum that the format demands."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    position, kinds = 8, []
    while position < len(content):
        (length,) = struct.unpack(">I", content[position : position + 4])
        chunk = content[position + 4 : position + 8 + length]
        (checksum,) = struct.unpack(">I", content[position + 8 + length : position + 12 + length])
        assert zlib.crc32(chunk) == checksum
        kinds.append(chunk[:4])
        position += 12 + length
    assert (kinds[0], kinds[-1]) == (b"IHDR", b"IEND")


def words(path: Path) -> list[str]:
    """The texts of an SVG; matplotlib draws letters as shapes and notes each text beside them."""
    root = ElementTree.parse(path, ElementTree.XMLParser(target=CommentedTree())).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return [html.unescape(node.text).strip() for node in root.iter(ElementTree.Comment)] + [
        "".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")
    ]


class CommentedTree(ElementTree.TreeBuilder):
    """A tree that keeps comments."""

    def __init__(self) -> None:
        super().__init__(insert_comments=True)


def lines_drawn(path: Path) -> int:
    """The curves of an SVG: the lines clipped to a panel that are in a colour of a split."""
    text = path.read_text().lower()
    colours = ("#0072b2", "#009e73", "#d55e00")
    return sum(
        'clip-path="' in tag and any(colour in tag for colour in colours) and "fill: none" in tag
        for tag in text.split("<path")
    )


def test_the_pictures_are_a_png_and_an_svg_of_accuracy_and_loss(tmp_path: Path):
    draw_run(write_run(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {
        *("metrics.jsonl", "curves.png", "curves.svg")
    }
    assert_whole_png(tmp_path / "curves.png")
    pixels = image.imread(tmp_path / "curves.png")
    assert pixels.shape[1] > 1.5 * pixels.shape[0], "two panels side by side"
    texts = words(tmp_path / "curves.svg")
    assert texts.count("epoch") == 2
    for text in ("accuracy", "cross-entropy (nats)"):
        assert texts.count(text) == 1
    for split in ("train", "validation", "test"):
        assert texts.count(split) == 2, "a legend in each panel"
    assert lines_drawn(tmp_path / "curves.svg") == 6


def test_the_same_run_draws_the_same_bytes(tmp_path: Path):
    one = write_run(tmp_path / "one", classes=("outer", "inner"))
    two = write_run(tmp_path / "two", classes=("outer", "inner"))
    for folder in (one, two):
        draw_run(folder)
    for name in ("curves.png", "curves.svg"):
        first = (one / name).read_bytes()
        assert (two / name).read_bytes() == first
        draw_run(one)
        assert (one / name).read_bytes() == first


def test_other_numbers_draw_other_pictures(tmp_path: Path):
    one, two = write_run(tmp_path / "one", epochs=5), write_run(tmp_path / "two", epochs=6)
    for folder in (one, two):
        draw_run(folder)
    assert (one / "curves.svg").read_bytes() != (two / "curves.svg").read_bytes()


def test_a_run_of_one_epoch_is_drawn_as_points(tmp_path: Path):
    one = write_run(tmp_path / "one", epochs=1)
    two = write_run(tmp_path / "two", epochs=2)
    for folder in (one, two):
        draw_run(folder)
        assert_whole_png(folder / "curves.png")
    markers = [(folder / "curves.svg").read_text().count("<use") for folder in (one, two)]
    assert markers[0] > 0, "a line through one point is invisible"
    assert lines_drawn(two / "curves.svg") == 6


def test_without_validation_there_are_two_curves_a_panel(tmp_path: Path):
    draw_run(write_run(tmp_path, validation=False))
    texts = words(tmp_path / "curves.svg")
    assert "validation" not in texts
    assert (texts.count("train"), texts.count("test")) == (2, 2)
    assert lines_drawn(tmp_path / "curves.svg") == 4


def test_lines_of_steps_do_not_change_the_curves(tmp_path: Path):
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", steps=True)
    for folder in (one, two):
        draw_run(folder)
    assert (one / "curves.svg").read_bytes() == (two / "curves.svg").read_bytes()


def test_a_torn_last_line_does_not_hinder(tmp_path: Path):
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    with (two / "metrics.jsonl").open("a") as log:
        log.write('{"epoch": 6, "tra')
    for folder in (one, two):
        draw_run(folder)
    assert (one / "curves.svg").read_bytes() == (two / "curves.svg").read_bytes()


@pytest.mark.parametrize("count", [2, 3, 9])
def test_points_get_a_third_panel_with_every_class_in_its_legend(tmp_path: Path, count: int):
    classes = tuple(f"class {index}" for index in range(count))
    draw_run(write_run(tmp_path, classes=classes))
    texts = words(tmp_path / "curves.svg")
    assert "decision map and test points" in texts
    assert [text for text in texts if text.startswith("class ")] == list(classes)
    pixels = image.imread(tmp_path / "curves.png")
    assert pixels.shape[1] > 2.5 * pixels.shape[0], "three panels side by side"


def test_hostile_class_names_are_shown_as_text(tmp_path: Path):
    draw_run(write_run(tmp_path, classes=HOSTILE))
    assert "<script>" not in (tmp_path / "curves.svg").read_text()
    assert_shown(words(tmp_path / "curves.svg"), HOSTILE)
    assert_whole_png(tmp_path / "curves.png")


def assert_shown(texts: list[str], names: tuple[str, ...]) -> None:
    for name in names:
        assert name in texts, f"{name} is not shown as it is"


def test_a_picture_replaces_the_one_before_and_leaves_nothing_beside(tmp_path: Path):
    write_run(tmp_path)
    (tmp_path / "curves.png").write_bytes(b"old")
    draw_run(tmp_path)
    assert_whole_png(tmp_path / "curves.png")
    assert not list(tmp_path.glob(".*"))
