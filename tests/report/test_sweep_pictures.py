"""The pictures of a sweep show every finished trial, however its settings were written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from rdfia_cli.report import sweep
from rdfia_cli.spec import typed_value

Draw = Callable[..., Mapping[str, Figure]]


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    """Draw a finished grid over the listed values of two settings; returns pictures by name.

    With further keywords the settings are ranges that have these.
    """
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr(
        sweep, "write_figure", lambda figure, path: drawn.setdefault(path.name, figure)
    )

    def make(listed: Mapping[str, Sequence[str]], **as_range: Any) -> Mapping[str, Figure]:
        first, *others = listed
        grid = [
            {first: one, **dict.fromkeys(others, other)}
            for one in listed[first]
            for other in (listed[others[0]] if others else [""])
        ]
        trials = [
            {
                "number": number,
                "state": "finished",
                "parameters": {key: typed_value(text) for key, text in settings.items()},
                "validation_accuracy": (number + 1) / 10,
                "run": "absent",
            }
            for number, settings in enumerate(grid)
        ]
        space = [
            {"key": key, **(as_range or {"values": list(values)})} for key, values in listed.items()
        ]
        content = {"trials": trials, "space": space, "best": trials[-1]}
        (tmp_path / "sweep.json").write_text(json.dumps(content))
        sweep.draw_sweep(tmp_path)
        return drawn

    return make


UNUSUAL = ("1e-3", "0.10", "1_000", "[1,2]", "true", "1.0", "1", "inf", "none", "a b")


def test_each_value_has_its_dot_however_it_is_written(draw: Draw):
    figure = draw({"x": UNUSUAL})["settings.png"]
    (axes,) = figure.get_axes()
    places = np.asarray(axes.collections[0].get_offsets())[:, 0]
    assert places.tolist() == list(range(len(UNUSUAL)))
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == list(UNUSUAL)


def test_the_key_of_the_best_trial_lies_beside_the_axes(draw: Draw):
    figure = draw({"x": ("1", "2", "3")})["settings.png"]
    (axes,) = figure.get_axes()
    assert axes.get_legend() is None
    (key,) = figure.legends
    assert [text.get_text() for text in key.get_texts()] == ["best"]
    figure.draw_without_rendering()
    assert not key.get_window_extent().overlaps(axes.get_window_extent())


@pytest.mark.parametrize(
    ("listed", "as_range", "told"),
    [
        ({"lr": ("0.1", "0.4")}, {"log": True}, ("lr", 0.1, 0.4)),
        ({"lr": ("0.1", "0.4")}, {}, ("rank", 1, 2)),
        ({"lr": ("0.1", "0.4"), "seed": ("0", "1")}, {"log": False}, ("rank", 1, 4)),
    ],
)
def test_a_key_tells_the_colours_of_the_curves(draw: Draw, listed, as_range, told):
    *_, key = draw(listed, **as_range)["curves.png"].get_axes()
    assert key.get_ylabel() == told[0]
    assert key.get_ylim() == pytest.approx(told[1:])


def test_one_trial_needs_no_key(draw: Draw):
    assert len(draw({"lr": ("0.1",)})["curves.png"].get_axes()) == 2


def test_ranges_of_integers_have_no_other_marks(draw: Draw):
    pictures = draw({"seed": ("0", "1"), "model.depth": ("1", "2")}, log=False, whole=True)
    for name in ("settings.png", "map.png"):
        marked, *_ = pictures[name].get_axes()
        assert [place for place in marked.get_xticks() if 0 <= place <= 1] == [0, 1]


def test_two_settings_fill_every_cell_of_their_map_however_they_are_written(draw: Draw):
    figure = draw({"lr": ["1e-3", "1e-2"], "b": ["030", "true", "6e1"]})["map.png"]
    cells = np.ma.filled(figure.get_axes()[0].collections[0].get_array(), np.nan)
    np.testing.assert_allclose(cells.T, [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])


def test_a_map_of_a_listed_setting_and_a_logarithmic_one_names_the_listed_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trials = [
        {
            "number": number,
            "parameters": {"word": word, "lr": 10.0**-number},
            "state": "finished",
            "validation_accuracy": 0.5,
            "run": "absent",
        }
        for number, word in enumerate(("tanh", "relu"))
    ]
    space = [{"key": "word", "values": ["tanh", "relu"]}, {"key": "lr", "log": True}]
    content = {"trials": trials, "space": space, "best": None}
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr(
        sweep, "write_figure", lambda figure, path: drawn.setdefault(path.name, figure)
    )
    sweep.draw_sweep(tmp_path)
    axes = drawn["map.png"].get_axes()[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["tanh", "relu"]
    assert axes.get_yscale() == "log"
