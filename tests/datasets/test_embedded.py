"""The embedded data are what they say, and need neither a network nor a disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_circles

from rdfia_cli.datasets.embedded import circles, digits
from rdfia_cli.spec import InputSpec, Split, Splits

NOWHERE = Path("/nonexistent")


@pytest.mark.parametrize(("name", "seed"), [("train", 0), ("test", 1)])
def test_circles_are_those_of_scikit_learn_a_seed_for_each_split(name: str, seed: int):
    positions, labels = make_circles(200, noise=0.2, factor=0.3, random_state=seed)
    split: Split = getattr(circles(NOWHERE), name)
    assert np.array_equal(split.inputs.numpy(), positions.astype(np.float32))
    assert np.array_equal(split.labels.numpy(), labels)


@pytest.mark.parametrize("name", ["train", "test"])
def test_circles_have_100_points_of_each_class(name: str):
    labels = getattr(circles(NOWHERE), name).labels
    assert torch.bincount(labels).tolist() == [100, 100]


def test_circles_parameters_are_those_of_scikit_learn():
    splits = circles(NOWHERE, points=30, noise=0.05, factor=0.6, train_seed=7, test_seed=8)
    for split, seed in ((splits.train, 7), (splits.test, 8)):
        positions, _ = make_circles(30, noise=0.05, factor=0.6, random_state=seed)
        assert np.array_equal(split.inputs.numpy(), positions.astype(np.float32))


def test_circles_name_the_outer_ring_first():
    splits = circles(NOWHERE, noise=0.0)
    radius = splits.train.inputs.norm(dim=1)
    outer, inner = (radius[splits.train.labels == label] for label in (0, 1))
    torch.testing.assert_close(outer, torch.ones(100))
    torch.testing.assert_close(inner, torch.full((100,), 0.3))
    assert splits.classes == ("outer", "inner")


def test_the_best_radius_tells_about_95_percent_of_circles_apart():
    train = circles(NOWHERE, points=20_000).train
    inner_first = train.labels[train.inputs.norm(dim=1).argsort()] == 1
    right = inner_first.cumsum(0) + 10_000 - (~inner_first).cumsum(0)
    assert right.max().item() / 20_000 == pytest.approx(0.95, abs=0.02)


def examples(split: Split) -> list[bytes]:
    """Each example as bytes: its pixels in sixteenths, then its label."""
    pixels = (split.inputs.flatten(1) * 16).round().long()
    return [row.numpy().tobytes() for row in torch.cat([pixels, split.labels[:, None]], 1)]


@pytest.fixture(scope="module")
def split_digits() -> Splits:
    return digits(NOWHERE)


def test_train_and_test_digits_together_are_all_1797_each_once(split_digits: Splits):
    pixels, labels = load_digits(return_X_y=True)
    whole = Split(torch.tensor(pixels / 16), torch.tensor(labels))
    assert len(split_digits.train) + len(split_digits.test) == len(whole) == 1797
    found = examples(split_digits.train) + examples(split_digits.test)
    assert sorted(found) == sorted(examples(whole))


def test_no_digit_is_in_train_and_in_test(split_digits: Splits):
    assert set(examples(split_digits.train)).isdisjoint(examples(split_digits.test))


def test_each_digit_has_the_same_share_in_test(split_digits: Splits):
    train, test = (
        torch.bincount(split.labels, minlength=10).double()
        for split in (split_digits.train, split_digits.test)
    )
    share = len(split_digits.test) / 1797
    assert 0.1 < share < 0.4
    assert ((test / (train + test) - share).abs() < 0.02).all()


@pytest.mark.parametrize("name", ["train", "test"])
def test_digits_are_8x8_pixels_from_0_to_1(split_digits: Splits, name: str):
    split: Split = getattr(split_digits, name)
    assert split.inputs.shape[1:] == (1, 8, 8)
    assert (split.inputs.dtype, split.labels.dtype) == (torch.float32, torch.int64)
    assert (split.inputs.min(), split.inputs.max()) == (0, 1)
    assert torch.equal(split.inputs * 16, (split.inputs * 16).round())


@pytest.mark.parametrize(
    ("builder", "expected"),
    [(circles, InputSpec((2,), 2)), (digits, InputSpec((1, 8, 8), 10))],
)
def test_the_data_say_what_a_model_is_fed(builder, expected: InputSpec):
    assert builder(NOWHERE).input == expected


@pytest.mark.parametrize("builder", [circles, digits])
def test_the_data_are_the_same_each_time_whatever_was_drawn_before(builder):
    np.random.seed(1)
    first = builder(NOWHERE)
    np.random.seed(2)
    torch.manual_seed(3)
    second = builder(NOWHERE)
    for name in ("train", "test"):
        ours, theirs = getattr(first, name), getattr(second, name)
        assert torch.equal(ours.inputs, theirs.inputs)
        assert torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize("builder", [circles, digits])
def test_validation_is_left_to_be_taken_from_train(builder):
    assert builder(NOWHERE).validation is None
