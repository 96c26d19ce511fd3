"""`rdfia train`: resolve the settings, run the experiment, show its events, print its result."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import console
from rdfia_cli.errors import count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rdfia_cli.analysis.parameters import Cost
    from rdfia_cli.config import Resolved, RunConfig
    from rdfia_cli.sources import Sources
    from rdfia_cli.training.assembly import Assembly

OUTPUT_FLAGS = frozenset({"dry_run", "json", "quiet", "traceback"})
RESULT_FIELDS = (
    *("model", "data", "seed", "epochs", "parameters", "train", "validation", "test", "best"),
    *("seconds", "images_per_second", "precision", "device", "weights_sha256"),
)
"""What a finished run's result has besides its place; null where the run is left unfinished."""
SOURCE_FLAGS = frozenset({"set", "config", "recipe"})


def run(flags: Mapping[str, Any]) -> None:
    """Train what the flags say, unless its result is there already."""
    from rdfia_cli.config import resolve

    resolved = resolve(sources(flags))
    config = resolved.config
    if flags["dry_run"]:
        _print_plan(resolved, as_json=flags["json"], quiet=flags["quiet"])
        return
    _print_result(complete(config, quiet=flags["quiet"]), flags)


def complete(config: RunConfig, *, quiet: bool, anew: str = "--if-exists new") -> Mapping[str, Any]:
    """The result of a run: the stored one, else what training, or the rest of it, gives.

    Args:
        config: its settings.
        quiet: whether nothing is said meanwhile.
        anew: the option of the command that trains a finished run again.
    """
    from rdfia_cli import run

    place = run.place(config)
    if place.state == "finished":
        if not quiet:
            console.say(f"'{place.folder}' is finished; {anew} trains again")
        for text in run.outdated(place.folder, config):
            console.warn(text)
        if config.log:
            _tell_loggers(config, place.folder, quiet=quiet)
        return place.result
    if place.state == "unfinished" and config.if_exists == "skip":
        return {
            **dict.fromkeys(RESULT_FIELDS),
            "schema": "rdfia.result/1",
            "command": "train",
            "run": str(place.folder),
            "state": "unfinished",
        }
    return _train(config, place.folder, quiet=quiet)


def _tell_loggers(config: RunConfig, folder: Path, *, quiet: bool) -> None:
    from rdfia_cli.experiment import tell_loggers

    for warning in tell_loggers(config, folder):
        console.warn(warning.text)
    if not quiet:
        console.say(f"logged to {', '.join(chosen.name for chosen in config.log)}")


def sources(flags: Mapping[str, Any]) -> Sources:
    """The settings that a command line gives, by their source."""
    from rdfia_cli.sources import Sources

    return Sources(
        flags={k: v for k, v in flags.items() if k not in OUTPUT_FLAGS | SOURCE_FLAGS},
        assignments=flags["set"] or (),
        files=[Path(file) for file in flags["config"] or ()],
        recipe=flags["recipe"],
        environment=os.environ,
    )


def _train(config: RunConfig, folder: Path, *, quiet: bool) -> Mapping[str, Any]:
    from rdfia_cli.commands.progress import display

    result: Mapping[str, Any] = {}
    with display(quiet=quiet) as show:
        from rdfia_cli.experiment import Finished, Fitted, run_experiment
        from rdfia_cli.report.curves import draw_run
        from rdfia_cli.report.run_sections import write_run_page

        for event in run_experiment(config, folder):
            show(event)
            if isinstance(event, Fitted):
                draw_run(event.folder)
                write_run_page(event.folder)
            elif isinstance(event, Finished):
                result = event.result
    return result


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


def cost_of(parts: Assembly) -> Cost:
    """What a run's model costs.

    Raises:
        ComponentError: it cannot be called; it is named.
    """
    from rdfia_cli import registry
    from rdfia_cli.analysis.parameters import count
    from rdfia_cli.spec import parse_spec

    component = registry.find("models", parse_spec(parts.config.model.name))
    with registry.naming(component, f"cannot be counted on inputs of shape {parts.input.shape}"):
        return count(parts.model, parts.input)


def _print_plan(resolved: Resolved, *, as_json: bool, quiet: bool) -> None:
    """Print what a run would be, and where it would go.

    Raises:
        UsageError: the run would be refused, since its folder is in the way.
    """
    from rdfia_cli import run
    from rdfia_cli.commands.progress import display, watch
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
