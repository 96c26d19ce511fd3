"""Charts put values where a ruler would."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdfia_cli.report.chart import (
    FEWEST_OF_LINE,
    MOST_PLACES,
    Axis,
    Chart,
    Series,
    lay_out,
    log_marks,
    marks_between,
    write,
)

LINEAR = Axis("x", low=0.0, high=10.0)


def chart(series: Series, x: Axis = LINEAR, y: Axis = LINEAR) -> Chart:
    return Chart("title", x, y, [series])


def places(series: Series, x: Axis = LINEAR, y: Axis = LINEAR) -> list[tuple[float, float]]:
    return lay_out(chart(series, x, y))["read"]["series"][0]["places"]


def test_a_point_lies_as_far_across_and_up_as_its_values_say():
    assert places(Series("s", [0, 5, 10], [10, 5, 0])) == [(0, 0), (500, 500), (1000, 1000)]


def test_a_logarithmic_axis_lays_ratios_out_evenly():
    found = places(Series("s", [1, 10, 100], [1, 1, 1]), x=Axis("rate", scale="log"))
    across = [place[0] for place in found]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)


def test_a_category_stands_in_the_middle_of_its_share_of_the_axis():
    axis = Axis("model", scale="category", names=["a", "b"])
    assert [p[0] for p in places(Series("s", [0, 1], [1, 1]), x=axis)] == [250, 750]
    assert lay_out(chart(Series("s", [0], [1]), x=axis))["x"] == [(25, "a"), (75, "b")]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_leaves_a_gap_in_the_line(value: float):
    (drawn,) = lay_out(chart(Series("s", [0, 1, 2, 3], [1, 2, value, 3])))["drawn"]
    assert re.sub(r"[\d. ]", "", drawn["path"]) == "MLM"


def test_a_value_without_a_logarithm_has_no_place():
    axis = Axis("rate", scale="log")
    assert len(places(Series("s", [0, 1, 10], [1, 2, 3]), x=axis)) == 2


def test_a_line_of_one_point_is_a_dot():
    (drawn,) = lay_out(chart(Series("s", [5], [5])))["drawn"]
    assert drawn["dots"] == [("M500 500h0", None)]


def test_a_chart_without_any_value_can_be_laid_out():
    found = lay_out(chart(Series("s", [], []), x=Axis("x"), y=Axis("y", form="percent")))
    assert found["drawn"][0]["path"] == ""


def test_a_quiet_series_is_drawn_and_never_read_out():
    found = lay_out(chart(Series("s", [1, 2], [1, 2], quiet=True)))
    assert found["drawn"][0]["path"]
    assert found["read"]["series"] == []


numbers = st.floats(-1e9, 1e9, allow_subnormal=False).map(lambda v: 0.0 if abs(v) < 1e-9 else v)


@given(numbers, numbers)
def test_marks_lie_within_the_axis_and_are_neither_none_nor_many(one: float, other: float):
    low, high = sorted((one, other))
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return
    marks = marks_between(low, high)
    slack = 1e-6 * (high - low)
    assert 1 <= len(marks) <= 8
    assert all(low - slack <= mark <= high + slack for mark in marks)


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.1, 2.4, [0.5, 1, 1.5, 2]),
        (1, 30, [5, 10, 15, 20, 25, 30]),
    ],
)
def test_marks_are_round_numbers(low: float, high: float, marks: list[float]):
    assert marks_between(low, high) == pytest.approx(marks)


def test_marks_of_whole_numbers_are_whole():
    assert marks_between(1, 3, "integer") == [1, 2, 3]


@given(st.floats(1e-8, 1e3), st.floats(1.01, 1e6))
def test_marks_of_a_logarithmic_axis_lie_within_it(low: float, ratio: float):
    high = low * ratio
    assert all(low * 0.999 <= mark <= high * 1.001 for mark in log_marks(low, high))


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (0.2, "percent", "20%"),
        (0.985, "percent", "98.5%"),
        (-0.0, "percent", "0%"),
        (12000, "integer", "12,000"),
        (1e-4, "number", "0.0001"),
        (1e-5, "number", "10⁻⁵"),
        (2e-5, "number", "2·10⁻⁵"),
        (0.05, "number", "0.05"),
    ],
)
def test_numbers_are_written_as_one_reads_them(value, form, text):
    assert write(value, form) == text


def test_a_very_long_line_keeps_its_ends_its_spikes_and_its_gaps():
    count = 100_000
    y = [0.5 + 0.001 * (index % 7) for index in range(count)]
    y[12_345], y[50_001], y[77_777] = 3.0, -2.0, math.nan
    found = lay_out(chart(Series("s", range(count), y), x=Axis("x"), y=Axis("y")))
    (read,) = found["read"]["series"]
    assert len(read["x"]) <= MOST_PLACES + 3
    assert {0, 12_345, 50_001, count - 1} <= {*read["x"]}
    assert all(y[x] == value for x, value in zip(read["x"], read["y"], strict=True))
    assert found["drawn"][0]["path"].count("M") == 2, "the gap is still there"


def test_the_more_lines_the_fewer_places_each_but_never_too_few_to_be_read():
    lines = [Series(str(index), range(500), [1.0] * 499 + [2.0]) for index in range(1_000)]
    read = lay_out(Chart("title", LINEAR, LINEAR, lines))["read"]["series"]
    assert {len(series["x"]) <= FEWEST_OF_LINE + 3 for series in read} == {True}
    assert all(len(series["x"]) >= FEWEST_OF_LINE / 4 for series in read)


def test_a_line_that_is_not_long_has_every_place():
    assert len(places(Series("s", range(5_000), range(5_000)), x=Axis("x"), y=Axis("y"))) == 5_000
