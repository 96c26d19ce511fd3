"""What installed distributions announce to rdfia, and which of them may take part.

Nothing is imported. A distribution whose files are malformed costs itself alone: what can be read
of it is read, and the rest is told as its flaw.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rdfia_cli import __version__
from rdfia_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Iterator

PREFIX = "rdfia."
OWN_DISTRIBUTION = "rdfia-cli"
CHOICE = "RDFIA_PLUGINS"
"""The environment variable that lists the distributions that may take part; unset: all."""
STRICT = "RDFIA_STRICT_PLUGINS"
"""The environment variable by which any failure of a plugin ends the command."""
OFF = frozenset({"", "0", "false", "no", "off"})

REFERENCE = re.compile(r"(?P<module>[\w.]+)\s*(?::\s*(?P<attribute>[\w.]+)?)?\s*(?:\[.*\])?\s*$")
HEADER = re.compile(r"\[\s*(?P<section>[^]]*?)\s*(?P<close>\])?$")
ASKS_FOR_OWN = re.compile(r"rdfia[-_.]+cli(?![\w.-])", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One entry point.

    Attributes:
        group: without the prefix, such as `models`.
        name: what a spec asks for.
        module, attribute: where it leads; the whole value as the module where that leads nowhere.
        distribution: who announces it, as PEP 503 spells it, `unknown` where nothing tells.
        version: of the distribution.
        flaw: why it cannot be used, as far as the distribution's own files tell; or empty.
    """

    group: str
    name: str
    module: str
    attribute: str
    distribution: str = "unknown"
    version: str = "?"
    flaw: str = ""


@lru_cache(maxsize=1)
def installed() -> tuple[Entry, ...]:
    """All entry points of groups that begin with `rdfia.`, of all distributions.

    Called before anything heavy is imported: past a malformed file of anybody's, other libraries
    can be imported only afterwards.
    """
    if _is_shielded():
        found = list(_read_leniently())
    else:
        try:
            found = list(_read())
        except Exception:
            # One malformed file, and the library tells nothing of anyone.
            found = list(_read_leniently())
            _shield_others()
    # One distribution has many entries, and its metadata hold its whole README.
    known = {id(distribution): _identify(distribution) for _, distribution in found}
    return tuple(_of(known[id(distribution)], entry) for entry, distribution in found)


def _read() -> Iterator[tuple[Entry, importlib.metadata.Distribution | None]]:
    """What the library tells, at once or not at all."""
    known = importlib.metadata.entry_points()
    for group in sorted(known.groups):
        if group.startswith(PREFIX):
            for entry in known.select(group=group):
                yield _entry(group.removeprefix(PREFIX), entry.name, entry.value), entry.dist


def announced() -> tuple[Entry, ...]:
    """The entry points of the distributions that are chosen.

    Raises:
        UsageError: the environment chooses a plugin that is not installed.
    """
    return tuple(_chosen(installed()))


def read(groups: Collection[str]) -> tuple[Entry, ...]:
    """The entry points of some groups; see `announced`."""
    return tuple(entry for entry in announced() if entry.group in groups)


def is_strict() -> bool:
    """Whether any failure of a plugin is to end the command."""
    return os.environ.get(STRICT, "").strip().lower() not in OFF


