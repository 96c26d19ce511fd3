"""Components: found through entry points, listed without importing, loaded one at a time.

The built-ins come through the same door as a third party's. A component that cannot be imported is
named with its distribution and its error, and breaks only what asks for it.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import hashlib
import importlib
import importlib.util
import inspect
import signal
import sys
import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import __version__, console, entry_points, recipe, signature
from rdfia_cli.entry_points import OWN_DISTRIBUTION
from rdfia_cli.errors import BuilderError, ComponentError, RdfiaError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from types import FrameType

    from rdfia_cli.spec import Spec

GROUPS = ("models", "augmentations", "optimizers", "schedules", "datasets", "loggers")
FILE = "file"
"""What stands for the distribution of a function of a file; its version is the file's hash."""
VARIANT = "variant"
SURELY_MISSPELT = 0.8
"""How like a known name another is, of 1, to be that one with a slip."""
SUPPLIED: Mapping[str, frozenset[str]] = {"schedules": frozenset({"steps_per_epoch", "epochs"})}
"""Keyword-only parameters that rdfia passes itself: no hyper-parameters."""
GIVEN: Mapping[str, Mapping[str, str]] = {
    "models": {"input": "InputSpec"},
    "augmentations": {"input": "InputSpec"},
    "optimizers": {"model": "nn.Module"},
    "schedules": {"optimizer": "Optimizer"},
    "datasets": {"root": "Path"},
    "loggers": {"folder": "Path", "config": "Mapping[str, Any]"},
}
"""What each group's builder is given by position, with the types."""
IMPORT_SECONDS = 120.0
"""How long the import of one component may take where all are tried."""
SLOW_IMPORT_SECONDS = 10.0
"""How long the import of a plugin may take before it is told: timm takes 8 s from a cold disk."""
FIRST_WEIGHTS: Mapping[str, type] = {"pretrained": bool, "weights": Path}
"""Keywords of a model's builder that say where its weights start, with their types."""


@dataclass(frozen=True)
class Component:
    """One entry point.

    Attributes:
        group: one of GROUPS.
        name: the name that a spec asks for.
        distribution: the distribution that provides it, and its version; for a function of a file
            FILE and the first 8 hex digits of the file's SHA-256.
        module, attribute: where the builder stands; the module of a file is its absolute path.
        variant: the member asked for of a family, such as resnet18 of `timm/resnet18`.
        flaw: why it cannot be used, as far as its distribution's own files tell; or empty.
    """

    group: str
    name: str
    distribution: str
    version: str
    module: str
    attribute: str
    variant: str | None = None
    flaw: str = ""

    @property
    def kind(self) -> str:
        """What it is in the singular: model, augmentation, ..."""
        return self.group.removesuffix("s")

    @property
    def address(self) -> str:
        """How errors name it: kind, name, distribution and version."""
        name = self.name if self.variant is None else f"{self.name}/{self.variant}"
        return f"{self.kind} '{name}' of {self.distribution} {self.version}"


@dataclass(frozen=True)
class Listing:
    """A component as `rdfia list` shows it.

    Attributes:
        state: `ok`, `broken` (importing it fails) or `shadowed` (its name alone is another's, or
            is claimed by several plugins, so that only `name@distribution` asks for it).
        error: why, where it is not ok.
    """

    component: Component
    description: str
    state: str
    error: str | None


@lru_cache(maxsize=1)
def components() -> tuple[Component, ...]:
    """Every entry point of the six groups, by group and name, the built-ins first.

    Raises:
        UsageError: the environment chooses a plugin that is not installed.
    """
    found = {_component(entry) for entry in entry_points.read(GROUPS)}
    return tuple(sorted(found, key=lambda c: (GROUPS.index(c.group), *_rank(c))))


def _component(entry: entry_points.Entry) -> Component:
    return Component(
        group=entry.group,
        name=entry.name,
        distribution=entry.distribution,
        version=entry.version,
        module=entry.module,
        attribute=entry.attribute,
        flaw=entry.flaw,
    )


def _rank(component: Component) -> tuple[str, bool, str]:
    return component.name, component.distribution != OWN_DISTRIBUTION, component.distribution


@contextlib.contextmanager
def without_plugins() -> Generator[None]:
    """Leave out every plugin meanwhile, in child processes too."""
    try:
        with entry_points.no_plugins():
            forget()
            yield
    finally:
        forget()


def forget() -> None:
    """Look anew for what is installed and chosen, when it is next asked for."""
    entry_points.installed.cache_clear()
    components.cache_clear()
    recipe.from_plugins.cache_clear()


