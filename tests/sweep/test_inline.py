"""A sweep within one process stops when that is asked to stop."""

from __future__ import annotations

import signal

import pytest

from rdfia_cli.errors import PreemptedError
from rdfia_cli.sweep import inline
from rdfia_cli.sweep.inline import Inline
from rdfia_cli.sweep.messages import Job


def test_a_trial_that_was_asked_to_stop_ends_the_sweep_and_has_not_failed(monkeypatch):
    def stop(*_: object) -> None:
        raise PreemptedError("stopped by SIGINT", "run the same command again", signal.SIGINT)

    monkeypatch.setattr(inline, "execute", stop)
    pool = Inline()
    pool.submit(Job("process", "structure", []))
    with pytest.raises(PreemptedError):
        pool.reports(0.0)
