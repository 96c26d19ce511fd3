"""The folder of a sweep where that of a run, or of a complete sweep, is wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rdfia_cli.errors import UsageError
from rdfia_cli.ranking import rank, scored
from rdfia_cli.sweep.ledger import LEDGER, decode
from rdfia_cli.sweep.outcome import OUTCOME
from rdfia_cli.sweep.question import TRIALS


def refuse_sweep(folder: Path) -> None:
    """Refuse the folder of a sweep as one of a run, and name its best trial.

    Raises:
        UsageError: it is one.
    """
    if (folder / LEDGER).is_file() or (folder / OUTCOME).is_file():
        raise UsageError(f"'{folder}' is a sweep, not a run", _name_best(folder))


def refuse_unfinished_sweep(folder: Path) -> None:
    """Refuse the folder of a sweep that was left before its end.

    Raises:
        UsageError: it is one.
    """
    if (folder / LEDGER).is_file() and not (folder / OUTCOME).is_file():
        raise UsageError(
            f"'{folder}' is a sweep that has not ended",
            f"run the same rdfia sweep again to go on; {_name_best(folder)}",
        )


def _name_best(folder: Path) -> str:
    number = _find_best(folder)
    trials = folder / TRIALS
    if number is None:
        return f"its trials are in '{trials}'"
    return f"its best trial is '{trials / f'{number:04d}'}'"


def _find_best(folder: Path) -> int | None:
    """The best trial as the folder tells it now, without writing to it."""
    path = folder / LEDGER
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    ranked = rank(
        [
            scored(record["trial"], record["event"], record["validation"])
            for record in filter(None, map(decode, lines))
            if record["event"] == "finished"
        ]
    )
    if ranked:
        return ranked[0]["number"]
    try:
        best: dict[str, Any] | None = json.loads((folder / OUTCOME).read_bytes())["best"]
        return best["number"] if best else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
