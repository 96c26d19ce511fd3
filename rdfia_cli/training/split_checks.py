"""Whether a dataset's splits keep their contract, and are those that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import InputSpec, Split, Splits


def find_flaw(split: Split, expected: InputSpec) -> str | None:
    """What breaks the contract of a split, in words, or None."""
    inputs, labels, rows = split.inputs, split.labels, split.rows
    count = len(inputs) if rows is None else len(rows)
    if count != len(labels) or not count:
        return f"has {count} inputs and {len(labels)} labels"
    if rows is not None and (rows.min() < 0 or rows.max() >= len(inputs)):
        return f"has rows outside its {len(inputs)} inputs"
    if tuple(inputs.shape[1:]) != expected.shape:
        return f"has shape {tuple(inputs.shape[1:])}, but train has {expected.shape}"
    if labels.dtype != torch.int64 or labels.ndim != 1:
        return f"has labels of {labels.ndim} axes and type {labels.dtype}, not 1 and int64"
    if labels.min() < 0 or labels.max() >= expected.classes:
        return f"has labels outside 0 to {expected.classes - 1}"
    return None


def compare(found: Splits, expected: Splits, name: str) -> Iterator[str]:
    """Refuse a dataset whose examples or classes are not those that a model was trained on.

    Args:
        found: the dataset.
        expected: what the model was trained on.
        name: of the dataset.

    Yields:
        What the user should know, in a line.

    Raises:
        ComponentError: shape, number or order of the classes differ.
    """
    if found.input != expected.input:
        raise ComponentError(
            f"dataset '{name}' has shape {found.input.shape} and {found.input.classes} classes, "
            f"the run has {expected.input.shape} and {expected.input.classes}",
            "evaluate on data of the same shape and classes",
        )
    pairs = zip(found.classes, expected.classes, strict=True)
    differing = [f"'{ours}' for '{theirs}'" for ours, theirs in pairs if ours != theirs]
    if not differing:
        return
    if sorted(found.classes) == sorted(expected.classes):
        raise ComponentError(
            f"dataset '{name}' has the classes of the run in another order: {differing[0]}",
            "evaluate on data whose classes have the same order",
        )
    yield (
        f"{len(differing)} of {len(expected.classes)} classes of '{name}' have other names than "
        f"the run's, such as {differing[0]}"
    )
