"""The code that components are made of: whether it changed, and whether an error comes from it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import traceback
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rdfia_cli import console, registry
from rdfia_cli.entry_points import OWN_DISTRIBUTION
from rdfia_cli.errors import RdfiaError

NOBODY_S = frozenset({"rdfia_cli", "torch"})
"""Packages whose code is no plugin's, though one may announce a function of theirs."""
NO_FAULT = (console.NOT_DETERMINISTIC, "can't allocate memory")
"""Errors that are told by themselves, whoever's code they come through."""


@dataclass(frozen=True)
class _Code:
    """Where the modules of a component lie.

    Attributes:
        place: a package's folder, or the file of the only module.
        name: by which they are imported; empty for a function of a file.
    """

    place: Path
    name: str


def file_hashes(components: Iterable[registry.Component]) -> dict[str, str]:
    """The SHA-256 of the file of each component that is a function of a file, by its path."""
    return _hashes(each for each in components if each.distribution == registry.FILE)


def package_hashes(components: Iterable[registry.Component]) -> dict[str, str]:
    """The SHA-256 of the Python modules of each plugin's package, by its folder."""
    return _hashes(each for each in components if each.distribution != registry.FILE)


def _hashes(components: Iterable[registry.Component]) -> dict[str, str]:
    places = {code.place for each in components if (code := _code_of(each)) is not None}
    found = {str(place): _hash(place) for place in sorted(places)}
    return {place: digest for place, digest in found.items() if digest is not None}


def _code_of(component: registry.Component) -> _Code | None:
    """Where a component's code lies; None where it is our own, or nothing tells."""
    if component.distribution == registry.FILE:
        return _Code(Path(component.module), "")
    top, *rest = component.module.split(".")
    # A plugin may announce what is not its own.
    if component.distribution == OWN_DISTRIBUTION or top in NOBODY_S:
        return None
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec(top)
        if found is not None and found.origin is not None:
            is_package = found.submodule_search_locations is not None
            path = Path(found.origin)
            return _Code(path.parent if is_package else path, top)
        for location in (found and found.submodule_search_locations) or ():
            if (code := _within_namespace(Path(location), top, rest)) is not None:
                return code
    return None


def _within_namespace(folder: Path, name: str, rest: Sequence[str]) -> _Code | None:
    """The outermost package or module below a folder that several distributions may share."""
    for part in rest:
        folder, name = folder / part, f"{name}.{part}"
        if (folder / "__init__.py").is_file():
            return _Code(folder, name)
        if folder.with_suffix(".py").is_file():
            return _Code(folder.with_suffix(".py"), name)
    return None


def _hash(place: Path) -> str | None:
    """The hash of a file, or of the names and contents of a folder's modules; None without any.

    What cannot be read is left out: an editor may have its own files there for a moment.
    """
    if not place.is_dir():
        return _hash_file(place)
    whole = hashlib.sha256()
    for path in sorted(place.rglob("*.py")):
        if not path.name.startswith(".") and (digest := _hash_file(path)) is not None:
            name = str(path.relative_to(place))
            whole.update(f"{name} {digest}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()


def _hash_file(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


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
    """The component in whose code an error arose; None where our own was called from there.

    Libraries are nobody's: what they raise, whoever called them is at fault for.
    """
    codes = [(each, code) for each in components if (code := _code_of(each)) is not None]
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        for component, code in codes:
            if _runs(frame, code):
                return component
        if _module_of(frame).partition(".")[0] == __package__:
            return None
    return None


def _runs(frame: FrameType, code: _Code) -> bool:
    if not code.name:
        return Path(frame.f_code.co_filename) == code.place
    module = _module_of(frame)
    return module == code.name or module.startswith(f"{code.name}.")


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
