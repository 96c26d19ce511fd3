"""The grammar of what varies, and what a number between two bounds is."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdfia_cli.errors import UsageError
from rdfia_cli.sweep.space import Choice, Range, combination, parse_over, size


def test_values_between_commas_are_a_choice():
    assert parse_over("batch_size=16,32, 64", whole=True) == Choice(
        "batch_size", ("16", "32", "64")
    )


def test_one_value_is_a_choice_of_one():
    assert parse_over("seed=3", whole=True) == Choice("seed", ("3",))


def test_lr_is_the_learning_rate_of_the_optimizer():
    assert parse_over("lr=0.1,1", whole=False).key == "optimizer.lr"


def test_models_keep_their_own_settings():
    found = parse_over("model=cnn,vit:dim=64,depth=2,timm/resnet18,lenet", whole=None)
    assert found == Choice("model", ("cnn", "vit:dim=64,depth=2", "timm/resnet18", "lenet"))


def test_quotes_and_brackets_protect_commas():
    assert parse_over('class_weights=[1, 2],"[3, 4]",none', whole=None) == Choice(
        "class_weights", ("[1, 2]", "[3, 4]", "none")
    )


def test_a_path_with_two_dots_is_no_range():
    found = parse_over("data=folder:path=../photos,digits", whole=None)
    assert found == Choice("data", ("folder:path=../photos", "digits"))


@pytest.mark.parametrize(
    ("text", "whole", "values"),
    [
        ("model.dim=16..64:16", True, ("16", "32", "48", "64")),
        ("model.dim=16..60:16", True, ("16", "32", "48")),
        ("model.depth=2..5", True, ("2", "3", "4", "5")),
        ("model.dropout=0..0.3:0.1", False, ("0", "0.1", "0.2", "0.3")),
        ("optimizer.lr=1e-3..3e-3:1e-3", False, ("0.001", "0.002", "0.003")),
        ("x=-1..1:0.5", False, ("-1", "-0.5", "0", "0.5", "1")),
    ],
)
def test_a_stepped_range_has_exactly_the_numbers_that_one_writes(text, whole, values):
    found = parse_over(text, whole=whole)
    assert found.count == len(values)
    assert tuple(found.nth(i) for i in range(len(values))) == values


def test_bounds_that_are_integers_are_a_real_range_for_a_real_setting():
    found = parse_over("model.dropout=0..1", whole=False)
    assert found.count is None
    assert 0.2 < float(found.at(0.25)) < 0.3


@pytest.mark.parametrize(
    ("values", "whole", "count"),
    [
        *(("0..1", True, 2), ("0..4:2", True, 3), ("log:1..8", True, None)),
        *(("0.0..1", False, None), ("0..1.0", False, None), ("0..1e0", False, None)),
        *(("0..1:0.5", False, 3), ("0..4:2.0", False, 3), ("log:1.0..8", False, None)),
    ],
)
def test_a_range_of_a_setting_that_nobody_knows_is_of_what_is_written(
    values: str, whole: bool, count: int | None
):
    found = parse_over(f"model.drop_rate={values}", whole=None)
    assert isinstance(found, Range)
    assert (found.whole, found.count) == (whole, count)


@pytest.mark.parametrize(
    ("text", "whole", "said"),
    [
        ("lr", None, "not KEY=VALUES"),
        ("=1,2", None, "not KEY=VALUES"),
        ("lr=", None, "not KEY=VALUES"),
        ("lr=1,,2", None, "names no values"),
        ("lr=1,1", None, "names 1 twice"),
        ("lr=0.1,1e-1", None, "names 1e-1 twice"),
        ("lr=1..0.1", False, "goes from 1 to 0.1"),
        ("lr=1..1", False, "goes from 1 to 1"),
        ("lr=log:0..1", False, "0 has no logarithm"),
        ("lr=lgo:0.1..1", False, "there is no scale 'lgo'"),
        ("lr=log:0.1..1:0.1", False, "has no step"),
        ("lr=0..1:0", False, "is no step"),
        ("lr=0..1:x", False, "is no step"),
        ("model.dim=1..4:0.5", True, "takes integers"),
        ("out=a,b", None, "changes no result"),
        ("if_exists=new,skip", None, "changes no result"),
        ("log=mlflow,tensorboard", None, "changes no result"),
        ('model="vit,cnn', None, "not closed"),
    ],
)
def test_what_does_not_follow_the_grammar_is_refused(text: str, whole: bool | None, said: str):
    with pytest.raises(UsageError, match=said):
        parse_over(text, whole=whole)


@given(
    low=st.decimals("1e-6", "1", places=6).filter(lambda x: x > 0),
    width=st.decimals("0.001", "100", places=3).filter(lambda x: x > 0),
    share=st.floats(0, 1, exclude_max=True),
    logarithmic=st.booleans(),
)
def test_a_drawn_number_lies_within_its_bounds(
    low: Decimal, width: Decimal, share: float, logarithmic: bool
):
    found = float(Range("x", low, low + width, None, logarithmic).at(share))
    assert float(low) <= found <= float(low + width)


def test_a_logarithmic_range_has_each_decade_as_often():
    dimension = parse_over("lr=log:0.001..1", whole=False)
    drawn = [float(dimension.at((i + 0.5) / 3000)) for i in range(3000)]
    for low in (0.001, 0.01, 0.1):
        assert sum(low <= x < 10 * low for x in drawn) == pytest.approx(1000, abs=1)


def test_each_integer_of_a_whole_range_is_drawn_as_often():
    dimension = parse_over("model.depth=1..4", whole=True)
    drawn = [dimension.at((i + 0.5) / 400) for i in range(400)]
    assert {value: drawn.count(value) for value in set(drawn)} == dict.fromkeys("1234", 100)


def test_combinations_are_all_different_and_the_last_setting_changes_fastest():
    space = [parse_over(t, whole=None) for t in ("a=1,2", "b=x,y,z")]
    assert size(space) == 6
    drawn = [tuple(combination(space, i).values()) for i in range(6)]
    assert drawn == [("1", "x"), ("1", "y"), ("1", "z"), ("2", "x"), ("2", "y"), ("2", "z")]


def test_a_range_without_a_step_cannot_be_counted():
    assert size([parse_over("a=1,2", whole=None), parse_over("lr=0.1..1", whole=False)]) is None


def test_a_huge_range_of_integers_is_counted_without_listing_it():
    assert size([parse_over("seed=0..999999999999", whole=True)]) == 10**12


def test_a_drawn_number_has_as_few_digits_as_one_would_write():
    dimension = parse_over("lr=log:0.001..1", whole=False)
    drawn = [dimension.at((i + 0.5) / 100) for i in range(100)]
    assert all(len(x.replace("0.", "").lstrip("0")) <= 4 for x in drawn)
    assert len({*drawn}) == 100


def test_bounds_that_lie_close_keep_the_digits_that_tell_them_apart():
    dimension = parse_over("lr=0.100001..0.100002", whole=False)
    assert 0.100001 <= float(dimension.at(0.5)) <= 0.100002
    assert len({dimension.at((i + 0.5) / 20) for i in range(20)}) > 5
