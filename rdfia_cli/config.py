"""The configuration of a run: one strict model, and where each of its values came from.

Flags win over the environment, that over `--config` files (the last one first), those over a
recipe, and that over the defaults. Every source is brought to one shape, a tree of `Given`
values; the trees are merged; what comes out is checked against `RunConfig` and against the
builders' signatures, so that a wrong key or value is refused, with its origin, before anything
heavy is imported.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Lt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rdfia_cli import registry, signature
from rdfia_cli.errors import ComponentError, UsageError, nearest
from rdfia_cli.spec import Count, Fraction, Size, parse_spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pydantic.fields import FieldInfo

ENVIRONMENT_PREFIX = "RDFIA_"
ENVIRONMENT_OTHERS = frozenset({"RDFIA_CACHE", "RDFIA_TEST_DATA"})
"""Environment variables that are no settings of a run."""

COMPONENT_GROUPS: Mapping[str, str] = {
    "model": "models",
    "data": "datasets",
    "optimizer": "optimizers",
    "schedule": "schedules",
    "augment": "augmentations",
}
PLACEMENT = frozenset({"out", "if_exists"})
"""Keys that say where a run goes, not what it computes: no part of its identity."""


def _check_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ValueError("it should be auto, cpu, cuda, cuda:N or mps")
    return name


class ComponentConfig(BaseModel):
    """A component and the values of all its hyper-parameters."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: str
    parameters: dict[str, Any] = {}

    @property
    def table(self) -> dict[str, Any]:
        """The TOML form: `name` beside the hyper-parameters; None has no TOML and is text."""
        plain = self.model_dump(mode="json")["parameters"]
        return {"name": self.name, **{k: "none" if v is None else v for k, v in plain.items()}}


