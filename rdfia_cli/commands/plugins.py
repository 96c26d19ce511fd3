"""`rdfia plugins list` and `docs`: what is installed, and what a plugin has to keep."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import console, entry_points, recipe, registry
from rdfia_cli.errors import RdfiaError, UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCHEMA = "rdfia.plugins/1"
STATES = ("ok", "shadowed", "broken")
"""A plugin is in the worst state of its components."""
PACKAGE = Path(__file__).parent.parent
CONTRACTS = (PACKAGE / "contract.md", PACKAGE.parent / "docs" / "contract.md")
"""Where the contract lies in a wheel, and in a clone."""


def list_installed(flags: Mapping[str, Any]) -> None:
    """List the distributions that provide a component or a recipe, our own aside."""
    found = [_describe(name, flags["check"]) for name in _distributions()]
    if flags["json"]:
        console.print_json({"schema": SCHEMA, "command": "plugins list", "plugins": found})
    elif found:
        heading = ("plugin", "version", "state", "components")
        console.print_table(heading, [_row(plugin) for plugin in found])
        for plugin in found:
            for each in plugin["components"]:
                if each["error"]:
                    where = f"{each['group'].removesuffix('s')} '{each['name']}'"
                    console.print_result(f"{plugin['distribution']}: {where}: {each['error']}")
    else:
        console.say("no plugin is installed or chosen; rdfia plugins new NAME writes one")
    registry.refuse_failures()


def _distributions() -> list[str]:
    providing = {entry.distribution for entry in entry_points.announced()}
    return sorted(providing - {registry.OWN_DISTRIBUTION})


def _describe(distribution: str, check: bool) -> dict[str, Any]:
    components = [
        {
            "group": each.component.group,
            "name": each.component.name,
            "state": each.state,
            "error": each.error,
        }
        for each in registry.listing(check=check, distribution=distribution)
    ] + [
        {
            "group": "recipes",
            "name": each.name,
            "state": "ok" if each.path else "broken",
            "error": None if each.path else f"there is no file {each.name}.toml",
        }
        for each in recipe.all_recipes()
        if each.distribution == distribution
    ]
    worst = max((each["state"] for each in components), key=STATES.index, default="ok")
    errors = [each["error"] for each in components if each["error"]]
    entries = (e for e in entry_points.announced() if e.distribution == distribution)
    return {
        "distribution": distribution,
        "version": next(e.version for e in entries),
        "state": worst,
        "components": components,
        "error": errors[0] if errors else None,
    }


def _row(plugin: Mapping[str, Any]) -> tuple[str, str, str, str]:
    components: Iterable[Mapping[str, str]] = plugin["components"]
    told = ", ".join(f"{each['group'].removesuffix('s')} {each['name']}" for each in components)
    return plugin["distribution"], plugin["version"], plugin["state"], told


def show_contract(flags: Mapping[str, Any]) -> None:
    """Print the contract, or the section of one kind."""
    text, kind = _contract(), flags["kind"]
    if kind is not None:
        text = _section(text, kind)
    if flags["json"]:
        content = {"schema": SCHEMA, "command": "plugins docs", "kind": kind, "text": text}
        console.print_json(content)
    else:
        console.print_result(text.rstrip())


def _contract() -> str:
    for path in CONTRACTS:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise RdfiaError("the page of the contract is missing from this installation", "reinstall it")


def _section(text: str, kind: str) -> str:
    """The part under the heading of a kind.

    Raises:
        UsageError: there is no such kind.
    """
    kinds = [group.removesuffix("s") for group in registry.GROUPS]
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    found = [part for part in parts if part.lower().startswith(f"## {kind.removesuffix('s')}")]
    if not found or kind.removesuffix("s") not in kinds:
        raise UsageError(f"unknown kind '{kind}'", nearest(kind, kinds))
    return found[0]
