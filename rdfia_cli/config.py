"""The configuration of a run: one strict model, checked before anything heavy is imported.

What the sources say is held against `RunConfig` and against the builders' signatures, so that a
wrong key or value is refused with its origin.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rdfia_cli import registry, signature
from rdfia_cli.errors import ComponentError, UsageError, nearest
from rdfia_cli.sources import (
    COMPONENT_GROUPS,
    LISTS,
    SWEEP,
    Given,
    Sources,
    Table,
    component_table,
    merge,
)
from rdfia_cli.spec import Count, Fraction, NonNegative, Positive, Size, parse_spec, value_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pydantic.fields import FieldInfo

PLACEMENT = frozenset({"out", "if_exists", "log"})
"""Keys that say where a run and its measures go, not what it computes: not in its identity."""
FORMS: Mapping[str, str] = {
    "class_weights": "none, balanced, or a list such as [1, 2.5], each above 0",
    "out": "the path of a folder, in UTF-8",
}
"""What a value of several forms may be, where the first form that does not fit would mislead."""

PRESETS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    # The labs' values; these deviations are the mean of each image's own.
    "cifar10": ((0.491, 0.482, 0.447), (0.202, 0.199, 0.201)),
    # Of a centre crop of ImageNet's training images, as torchvision's and timm's weights expect.
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mnist": ((0.1307,), (0.3081,)),
    # To [-1, 1], as the weights of many Vision Transformers expect.
    "half": ((0.5,), (0.5,)),
}
"""Mean and standard deviation of each channel, or of all of them, for pixels in [0, 1]."""
ZCA_EPSILON = 1e-2
"""Added to the variances before their square root is taken; our choice for pixels in [0, 1]."""


def _check_normalize(text: str) -> str:
    parse_normalize(text)
    return text


def parse_normalize(text: str) -> tuple[str, float]:
    """The kind of normalisation, and the epsilon where it is ZCA.

    Raises:
        ValueError: there is no such kind.
    """
    kinds = ("auto", "train", "none", "zca", *PRESETS)
    kind, _, setting = text.partition(":")
    if kind not in kinds or (setting and kind != "zca"):
        raise ValueError(f"it should be {', '.join(kinds[:-1])} or {kinds[-1]}, or zca:eps=X")
    key, _, value = setting.partition("=")
    if not setting:
        return kind, ZCA_EPSILON
    try:
        epsilon = float(value)
    except ValueError:
        epsilon = math.nan
    if key != "eps" or not 0 < epsilon < math.inf:
        raise ValueError("write zca:eps=X with X above 0")
    return kind, epsilon


def _check_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ValueError("it should be auto, cpu, cuda, cuda:N or mps")
    return name


def _file_name(component: str) -> str:
    """A component's name as a part of a file's: `my_model-build` for `./my_model.py:build`."""
    file = parse_spec(component).file
    name = f"{Path(file[0]).stem}-{file[1]}" if file else component
    return name.replace("/", "-").replace("@", "-")


class ComponentConfig(BaseModel):
    """A component and the values of all its hyper-parameters."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", ser_json_inf_nan="constants"
    )

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
    normalize: Annotated[str, AfterValidator(_check_normalize)] = Field(
        "auto", description="auto, train, none, zca, zca:eps=X, cifar10, imagenet, mnist or half"
    )
    validation: Fraction = Field(0.1, description="the share of train kept for validation")
    split_seed: Size = Field(0, description="the seed that chooses the validation split")
    label_smoothing: Fraction = Field(0.0, description="the share of each label given to all")
    class_weights: Literal["none", "balanced"] | tuple[Positive, ...] = Field(
        "none", description="the weight of each class in the loss; balanced: 1 / its frequency"
    )
    clip_norm: NonNegative = Field(0.0, description="the gradient's largest norm; 0: any")
    ema_decay: Fraction = Field(
        0.0, description="decay of the average of the weights that is scored and kept; 0: none"
    )
    freeze: Literal["none", "backbone"] = Field(
        "none", description="what does not learn; backbone: all but the head"
    )
    layer_decay: Annotated[float, Gt(0), Le(1)] = Field(
        1.0, description="the learning rate of a layer over that of the next one"
    )
    head_lr_factor: Positive = Field(
        1.0, description="the learning rate of the head over the optimizer's"
    )
    early_stopping: Size = Field(
        0,
        description="epochs without a better validation accuracy (at an equal one, loss) before it "
        "stops; 0: never",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="the arithmetic of the forward and backward pass"
    )
    device: Annotated[str, AfterValidator(_check_device)] = Field(
        "auto", description="auto, cpu, cuda, cuda:N or mps"
    )
    deterministic: bool = Field(True, description="only kernels that give the same bits each time")
    log_every: Size = Field(0, description="steps between lines of metrics.jsonl; 0: epochs only")
    log: tuple[ComponentConfig, ...] = Field(
        (), description="loggers that are told what is measured"
    )
    out: str | None = Field(None, min_length=1, description="the run folder itself")
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
        names = "-".join(_file_name(chosen.name) for chosen in (self.model, self.data))
        return Path("runs") / f"{names}-{self.digest[:8]}"

    def values(self) -> dict[str, Any]:
        """Every setting by its dotted key, a component's by its name first."""
        flat: dict[str, Any] = {}
        for key, value in self:
            members = value if isinstance(value, tuple) else (value,)
            for index, member in enumerate(members):
                dotted = f"{key}.{index}" if isinstance(value, tuple) else key
                if not isinstance(member, ComponentConfig):
                    flat[dotted] = member
                    continue
                flat[dotted] = member.name
                flat.update({f"{dotted}.{k}": v for k, v in member.parameters.items()})
        return flat

    def placed_components(self) -> Iterator[tuple[str, ComponentConfig]]:
        """The components that decide the result by dotted key, such as `model` and `augment.0`."""
        for key, value in self:
            if key in PLACEMENT:
                continue
            if isinstance(value, ComponentConfig):
                yield key, value
            elif key in LISTS:
                yield from ((f"{key}.{index}", chosen) for index, chosen in enumerate(value))

    def components(self) -> Iterator[registry.Component]:
        """The components that decide the result."""
        for key, chosen in self.placed_components():
            group = COMPONENT_GROUPS[key.partition(".")[0]]
            yield registry.find(group, parse_spec(chosen.name))

    @property
    def weights_files(self) -> tuple[Path, ...]:
        """The files that the model's first weights are read from."""
        model = registry.find("models", parse_spec(self.model.name))
        given = (self.model.parameters.get(key) for key in registry.first_weights(model))
        return tuple(Path(path).resolve() for path in given if isinstance(path, str | Path))

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


