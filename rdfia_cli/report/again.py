"""The command that makes a run again, from its configuration alone."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rdfia_cli.config import PLACEMENT, ComponentConfig, RunConfig, hyper_parameters, resolve
from rdfia_cli.invocation import options
from rdfia_cli.sources import COMPONENT_GROUPS, LISTS, Sources
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

    Usual is what `rdfia train` does without a flag; of a component that it would not choose, the
    defaults of its builder are.
    """
    usual = resolve(Sources({})).config
    found: dict[str, tuple[str, bool]] = {}
    for key, field in RunConfig.model_fields.items():
        value: Any = getattr(config, key)
        if key in PLACEMENT:
            continue
        if key not in COMPONENT_GROUPS:
            found[key] = (value_text(value), value == field.default)
        elif key in LISTS:
            for index, chosen in enumerate(value):
                found.update(_component_settings(key, f"{key}.{index}", chosen, None))
        else:
            found.update(_component_settings(key, key, value, getattr(usual, key)))
    return found


def _component_settings(
    key: str, dotted: str, chosen: ComponentConfig, usual: ComponentConfig | None
) -> Iterator[tuple[str, tuple[str, bool]]]:
    known = usual if usual is not None and usual.name == chosen.name else None
    yield dotted, (chosen.name, known is not None)
    for name, (value, of_builder) in hyper_parameters(key, chosen).items():
        is_usual = of_builder if known is None else value == known.parameters.get(name)
        yield f"{dotted}.{name}", (value_text(value), is_usual)
