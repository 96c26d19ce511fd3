"""The command line of `rdfia plugins`: what is installed, a new one, its check, its contract."""

from __future__ import annotations

from typing import Annotated

import typer

from rdfia_cli import console
from rdfia_cli.options import Json, Traceback

KINDS = "model, augmentation, optimizer, schedule, dataset or logger"

plugins_app = typer.Typer(
    help="List, write and check plugins.", no_args_is_help=True, rich_markup_mode=None
)


@plugins_app.command("list")
def list_plugins(
    ctx: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Import each component, to find those that are broken.")
    ] = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """List installed plugins: version, state, components, error."""
    from rdfia_cli.commands import plugins as command

    raise typer.Exit(console.call(command.list_installed, ctx.params))


@plugins_app.command("new")
def new_plugin(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The distribution, such as rdfia-tiny.", show_default=False
        ),
    ],
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help=f"What it provides: {KINDS}.")
    ] = "model",
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="The folder itself. (default NAME)"),
    ] = None,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Write a complete package with a component, its tests and a CI file."""
    from rdfia_cli.commands import plugins_new as command

    raise typer.Exit(console.call(command.run, ctx.params))


@plugins_app.command("check")
def check_plugins(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...",
            help="Plugins, components such as family/member or name:key=value, or "
            "./file.py:function. (default every plugin)",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option("--timeout", metavar="SECONDS", min=1, help="For each component."),
    ] = 300,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Hold components to the contract of their kind; exit 4 if one breaks it."""
    from rdfia_cli.commands import plugins_check as command

    raise typer.Exit(console.call(command.run, ctx.params))


@plugins_app.command("docs")
def show_contract(
    ctx: typer.Context,
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help=f"Only of one kind: {KINDS}.", show_default=False),
    ] = None,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Print the contract that a component keeps, and what is checked of it."""
    from rdfia_cli.commands import plugins as command

    raise typer.Exit(console.call(command.show_contract, ctx.params))
