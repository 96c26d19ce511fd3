"""The space of a sweep: which settings vary, and over what.

`--over KEY=VALUES`, where VALUES is `a,b,c`, `low..high`, `low..high:step` or `log:low..high`.
A drawn value is text, as one would write it after `--set KEY=`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rdfia_cli.errors import UsageError
from rdfia_cli.sources import COMPONENT_GROUPS
from rdfia_cli.spec import parse_spec, split_outside_brackets, typed_value

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = re.compile(
    rf"(?:(?P<scale>[a-zA-Z]+):)?(?P<low>{NUMBER})\.\.(?P<high>{NUMBER})(?::(?P<step>.*))?"
)
LOGARITHMIC = "log"
FORMS = "write KEY=a,b,c, KEY=low..high, KEY=low..high:step or KEY=log:low..high"
ALIASES: Mapping[str, str] = {"lr": "optimizer.lr"}
SHORTEST = 4
"""Significant digits of a number that is drawn at random."""
FIXED = frozenset({"out", "if_exists", "log_every", "log"})
"""Settings that say where a run goes or what it tells, not what it computes."""

Settings = Mapping[str, str]
"""The values of one trial by setting, each as text."""


@dataclass(frozen=True)
class Choice:
    """A setting that takes one of some values."""

    key: str
    values: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many values there are."""
        return len(self.values)

    def nth(self, index: int) -> str:
        """The value at a place, from 0."""
        return self.values[index]

    def at(self, share: float) -> str:
        """The value at a share in [0, 1) of the way."""
        return self.values[int(share * self.count)]


@dataclass(frozen=True)
class Range:
    """A setting that takes a number between two bounds, both of them included.

    Attributes:
        key: the setting.
        low, high: the bounds.
        step: the distance of neighbours from `low` on, or None where any number will do.
        logarithmic: drawn evenly in its logarithm.
        whole: integers only.
    """

    key: str
    low: Decimal
    high: Decimal
    step: Decimal | None = None
    logarithmic: bool = False
    whole: bool = False

    @property
    def _distance(self) -> Decimal | None:
        return self.step or (Decimal(1) if self.whole and not self.logarithmic else None)

    @property
    def count(self) -> int | None:
        """How many numbers there are, or None where they cannot be counted."""
        step = self._distance
        return None if step is None else int((self.high - self.low) / step) + 1

    def nth(self, index: int) -> str:
        """The number at a place, from 0, of a countable range."""
        return number_text(self.low + index * (self._distance or 0))

    def at(self, share: float) -> str:
        """The number that lies at a share in [0, 1) of the way from low to high.

        Every number of a countable range has the same share of the way.
        """
        if (count := self.count) is not None:
            return self.nth(int(share * count))
        low, high = float(self.low), float(self.high)
        if not self.logarithmic:
            return _short(low + share * (high - low), low, high)
        # Half a step beyond each end, so that the first and the last are as likely as others.
        ends = (low - 0.5, high + 0.5) if self.whole else (low, high)
        bounds = [math.log(end) for end in ends]
        found = math.exp(bounds[0] + share * (bounds[1] - bounds[0]))
        return str(round(min(max(found, low), high))) if self.whole else _short(found, low, high)


def _short(number: float, low: float, high: float) -> str:
    """A drawn number as a person would write it, in four digits where the bounds are apart."""
    digits = next(
        n for n in range(SHORTEST, 18) if n == 17 or low < float(f"{number:.{n}g}") < high
    )
    return repr(min(max(float(f"{number:.{digits}g}"), low), high))


Dimension = Choice | Range


def parse_over(text: str, *, whole: bool | None) -> Dimension:
    """Parse one `KEY=VALUES`.

    Args:
        text: what was written.
        whole: whether the setting takes integers only; None where nobody knows, and then a range
            is one of integers where all its numbers are written as such, as `0..1` but not
            `0.0..1` is.

    Raises:
        UsageError: it does not follow the grammar.
    """
    key, values = split_key(text)
    if match := RANGE.fullmatch(values):
        return _parse_range(text, key, match, whole=whole)
    items = [_unquote(item.strip()) for item in _items(text, key, values)]
    if not items or any(not item for item in items):
        raise UsageError(f"--over {text} names no values", FORMS)
    meant = [normal_value(key, item) for item in items]
    double = next((item for i, item in enumerate(items) if meant[i] in meant[:i]), None)
    if double is not None:
        raise UsageError(f"--over {text} names {double} twice", "name each value once")
    return Choice(key, tuple(items))


