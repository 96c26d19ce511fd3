"""Which settings the next trials get.

Grid and random are pure functions of the seed and the trial's number. Every other sampler is one
of Optuna's: it is asked for a round of trials at once and told their results in the order of
their numbers, so that its proposals do not depend on which trial ended first, and a search that
is begun again proposes the same.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from rdfia_cli.errors import RdfiaError, UsageError, nearest
from rdfia_cli.spec import parse_spec
from rdfia_cli.sweep.space import (
    Choice,
    Dimension,
    Settings,
    combination,
    normal_value,
    number_text,
    size,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import Trial as AskedTrial

OPTUNA_SAMPLERS: Mapping[str, str] = {
    "tpe": "TPESampler",
    "gp": "GPSampler",
    "qmc": "QMCSampler",
    "nsgaii": "NSGAIISampler",
}
OPTUNA_PRUNERS: Mapping[str, str] = {
    "asha": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "threshold": "ThresholdPruner",
}
SAMPLERS = ("grid", "random", *OPTUNA_SAMPLERS)
PRUNERS = ("none", *OPTUNA_PRUNERS)
STUDY = "sweep"
"""The name of every study: Hyperband assigns trials to its brackets by it."""
ROUND = 8
"""Trials that an adaptive sampler proposes before it learns how they did."""
LARGEST_PERMUTATION = 100_000
"""Combinations of which random draws each once; of more it draws independently."""


@dataclass(frozen=True)
class Search:
    """How a space is searched.

    Attributes:
        space: what varies.
        sampler: one of `SAMPLERS`, with settings of Optuna's class: `tpe:n_startup_trials=5`.
        pruner: one of `PRUNERS`, likewise.
        trials: how many.
        seed: of all draws.
        round: how many trials an adaptive sampler proposes at once.
    """

    space: Sequence[Dimension]
    sampler: str
    pruner: str
    trials: int
    seed: int
    round: int = ROUND

    @property
    def adaptive(self) -> bool:
        """Whether proposals depend on earlier results."""
        return parse_spec(self.sampler).name in OPTUNA_SAMPLERS


@dataclass(frozen=True)
class Learnt:
    """How a trial ended, for a sampler to learn from.

    Attributes:
        state: `finished`, `pruned` or `failed`.
        accuracies: on validation after each epoch, as far as it came.
        value: what is made large; None where it failed.
    """

    state: Literal["finished", "pruned", "failed"]
    accuracies: Sequence[float] = ()
    value: float | None = None


def check(search: Search) -> None:
    """Refuse a search that cannot be done, before anything is written.

    Raises:
        UsageError: an unknown sampler or pruner, or a grid over a continuous range.
    """
    sampler, pruner = parse_spec(search.sampler), parse_spec(search.pruner)
    if sampler.name not in SAMPLERS:
        raise UsageError(f"unknown sampler '{sampler.name}'", nearest(sampler.name, SAMPLERS))
    if pruner.name not in PRUNERS:
        raise UsageError(f"unknown pruner '{pruner.name}'", nearest(pruner.name, PRUNERS))
    count = size(search.space)
    if sampler.name == "grid" and count is None:
        endless = next(d for d in search.space if d.count is None)
        raise UsageError(
            f"a grid cannot have all numbers of {endless.key}",
            f"list them: --over {endless.key}=a,b,c; or give a step; or use --sampler random",
        )
    if not search.adaptive and sampler.parameters:
        raise UsageError(f"the sampler '{sampler.name}' has no settings", "leave them out")
    if count is not None and search.trials > count and not search.adaptive:
        raise UsageError(
            f"--trials {search.trials} is more than the {count} combinations", "lower --trials"
        )
    if search.adaptive:
        _make_sampler(search)
    if pruner.name != "none":
        _make_pruner(search.pruner)


def rounds(search: Search) -> Iterator[range]:
    """The numbers of the trials that can be proposed together, in order."""
    step = search.round if search.adaptive else max(1, search.trials)
    for first in range(0, search.trials, step):
        yield range(first, min(first + step, search.trials))


def propose(search: Search, number: int) -> Settings:
    """What grid or random gives a trial: it depends on nothing but the seed and the number."""
    count = size(search.space)
    if search.sampler == "grid":
        return combination(search.space, number)
    if count is not None and count <= LARGEST_PERMUTATION:
        return combination(search.space, _shuffled(search.seed, count)[number])
    return {d.key: d.at(_share(search.seed, d.key, number)) for d in search.space}


def _share(seed: int, purpose: str, number: int) -> float:
    """A number in [0, 1), evenly distributed and fixed by its arguments."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{number}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


@lru_cache(maxsize=1)
def _shuffled(seed: int, count: int) -> Sequence[int]:
    """The numbers below `count` in a random order."""
    return sorted(range(count), key=lambda index: (_share(seed, "order", index), index))


