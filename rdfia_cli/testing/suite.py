"""The checks of each group, run one by one, and as tests of a plugin's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from rdfia_cli import registry
from rdfia_cli.errors import ComponentError, RdfiaError
from rdfia_cli.testing import (
    augmentations,
    builders,
    datasets,
    loggers,
    models,
    optimizers,
    schedules,
)
from rdfia_cli.testing.imports import watch_import
from rdfia_cli.testing.subject import (
    NonConformityError,
    NotApplicableError,
    Subject,
    subject_of,
    subjects_of,
)

Check = Callable[[Subject], None]

CHECKS: Mapping[str, tuple[Check, ...]] = {
    "models": (*builders.CHECKS, *models.CHECKS),
    "augmentations": (*builders.CHECKS, *augmentations.CHECKS),
    "optimizers": (*builders.CHECKS, *optimizers.CHECKS),
    "schedules": (*builders.CHECKS, *schedules.CHECKS),
    "datasets": (*builders.CHECKS, *datasets.CHECKS),
    "loggers": (*builders.CHECKS, *loggers.CHECKS),
}
"""What a component of each group must pass; a check's docstring begins with its promise."""

EXCEPTIONS = "CONFORMANCE_EXCEPTIONS"
"""The name in a builder's module that declares known exceptions, each with its reason."""

State = Literal["passed", "failed", "excepted", "not applicable"]


@dataclass(frozen=True)
class Outcome:
    """What one check found of one component.

    Attributes:
        check: its name.
        state: `excepted` where it failed as its plugin declares.
        reason: why, where it did not pass.
        error: what it raised, where it failed.
    """

    check: str
    state: State
    reason: str = ""
    error: Exception | None = None


def promise(check: Check) -> str:
    """What a check holds a component to, in a line."""
    return (check.__doc__ or "").partition("\n")[0]


def checks_of(group: str) -> tuple[Check, ...]:
    """The checks of a group."""
    return CHECKS[group]


def declared_exceptions(component: registry.Component) -> Mapping[str, str]:
    """The checks that a component is known to fail, each with its reason.

    The module of its builder declares them:
    `CONFORMANCE_EXCEPTIONS = {"builder": {"check": "reason"}}`.

    Raises:
        ComponentError: one of them is no check, or has no reason.
    """
    try:
        builder = registry.load(component)
    except ComponentError:
        return {}
    module = sys.modules.get(getattr(builder, "__module__", ""))
    name = getattr(builder, "__name__", "")
    declared: Mapping[str, str] = getattr(module, EXCEPTIONS, {}).get(name, {})
    known = {check.__name__ for check in checks_of(component.group)}
    for check, reason in declared.items():
        if check not in known or not reason:
            raise ComponentError(
                f"{component.address} declares an exception from '{check}'",
                "name a check, and give the reason: rdfia plugins docs lists the checks",
            )
    return declared


def run_check(check: Check, subject: Subject) -> Outcome:
    """Run one check; whatever it raises is its outcome."""
    outcome = _run(check, subject)
    if outcome.state == "not applicable" or _is_unimportable(check, subject):
        return outcome
    reason = declared_exceptions(subject.component).get(check.__name__)
    if reason is None:
        return outcome
    if outcome.state == "failed":
        return Outcome(outcome.check, "excepted", reason, outcome.error)
    stale = f"it passes, though {EXCEPTIONS} says that it fails: remove that line"
    return Outcome(outcome.check, "failed", stale, NonConformityError(stale))


def _is_unimportable(check: Check, subject: Subject) -> bool:
    """Whether a check has just found that an import may take this process with it."""
    imports = check is builders.import_has_no_side_effects
    return imports and "error" in watch_import(subject.component)


def _run(check: Check, subject: Subject) -> Outcome:
    name = check.__name__
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            check(subject)
    except NotApplicableError as error:
        return Outcome(name, "not applicable", str(error))
    except RdfiaError as error:
        return Outcome(name, "failed", f"{error.fact}; {error.remedy}".removesuffix("; "), error)
    except NonConformityError as error:
        return Outcome(name, "failed", str(error), error)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(name, "failed", reason, error)
    return Outcome(name, "passed")


def conformance(
    distribution: str, specs: Mapping[str, Sequence[str]] | None = None
) -> Callable[..., None]:
    """A test that holds every component of a distribution to the contract of its group.

        test_conforms = conformance("my-plugin")

    Args:
        distribution: the plugin, which must be installed.
        specs: by group, components with settings that are tested besides, such as
            `{"models": ["family/small"]}`; those without settings are always tested.

    Returns:
        A parametrised pytest function.

    Raises:
        ComponentError: the plugin is not installed, or a spec names no component.
    """
    import pytest

    subjects = subjects_of(distribution)
    subjects += [
        subject_of(group, text) for group, texts in (specs or {}).items() for text in texts
    ]
    cases: list[Any] = [
        pytest.param(subject, check, id=f"{subject.spec}-{check.__name__}")
        for subject in subjects
        for check in checks_of(subject.component.group)
    ]

    @pytest.mark.parametrize(("subject", "check"), cases)
    def test_conformance(subject: Subject, check: Check) -> None:
        outcome = run_check(check, subject)
        if outcome.state == "not applicable":
            pytest.skip(outcome.reason)
        if outcome.state == "excepted":
            pytest.xfail(outcome.reason)
        if outcome.state == "failed":
            address = subject.component.address
            raise NonConformityError(f"{address}: {outcome.reason}") from outcome.error

    return test_conformance
