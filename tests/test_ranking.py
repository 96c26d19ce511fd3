"""The best trial is the one with the highest accuracy on validation."""

from __future__ import annotations

from typing import Any

from rdfia_cli.ranking import rank


def trial(number: int, accuracy: float | None, **more: Any) -> dict[str, Any]:
    return {"number": number, "state": "finished", "validation_accuracy": accuracy, **more}


def test_trials_are_ranked_by_accuracy_then_loss_then_number():
    trials = [
        trial(0, 0.8, validation_loss=0.1),
        trial(1, 0.9, validation_loss=0.3),
        trial(2, 0.9, validation_loss=0.2, test_accuracy=0.1),
        trial(3, 0.9, validation_loss=0.3),
    ]
    assert [each["number"] for each in rank(trials)] == [2, 1, 3, 0]


def test_a_loss_that_is_not_known_comes_last_among_equals():
    trials = [trial(0, 0.9), trial(1, 0.9, validation_loss=None), trial(2, 0.9, validation_loss=9)]
    assert [each["number"] for each in rank(trials)] == [2, 0, 1]


def test_what_did_not_finish_or_has_no_validation_split_has_no_rank():
    others = [{**trial(n, 0.9), "state": state} for n, state in enumerate(("pruned", "failed"))]
    assert rank([*others, trial(2, None)]) == []
