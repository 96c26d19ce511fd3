"""On which grounds two sweeps are the same.

A sweep is what its trials share, once that is resolved, what varies, and how it is searched. How a
value is written, or in which order, makes no other sweep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rdfia_cli.config import PLACEMENT, Resolved
from rdfia_cli.sources import LISTS
from rdfia_cli.spec import value_text
from rdfia_cli.sweep.search import Search
from rdfia_cli.sweep.space import Choice, Dimension, normal_spec, normal_value

VARIED = "--over "
"""With what the origin of a value that varies begins."""


def identify(base: Resolved, search: Search) -> dict[str, Any]:
    """What decides the trials of a sweep, but not how many there are: plain JSON values.

    Args:
        base: a configuration of the sweep; which of the values that vary it has is all one.
        search: the space, and how it is searched.
    """
    return {
        "settings": _shared(base),
        "over": [_plain_dimension(dimension) for dimension in search.space],
        "sampler": search.sampler,
        "pruner": search.pruner,
        "round": search.round if search.adaptive else None,
    }


def _shared(base: Resolved) -> dict[str, Any]:
    """The settings that all trials have, by dotted key."""
    found: dict[str, Any] = {}
    for key, value in base.values().items():
        head, *inner = key.split(".")
        origin = base.origins.get(key) or base.origins[head]  # the weights of classes have one
        component = ".".join([head, *inner[:1]]) if head in LISTS else head
        # Where components vary, what one of them has by default is not for the others.
        varies = base.origins.get(component, "").startswith(VARIED) and origin == "default"
        if head not in PLACEMENT and not varies and not origin.startswith(VARIED):
            found[key] = value
    return json.loads(json.dumps(found, default=str))


def _plain_dimension(dimension: Dimension) -> dict[str, Any]:
    """A dimension as JSON, which tells how it was drawn."""
    if isinstance(dimension, Choice):
        return {"key": dimension.key, "values": list(dimension.values)}
    return {
        "key": dimension.key,
        "low": float(dimension.low),
        "high": float(dimension.high),
        "step": None if dimension.step is None else float(dimension.step),
        "log": dimension.logarithmic,
        "whole": dimension.whole,
    }


def normal_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity in which all ways to write a value are one."""
    over = [_normal_dimension(dimension) for dimension in identity["over"]]
    chosen = {key: normal_spec(identity[key]) for key in ("sampler", "pruner")}
    return {**identity, **chosen, "over": over}


def _normal_dimension(dimension: Mapping[str, Any]) -> Mapping[str, Any]:
    if "values" not in dimension:
        return dimension
    values = [normal_value(dimension["key"], text) for text in dimension["values"]]
    return {**dimension, "values": values}


def explain_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """In what the identity of another sweep differs from this one's, in words; None: in nothing."""
    here, there = normal_identity(ours), normal_identity(theirs)
    for key in ("sampler", "pruner", "round"):
        if here[key] != there[key]:
            return f"{key} is {value_text(theirs[key])} there and {value_text(ours[key])} here"
    told = [{d["key"]: _plain_text(d) for d in each["over"]} for each in (theirs, ours)]
    dimensions = [{d["key"]: d for d in each["over"]} for each in (there, here)]
    for key in {**dimensions[0], **dimensions[1]}:
        if dimensions[0].get(key) != dimensions[1].get(key):
            words = [each.get(key, "fixed") for each in told]
            return f"{key} is {words[0]} there and {words[1]} here"
    if [*dimensions[0]] != [*dimensions[1]]:
        return f"it varies {', '.join(dimensions[0])} in this order"
    return _differing_setting(theirs["settings"], ours["settings"])


def over_text(dimension: Dimension) -> str:
    """A dimension as one writes it behind `--over KEY=`."""
    return _plain_text(_plain_dimension(dimension))


def _plain_text(dimension: Mapping[str, Any]) -> str:
    """A dimension of an identity as one writes it behind `--over KEY=`."""
    if "values" in dimension:
        return ",".join(dimension["values"])
    low, high, step = (
        number if number is None or not dimension["whole"] else int(number)
        for number in (dimension["low"], dimension["high"], dimension["step"])
    )
    logarithmic = "log:" if dimension["log"] else ""
    return f"{logarithmic}{low}..{high}" + ("" if step is None else f":{step}")


def _differing_setting(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    for key in sorted({*there, *here}):
        if key not in there or key not in here or there[key] != here[key]:
            words = [
                value_text(each[key]) if key in each else "not given" for each in (there, here)
            ]
            return f"{key} is {words[0]} there and {words[1]} here"
    return None
