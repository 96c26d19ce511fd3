"""The training options do what their papers say, and a run with all of them resumes exactly."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rdfia_cli import run
from rdfia_cli.config import resolve
from rdfia_cli.errors import RdfiaError, UsageError
from rdfia_cli.experiment import Finished, run_experiment
from rdfia_cli.sources import Sources
from rdfia_cli.spec import Batch, Split
from rdfia_cli.training.averaging import Average, no_best_yet
from rdfia_cli.training.inputs import Pipeline, Statistics, fit_statistics
from rdfia_cli.training.loop import EpochEnd
from rdfia_cli.training.metrics import Score
from rdfia_cli.training.precision import Arithmetic
from rdfia_cli.training.step import Objective, training_step

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
ARITHMETIC = Arithmetic("fp32", channels_last=False)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.fixture
def scored() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    return logits, torch.tensor([0, 1, 2, 3, 3, 0, 1])


def test_label_smoothing_is_cross_entropy_against_the_smoothed_labels(scored):
    logits, labels = scored
    target = 0.9 * np.eye(4)[labels] + 0.1 / 4
    expected = -(target * np.log(softmax(logits.numpy()))).sum(1).mean()
    objective = Objective(4, label_smoothing=0.1)
    assert objective.loss(logits, labels).item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(objective.smooth(labels), target, rtol=1e-6)


def test_class_weights_give_the_weighted_mean(scored):
    logits, labels = scored
    weights = np.array([1.0, 2.0, 0.5, 4.0])
    each = -np.log(softmax(logits.numpy()))[np.arange(7), labels]
    expected = (weights[labels] * each).sum() / weights[labels].sum()
    found = Objective(4, class_weights=torch.from_numpy(weights)).loss(logits, labels)
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_label_that_is_all_one_class_weighs_as_that_class(scored, smoothing: float):
    logits, labels = scored
    weights = torch.tensor([1.0, 20.0, 0.5, 4.0])
    objective = Objective(4, smoothing, weights)
    shares = torch.eye(4, dtype=torch.float64)[labels]
    hard = objective.loss(logits, labels)
    assert objective.loss(logits, shares).item() == pytest.approx(hard.item(), rel=1e-12)
    torch_s_own = F.cross_entropy(
        logits, labels, weight=weights.double(), label_smoothing=smoothing
    )
    assert hard.item() == pytest.approx(torch_s_own.item(), rel=1e-12)


def test_a_mixed_example_weighs_by_its_shares_of_the_classes(scored):
    logits, _ = scored
    weights = np.array([1.0, 20.0, 0.5, 4.0])
    shares = np.random.default_rng(0).dirichlet(np.ones(4), 7)
    each = -np.log(softmax(logits.numpy()))
    expected = (shares * weights * each).sum() / (shares * weights).sum()
    found = Objective(4, class_weights=torch.from_numpy(weights).float())
    assert found.loss(logits, torch.from_numpy(shares)).item() == pytest.approx(expected, rel=1e-7)


def test_clipping_scales_the_whole_gradient_to_the_norm():
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    batch = Batch(torch.randn(8, 5) * 100, torch.randint(3, (8,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    training_step(model, batch, optimizer, ARITHMETIC, scaler, Objective(3, clip_norm=0.25))
    moved = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(0.25, rel=1e-4)


def test_the_average_follows_the_weights_by_its_decay_and_forgets_the_start_fast():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average, expected = Average(model, 0.9), 1.0
    for step in range(200):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.model.weight.item() == pytest.approx(expected, rel=1e-5)


def test_weights_that_two_layers_share_are_averaged_once():
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        model[1].weight = model[0].weight
        return model

    model = tied()
    average = Average(model, 0.5)
    before = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight += 1
    average.update(model, 1000)
    torch.testing.assert_close(average.model[0].weight, before + 0.5)
    assert average.model[0].weight is average.model[1].weight


def test_batch_norm_statistics_are_averaged_and_its_counter_copied():
    model = nn.BatchNorm1d(2)
    average = Average(model, 0.5)
    model(torch.randn(9, 2) + 7)
    average.update(model, 1000)
    torch.testing.assert_close(average.model.running_mean, model.running_mean / 2)
    assert average.model.num_batches_tracked == 1


def test_the_best_epoch_is_that_of_the_highest_accuracy_then_of_the_lowest_loss():
    model = nn.Linear(1, 1)
    best = no_best_yet(model)
    scores = [(0.5, 1.0), (0.7, 2.0), (0.7, 1.5), (0.7, 1.5), (0.6, 0.1)]
    for epoch, (accuracy, loss) in enumerate(scores, start=1):
        with torch.no_grad():
            model.weight.fill_(float(epoch))
        best.improve(epoch, Score(loss, accuracy), model)
    assert (best.epoch, best.accuracy, best.loss) == (3, 0.7, 1.5)
    assert best.weights["weight"].item() == 3.0


def images(count: int, *shape: int) -> Split:
    generator = torch.Generator().manual_seed(count)
    mixing = torch.randn(int(np.prod(shape)), int(np.prod(shape)), generator=generator)
    values = torch.randn(count, int(np.prod(shape)), generator=generator) @ mixing
    return Split(values.view(count, *shape), torch.zeros(count, dtype=torch.int64))


def pipeline(split: Split, *augmentations: Any) -> Pipeline:
    return Pipeline(split, augmentations, Statistics(), CPU, torch.contiguous_format, 0)


def test_zca_gives_the_train_split_the_covariance_that_epsilon_leaves():
    split = images(500, 3, 4, 4)
    statistics = fit_statistics("zca:eps=0.5", pipeline(split))
    white = statistics.apply(split.inputs).flatten(1).double().numpy()
    variances = np.linalg.eigvalsh(np.cov(split.inputs.flatten(1).double().numpy().T, bias=True))
    expected = np.sort(variances / (variances + 0.5))
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(white.T, bias=True)), expected, atol=1e-4)
    torch.testing.assert_close(statistics.whitening, statistics.whitening.T, rtol=1e-4, atol=1e-5)


def test_zca_does_not_depend_on_how_the_split_is_cut_into_batches(monkeypatch):
    split = images(300, 1, 5, 5)
    whole = fit_statistics("zca", pipeline(split))
    monkeypatch.setattr("rdfia_cli.training.inputs.EVALUATION_BATCH", 7)
    parts = fit_statistics("zca", pipeline(split))
    torch.testing.assert_close(parts.whitening, whole.whitening, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("normalize", "shape", "told"),
    [("imagenet", (1, 4, 4), "3 channels"), ("mnist", (3, 4, 4), "1 channels")],
)
def test_a_preset_for_other_channels_is_refused(normalize: str, shape, told: str):
    if normalize == "mnist":
        # One value serves all channels, as in the preset `half`.
        assert fit_statistics(normalize, pipeline(images(9, *shape))).mean.numel() == 1
        return
    with pytest.raises(UsageError, match=told):
        fit_statistics(normalize, pipeline(images(9, *shape)))


def test_a_preset_is_applied_as_published():
    split = images(4, 3, 2, 2)
    found = fit_statistics("cifar10", pipeline(split)).apply(split.inputs).numpy()
    mean, std = np.array([0.491, 0.482, 0.447]), np.array([0.202, 0.199, 0.201])
    expected = (split.inputs.numpy() - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


OPTIONS = {
    "label_smoothing": "0.1",
    "class_weights": "balanced",
    "clip_norm": "1",
    "ema_decay": "0.95",
    "early_stopping": "3",
    "normalize": "zca",
}


def settings(out: str, **flags: str) -> Any:
    base = {"model": "lenet", "data": "digits", "batch_size": "256", "epochs": "4", "out": out}
    base |= {"augment": ["random_affine", "random_crop:size=12,padding=2", "mixup"]}
    return resolve(Sources({**base, **flags})).config


def finish(config: Any) -> dict[str, Any]:
    *_, last = run_experiment(config, run.place(config).folder)
    assert isinstance(last, Finished)
    return dict(last.result)


@pytest.mark.parametrize(
    "chosen",
    [
        {"optimizer": "rmsprop", "schedule": "plateau:patience=1,factor=0.5", **OPTIONS},
        {"optimizer": "sgd:lr=0.05,momentum=0.9", "schedule": "one_cycle:momentum_cycle=true"},
    ],
)
def test_a_run_broken_off_anywhere_ends_with_the_same_bytes(chosen: dict[str, str]):
    whole = finish(settings("whole", **chosen))
    for stop in (3, 8, 13):
        config = settings(f"broken-{stop}", **chosen)
        for _ in range(50):
            # Every time it goes on, it is broken off again a little later.
            events = run_experiment(config, run.place(config).folder)
            taken = list(itertools.islice(events, stop))
            events.close()
            if isinstance(taken[-1], Finished):
                break
        result = finish(config)
        assert result["weights_sha256"] == whole["weights_sha256"]
        lines = [Path(name, run.METRICS).read_bytes() for name in ("whole", f"broken-{stop}")]
        assert lines[0] == lines[1]


def test_early_stopping_keeps_and_reports_the_best_epoch():
    config = settings("here", early_stopping="2", epochs="30", optimizer="sgd:lr=0.8")
    events = list(run_experiment(config, Path("here")))
    ends = [event for event in events if isinstance(event, EpochEnd)]
    scores = [
        (e.evaluations["validation"].accuracy, -e.evaluations["validation"].loss) for e in ends
    ]
    best = scores.index(max(scores)) + 1
    result = events[-1].result
    assert result["kept_epoch"] == best
    assert result["epochs"] == len(ends) == min(best + 2, 30)
    kept = ends[best - 1].evaluations["test"]
    assert result["test"]["accuracy"] == kept.accuracy
    assert result["test"]["loss"] == pytest.approx(kept.loss, rel=1e-6)
    assert result["validation"]["accuracy"] == scores[best - 1][0]


def test_the_best_epoch_of_a_result_is_the_one_that_is_kept_at_equal_accuracies_too():
    flags = {"model": "mlp", "data": "circles", "lr": "0.5", "early_stopping": "5"}
    more = {"schedule": "constant", "epochs": "8", "out": "here"}
    events = list(run_experiment(resolve(Sources({**flags, **more})).config, Path("here")))
    accuracies = [
        event.evaluations["validation"].accuracy for event in events if isinstance(event, EpochEnd)
    ]
    assert accuracies.count(max(accuracies)) > 1
    result = events[-1].result
    assert result["best"]["epoch"] == result["kept_epoch"] > accuracies.index(max(accuracies)) + 1


def test_the_average_is_what_is_scored_and_kept():
    from rdfia_cli.commands.progress import watch
    from rdfia_cli.evaluation import evaluate

    config = settings("here", ema_decay="0.9", epochs="2")
    result = finish(config)
    found = watch(evaluate(Path("here"), config, "test"), lambda event: None)
    assert found.measures.accuracy == result["test"]["accuracy"]
    assert found.weights_sha256 == result["weights_sha256"]
    plain = finish(settings("plain", epochs="2"))
    assert plain["weights_sha256"] != result["weights_sha256"]
    assert plain["train"] == result["train"], "the average does not touch what is trained"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"early_stopping": "2", "validation": "0"}, "early_stopping needs a validation split"),
        ({"schedule": "plateau", "validation": "0"}, "'plateau' needs a validation split"),
        ({"class_weights": "[1, 2]"}, "2 values for 10 classes"),
        (
            {"class_weights": "balanced", "model": "mlp:backprop=manual", "augment": "mixup"},
            "class_weights do not reach",
        ),
        ({"schedule": "one_cycle:start=0"}, "must be above 0"),
    ],
)
def test_what_cannot_be_trained_so_is_refused_before_anything_is_written(flags, told: str):
    with pytest.raises(RdfiaError, match=told.replace("[", r"\[")):
        finish(settings("here", **flags))
    assert not Path("here").exists()


def test_smoothed_labels_reach_gradients_by_hand():
    losses = {}
    for kind in ("manual", "autograd"):
        flags = {"model": f"mlp:backprop={kind}", "label_smoothing": "0.2", "augment": []}
        losses[kind] = finish(settings(kind, **flags, precision="fp32"))["train"]["loss"]
    assert losses["manual"] == pytest.approx(losses["autograd"], rel=1e-5)


@pytest.mark.parametrize("side", [16, pytest.param(32, marks=pytest.mark.slow)])
def test_zca_of_as_many_values_as_cifar_s_is_numpy_s(side):
    """By the singular values of 200 images: outside their span it only divides by sqrt(eps)."""
    split = images(200, 3, side, side)
    found = fit_statistics("zca:eps=0.1", pipeline(split))
    values = split.inputs.flatten(1).double().numpy()
    mean = values.mean(0)
    _, spread, axes = np.linalg.svd((values - mean) / 200**0.5, full_matrices=False)
    inside = 1 / np.sqrt(spread**2 + 0.1) - 0.1**-0.5
    expected = np.eye(3 * side**2) * 0.1**-0.5 + axes.T @ (inside[:, None] * axes)
    np.testing.assert_allclose(found.mean.flatten().numpy(), mean, atol=1e-5)
    np.testing.assert_allclose(found.whitening.numpy(), expected, atol=1e-5)