def names(group: str) -> tuple[str, ...]:
    """The names of a group, each once."""
    return tuple(dict.fromkeys(c.name for c in components() if c.group == group))


def claimants(group: str, name: str) -> tuple[Component, ...]:
    """Who provides a name; more than one where distributions clash."""
    return tuple(c for c in components() if c.group == group and c.name == name)


def find(group: str, spec: Spec) -> Component:
    """The component that a spec names.

    The built-in keeps its name when a plugin claims it too; the plugin's is `name@distribution`.
    `family/member` is the member of a family, a builder whose first keyword is `variant`.
    `./file.py:function` is a function of a file.

    Raises:
        ComponentError: no component has that name, two plugins claim it, or the
            distribution asked for lacks it; there is no such file, or no such function in it; any
            plugin is broken and the environment is strict.
    """
    refuse_failures()
    if spec.file is not None:
        return _find_file(group, spec, *spec.file)
    found = claimants(group, spec.name)
    if found:
        return _choose(found, spec)
    family, _, variant = spec.name.partition("/")
    families = claimants(group, family) if variant else ()
    if not families and spec.name.endswith(".py"):
        raise ComponentError(
            f"'{spec.name}' is a file, not a {group.removesuffix('s')}",
            f"say which function of it: ./{spec.name.removeprefix('./')}:FUNCTION",
        )
    if not families:
        raise ComponentError(
            f"unknown {group.removesuffix('s')} '{spec.name}'",
            _nearest_component(group, spec.name),
        )
    chosen = _choose(families, spec)
    if next(iter(parameters(chosen).parameters), None) != VARIANT:
        raise ComponentError(f"{chosen.address} is no family", f"write '{family}' alone")
    return replace(chosen, variant=variant)


def _nearest_component(group: str, name: str) -> str:
    """The way out of an unknown name, which may be that of a member of a family."""
    known = names(group)
    remedy = nearest(name, known, f"rdfia list {group}")
    if "/" in name or difflib.get_close_matches(name, known, cutoff=SURELY_MISSPELT):
        return remedy
    members: list[str] = []
    for each in known:
        with contextlib.suppress(ComponentError):  # a broken one is no way out
            if is_family(claimants(group, each)[0]):
                members.append(f"'{each}/{name}'")
    if not members:
        return remedy
    question = "?" if remedy.endswith("?") else ""
    return f"{remedy.removesuffix('?')}, or of a family {' or '.join(members)}{question}"


def _choose(found: Sequence[Component], spec: Spec) -> Component:
    """The one of several claimants of a name that a spec means."""
    kind, name = found[0].kind, found[0].name
    if spec.distribution is not None:
        wanted = entry_points.normalised(spec.distribution)
        for component in found:
            if component.distribution == wanted:
                return component
        raise ComponentError(
            f"{kind} '{name}' is not provided by '{spec.distribution}'",
            nearest(wanted, [component.distribution for component in found]),
        )
    first, *others = found
    if others and first.distribution != OWN_DISTRIBUTION:
        raise ComponentError(
            f"{kind} '{name}' is claimed by "
            + " and ".join(f"{c.distribution} {c.version}" for c in found),
            "say which: " + " or ".join(f"{spec.name}@{c.distribution}" for c in found),
        )
    return first


