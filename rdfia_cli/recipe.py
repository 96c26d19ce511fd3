"""Recipes: TOML files with the settings of known experiments, ours and those of plugins."""

from __future__ import annotations

import contextlib
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rdfia_cli import __version__, entry_points
from rdfia_cli.entry_points import OWN_DISTRIBUTION
from rdfia_cli.errors import ComponentError, UsageError, nearest

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """Settings of a known experiment.

    Attributes:
        name: what `--recipe` asks for.
        distribution: who provides it, and its version.
        path: its TOML file, or None where it is missing.
    """

    name: str
    distribution: str
    version: str
    path: Path | None

    @property
    def description(self) -> str:
        """What it is for: the comment on its first line."""
        if self.path is None:
            return ""
        first = self.path.read_text(encoding="utf-8").partition("\n")[0]
        return first.removeprefix("#").strip()


def all_recipes() -> tuple[Recipe, ...]:
    """Every recipe by name, those that come with rdfia first."""
    own = [
        Recipe(path.stem, OWN_DISTRIBUTION, __version__, path)
        for path in sorted(RECIPES.glob("*.toml"))
    ]
    return (*own, *from_plugins())


@lru_cache(maxsize=1)
def from_plugins() -> tuple[Recipe, ...]:
    """What the group `rdfia.recipes` announces: `NAME = PACKAGE`, where NAME.toml lies."""
    return tuple(
        Recipe(e.name, e.distribution, e.version, _recipe_file(e.module, e.name))
        for e in sorted(set(entry_points.read(["recipes"])), key=lambda e: (e.name, e.distribution))
    )


def _recipe_file(package: str, name: str) -> Path | None:
    top, *rest = package.split(".")
    found = None
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec(top)
    places = (found and found.submodule_search_locations) or ()
    files = (Path(place, *rest, f"{name}.toml") for place in places)
    return next((file for file in files if file.is_file()), None)


def find(reference: str) -> Recipe:
    """The recipe of a name, or of `name@distribution`; a built-in keeps its name.

    Raises:
        UsageError: there is no such recipe, or two plugins claim its name.
        ComponentError: its file is missing.
    """
    name, _, distribution = reference.partition("@")
    wanted = entry_points.normalised(distribution)
    found = [r for r in all_recipes() if r.name == name and wanted in ("", r.distribution)]
    if not found:
        known = names()
        raise UsageError(
            f"unknown recipe '{reference}'", nearest(reference, known, "rdfia list recipes")
        )
    first, *others = found
    if others and first.distribution != OWN_DISTRIBUTION:
        raise UsageError(
            f"recipe '{name}' is claimed by " + " and ".join(r.distribution for r in found),
            "say which: " + " or ".join(f"{name}@{r.distribution}" for r in found),
        )
    if first.path is None:
        raise ComponentError(
            f"recipe '{name}' of {first.distribution} {first.version} has no file {name}.toml",
            f"mend or uninstall {first.distribution}",
        )
    return first


def path_of(name: str) -> Path:
    """The file of a recipe; see `find` for what it raises."""
    path = find(name).path
    assert path is not None
    return path


def names() -> tuple[str, ...]:
    """The names of all recipes, each once."""
    return tuple(sorted({recipe.name for recipe in all_recipes()}))
