"""How one figure of the report is made: its recipe is trained or swept, unless that is done."""

from __future__ import annotations

import json
import os
import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import console
from rdfia_cli.errors import PreemptedError, RdfiaError
from rdfia_cli.report.figures import QUICK_OVER, Figure, read_curve

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from rdfia_cli.config import RunConfig
    from rdfia_cli.sources import Sources
    from rdfia_cli.sweep.question import Question
    from rdfia_cli.sweep.space import Dimension

HARMLESS = frozenset(
    {"seed", "device", "precision", "deterministic", "log_every", "log", "out", "if_exists"}
)
"""Settings that a run may have otherwise than its recipe and still be the report's experiment."""
NOTHING_MADE: Mapping[str, Any] = {
    **dict.fromkeys(("data", "command", "test", "error", "remedy")),
    "compared": False,
    "changed": [],
}
"""What is told of a figure that could not be made."""
OWN_FLAGS = frozenset({"figures", "quick", "data", "set", "out", "json", "quiet", "traceback"})
"""The flags that are no settings of the runs."""


def make(
    figure: Figure, flags: Mapping[str, Any], replaced: Mapping[str, str], folder: Path
) -> dict[str, Any]:
    """What one figure is and gives; an error takes down its figure only.

    Raises:
        PreemptedError: asked to stop.
    """
    if not flags["quiet"]:
        console.say(f"figure {figure.name}: {figure.title} ({figure.recipe})")
    found: dict[str, Any] = {
        "name": figure.name,
        "recipe": figure.recipe,
        "title": figure.title,
        **NOTHING_MADE,
    }
    try:
        execute = _sweep if figure.sweep else _train
        return {**found, **execute(figure, flags, replaced, folder)}
    except PreemptedError:
        raise
    except RdfiaError as error:
        told = "; ".join(text for text in (error.fact, error.remedy) if text)
        console.warn(f"figure {figure.name}: {told}")
        return {**found, "error": error.fact, "remedy": error.remedy or None}


def sources_of_figure(
    figure: Figure, flags: Mapping[str, Any], replaced: Mapping[str, str], out: Path | None
) -> Sources:
    """The settings of a figure's recipe, with what the command's flags change.

    Args:
        figure: which.
        flags: of the command.
        replaced: the specs that take the places of datasets.
        out: the folder of its run or sweep, or None for the usual one.
    """
    from rdfia_cli.sources import Sources

    dataset = _dataset(figure)
    quick = list(figure.quick) if flags["quick"] else []
    given = [f"data={replaced[dataset]}"] if dataset in replaced else []
    # A flag of this command is for every recipe, so it goes over what is quick.
    asked = [_assignment(key, value) for key, value in flags.items() if _is_setting(key, value)]
    place = [] if out is None else [f"out={out}"]
    return Sources(
        {},
        assignments=[*quick, *given, *asked, *(flags["set"] or ()), *place],
        recipe=figure.recipe,
        environment=os.environ,
        sweep=figure.sweep,
    )


def _is_setting(key: str, value: Any) -> bool:
    return key not in OWN_FLAGS and value not in (None, [], ())


def _assignment(key: str, value: Any) -> str:
    """The text of `--set` that says what a flag does."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{'optimizer.lr' if key == 'lr' else key}={text}"


def _dataset(figure: Figure) -> str:
    """The name of the dataset in a figure's recipe."""
    from rdfia_cli.sources import Sources, merge

    return merge(Sources({}, recipe=figure.recipe, sweep=figure.sweep))["data"]["name"].value


def _train(
    figure: Figure, flags: Mapping[str, Any], replaced: Mapping[str, str], folder: Path
) -> dict[str, Any]:
    """Train a figure's recipe, unless that is done.

    Raises:
        RdfiaError: it failed, or `if_exists` leaves it unfinished.
    """
    from rdfia_cli.commands.running import complete
    from rdfia_cli.config import resolve
    from rdfia_cli.report.again import command_line
    from rdfia_cli.run import METRICS, read_lines
    from rdfia_cli.sources import Sources

    asked = folder / "runs" / figure.recipe
    config = resolve(sources_of_figure(figure, flags, replaced, asked)).config
    result = complete(config, quiet=flags["quiet"], anew="--set if_exists=new")
    # With if_exists = "new" a run goes elsewhere than asked.
    out = Path(result["run"])
    if result["test"] is None:
        raise RdfiaError(f"'{out}' is unfinished, and left as it is")
    curve = read_curve(read_lines(out / METRICS))
    return {
        "data": result["data"],
        "compared": _is_the_reports(config, out, figure, replaced),
        "changed": changed_settings(config, resolve(Sources({}, recipe=figure.recipe)).config),
        "command": command_line(config),
        "epochs": result["epochs"],
        "parameters": result["parameters"],
        "train": curve.train[-1],
        "test": curve.test[-1],
        "best_test": max(curve.test),
        "gap": curve.gap,
        "seconds": result["seconds"],
        "run": str(out),
        "curve": asdict(curve),
    }


