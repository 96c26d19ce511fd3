"""A page: sections in, one HTML file out that needs nothing beside it.

A section is put together from the pieces of this module (`charts`, `table`, `command`, ...), so
that every page of the program is made of the same ones. All text is escaped by the templates, and
the page forbids every script but its own: a name is shown as text, whatever stands in it.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from rdfia_cli.report.chart import Group, lay_out

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Environment
    from markupsafe import Markup

LARGEST = 3_000_000
"""Bytes beyond which a page is slow to show."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says.
        order: what it is sorted by, where that is a number.
        share: a bar behind the text, from 0 to 1.
        colour: a patch of a curve's colour before the text.
        strong: whether it stands out.
    """

    text: str
    order: float | None = None
    share: float | None = None
    colour: int | None = None
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        heading: the names of its columns.
        rows: each with a cell, or a text, for every column.
        numbers: the indices of the columns of numbers, which are set to the right.
        code: the indices of the columns that one would type.
        sortable: whether a reader may sort it.
    """

    heading: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    numbers: frozenset[int] = frozenset()
    code: frozenset[int] = frozenset()
    sortable: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        """Its rows, all of cells."""
        return [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in self.rows]


@dataclass(frozen=True)
class Figure:
    """A number that a page begins with: what it is, and what it says of it in small letters."""

    name: str
    value: str
    about: str = ""


@dataclass(frozen=True)
class Tile:
    """A picture with words below it.

    Attributes:
        picture: a data URI; empty for the one that the tiles share.
        caption: lines of text.
        about: what a reader who does not see it is told.
        over: a data URI that lies over the shared picture, or empty.
    """

    picture: str
    caption: Sequence[str]
    about: str
    over: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading.

    Attributes:
        anchor: its name in addresses: lower-case letters and hyphens.
        title: its heading.
        body: what it shows.
        lead: one sentence on what that is.
    """

    anchor: str
    title: str
    body: Markup
    lead: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: its heading, and the name of its window.
        subtitle: what it is about, in a line.
        figures: the numbers that it begins with.
        sections: what follows.
        notes: what a reader must know, a line each.
        made_by: what made it, in a line.
    """

    title: str
    subtitle: str
    figures: Sequence[Figure]
    sections: Sequence[Section]
    notes: Sequence[str] = field(default_factory=tuple[str, ...])
    made_by: str = ""


def render(page: Page) -> str:
    """The HTML of a page."""
    environment = _environment()
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(
        page=page, style=style, script=script, policy=_policy(script)
    )


def write_page(page: Page, path: Path) -> int:
    """Write a page whole or not at all; returns its bytes."""
    from rdfia_cli import durable

    # The name of a folder need not be UTF-8: what no page can hold is shown as its escape.
    content = render(page).encode(errors="backslashreplace")
    durable.write_file(path, content)
    return len(content)


def charts(group: Group) -> Markup:
    """Charts side by side under one legend."""
    laid_out = [lay_out(chart) for chart in group.charts]
    return _piece("charts", laid_out, group)


def table(content: Table, *, title: str = "") -> Markup:
    """A table, which scrolls by itself where it is too wide."""
    return _piece("table", content, title)


def command(text: str, name: str = "Command") -> Markup:
    """Something to type, with a button that copies it."""
    return _piece("command", text, name)


def tiles(
    content: Sequence[Tile], *, size: str = "medium", smooth: bool = False, shared: str = ""
) -> Markup:
    """Pictures in a row that breaks.

    Args:
        content: the pictures.
        size: small, medium or large.
        smooth: whether they are photographs, whose pixels nobody counts.
        shared: a data URI that tiles without a picture show, which the page then has once.
    """
    return _piece("tiles", content, size, smooth, shared)


def confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    """A confusion matrix, true classes by row: counts with the share of the row as shade."""
    return _piece("confusion", names, counts)


def heat(
    across: str, down: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]]
) -> Markup:
    """A table whose shade follows the share of each cell.

    Args:
        across: what its columns are.
        down: what its rows are.
        names: of the columns.
        rows: each with its name.
    """
    return _piece("heat", across, down, {"names": names, "cells": rows})


def picture(uri: str, about: str) -> Markup:
    """One picture as wide as there is room."""
    return _piece("picture", uri, about)


def prose(text: str) -> Markup:
    """A sentence."""
    return _piece("prose", text)


def link(text: str, path: Path) -> Markup:
    """The way to a file, given from the folder of the page."""
    from urllib.parse import quote

    return _piece("link", text, quote(os.fsencode(path.as_posix())))


def heading(text: str) -> Markup:
    """A heading within a section."""
    return _piece("heading", text)


def fold(title: str, body: Markup, *, opened: bool = False) -> Markup:
    """Something that a reader opens."""
    return _piece("fold", title, body, opened)


def sections(content: Sequence[Section], prefix: str) -> Markup:
    """Sections inside another one; `prefix` keeps their anchors apart."""
    return _piece("subsections", content, prefix)


def join(*bodies: Markup) -> Markup:
    """Pieces one below the other."""
    from markupsafe import Markup

    return Markup("\n").join(bodies)


def _piece(name: str, *arguments: Any) -> Markup:
    module: Any = _environment().get_template("pieces.html").module
    return getattr(module, name)(*arguments)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rdfia_cli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "sort_keys": True}
    return environment


def _asset(name: str) -> Markup:
    from importlib.resources import files

    from markupsafe import Markup

    return Markup(files("rdfia_cli.report").joinpath("templates", name).read_text("utf-8"))


def _policy(script: str) -> str:
    """A content security policy that lets the page's own script run, and load nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    rules: Mapping[str, str] = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())
