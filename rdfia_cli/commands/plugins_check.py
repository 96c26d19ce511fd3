"""`rdfia plugins check`: the conformance kit, each component in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import console, registry
from rdfia_cli.commands.plugins import SCHEMA
from rdfia_cli.entry_points import normalised
from rdfia_cli.errors import ComponentError, count, nearest
from rdfia_cli.spec import parse_spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import IO

PROGRAM = """
import sys
from rdfia_cli import entry_points
entry_points.installed()
from rdfia_cli.testing.child import main
main(sys.argv[1:])
"""
"""The entry points come first: torch cannot be imported past a malformed file of anybody's."""


def run(flags: Mapping[str, Any]) -> int:
    """Check what is named, print what was found, and return 4 where something failed."""
    asked = _asked(flags["names"] or ())
    if not asked and not flags["json"]:
        console.say("no plugin is installed or chosen; rdfia plugins new NAME writes one")
    found: list[dict[str, Any]] = []
    for group, spec in asked:
        console.say(f"checking {group.removesuffix('s')} {spec}")
        found.append(_check(group, spec, flags["timeout"]))
    if flags["json"]:
        console.print_json({"schema": SCHEMA, "command": "plugins check", "components": found})
    elif found:
        rows = [row for component in found for row in _rows(component)]
        console.print_table(("component", "check", "state", "reason"), rows)
    failed = any(component["state"] == "failed" for component in found)
    return ComponentError.exit_code if failed else 0


def _asked(names: Sequence[str]) -> list[tuple[str, str]]:
    """The components that are meant, each as its group and its spec."""
    if not names:
        third = (c for c in registry.components() if c.distribution != registry.OWN_DISTRIBUTION)
        return [_full(component) for component in third]
    return [each for name in names for each in _find(name)]


def _full(component: registry.Component) -> tuple[str, str]:
    return component.group, f"{component.name}@{component.distribution}"


def _find(name: str) -> list[tuple[str, str]]:
    """What one name means: a distribution with all its components, or a spec of any group.

    Raises:
        ComponentError: it means nothing.
    """
    of_distribution = [c for c in registry.components() if c.distribution == normalised(name)]
    if of_distribution:
        return [_full(component) for component in of_distribution]
    spec = parse_spec(name)
    if spec.file is not None:
        return [("models", name)]
    family = spec.name.partition("/")[0]
    groups = [g for g in registry.GROUPS if family in registry.names(g)]
    if not groups:
        known = {c.distribution for c in registry.components()} | {
            c.name for c in registry.components()
        }
        raise ComponentError(
            f"no plugin and no component is called '{name}'",
            nearest(name, known, "rdfia plugins list"),
        )
    return [(group, name) for group in groups]


def _check(group: str, spec: str, seconds: float) -> dict[str, Any]:
    """Run every check of a component, and give up after some time."""
    outcomes = list(_watch(group, spec, seconds))
    failed = any(outcome["state"] == "failed" for outcome in outcomes)
    return {
        "group": group,
        "spec": spec,
        "state": "failed" if failed else "passed",
        "checks": outcomes,
    }


def _watch(group: str, spec: str, seconds: float) -> Iterator[dict[str, Any]]:
    """The outcomes that a child tells; where it ends too early, the check that it was at."""
    current, is_late = "the start", False
    # Files, since a pipe ends only with the last process that a plugin leaves behind.
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, group, spec],
            stdout=told,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_path())},
        )
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            is_late = True
        finally:
            _end(child)
        for line in _lines(told):
            heard: dict[str, Any] = json.loads(line)
            if heard["state"] == "ended":
                return
            if heard["state"] == "running":
                current = heard["check"]
            else:
                yield heard
        reason = f"the process ended with {child.returncode}: {(_lines(errors) or [''])[-1]}"
    if is_late:
        reason = f"it did not end within {seconds:g} s"
    yield {"check": current, "state": "failed", "reason": reason}


def _lines(file: IO[bytes]) -> list[str]:
    """The lines that another process has written to the end."""
    file.seek(0)
    return file.read().decode(errors="replace").rpartition("\n")[0].splitlines()


def _path() -> Iterator[str]:
    """Where the child imports from: where this process does, made absolute."""
    return (str(Path(path).absolute()) for path in sys.path if path)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End all that a child started, and the child itself where it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _rows(component: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """A line for all that passed, then one for each check that did not."""
    name = f"{component['group'].removesuffix('s')} {component['spec']}"
    checks: Sequence[Mapping[str, str]] = component["checks"]
    passed = sum(check["state"] == "passed" for check in checks)
    if passed:
        yield name, count(passed, "check"), "passed", ""
    for check in checks:
        if check["state"] != "passed":
            yield name, check["check"], check["state"], check["reason"]
