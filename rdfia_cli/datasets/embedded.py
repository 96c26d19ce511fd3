"""The datasets that need no download: two rings of points, and scikit-learn's digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.datasets import load_digits, make_circles

from rdfia_cli.spec import Split, Splits

if TYPE_CHECKING:
    from pathlib import Path

    from rdfia_cli.spec import Count, Fraction, NonNegative, Share, Size

DIGITS_MAXIMUM = 16
DIGITS_CLASSES = 10


def circles(
    root: Path,
    *,
    points: Count = 200,
    noise: NonNegative = 0.2,
    factor: Fraction = 0.3,
    train_seed: Size = 0,
    test_seed: Size = 1,
) -> Splits:
    """Two rings of 2-D points, two classes, drawn anew for train and for test.

    Args:
        root: unused: nothing is downloaded.
        points: the points of each of the two splits, half of them in each class.
        noise: the standard deviation of the noise on each coordinate.
        factor: the radius of the inner ring; the outer one's is 1.
        train_seed: the seed of the train split.
        test_seed: the seed of the test split.
    """

    def draw(seed: int) -> Split:
        positions, labels = make_circles(points, noise=noise, factor=factor, random_state=seed)
        return Split(
            torch.from_numpy(np.asarray(positions, np.float32)),
            torch.from_numpy(np.asarray(labels, np.int64)),
        )

    return Splits(draw(train_seed), draw(test_seed), ("outer", "inner"))


def digits(root: Path, *, test_fraction: Share = 0.2, split_seed: Size = 0) -> Splits:
    """1,797 real handwritten digits of 8x8 pixels (UCI, through scikit-learn).

    Args:
        root: unused: the digits come with scikit-learn.
        test_fraction: the share of each class that is kept for the test.
        split_seed: the seed that chooses it.
    """
    pixels, target = load_digits(return_X_y=True)
    images = torch.from_numpy(np.asarray(pixels / DIGITS_MAXIMUM, np.float32)).view(-1, 1, 8, 8)
    labels = torch.from_numpy(np.asarray(target, np.int64))
    in_test = np.zeros(len(labels), dtype=bool)
    generator = np.random.default_rng(split_seed)
    for label in range(DIGITS_CLASSES):
        members = generator.permutation(np.flatnonzero(target == label))
        in_test[members[: round(test_fraction * len(members))]] = True
    test = torch.from_numpy(in_test)
    return Splits(
        Split(images[~test], labels[~test]),
        Split(images[test], labels[test]),
        tuple(str(label) for label in range(DIGITS_CLASSES)),
    )
