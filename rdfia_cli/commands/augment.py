"""`rdfia augment`: draw a grid of augmented samples."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rdfia_cli import console

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from rdfia_cli.report.samples import Column
    from rdfia_cli.training.preview import Preview

LARGEST_SHARES = 2
"""How many classes of a mixed label are named."""


def run(flags: Mapping[str, Any]) -> None:
    """Draw what the flags say."""
    from rdfia_cli.config import resolve
    from rdfia_cli.report.figure import picture_path
    from rdfia_cli.sources import Sources

    path = picture_path(flags["out"])
    settings = {key: flags[key] for key in ("data", "augment", "seed")}
    config = resolve(Sources(flags=settings, environment=os.environ)).config
    from rdfia_cli.commands.progress import display, watch
    from rdfia_cli.report.samples import draw_samples
    from rdfia_cli.training.preview import preview

    with display(quiet=flags["quiet"]) as show:
        found = watch(preview(config, flags["samples"], flags["draws"]), show)
    for text in found.warnings:
        console.warn(text)
    if not config.augment and not flags["quiet"]:
        console.say("nothing is augmented: add --augment A, such as --augment random_affine")
    draw_samples(list(_columns(found)), path)
    if flags["json"]:
        console.print_json(
            {
                "schema": "rdfia.augment/1",
                "out": str(path),
                "samples": len(found.labels),
                "draws": len(found.draws),
                "shape": list(found.evaluated.shape[1:]),
            }
        )
    else:
        console.print_result(str(path))


def _columns(found: Preview) -> Iterable[Column]:
    from rdfia_cli.report.samples import Column

    names = [found.classes[label] for label in found.labels.tolist()]
    blank = [""] * len(names)
    yield Column("original", found.originals.numpy(), names)
    yield Column("at test", found.evaluated.numpy(), blank)
    for number, batch in enumerate(found.draws, start=1):
        mixed = batch.labels.ndim == 2
        captions = [shares(row, found.classes) for row in batch.labels] if mixed else blank
        yield Column(f"draw {number}", batch.inputs.numpy(), captions)


def shares(label: Tensor, classes: tuple[str, ...]) -> str:
    """A mixed label in words, a line a class, such as `cat 0.70` and `dog 0.30`."""
    top = label.topk(min(LARGEST_SHARES, len(classes)))
    parts = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return "\n".join(f"{classes[index]} {share:.2f}" for index, share in parts if share > 0)
