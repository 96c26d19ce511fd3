"""What is seen in a model is what is in it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rdfia_cli.config import resolve
from rdfia_cli.experiment import run_experiment
from rdfia_cli.insight import before_and_after, first_filters, look_inside
from rdfia_cli.sources import Sources
from rdfia_cli.spec import InputSpec, Preparing
from rdfia_cli.training import assembly
from rdfia_cli.training.metrics import expected_calibration_error, reliability

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_filters_of_a_convolution_are_its_weights():
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(4, 2))
    found = first_filters(model, (3, 5, 5))
    assert found is not None
    assert found.name == "0.weight"
    assert torch.equal(found.weights, model[0].weight)


def test_the_filters_of_a_linear_layer_on_all_pixels_are_images():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 6, 7))
    found = first_filters(model, (3, 4, 6))
    assert found is not None
    images = torch.randn(2, 3, 4, 6)
    by_hand = torch.einsum("bchw,nchw->bn", images, found.weights) + model[1].bias
    assert torch.allclose(by_hand, model(images), atol=1e-5)


def test_the_filters_of_patches_are_patches():
    found = first_filters(nn.Linear(3 * 2 * 2, 5), (3, 8, 8))
    assert found is not None
    assert found.weights.shape == (5, 3, 2, 2)


@pytest.mark.parametrize(
    "first", [nn.Conv2d(3, 4, 1), nn.Conv2d(5, 4, 3), nn.Linear(7, 4), nn.Linear(3 * 9, 4)]
)
def test_weights_that_are_no_images_are_not_shown_as_some(first: nn.Module):
    assert first_filters(nn.Sequential(first, nn.Conv2d(3, 2, 3)), (3, 8, 8)) is None


def test_the_bins_of_reliability_make_up_the_calibration_error():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, 6, generator=generator)
    labels = torch.randint(6, (500,), generator=generator)
    bins = reliability(logits, labels)
    assert sum(one.examples for one in bins) == 500
    gaps = [abs(b.right - b.examples * b.confidence) for b in bins if b.examples]
    assert sum(gaps) / 500 == pytest.approx(expected_calibration_error(logits, labels))
    assert all(b.low < b.confidence <= b.high for b in bins if b.examples)
    assert [b.low for b in bins[1:]] == [b.high for b in bins[:-1]]


def returned(work: Generator[Preparing, None, Any]) -> Any:
    """What a generator returns, whatever it yields before."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def test_mistakes_are_wrong_and_stand_by_falling_confidence(tmp_path: Path):
    config = resolve(Sources({"model": "mlp", "epochs": "1", "out": str(tmp_path / "run")})).config
    for _ in run_experiment(config, config.folder):
        pass
    found = returned(look_inside(config.folder, config, split="test", mistakes=5, attended=2))
    wrong = found.mistakes
    assert wrong is not None
    confusion = torch.tensor(found.evaluation.measures.confusion)
    assert wrong.total == confusion.sum() - confusion.trace()
    assert len(wrong.images) == len(wrong.labels) == min(5, wrong.total)
    assert (wrong.labels != wrong.predictions).all()
    assert (wrong.confidences.diff() <= 0).all()
    assert 0 <= wrong.images.min() <= wrong.images.max() <= 1
    assert found.attention is None


def test_a_model_before_its_training_has_the_weights_that_its_seed_gives(tmp_path: Path):
    config = resolve(Sources({"model": "cnn", "epochs": "1", "out": "run"})).config
    list(run_experiment(config, Path("run")))
    learned = returned(before_and_after(Path("run"), None, 3))
    first = assembly.build_model(config, InputSpec((1, 8, 8), 10)).state_dict()
    before, after = learned.untrained.state_dict(), learned.trained.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in first.items())
    assert not any(torch.equal(after[name], tensor) for name, tensor in first.items())
    assert len(learned.sample.pictures) == len(learned.sample.fed) == 3
    assert not learned.untrained.training
    assert not learned.trained.training