class RunConfig(BaseModel):
    """Every setting of a run, complete: enough to run it again."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    model: ComponentConfig = Field(description="the model")
    data: ComponentConfig = Field(description="the dataset")
    augment: tuple[ComponentConfig, ...] = Field((), description="augmentations, in order")
    optimizer: ComponentConfig = Field(description="the optimizer")
    schedule: ComponentConfig = Field(description="the schedule of the learning rate")
    epochs: Count = Field(30, description="passes over the train split")
    batch_size: Count = Field(32, description="examples a step")
    seed: Annotated[int, Ge(0), Lt(2**63)] = Field(0, description="the seed of all randomness")
    normalize: Literal["train", "none"] = Field(
        "train", description="mean and standard deviation of each channel, fitted on train"
    )
    validation: Fraction = Field(0.1, description="the share of train kept for validation")
    split_seed: Size = Field(0, description="the seed that chooses the validation split")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="the arithmetic of the forward and backward pass"
    )
    device: Annotated[str, AfterValidator(_check_device)] = Field(
        "auto", description="auto, cpu, cuda, cuda:N or mps"
    )
    deterministic: bool = Field(True, description="only kernels that give the same bits each time")
    log_every: Size = Field(0, description="steps between lines of metrics.jsonl; 0: epochs only")
    out: str | None = Field(None, description="the run folder itself")
    if_exists: Literal["skip", "resume", "new", "error"] = Field(
        "resume", description="what to do where the run folder exists"
    )

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide the result, as plain JSON values."""
        return self.model_dump(mode="json", exclude=set(PLACEMENT))

    @property
    def digest(self) -> str:
        """The SHA-256 of the identity, in hex."""
        text = json.dumps(self.identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """The run folder: `out`, or one under runs/ named by model, data and digest."""
        if self.out is not None:
            return Path(self.out)
        names = f"{self.model.name}-{self.data.name}".replace("/", "-").replace("@", "-")
        return Path("runs") / f"{names}-{self.digest[:8]}"

    def to_toml(self) -> str:
        """The text of `config.toml`."""
        import tomli_w

        scalars = {
            key: value
            for key, value in self.identity.items()
            if key not in COMPONENT_GROUPS and value is not None
        }
        tables = {
            "model": self.model.table,
            "data": self.data.table,
            "optimizer": self.optimizer.table,
            "schedule": self.schedule.table,
            "augment": [component.table for component in self.augment],
        }
        return tomli_w.dumps({**scalars, **tables})


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
"""A tree of Given values: a component is a table with the key `name`, `augment` a list of them."""


@dataclass(frozen=True)
class Resolved:
    """A complete configuration and the origin of each value by its dotted key."""

    config: RunConfig
    origins: Mapping[str, str]

    def values(self) -> dict[str, Any]:
        """Every setting by its dotted key, a component's by its name first."""
        flat: dict[str, Any] = {}
        for key, value in self.config:
            members = value if isinstance(value, tuple) else (value,)
            for index, member in enumerate(members):
                dotted = f"{key}.{index}" if isinstance(value, tuple) else key
                if not isinstance(member, ComponentConfig):
                    flat[dotted] = member
                    continue
                flat[dotted] = member.name
                flat.update({f"{dotted}.{k}": v for k, v in member.parameters.items()})
        return flat


@dataclass(frozen=True)
class Sources:
    """What a command line gives.

    Attributes:
        flags: the value of each flag by config key; `lr` is `optimizer.lr`.
        assignments: the `--set key=value` texts, in order.
        files: the `--config` files, in order.
        recipe: the name of a recipe, or None.
        environment: the environment variables.
    """

    flags: Mapping[str, Any]
    assignments: Sequence[str] = ()
    files: Sequence[Path] = ()
    recipe: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def resolve(sources: Sources) -> Resolved:
    """Merge all sources into one checked configuration.

    Raises:
        UsageError: an unknown key, a value that does not fit, a file that cannot be read.
        ComponentError: a component is missing or broken.
    """
    recipes = [sources.recipe] if sources.recipe else []
    layers = [
        _read_defaults(),
        *(_read_toml(registry.recipe_path(name), f"recipe {name}") for name in recipes),
        *(_read_toml(path, f"file {path}") for path in sources.files),
        _read_environment(sources.environment),
        _read_flags(sources),
        *(_read_assignment(text) for text in sources.assignments),
    ]
    return _check(_merge(layers))


def _read_defaults() -> Table:
    tree: Table = {}
    for key, name in DEFAULT_COMPONENTS.items():
        _assign(tree, key, Given(name, "default", text=True))
    return tree


def _read_toml(path: Path, origin: str) -> Table:
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except FileNotFoundError:
        raise UsageError(f"config file '{path}' does not exist") from None
    except OSError as error:
        raise UsageError(f"cannot read config file '{path}': {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{origin} is not TOML: {error}") from None
    tree: Table = {}
    for key, value in content.items():
        _assign(tree, key, Given(value, origin))
    return tree


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


def _assign(tree: Table, key: str, given: Given) -> None:
    """Put a value at its dotted key; a component's spec or table becomes its own table.

    Raises:
        UsageError: the key is no setting.
    """
    head, _, rest = key.partition(".")
    if head not in RunConfig.model_fields:
        raise UsageError(
            f"unknown setting '{key}' ({given.origin})", nearest(head, RunConfig.model_fields)
        )
    if head not in COMPONENT_GROUPS:
        if rest:
            raise UsageError(f"'{head}' has no part '{rest}' ({given.origin})", f"set {head} alone")
        tree[head] = given
    elif head == "augment":
        _assign_augmentation(tree, rest, given)
    elif rest:
        tree[head] = {**tree.get(head, {}), rest: given}
    else:
        tree[head] = {**_component(head, given), **tree.get(head, {})}


def _assign_augmentation(tree: Table, rest: str, given: Given) -> None:
    """`augment` replaces the list; `augment.0.size` sets one value of the first of it."""
    if not rest:
        values = given.value if isinstance(given.value, list | tuple) else [given.value]
        tree["augment"] = [_component("augment", replace(given, value=v)) for v in values]
        return
    index, _, key = rest.partition(".")
    if not index.isdigit() or not key:
        raise UsageError(
            f"unknown setting 'augment.{rest}' ({given.origin})",
            "augmentations are numbered from 0: augment.0.size",
        )
    tree[f"augment.{index}"] = {**tree.get(f"augment.{index}", {}), key: given}


def _component(head: str, given: Given) -> Table:
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


def _merge(layers: Sequence[Table]) -> Table:
    """Lay the sources over one another, the last one on top."""
    tree: Table = {}
    for layer in layers:
        tree.update({key: value for key, value in layer.items() if key not in COMPONENT_GROUPS})
    for key in COMPONENT_GROUPS:
        if key != "augment":
            tree[key] = _merge_component([layer[key] for layer in layers if key in layer])
    tree["augment"] = _merge_augmentations(layers)
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


def _merge_augmentations(layers: Sequence[Table]) -> list[Table]:
    """The uppermost list wins; single values go under a list above them and over one below."""
    top = max((level for level, layer in enumerate(layers) if "augment" in layer), default=0)
    chosen = list(layers[top].get("augment", []))
    for layer in reversed(layers[:top]):
        for index, values in _refinements(layer):
            _refine_augmentation(chosen, index, values, under=True)
    for layer in layers[top:]:
        for index, values in _refinements(layer):
            _refine_augmentation(chosen, index, values, under=False)
    return chosen


def _refinements(layer: Table) -> list[tuple[int, Table]]:
    return [(int(k.removeprefix("augment.")), layer[k]) for k in layer if k.startswith("augment.")]


def _refine_augmentation(chosen: list[Table], index: int, values: Table, *, under: bool) -> None:
    if index >= len(chosen):
        origin = next(iter(values.values())).origin
        raise UsageError(
            f"there is no augmentation number {index} ({origin})",
            f"{len(chosen)} are chosen, numbered from 0; add one with --augment NAME",
        )
    lower, upper = (values, chosen[index]) if under else (chosen[index], values)
    chosen[index] = {**lower, **upper}


def _check(tree: Table) -> Resolved:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for key, declared in RunConfig.model_fields.items():
        if key == "augment":
            values[key] = tuple(
                _check_component(f"augment.{index}", key, table, origins)
                for index, table in enumerate(tree.get(key, []))
            )
        elif key in COMPONENT_GROUPS:
            values[key] = _check_component(key, key, tree[key], origins)
        elif key in tree:
            values[key] = _check_scalar(key, declared, tree[key])
            origins[key] = tree[key].origin
        else:
            origins[key] = "default"
    return Resolved(RunConfig(**values), origins)


def _check_scalar(key: str, field: FieldInfo, given: Given) -> Any:
    annotation: Any = field.annotation
    for constraint in field.metadata:
        annotation = Annotated[annotation, constraint]
    return _convert(key, annotation, given)


def _convert(key: str, annotation: Any, given: Given) -> Any:
    try:
        return signature.convert(annotation, given.value, text=given.text)
    except ValueError as error:
        raise UsageError(f"{key} = {given.value!r} ({given.origin}): {error}") from None


def _check_component(key: str, head: str, table: Table, origins: dict[str, str]) -> ComponentConfig:
    group = COMPONENT_GROUPS[head]
    name = table.get("name")
    if name is None:
        origin = next((g.origin for g in table.values()), "")
        raise UsageError(f"{key} has no name ({origin})", 'add name = "..." to its table')
    if not isinstance(name.value, str):
        raise UsageError(f"{key}.name = {name.value!r} ({name.origin}) is not text")
    spec = parse_spec(name.value)
    if spec.parameters:
        raise UsageError(
            f"{key}.name = {name.value!r} ({name.origin}) is more than a name",
            f'write {key} = "{name.value}", or its parameters as keys of their own',
        )
    component = _find(group, name, head)
    known = registry.parameters(component)
    origins[key] = name.origin
    for given_key, given in table.items():
        if given_key not in {"name", *known.parameters} and not known.open:
            raise UsageError(
                f"{component.kind} '{spec.name}' has no setting '{given_key}' ({given.origin})",
                nearest(given_key, known.parameters),
            )
    others = [
        signature.Parameter(name, Any, signature.REQUIRED)
        for name in table
        if name not in {"name", *known.parameters}
    ]
    values: dict[str, Any] = {}
    for parameter in (*others, *known.parameters.values()):
        dotted = f"{key}.{parameter.name}"
        given = table.get(parameter.name)
        if given is not None:
            values[parameter.name] = _convert(dotted, parameter.annotation, given)
        elif parameter.default is signature.REQUIRED:
            raise UsageError(
                f"{component.kind} '{spec.name}' needs {parameter.name} ({parameter.type})",
                f"write {spec.name}/NAME"
                if parameter.name == registry.VARIANT
                else f"add --set {dotted}=VALUE",
            )
        else:
            values[parameter.name] = parameter.default
        origins[dotted] = given.origin if given else "default"
    reference = registry.shortest_reference(component, spec)
    return ComponentConfig(name=reference, parameters=values)


def _find(group: str, name: Given, head: str) -> registry.Component:
    spec = parse_spec(name.value)
    try:
        return registry.find(group, spec)
    except ComponentError as error:
        raise ComponentError(f"{error.fact} ({name.origin})", error.remedy) from None


def resolve_component(key: str, text: str, origin: str) -> ComponentConfig:
    """A component from its spec alone, such as the dataset of `rdfia eval --data`."""
    return _check_component(key, key, _component(key, Given(text, origin, text=True)), {})


def resolve_device(text: str, origin: str) -> str:
    """A device name from a flag."""
    return _check_scalar("device", RunConfig.model_fields["device"], Given(text, origin, text=True))


def spec_text(key: str, chosen: ComponentConfig) -> str:
    """A component as one writes it: its name and the hyper-parameters that are not the defaults."""
    component = registry.find(COMPONENT_GROUPS[key], parse_spec(chosen.name))
    known = registry.parameters(component).parameters
    changed = [
        f"{name}={_value_text(value)}"
        for name, value in chosen.parameters.items()
        if name not in known or value != known[name].default
    ]
    return f"{chosen.name}:{','.join(changed)}" if changed else chosen.name


NEEDS_QUOTES = re.compile(r"""[][(){}"',]|^\s|\s$""")


def _value_text(value: Any) -> str:
    if isinstance(value, bool | None):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return json.dumps(value, ensure_ascii=False)
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if NEEDS_QUOTES.search(text) else text


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterable[str]:
    """The dotted keys in which two identities differ, each with both values."""
    for key in sorted({*ours, *theirs}):
        one, other = ours.get(key), theirs.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            for line in differences(one, other):
                yield f"{key}.{line}".replace(".parameters.", ".")
        elif one != other:
            yield f"{key} is {other!r} there and {one!r} here"