@dataclass(frozen=True)
class Resolved:
    """A complete configuration and the origin of each value by its dotted key."""

    config: RunConfig
    origins: Mapping[str, str]

    def values(self) -> dict[str, Any]:
        """Every setting by its dotted key, a component's by its name first."""
        return self.config.values()


def resolve(sources: Sources, locate: Callable[[str], str] | None = None) -> Resolved:
    """Merge all sources into one checked configuration.

    Args:
        sources: what the command line gives.
        locate: gives the name under which a component is found from here, for its name.

    Raises:
        UsageError: an unknown key, a value that does not fit, a file that cannot be read.
        ComponentError: a component is missing or broken.
    """
    tree = merge(sources)
    return _check(_relocate(tree, locate) if locate else tree)


def _relocate(tree: Table, locate: Callable[[str], str]) -> Table:
    """The same tree with each component under the name by which it is found."""

    def renamed(table: Table) -> Table:
        name: Given | None = table.get("name")
        if name is None or not isinstance(name.value, str):
            return table
        return {**table, "name": replace(name, value=locate(name.value))}

    moved = {
        key: [renamed(table) for table in tree[key]] if key in LISTS else renamed(tree[key])
        for key in COMPONENT_GROUPS
    }
    return {**tree, **moved}


def _check(tree: Table) -> Resolved:
    _refuse_unknown(tree)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for key, declared in RunConfig.model_fields.items():
        if key in LISTS:
            values[key] = tuple(
                _check_component(f"{key}.{index}", key, table, origins)
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


def _refuse_unknown(tree: Table) -> None:
    """Refuse a key that no setting has; components' own keys are checked with the component."""
    known = RunConfig.model_fields
    for key, given in tree.items():
        head, _, rest = key.partition(".")
        if head not in known:
            raise UsageError(f"unknown setting '{key}' ({given.origin})", _suggest(key, tree))
        if rest:
            raise UsageError(f"'{head}' has no part '{rest}' ({given.origin})", f"set {head} alone")


def _suggest(key: str, tree: Table) -> str:
    """The way out of an unknown key: a component's own of the same last part, else the nearest."""
    head, leaf = key.partition(".")[0], key.rpartition(".")[2]
    for owner in ("model", "data", "optimizer", "schedule"):
        spec = parse_spec(tree[owner]["name"].value)
        component = _find(COMPONENT_GROUPS[owner], tree[owner]["name"], owner)
        if leaf in registry.parameters(component).parameters:
            return f"did you mean '{owner}.{leaf}', of {spec.name}?"
    return nearest(head, [*RunConfig.model_fields, SWEEP])


def _check_scalar(key: str, field: FieldInfo, given: Given) -> Any:
    annotation: Any = field.annotation
    for constraint in field.metadata:
        annotation = Annotated[annotation, constraint]
    return _convert(key, signature.Parameter(key, annotation, signature.REQUIRED), given)


def _convert(key: str, parameter: signature.Parameter, given: Given) -> Any:
    try:
        return parameter.convert(given.value, text=given.text)
    except ValueError as error:
        reason = f"it should be {FORMS[key]}" if key in FORMS else error
        raise UsageError(f"{key} = {given.value!r} ({given.origin}): {reason}") from None


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
                f"put it behind the *: def {component.attribute}(..., *, {given_key})"
                if given_key in known.positional
                else nearest(given_key, known.parameters),
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
            values[parameter.name] = _convert(dotted, parameter, given)
        elif parameter.default is signature.REQUIRED:
            raise UsageError(
                f"{component.kind} '{spec.name}' needs {parameter.name} ({parameter.type})",
                f"write {spec.name}/NAME"
                if parameter.name == registry.VARIANT
                else f"write {spec.name}:{parameter.name}=VALUE",
            )
        else:
            values[parameter.name] = parameter.usual
        origins[dotted] = given.origin if given else "default"
    reference = registry.shortest_reference(component, spec)
    return ComponentConfig(name=reference, parameters=values)


def _find(group: str, name: Given, head: str) -> registry.Component:
    spec = parse_spec(name.value)
    registry.refuse_failures()  # of any plugin, whatever is asked for
    try:
        return registry.find(group, spec)
    except ComponentError as error:
        is_folder = group == "datasets" and Path(spec.name).is_dir()
        meant = f"did you mean folder:path={value_text(spec.name)}?" if is_folder else error.remedy
        raise ComponentError(f"{error.fact} ({name.origin})", meant) from None


def resolve_component(key: str, text: str, origin: str) -> ComponentConfig:
    """A component from its spec alone, such as the dataset of `rdfia eval --data`."""
    return _check_component(key, key, component_table(key, Given(text, origin, text=True)), {})


def resolve_device(text: str, origin: str) -> str:
    """A device name from a flag."""
    return _check_scalar("device", RunConfig.model_fields["device"], Given(text, origin, text=True))


def spec_text(key: str, chosen: ComponentConfig) -> str:
    """A component as one writes it: its name and the hyper-parameters that are not the defaults."""
    changed = [
        f"{name}={value_text(value)}"
        for name, (value, is_usual) in hyper_parameters(key, chosen).items()
        if not is_usual
    ]
    return f"{chosen.name}:{','.join(changed)}" if changed else chosen.name


def hyper_parameters(key: str, chosen: ComponentConfig) -> dict[str, tuple[Any, bool]]:
    """The value of each hyper-parameter of a component, and whether it is its builder's default.

    Where the component is gone or broken, none is known to be.
    """
    try:
        component = registry.find(COMPONENT_GROUPS[key], parse_spec(chosen.name))
        known = registry.parameters(component).parameters
    except ComponentError:
        known = {}
    return {
        name: (value, name in known and value == known[name].usual)
        for name, value in chosen.parameters.items()
    }


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterable[str]:
    """The dotted keys in which two identities differ, each with both values."""
    for key in sorted({*ours, *theirs}):
        one, other = ours.get(key), theirs.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            for line in differences(one, other):
                yield f"{key}.{line}".replace(".parameters.", ".")
        elif one != other:
            yield f"{key} is {other!r} there and {one!r} here"
