"""The figures of the course report: the recipe of each, what the report states, what is measured.

A statement is compared with the measured numbers, never repeated as ours. What counts as agreement
is said here once: a rounded accuracy within 3 points, "like" another figure within 3 points.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

POINTS = 0.03
"""How far a measured accuracy may be from a rounded one, or from that of a figure it is like."""
NO_GAP = 0.05
"""A gap between train and test below which the report sees none."""
LAST_EPOCHS = 10
"""Epochs over which noise is measured, fewer where there are fewer."""
EARLY_EPOCH = 3
"""The epoch at which one figure is ahead of another that learns slower."""

HOLDS: Mapping[bool | None, str] = {True: "holds", False: "does not hold", None: "not compared"}
"""Whether a statement and the numbers agree, in words."""


@dataclass(frozen=True)
class Curve:
    """What a run did, an entry an epoch.

    Attributes:
        train, test: accuracies.
        train_loss, test_loss: mean cross-entropies in nats.
    """

    train: Sequence[float]
    test: Sequence[float]
    train_loss: Sequence[float]
    test_loss: Sequence[float]

    @property
    def gap(self) -> float:
        """Accuracy on train beyond that on test, at the end."""
        return self.train[-1] - self.test[-1]

    @property
    def noise(self) -> float:
        """How far the test accuracy goes up and down from epoch to epoch at the end."""
        last = self.test[-LAST_EPOCHS:]
        steps = [later - earlier for earlier, later in itertools.pairwise(last)]
        return statistics.fmean(abs(step) for step in steps) if steps else 0.0

    @property
    def early(self) -> float:
        """The test accuracy after the first epochs."""
        return self.test[min(EARLY_EPOCH, len(self.test)) - 1]


def read_curve(epochs: Sequence[Mapping[str, Any]]) -> Curve:
    """The curve of a run, from the lines of its `metrics.jsonl`."""
    lines = [line for line in epochs if "step" not in line]
    return Curve(
        [line["train"]["accuracy"] for line in lines],
        [line["test"]["accuracy"] for line in lines],
        [line["train"]["loss"] for line in lines],
        [line["test"]["loss"] for line in lines],
    )


Curves = Mapping[str, Curve]
"""The curve of each figure by its name."""


@dataclass(frozen=True)
class Verdict:
    """A statement of the report beside what was measured.

    Attributes:
        statement: the report's, in its words.
        measured: the numbers that it is compared with.
        holds: whether they agree; None where they cannot be compared.
    """

    statement: str
    measured: str
    holds: bool | None


Check = Callable[[str, Curves], tuple[str, bool]]


@dataclass(frozen=True)
class Claim:
    """A statement of the report, and how it is compared.

    Attributes:
        statement: in the report's words.
        check: from a figure's name and all curves to the numbers, and whether they agree.
        needs: the other figures that it speaks of.
    """

    statement: str
    check: Check
    needs: tuple[str, ...] = ()

    def judge(self, figure: str, curves: Curves, without: Mapping[str, str]) -> Verdict:
        """Compare the statement with what was measured.

        Args:
            figure: the name of the figure that it is about.
            curves: of the figures that can be compared.
            without: why there is no curve of others, such as `failed`, by their names.
        """
        for name in (figure, *self.needs):
            if name not in curves:
                why = without.get(name, "was not run")
                told = why.removeprefix("is ") if name == figure else f"figure {name} {why}"
                return Verdict(self.statement, told, None)
        measured, holds = self.check(figure, curves)
        return Verdict(self.statement, measured, holds)


@dataclass(frozen=True)
class Figure:
    """A figure of the report, or a result that it tells beside them.

    Attributes:
        name: `1` to `17`, or the name of its recipe.
        recipe: what makes it.
        title: what it shows.
        claims: what the report says of it.
        sweep: whether the recipe is a sweep.
        quick: the settings with which it runs on the embedded data in seconds.
    """

    name: str
    recipe: str
    title: str
    claims: tuple[Claim, ...] = ()
    sweep: bool = False
    quick: tuple[str, ...] = ()


def _about(split: str, accuracy: float) -> Check:
    def check(name: str, curves: Curves) -> tuple[str, bool]:
        found = getattr(curves[name], split)[-1]
        return f"{split} {found:.1%}", abs(found - accuracy) <= POINTS

    return check


def _above(accuracy: float) -> Check:
    def check(name: str, curves: Curves) -> tuple[str, bool]:
        found = max(curves[name].test)
        return f"test at best {found:.1%}", found > accuracy

    return check


def _like(other: str) -> Check:
    def check(name: str, curves: Curves) -> tuple[str, bool]:
        ours, theirs = curves[name].test[-1], curves[other].test[-1]
        return f"test {ours:.1%}, figure {other} {theirs:.1%}", abs(ours - theirs) <= POINTS

    return check


def _more(what: str, other: str, words: str, *, less: bool = False) -> Check:
    """Whether a figure has more of something than another one."""

    def check(name: str, curves: Curves) -> tuple[str, bool]:
        ours, theirs = (float(getattr(curves[n], what)) for n in (name, other))
        text = f"{words} {100 * ours:.2f} points, figure {other} {100 * theirs:.2f}"
        return text, ours < theirs if less else ours > theirs

    return check


def _ahead(other: str) -> Check:
    def check(name: str, curves: Curves) -> tuple[str, bool]:
        ours, theirs = curves[name].early, curves[other].early
        text = f"test after epoch {EARLY_EPOCH}: {ours:.1%}, figure {other} {theirs:.1%}"
        return text, ours > theirs

    return check


def _behind(other: str) -> Check:
    def check(name: str, curves: Curves) -> tuple[str, bool]:
        text, ahead = _ahead(other)(name, curves)
        return text, not ahead

    return check


def _no_gap(name: str, curves: Curves) -> tuple[str, bool]:
    gap = curves[name].gap
    return f"train - test {100 * gap:+.1f} points", abs(gap) <= NO_GAP


def _overfits(name: str, curves: Curves) -> tuple[str, bool]:
    gap = curves[name].gap
    return f"train - test {100 * gap:+.1f} points", gap > NO_GAP


def _underfits(name: str, curves: Curves) -> tuple[str, bool]:
    found = curves[name].train[-1]
    return f"train {found:.1%}, figure 1 {curves['1'].train[-1]:.1%}", found < curves["1"].train[-1]


CIRCLES = ("epochs=30",)
ON_DIGITS = ("data=digits", "epochs=8", "batch_size=32", "validation=0.1")

FIGURES: tuple[Figure, ...] = (
    Figure("1", "mlp-circles", "perceptron on circles, lr 0.03, batch 10", quick=CIRCLES),
    Figure(
        "2",
        "mlp-circles-lr-high",
        "lr 0.3",
        (
            Claim("above 90 %", _above(0.9)),
            Claim("oscillates", _more("noise", "1", "a step of the test"), ("1",)),
        ),
        quick=CIRCLES,
    ),
    Figure(
        "3",
        "mlp-circles-lr-low",
        "lr 0.001",
        (Claim("slow", _behind("1"), ("1",)), Claim("underfits", _underfits, ("1",))),
        quick=CIRCLES,
    ),
    Figure(
        "4",
        "mlp-circles-full-batch",
        "batch 200",
        (Claim("like figure 1", _like("1"), ("1",)),),
        quick=CIRCLES,
    ),
    Figure(
        "5",
        "mlp-circles-online",
        "batch 1",
        (Claim("oscillates", _more("noise", "1", "a step of the test"), ("1",)),),
        quick=("epochs=10",),
    ),
    Figure(
        "6",
        "cnn-cifar10-lr-low",
        "CNN on CIFAR-10, lr 0.01",
        (Claim("56 %", _about("test", 0.56)),),
        quick=ON_DIGITS,
    ),
    Figure(
        "7",
        "cnn-cifar10-batch-32",
        "batch 32",
        (
            Claim("like figure 8", _like("8"), ("8",)),
            Claim("noisier", _more("noise", "8", "a step of the test"), ("8",)),
        ),
        quick=(*ON_DIGITS, "batch_size=8"),
    ),
    Figure(
        "8",
        "cnn-cifar10",
        "CNN on CIFAR-10, lr 0.1, batch 128",
        (Claim("train ~100 %", _about("train", 1.0)), Claim("test ~70 %", _about("test", 0.7))),
        quick=ON_DIGITS,
    ),
    Figure(
        "9",
        "cnn-cifar10-normalize",
        "normalised channels",
        (Claim("learns faster", _ahead("8"), ("8",)), Claim("overfits", _overfits)),
        quick=ON_DIGITS,
    ),
    Figure(
        "10",
        "cnn-cifar10-zca",
        "ZCA whitening",
        (Claim("like figure 9", _like("9"), ("9",)),),
        quick=ON_DIGITS,
    ),
    Figure(
        "11",
        "cnn-cifar10-augment",
        "normalised, random crop and flip",
        (Claim("~80 %", _about("test", 0.8)),),
        quick=ON_DIGITS,
    ),
    Figure(
        "12",
        "cnn-cifar10-affine",
        "and random affine maps",
        (Claim("~80 %", _about("test", 0.8)), Claim("no gap", _no_gap)),
        quick=ON_DIGITS,
    ),
    Figure(
        "13", "cnn-cifar10-exponential", "figure 11 with an exponential schedule", quick=ON_DIGITS
    ),
    Figure(
        "14",
        "cnn-cifar10-step",
        "figure 11 with a step schedule",
        # The step must come within the few epochs, or it would be figure 11 once more.
        quick=(*ON_DIGITS, "schedule.every=4"),
    ),
    Figure("15", "cnn-cifar10-adam", "figure 11 with Adam", quick=ON_DIGITS),
    Figure(
        "16",
        "cnn-cifar10-dropout",
        "figure 13 with dropout",
        (Claim("~80 % at 20 epochs", _about("test", 0.8)),),
        quick=ON_DIGITS,
    ),
    Figure(
        "17",
        "cnn-cifar10-batchnorm",
        "figure 16 with batch normalisation",
        (
            Claim("no gap", _no_gap),
            Claim("noisy test", _more("noise", "16", "a step of the test"), ("16",)),
        ),
        quick=ON_DIGITS,
    ),
    Figure("mlp-mnist", "mlp-mnist", "perceptron on MNIST", quick=ON_DIGITS),
    Figure(
        "lenet-mnist",
        "lenet-mnist",
        "LeNet-5 on MNIST",
        quick=(*ON_DIGITS, 'augment=["resize:size=28"]'),
    ),
    Figure(
        "vit-mnist",
        "vit-mnist",
        "Vision Transformer on MNIST",
        quick=(*ON_DIGITS, "model.patch=2", "augment=[]"),
    ),
    Figure(
        "vit-mnist-dim",
        "vit-mnist-dim",
        "ViT: width",
        sweep=True,
        quick=(*ON_DIGITS, "model.patch=2", "augment=[]"),
    ),
    Figure(
        "vit-mnist-patch",
        "vit-mnist-patch",
        "ViT: patch",
        sweep=True,
        quick=(*ON_DIGITS, "augment=[]"),
    ),
    Figure(
        "vit-mnist-depth",
        "vit-mnist-depth",
        "ViT: depth",
        sweep=True,
        quick=(*ON_DIGITS, "model.patch=2", "augment=[]"),
    ),
    Figure(
        "vit-mnist-position",
        "vit-mnist-position",
        "ViT: position embedding",
        sweep=True,
        quick=(*ON_DIGITS, "model.patch=2", "augment=[]"),
    ),
)
QUICK_OVER: Mapping[str, Sequence[str]] = {"vit-mnist-patch": ("model.patch=1,2,4,8",)}
"""What a sweep varies instead, on images of 8x8 pixels."""
