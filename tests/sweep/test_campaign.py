"""A sweep goes on where it was, whatever becomes of its workers."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rdfia_cli.errors import UsageError
from rdfia_cli.sources import Sources
from rdfia_cli.sweep.campaign import open_ledger, plan, run_campaign
from rdfia_cli.sweep.ledger import LEDGER, Ledger, decode
from rdfia_cli.sweep.messages import Job, JobEnded, JobPreempted
from rdfia_cli.sweep.process import JobDied
from rdfia_cli.sweep.question import Question, ask
from rdfia_cli.sweep.round import EndedElsewhere, Retried
from rdfia_cli.sweep.sharing import Execution
from rdfia_cli.sweep.trial import (
    Chosen,
    Trial,
    TrialEpoch,
    TrialFailed,
    TrialFinished,
    TrialPruned,
    TrialStarted,
)

NOTHING = dict.fromkeys(("over", "trials", "sampler", "pruner", "round", "out"))


def question(*over: str, out: str = "sweep", **flags: Any) -> Question:
    settings = {"model": "mlp", "data": "circles", "epochs": "2"}
    return ask(Sources(settings), {**NOTHING, "over": list(over), "out": out, **flags})


def accuracy_of(trial: Trial) -> float:
    """A made-up accuracy, best at a learning rate of 0.1."""
    return 1 - abs(trial.config.optimizer.parameters["lr"] - 0.1) / 10


def finish(trial: Trial) -> TrialFinished:
    """Write what a finished run has, as far as a sweep looks at it."""
    score = {"loss": 0.1, "accuracy": accuracy_of(trial)}
    trial.folder.mkdir(parents=True, exist_ok=True)
    line = {"epoch": 1, "validation": score}
    (trial.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    result = {"validation": score, "test": score, "seconds": 1.0, "parameters": 5}
    return TrialFinished(trial.number, result)


Behaviour = Callable[["FakePool", Job], Iterator[Any]]


def well(pool: FakePool, job: Job) -> Iterator[Any]:
    if job.task == "choose":
        yield Chosen("stacked", "5 times the speed")
    else:
        for trial in job.trials:
            yield TrialStarted(trial.number, 2)
            epoch = TrialEpoch(trial.number, 1, 2, 0.5, accuracy_of(trial))
            yield epoch
            if job.judged and pool.answers.popleft():
                yield TrialPruned(trial.number, 1)
            else:
                yield finish(trial)
    yield JobEnded()


@dataclass
class FakePool:
    """Workers that do as they are told, without a process."""

    behave: Behaviour = well
    count: int = 1
    jobs: list[Job] = field(default_factory=list)
    answers: deque[bool] = field(default_factory=deque)
    _running: deque[tuple[Job, Iterator[Any]]] = field(default_factory=deque)

    @property
    def idle(self) -> int:
        return self.count - len(self._running)

    def submit(self, job: Job) -> None:
        assert self.idle
        self.jobs.append(job)
        self._running.append((job, self.behave(self, job)))

    def answer(self, job: Job, *, prune: bool) -> None:
        self.answers.append(prune)

    def reports(self, seconds: float) -> list[Any]:
        if not self._running:
            return []
        job, events = self._running[0]
        told = next(events)
        if isinstance(told, JobEnded | JobDied | JobPreempted):
            self._running.popleft()
        return [(job, told)]


def sweep(asked: Question, pool: FakePool, **execution: Any) -> tuple[list[Any], Ledger]:
    planned = plan(asked)
    ledger = open_ledger(asked)
    events = list(run_campaign(asked, Execution(**execution), ledger, pool, planned))
    found = Ledger(asked.folder)
    found.refresh()
    return events, found


def states(ledger: Ledger) -> list[str]:
    return [ledger.entry(number).state for number in sorted(ledger.entries)]


def test_every_trial_is_executed_once_by_the_engine_that_was_chosen():
    pool = FakePool()
    _, ledger = sweep(question("optimizer.lr=0.1,0.2,0.3"), pool)
    assert states(ledger) == ["finished"] * 3
    assert [(job.task, len(job.trials)) for job in pool.jobs] == [("choose", 3), ("stacked", 3)]


def test_trials_that_cannot_share_a_computation_are_trained_apart():
    pool = FakePool()
    sweep(question("model.hidden=4,8", "optimizer.lr=0.1,0.2"), pool)
    stacks = [job for job in pool.jobs if job.task == "stacked"]
    assert [[t.config.model.parameters["hidden"] for t in job.trials] for job in stacks] == [
        [4, 4],
        [8, 8],
    ]


def test_the_same_sweep_again_executes_nothing():
    sweep(question("optimizer.lr=0.1,0.2"), FakePool())
    pool = FakePool()
    sweep(question("optimizer.lr=0.1,0.2"), pool)
    assert pool.jobs == []


def test_a_sweep_that_goes_on_tells_the_best_of_what_ended_before():
    events, _ = sweep(question("optimizer.lr=log:0.001..1", trials=3), FakePool())
    assert events[0].best is None
    before = [e for e in events if isinstance(e, TrialFinished)]
    best = max(before, key=lambda event: event.result["validation"]["accuracy"])
    events, _ = sweep(question("optimizer.lr=log:0.001..1", trials=4), FakePool())
    assert events[0].best == (best.number, best.result["validation"]["accuracy"])
    assert [*events[0].settings] == [0, 1, 2, 3]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_adding_trials_later_equals_all_at_once(sampler: str):
    over, settings = "optimizer.lr=log:0.001..1", {"sampler": sampler, "round": 4}
    for trials in (6, 14):
        _, later = sweep(question(over, out="later", trials=trials, **settings), FakePool())
    _, once = sweep(question(over, out="once", trials=14, **settings), FakePool())
    assert [later.entry(n).settings for n in range(14)] == [
        once.entry(n).settings for n in range(14)
    ]


def test_shares_are_disjoint_and_together_all():
    asked = question("optimizer.lr=0.1,0.2,0.3,0.4,0.5")
    numbers = []
    for place in range(2):
        pool = FakePool()
        sweep(asked, pool, shard=(place, 2), backend="process")
        numbers.append([trial.number for job in pool.jobs for trial in job.trials])
    assert numbers == [[0, 2, 4], [1, 3]]


def test_a_run_that_somebody_else_finished_counts(monkeypatch):
    asked = question("optimizer.lr=0.1,0.2")
    trial = asked.trial(0, {"optimizer.lr": "0.1"})
    result = finish(trial).result
    (trial.folder / "config.toml").write_text(trial.config.to_toml())
    (trial.folder / "result.json").write_text(json.dumps(result))
    pool = FakePool()
    _, ledger = sweep(asked, pool, backend="process")
    assert [t.number for job in pool.jobs for t in job.trials] == [1]
    assert states(ledger) == ["finished"] * 2


def crash_with(number: int, times: int) -> Behaviour:
    """Workers that die of one trial a number of times."""
    deaths = 0

    def behave(pool: FakePool, job: Job) -> Iterator[Any]:
        nonlocal deaths
        if job.task != "choose" and number in [t.number for t in job.trials] and deaths < times:
            deaths += 1
            yield JobDied("crash", "its process was killed by SIGSEGV")
        else:
            yield from well(pool, job)

    return behave


def test_a_trial_that_kills_its_worker_is_found_in_its_stack_and_harms_no_other():
    pool = FakePool(crash_with(5, times=10**6))
    events, ledger = sweep(
        question("optimizer.lr=" + ",".join(f"0.{n}" for n in range(1, 9))), pool
    )
    assert states(ledger) == [*["finished"] * 5, "failed", *["finished"] * 2]
    assert ledger.entry(5).end["message"] == "its process was killed by SIGSEGV"
    assert sum(isinstance(event, Retried) for event in events) == 2
    # All were tried by the same engine, so that the others' bits do not depend on the crash.
    assert {job.task for job in pool.jobs[1:]} == {"stacked"}


def test_only_the_trial_that_is_left_of_a_stack_is_tried_again():
    def behave(pool: FakePool, job: Job) -> Iterator[Any]:
        if job.task == "choose":
            yield from well(pool, job)
            return
        first, *others = job.trials
        if others:
            yield finish(first)
            yield TrialFailed(others[0].number, "diverged", "NaN")
            yield JobDied("died", "killed by SIGKILL")
        else:
            yield from well(pool, job)

    pool = FakePool(behave)
    _, ledger = sweep(question("optimizer.lr=0.1,0.2,0.3"), pool)
    assert states(ledger) == ["finished", "failed", "finished"]
    assert [len(job.trials) for job in pool.jobs if job.task == "stacked"] == [3, 1]


def test_a_trial_is_tried_again_as_often_as_asked():
    for retries, state in ((2, "failed"), (3, "finished")):
        asked = question("optimizer.lr=0.1,0.2", out=f"sweep{retries}")
        _, ledger = sweep(asked, FakePool(crash_with(1, 3)), backend="process", retries=retries)
        assert ledger.entry(1).state == state


def test_a_failure_that_the_trial_itself_tells_is_not_tried_again():
    def behave(pool: FakePool, job: Job) -> Iterator[Any]:
        for trial in job.trials:
            if trial.number == 0:
                yield TrialFailed(0, "diverged", "the loss became nan in epoch 1, step 2")
            else:
                yield finish(trial)
        yield JobEnded()

    pool = FakePool(behave)
    _, ledger = sweep(question("optimizer.lr=0.1,0.2"), pool, backend="process")
    assert states(ledger) == ["failed", "finished"]
    assert len(pool.jobs) == 2
    again = FakePool(behave)
    sweep(question("optimizer.lr=0.1,0.2"), again, backend="process")
    assert again.jobs == []
    once_more = FakePool()
    _, ledger = sweep(
        question("optimizer.lr=0.1,0.2"), once_more, backend="process", retry_failed=True
    )
    assert states(ledger) == ["finished"] * 2


def test_a_worker_that_is_asked_to_stop_from_outside_costs_no_trial():
    stopped = []

    def behave(pool: FakePool, job: Job) -> Iterator[Any]:
        if not stopped:
            stopped.append(job)
            yield JobPreempted()
        else:
            yield from well(pool, job)

    _, ledger = sweep(question("optimizer.lr=0.1,0.2"), FakePool(behave), backend="process")
    assert states(ledger) == ["finished"] * 2


def test_engines_that_cannot_be_timed_leave_the_ordinary_way():
    def behave(pool: FakePool, job: Job) -> Iterator[Any]:
        if job.task == "choose":
            yield JobEnded("no such module", "failed")
        else:
            yield from well(pool, job)

    pool = FakePool(behave)
    _, ledger = sweep(question("optimizer.lr=0.1,0.2"), pool)
    assert [job.task for job in pool.jobs] == ["choose", "process", "process"]
    (choice,) = ledger.choices.values()
    assert "no such module" in choice["reason"]


def dies_while_timing(times: int) -> Behaviour:
    deaths = 0

    def behave(pool: FakePool, job: Job) -> Iterator[Any]:
        nonlocal deaths
        if job.task == "choose" and deaths < times:
            deaths += 1
            yield JobDied("crash", "its process was killed by SIGKILL")
        else:
            yield from well(pool, job)

    return behave


def test_a_worker_that_dies_while_engines_are_timed_decides_nothing():
    pool = FakePool(dies_while_timing(2))
    _, ledger = sweep(question("optimizer.lr=0.1,0.2"), pool, retries=2)
    assert [job.task for job in pool.jobs] == ["choose", "choose", "choose", "stacked"]
    assert [choice["engine"] for choice in ledger.choices.values()] == ["stacked"]


def test_timing_that_is_asked_to_stop_from_outside_is_done_again():
    stopped: list[Job] = []

    def behave(pool: FakePool, job: Job) -> Iterator[Any]:
        if job.task == "choose" and len(stopped) < 3:
            stopped.append(job)
            yield JobPreempted()
        else:
            yield from well(pool, job)

    pool = FakePool(behave)
    sweep(question("optimizer.lr=0.1,0.2"), pool, retries=0)
    assert [job.task for job in pool.jobs] == [*["choose"] * 4, "stacked"]


def test_engines_that_kill_their_worker_again_and_again_are_not_used_and_that_is_told():
    pool = FakePool(dies_while_timing(3))
    events, ledger = sweep(question("optimizer.lr=0.1,0.2"), pool, retries=2)
    assert [job.task for job in pool.jobs] == [*["choose"] * 3, "process", "process"]
    (told,) = [event for event in events if isinstance(event, Chosen)]
    assert told.engine == "process"
    assert "killed by SIGKILL" in told.reason
    assert [choice["engine"] for choice in ledger.choices.values()] == ["process"]


def test_a_pruned_trial_ends_there_and_the_best_goes_on():
    asked = question(
        "optimizer.lr=0.1,0.2,0.3,0.4",
        pruner="asha:min_resource=1,reduction_factor=2",
    )
    _, ledger = sweep(asked, FakePool(), backend="process")
    assert ledger.entry(0).state == "finished"
    assert "pruned" in states(ledger)


def train_by_curve(pool: FakePool, job: Job) -> Iterator[Any]:
    """Train as a worker does: a line of metrics for each epoch, and a question after it."""
    for trial in job.trials:
        epochs = trial.config.epochs
        yield TrialStarted(trial.number, epochs)
        trial.folder.mkdir(parents=True, exist_ok=True)
        (trial.folder / "config.toml").write_text(trial.config.to_toml())
        lines: list[str] = []
        for epoch in range(1, epochs + 1):
            accuracy = (trial.number * 5 % 13) / 20 + (trial.number * 7 + epoch * 3) % 5 / 20
            lines.append(json.dumps({"epoch": epoch, "validation": {"accuracy": accuracy}}))
            (trial.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
            yield TrialEpoch(trial.number, epoch, epochs, 0.5, accuracy)
            if job.judged and pool.answers.popleft() and epoch < epochs:
                yield TrialPruned(trial.number, epoch)
                break
        else:
            score = {"loss": 0.1, "accuracy": accuracy}
            result = {"validation": score, "test": score, "seconds": 1.0, "parameters": 5}
            yield TrialFinished(trial.number, result)
    yield JobEnded()


def ends_of(asked: Question) -> list[tuple[str, Any]]:
    ledger = Ledger(asked.folder)
    ledger.refresh()
    entries = [ledger.entry(number) for number in range(asked.search.trials)]
    return [(entry.state, entry.end.get("epoch")) for entry in entries]


def searched(out: str, trials: int, sampler: str, pruner: str) -> Question:
    settings = {"model": "mlp", "data": "circles", "epochs": "6"}
    flags = {"out": out, "trials": trials, "sampler": sampler, "pruner": pruner}
    over = ["optimizer.lr=log:0.001..1"]
    return ask(Sources(settings), {**NOTHING, "over": over, **flags})


PRUNERS = ("median:n_startup_trials=5", "asha", "asha:min_resource=2", "hyperband:max_resource=6")


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_pruner_stops_the_same_trials_however_often_the_sweep_was_started(sampler, pruner):
    once = searched("once", 24, sampler, pruner)
    sweep(once, FakePool(train_by_curve), backend="process")
    assert {state for state, _ in ends_of(once)} == {"finished", "pruned"}
    sweep(searched("often", 10, sampler, pruner), FakePool(train_by_curve), backend="process")
    often = searched("often", 24, sampler, pruner)
    events = run_campaign(
        often,
        Execution("process"),
        open_ledger(often),
        FakePool(train_by_curve),
        plan(often),
    )
    # Gone in the middle of a trial, as if it were killed.
    next(event for event in events if isinstance(event, TrialEpoch) and event.number == 18)
    events.close()
    sweep(often, FakePool(train_by_curve), backend="process")
    assert ends_of(often) == ends_of(once)


def test_a_pruner_knows_the_trials_that_end_in_another_process_meanwhile():
    """Median stops nothing before it knows two complete trials; both are another's here."""
    asked = searched("s", 4, "random", "median:n_startup_trials=2,n_min_trials=2")
    other = Ledger(asked.folder)

    def behave(pool: FakePool, job: Job) -> Iterator[Any]:
        (trial,) = job.trials
        if trial.number == 0:
            for number in (2, 3):
                folder = asked.folder_of(number)
                folder.mkdir(parents=True)
                line = {"epoch": 1, "validation": {"accuracy": 0.9}}
                (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
                score = {"accuracy": 0.9, "loss": 0.1}
                other.end(number, "finished", validation=score, test=score, seconds=1.0)
        yield TrialEpoch(trial.number, 1, 6, 0.5, 0.2)
        if pool.answers.popleft():
            yield TrialPruned(trial.number, 1)
        else:
            yield finish(trial)
        yield JobEnded()

    _, ledger = sweep(asked, FakePool(behave), backend="process")
    assert ledger.entry(1).state == "pruned"


def test_the_keys_of_a_table_over_need_no_quotes(tmp_path):
    (tmp_path / "q.toml").write_text("[sweep.over]\noptimizer.lr = [0.1, 0.2]\nseed = '0..3'\n")
    sources = Sources({"model": "mlp", "data": "circles"}, files=[tmp_path / "q.toml"])
    assert [d.key for d in ask(sources, NOTHING).search.space] == ["optimizer.lr", "seed"]


def test_a_number_of_trials_is_no_bool(tmp_path):
    (tmp_path / "q.toml").write_text("[sweep]\ntrials = true\n")
    with pytest.raises(UsageError, match=r"sweep.trials = True .* is no count"):
        ask(Sources({}, files=[tmp_path / "q.toml"]), {**NOTHING, "over": ["seed=0..3"]})


def test_a_failed_trial_can_be_tried_again_under_a_sampler_that_learnt_of_its_failure():
    over, settings = "optimizer.lr=log:0.001..1", {"sampler": "tpe", "out": "s"}
    asked = question(over, trials=24, **settings)
    _, before = sweep(asked, FakePool(crash_with(3, 10**6)), backend="process")
    assert before.entry(3).state == "failed"
    pool = FakePool()
    _, after = sweep(asked, pool, backend="process", retry_failed=True)
    assert [t.number for job in pool.jobs for t in job.trials] == [3]
    assert states(after) == ["finished"] * 24
    assert [after.entry(n).settings for n in range(24)] == [
        before.entry(n).settings for n in range(24)
    ]
    _, more = sweep(question(over, trials=30, **settings), FakePool(), backend="process")
    assert states(more) == ["finished"] * 30


def test_trials_that_a_sampler_proposes_in_vain_are_told_once():
    asked = question("optimizer.lr=-4..5", sampler="tpe", trials=12)
    events, ledger = sweep(asked, FakePool(), backend="process")
    failed = [event.number for event in events if isinstance(event, TrialFailed)]
    assert failed == [n for n in range(12) if ledger.entry(n).state == "failed"]
    assert failed
    again, _ = sweep(asked, FakePool(), backend="process")
    assert not any(isinstance(event, TrialFailed) for event in again)


def test_a_value_that_does_not_fit_is_refused_before_anything_runs():
    pool = FakePool()
    with pytest.raises(UsageError, match=r"optimizer.lr = '-1' \(--over optimizer.lr\)"):
        sweep(question("optimizer.lr=0.1,-1"), pool)
    assert pool.jobs == []


@pytest.mark.parametrize(
    ("over", "assigned", "flags", "said"),
    [
        ("lr=0.1..1", ["validation=0"], {"sampler": "tpe"}, "the sampler tpe learns"),
        ("lr=0.1,1", ["validation=0"], {"pruner": "asha"}, "the pruner asha learns"),
        ("validation=0.1,0", [], {"pruner": "asha"}, "the pruner asha learns"),
        ("validation=0..0.5", [], {"sampler": "qmc"}, "the sampler qmc learns"),
    ],
)
def test_a_search_that_has_nothing_to_learn_from_is_refused(over, assigned, flags, said):
    sources = Sources({"model": "mlp", "data": "circles"}, assigned)
    with pytest.raises(UsageError, match=f"{said} from the validation split"):
        ask(sources, {**NOTHING, "over": [over], **flags})
    settings = {"over": ["lr=0.1,1"], "sampler": "random"}
    assert ask(sources, {**NOTHING, **settings}).search.trials == 2


def test_another_sweep_does_not_go_into_the_same_folder(tmp_path):
    sweep(question("optimizer.lr=0.1,0.2"), FakePool())
    with pytest.raises(UsageError, match=r"holds another sweep: optimizer\.lr is 0\.1,0\.2 there"):
        open_ledger(question("optimizer.lr=0.1,0.3"))
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/mine.txt").write_text("dear")
    with pytest.raises(UsageError, match="neither empty nor the folder of a sweep"):
        open_ledger(question("optimizer.lr=0.1,0.2", out="letters"))
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["mine.txt"]


SPREAD = {"over": ["lr=log:0.001..1"], "sampler": "tpe", "round": 2}
OTHERS = [
    ({"sampler": "random"}, {}, "sampler is tpe there and random here"),
    ({"round": 4}, {}, "round is 2 there and 4 here"),
    ({"pruner": "asha"}, {}, "pruner is none there and asha here"),
    ({"over": ["lr=0.1,0.2"]}, {}, "optimizer.lr is log:0.001..1.0 there and 0.1,0.2 here"),
    ({"over": ["seed=0..3"]}, {}, "optimizer.lr is log:0.001..1.0 there and fixed here"),
    ({}, {"epochs": "3"}, "epochs is 2 there and 3 here"),
    ({}, {"model": "mlp:hidden=4"}, "model.hidden is 100 there and 4 here"),
    ({}, {"augment": ["random_crop"]}, "augment.0 is not given there and random_crop here"),
]


@pytest.mark.parametrize(("flags", "settings", "said"), OTHERS)
def test_what_makes_it_another_sweep_is_told_as_one_writes_it(flags, settings, said):
    usual = {"model": "mlp", "data": "circles", "epochs": "2"}
    base = {**NOTHING, "out": "s", **SPREAD}
    open_ledger(ask(Sources(usual), base))
    with pytest.raises(UsageError) as raised:
        open_ledger(ask(Sources({**usual, **settings}), {**base, **flags}))
    assert raised.value.fact == f"'s' holds another sweep: {said}"


SPELLINGS = [
    ("lr=1,2", ["epochs=2"], "lr=1.0,2e0", ["epochs=2"]),
    ("lr=0.001,0.01", [], "lr=1e-3,1e-2", []),
    ("optimizer=sgd:lr=1,momentum=0.5,adam", [], "optimizer=sgd:momentum=0.50,lr=1.0,adam", []),
    ("seed=0,1", ["clip_norm=1"], "seed=0,1", ["clip_norm=1e0"]),
    ("seed=0,1", ["deterministic=true"], "seed=0,1", ["deterministic=True"]),
    ("seed=0,1", [], "seed=0,1", ["epochs=30", "batch_size=32"]),
    ("seed=0,1", ["class_weights=[1, 2.5]"], "seed=0,1", ["class_weights=[1.0,2.5]"]),
    ("deterministic=true,false", [], "deterministic=True,False", []),
]


@pytest.mark.parametrize(("over", "assigned", "again", "otherwise"), SPELLINGS)
def test_how_a_setting_is_written_makes_no_other_sweep(over, assigned, again, otherwise):
    settings = {"model": "mlp", "data": "circles"}
    one, other = (
        ask(Sources(settings, texts), {**NOTHING, "over": [each]})
        for each, texts in ((over, assigned), (again, otherwise))
    )
    assert one.folder == other.folder
    open_ledger(one)
    sweep(other, FakePool())
    sweep(one, FakePool())


def test_a_sampler_with_an_empty_list_of_settings_is_the_sampler():
    sources = Sources({"model": "mlp", "data": "circles"})
    flags = {**NOTHING, "over": ["seed=3,1,2,0"], "sampler": "grid:"}
    planned = plan(ask(sources, flags))
    assert [planned[number].config.seed for number in range(4)] == [3, 1, 2, 0]


def test_settings_of_a_sampler_have_no_order():
    flags = {**NOTHING, "over": ["lr=log:0.001..1"], "out": "s"}
    sources = Sources({"model": "mlp", "data": "circles"})
    for settings in ("multivariate=true,n_ei_candidates=8", "n_ei_candidates=8,multivariate=true"):
        open_ledger(ask(sources, {**flags, "sampler": f"tpe:{settings}"}))


def test_the_spaces_of_two_components_share_what_is_given_and_not_what_is_usual():
    shared = ask(Sources({"data": "digits"}), {**NOTHING, "over": ["model=mlp,cnn"]})
    assert not [key for key in shared.identity["settings"] if key.startswith("model")]
    augmented = ask(Sources({"data": "digits"}), {**NOTHING, "over": ["augment=mixup,cutmix"]})
    assert not [key for key in augmented.identity["settings"] if key.startswith("augment")]
    given = Sources({"data": "digits"}, ["optimizer.lr=0.5"])
    varied = ask(given, {**NOTHING, "over": ["model=mlp,cnn", "seed=0..3"]})
    assert varied.identity["settings"]["optimizer.lr"] == 0.5
    assert "seed" not in varied.identity["settings"]


def test_a_number_of_a_file_and_that_of_a_flag_are_one_setting(tmp_path):
    (tmp_path / "q.toml").write_text("epochs = 2\nclass_weights = [1, 2.5]\nclip_norm = 1\n")
    flags = {**NOTHING, "over": ["seed=0,1"], "out": "s"}
    settings = {"model": "mlp", "data": "circles"}
    open_ledger(ask(Sources(settings, files=[tmp_path / "q.toml"]), flags))
    assigned = ["epochs=2", "class_weights=[1,2.5]", "clip_norm=1e0"]
    open_ledger(ask(Sources(settings, assigned), flags))


@pytest.mark.parametrize("again", ["size=28,padding=1", "padding=1,size=28"])
def test_the_order_in_which_the_arguments_of_an_augmentation_are_written_means_nothing(again):
    flags = {**NOTHING, "over": ["seed=0,1"], "out": "s"}
    usual = {"model": "cnn", "data": "digits"}
    open_ledger(ask(Sources({**usual, "augment": ["random_crop:size=28,padding=1"]}), flags))
    open_ledger(ask(Sources({**usual, "augment": [f"random_crop:{again}"]}), flags))


def test_a_first_value_that_does_not_hold_hides_neither_the_seed_nor_the_validation_split():
    sources = Sources({"model": "mlp", "data": "circles", "seed": "5"}, ["validation=0"])
    asked = ask(sources, {**NOTHING, "over": ["model.hidden=0,10"]})
    assert asked.search.seed == 5
    with pytest.raises(UsageError, match="the sampler tpe learns"):
        ask(sources, {**NOTHING, "over": ["model.hidden=0,10"], "sampler": "tpe"})


def test_out_is_the_sweep_s_wherever_it_is_set_and_a_trial_always_goes_on(tmp_path):
    environment = {"RDFIA_IF_EXISTS": "new"}
    sources = Sources({"model": "mlp", "data": "circles"}, ["out=there"], environment=environment)
    asked = ask(sources, {**NOTHING, "over": ["seed=0,1"]})
    trial = asked.trial(1, {"seed": "1"})
    assert trial.folder == asked.folder_of(1) == Path("there/trials/0001")
    assert trial.config.if_exists == "resume"


def test_what_another_process_ended_is_not_executed_again():
    asked = question("optimizer.lr=0.1,0.2,0.3,0.4")
    other = Ledger(asked.folder)
    open_ledger(asked)
    other.end(2, "finished", validation={"accuracy": 0.5, "loss": 1.0}, test=None, seconds=1.0)
    pool = FakePool()
    _, ledger = sweep(asked, pool, backend="process")
    assert [t.number for job in pool.jobs for t in job.trials] == [0, 1, 3]
    assert states(ledger) == ["finished"] * 4


def test_a_trial_that_ends_elsewhere_meanwhile_is_waited_for_and_told():
    asked = question("optimizer.lr=0.1,0.2,0.3")
    other = Ledger(asked.folder)

    def behave(pool: FakePool, job: Job) -> Iterator[Any]:
        if job.trials[0].number == 0:
            other.end(2, "failed", error="crash", message="its process was killed")
        yield from well(pool, job)

    events, _ = sweep(asked, FakePool(behave), backend="process")
    assert EndedElsewhere(2, "failed") in events


def takes_seen(asked: Question, **execution: Any) -> list[int]:
    """How many trials had been taken by the time of each job."""
    seen: list[int] = []

    def behave(pool: FakePool, job: Job) -> Iterator[Any]:
        now = Ledger(asked.folder)
        now.refresh()
        seen.append(sum(entry.owner is not None for entry in now.entries.values()))
        yield from well(pool, job)

    sweep(asked, FakePool(behave), **execution)
    return seen


def test_a_process_takes_no_more_than_its_workers_begin_with():
    asked = question("optimizer.lr=0.1,0.2,0.3,0.4")
    assert takes_seen(asked, backend="process") == [1, 2, 3, 4]


def test_nothing_is_taken_to_time_the_engines():
    assert takes_seen(question("optimizer.lr=0.1,0.2,0.3,0.4")) == [0, 4]


@pytest.mark.parametrize(("workers", "parts"), [(1, [64]), (2, [32, 32]), (3, [22, 21, 21])])
def test_trials_of_a_structure_are_shared_out_among_all_workers_at_once(workers: int, parts):
    pool = FakePool(count=workers)
    sweep(question("seed=0..63"), pool)
    assert [len(job.trials) for job in pool.jobs] == [64, *parts]


def test_a_job_has_no_more_trials_than_a_worker_can_open_files_for(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, 4096))
    pool = FakePool()
    _, ledger = sweep(question("seed=0..39"), pool, backend="stacked")
    assert [len(job.trials) for job in pool.jobs] == [10, 10, 10, 10]
    assert states(ledger) == ["finished"] * 40


