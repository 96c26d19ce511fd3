"""The command that makes a run again, from its configuration alone."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rdfia_cli.config import PLACEMENT, ComponentConfig, RunConfig, hyper_parameters
from rdfia_cli.invocation import options
from rdfia_cli.sources import COMPONENT_GROUPS, LISTS
from rdfia_cli.spec import value_text

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 88


def command_line(config: RunConfig) -> str:
    """A command for a shell, in lines of 88 letters where its words allow."""
    first, *others = options(config)
    lines = [" ".join(["rdfia train", *map(shlex.quote, first)])]
    for words in others:
        option = " ".join(map(shlex.quote, words))
        if len(lines[-1]) + len(option) + 3 <= WIDTH:
            lines[-1] += f" {option}"
        else:
            lines.append(f"  {option}")
    return " \\\n".join(lines)


def settings(config: RunConfig) -> dict[str, tuple[str, bool]]:
    """Every setting that decides the result by its dotted key: its text, and whether it is usual.

    What is usual of a component's hyper-parameter is its builder's default.
    """
    found: dict[str, tuple[str, bool]] = {}
    for key, field in RunConfig.model_fields.items():
        value: Any = getattr(config, key)
        if key in PLACEMENT:
            continue
        if key not in COMPONENT_GROUPS:
            found[key] = (value_text(value), value == field.default)
        elif key in LISTS:
            for index, chosen in enumerate(value):
                found.update(_component_settings(key, f"{key}.{index}", chosen))
        else:
            found.update(_component_settings(key, key, value))
    return found


def _component_settings(
    key: str, dotted: str, chosen: ComponentConfig
) -> Iterator[tuple[str, tuple[str, bool]]]:
    yield dotted, (chosen.name, True)
    for name, (value, usual) in hyper_parameters(key, chosen).items():
        yield f"{dotted}.{name}", (value_text(value), usual)
