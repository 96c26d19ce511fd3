"""The picture of augmented samples: captions stay within their cells."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rdfia_cli.report import samples
from rdfia_cli.report.figure import text_width
from rdfia_cli.report.samples import CELL_INCHES, FONT_SIZE, Column, draw_samples, fit_caption

ROOM = CELL_INCHES * 72


@pytest.mark.parametrize(
    "text",
    [
        "cat",
        "golden retriever puppy 0.70\nnorwegian forest cat 0.30",
        "W" * 200,
        f"$x_{{{'i' * 90}}}$ 0.50\ndog 0.50",
    ],
    ids=["short", "two lines", "endless", "no formula"],
)
def test_a_caption_is_no_wider_than_its_cell(text):
    fitted, size = fit_caption(text)
    assert text_width(fitted, size) <= ROOM * 1.02
    assert len(fitted.splitlines()) == len(text.splitlines())
    assert fitted[:1] == text[:1]
    assert fitted[-1:] == text[-1:]


def test_a_caption_that_fits_stays_as_it_is():
    assert fit_caption("cat 0.70\ndog 0.30") == ("cat 0.70\ndog 0.30", FONT_SIZE)
    assert fit_caption("") == ("", FONT_SIZE)


def test_a_long_caption_is_first_made_smaller_and_only_then_cut():
    whole, size = fit_caption("a rather long name of a class")
    assert whole == "a rather long name of a class"
    assert size < FONT_SIZE
    assert "..." in fit_caption("a rather long name of a class " * 9)[0]


def test_captions_of_two_lines_reach_neither_their_neighbours_nor_the_images_below(
    tmp_path, monkeypatch
):
    drawn: list[Figure] = []
    monkeypatch.setattr(samples, "write_figure", lambda figure, path: drawn.append(figure))
    caption = "a golden retriever 0.70\na norwegian forest cat 0.30"
    images = np.ones((2, 1, 4, 4), np.float32)
    columns = [Column(f"draw {number}", images, [caption] * 2) for number in (1, 2)]
    draw_samples(columns, tmp_path / "a.svg")
    (axes,) = drawn[0].axes
    renderer = FigureCanvasAgg(drawn[0]).get_renderer()
    boxes = [t.get_window_extent(renderer) for t in axes.texts]
    boxes += [image.get_window_extent(renderer) for image in axes.images]
    assert len(boxes) == 2 + 4 + 4
    assert {text.get_text() for text in axes.texts} == {"draw 1", "draw 2", caption}
    for text in axes.texts:
        assert text.get_window_extent(renderer).width <= ROOM / 72 * drawn[0].dpi
    overlaps = [b for n, a in enumerate(boxes) for b in boxes[:n] if a.overlaps(b)]
    assert overlaps == []
