"""`rdfia reproduce [FIGURE...]`: the figures of the course report again, and one page of them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import console
from rdfia_cli.commands.reproduce_figure import NOTHING_MADE, make, sources_of_figure
from rdfia_cli.errors import RdfiaError, TrialsFailedError, UsageError, count, nearest
from rdfia_cli.report.figures import FIGURES, Curve, Figure

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

CONTENT, PAGE = "reproduction.json", "index.html"
ALL = "all"


def run(flags: Mapping[str, Any]) -> int:
    """Make what the flags name, skip what is complete, write the page, return the exit code."""
    began = time.monotonic()
    chosen = choose(flags["figures"] or [ALL])
    replaced = parse_replacements(flags["data"] or ())
    folder = Path(flags["out"])
    _refuse_folder(folder)
    _refuse_settings(chosen, flags, replaced)
    before = _read_before(folder, quick=flags["quick"])
    made = [make(figure, flags, replaced, folder) for figure in chosen]
    now = {each["name"]: each for each in made}
    there = {**before, **now}
    judged = judge([there[figure.name] for figure in FIGURES if figure.name in there])
    content = {
        "schema": "rdfia.reproduction/1",
        "command": "reproduce",
        "quick": flags["quick"],
        "figures": [each for each in judged if each["name"] in now],
        "seconds": time.monotonic() - began,
    }
    _write({**content, "figures": judged}, now, folder)
    if flags["json"]:
        console.print_json(content)
    else:
        _print(content)
        console.say(f"the page    {folder / PAGE}")
    return _refuse_failures(made, folder / CONTENT)


def _refuse_folder(folder: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        UsageError: it does.
    """
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    # Stopped before its end, the first call has left runs alone.
    if not folder.is_dir() or (CONTENT not in names and names - {"runs", "sweeps"}):
        raise UsageError(
            f"'{folder}' is neither empty nor the folder of rdfia reproduce", "choose another --out"
        )


def _refuse_settings(
    chosen: Sequence[Figure], flags: Mapping[str, Any], replaced: Mapping[str, str]
) -> None:
    """Refuse settings with which no figure at all can be made, before anything is written.

    Raises:
        UsageError, ComponentError: a setting does not hold, or a component is missing.
    """
    from rdfia_cli.config import resolve

    failure: RdfiaError | None = None
    for figure in chosen:
        try:
            resolve(sources_of_figure(figure, flags, replaced, None))
            return
        except RdfiaError as error:
            failure = failure or error
    if failure is not None:
        raise failure


def _read_before(folder: Path, *, quick: bool) -> dict[str, dict[str, Any]]:
    """The figures that earlier calls made in the same folder, by name."""
    try:
        content = json.loads((folder / CONTENT).read_bytes())
        stored = content["figures"] if content["quick"] == quick else []
        known = {figure.name for figure in FIGURES}
        return {each["name"]: each for each in stored if each["name"] in known and _is_whole(each)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _refuse_failures(made: Sequence[Mapping[str, Any]], stored: Path) -> int:
    """Say what could not be made, in words alone since stdout has the object; the exit code."""
    failed = [each for each in made if each["error"]]
    if not failed:
        return 0
    return console.conclude_with(
        TrialsFailedError(
            f"{len(failed)} of {count(len(made), 'figure')} could not be made: "
            f"{failed[0]['error']}",
            f"see '{stored}'; the same command tries them again",
        )
    )


def choose(names: Sequence[str]) -> list[Figure]:
    """The figures of those names or recipes, in the report's order.

    Raises:
        UsageError: there is no such figure.
    """
    if ALL in names:
        return list(FIGURES)
    known = {name: figure for figure in FIGURES for name in (figure.name, figure.recipe)}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no figure '{name}'", nearest(name, [*known, ALL]))
    return [f for f in FIGURES if f in [known[name] for name in names]]


def parse_replacements(texts: Sequence[str]) -> dict[str, str]:
    """What takes the place of which dataset: `cifar10=folder:path=photos`.

    Raises:
        UsageError: a text is not NAME=SPEC.
    """
    replaced: dict[str, str] = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        if not equals or not spec or name not in ("circles", "mnist", "cifar10"):
            raise UsageError(
                f"--data {text} is not NAME=SPEC",
                "write --data cifar10=folder:path=DIR or --data mnist=mnist:path=DIR",
            )
        replaced[name] = spec
    return replaced


def _is_whole(each: Mapping[str, Any]) -> bool:
    """Whether a stored figure has all that this version tells of one."""
    trials = each.get("trials", [])
    return {*NOTHING_MADE} <= {*each} and all("curve" in trial for trial in trials)


def judge(made: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put beside each figure what the report states of it, and whether that holds.

    Figures are held against one another where both are the recipes' or were changed alike.
    """
    known = {figure.name: figure for figure in FIGURES}
    without = {each["name"]: why for each in made if (why := _why_not_compared(each)) is not None}
    curves = {
        each["name"]: Curve(**each["curve"])
        for each in made
        if "curve" in each and each["name"] not in without
    }
    judged: list[dict[str, Any]] = []
    for each in made:
        unlike = {
            other["name"]: "was made with other settings"
            for other in made
            if other["changed"] != each["changed"]
        }
        fit = {name: curve for name, curve in curves.items() if name not in unlike}
        verdicts = [
            claim.judge(each["name"], fit, {**unlike, **without})
            for claim in known[each["name"]].claims
        ]
        judged.append({**each, "claims": [vars(verdict) for verdict in verdicts]})
    return judged


def _why_not_compared(each: Mapping[str, Any]) -> str | None:
    """Why nothing that the report says is held against a figure; None where it is."""
    if each["error"]:
        return "failed"
    return None if each["compared"] else "is on other data than the report's"


def _write(content: Mapping[str, Any], made: Collection[str], folder: Path) -> None:
    """Write the object, the page, and the pictures of the figures that were made now."""
    from rdfia_cli import durable
    from rdfia_cli.report.page import write_page
    from rdfia_cli.report.reproduction import make_page

    folder.mkdir(parents=True, exist_ok=True)
    durable.write_json(folder / CONTENT, content)
    for each in content["figures"]:
        if each["name"] not in made:
            continue
        copy = folder / f"figure-{each['name']}.png"
        source = each.get("run") or each.get("sweep")
        if source is not None and (picture := Path(source) / "curves.png").exists():
            durable.write_file(copy, picture.read_bytes())
        else:
            # One of an earlier call would pass for this one's.
            copy.unlink(missing_ok=True)
    write_page(make_page(content, folder), folder / PAGE)


def _print(content: Mapping[str, Any]) -> None:
    from rdfia_cli.report.reproduction import verdicts

    rows: list[tuple[str, ...]] = []
    for each in content["figures"]:
        numbers = [
            f"{each[key]:.4f}" if each.get(key) is not None else ""
            for key in ("train", "test", "gap")
        ]
        data, told = each["data"] or "", verdicts(each)
        rows.append((each["name"], each["recipe"], data, *numbers, told))
        for trial in each.get("trials", ()):
            scores = [f"{trial[key]:.4f}" for key in ("train", "test_accuracy", "gap")]
            size = f"{trial['model_parameters']:,} parameters"
            rows.append(("", _settings(trial), "", *scores, size))
    heading = ("figure", "recipe", "data", "train", "test", "gap", "the report")
    console.print_table(heading, rows)


def _settings(trial: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in trial["parameters"].items())