def _find_file(group: str, spec: Spec, path: str, function: str) -> Component:
    """The component that a function of a file is."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ComponentError(f"cannot read '{path}': {error.strerror}", "check the path") from None
    version = hashlib.sha256(content).hexdigest()[:8]
    module = str(Path(path).resolve())
    component = Component(group, spec.name, FILE, version, module, function)
    try:
        known = signature.names(Path(module))
    except signature.BrokenSourceError as error:
        raise _broken(component, str(error)) from None
    if known is not None and function not in known:
        raise ComponentError(f"'{path}' has no function '{function}'", nearest(function, known))
    return component


def shortest_reference(component: Component, spec: Spec) -> str:
    """The spec's name, with the distribution only where the name alone means another's."""
    if spec.file is not None:
        return spec.name
    first, *others = claimants(component.group, component.name)
    is_plain = first.distribution == component.distribution
    if is_plain and (not others or first.distribution == OWN_DISTRIBUTION):
        return spec.name
    return f"{spec.name}@{component.distribution}"


def parameters(component: Component) -> signature.Signature:
    """The hyper-parameters of a component, read from its source; imported only where they must be.

    Raises:
        ComponentError: the component is broken.
    """
    found = source_parameters(component)
    if found is not None:
        return found
    builder = load(component)
    with naming(component, "has an unreadable signature"):
        return _without_supplied(component, signature.of_function(builder))


def source_parameters(component: Component) -> signature.Signature | None:
    """The hyper-parameters as far as the source tells them, or None where only an import does.

    Raises:
        ComponentError: the component is broken.
    """
    _refuse_flaw(component)
    try:
        found = signature.of_source(component.module, component.attribute)
    except signature.BrokenSourceError as error:
        raise _broken(component, str(error)) from None
    return found and _without_supplied(component, found)


def _without_supplied(component: Component, found: signature.Signature) -> signature.Signature:
    supplied = SUPPLIED.get(component.group, frozenset())
    if component.variant is not None:
        supplied |= {VARIANT}
    hyper = {name: p for name, p in found.parameters.items() if name not in supplied}
    if "name" in hyper:
        raise _broken(
            component, "a hyper-parameter cannot be called 'name': that is the component's"
        )
    return replace(found, parameters=hyper)


def first_weights(component: Component) -> frozenset[str]:
    """The keywords of a model's builder that say where its weights start, and nothing else.

    They are `pretrained`, a bool, and `weights`, a path: FIRST_WEIGHTS. Of another type a keyword
    of the same name is a hyper-parameter like any other.
    """
    known = parameters(component).parameters
    return frozenset(
        name
        for name, kind in FIRST_WEIGHTS.items()
        if name in known and signature.means(known[name].annotation, kind)
    )


def load(component: Component) -> Callable[..., Any]:
    """Import a component's builder.

    Raises:
        ComponentError: the import fails, whatever it raises, `sys.exit` included.
    """
    _refuse_flaw(component)
    with naming(component, "cannot be imported"), _told_when_slow(component):
        return import_builder(component)


@contextlib.contextmanager
def _told_when_slow(component: Component) -> Generator[None]:
    """Say what is waited for where an import takes long: it may never end."""
    if component.distribution == OWN_DISTRIBUTION or _module_name(component) in sys.modules:
        yield
        return
    words = f"still importing {component.address} from '{component.module}' ..."
    timer = threading.Timer(SLOW_IMPORT_SECONDS, console.say, [words])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _module_name(component: Component) -> str:
    """The name of its module among those imported; a file's changes with its content."""
    is_file = component.distribution == FILE
    return f"{component.module}#{component.version}" if is_file else component.module


def import_builder(component: Component) -> Callable[..., Any]:
    """Import a component's builder; whatever that raises or prints comes through."""
    is_file = component.distribution == FILE
    builder: Any = _import_file(component) if is_file else importlib.import_module(component.module)
    for part in component.attribute.split("."):
        builder = getattr(builder, part)
    if not callable(builder):
        raise TypeError(f"{component.module}:{component.attribute} is not a function")
    return builder


def _import_file(component: Component) -> Any:
    """The module of a file, imported once for each content; files beside it can be imported."""
    name = _module_name(component)
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, component.module)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    folder = str(Path(component.module).parent)
    sys.path.insert(0, folder)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(folder)
    return module


def build(component: Component, *arguments: Any, **keywords: Any) -> Any:
    """Import a builder and call it.

    Raises:
        ComponentError: it fails, or does not fit what it is given.
    """
    builder = load(component)
    if component.variant is not None:
        keywords[VARIANT] = component.variant
    _refuse_misfit(component, builder, arguments, keywords)
    with naming(component, "cannot be built"):
        return builder(*arguments, **keywords)


def _refuse_misfit(
    component: Component,
    builder: Callable[..., Any],
    arguments: Sequence[Any],
    keywords: Mapping[str, Any],
) -> None:
    """Refuse a builder that does not take what its group's are called with.

    Raises:
        ComponentError: it does not.
    """
    try:
        inspect.signature(builder).bind(*arguments, **keywords)
    except TypeError as error:
        raise BuilderError(
            f"{component.address} does not take what {component.group} are called with: {error}",
            f"write it as def {component.attribute}({_usual_signature(component.group)})",
        ) from error
    except ValueError:
        return  # written in C, it does not tell


def _usual_signature(group: str) -> str:
    """How the parameters of a group's builders are written."""
    given = [f"{name}: {kind}" for name, kind in GIVEN[group].items()]
    return ", ".join([*given, "*", *sorted(SUPPLIED.get(group, ())), "..."])


