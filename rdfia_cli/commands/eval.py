"""`rdfia eval RUN`: score a run's weights on a split, and print or draw what was measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import console
from rdfia_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rdfia_cli.evaluation import AttentionMaps, Evaluation
    from rdfia_cli.report.attention import AttentionPicture

SPLITS = ("test", "validation", "train")
EXAMPLES_LOOKED_AT = 8
"""Rows of the picture of attention."""


def run(flags: Mapping[str, Any]) -> None:
    """Evaluate what the flags say."""
    split = flags["split"]
    if split not in SPLITS:
        raise UsageError(f"unknown split '{split}'", nearest(split, SPLITS))
    from rdfia_cli.config import resolve_component, resolve_device
    from rdfia_cli.report.figure import picture_path
    from rdfia_cli.run import load_config
    from rdfia_cli.sweep.mistaken import refuse_sweep

    plot = flags["plot"] and picture_path(flags["plot"])
    attention = flags["attention"] and picture_path(flags["attention"])
    folder = Path(flags["run"])
    refuse_sweep(folder)
    config = load_config(folder)
    data = flags["data"] and resolve_component("data", flags["data"], "--data")
    if flags["device"]:
        device = resolve_device(flags["device"], "--device")
        config = config.model_copy(update={"device": device})

    from rdfia_cli.commands.progress import display, watch
    from rdfia_cli.evaluation import describe_evaluation, evaluate

    with display(quiet=flags["quiet"]) as show:
        look_at = EXAMPLES_LOOKED_AT if attention else 0
        found = watch(evaluate(folder, config, split, data, look_at), show)
    for text in found.warnings:
        console.warn(text)
    result = describe_evaluation(folder, found)
    if plot:
        from rdfia_cli.report.confusion import draw_evaluation

        draw_evaluation(result, plot)
        console.say(f"drawn: {plot}")
    if attention:
        _draw_attention(found, result, attention)
    if flags["json"]:
        console.print_json(result)
    else:
        _print_tables(result)


def _draw_attention(found: Evaluation, result: Mapping[str, Any], path: Path) -> None:
    from rdfia_cli.report.attention import draw_attention

    assert found.attention is not None
    draw_attention(attention_picture(found.attention, found.classes, result), path)
    console.say(f"drawn: {path}")


def attention_picture(
    maps: AttentionMaps, classes: Sequence[str], result: Mapping[str, Any]
) -> AttentionPicture:
    """What a picture of attention shows, as arrays; `result` is the evaluation's object."""
    from rdfia_cli.report.attention import AttentionPicture

    pairs = zip(maps.labels.tolist(), maps.predictions.tolist(), strict=True)
    named = [(str(classes[label]), str(classes[guess])) for label, guess in pairs]
    return AttentionPicture(
        title=f"{result['run']}: attention on the {result['split']} split of {result['data']}",
        captions=[
            truth if truth == guess else f"{truth}, taken for {guess}" for truth, guess in named
        ],
        images=maps.images.numpy(),
        heads=maps.heads.numpy(),
        rollout=maps.rollout.numpy(),
        positions=None if maps.positions is None else maps.positions.numpy(),
    )


def _print_tables(result: Mapping[str, Any]) -> None:
    summary = result[result["split"]]
    console.print_table(
        ("loss", "accuracy", "top-5", "calibration error"),
        [
            (
                f"{summary['loss']:.4f}",
                f"{summary['accuracy']:.4f}",
                f"{summary['top5']:.4f}",
                f"{result['calibration_error']:.4f}",
            ),
        ],
        title=f"{result['model']} on the {result['split']} split of {result['data']}: "
        f"{result['examples']:,} examples",
    )
    console.print_table(
        ("class", "examples", "accuracy", "taken for"),
        [
            (
                entry["name"],
                str(entry["examples"]),
                "" if math.isnan(entry["accuracy"]) else f"{entry['accuracy']:.4f}",
                _taken_for(index, result),
            )
            for index, entry in enumerate(result["classes"])
        ],
        title="each class",
    )


def _taken_for(index: int, result: Mapping[str, Any]) -> str:
    """The classes that a class is most often mistaken for, with how often."""
    row = result["confusion"][index]
    wrong = sorted((-count, other) for other, count in enumerate(row) if other != index and count)
    shown = [f"{result['classes'][other]['name']} ({-count})" for count, other in wrong[:3]]
    return ", ".join([*shown, *(["..."] if len(wrong) > 3 else [])])