def normalised(distribution: str) -> str:
    """The one spelling of a distribution's name that PEP 503 gives."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@contextlib.contextmanager
def no_plugins() -> Generator[None]:
    """Leave out every plugin, in child processes too."""
    before = os.environ.get(CHOICE)
    os.environ[CHOICE] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ[CHOICE]
        else:
            os.environ[CHOICE] = before


def _entry(group: str, name: str, value: str) -> Entry:
    match = REFERENCE.match(value)
    module, attribute = (match["module"], match["attribute"] or "") if match else (value, "")
    return Entry(group, name, module, attribute)


@dataclass(frozen=True)
class _Identity:
    """What the metadata of a distribution tell; the flaw is why it cannot be used."""

    name: str = "unknown"
    version: str = "?"
    flaw: str = ""


def _identify(distribution: importlib.metadata.Distribution | None) -> _Identity:
    if distribution is None:
        return _Identity()
    try:
        metadata = distribution.metadata
        name, version = normalised(metadata["Name"]), metadata["Version"]
    except Exception:
        return _Identity()
    if name == OWN_DISTRIBUTION:
        return _Identity(name, version)
    try:
        return _Identity(name, version, _misfit(distribution.requires or ()))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return _Identity(name, version, f"what it requires cannot be read: {reason}")


def _of(identity: _Identity, entry: Entry) -> Entry:
    """The same entry with what the metadata of its distribution tells."""
    return replace(
        entry,
        distribution=identity.name,
        version=identity.version,
        flaw=entry.flaw or identity.flaw,
    )


def _misfit(requirements: Iterable[str]) -> str:
    """Why a distribution does not fit this rdfia: what it requires is what it was made for."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in requirements:
        if not ASKS_FOR_OWN.match(text):
            continue
        try:
            asked = Requirement(text)
        except InvalidRequirement:
            return f"it requires '{text}', which is no version of {OWN_DISTRIBUTION}"
        applies = asked.marker is None or asked.marker.evaluate({"extra": ""})
        if applies and not asked.specifier.contains(__version__, prereleases=True):
            return f"it is made for {OWN_DISTRIBUTION}{asked.specifier}, and this is {__version__}"
    return ""


def _chosen(entries: Collection[Entry]) -> Iterator[Entry]:
    """Those that RDFIA_PLUGINS allows, and our own.

    Raises:
        UsageError: it names a distribution that announces nothing.
    """
    text = os.environ.get(CHOICE)
    if text is None:
        yield from entries
        return
    wanted = {normalised(name.strip()) for name in text.split(",") if name.strip()}
    there = {entry.distribution for entry in entries} - {OWN_DISTRIBUTION}
    for name in sorted(wanted - there - {OWN_DISTRIBUTION}):
        raise UsageError(
            f"{CHOICE} names '{name}', and no plugin of that name is installed",
            nearest(name, there, "rdfia plugins list"),
        )
    yield from (e for e in entries if e.distribution in wanted | {OWN_DISTRIBUTION})


def _read_leniently() -> Iterator[tuple[Entry, importlib.metadata.Distribution]]:
    """The same one distribution at a time, so that each spoils its own entries at most."""
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        text = _text(distribution)
        if f"[{PREFIX}" not in text.replace(" ", ""):
            continue
        key = _key(distribution)
        if key not in seen:
            seen.add(key)
            yield from ((entry, distribution) for entry in _parse(text))


class _Lenient(property):
    """The entry points of a distribution; none where its file is malformed."""


def _shield_others() -> None:
    """Let everybody in this process see the entry points of the sound distributions.

    `import torch` and pydantic look for some, and would end with the error of a malformed file.
    """
    strict: Any = importlib.metadata.Distribution.entry_points.fget

    def lenient(distribution: importlib.metadata.Distribution) -> importlib.metadata.EntryPoints:
        try:
            return strict(distribution)
        except Exception:
            return importlib.metadata.EntryPoints(())

    importlib.metadata.Distribution.entry_points = _Lenient(lenient)  # pyright: ignore


def _is_shielded() -> bool:
    return isinstance(importlib.metadata.Distribution.entry_points, _Lenient)


def _text(distribution: importlib.metadata.Distribution) -> str:
    try:
        return distribution.read_text("entry_points.txt") or ""
    except UnicodeDecodeError as error:
        return error.object.decode(errors="replace")
    except Exception:
        return ""


def _key(distribution: importlib.metadata.Distribution) -> str:
    try:
        return normalised(distribution.name)
    except Exception:
        return str(id(distribution))


def _parse(text: str) -> Iterator[Entry]:
    """The entries of an entry_points.txt; a line that is none of them becomes one with a flaw."""
    group, unclosed = "", ""
    for line in map(str.strip, text.splitlines()):
        if not line or line[0] in "#;":
            continue
        if header := HEADER.match(line):
            section = header["section"]
            group = section.removeprefix(PREFIX) if section.startswith(PREFIX) else ""
            unclosed = "" if header["close"] else f"its entry_points.txt has '{line}' without a ]"
            continue
        if not group:
            continue
        name, equals, value = map(str.strip, line.partition("="))
        if not equals or "\ufffd" in line:
            flaw = f"its entry_points.txt has '{line}', which is no NAME = MODULE:FUNCTION"
            yield replace(_entry(group, name, value), flaw=flaw)
        else:
            yield replace(_entry(group, name, value), flaw=unclosed)
