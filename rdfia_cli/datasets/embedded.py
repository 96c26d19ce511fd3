"""The datasets that need no download: two rings of points, and scikit-learn's digits.

Both are scikit-learn's to the bit, and held to it by tests; but importing it takes seconds, which
every start would pay.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from annotated_types import Ge

from rdfia_cli.errors import ComponentError, UsageError
from rdfia_cli.spec import Split, Splits

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        positions, labels = _draw_rings(points, noise, factor, seed)
        return Split(
            torch.from_numpy(np.asarray(positions, np.float32)),
            torch.from_numpy(np.asarray(labels, np.int64)),
        )

    return Splits(draw(train_seed), draw(test_seed), ("outer", "inner"))


def _draw_rings(
    points: int, noise: float, factor: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Positions (points, 2) and labels (points,), as `sklearn.datasets.make_circles` draws them."""
    generator = np.random.RandomState(seed)
    outer = points // 2
    counts = np.array([outer, points - outer])
    angles = np.concatenate([np.linspace(0, 2 * np.pi, n, endpoint=False) for n in counts])
    radii = np.repeat([1.0, factor], counts)
    positions = np.stack([np.cos(angles) * radii, np.sin(angles) * radii], 1)
    order = np.arange(points)
    generator.shuffle(order)
    noisy = positions[order] + generator.normal(scale=noise, size=positions.shape)
    return noisy, np.repeat([0, 1], counts)[order]


def _read_digits() -> NDArray[np.float64]:
    """The table (1797, 65) that scikit-learn ships: 64 pixels from 0 to 16, and the digit.

    Raises:
        ComponentError: it is not where scikit-learn has it.
    """
    found = find_spec("sklearn")
    for folder in (found.submodule_search_locations if found else None) or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.exists():
            with gzip.open(path, "rt", encoding="ascii") as file:
                return np.loadtxt(file, delimiter=",")
    raise ComponentError(
        "scikit-learn has no datasets/data/digits.csv.gz", "install it again: scikit-learn>=1.4"
    )


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
    table = _read_digits()
    pixels = np.asarray(table[:, :-1] / DIGITS_MAXIMUM, np.float32)
    images = torch.from_numpy(pixels).view(-1, 1, 8, 8)
    labels = torch.from_numpy(np.asarray(table[:, -1], np.int64))
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
