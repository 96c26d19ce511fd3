"""The tests of a plugin run where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
collect_ignore = [
    folder.name
    for folder in HERE.iterdir()
    if folder.is_dir() and importlib.util.find_spec(folder.name.replace("-", "_")) is None
]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test stands in an empty folder."""
    monkeypatch.chdir(tmp_path)
