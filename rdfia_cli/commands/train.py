"""`rdfia train`: resolve the settings, run the experiment, show its events, print its result."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import console
from rdfia_cli.errors import count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rdfia_cli.config import Resolved


def run(flags: Mapping[str, Any]) -> None:
    """Train what the flags say, unless its result is there already."""
    from rdfia_cli.config import resolve
    from rdfia_cli.sources import sources_of

    resolved = resolve(sources_of(flags, os.environ))
    config = resolved.config
    if flags["dry_run"]:
        _print_plan(resolved, as_json=flags["json"], quiet=flags["quiet"])
        return
    from rdfia_cli.commands.running import complete

    _print_result(complete(config, quiet=flags["quiet"]), flags)


def _print_result(result: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
    if flags["json"]:
        console.print_json(result)
        return
    if result["test"] is None:
        console.say(f"'{result['run']}' is unfinished, and left as it is")
        return
    console.print_table(
        ("split", "loss", "accuracy"),
        [
            (split, f"{result[split]['loss']:.4f}", f"{result[split]['accuracy']:.4f}")
            for split in ("train", "validation", "test")
            if result[split]
        ],
        title=f"{result['model']} on {result['data']}, {count(result['epochs'], 'epoch')}, "
        f"{result['seconds']:.1f} s of training, {result['precision']} on {result['device']}",
    )
    if not flags["quiet"]:
        _say_what_next(Path(result["run"]))


def _say_what_next(folder: Path) -> None:
    console.say(f"curves      {folder / 'curves.png'}")
    console.say(f"page        {folder / 'report.html'}")
    console.say(f"evaluate    rdfia eval {folder}")
    console.say(f"run again   rdfia train --config {folder / 'config.toml'} --if-exists new")


def _print_plan(resolved: Resolved, *, as_json: bool, quiet: bool) -> None:
    """Print what a run would be, and where it would go.

    Raises:
        UsageError: the run would be refused, since its folder is in the way.
    """
    from rdfia_cli import run
    from rdfia_cli.commands.progress import display, watch
    from rdfia_cli.commands.running import cost_of
    from rdfia_cli.experiment import plan_experiment
    from rdfia_cli.spec import value_text

    folder = run.place(resolved.config).folder
    with display(quiet=quiet) as show:
        plan = watch(plan_experiment(resolved.config), show)
    for text in plan.assembly.splits.warnings:
        console.warn(text)
    cost = cost_of(plan.assembly)
    content: dict[str, Any] = {
        "schema": "rdfia.plan/1",
        "command": "train",
        "run": str(folder),
        "parameters": cost.parameters,
        "macs": cost.macs,
        "steps_per_epoch": plan.steps_per_epoch,
        "steps": plan.steps_per_epoch * resolved.config.epochs,
        "precision": plan.assembly.arithmetic.precision,
        "device": str(plan.assembly.device),
        "config": resolved.values(),
        "origins": dict(resolved.origins),
    }
    if as_json:
        console.print_json(content)
        return
    console.print_table(
        ("setting", "value", "origin"),
        [(k, value_text(v), resolved.origins[k]) for k, v in resolved.values().items()],
    )
    shown = ("run", "parameters", "macs", "steps_per_epoch", "steps", "precision", "device")
    console.print_result("")
    console.print_columns(
        (key.replace("_", " "), f"{v:,}" if isinstance(v := content[key], int) else str(v))
        for key in shown
    )
