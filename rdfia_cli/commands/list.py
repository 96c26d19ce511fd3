"""`rdfia list`: every component and recipe, without importing any."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Any

from rdfia_cli import console, recipe, registry, signature
from rdfia_cli.errors import UsageError, nearest
from rdfia_cli.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

RECIPES = "recipes"


def run(flags: Mapping[str, Any]) -> None:
    """List the components of one group, or of all; with a pattern those whose name fits it."""
    group: str | None = flags["group"]
    pattern: str | None = flags["pattern"]
    known = (*registry.GROUPS, RECIPES)
    if group is not None and group not in known:
        raise UsageError(f"unknown group '{group}'", nearest(group, known))
    registry.refuse_failures()
    found = [
        entry
        for entry in (*_components(check=flags["check"]), *_recipes())
        if group in (None, entry["group"])
    ]
    if pattern is not None:
        members = _members(found, pattern) if "/" in pattern else iter(())
        found = [*(e for e in found if fnmatch.fnmatchcase(e["name"], pattern)), *members]
        if not found:
            raise UsageError(f"no {group} fit '{pattern}'", f"see rdfia list {group}")
    if flags["json"]:
        with_parameters = [{**entry, "parameters": _parameters(entry)} for entry in found]
        console.print_json({"schema": "rdfia.list/1", "components": with_parameters})
        return
    for heading in known:
        members = [entry for entry in found if entry["group"] == heading]
        if members:
            console.print_result(heading)
            console.print_columns(_row(entry) for entry in members)


def _components(*, check: bool) -> Iterator[dict[str, Any]]:
    for listing in registry.listing(check=check):
        component = listing.component
        yield {
            "group": component.group,
            "name": component.name,
            "distribution": component.distribution,
            "version": component.version,
            "description": listing.description,
            "state": listing.state,
            "error": listing.error,
        }


def _recipes() -> Iterator[dict[str, Any]]:
    for each in recipe.all_recipes():
        missing = each.path is None
        yield {
            "group": RECIPES,
            "name": each.name,
            "distribution": each.distribution,
            "version": each.version,
            "description": each.description,
            "state": "broken" if missing else "ok",
            "error": f"there is no file {each.name}.toml" if missing else None,
        }


def _members(found: Iterable[Mapping[str, Any]], pattern: str) -> Iterator[dict[str, Any]]:
    """The members of the families, here imported, that a pattern such as `timm/resnet*` names."""
    family, _, member = pattern.partition("/")
    for entry in found:
        is_component = entry["group"] != RECIPES
        if is_component and entry["state"] == "ok" and fnmatch.fnmatchcase(entry["name"], family):
            component = _owner(entry)
            if registry.is_family(component):
                for variant in registry.members(component, member):
                    yield {**entry, "name": f"{entry['name']}/{variant}", "description": ""}


def _owner(entry: Mapping[str, Any]) -> registry.Component:
    """The component that an entry tells of."""
    return registry.find(entry["group"], Spec(entry["name"], entry["distribution"]))


def _parameters(entry: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The hyper-parameters that the source tells; None where only an import would."""
    if entry["group"] == RECIPES or entry["state"] == "broken":
        return []
    known = registry.source_parameters(_owner(entry))
    if known is None:
        return None
    return [
        {
            "name": parameter.name,
            "type": parameter.type,
            "default": None if parameter.default is signature.REQUIRED else parameter.default,
            "required": parameter.default is signature.REQUIRED,
        }
        for parameter in known.parameters.values()
    ]


def _row(entry: Mapping[str, Any]) -> list[str]:
    about = entry["description"]
    if entry["distribution"] != registry.OWN_DISTRIBUTION:
        about = f"{about} ({entry['distribution']} {entry['version']})".lstrip()
    if entry["state"] != "ok":
        about = f"{about} {entry['state']}: {entry['error']}"
    return [f"  {entry['name']}", about]
