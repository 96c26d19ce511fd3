"""A component under test, and the words in which a check says what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdfia_cli import registry, signature
from rdfia_cli.config import resolve_component
from rdfia_cli.errors import ComponentError
from rdfia_cli.sources import COMPONENT_GROUPS
from rdfia_cli.spec import parse_spec

KEYS: Mapping[str, str] = {group: key for key, group in COMPONENT_GROUPS.items()}


class NonConformityError(AssertionError):
    """A component breaks the contract of its group."""


class NotApplicableError(Exception):
    """A check says nothing about this component; the message is why."""


@dataclass(frozen=True)
class Subject:
    """A component, with the hyper-parameters that it is built with.

    Attributes:
        component: what is tested.
        spec: how it was asked for, such as `tiny` or `tiny:width=4`.
    """

    component: registry.Component
    spec: str

    @property
    def settings(self) -> Mapping[str, Any]:
        """The hyper-parameters, checked and with their defaults.

        Raises:
            NotApplicableError: one of them has no default and the spec does not give it.
        """
        given = parse_spec(self.spec).parameters
        known = registry.parameters(self.component).parameters
        missing = [
            n for n, p in known.items() if p.default is signature.REQUIRED and n not in given
        ]
        if missing == [registry.VARIANT]:
            raise NotApplicableError(f"it is a family: check a member, {self.component.name}/NAME")
        if missing:
            example = f"{self.component.name}:{missing[0]}=..."
            raise NotApplicableError(f"it needs {', '.join(missing)}: check {example}")
        return resolve_component(KEYS[self.component.group], self.spec, "the check").parameters

    def build(self, *arguments: Any, **supplied: Any) -> Any:
        """Call the builder, as a run does.

        Raises:
            ComponentError: it fails.
        """
        return registry.build(self.component, *arguments, **self.settings, **supplied)


def subject_of(group: str, spec: str) -> Subject:
    """The component that a spec names.

    Raises:
        ComponentError: there is none.
    """
    return Subject(registry.find(group, parse_spec(spec)), spec)


def require(condition: object, message: str) -> None:
    """Say that the contract is broken, unless a condition holds.

    Raises:
        NonConformityError: it does not.
    """
    if not condition:
        raise NonConformityError(message)


def subjects_of(distribution: str) -> list[Subject]:
    """Every component of a distribution.

    Raises:
        ComponentError: it is not installed, or provides none.
    """
    from rdfia_cli.entry_points import normalised
    from rdfia_cli.errors import nearest

    wanted = normalised(distribution)
    found = [c for c in registry.components() if c.distribution == wanted]
    if not found:
        known = {component.distribution for component in registry.components()}
        raise ComponentError(
            f"no distribution '{distribution}' provides a component",
            f"install it first, such as pip install -e .; {nearest(wanted, known)}",
        )
    return [Subject(component, f"{component.name}@{wanted}") for component in found]