def members(component: Component, pattern: str = "*") -> tuple[str, ...]:
    """The names of a family's members that fit a pattern.

    The module of its builder tells them by `variants()`, and where a member has several weights to
    start from, `MEMBER.TAG`, those by `tagged_variants()`: a pattern with a dot is for them.

    Args:
        component: the family.
        pattern: of a member's name, as for a shell.

    Raises:
        ComponentError: it is no family, or does not tell.
    """
    module = sys.modules[load(component).__module__]
    plain, tagged = (getattr(module, told, None) for told in ("variants", "tagged_variants"))
    if plain is None:
        raise ComponentError(
            f"{component.address} does not tell its members", "write the names that you mean"
        )
    with naming(component, "cannot list its members"):
        known: Sequence[str] = tagged() if tagged and "." in pattern else plain()
        return tuple(fnmatch.filter(known, pattern))


def is_family(component: Component) -> bool:
    """Whether a component is a family, whose members are `family/member`; nothing is imported."""
    found = source_parameters(component)
    return found is not None and next(iter(found.parameters), None) == VARIANT


def listing(*, check: bool = False, distribution: str | None = None) -> tuple[Listing, ...]:
    """Every component with its state.

    Args:
        check: import each one; otherwise only what its source tells is known.
        distribution: only its components.
    """
    chosen = (c for c in components() if distribution in (None, c.distribution))
    return tuple(_list_one(component, check=check) for component in chosen)


def _list_one(component: Component, *, check: bool) -> Listing:
    text = ""
    try:
        _refuse_flaw(component)
        text = signature.description(component.module, component.attribute)
        if check:
            with _time_limit(component):
                load(component)
    except signature.BrokenSourceError as error:
        return Listing(component, "", "broken", str(error))
    except ComponentError as error:
        return Listing(component, text, "broken", error.fact.partition(": ")[2] or error.fact)
    first, *others = claimants(component.group, component.name)
    if first.distribution != OWN_DISTRIBUTION and others:
        owner = f"is claimed by {' and '.join(c.distribution for c in (first, *others))}"
    elif first is not component:
        owner = f"belongs to {first.distribution}"
    else:
        return Listing(component, text, "ok", None)
    ask = f"ask for {component.name}@{component.distribution}"
    return Listing(component, text, "shadowed", f"'{component.name}' {owner}: {ask}")


@contextlib.contextmanager
def _time_limit(component: Component) -> Generator[None]:
    """Give up an import that never ends, where signals can interrupt it.

    Raises:
        ComponentError: it took longer than IMPORT_SECONDS.
    """
    can_interrupt = threading.current_thread() is threading.main_thread() and hasattr(
        signal, "SIGALRM"
    )
    # What comes with rdfia ends, however slow the machine; torch does not survive an interruption.
    if component.distribution == OWN_DISTRIBUTION or not can_interrupt:
        yield
        return

    def give_up(number: int, frame: FrameType | None) -> None:
        raise _broken(component, f"its import did not end within {IMPORT_SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, IMPORT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def refuse_failures() -> None:
    """Where the environment is strict, refuse to go on beside a plugin that cannot be used.

    Raises:
        ComponentError: naming every component of a plugin that is broken or shadowed.
    """
    if not entry_points.is_strict():
        return
    third = (c for c in components() if c.distribution != OWN_DISTRIBUTION)
    failures = [each for c in third if (each := _list_one(c, check=True)).state != "ok"]
    if failures:
        told = (f"{each.component.address} is {each.state}: {each.error}" for each in failures)
        raise ComponentError(
            f"{entry_points.STRICT} is set, and {'; '.join(told)}",
            f"mend or uninstall it, choose with {entry_points.CHOICE}, or unset the variable",
        )


def _refuse_flaw(component: Component) -> None:
    """Refuse what its distribution's own files say cannot be used.

    Raises:
        ComponentError: with what they say.
    """
    if component.flaw:
        raise ComponentError(
            f"{component.address} is broken: {component.flaw}",
            f"install a release of {component.distribution} that fits rdfia {__version__}",
        )


def _broken(component: Component, reason: str) -> ComponentError:
    is_file = component.distribution == FILE
    return ComponentError(
        f"{component.address} is broken: {reason}",
        f"mend '{component.module}'"
        if is_file
        else f"mend or uninstall {component.distribution}; nothing else needs it",
    )


@contextlib.contextmanager
def naming(component: Component, failure: str) -> Generator[None]:
    """Name the component in whatever it raises; what it prints goes to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except RdfiaError:
        raise
    except (Exception, SystemExit) as error:
        raise failed(component, failure, error) from error


def failed(component: Component, failure: str, error: BaseException) -> BuilderError:
    """What a component raised, in a line that names it."""
    reason = f"{type(error).__name__}: {error}".replace("\n", " ").removesuffix(": ")
    return BuilderError(
        f"{component.address} {failure}: {reason}", "see the whole error with --traceback"
    )
