"""The words of `rdfia train` that make a run again, from its configuration alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdfia_cli.config import PLACEMENT, RunConfig, spec_text
from rdfia_cli.sources import COMPONENT_GROUPS, LISTS
from rdfia_cli.spec import value_text

if TYPE_CHECKING:
    from collections.abc import Iterator

FLAGLESS = frozenset({"split_seed", "deterministic"})
"""Settings that have no flag of their own and are written after `--set`."""


def options(config: RunConfig) -> Iterator[list[str]]:
    """The words of each option, after `rdfia train`; the model comes first.

    Components are always named, since one that is named has its builder's own defaults.
    """
    yield [spec_text("model", config.model)]
    for key in ("data", "optimizer", "schedule"):
        yield [f"--{key}", spec_text(key, getattr(config, key))]
    for key in LISTS:
        for chosen in getattr(config, key):
            yield [f"--{key}", spec_text(key, chosen)]
    for key, field in RunConfig.model_fields.items():
        value = getattr(config, key)
        if key in PLACEMENT or key in COMPONENT_GROUPS or value == field.default:
            continue
        if key in FLAGLESS:
            yield ["--set", f"{key}={value_text(value)}"]
        else:
            yield [f"--{key.replace('_', '-')}", value_text(value)]
