"""The import of a component in a process of its own: how long it took, and what it changed.

One process imports all that a run imports anyway, and forks for each module of a distribution.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import IO, Any

from rdfia_cli import registry
from rdfia_cli.testing.process_state import changes, generators, process, settings_of_torch

SECONDS = 10.0
"""Processor time for what an import adds to torch and rdfia: timm takes half of it."""
LIMIT = 60.0
"""Seconds by the clock after which an import is given up."""
PROGRAM = """
import sys
from rdfia_cli import entry_points
entry_points.installed()
from rdfia_cli.testing.imports import main
main(sys.argv[1:])
"""
"""The entry points come first: torch cannot be imported past a malformed file of anybody's."""


def watch_import(component: registry.Component) -> Mapping[str, Any]:
    """Import a component elsewhere: `seconds`, `changed`, `printed`, and `error` if it fails."""
    same = [c for c in registry.components() if c.distribution == component.distribution]
    # What a module does when it is imported, it does for all its components.
    modules = {c.module: c for c in same if not c.flaw}
    first = modules.setdefault(component.module, component)
    together = tuple(modules.values())
    return _watch(together)[together.index(first)]


@lru_cache(maxsize=8)
def _watch(components: Sequence[registry.Component]) -> Sequence[Mapping[str, Any]]:
    described = json.dumps([vars(component) for component in components])
    # Files, since a pipe ends only with the last process that an import leaves behind.
    with tempfile.TemporaryFile("w+") as told, tempfile.TemporaryFile("w+") as errors:
        finished = subprocess.run(
            [sys.executable, "-c", PROGRAM, described, str(LIMIT)],
            stdout=told,
            stderr=errors,
            check=False,
            stdin=subprocess.DEVNULL,
            env=_environment(),
        )
        found, words = _last_line(told), _last_line(errors)
    try:
        return json.loads(found)
    except ValueError:
        failure = {"error": f"the process ended with {finished.returncode}: {words}"}
        return [failure] * len(components)


def _last_line(file: IO[str]) -> str:
    """What another process wrote last."""
    file.seek(0)
    return (file.read().strip().splitlines() or [""])[-1]


def _environment() -> Mapping[str, str]:
    """The child imports from where this process does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def main(arguments: Sequence[str]) -> None:
    """Import each component in a fork of this process, and print what was found of all."""
    described, limit = arguments
    found = [_fork(registry.Component(**each), float(limit)) for each in json.loads(described)]
    print(json.dumps(found))  # noqa: T201


def _fork(component: registry.Component, limit: float) -> Mapping[str, Any]:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    # Here and not in the child, which may be killed before it has removed it.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        child = context.Process(target=_import, args=(component, sender, folder))
        child.start()
        sender.close()
        try:
            if receiver.poll(limit):
                return receiver.recv()
            return {"error": f"its import did not end within {limit:g} s"}
        except EOFError:
            child.join()
            return {"error": f"its import ended the process with {child.exitcode}"}
        finally:
            child.kill()
            child.join()


def _import(component: registry.Component, sender: Connection, folder: str) -> None:
    """Import a component in an empty folder; standard output is a file meanwhile."""
    with tempfile.TemporaryFile() as printed:
        os.chdir(folder)
        os.dup2(printed.fileno(), 1)
        before, clock = _snapshot(), time.process_time()
        found: dict[str, Any] = {}
        try:
            registry.import_builder(component)
        except (Exception, SystemExit) as error:
            found["error"] = " ".join(f"{type(error).__name__}: {error}".split())
        found["seconds"] = time.process_time() - clock
        sys.stdout.flush()
        found["changed"] = list(changes(before, _snapshot()))
        printed.seek(0)
        found["printed"] = printed.read().decode(errors="replace")
        sender.send(found)
    # Whatever threads and exit handlers the import left must not keep the process.
    os._exit(0)


def _snapshot() -> Mapping[str, str]:
    return {**settings_of_torch(), **generators(), **process()}
