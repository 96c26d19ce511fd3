"""Measures against scikit-learn's, and the calibration error against plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    recall_score,
    top_k_accuracy_score,
)
from torch import Tensor

from rdfia_cli.training.metrics import (
    count_correct,
    expected_calibration_error,
    measure,
    score,
)

Case = tuple[Tensor, Tensor]


@st.composite
def predictions(draw: st.DrawFn, fewest: int = 2, most: int = 12) -> Case:
    """Logits (N, classes) float32 and labels (N,); some classes may be absent."""
    count, classes = draw(st.integers(1, 40)), draw(st.integers(fewest, most))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    logits = torch.randn(count, classes, generator=generator) * draw(st.floats(0.1, 2))
    return logits, torch.randint(classes, (count,), generator=generator)


def classes_of(logits: Tensor) -> list[int]:
    return list(range(logits.shape[1]))


checks = settings(max_examples=60, deadline=None)


@checks
@given(predictions())
def test_loss_and_accuracy_are_those_of_scikit_learn(case: Case):
    logits, labels = case
    probabilities = logits.double().softmax(1).numpy()
    expected = log_loss(labels, probabilities, labels=classes_of(logits))
    for found in (score(logits, labels), measure(logits, labels)):
        assert found.loss == pytest.approx(expected, rel=1e-9)
        assert found.accuracy == pytest.approx(accuracy_score(labels, logits.argmax(1)))


@checks
@given(predictions())
def test_the_confusion_matrix_is_that_of_scikit_learn(case: Case):
    logits, labels = case
    expected = confusion_matrix(labels, logits.argmax(1), labels=classes_of(logits))
    assert measure(logits, labels).confusion == expected.tolist()


@checks
@given(predictions(fewest=6))
def test_top5_is_that_of_scikit_learn(case: Case):
    logits, labels = case
    expected = top_k_accuracy_score(labels, logits.numpy(), k=5, labels=classes_of(logits))
    assert measure(logits, labels).top5 == pytest.approx(expected)


@checks
@given(predictions(most=5))
def test_top5_of_five_classes_or_fewer_is_always_right(case: Case):
    assert measure(*case).top5 == 1.0


@checks
@given(predictions())
def test_accuracy_per_class_is_the_recall_and_nan_where_a_class_is_absent(case: Case):
    logits, labels = case
    expected = recall_score(
        labels, logits.argmax(1), labels=classes_of(logits), average=None, zero_division=math.nan
    )
    found = measure(logits, labels).per_class
    assert found == pytest.approx(expected.tolist(), rel=1e-12, nan_ok=True)
    present = set(labels.tolist())
    assert [math.isnan(value) for value in found] == [k not in present for k in classes_of(logits)]


def calibration_error_by_hand(logits: Tensor, labels: Tensor) -> float:
    """Guo et al. 2017, equations 2 and 3, over the bins ((m - 1) / 15, m / 15]."""
    probabilities = logits.double().softmax(1).tolist()
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(probabilities, labels.tolist(), strict=True):
        confidence = max(row)
        number = next(m for m in range(1, 16) if confidence <= m / 15 or m == 15)
        bins.setdefault(number, []).append((confidence, row.index(confidence) == label))
    error = 0.0
    for members in bins.values():
        confidence = sum(c for c, _ in members) / len(members)
        accuracy = sum(right for _, right in members) / len(members)
        error += len(members) / len(labels) * abs(accuracy - confidence)
    return error


@checks
@given(predictions())
def test_the_calibration_error_follows_its_paper(case: Case):
    logits, labels = case
    expected = calibration_error_by_hand(logits, labels)
    assert expected_calibration_error(logits, labels) == pytest.approx(expected, abs=1e-12)
    assert measure(logits, labels).calibration_error == pytest.approx(expected, abs=1e-12)


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not():
    logits, labels = torch.tensor([[50.0, -50.0]] * 4), torch.zeros(4, dtype=torch.long)
    assert expected_calibration_error(logits, labels) == pytest.approx(0.0)
    assert expected_calibration_error(logits, 1 - labels) == pytest.approx(1.0)


def test_a_coin_that_knows_it_is_a_coin_is_calibrated():
    logits = torch.tensor([[1e-9, 0.0]] * 10, dtype=torch.double)
    labels = torch.tensor([0, 1] * 5)
    assert expected_calibration_error(logits, labels) == pytest.approx(0.0, abs=1e-8)


def test_gaps_of_two_signs_in_two_bins_do_not_cancel():
    # Confidence .9 and always wrong, confidence .6 and always right: (.9 + .4) / 2.
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4]], dtype=torch.double)
    error = expected_calibration_error(probabilities.log(), torch.tensor([1, 0]))
    assert error == pytest.approx(0.65)


def test_measures_count_a_split_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [2.0, 0.0, 1.0], [0.0, 1.0, 2.0]])
    found = measure(logits, torch.tensor([0, 2, 2, 2]))
    assert found.confusion == [[1, 0, 0], [0, 0, 0], [1, 0, 2]]
    assert found.accuracy == 0.75
    assert found.per_class[0] == 1.0
    assert math.isnan(found.per_class[1])
    assert found.per_class[2] == pytest.approx(2 / 3, rel=1e-15)


def test_the_loss_of_an_untrained_classifier_of_ten_classes_is_ln_10():
    found = score(torch.zeros(7, 10), torch.arange(7))
    assert found.loss == pytest.approx(math.log(10), rel=1e-15)


@pytest.mark.parametrize("wrong", [1e3, 1e30])
def test_a_sure_mistake_costs_its_logit_however_large(wrong: float):
    found = score(torch.tensor([[wrong, 0.0]]), torch.tensor([1]))
    assert found.loss == pytest.approx(wrong, rel=1e-6)


@checks
@given(predictions())
def test_correct_answers_are_counted_for_classes_and_for_probabilities_alike(case: Case):
    logits, labels = case
    expected = sum(p == t for p, t in zip(logits.argmax(1).tolist(), labels.tolist(), strict=True))
    soft = torch.nn.functional.one_hot(labels, logits.shape[1]) * 0.6 + 0.01
    for truth in (labels, soft):
        found = count_correct(logits, truth)
        assert found.item() == expected
        assert (found.ndim, found.dtype) == (0, torch.int64)
