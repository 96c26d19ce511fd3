"""Where a picture may go."""

from __future__ import annotations

import os

import pytest

from rdfia_cli.errors import UsageError
from rdfia_cli.report.figure import picture_path


def test_a_folder_that_is_only_to_be_read_is_refused_before_anything_is_computed(monkeypatch):
    # Whoever runs the tests as root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(UsageError) as caught:
        picture_path("confusion.png")
    assert "you may not write to '.'" in caught.value.fact
    assert "--out" not in caught.value.remedy, "eval has no such option"
