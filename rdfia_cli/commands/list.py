"""`rdfia list`: every component and recipe, without importing any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rdfia_cli import __version__, console, registry, signature
from rdfia_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RECIPES = "recipes"


def run(flags: Mapping[str, Any]) -> None:
    """List the components of one group, or of all."""
    group: str | None = flags["group"]
    known = (*registry.GROUPS, RECIPES)
    if group is not None and group not in known:
        raise UsageError(f"unknown group '{group}'", nearest(group, known))
    found = [
        entry
        for entry in (*_components(check=flags["check"]), *_recipes())
        if group in (None, entry["group"])
    ]
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
    for name in registry.recipe_names():
        yield {
            "group": RECIPES,
            "name": name,
            "distribution": registry.OWN_DISTRIBUTION,
            "version": __version__,
            "description": registry.recipe_description(name),
            "state": "ok",
            "error": None,
        }


def _parameters(entry: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The hyper-parameters that the source tells; None where only an import would."""
    if entry["group"] == RECIPES or entry["state"] == "broken":
        return []
    owner = next(
        component
        for component in registry.claimants(entry["group"], entry["name"])
        if component.distribution == entry["distribution"]
    )
    known = registry.source_parameters(owner)
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