def normal_value(key: str, text: str) -> Any:
    """A value of a setting as plain JSON, the same for all texts that mean the same.

    Args:
        key: the setting; where it is a component, `text` is a spec.
        text: as somebody wrote it.
    """
    if key in COMPONENT_GROUPS:
        return normal_spec(text)
    value = typed_value(text)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    return text.lower() == "true" if text.lower() in ("true", "false") else value


def normal_spec(text: str) -> Any:
    """A spec as plain JSON, the same for all texts that mean the same; what is none stays text."""
    try:
        spec = parse_spec(text)
    except UsageError:
        return text
    return [spec.reference, {key: normal_value("", t) for key, t in spec.parameters.items()}]


def split_key(text: str) -> tuple[str, str]:
    """The setting and its values as text.

    Raises:
        UsageError: there is no `=`, or the setting decides nothing.
    """
    key, equals, values = text.partition("=")
    key = ALIASES.get(key.strip(), key.strip())
    if not equals or not key or not values.strip():
        raise UsageError(f"--over {text} is not KEY=VALUES", FORMS)
    if key in FIXED:
        raise UsageError(f"--over {text}: '{key}' changes no result", "vary another setting")
    return key, values.strip()


def _items(text: str, key: str, values: str) -> Sequence[str]:
    """The values between commas; those inside a component's own settings do not part it.

    `vit:dim=64,depth=2,cnn` is two models, since `depth=2` cannot be the name of one.
    """
    try:
        parts = list(split_outside_brackets(values))
    except UsageError as error:
        raise UsageError(f"--over {text}: {error.fact}", error.remedy) from None
    if key not in COMPONENT_GROUPS:
        return parts
    items: list[str] = []
    for part in parts:
        if items and re.match(r"\s*\w+=", part):
            items[-1] += f",{part}"
        else:
            items.append(part)
    return items


def _unquote(item: str) -> str:
    if len(item) > 1 and item[0] == item[-1] == '"':
        try:
            return json.loads(item)
        except ValueError:
            return item
    return item[1:-1] if len(item) > 1 and item[0] == item[-1] == "'" else item


def _parse_range(text: str, key: str, match: re.Match[str], *, whole: bool | None) -> Range:
    low, high = Decimal(match["low"]), Decimal(match["high"])
    logarithmic = match["scale"] == LOGARITHMIC
    if match["scale"] is not None and not logarithmic:
        raise UsageError(f"--over {text}: there is no scale '{match['scale']}'", FORMS)
    step = _parse_step(text, match["step"])
    texts = [bound for bound in (match["low"], match["high"], match["step"]) if bound is not None]
    if whole is None:
        whole = not any(mark in bound for bound in texts for mark in ".eE")
    integers = all(x == x.to_integral_value() for x in (low, high, step or Decimal(1)))
    if low >= high:
        raise UsageError(f"--over {text} goes from {low} to {high}", "write the lower bound first")
    if logarithmic and low <= 0:
        raise UsageError(f"--over {text}: 0 has no logarithm", "begin above 0")
    if logarithmic and step is not None:
        raise UsageError(
            f"--over {text}: a logarithmic range has no step",
            "leave the step out, or list the values: a,b,c",
        )
    if whole and not integers:
        raise UsageError(f"--over {text}: {key} takes integers", "write integer bounds")
    return Range(key, low, high, step, logarithmic, whole)


def _parse_step(text: str, step: str | None) -> Decimal | None:
    if step is None:
        return None
    if not re.fullmatch(NUMBER, step) or Decimal(step) <= 0:
        raise UsageError(f"--over {text}: '{step}' is no step", "write a number above 0")
    return Decimal(step)


def number_text(number: Decimal) -> str:
    """A number without an exponent and without zeros that say nothing."""
    text = f"{number:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def size(space: Sequence[Dimension]) -> int | None:
    """How many combinations there are, or None where they cannot be counted."""
    total = 1
    for dimension in space:
        if dimension.count is None:
            return None
        total *= dimension.count
    return total


def combination(space: Sequence[Dimension], index: int) -> Settings:
    """The combination at a place of a countable space; the last dimension changes fastest."""
    chosen: dict[str, str] = {}
    for dimension in reversed(space):
        index, place = divmod(index, dimension.count or 1)
        chosen[dimension.key] = dimension.nth(place)
    return {dimension.key: chosen[dimension.key] for dimension in space}
