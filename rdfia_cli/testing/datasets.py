"""What every dataset promises."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch

from rdfia_cli import cache
from rdfia_cli.errors import RdfiaError
from rdfia_cli.spec import Split, Splits
from rdfia_cli.testing.subject import NotApplicableError, Subject, require
from rdfia_cli.training.split_checks import find_flaw

LOOKED_AT = 4096
"""Examples of a split that are compared and measured."""


def build(subject: Subject) -> Splits:
    """The dataset, made ready in the cache that RDFIA_CACHE names.

    Raises:
        NotApplicableError: its data cannot be had here.
    """
    try:
        built: Any = subject.build(cache.folder())
        if isinstance(built, Generator):
            built = _last(built)
    except RdfiaError as error:
        if error.__cause__ is not None:
            raise
        raise NotApplicableError(f"its data is not there: {error.fact}") from None
    require(isinstance(built, Splits), f"it returns {type(built).__name__}, not Splits")
    return built


def _last(generator: Generator[Any, None, Any]) -> Any:
    """What a generator returns at its end."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def _parts(splits: Splits) -> dict[str, Split]:
    named = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {name: split for name, split in named.items() if split is not None}


def splits_keep_their_contract(subject: Subject) -> None:
    """Each split has as many labels as inputs, all of one shape, and labels that name a class."""
    splits = build(subject)
    for name, split in _parts(splits).items():
        flaw = find_flaw(split, splits.input)
        require(flaw is None, f"the {name} split {flaw}")


def classes_have_names(subject: Subject) -> None:
    """There are two classes or more, each with a name of its own, and train shows all of them."""
    splits = build(subject)
    classes = splits.classes
    require(len(classes) >= 2, f"it has {len(classes)} classes")
    require(all(name for name in classes), "a class has no name")
    require(len(set(classes)) == len(classes), "two classes have the same name")
    shown = len(splits.train.labels.unique())
    require(shown == len(classes), f"train shows {shown} of the {len(classes)} classes")


def inputs_are_pixels_or_points(subject: Subject) -> None:
    """Images are uint8, or float32 in [0, 1]; points are finite float32."""
    for name, split in _parts(build(subject)).items():
        found = split.take(torch.arange(min(len(split), LOOKED_AT)))
        kinds = (torch.uint8, torch.float32)
        require(found.dtype in kinds, f"the {name} split is {found.dtype}, not uint8 or float32")
        require(found.isfinite().all(), f"the {name} split holds NaN or infinity")
        if found.ndim == 4 and found.dtype == torch.float32:
            low, high = float(found.min()), float(found.max())
            require(0 <= low <= high <= 1, f"{name} has pixels from {low:.3g} to {high:.3g}")


def it_is_the_same_each_time(subject: Subject) -> None:
    """Made ready twice it has the same examples in the same order, whatever the global seed."""
    torch.manual_seed(1)
    first = _parts(build(subject))
    torch.manual_seed(2)
    for name, split in _parts(build(subject)).items():
        examples = torch.arange(min(len(split), LOOKED_AT))
        same = len(split) == len(first[name]) and torch.equal(split.labels, first[name].labels)
        require(
            same and torch.equal(split.take(examples), first[name].take(examples)),
            f"the {name} split is another one the second time",
        )


def test_is_not_train(subject: Subject) -> None:
    """The test split is not the train split."""
    splits = build(subject)
    count = min(len(splits.test), len(splits.train), LOOKED_AT)
    examples = torch.arange(count)
    same = len(splits.test) == len(splits.train) and torch.equal(
        splits.test.take(examples), splits.train.take(examples)
    )
    require(not same, "test holds the examples of train")


CHECKS = (
    splits_keep_their_contract,
    classes_have_names,
    inputs_are_pixels_or_points,
    it_is_the_same_each_time,
    test_is_not_train,
)