def hold(folder: Path, ready: Any, done: Any) -> None:
    with Ledger(folder).owning():
        ready.set()
        done.wait(60)


def test_a_stack_leaves_half_to_another_process_on_the_folder():
    asked = question("seed=0..63")
    open_ledger(asked)
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(asked.folder.absolute(), ready, done))
    other.start()
    assert ready.wait(60)
    pool = FakePool()
    sweep(asked, pool, backend="stacked")
    done.set()
    other.join()
    assert [len(job.trials) for job in pool.jobs] == [32, 32]


def share(folder: Path, barrier: Any) -> None:
    """Sweep a folder together with another process, a twentieth of a second a trial."""

    def behave(pool: FakePool, job: Job) -> Iterator[Any]:
        time.sleep(0.05)
        yield from well(pool, job)

    os.chdir(folder)
    asked = question("seed=0..23")
    barrier.wait(60)
    sweep(asked, FakePool(behave), backend="process")


def test_two_sweeps_of_one_folder_share_its_trials(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [context.Process(target=share, args=(tmp_path, barrier)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    records = [decode(line) for line in (tmp_path / "sweep" / LEDGER).read_bytes().splitlines()]
    taken = [r for r in records if r and r["event"] == "taken"]
    assert sorted(r["trial"] for r in taken) == list(range(24))
    assert len({r["owner"] for r in taken}) == 2
    ends = [r["trial"] for r in records if r and r["event"] == "finished"]
    assert sorted(ends) == list(range(24))


def test_the_folder_of_a_sweep_is_named_by_what_it_asks(tmp_path: Path):
    one, other = (question(f"optimizer.lr=0.1,{x}", out=None) for x in ("0.2", "0.3"))
    assert one.folder.parent == Path("sweeps")
    assert one.folder.name.startswith("mlp-circles-")
    assert one.folder != other.folder
    more = question("optimizer.lr=log:0.1..1", out=None, trials=5)
    fewer = question("optimizer.lr=log:0.1..1", out=None, trials=3)
    assert more.folder == fewer.folder


def test_a_logger_is_no_part_of_what_a_sweep_is():
    plain = question("lr=0.1,0.2")
    told = Sources({**plain.sources.flags, "log": ["tensorboard"]})
    logged = ask(told, {**NOTHING, "over": ["lr=0.1,0.2"], "out": "sweep"})
    assert logged.identity == plain.identity
