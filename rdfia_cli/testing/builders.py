"""What every builder promises, of whatever group."""

from __future__ import annotations

import importlib.metadata
import inspect
import math
from inspect import Parameter

from rdfia_cli import entry_points, registry, signature
from rdfia_cli.testing.imports import SECONDS, watch_import
from rdfia_cli.testing.subject import NonConformityError, NotApplicableError, Subject, require


def signature_is_bindable(subject: Subject) -> None:
    """What it is given is positional, and its hyper-parameters are keyword-only and have types."""
    builder = registry.load(subject.component)
    everything = list(inspect.signature(builder).parameters.values())
    given = registry.GIVEN[subject.component.group]
    first, others = everything[: len(given)], everything[len(given) :]
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    require(
        len(first) == len(given) and all(parameter.kind in positional for parameter in first),
        f"the first parameter must be positional: it is given the {' and the '.join(given)}",
    )
    supplied = registry.SUPPLIED.get(subject.component.group, frozenset())
    absent = supplied - {parameter.name for parameter in others}
    require(not absent, f"it must take the keywords {', '.join(sorted(absent))}")
    for parameter in others:
        if parameter.name not in supplied:
            _check_hyper_parameter(parameter, is_family=_is_family(others))


def _is_family(parameters: list[Parameter]) -> bool:
    named = [p.name for p in parameters if p.kind is Parameter.KEYWORD_ONLY]
    return named[:1] == [registry.VARIANT]


def _check_hyper_parameter(parameter: Parameter, *, is_family: bool) -> None:
    name = parameter.name
    if parameter.kind is Parameter.VAR_KEYWORD:
        require(is_family, f"**{name} takes any keyword, so that a misspelt one is not refused")
        return
    require(parameter.kind is not Parameter.VAR_POSITIONAL, f"*{name} cannot be set by name")
    require(
        parameter.kind is Parameter.KEYWORD_ONLY,
        f"'{name}' is positional, so that nobody can set it: put it behind a *",
    )
    require(name != "name", "a hyper-parameter cannot be called 'name': that is the component's")
    require(parameter.annotation is not Parameter.empty, f"'{name}' has no annotation")
    require(
        not isinstance(parameter.default, list | dict | set),
        f"the default of '{name}' is a {type(parameter.default).__name__}, which every call "
        "shares: use a tuple, or None",
    )


def source_tells_the_signature(subject: Subject) -> None:
    """The source tells listing and completion the same hyper-parameters as the function."""
    found = registry.source_parameters(subject.component)
    require(
        found is not None,
        "its hyper-parameters cannot be read without an import: write annotations such as "
        "Literal[...] in place, defaults as plain values, and no decorator",
    )
    builder = registry.load(subject.component)
    real = signature.of_function(builder).parameters
    for name, parameter in (found.parameters if found else {}).items():
        require(
            name in real and parameter == real[name],
            f"the source tells '{name}' as {parameter.type} = {parameter.default!r}, the function "
            f"as {real[name].type if name in real else 'nothing'}",
        )


def defaults_are_of_their_types(subject: Subject) -> None:
    """The default of each hyper-parameter passes its own annotation."""
    for parameter in registry.parameters(subject.component).parameters.values():
        default, annotation = parameter.default, parameter.annotation
        is_infinite = isinstance(default, float) and not math.isfinite(default)
        if default is signature.REQUIRED or default is None or is_infinite:
            continue
        try:
            usual = signature.convert(annotation, default, text=False)
        except ValueError as error:
            told = f"the default {default!r} of '{parameter.name}' does not fit: {error}"
            raise NonConformityError(told) from None
        require(
            usual == parameter.default,
            f"the default {parameter.default!r} of '{parameter.name}' becomes {usual!r}",
        )


def docstring_describes_it(subject: Subject) -> None:
    """The first line of the docstring is a description of at most 100 letters."""
    text = (inspect.getdoc(registry.load(subject.component)) or "").partition("\n")[0]
    require(text, "the builder has no docstring: its first line is the description in rdfia list")
    require(len(text) <= 100, f"the docstring's first line has {len(text)} letters, more than 100")


def import_has_no_side_effects(subject: Subject) -> None:
    """Importing it takes little time, prints nothing and changes nothing that others share."""
    found = watch_import(subject.component)
    require("error" not in found, str(found.get("error")))
    require(not found["changed"], f"the import changes {', '.join(found['changed'])}")
    first = found["printed"].strip().partition("\n")[0]
    require(not found["printed"], f"the import prints to standard output: {first!r}")
    require(
        found["seconds"] <= SECONDS,
        f"the import takes {found['seconds']:.1f} s of processor time, more than {SECONDS:g}",
    )


def distribution_says_what_it_is_made_for(subject: Subject) -> None:
    """Its distribution requires rdfia-cli from the version on that it was made for."""
    name = subject.component.distribution
    if name in (entry_points.OWN_DISTRIBUTION, registry.FILE):
        raise NotApplicableError("it belongs to no plugin's distribution")
    require(name != "unknown", "its distribution has no readable metadata")
    asked = importlib.metadata.distribution(name).requires or ()
    bounds = [text for text in asked if entry_points.ASKS_FOR_OWN.match(text)]
    require(
        any(symbol in text for text in bounds for symbol in (">=", "==", "~=", ">")),
        f"{name} does not say which {entry_points.OWN_DISTRIBUTION} it is made for: write "
        f'dependencies = ["{entry_points.OWN_DISTRIBUTION}>=0.1,<0.2"]',
    )


CHECKS = (
    import_has_no_side_effects,
    signature_is_bindable,
    source_tells_the_signature,
    defaults_are_of_their_types,
    docstring_describes_it,
    distribution_says_what_it_is_made_for,
)
