"""The picture of an evaluation: a real file, the same each time, whatever the names."""

from __future__ import annotations

import html
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from rdfia_cli.report.confusion import draw_evaluation

HOSTILE = ("$x<script>", "$\\frac$ & no formula", '"><b>')
NATIONS = ("été", "naïve", "Ωmega")


def describe(names: tuple[str, ...], split: str = "test", empty: int | None = None) -> dict:
    """An evaluation in which class i was right i + 10 times and taken for the next one once."""
    count = len(names)
    confusion = np.diag(np.arange(count) + 10) + np.roll(np.eye(count, dtype=int), 1, axis=1)
    if empty is not None:
        confusion[empty] = 0
    totals = confusion.sum(1)
    right = np.diag(confusion)
    accuracies = [float(r / n) if n else float("nan") for r, n in zip(right, totals, strict=True)]
    return {
        "run": "runs/$a$_b<c>",
        "data": "digits",
        "split": split,
        split: {"loss": 0.5, "accuracy": float(right.sum() / totals.sum())},
        "classes": [
            {"name": name, "examples": int(n), "accuracy": accuracy}
            for name, n, accuracy in zip(names, totals, accuracies, strict=True)
        ],
        "confusion": confusion.tolist(),
    }


def words(path: Path) -> list[str]:
    """The texts of an SVG; matplotlib draws letters as shapes and notes each text beside them."""
    builder = ElementTree.TreeBuilder(insert_comments=True)
    root = ElementTree.parse(path, ElementTree.XMLParser(target=builder)).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return [html.unescape(node.text).strip() for node in root.iter(ElementTree.Comment)] + [
        "".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")
    ]


def test_a_name_that_the_font_lacks_is_drawn_as_its_code_without_a_warning(tmp_path: Path):
    draw_evaluation(describe(("猫", "chien 🐕", "naïve")), tmp_path / "x.svg")
    texts = words(tmp_path / "x.svg")
    for name in ("\\u732b", "chien \\U0001f415", "naïve"):
        assert texts.count(name) == 3


def test_the_svg_holds_the_axes_the_classes_and_the_counts(tmp_path: Path):
    result = describe(("cat", "dog", "bird"))
    draw_evaluation(result, tmp_path / "x.svg")
    texts = words(tmp_path / "x.svg")
    accuracy = (10 + 11 + 12) / (10 + 11 + 12 + 3)
    for text in ("predicted", "true", f"accuracy of each class; all: {accuracy:.4f}"):
        assert texts.count(text) == 1
    for name in ("cat", "dog", "bird"):
        assert texts.count(name) == 3, "on both axes of the matrix, and beside its bar"
    for count in ("10", "11", "12"):
        assert texts.count(count) == 1


def test_the_title_names_run_split_and_data_as_text(tmp_path: Path):
    draw_evaluation(describe(("a", "b"), split="validation"), tmp_path / "x.svg")
    assert "runs/$a$_b<c>: validation split of digits" in words(tmp_path / "x.svg")


def test_the_png_is_darkest_along_the_diagonal(tmp_path: Path):
    draw_evaluation(describe(tuple("abcdefghij")), tmp_path / "x.png")
    pixels = image.imread(tmp_path / "x.png")
    assert pixels.ndim == 3
    assert min(pixels.shape[:2]) > 400
    assert pixels[..., :3].min() < 0.3
    assert pixels[..., :3].max() == 1.0
    assert (tmp_path / "x.png").read_bytes().endswith(b"IEND\xaeB`\x82"), "it is whole"


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_evaluation_draws_the_same_bytes(tmp_path: Path, kind: str):
    for name in ("one", "two"):
        draw_evaluation(describe(("cat", "dog")), tmp_path / f"{name}.{kind}")
    one, two = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("one", "two"))
    assert one == two
    draw_evaluation(describe(("cat", "cow")), tmp_path / f"three.{kind}")
    assert (tmp_path / f"three.{kind}").read_bytes() != one


@pytest.mark.parametrize("names", [HOSTILE, NATIONS], ids=["hostile", "accents"])
def test_class_names_are_shown_as_text_whatever_they_are(tmp_path: Path, names: tuple[str, ...]):
    draw_evaluation(describe(names), tmp_path / "x.svg")
    texts = words(tmp_path / "x.svg")
    for name in names:
        assert texts.count(name) == 3
    draw_evaluation(describe(names), tmp_path / "x.png")
    assert image.imread(tmp_path / "x.png").std() > 0.05


def test_a_class_that_the_split_lacks_is_drawn_without_a_bar(tmp_path: Path):
    draw_evaluation(describe(("cat", "dog", "bird"), empty=1), tmp_path / "x.svg")
    assert words(tmp_path / "x.svg").count("dog") == 3


def test_many_classes_are_drawn_without_numbers_in_a_larger_picture(tmp_path: Path):
    names = tuple(f"class {index}" for index in range(40))
    draw_evaluation(describe(names), tmp_path / "x.svg")
    texts = words(tmp_path / "x.svg")
    assert texts.count("class 39") == 3
    assert "49" not in texts
    sizes = []
    for count in (2, 40):
        draw_evaluation(describe(names[:count]), tmp_path / "x.png")
        sizes.append(image.imread(tmp_path / "x.png").shape)
    assert sizes[1][0] > 2 * sizes[0][0]


def test_a_picture_that_cannot_be_written_leaves_the_one_before(tmp_path: Path):
    draw_evaluation(describe(("cat", "dog")), tmp_path / "x.png")
    before = (tmp_path / "x.png").read_bytes()
    damaged = {**describe(("cat", "dog")), "confusion": [[1, 2], [3]]}
    with pytest.raises(ValueError, match="inhomogeneous"):
        draw_evaluation(damaged, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
