"""The images of a layout, decoded into a draft of a store; those that cannot be read are named."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdfia_cli import cache
from rdfia_cli.datasets import parallel
from rdfia_cli.datasets.layout import SHOWN, readable, some
from rdfia_cli.errors import UsageError, count
from rdfia_cli.spec import Preparing

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from numpy.typing import NDArray

    from rdfia_cli.datasets.decode import Rule
    from rdfia_cli.datasets.layout import Layout
    from rdfia_cli.datasets.parallel import Examined
    from rdfia_cli.datasets.store import Draft

EVENTS_PER_SECOND = 10


@dataclass(frozen=True)
class Model:
    """The image whose shape all others must have.

    Attributes:
        shape: (H, W, C) of its pixels.
        name: the file; empty where the rule gives the shape.
    """

    shape: tuple[int, int, int]
    name: str


def find_model(layout: Layout, rule: Rule) -> Model:
    """An image that can be read, unless the rule says what shape the images come to.

    The first and the last of each class are looked at, before there is room for all by the shape of
    one: photos that differ in size mostly do so there.

    Raises:
        UsageError: none can be read, or those that were looked at differ in size.
    """
    if rule.size is not None:
        return Model((rule.size, rule.size, rule.channels), "")
    examined: Mapping[int, Examined] = {}
    for rows in (_ends(layout), range(len(layout.names))):
        examined = _look(layout, rule, rows)
        shapes = {row: one.shape for row, one in sorted(examined.items())}
        for row, shape in shapes.items():
            if shape is not None:
                model = Model(shape, layout.names[row])
                _refuse_other_shape(layout, examined, model)
                return model
    raise _unreadable(layout, _find_faults(layout, examined))


def _ends(layout: Layout) -> Sequence[int]:
    """The rows of the first and the last image of each class in each split."""
    labels = np.array(layout.labels)
    sizes = np.array([len(files) for files in layout.splits.values()])
    edges = np.union1d(np.flatnonzero(np.diff(labels)) + 1, sizes.cumsum()[:-1])
    firsts, lasts = np.append(0, edges), np.append(edges, len(labels)) - 1
    return np.union1d(firsts, lasts).tolist()


def _look(layout: Layout, rule: Rule, rows: Sequence[int]) -> Mapping[int, Examined]:
    """What becomes of some files, by row."""
    examined: dict[int, Examined] = {}
    paths = layout.paths
    with contextlib.closing(parallel.examine([paths[row] for row in rows], rule)) as answers:
        for answer in answers:
            examined |= {rows[place]: one for place, one in answer.items()}
    return examined


def fill(
    draft: Draft, layout: Layout, rule: Rule, model: Model, *, skip: bool
) -> Generator[Preparing, None, str]:
    """Decode all images into a draft.

    Args:
        draft: with room for all, in the shape of the model.
        layout: the images.
        rule: how they come to pixels.
        model: the image whose shape all others must have.
        skip: leave out those that cannot be read.

    Returns:
        The digest of the content of the files.

    Raises:
        UsageError: some cannot be read and are not to be skipped, or they differ in size.
    """
    examined = yield from _examine(draft, layout, rule, model)
    faults = _find_faults(layout, examined)
    if faults and not skip:
        raise _unreadable(layout, faults)
    kept = np.array([examined[row].fault is None for row in range(len(examined))])
    draft.labels[:] = layout.labels
    _refuse_lost_class(layout, draft.labels, kept)
    draft.keep(kept, faults)
    return layout.content([examined[row].digest for row in range(len(examined))])


def _examine(
    draft: Draft, layout: Layout, rule: Rule, model: Model
) -> Generator[Preparing, None, Mapping[int, Examined]]:
    """What became of each file, by row."""
    what, total, said = f"decoding the images in '{layout.shown}'", len(layout.names), -1.0
    images = draft.folder / cache.IMAGES
    examined: dict[int, Examined] = {}
    with contextlib.closing(parallel.examine(layout.paths, rule, images, model.shape)) as answers:
        for answer in answers:
            examined |= answer
            _refuse_other_shape(layout, answer, model)
            if time.monotonic() - said > 1 / EVENTS_PER_SECOND:
                said = time.monotonic()
                yield Preparing(what, len(examined), total, "images")
    yield Preparing(what, total, total, "images")
    return examined


def _refuse_other_shape(layout: Layout, answer: Mapping[int, Examined], model: Model) -> None:
    for row, one in answer.items():
        if one.shape not in (None, model.shape):
            raise UsageError(
                f"the images in '{layout.shown}' differ in size: {readable(model.name)} is "
                f"{_size(model.shape)}, {readable(layout.names[row])} is {_size(one.shape)} "
                "(width x height)",
                f"bring them to one: {layout.spec('size=64')} (and resize=shorter, squash or pad)",
            )


def _size(shape: tuple[int, int, int]) -> str:
    height, width, _ = shape
    return f"{width}x{height}"


def _find_faults(layout: Layout, examined: Mapping[int, Examined]) -> tuple[tuple[str, str], ...]:
    """The files that cannot be read, each with the reason."""
    return tuple(
        (readable(name), fault)
        for row, name in enumerate(layout.names)
        if (fault := examined[row].fault) is not None
    )


def _unreadable(layout: Layout, faults: tuple[tuple[str, str], ...]) -> UsageError:
    named = some([f"{name} ({reason})" for name, reason in faults])
    every = "; --json names them all" if len(faults) > SHOWN else ""
    return UsageError(
        f"{len(faults):,} of {count(len(layout.names), 'image')} in '{layout.shown}' cannot be "
        f"read: {named}",
        f"mend or remove them, or leave them out: {layout.spec('on_error=skip')}{every}",
        [(f"{readable(layout.shown)}/{name}", reason) for name, reason in faults],
    )


def _refuse_lost_class(layout: Layout, labels: NDArray[np.int64], kept: NDArray[np.bool_]) -> None:
    """Refuse a split in which not one image of some class can be read."""
    first = 0
    for split, files in layout.splits.items():
        part = slice(first, first + len(files))
        left = np.bincount(labels[part][kept[part]], minlength=len(layout.classes))
        if not left.all():
            raise UsageError(
                f"no image of class '{layout.classes[left.argmin()]}' in {split} can be read",
                "mend some of them, or remove the class",
            )
        first += len(files)
