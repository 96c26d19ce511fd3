"""What the commands that train share: runs and sweeps brought to an end, and a model's cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rdfia_cli import console

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rdfia_cli.analysis.parameters import Cost
    from rdfia_cli.config import RunConfig
    from rdfia_cli.sweep.question import Question
    from rdfia_cli.training.assembly import Assembly

CONCLUDING = ".concluding.lock"
"""Held by whoever writes what a sweep found."""
RESULT_FIELDS = (
    *("model", "data", "seed", "epochs", "parameters", "train", "validation", "test", "best"),
    *("seconds", "images_per_second", "precision", "device", "weights_sha256"),
)
"""What a finished run's result has besides its place; null where the run is left unfinished."""


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


def conclude(
    question: Question, backend: str, seconds: float
) -> tuple[dict[str, Any], Sequence[Path]]:
    """Write what a sweep found into its folder: the object, the table and the pictures.

    Of several processes that end together, the last one to write is the last one to have looked.

    Returns:
        The object `rdfia.sweep/1`, and the pictures.
    """
    from rdfia_cli import durable
    from rdfia_cli.report.sweep import draw_sweep
    from rdfia_cli.sweep.ledger import Ledger
    from rdfia_cli.sweep.outcome import OUTCOME, TABLE, summarise, table

    folder = question.folder
    with durable.alone(folder / CONCLUDING):
        ledger = Ledger(folder)
        ledger.refresh()
        content = summarise(question, ledger, backend=backend, seconds=seconds)
        durable.write_json(folder / OUTCOME, content)
        durable.write_file(folder / TABLE, table(content["trials"]).encode())
        return content, draw_sweep(folder)