def changed_settings(ours: RunConfig, recipe: RunConfig, varied: Collection[str] = ()) -> list[str]:
    """The settings that decide a result and are not the recipe's, each with both values.

    The data are not among them: what they are is told by themselves. Of another component its own
    settings are not told, and neither are those that vary.
    """
    here, there = ours.values(), recipe.values()
    changed = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    return [
        f"{key}={_plain(here.get(key))} (the recipe has {_plain(there.get(key))})"
        for key in changed
        if key not in varied
        and key.partition(".")[0] not in HARMLESS | {"data"}
        and key.rpartition(".")[0] not in changed
    ]


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)


def _is_the_reports(
    config: RunConfig, run_folder: Path, figure: Figure, replaced: Mapping[str, str]
) -> bool:
    """Whether a run has the data that the report speaks of, or a folder that is said to hold it.

    A folder is taken at its word where it has as many classes and images.
    """
    from rdfia_cli.analysis.explain import PUBLISHED
    from rdfia_cli.run import read_environment

    name, theirs = config.data.name, _dataset(figure)
    if name != "folder" or theirs not in replaced or theirs not in PUBLISHED:
        return name == theirs
    told = read_environment(run_folder) or {}
    published, images = PUBLISHED[theirs]
    examples: Mapping[str, int] = told.get("examples") or {}
    # A run of an older rdfia tells its classes alone.
    found = sum(n for split, n in examples.items() if split != "test") if examples else images
    return (told.get("classes"), found) == (published.classes, images)


def _sweep(
    figure: Figure, flags: Mapping[str, Any], replaced: Mapping[str, str], folder: Path
) -> dict[str, Any]:
    from rdfia_cli.commands.running import conclude
    from rdfia_cli.commands.sweep_progress import display
    from rdfia_cli.config import spec_text
    from rdfia_cli.sweep.campaign import Execution, open_ledger, plan, run_campaign
    from rdfia_cli.sweep.inline import Inline
    from rdfia_cli.sweep.question import SWEEP_KEYS, ask

    began = time.monotonic()
    over = list(QUICK_OVER.get(figure.name, ())) if flags["quick"] else []
    sources = sources_of_figure(figure, flags, replaced, folder / "sweeps" / figure.name)
    settings = {**dict.fromkeys((*SWEEP_KEYS, "out")), "over": over}
    question, usual = ask(sources, settings), _recipe_of(figure)
    execution, planned = Execution("process", retry_failed=True), plan(question)
    ledger = open_ledger(question)
    with display(question, execution, quiet=flags["quiet"]) as show:
        for event in run_campaign(question, execution, ledger, Inline(), planned):
            show(event)
    content, _ = conclude(question, "process", time.monotonic() - began)
    failed = [trial for trial in content["trials"] if trial["state"] == "failed"]
    if failed:
        raise RdfiaError(f"trial {failed[0]['number']} failed: {failed[0]['message']}")
    config = question.base.config
    return {
        "data": spec_text("data", config.data),
        "compared": _is_the_reports(config, question.folder_of(0), figure, replaced),
        "changed": [
            *changed_space(question.search.space, usual.search.space),
            *changed_settings(
                config, usual.base.config, {dimension.key for dimension in question.search.space}
            ),
        ],
        "command": _sweep_command(figure, sources, over),
        "test": content["best"] and content["best"]["test_accuracy"],
        "sweep": str(question.folder),
        "trials": [_with_train(trial) for trial in content["trials"]],
        "seconds": sum(trial["seconds"] for trial in content["trials"]),
    }


def _with_train(trial: Mapping[str, Any]) -> dict[str, Any]:
    """A finished trial, with its curves, its gap, and the size of its model."""
    from rdfia_cli.run import METRICS, RESULT, read_lines

    folder = Path(trial["run"])
    curve = read_curve(read_lines(folder / METRICS))
    return {
        **trial,
        "train": curve.train[-1],
        "gap": curve.gap,
        "model_parameters": json.loads((folder / RESULT).read_bytes())["parameters"],
        "curve": asdict(curve),
    }


def _recipe_of(figure: Figure) -> Question:
    """What a figure's recipe asks by itself."""
    from rdfia_cli.sources import Sources
    from rdfia_cli.sweep.question import SWEEP_KEYS, ask

    return ask(Sources({}, recipe=figure.recipe, sweep=True), dict.fromkeys((*SWEEP_KEYS, "out")))


def changed_space(ours: Sequence[Dimension], recipe: Sequence[Dimension]) -> list[str]:
    """The settings that vary over other values than the recipe's, each with both."""
    from rdfia_cli.sweep.identity import over_text

    here, there = ({d.key: over_text(d) for d in space} for space in (ours, recipe))
    return [
        f"{key} over {text} (the recipe has {there.get(key, 'none')})"
        for key, text in here.items()
        if text != there.get(key)
    ]


def _sweep_command(figure: Figure, sources: Sources, over: Sequence[str]) -> str:
    """The command of a sweep on its own, for a shell."""
    given = [text for text in sources.assignments if text.partition("=")[0].strip() != "out"]
    set_ = [word for text in given for word in ("--set", text)]
    varied = [word for text in over for word in ("--over", text)]
    return shlex.join(["rdfia", "sweep", "--recipe", figure.recipe, *set_, *varied])
