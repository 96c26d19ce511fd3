"""The process in which `rdfia plugins check` holds one component to its contract."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from rdfia_cli.errors import RdfiaError
from rdfia_cli.testing.builders import import_has_no_side_effects
from rdfia_cli.testing.imports import watch_import
from rdfia_cli.testing.subject import subject_of
from rdfia_cli.testing.suite import checks_of, run_check


def main(arguments: Sequence[str]) -> None:
    """Print a JSON line before and after each check, and one when all are done.

    What else is printed goes to stderr.
    """
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(check: str, state: str, reason: str = "") -> None:
        results.write(json.dumps({"check": check, "state": state, "reason": reason}) + "\n")
        results.flush()

    group, spec = arguments
    try:
        subject = subject_of(group, spec)
    except RdfiaError as error:
        tell("it_is_found", "failed", f"{error.fact}; {error.remedy}")
        tell("", "ended")
        sys.exit(0)
    for check in checks_of(group):
        tell(check.__name__, "running")
        outcome = run_check(check, subject)
        tell(outcome.check, outcome.state, outcome.reason)
        if check is import_has_no_side_effects and "error" in watch_import(subject.component):
            break
    tell("", "ended")
    # Threads and exit handlers of a plugin must not keep the process.
    os._exit(0)
