"""The story of a sweep: propose trials, have them executed, keep the ledger, go on where it was.

It knows nothing of torch: workers train. It yields what happens, for whoever shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata

from rdfia_cli import console
from rdfia_cli.errors import RdfiaError, UsageError, count
from rdfia_cli.ranking import rank, scored
from rdfia_cli.sweep.identity import explain_difference
from rdfia_cli.sweep.learning import Pruning, learn
from rdfia_cli.sweep.ledger import LEDGER, Ledger
from rdfia_cli.sweep.question import TRIALS, Question
from rdfia_cli.sweep.round import Round, RoundEvent
from rdfia_cli.sweep.search import Adaptive, propose, refuse_other_proposal, rounds
from rdfia_cli.sweep.sharing import Execution, Pool
from rdfia_cli.sweep.space import Settings
from rdfia_cli.sweep.trial import Trial, TrialFailed


@dataclass(frozen=True)
class Planned:
    """Trials are to be executed.

    Attributes:
        settings: what varies of each trial known by now, as it was written.
        ended: how many of this process's trials had ended before.
        best: the best of all trials that had, and its accuracy on validation.
    """

    settings: Mapping[int, Settings]
    ended: int
    best: tuple[int, float] | None = None


CampaignEvent = RoundEvent | Planned


def plan(question: Question) -> dict[int, Trial]:
    """The trials whose settings are known beforehand: all of a grid, and all random ones.

    Of another sampler a sample is looked at, so that what can never hold is refused at once.

    Raises:
        UsageError, ComponentError: a trial's settings do not hold.
    """
    search = question.search
    if search.adaptive:
        question.trial(0, {dimension.key: dimension.at(0.5) for dimension in search.space})
        return {}
    return {n: question.trial(n, propose(search, n)) for n in range(search.trials)}


def open_ledger(question: Question) -> Ledger:
    """The ledger of a sweep, begun or found; damage to it is told on stderr.

    Raises:
        UsageError: the folder holds something else, or another sweep.
    """
    folder = question.folder
    if folder.exists() and not (folder / LEDGER).exists():
        inside = folder.iterdir() if folder.is_dir() else [folder]
        # The lines of `--dry-run` may have trained trials before there was a ledger.
        if any(not path.name.startswith(".") and path.name != TRIALS for path in inside):
            raise UsageError(
                f"'{folder}' is neither empty nor the folder of a sweep", "choose another --out"
            )
    ledger = Ledger(folder)
    ledger.begin(
        {
            "schema": "rdfia.ledger/1",
            "identity": question.identity,
            "versions": {name: metadata.version(name) for name in ("rdfia-cli", "optuna")},
        }
    )
    changed = explain_difference(question.identity, ledger.head["identity"])
    if changed is not None:
        raise UsageError(f"'{folder}' holds another sweep: {changed}", "choose another --out")
    if ledger.damaged:
        console.warn(
            f"'{folder / LEDGER}' has {count(ledger.damaged, 'damaged line')}; what is no longer "
            "known of a trial is found in its run folder, or done again"
        )
    return ledger


def run_campaign(
    question: Question,
    execution: Execution,
    ledger: Ledger,
    pool: Pool,
    planned: Mapping[int, Trial],
) -> Iterator[CampaignEvent]:
    """Execute all trials that have not ended.

    Args:
        question: the sweep.
        execution: how.
        ledger: from `open_ledger`.
        pool: who.
        planned: from `plan`.
    """
    search = question.search
    pruned = search.pruner != "none"
    adaptive = Adaptive(search) if search.adaptive or pruned else None
    with ledger.owning():
        if execution.retry_failed:
            ledger.reopen(n for n in range(search.trials) if execution.has(n))
        for numbers in rounds(search):
            settings = _settings(question, adaptive, numbers, ledger)
            trials, refused = _configure(question, settings, planned)
            ledger.propose(settings)
            ended = _count_ended(question, execution, ledger)
            known = {n: e.settings for n, e in ledger.entries.items() if e.settings is not None}
            yield Planned(known, ended, _find_best(question, ledger))
            yield from _end_refused(refused, ledger)
            pruning = None
            if adaptive is not None and pruned:
                pruning = Pruning(adaptive, ledger, trials, at_once=not search.adaptive)
            yield from Round(
                execution, ledger, pool, trials, pruning, waits=search.adaptive
            ).execute()
            if adaptive is not None and search.adaptive:
                _close(question, adaptive, numbers, ledger)


def _settings(
    question: Question, adaptive: Adaptive | None, numbers: Iterable[int], ledger: Ledger
) -> dict[int, Mapping[str, str]]:
    """What each trial of a round is given, the same as when it was first proposed."""
    search = question.search
    found: dict[int, Mapping[str, str]] = {}
    for number in numbers:
        if search.adaptive and adaptive is not None:
            found[number] = adaptive.ask(number)
        else:
            found[number] = propose(search, number)
            if adaptive is not None:
                adaptive.enter(number)
        before = ledger.entry(number).settings
        if before is not None:
            optuna = ledger.head["versions"]["optuna"]
            refuse_other_proposal(number, before, found[number], optuna)
    return found


def _configure(
    question: Question,
    settings: Mapping[int, Mapping[str, str]],
    planned: Mapping[int, Trial],
) -> tuple[dict[int, Trial], dict[int, RdfiaError]]:
    """The trials of a round, and those that an adaptive sampler proposed in vain."""
    trials: dict[int, Trial] = {}
    refused: dict[int, RdfiaError] = {}
    for number, values in settings.items():
        try:
            trials[number] = planned.get(number) or question.trial(number, values)
        except RdfiaError as error:
            refused[number] = error
    return trials, refused


def _count_ended(question: Question, execution: Execution, ledger: Ledger) -> int:
    numbers = [n for n in range(question.search.trials) if execution.has(n)]
    return sum(ledger.entry(number).state != "waiting" for number in numbers)


def _find_best(question: Question, ledger: Ledger) -> tuple[int, float] | None:
    """The best trial by what the ledger has, and its accuracy on validation."""
    entries = ((number, ledger.entry(number)) for number in range(question.search.trials))
    ranked = rank([scored(n, entry.state, entry.end.get("validation")) for n, entry in entries])
    return (ranked[0]["number"], ranked[0]["validation_accuracy"]) if ranked else None


def _end_refused(refused: Mapping[int, RdfiaError], ledger: Ledger) -> Iterator[TrialFailed]:
    """End the trials that can never hold; those of earlier calls are not told again."""
    for number, error in refused.items():
        if ledger.entry(number).state == "waiting":
            ledger.end(number, "failed", error=error.kind, message=error.fact)
            yield TrialFailed(number, error.kind, error.fact)


def _close(question: Question, adaptive: Adaptive, numbers: Iterable[int], ledger: Ledger) -> None:
    """Tell the sampler how the trials of a round ended, now as whenever the sweep goes on."""
    fresh = [number for number in numbers if ledger.entry(number).learnt is None]
    ledger.learn({n: asdict(learn(question.folder_of(n), ledger.entry(n))) for n in fresh})
    for number in numbers:
        adaptive.tell(number, learn(question.folder_of(number), ledger.entry(number)))
