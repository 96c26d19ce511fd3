"""One step is one step: the update that a textbook writes, whatever the arithmetic."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdfia_cli.models.cnn import cnn
from rdfia_cli.models.perceptron import mlp
from rdfia_cli.optimizers import adam, sgd
from rdfia_cli.spec import Batch, InputSpec
from rdfia_cli.training.precision import Arithmetic
from rdfia_cli.training.step import predict, training_step

FP32, BF16 = Arithmetic("fp32", channels_last=False), Arithmetic("bf16", channels_last=True)
IMAGES = InputSpec((1, 8, 8), 10)


def no_scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", enabled=False)


def images(count: int = 16, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, *IMAGES.shape, generator=generator)
    return Batch(inputs, torch.randint(10, (count,), generator=generator))


def perceptron(backprop: str = "autograd") -> nn.Module:
    torch.manual_seed(0)
    return mlp(IMAGES, hidden=20, backprop=backprop)


def take_steps(model: nn.Module, optimizer, *batches: Batch, arithmetic=FP32, scaler=None):
    for batch in batches:
        result = training_step(model, batch, optimizer, arithmetic, scaler or no_scaler())
    return result


def assert_same_weights(one: nn.Module, other: nn.Module, **tolerance: float) -> None:
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_steps_go_down_the_gradient_of_their_own_batch_alone():
    model, reference = perceptron(), perceptron()
    batches = [images(seed=seed) for seed in range(3)]
    take_steps(model, sgd(model, lr=0.5), *batches)
    for batch in batches:
        loss = F.nll_loss(reference(batch.inputs).log_softmax(1), batch.labels)
        parameters = list(reference.parameters())
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters), strict=True
        ):
            parameter.data -= 0.5 * gradient
    assert_same_weights(model, reference)


@pytest.mark.parametrize("backprop", ["manual", "autograd"])
def test_a_step_returns_the_loss_and_the_logits_from_before_it(backprop: str):
    model, batch = perceptron(backprop), images()
    expected = model(batch.inputs).detach()
    loss, logits = take_steps(model, sgd(model), batch)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(loss, F.cross_entropy(expected, batch.labels))
    assert not torch.allclose(model(batch.inputs), expected)


@pytest.mark.parametrize("backprop", ["manual", "autograd"])
def test_what_a_step_returns_holds_no_graph(backprop: str):
    model = perceptron(backprop)
    loss, logits = take_steps(model, sgd(model), images())
    assert loss.ndim == 0
    assert not loss.requires_grad
    assert not logits.requires_grad


def test_manual_and_autograd_steps_arrive_at_the_same_weights():
    manual, autograd = perceptron("manual"), perceptron("autograd")
    batches = [images(seed=seed) for seed in range(20)]
    for model in (manual, autograd):
        take_steps(model, sgd(model, lr=0.05, momentum=0.9), *batches)
    assert_same_weights(manual, autograd, rtol=1e-4, atol=1e-5)
    with pytest.raises(AssertionError):
        assert_same_weights(manual, perceptron(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("backprop", ["manual", "autograd"])
def test_labels_as_probabilities_of_one_class_are_that_class(backprop: str):
    batch = images()
    soft = Batch(batch.inputs, F.one_hot(batch.labels, 10).float())
    models = []
    for labelled in (batch, soft):
        models.append(perceptron(backprop))
        take_steps(models[-1], sgd(models[-1]), labelled)
    assert_same_weights(*models)


@pytest.mark.parametrize("backprop", ["manual", "autograd"])
def test_mixed_labels_cost_the_mixture_of_the_losses(backprop: str):
    batch = images()
    other = batch.labels.roll(1)
    mixed = 0.7 * F.one_hot(batch.labels, 10) + 0.3 * F.one_hot(other, 10)
    model = perceptron(backprop)
    logits = model(batch.inputs).detach()
    loss, _ = take_steps(model, sgd(model), Batch(batch.inputs, mixed))
    expected = 0.7 * F.cross_entropy(logits, batch.labels) + 0.3 * F.cross_entropy(logits, other)
    torch.testing.assert_close(loss, expected)


class Detour(nn.Module):
    """A linear layer, after another one where it is told to take it, as in stochastic depth."""

    def __init__(self) -> None:
        super().__init__()
        self.detour, self.way, self.taken = nn.Linear(64, 64), nn.Linear(64, 10), True

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        return self.way(self.detour(flat) if self.taken else flat)


def test_weights_without_a_part_in_a_step_stay_where_they_are():
    model = Detour()
    optimizer = sgd(model, momentum=0.9, weight_decay=0.1)
    take_steps(model, optimizer, images())
    before = copy.deepcopy(model)
    model.taken = False
    take_steps(model, optimizer, images())
    assert_same_weights(model.detour, before.detour, rtol=0, atol=0)
    assert not torch.equal(model.way.weight, before.way.weight)


def test_in_bf16_weights_gradients_and_moments_stay_in_fp32():
    model = cnn(IMAGES)
    optimizer = adam(model)
    loss, logits = take_steps(model, optimizer, images(), arithmetic=BF16)
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    moments = [moment["exp_avg"] for moment in optimizer.state.values()]
    gradients = [parameter.grad for parameter in model.parameters()]
    assert len(moments) == len(gradients) == 10
    for tensor in (*model.parameters(), *gradients, *moments):
        assert tensor.dtype == torch.float32


def test_the_loss_in_bf16_is_that_in_fp32_to_its_precision():
    torch.manual_seed(0)
    model = cnn(IMAGES)
    losses = [
        take_steps(twin, sgd(twin), images(64), arithmetic=arithmetic)[0].item()
        for twin, arithmetic in ((copy.deepcopy(model), FP32), (copy.deepcopy(model), BF16))
    ]
    # bfloat16 has 8 significant bits.
    assert losses[0] == pytest.approx(losses[1], rel=2**-7)


def test_scaling_the_loss_by_a_power_of_two_changes_no_weight():
    plain, scaled = perceptron(), perceptron()
    batches = [images(seed=seed) for seed in range(3)]
    take_steps(plain, sgd(plain), *batches)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    take_steps(scaled, sgd(scaled), *batches, scaler=scaler)
    assert_same_weights(plain, scaled, rtol=0, atol=0)


def test_a_step_whose_scaled_gradients_overflow_is_skipped_and_the_scale_halved():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = copy.deepcopy(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    batch = Batch(images().inputs * 100, images().labels)
    take_steps(model, sgd(model), batch, scaler=scaler)
    assert_same_weights(model, before, rtol=0, atol=0)
    assert scaler.get_scale() == 2.0**126


@pytest.mark.parametrize("arithmetic", [FP32, BF16], ids=["fp32", "bf16"])
def test_predictions_are_fp32_logits_without_a_graph(arithmetic: Arithmetic):
    model = cnn(IMAGES, dropout=0.5, batch_norm=True).eval()
    logits: Tensor = predict(model, images(), arithmetic)
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    assert torch.equal(logits, predict(model, images(), arithmetic))
    tolerance = 1e-6 if arithmetic is FP32 else 2e-2
    torch.testing.assert_close(
        logits.clone(), model(images().inputs).detach(), rtol=0, atol=tolerance
    )


def test_predictions_leave_the_model_as_it_was():
    model = cnn(IMAGES, batch_norm=True).eval()
    before = copy.deepcopy(model.state_dict())
    predict(model, images(), FP32)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())
