"""The code that components are made of: whether it changed, and whether an error comes from it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import traceback
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from types import FrameType

from rdfia_cli import registry
from rdfia_cli.entry_points import OWN_DISTRIBUTION
from rdfia_cli.errors import RdfiaError

NO_FAULT = ("does not have a deterministic implementation", "can't allocate memory")
"""Errors that are told by themselves, whoever's code they come through."""


def code_hashes(components: Iterable[registry.Component]) -> dict[str, str]:
    """The SHA-256 of the code of each component that is not our own, by where it lies.

    That of a function of a file is the file; that of a plugin is its package, or its only module.
    """
    foreign = [each for each in components if each.distribution != OWN_DISTRIBUTION]
    places = {place for component in foreign for place in _places(component)}
    return {str(place): _hash(place) for place in sorted(places)}


def _places(component: registry.Component) -> Iterator[Path]:
    if component.distribution == registry.FILE:
        yield Path(component.module)
        return
    try:
        found = importlib.util.find_spec(_package(component))
    except (ImportError, ValueError):
        return
    if found is not None and found.submodule_search_locations is not None:
        yield from map(Path, found.submodule_search_locations)
    elif found is not None and found.origin is not None:
        yield Path(found.origin)


def _hash(place: Path) -> str:
    """The hash of a file, or of the names and contents of a folder's modules."""
    if not place.is_dir():
        return hashlib.sha256(place.read_bytes()).hexdigest()
    whole = hashlib.sha256()
    for path in sorted(place.rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(place)} {content}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()


def _package(component: registry.Component) -> str:
    return component.module.partition(".")[0]


@contextlib.contextmanager
def naming_culprit(components: Iterable[registry.Component], failure: str) -> Generator[None]:
    """Name the plugin or file among some components in whose code an error arose.

    Args:
        components: those at work.
        failure: what is said of it, such as `fails in training`.

    Raises:
        ComponentError: a plugin or a file raised something; what no component is at fault for, such
            as a full disk or memory, comes through as it is.
    """
    try:
        yield
    except (RdfiaError, OSError, MemoryError):
        raise
    except Exception as error:
        component = find_culprit(error, components)
        if component is None or _has_remedy(error):
            raise
        raise registry.failed(component, failure, error) from error


def _has_remedy(error: Exception) -> bool:
    is_memory = type(error).__name__ == "OutOfMemoryError"
    return is_memory or any(words in str(error) for words in NO_FAULT)


def find_culprit(
    error: Exception, components: Iterable[registry.Component]
) -> registry.Component | None:
    """The component in whose code an error arose; None where it is in none but our own."""
    foreign = [each for each in components if each.distribution != OWN_DISTRIBUTION]
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        for component in foreign:
            if _is_code_of(component, frame):
                return component
    return None


def _is_code_of(component: registry.Component, frame: FrameType) -> bool:
    """Whether a frame runs a component's file, or a module of its package."""
    if component.distribution == registry.FILE:
        return Path(frame.f_code.co_filename) == Path(component.module)
    return frame.f_globals.get("__name__", "").partition(".")[0] == _package(component)
