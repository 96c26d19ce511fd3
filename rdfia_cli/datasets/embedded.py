"""The datasets that need no download: two rings of points, and scikit-learn's digits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from annotated_types import Ge
from sklearn.datasets import load_digits, make_circles

from rdfia_cli.errors import UsageError
from rdfia_cli.spec import Split, Splits

if TYPE_CHECKING:
    from pathlib import Path

    from rdfia_cli.spec import Count, Fraction, NonNegative, Size

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


def digits(root: Path, *, test_every: Annotated[int, Ge(2)] = 5) -> Splits:
    """1,797 real handwritten digits of 8x8 pixels (UCI, through scikit-learn).

    The images stand in the order in which their writers came, so that taking every fifth of a class
    gives the test split each writer's share, without a draw.

    Args:
        root: unused: the digits come with scikit-learn.
        test_every: one in this many of each class is for the test.

    Raises:
        UsageError: a class has fewer images than that.
    """
    pixels, target = load_digits(return_X_y=True)
    images = torch.from_numpy(np.asarray(pixels / DIGITS_MAXIMUM, np.float32)).view(-1, 1, 8, 8)
    labels = torch.from_numpy(np.asarray(target, np.int64))
    fewest = int(torch.bincount(labels).min())
    if test_every > fewest:
        raise UsageError(
            f"data.test_every = {test_every} leaves no test: a class has {fewest} images",
            f"choose {fewest} or less",
        )
    in_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(DIGITS_CLASSES):
        in_test[torch.nonzero(labels == label).flatten()[test_every - 1 :: test_every]] = True
    return Splits(
        Split(images[~in_test], labels[~in_test]),
        Split(images[in_test], labels[in_test]),
        tuple(str(label) for label in range(DIGITS_CLASSES)),
    )
