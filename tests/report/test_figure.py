"""Where a picture may go, and how names stand in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from rdfia_cli.errors import UsageError
from rdfia_cli.report.attention import AttentionPicture, draw_attention
from rdfia_cli.report.comparison import draw_comparison
from rdfia_cli.report.curves import draw_run
from rdfia_cli.report.figure import drawable, label_decades, picture_path
from rdfia_cli.report.receptive_field import Box, Depth, Heat, Picture, draw_fields


def test_a_folder_that_is_only_to_be_read_is_refused_before_anything_is_computed(monkeypatch):
    # Whoever runs the tests as root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(UsageError) as caught:
        picture_path("confusion.png")
    assert "you may not write to '.'" in caught.value.fact
    assert "--out" not in caught.value.remedy, "eval has no such option"


ODD = "猫 $x$"
"""A name that the font lacks a letter of, and that would be a formula."""


def attention(path: Path) -> None:
    seen = np.full((1, 2, 4, 4), 1 / 16, np.float32)
    image = np.zeros((1, 3, 8, 8), np.float32)
    draw_attention(AttentionPicture(ODD, [ODD], image, seen, seen[:, 0], None), path)


def comparison(path: Path) -> None:
    accuracy = {"mean": 0.9, "std": 0.01, "values": [0.89, 0.91]}
    entry = {"model": ODD, "accuracy": accuracy, "parameters": 10, "macs": 100}
    draw_comparison({"data": ODD, "seeds": [0, 1], "models": [entry]}, path)


def fields(path: Path) -> None:
    box = Box(ODD, (1, 3), (1, 3))
    heat = Heat(f"{ODD}\nhalf of the mass in 2.0 px", np.ones((8, 8), np.float32), box)
    image = np.zeros((3, 8, 8), np.float32)
    draw_fields(Picture(ODD, image, [box], [Depth(ODD, 3, is_global=False)], [heat]), path)


def curves(path: Path) -> None:
    score = {"accuracy": 0.5, "loss": 1.0}
    line = {"epoch": 1, "train": score, "test": score}
    (path.parent / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    axis = [0.0, 1.0]
    decision = {
        "axis": axis,
        "probabilities": [[[0.2, 0.8], [0.6, 0.4]], [[0.5, 0.5], [0.9, 0.1]]],
        "points": {"inputs": [[0.1, 0.2], [0.8, 0.9]], "labels": [0, 1]},
        "classes": [ODD, "dog"],
    }
    (path.parent / "decision_map.json").write_text(json.dumps(decision))
    draw_run(path.parent)
    (path.parent / "curves.svg").rename(path)


# A warning about a letter that cannot be drawn is an error here.
@pytest.mark.parametrize("draw", [attention, comparison, fields, curves])
def test_a_letter_that_the_font_lacks_stands_as_its_code(draw, tmp_path):
    path = tmp_path / "picture.svg"
    with rc_context({"svg.fonttype": "none"}):  # text as text, so that it can be read
        draw(path)
    assert r"\u732b $x$" in path.read_text(encoding="utf-8")


def test_a_line_break_is_drawn_as_one():
    assert drawable("one\n猫") == "one\n\\u732b"


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [(0.001, 1.0, ["0.001", "0.01", "0.1", "1"]), (0.01, 0.1, ["0.01", "0.02", "0.05", "0.1"])],
)
def test_logarithmic_axes_are_labelled_by_plain_numbers(low: float, high: float, labels: list[str]):
    axes = Figure().subplots()
    axes.set(xscale="log", xlim=(low, high))
    label_decades(axes.xaxis)
    shown = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    assert [text.get_text() for place, text in shown if low <= place <= high] == labels
