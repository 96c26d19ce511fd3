"""Whose code an error comes from, where several components work together."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Generator, Iterable
from pathlib import Path
from types import FrameType

from rdfia_cli import registry
from rdfia_cli.entry_points import OWN_DISTRIBUTION
from rdfia_cli.errors import RdfiaError

NO_FAULT = ("does not have a deterministic implementation", "can't allocate memory")
"""Errors that are told by themselves, whoever's code they come through."""


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
    package = component.module.partition(".")[0]
    return frame.f_globals.get("__name__", "").partition(".")[0] == package
