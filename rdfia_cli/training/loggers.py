"""The loggers of a run: one that fails never takes the run with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rdfia_cli import registry
from rdfia_cli.config import COMPONENT_GROUPS, PLACEMENT, RunConfig
from rdfia_cli.errors import ComponentError, RdfiaError
from rdfia_cli.spec import Logger, parse_spec
from rdfia_cli.training.assembly import build_component

MISSED = "the run goes on without it, and the same command afterwards tells it what it missed"


class Loggers:
    """All loggers of a run; what fails is named once, and told nothing more.

    Args:
        attached: each with the component that it came from.
        lost: a warning for each that could not be built.
    """

    def __init__(
        self, attached: list[tuple[registry.Component, Logger]], lost: Sequence[str] = ()
    ) -> None:
        self._attached = attached
        self.lost = lost

    def write(self, line: Mapping[str, Any]) -> list[str]:
        """Tell a line of `metrics.jsonl` to all; a warning for each that failed."""
        return self._tell(lambda logger: logger.write(line))

    def close(self, *, complete: bool) -> list[str]:
        """Tell all that there is no more; a warning for each that failed."""
        warnings = self._tell(lambda logger: logger.close(complete=complete))
        self._attached = []
        return warnings

    def _tell(self, call: Callable[[Logger], None]) -> list[str]:
        warnings: list[str] = []
        for component, logger in list(self._attached):
            try:
                with registry.naming(component, "failed"):
                    call(logger)
            except RdfiaError as error:
                self._attached.remove((component, logger))
                warnings.append(f"{error.fact}: {MISSED}")
        return warnings


def attach(config: RunConfig, folder: Path) -> Loggers:
    """Build the loggers that a configuration names.

    What a builder refuses in words of its own is an error; any other failure of it, such as of a
    server that does not answer, costs that logger alone.

    Raises:
        ComponentError: one cannot be imported, or says that it cannot do its work, such as where
            its package is missing.
    """
    settings = {
        key: value
        for key, value in config.values().items()
        if key.partition(".")[0] not in PLACEMENT
    }
    attached: list[tuple[registry.Component, Logger]] = []
    lost: list[str] = []
    for chosen in config.log:
        component = registry.find(COMPONENT_GROUPS["log"], parse_spec(chosen.name))
        registry.load(component)
        try:
            attached.append((component, build_component("log", chosen, folder, settings)))
        except ComponentError as error:
            if error.__cause__ is None:
                raise
            lost.append(f"{error.fact}: {MISSED}")
    return Loggers(attached, lost)
