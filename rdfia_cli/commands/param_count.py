"""`rdfia param-count MODEL...`: count models, print trees, a comparison or JSON, hold limits."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rdfia_cli import console
from rdfia_cli.errors import GateError, UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdfia_cli.analysis.explain import Explanation
    from rdfia_cli.analysis.parameters import Costs
    from rdfia_cli.analysis.subject import Request
    from rdfia_cli.spec import InputSpec

CONVENTIONS = ("macs", "fvcore")
Limits = Mapping[str, int | None]
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}


def run(flags: Mapping[str, Any]) -> int:
    """Count what the flags say, and return the exit code."""
    if flags["convention"] not in CONVENTIONS:
        found = flags["convention"]
        raise UsageError(f"unknown convention '{found}'", nearest(found, CONVENTIONS))
    limits = {key: _limit(key, flags) for key in ("parameters", "macs")}
    asked, images = _requests(flags)
    from rdfia_cli.commands.crew import crew_size
    from rdfia_cli.commands.each_model import try_each

    several = len(asked) > 1
    counted, failures = try_each(
        asked,
        functools.partial(_summarise if several else _count, flags, limits, images),
        flags,
        doing="counting",
        on_stdout=flags["json"],
        show=functools.partial(_show, flags),
        processes=crew_size(len(asked)),
    )
    if several and not flags["json"]:
        from rdfia_cli.commands.cost_tables import print_comparison

        print_comparison(counted)
    beyond = [error for content in counted for error in _beyond(content, limits)]
    for error in beyond:
        console.report(error, as_json=False)
    return min((error.exit_code for error in (*failures, *beyond)), default=0)


def _requests(flags: Mapping[str, Any]) -> tuple[Sequence[Request], int | None]:
    """The models asked for, and how many train images there are where a dataset is named."""
    from rdfia_cli.analysis.subject import expand, parse_shape, request

    shape = parse_shape(flags["input"]) if flags["input"] is not None else None
    classes, images = flags["classes"], None
    if flags["data"]:
        fed, images = _dataset(flags["data"], quiet=flags["quiet"])
        shape, classes = shape or fed.shape, classes or fed.classes
    return [request(text, shape, classes) for text in expand(flags["models"])], images


def _dataset(text: str, *, quiet: bool) -> tuple[InputSpec, int]:
    """What a dataset feeds and how many train images it has, published or read."""
    from rdfia_cli.config import resolve_component
    from rdfia_cli.spec import parse_spec

    chosen = resolve_component("data", text, "--data")
    from rdfia_cli.analysis.explain import PUBLISHED

    spec = parse_spec(text)
    if spec.name in PUBLISHED and not spec.parameters and chosen.name == spec.name:
        return PUBLISHED[spec.name]
    from rdfia_cli.commands.progress import display, watch
    from rdfia_cli.training.assembly import load_dataset

    with display(quiet=quiet) as show:
        splits = watch(load_dataset(chosen), show)
    return splits.input, len(splits.train)


@dataclass(frozen=True)
class _Counted:
    """What is told of a model.

    Attributes:
        content: the object that says it.
        warnings, notes: lines that stand beside it.
        costs: of its layers; None where no tree of them is shown.
        explanations: of its layers, where they are asked for.
    """

    content: Mapping[str, Any]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    costs: Costs | None
    explanations: tuple[Explanation, ...] | None


def _count(
    flags: Mapping[str, Any], limits: Limits, images: int | None, asked: Request
) -> _Counted:
    """Count one model, and print nothing."""
    from rdfia_cli.analysis.explain import explain
    from rdfia_cli.analysis.objects import describe_costs
    from rdfia_cli.analysis.parameters import measure
    from rdfia_cli.analysis.subject import build

    subject = build(asked)
    how = {"batch": flags["batch"], "convention": flags["convention"]}
    with subject.naming():
        costs = measure(subject.model, subject.input, realise=subject.realise, **how)
    explanations = tuple(explain(subject.model, costs)) if flags["explain"] else None
    content = describe_costs(
        subject, costs, depth=flags["depth"], explanations=explanations, images=images, **how
    )
    beyond = [key for key, limit in limits.items() if limit is not None and content[key] > limit]
    content["exceeded"] = beyond
    warnings, notes = list[str](), list[str]()
    if subject.is_scripted():
        notes.append(f"{asked.label}: modules within a scripted one are not told apart from it")
    if costs.on_cpu:
        notes.append(
            f"{asked.label}: called on the CPU with zeros, since it needs numbers; "
            "where it decides by them, this is the cost of the path that they take"
        )
    if costs.uncounted:
        warnings.append(f"{asked.label}: uncounted operations: {_listed(costs.uncounted)}")
    return _Counted(content, tuple(warnings), tuple(notes), costs, explanations)


def _summarise(
    flags: Mapping[str, Any], limits: Limits, images: int | None, asked: Request
) -> _Counted:
    """Count one model of several, and keep what is told of it among them."""
    counted = _count(flags, limits, images, asked)
    told = {key: each for key, each in counted.content.items() if flags["json"] or key != "layers"}
    return replace(counted, content=told, costs=None, explanations=None)


def _show(flags: Mapping[str, Any], counted: _Counted) -> Mapping[str, Any]:
    """Print what there is to print of a model by itself, and keep its totals."""
    for text in counted.warnings:
        console.warn(text)
    for text in counted.notes:
        console.say(text)
    if flags["json"]:
        console.print_json(counted.content)
    elif counted.costs is not None:
        from rdfia_cli.commands.cost_tables import print_explanations, print_model

        depth = 2 if flags["depth"] is None else flags["depth"]
        print_model(counted.content, counted.costs, depth)
        if counted.explanations is not None:
            print_explanations(counted.explanations, counted.content)
    return {key: value for key, value in counted.content.items() if key != "layers"}


def _limit(key: str, flags: Mapping[str, Any]) -> int | None:
    given = flags[f"max_{key}"]
    return None if given is None else parse_amount(f"--max-{key}", given)


def parse_amount(flag: str, text: str) -> int:
    """A number with a unit: 5M, 1.5G, 300k.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kmgbt]?)", text.strip().lower(), re.ASCII)
    if match is None:
        raise UsageError(f"{flag} {text} is no amount", "write a number such as 5M, 1.5G or 300k")
    amount = float(match[1]) * UNITS[match[2]]
    if amount == float("inf"):
        raise UsageError(f"{flag} {text} is too large", "leave it out for no limit")
    return round(amount)


def _beyond(content: Mapping[str, Any], limits: Limits) -> list[GateError]:
    """The limits that a model is beyond, in words."""
    return [
        GateError(
            f"{content['model']} has {content[key]:,} {key}, above {limits[key]:,}",
            f"choose a smaller model, or raise --max-{key}",
        )
        for key in content["exceeded"]
    ]


def _listed(uncounted: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({times})" for name, times in uncounted.items())