class Adaptive:
    """One of Optuna's samplers, or pruners, in memory; what it learnt comes from the ledger.

    Ask for the rounds in order, and tell the results of each before the next.
    """

    def __init__(self, search: Search) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._search = search
        self._asked: dict[int, AskedTrial] = {}
        self._reported: defaultdict[int, set[int]] = defaultdict(set)
        pruner = parse_spec(search.pruner).name
        self._study: Study = optuna.create_study(
            study_name=STUDY,
            direction="maximize",
            sampler=_make_sampler(search) if search.adaptive else optuna.samplers.RandomSampler(0),
            pruner=optuna.pruners.NopPruner() if pruner == "none" else _make_pruner(search.pruner),
        )

    def ask(self, number: int) -> Settings:
        """What the sampler gives the next trial; numbers come in order."""
        distributions = {d.key: _distribution(d) for d in self._search.space}
        asked = self._study.ask(distributions)
        self._asked[number] = asked
        return {d.key: _text(d, asked.params[d.key]) for d in self._search.space}

    def enter(self, number: int) -> None:
        """Take note of a trial that grid or random proposed, for the pruner alone."""
        self._asked[number] = self._study.ask()

    def should_prune(self, number: int, epoch: int, accuracy: float) -> bool:
        """Report an epoch of a trial, and ask whether it goes on."""
        self._report(number, epoch, accuracy)
        return bool(self._asked[number].should_prune())  # numpy's own, of some pruners

    def recall(self, number: int, accuracies: Sequence[float]) -> None:
        """Report the first epochs of a trial as if it had asked after each whether it goes on.

        Some pruners write down what they were asked, so that reporting alone is not enough.
        """
        for epoch, accuracy in enumerate(accuracies, start=1):
            if epoch not in self._reported[number] and math.isfinite(accuracy):
                self.should_prune(number, epoch, accuracy)

    def tell(self, number: int, told: Learnt) -> None:
        """Tell how a trial ended."""
        from optuna.trial import TrialState

        for epoch, accuracy in enumerate(told.accuracies, start=1):
            if math.isfinite(accuracy):
                self._report(number, epoch, accuracy)
        state = {
            "finished": TrialState.COMPLETE,
            "pruned": TrialState.PRUNED,
            "failed": TrialState.FAIL,
        }[told.state]
        value = told.value if told.state == "finished" else None
        self._study.tell(self._asked[number], value, state)

    def _report(self, number: int, epoch: int, accuracy: float) -> None:
        """Report an epoch once, since Optuna warns of a second time."""
        if epoch not in self._reported[number]:
            self._reported[number].add(epoch)
            self._asked[number].report(accuracy, epoch)


def importances(
    space: Sequence[Dimension], trials: Sequence[tuple[Settings, float]], seed: int
) -> dict[str, float]:
    """How much of the accuracies' variance each setting explains, the largest first.

    By fANOVA (Hutter, Hoos and Leyton-Brown 2014) as Optuna has it. Empty where there is nothing
    to tell apart: fewer than 4 trials, or all alike.

    Args:
        space: what varied.
        trials: the settings and the validation accuracy of each finished trial.
        seed: of the forest.
    """
    varied = [d for d in space if len({settings[d.key] for settings, _ in trials}) > 1]
    if len(trials) < 4 or not varied or len({value for _, value in trials}) < 2:
        return {}
    if len(varied) == 1:
        return {varied[0].key: 1.0}
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    distributions = {d.key: _distribution(d) for d in varied}
    for settings, value in trials:
        study.add_trial(
            optuna.trial.create_trial(
                params={d.key: _value(d, settings[d.key]) for d in varied},
                distributions=distributions,
                value=value,
            )
        )
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed % 2**32))
    return {key: float(value) for key, value in found.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    low, high, step = dimension.low, dimension.high, dimension.step
    if step is not None:
        high = low + int((high - low) / step) * step
    if dimension.whole:
        return IntDistribution(int(low), int(high), dimension.logarithmic, int(step or 1))
    return FloatDistribution(
        float(low), float(high), dimension.logarithmic, None if step is None else float(step)
    )


def _value(dimension: Dimension, text: str) -> Any:
    if isinstance(dimension, Choice):
        return text
    return int(text) if dimension.whole else float(text)


def _text(dimension: Dimension, value: Any) -> str:
    """A value of Optuna's as text; on a stepped range the number that the step gives exactly."""
    if isinstance(dimension, Choice) or dimension.step is None:
        return value if isinstance(value, str) else repr(value)
    from decimal import Decimal

    index = round((Decimal(repr(value)) - dimension.low) / dimension.step)
    return number_text(dimension.low + index * dimension.step)


def _make_sampler(search: Search) -> BaseSampler:
    import optuna

    spec = parse_spec(search.sampler)
    kind = getattr(optuna.samplers, OPTUNA_SAMPLERS[spec.name])
    return _construct(kind, spec.name, spec.parameters, seed=search.seed % 2**32)


def _make_pruner(text: str) -> BasePruner:
    import optuna

    spec = parse_spec(text)
    kind = getattr(optuna.pruners, OPTUNA_PRUNERS[spec.name])
    return _construct(kind, spec.name, spec.parameters)


def _construct(kind: Any, name: str, parameters: Mapping[str, str], **fixed: Any) -> Any:
    """Construct a class of Optuna's from settings as text.

    Raises:
        UsageError: it has no such setting, or refuses the value.
    """
    import warnings

    from optuna.exceptions import ExperimentalWarning

    known = [key for key in inspect.signature(kind).parameters if key not in fixed]
    values: dict[str, Any] = {}
    for key, text in parameters.items():
        if key not in known:
            raise UsageError(f"'{name}' has no setting '{key}'", nearest(key, known))
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return kind(**values, **fixed)
    except ImportError as error:
        raise UsageError(f"'{name}' needs another package: {error}", "install it") from None
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"'{name}' refuses its settings: {error}",
            f"write {name}:KEY=VALUE with {', '.join(known)}",
        ) from None


def refuse_other_proposal(number: int, before: Settings, now: Settings, optuna: str) -> None:
    """A sampler must propose what it proposed when the sweep began.

    Args:
        number: of the trial.
        before: what it was given then.
        now: what it would be given now.
        optuna: the version of Optuna that the sweep began with.

    Raises:
        RdfiaError: it does not.
    """
    meant = [{key: normal_value(key, t) for key, t in each.items()} for each in (before, now)]
    if meant[0] != meant[1]:
        raise RdfiaError(
            f"the sampler now proposes {dict(now)} for trial {number}, and proposed {dict(before)}",
            f"use Optuna {optuna}, with which this sweep began, or another --out",
        )
