"""Which settings a trial gets, and that they depend on nothing that chance decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rdfia_cli.errors import RdfiaError, UsageError
from rdfia_cli.sweep.messages import encode_answer
from rdfia_cli.sweep.search import (
    Adaptive,
    Learnt,
    Search,
    check,
    importances,
    propose,
    refuse_other_proposal,
    rounds,
)
from rdfia_cli.sweep.space import parse_over

LOG = parse_over("lr=log:0.001..1", whole=False)
CHOICES = (parse_over("a=1,2,3", whole=None), parse_over("b=x,y", whole=None))


def search(space=(LOG,), sampler="random", pruner="none", trials=16, seed=0, round=4) -> Search:
    return Search(space, sampler, pruner, trials, seed, round)


def test_a_grid_has_every_combination_once():
    drawn = [tuple(propose(search(CHOICES, "grid"), n).items()) for n in range(6)]
    assert len({*drawn}) == 6


def test_random_over_few_combinations_has_each_once_in_another_order():
    asked = search(CHOICES, "random")
    drawn = [tuple(propose(asked, n).values()) for n in range(6)]
    grid = [tuple(propose(search(CHOICES, "grid"), n).values()) for n in range(6)]
    assert sorted(drawn) == sorted(grid)
    assert drawn != grid


def test_random_is_a_function_of_the_seed_and_the_number_alone():
    asked = search(trials=50)
    forwards = [propose(asked, n) for n in range(50)]
    backwards = [propose(replace(asked, trials=100), n) for n in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert forwards != [propose(replace(asked, seed=1), n) for n in range(50)]


def test_another_setting_does_not_change_what_random_gives_to_the_first():
    with_depth = search((LOG, parse_over("d=1..1000000", whole=True)))
    alone = search((LOG,))
    assert [propose(with_depth, n)["optimizer.lr"] for n in range(9)] == [
        propose(alone, n)["optimizer.lr"] for n in range(9)
    ]


def test_adding_trials_keeps_the_rounds_that_were():
    adaptive = search(sampler="tpe", trials=10)
    assert [list(r) for r in rounds(adaptive)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    more = [list(r) for r in rounds(replace(adaptive, trials=14))]
    assert more == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13]]


def _best_of_a_curve(settings) -> float:
    """Highest at a learning rate of 0.1."""
    import math

    return 1 - (math.log10(float(settings["optimizer.lr"])) + 1) ** 2 / 10


def _run(asked: Search, order: str = "forwards") -> list:
    adaptive, found = Adaptive(asked), []
    for numbers in rounds(asked):
        settings = {n: adaptive.ask(n) for n in numbers}
        found.extend(settings.values())
        for n in numbers:
            adaptive.tell(n, Learnt("finished", (), _best_of_a_curve(settings[n])))
    return found


@pytest.mark.parametrize("sampler", ["tpe", "qmc", "nsgaii"])
def test_a_sampler_proposes_the_same_again(sampler: str):
    asked = search(sampler=sampler)
    check(asked)
    first = _run(asked)
    assert first == _run(asked)
    assert first[:10] == _run(replace(asked, trials=10))
    assert all(0.001 <= float(s["optimizer.lr"]) <= 1 for s in first)


def test_tpe_comes_closer_to_the_best_than_random():
    asked = search(sampler="tpe", trials=48)
    learnt = [_best_of_a_curve(s) for s in _run(asked)[24:]]
    drawn = [_best_of_a_curve(propose(search(trials=48), n)) for n in range(24, 48)]
    assert sum(learnt) > sum(drawn)


def test_values_of_a_stepped_range_are_written_as_in_the_space():
    stepped = parse_over("model.dropout=0..0.6:0.1", whole=False)
    allowed = {stepped.nth(i) for i in range(stepped.count)}
    drawn = {s["model.dropout"] for s in _ask_all(search((stepped,), "tpe", trials=12))}
    assert drawn <= allowed
    assert len(drawn) > 2


def _ask_all(asked: Search) -> list:
    adaptive = Adaptive(asked)
    return [adaptive.ask(n) for n in range(asked.trials)]


def test_asha_prunes_the_worst_and_spares_the_best():
    adaptive = Adaptive(search(sampler="random", pruner="asha:min_resource=1,reduction_factor=2"))
    for number in range(4):
        adaptive.enter(number)
    verdicts = [adaptive.should_prune(number, 1, 0.9 - 0.2 * number) for number in range(4)]
    assert verdicts[0] is False
    assert verdicts[-1] is True


@pytest.mark.parametrize(
    "pruner",
    [
        "asha",
        "hyperband",
        "median:n_startup_trials=1",
        "percentile:percentile=50.0,n_startup_trials=1",
        "threshold:lower=0.5",
    ],
)
def test_the_verdict_of_every_pruner_can_be_sent_to_a_worker(pruner: str):
    adaptive = Adaptive(search(pruner=pruner))
    for number, accuracy in enumerate((0.9, 0.8, 0.1)):
        adaptive.enter(number)
        for epoch in (1, 2):
            encode_answer(prune=adaptive.should_prune(number, epoch, accuracy))
        adaptive.tell(number, Learnt("finished", (accuracy, accuracy), accuracy))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sampler": "tpee"}, "unknown sampler"),
        ({"pruner": "ahsa"}, "unknown pruner"),
        ({"sampler": "grid"}, "a grid cannot have all numbers of optimizer.lr"),
        ({"space": CHOICES, "trials": 7}, "more than the 6 combinations"),
        ({"sampler": "tpe:startup=3"}, "'tpe' has no setting 'startup'"),
        ({"sampler": "random:x=3"}, "has no settings"),
        ({"pruner": "asha:min_resource=-1"}, "refuses its settings"),
    ],
)
def test_a_search_that_cannot_be_done_is_refused(change, said: str):
    with pytest.raises(UsageError, match=said):
        check(replace(search(), **change))


def test_importance_finds_the_setting_that_matters():
    space = (LOG, parse_over("b=x,y", whole=None))
    trials = []
    for n in range(40):
        settings = propose(search(space), n)
        trials.append((settings, _best_of_a_curve(settings)))
    found = importances(space, trials, 0)
    assert list(found) == ["optimizer.lr", "b"]
    assert found["optimizer.lr"] > 0.9
    assert sum(found.values()) == pytest.approx(1)


def test_importance_of_nothing_to_tell_apart_is_empty():
    assert importances((LOG,), [({"optimizer.lr": "0.1"}, 0.5)] * 9, 0) == {}


def test_another_proposal_than_before_is_refused():
    refuse_other_proposal(3, {"a": "1"}, {"a": "1"}, "5.0.0")
    with pytest.raises(RdfiaError, match="trial 3") as refused:
        refuse_other_proposal(3, {"a": "1"}, {"a": "2"}, "5.0.0")
    assert "use Optuna 5.0.0" in str(refused.value.remedy)
