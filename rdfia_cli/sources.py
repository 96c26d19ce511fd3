"""Where settings come from, and which of them wins.

Flags win over the environment, that over `--config` files (the last one first), those over a
recipe, and that over the defaults. Every source is brought to one shape, a tree of `Given`
values, and the trees are laid over one another. Whether a key or a value is valid is the
configuration's to say.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import recipe
from rdfia_cli.errors import UsageError
from rdfia_cli.spec import parse_spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ENVIRONMENT_PREFIX = "RDFIA_"
ENVIRONMENT_OTHERS = frozenset(
    {"RDFIA_CACHE", "RDFIA_TEST_DATA", "RDFIA_PLUGINS", "RDFIA_STRICT_PLUGINS"}
)
"""Environment variables that are no settings of a run."""
OUTPUT_FLAGS = frozenset({"dry_run", "json", "quiet", "traceback"})
"""Flags that say what is printed."""
SOURCE_FLAGS = frozenset({"set", "config", "recipe"})
"""Flags that name other sources."""
SWEEP = "sweep"
"""The table of a file that says what `rdfia sweep` varies, and how."""
RECIPE = "recipe"
"""The key of a file that names the recipe which it builds on."""

COMPONENT_GROUPS: Mapping[str, str] = {
    "model": "models",
    "data": "datasets",
    "optimizer": "optimizers",
    "schedule": "schedules",
    "augment": "augmentations",
    "log": "loggers",
}
LISTS: Mapping[str, str] = {"augment": "augmentation", "log": "logger"}
"""The keys whose value is a list of components, and what one of it is called."""
DEFAULT_COMPONENTS: Mapping[str, str] = {
    "model": "cnn",
    "data": "digits",
    "optimizer": "sgd:momentum=0.9,weight_decay=0.003",
    "schedule": "cosine:warmup=2",
}
"""What is used where no source names another; whoever names one gets the builder's own defaults."""


@dataclass(frozen=True)
class Given:
    """A value as a source gave it.

    Attributes:
        value: text from a flag or the environment, a typed value from TOML.
        origin: the source in words, such as `--lr` or `file sgd.toml`.
        text: whether the value is text still to be read.
    """

    value: Any
    origin: str
    text: bool = False


Table = dict[str, Any]
"""A tree of Given values: a component is a table with the key `name`, a key of LISTS a list."""


@dataclass(frozen=True)
class Sources:
    """What a command line gives.

    Attributes:
        flags: the value of each flag by config key; `lr` is `optimizer.lr`.
        assignments: the `--set key=value` texts, in order.
        files: the `--config` files, in order.
        recipe: the name of a recipe, or None.
        environment: the environment variables.
        varied: what a sweep gives one of its trials, by dotted key; it wins over all else.
        sweep: whether they are those of a sweep, whose files may have a table `sweep`.
    """

    flags: Mapping[str, Any]
    assignments: Sequence[str] = ()
    files: Sequence[Path] = ()
    recipe: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    varied: Mapping[str, str] = field(default_factory=dict[str, str])
    sweep: bool = False

    @property
    def files_in_order(self) -> Sequence[tuple[Path, str]]:
        """The recipe and the files, each with its origin in words; the last one wins.

        Below each stands the recipe that it builds on, where it names one.
        """
        recipes = [] if self.recipe is None else [self.recipe]
        return [
            *(each for name in recipes for each in _recipe_and_below(name, ())),
            *(each for path in self.files for each in _file_and_below(path)),
        ]


