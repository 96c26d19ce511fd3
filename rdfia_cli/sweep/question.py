"""What a sweep asks: the settings that all trials share, the space, and how it is searched.

It knows the configuration of every trial.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from rdfia_cli import registry
from rdfia_cli.config import ComponentConfig, Resolved, RunConfig, resolve
from rdfia_cli.errors import RdfiaError, UsageError, nearest
from rdfia_cli.invocation import options
from rdfia_cli.sources import COMPONENT_GROUPS, Sources, merge, sweep_tables
from rdfia_cli.spec import parse_spec, value_text
from rdfia_cli.sweep.identity import identify, normal_identity
from rdfia_cli.sweep.search import Search, check
from rdfia_cli.sweep.space import Choice, Dimension, Settings, parse_over, size, split_key
from rdfia_cli.sweep.trial import Trial

TRIALS = "trials"
"""The folder of the run folders."""
SWEEP_KEYS = ("over", "trials", "sampler", "pruner", "round")
"""The keys of a file's table `sweep`."""
LAST = 1 - 2**-53
"""The largest share below 1 of the way through a dimension."""
USUAL_TRIALS = 20
"""How many trials there are where neither a flag nor the space says it."""


@dataclass(frozen=True)
class Question:
    """A sweep before anything of it ran.

    Attributes:
        sources: the settings that all trials share.
        search: the space, and how it is searched.
        base: a configuration that holds, with some or none of the values that vary.
    """

    sources: Sources
    search: Search
    base: Resolved

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the trials, but not how many there are: plain JSON values."""
        return identify(self.base, self.search)

    @property
    def folder(self) -> Path:
        """The sweep's folder: `out`, or one under sweeps/ named by model, data and a digest."""
        if (out := self.base.config.out) is not None:
            return Path(out)
        text = json.dumps(normal_identity(self.identity), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        settings = merge(self.sources)
        names = [str(settings[key]["name"].value) for key in ("model", "data")]
        plain = [re.sub(r"[^\w.-]+", "-", name).strip("-.") for name in names]
        return Path("sweeps") / "-".join([*plain, digest])

    def folder_of(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.folder / TRIALS / f"{number:04d}"

    def trial(self, number: int, settings: Settings) -> Trial:
        """A trial's resolved configuration.

        Raises:
            UsageError, ComponentError: a value does not fit; its `--over` is named.
        """
        # A trial has a folder of its own, in which it goes on whatever becomes of the sweep.
        fixed = {"out": str(self.folder_of(number)), "if_exists": "resume"}
        return Trial(number, resolve(replace(self.sources, varied={**settings, **fixed})).config)


def ask(sources: Sources, flags: Mapping[str, Any]) -> Question:
    """The question of a command line.

    Args:
        sources: the settings of `rdfia train`'s flags.
        flags: `over`, `trials`, `sampler`, `pruner`, `round` and `out`, None where not given.

    Raises:
        UsageError: nothing varies, the search cannot be done, or it has nothing to learn from.
    """
    out = {} if flags["out"] is None else {"out": flags["out"]}
    sources = replace(sources, flags={**sources.flags, **out}, sweep=True)
    table = _merge_tables(sources)
    texts = _over_texts(flags["over"] or (), table.get("over", {}))
    if not texts:
        resolve(sources)  # a misspelt [sweep] or key is why
        raise UsageError("nothing varies", "add --over optimizer.lr=0.01,0.1,1 for a sweep")
    space = _read_space(sources, texts)
    _refuse_double(space)
    _refuse_pinned(sources, space)
    chosen = {key: _first(flags[key], table.get(key)) for key in SWEEP_KEYS if key != "over"}
    count = size(space)
    sampler = (chosen["sampler"] or ("random" if count is None else "grid")).removesuffix(":")
    trials = chosen["trials"] or (count if count is not None and sampler == "grid" else None)
    base = _find_base(sources, space)
    search = Search(
        space,
        sampler,
        (chosen["pruner"] or "none").removesuffix(":"),
        trials or min(USUAL_TRIALS, count or USUAL_TRIALS),
        base.config.seed,
        chosen["round"] or Search.round,
    )
    check(search)
    _refuse_blind_search(search, base.config)
    return Question(sources, search, base)


def command_line(trial: Trial) -> str:
    """The `rdfia train` line of a trial, quoted for a shell; it needs no recipe and no file."""
    words = [word for option in options(trial.config) for word in option]
    return shlex.join(["rdfia", "train", *words, "--out", str(trial.folder)])


def structure(config: RunConfig) -> str:
    """A name for what trials must have in common to be trained in one computation.

    Left out is what may differ: continuous settings, the seed, the schedule. Whether the modules
    are really alike is looked at once they are built.
    """
    left_out = ("seed", "epochs", "label_smoothing", "clip_norm", "early_stopping", "layer_decay")
    shared = {
        key: value
        for key, value in config.identity.items()
        if key not in (*left_out, "head_lr_factor", "schedule", "log_every")
    }
    shared["ema_decay"] = bool(config.ema_decay)
    shared["optimizer"] = config.optimizer.name
    shared["model"] = [config.model.name, _discrete(config.model)]
    text = json.dumps(shared, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _discrete(chosen: ComponentConfig) -> dict[str, Any]:
    return {key: v for key, v in chosen.parameters.items() if not isinstance(v, float)}


def _merge_tables(sources: Sources) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for table, origin in sweep_tables(sources):
        for key, value in table.items():
            _refuse_entry(key, value, origin)
        merged.update(table)
    return merged


def _refuse_entry(key: str, value: Any, origin: str) -> None:
    if key not in SWEEP_KEYS:
        raise UsageError(f"unknown setting 'sweep.{key}' ({origin})", nearest(key, SWEEP_KEYS))
    where = f"sweep.{key} = {value!r} ({origin})"
    if key == "over":
        if not isinstance(value, dict):
            raise UsageError(f"{where} is no table", 'as in over = { "lr" = "0.01,0.1" }')
    elif key in ("trials", "round"):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{where} is no count of 1 or more")
    elif not isinstance(value, str):
        raise UsageError(f"{where} is no text")


def _over_texts(given: Sequence[str], table: Mapping[str, Any]) -> Sequence[str]:
    """`KEY=VALUES` of a file, and those of the flags, which win."""
    texts: dict[str, str] = {}
    for key, values in _flattened(table):
        listed = isinstance(values, list)
        text = ",".join(value_text(value) for value in values) if listed else str(values)
        texts[split_key(f"{key}={text}")[0]] = f"{key}={text}"
    named = [split_key(text)[0] for text in given]
    return [*(text for key, text in texts.items() if key not in named), *given]


def _flattened(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a table by dotted key: TOML makes tables of a key that is not quoted."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flattened(typing.cast("dict[str, Any]", value), f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _read_space(sources: Sources, texts: Sequence[str]) -> Sequence[Dimension]:
    guessed = [parse_over(text, whole=None) for text in texts]
    base = _find_base(sources, guessed)
    types = [_type_of(base.config, split_key(text)[0]) for text in texts]
    return [
        parse_over(text, whole=None if kind is None else kind is int)
        for text, kind in zip(texts, types, strict=True)
    ]


def _find_base(sources: Sources, space: Sequence[Dimension]) -> Resolved:
    """A configuration that holds: with the first of all values, without any, or with the last.

    Raises:
        UsageError, ComponentError: none does; it is told of the first.
    """
    first, last = ({d.key: d.at(share) for d in space} for share in (0.0, LAST))
    failure: RdfiaError | None = None
    for varied in (first, {}, last):
        try:
            return resolve(replace(sources, varied=varied))
        except RdfiaError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _type_of(config: RunConfig, key: str) -> type | None:
    """`int` or `float` where a setting is one of these, None where that is not known."""
    head, _, leaf = key.partition(".")
    annotation: Any = None
    if head in COMPONENT_GROUPS and leaf:
        chosen = getattr(config, head)
        if isinstance(chosen, tuple):
            index, _, leaf = leaf.partition(".")
            chosen = chosen[int(index)] if index.isdecimal() and int(index) < len(chosen) else None
        if chosen is not None:
            component = registry.find(COMPONENT_GROUPS[head], parse_spec(chosen.name))
            known = registry.parameters(component).parameters.get(leaf)
            annotation = known.annotation if known else None
    elif not leaf and head in RunConfig.model_fields:
        annotation = RunConfig.model_fields[head].annotation
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation if annotation in (int, float) else None


def _refuse_double(space: Sequence[Dimension]) -> None:
    keys = [dimension.key for dimension in space]
    for key in keys:
        if keys.count(key) > 1:
            raise UsageError(f"--over names {key} twice", "put all its values into one --over")


def _refuse_pinned(sources: Sources, space: Sequence[Dimension]) -> None:
    """Refuse that a setting is given by a flag or `--set` and varied as well."""
    assigned = [text.partition("=")[0].strip() for text in sources.assignments]
    given = {key for key, value in sources.flags.items() if value not in (None, [], ())}
    for dimension in space:
        key = dimension.key
        if key in assigned or key in given or (key == "optimizer.lr" and "lr" in given):
            raise UsageError(f"{key} is both given and varied", f"drop it, or its --over {key}=...")


def _refuse_blind_search(search: Search, base: RunConfig) -> None:
    """Refuse that a sampler or a pruner learns from runs without a validation split."""
    pruned = search.pruner != "none"
    varied = next((d for d in search.space if d.key == "validation"), None)
    if varied is not None:
        least = min(varied.values, key=_number) if isinstance(varied, Choice) else varied.low
        without = _number(least) == 0
    else:
        without = base.validation == 0
    if without and (pruned or search.adaptive):
        who = f"the pruner {search.pruner}" if pruned else f"the sampler {search.sampler}"
        raise UsageError(
            f"{who} learns from the validation split, and with validation = 0 there is none",
            "set validation above 0, or use --sampler random or grid without --pruner",
        )


def _number(text: str | Decimal) -> float:
    """A value as a number; what is none is refused with its trial."""
    try:
        return float(text)
    except ValueError:
        return math.inf


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
