"""Curves for TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rdfia_cli.errors import ComponentError
from rdfia_cli.loggers.scalars import scalars, step_of
from rdfia_cli.spec import value_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch.utils.tensorboard.writer import SummaryWriter

    from rdfia_cli.spec import Logger

FOLDER = "tensorboard"
"""Where the events stand in a run folder."""
SECONDS_BETWEEN_FLUSHES = 10


def tensorboard(folder: Path, config: Mapping[str, Any]) -> Logger:
    """Curves for TensorBoard in the run folder: tensorboard --logdir runs."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise ComponentError(
            f"logger 'tensorboard' needs the package tensorboard: {error}",
            "install it: pip install 'rdfia-cli[tensorboard]'",
        ) from None
    return TensorBoardLogger(SummaryWriter, folder / FOLDER, config)


class TensorBoardLogger:
    """Event files that are written anew whenever a run goes on, so that no point is there twice.

    Args:
        writer: what writes them.
        folder: where they stand.
        config: the settings by their dotted keys, shown as a text.
    """

    def __init__(
        self, writer: type[SummaryWriter], folder: Path, config: Mapping[str, Any]
    ) -> None:
        self._writer_type = writer
        self._folder = folder
        self._config = config
        self._writer: SummaryWriter | None = None

    def write(self, line: Mapping[str, Any]) -> None:
        """Write the numbers of a line."""
        writer = self._writer = self._writer or self._begin()
        for name, value in scalars(line).items():
            writer.add_scalar(name, value, step_of(line))

    def close(self, *, complete: bool) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self) -> SummaryWriter:
        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        writer = self._writer_type(str(self._folder), flush_secs=SECONDS_BETWEEN_FLUSHES)
        rows = [f"| `{key}` | `{value_text(value)}` |" for key, value in self._config.items()]
        writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *rows]))
        return writer
