"""`rdfia plugins new`: a complete package that passes its own tests, to be filled with an idea."""

from __future__ import annotations

import ast
import builtins
import datetime
import importlib.util
import keyword
import re
import shutil
import sys
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from rdfia_cli import __version__, console, registry
from rdfia_cli.commands.plugins import SCHEMA
from rdfia_cli.entry_points import normalised
from rdfia_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

TEMPLATES = Path(__file__).parent.parent / "templates"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[._-][A-Za-z0-9]+)*")
USAGE: Mapping[str, str] = {
    "model": "rdfia train {}",
    "augmentation": "rdfia train --augment {}",
    "optimizer": "rdfia train --optimizer {}",
    "schedule": "rdfia train --schedule {}",
    "dataset": "rdfia train --data {}",
    "logger": "rdfia train --log {}",
}
"""By kind, a command that uses a component of it."""


def run(flags: Mapping[str, Any]) -> None:
    """Write the package and say how to go on."""
    kind = _check_kind(flags["kind"])
    names = _names(flags["name"], kind)
    folder = Path(flags["out"] or names["distribution"])
    if folder.exists():
        raise UsageError(f"'{folder}' exists", "choose another name, or --out DIR")
    files = _files(names, kind)
    _write(folder, files)
    if flags["json"]:
        content = {
            "schema": SCHEMA,
            "command": "plugins new",
            "folder": str(folder),
            "files": sorted(files),
            "distribution": names["distribution"],
            "component": names["component"],
            "kind": kind,
        }
        console.print_json(content)
        return
    for name in sorted(files):
        console.print_result(str(folder / name))
    console.say(f"next: pip install -e {folder}, then {names['usage']}")


def _check_kind(kind: str) -> str:
    if kind not in USAGE:
        raise UsageError(f"unknown kind '{kind}'", nearest(kind, USAGE))
    return kind


def _names(name: str, kind: str) -> Mapping[str, str]:
    """What the templates are filled with.

    Raises:
        UsageError: no distribution, module or function can be called so, or the name is taken.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' is no name of a distribution",
            "use letters, digits and -, such as rdfia-tiny",
        )
    distribution = normalised(name)
    package = distribution.replace("-", "_")
    component = package.removeprefix("rdfia_") or package
    for module in (package, component):
        if keyword.iskeyword(module) or not module.isidentifier():
            raise UsageError(
                f"'{module}' is no name of a module", "choose another, such as rdfia-tiny"
            )
    if package in sys.stdlib_module_names or importlib.util.find_spec(package) is not None:
        raise UsageError(f"a module '{package}' is installed already", "choose another name")
    if component.startswith("test") or component in _taken_names(kind):
        raise UsageError(
            f"a function '{component}' would be taken for another one in its module or its test",
            "choose another name, such as rdfia-tiny",
        )
    group = f"{kind}s"
    if registry.claimants(group, component):
        owner = registry.claimants(group, component)[0].distribution
        raise UsageError(f"{owner} has a {kind} '{component}' already", "choose another name")
    return {
        "distribution": distribution,
        "package": package,
        "component": component,
        "kind": kind,
        "group": group,
        "article": "An" if kind[0] in "aeiou" else "A",
        "usage": USAGE[kind].format(component),
        "bounds": _bounds(),
        "year": str(datetime.datetime.now(datetime.UTC).year),
    }


def _taken_names(kind: str) -> frozenset[str]:
    """The names of Python's own and of the templates' code, which a component must not hide."""
    blank = {"component": "_", "package": "_", "distribution": "_", "kind": "_"}
    found = set(dir(builtins))
    for source in (f"{kind}.py", f"test_{kind}.py"):
        for node in ast.walk(ast.parse(_fill(source, blank))):
            match node:
                case (
                    ast.Name(id=name)
                    | ast.arg(arg=name)
                    | ast.alias(name=name)
                    | ast.FunctionDef(name=name)
                    | ast.ClassDef(name=name)
                ):
                    found.add(name)
                case _:
                    pass
    return frozenset(found)


def _bounds() -> str:
    """From this release to the next one that may change the contract."""
    major, minor = (int(part) for part in __version__.split(".")[:2])
    following = f"{major}.{minor + 1}" if major == 0 else f"{major + 1}"
    return f">={major}.{minor},<{following}"


def _files(names: Mapping[str, str], kind: str) -> Mapping[str, str]:
    """The content of each file by its path."""
    package, group = names["package"], names["group"]
    sources = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "LICENSE": "LICENSE",
        ".gitignore": "gitignore",
        ".github/workflows/tests.yml": "tests.yml",
        f"src/{package}/__init__.py": "package.py",
        f"src/{package}/{group}.py": f"{kind}.py",
        "tests/test_conformance.py": "test_conformance.py",
        f"tests/test_{kind}.py": f"test_{kind}.py",
    }
    return {path: _fill(source, names) for path, source in sources.items()}


def _fill(source: str, names: Mapping[str, str]) -> str:
    text = (TEMPLATES / f"{source}.template").read_text(encoding="utf-8")
    return Template(text).substitute(names)


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Write all files, or none: the folder gets its name when it is complete."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, content in files.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
