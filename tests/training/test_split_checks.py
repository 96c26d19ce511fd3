"""Data that is not what a model was trained on is refused, or told of, by name."""

from __future__ import annotations

import pytest
import torch

from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import Split, Splits
from rdfia_cli.training.split_checks import compare


def named(*classes: str, features: int = 1) -> Splits:
    split = Split(torch.zeros(1, features), torch.zeros(1, dtype=torch.int64))
    return Splits(split, split, classes)


@pytest.mark.parametrize("expected", [named("a", "b", features=2), named("a", "b", "c")])
def test_data_of_another_shape_or_number_of_classes_are_refused(expected: Splits):
    with pytest.raises(ComponentError, match="'mine'"):
        list(compare(named("a", "b"), expected, "mine"))


def test_the_same_classes_in_another_order_are_refused():
    with pytest.raises(ComponentError, match="in another order: 'cat' for 'dog'"):
        list(compare(named("cat", "dog"), named("dog", "cat"), "mine"))


def test_classes_of_other_names_are_scored_with_a_warning():
    assert list(compare(named("a", "b"), named("a", "b"), "mine")) == []
    (warning,) = compare(named("cats", "dog"), named("cat", "dog"), "mine")
    assert warning.startswith("1 of 2 classes of 'mine' have other names")
    assert "'cats' for 'cat'" in warning
