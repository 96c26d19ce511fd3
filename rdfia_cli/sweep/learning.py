"""What a sampler and a pruner learn of trials, whichever process saw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rdfia_cli import run
from rdfia_cli.errors import UsageError
from rdfia_cli.sweep.ledger import Entry, Ledger
from rdfia_cli.sweep.search import Adaptive, Learnt
from rdfia_cli.sweep.trial import Trial, TrialEpoch, TrialStarted


def learn(folder: Path, entry: Entry) -> Learnt:
    """What is to be learnt of a trial that ended: as the ledger has it, or from its run folder."""
    if entry.learnt is not None:
        return Learnt(**entry.learnt)
    if entry.end.get("error") == UsageError.kind:  # the folder is another run's
        return Learnt("failed")
    accuracies = reported(folder)
    if entry.state == "finished":
        return Learnt("finished", accuracies, entry.end["validation"]["accuracy"])
    if entry.state == "pruned":
        return Learnt("pruned", accuracies[: entry.end["epoch"]])
    return Learnt("failed", accuracies)


def reported(folder: Path) -> Sequence[float]:
    """The accuracies on validation after each epoch that a run folder tells."""
    lines = run.read_lines(folder / run.METRICS)
    return [line["validation"]["accuracy"] for line in lines if "validation" in line]


@dataclass
class Pruning:
    """Whether the trials of a round go on, as a pruner says that knows the others.

    Attributes:
        adaptive: the pruner; it has been given all trials of the round.
        ledger: what became of trials.
        trials: of the round, by number.
        at_once: whether it is told of an end at once; else its sampler is, when the round closes.
    """

    adaptive: Adaptive
    ledger: Ledger
    trials: Mapping[int, Trial]
    at_once: bool
    _read: int = 0
    _known: set[int] = field(default_factory=set[int])

    def catch_up(self) -> None:
        """Learn of the trials that ended, earlier or elsewhere too, in the order of their ends."""
        fresh = self.ledger.ended[self._read :]
        self._read = len(self.ledger.ended)
        for number in fresh:
            ended = self.ledger.entry(number).state != "waiting"
            if ended and number in self.trials and number not in self._known:
                self._known.add(number)
                self._learn(self.trials[number])

    def _learn(self, trial: Trial) -> None:
        learnt = learn(trial.folder, self.ledger.entry(trial.number))
        # Nobody asks after the last epoch whether a trial goes on.
        self.adaptive.recall(trial.number, learnt.accuracies[: trial.config.epochs - 1])
        if self.at_once:
            self.adaptive.tell(trial.number, learnt)

    def recall(self, started: TrialStarted) -> None:
        """Learn of the epochs that a trial had before it goes on."""
        before = reported(self.trials[started.number].folder)
        self.adaptive.recall(started.number, before[: started.epochs_done])

    def stops(self, epoch: TrialEpoch) -> bool:
        """Whether a trial is to end after an epoch."""
        if epoch.accuracy is None or epoch.epoch == epoch.epochs:
            return False
        return self.adaptive.should_prune(epoch.number, epoch.epoch, epoch.accuracy)