def sources_of(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Sources:
    """What a command line gives, from its flags by name and the environment."""
    return Sources(
        flags={k: v for k, v in flags.items() if k not in OUTPUT_FLAGS | SOURCE_FLAGS},
        assignments=flags["set"] or (),
        files=[Path(file) for file in flags["config"] or ()],
        recipe=flags["recipe"],
        environment=environment,
    )


def _recipe_and_below(name: str, above: Sequence[str]) -> list[tuple[Path, str]]:
    """A recipe, and before it the one that it builds on."""
    if name in above:
        raise UsageError(f"recipe {name} builds on itself", "name another recipe in it")
    path, origin = recipe.path_of(name), f"recipe {name}"
    base = _load_toml(path, origin).get(RECIPE)
    below = [] if base is None else _recipe_and_below(_text(base, origin), (*above, name))
    return [*below, (path, origin)]


def _file_and_below(path: Path) -> list[tuple[Path, str]]:
    origin = f"file {path}"
    base = _load_toml(path, origin).get(RECIPE)
    below = [] if base is None else _recipe_and_below(_text(base, origin), ())
    return [*below, (path, origin)]


def _text(value: Any, origin: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{RECIPE} = {value!r} ({origin}) is no text", "name a recipe")
    return value


def merge(sources: Sources) -> Table:
    """All sources as one tree, the last one on top.

    Raises:
        UsageError: a file cannot be read, or a value has not the form of its kind.
    """
    return _lay(
        [
            _read_defaults(),
            *(_read_settings(path, origin, sources) for path, origin in sources.files_in_order),
            _read_environment(sources.environment),
            _read_flags(sources),
            *(_read_assignment(text) for text in sources.assignments),
            _read_varied(sources.varied),
        ]
    )


def sweep_tables(sources: Sources) -> list[tuple[Mapping[str, Any], str]]:
    """The tables `sweep` of the recipe and the files, each with its origin; the last one wins.

    Raises:
        UsageError: a file cannot be read, or its `sweep` is no table.
    """
    found: list[tuple[Mapping[str, Any], str]] = []
    for path, origin in sources.files_in_order:
        table = _load_toml(path, origin).get(SWEEP, {})
        if not isinstance(table, dict):
            raise UsageError(f"sweep = {table!r} ({origin}) is no table", "write [sweep]")
        found.append((table, origin))
    return found


def _read_defaults() -> Table:
    tree: Table = {}
    for key, name in DEFAULT_COMPONENTS.items():
        _assign(tree, key, Given(name, "default", text=True))
    return tree


def _read_settings(path: Path, origin: str, sources: Sources) -> Table:
    content = _load_toml(path, origin)
    if SWEEP in content and not sources.sweep:
        options = [f"--recipe {sources.recipe}"] if sources.recipe else []
        options += [f"--config {file}" for file in sources.files]
        raise UsageError(f"{origin} is a sweep", f"run rdfia sweep {' '.join(options)}")
    tree: Table = {}
    for key, value in content.items():
        if key not in (SWEEP, RECIPE):
            _assign(tree, key, Given(value, origin))
    return tree


def _load_toml(path: Path, origin: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise UsageError(f"config file '{path}' does not exist") from None
    except OSError as error:
        raise UsageError(f"cannot read config file '{path}': {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{origin} is not TOML: {error}") from None


def _read_environment(environment: Mapping[str, str]) -> Table:
    tree: Table = {}
    for variable in sorted(environment):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in ENVIRONMENT_OTHERS:
            continue
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        _assign(tree, key, Given(environment[variable], f"environment {variable}", text=True))
    return tree


def _read_flags(sources: Sources) -> Table:
    """The flags' tree; `--lr` wins over the rate in `--optimizer`, in either order."""
    tree: Table = {}
    for key, value in sources.flags.items():
        if value is None or value in ([], ()):
            continue
        flag = "MODEL" if key == "model" else f"--{key.replace('_', '-')}"
        _assign(tree, "optimizer.lr" if key == "lr" else key, Given(value, flag, text=True))
    return tree


def _read_assignment(text: str) -> Table:
    """The tree of one `--set`: each lies over the ones before it and over the flags."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text} is not key=value", "write --set optimizer.lr=0.1")
    tree: Table = {}
    _assign(tree, key.strip(), Given(value.strip(), f"--set {key.strip()}", text=True))
    return tree


def _read_varied(varied: Mapping[str, str]) -> Table:
    tree: Table = {}
    for key, value in varied.items():
        _assign(tree, key, Given(value, f"--over {key}", text=True))
    return tree


def _assign(tree: Table, key: str, given: Given) -> None:
    """Put a value at its dotted key; a component's spec or table becomes its own table."""
    head, _, rest = key.partition(".")
    if head not in COMPONENT_GROUPS:
        tree[key] = given
    elif head in LISTS:
        _assign_listed(tree, head, rest, given)
    elif rest:
        tree[head] = {**tree.get(head, {}), rest: given}
    else:
        tree[head] = {**component_table(head, given), **tree.get(head, {})}


def _assign_listed(tree: Table, head: str, rest: str, given: Given) -> None:
    """`augment` replaces the list; `augment.0.size` sets one value of the first of it."""
    if not rest:
        values = _listed(head, given.value)
        tree[head] = [component_table(head, replace(given, value=v)) for v in values]
        return
    index, _, key = rest.partition(".")
    if not index.isdecimal() or not key:
        raise UsageError(
            f"unknown setting '{head}.{rest}' ({given.origin})",
            f"{LISTS[head]}s are numbered from 0: {head}.0.KEY",
        )
    tree[f"{head}.{index}"] = {**tree.get(f"{head}.{index}", {}), key: given}


def _listed(head: str, value: Any) -> Sequence[Any]:
    """One component or many; text in brackets is a TOML array, such as [] for none."""
    if isinstance(value, str) and value.startswith("["):
        try:
            return tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{head} = {value} is no TOML array: {error}") from None
    return value if isinstance(value, list | tuple) else [value]


def component_table(head: str, given: Given) -> Table:
    """A spec text or a TOML table as a component's table."""
    if isinstance(given.value, str):
        spec = parse_spec(given.value)
        values = {
            key: Given(value, f"{given.origin} {spec.name}", text=True)
            for key, value in spec.parameters.items()
        }
        return {"name": Given(spec.reference, given.origin), **values}
    if isinstance(given.value, dict):
        return {key: replace(given, value=value) for key, value in given.value.items()}
    raise UsageError(
        f"{head} is {given.value!r} ({given.origin}), not a component",
        'write a name, a spec such as "sgd:lr=0.1", or a table with name = "sgd"',
    )


def _lay(layers: Sequence[Table]) -> Table:
    """Lay the sources over one another, the last one on top."""
    tree: Table = {}
    for layer in layers:
        tree.update(
            {
                key: value
                for key, value in layer.items()
                if key.partition(".")[0] not in COMPONENT_GROUPS
            }
        )
    for key in COMPONENT_GROUPS:
        if key in LISTS:
            tree[key] = _merge_lists(key, layers)
        else:
            tree[key] = _merge_component([layer[key] for layer in layers if key in layer])
    return tree


def _merge_component(tables: Sequence[Table]) -> Table:
    """The uppermost name wins; a value given together with another name goes with that name.

    The first table is the default's, which goes as soon as another one has a name.
    """
    named = [table for table in tables if "name" in table]
    names = [table["name"].value for table in named]
    merged: Table = {}
    for table in tables[len(named) > 1 :]:
        if "name" not in table or table["name"].value == names[-1]:
            merged.update(table)
    return merged


def _merge_lists(head: str, layers: Sequence[Table]) -> list[Table]:
    """The uppermost list wins; single values go under a list above them and over one below."""
    top = max((level for level, layer in enumerate(layers) if head in layer), default=0)
    chosen = list(layers[top].get(head, []))
    for layer in reversed(layers[:top]):
        for index, values in _refinements(head, layer):
            _refine(head, chosen, index, values, under=True)
    for layer in layers[top:]:
        for index, values in _refinements(head, layer):
            _refine(head, chosen, index, values, under=False)
    return chosen


def _refinements(head: str, layer: Table) -> list[tuple[int, Table]]:
    return [(int(k.removeprefix(f"{head}.")), layer[k]) for k in layer if k.startswith(f"{head}.")]


def _refine(head: str, chosen: list[Table], index: int, values: Table, *, under: bool) -> None:
    if index >= len(chosen):
        origin = next(iter(values.values())).origin
        raise UsageError(
            f"there is no {LISTS[head]} number {index} ({origin})",
            f"{len(chosen)} are chosen, numbered from 0; add one with --{head} NAME",
        )
    lower, upper = (values, chosen[index]) if under else (chosen[index], values)
    chosen[index] = {**lower, **upper}
