"""Samples mix with their neighbours by a share of each one's own, and their labels with them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, ks_2samp
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from rdfia_cli.augmentations.mixing import cutmix, mixup
from rdfia_cli.spec import Batch, InputSpec

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 16), st.integers(1, 16))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(shape: tuple[int, ...], seed: int = 0, *, mixed: bool = False) -> Batch:
    generator = seeded(seed)
    images = torch.rand(shape, generator=generator)
    if mixed:
        return Batch(images, torch.rand(shape[0], 10, generator=generator).softmax(1))
    return Batch(images, torch.randint(10, shape[:1], generator=generator))


def probabilities(batch: Batch) -> torch.Tensor:
    return one_hot(batch.labels, 10).float() if batch.labels.ndim == 1 else batch.labels


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.floats(0.05, 5), st.floats(0, 1), st.booleans(), st.integers(0, 2**32))
def test_each_sample_is_blended_as_torchvision_does_with_its_share(
    shape: tuple[int, ...], alpha: float, probability: float, mixed: bool, seed: int
):
    augmentation = mixup(InputSpec(shape[1:], 10), alpha=alpha, probability=probability)
    batch = noise(shape, seed, mixed=mixed)
    theirs = v2.MixUp(num_classes=10)
    shares = augmentation.draw(batch.inputs, seeded(seed)).tolist()
    found = augmentation(batch, seeded(seed))
    for place, share in enumerate(shares):
        params = {"lam": share, "labels": batch.labels, "batch_size": len(shares)}
        images, labels = (theirs.transform(part, params) for part in batch)
        torch.testing.assert_close(found.inputs[place], images[place])
        torch.testing.assert_close(found.labels[place], labels[place])


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.floats(0.05, 5), st.floats(0, 1), st.booleans(), st.integers(0, 2**32))
def test_each_sample_gets_a_rectangle_as_torchvision_pastes_it(
    shape: tuple[int, ...], alpha: float, probability: float, mixed: bool, seed: int
):
    augmentation = cutmix(InputSpec(shape[1:], 10), alpha=alpha, probability=probability)
    batch = noise(shape, seed, mixed=mixed)
    theirs = v2.CutMix(num_classes=10)
    drawn = augmentation.draw(batch.inputs, seeded(seed))
    found = augmentation(batch, seeded(seed))
    for place, (top, left, height, width) in enumerate(torch.stack(drawn, 1).tolist()):
        params = {
            "box": (left, top, left + width, top + height),
            "lam_adjusted": 1 - height * width / (shape[2] * shape[3]),
            "labels": batch.labels,
            "batch_size": shape[0],
        }
        images, labels = (theirs.transform(part, params) for part in batch)
        assert torch.equal(found.inputs[place], images[place])
        torch.testing.assert_close(found.labels[place], labels[place])


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.booleans(), st.integers(0, 2**32))
def test_labels_mix_by_the_pixels_that_were_pasted(shape: tuple[int, ...], mixed: bool, seed: int):
    batch = noise(shape, seed, mixed=mixed)
    # Pixels that tell the sample from which they are.
    images = torch.arange(shape[0]).float().view(-1, 1, 1, 1).expand(shape)
    found = cutmix(InputSpec(shape[1:], 10))(Batch(images, batch.labels), seeded(seed))
    own = torch.tensor([image.eq(place).float().mean() for place, image in enumerate(found.inputs)])
    labels = probabilities(batch)
    expected = own[:, None] * labels + (1 - own)[:, None] * labels.roll(1, 0)
    torch.testing.assert_close(found.labels, expected)
    torch.testing.assert_close(found.labels.sum(1), torch.ones(shape[0]))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_have_the_distribution_of_torchvision(alpha: float):
    expected = [v2.MixUp(alpha=alpha, num_classes=2).make_params([])["lam"] for _ in range(2000)]
    shares = mixup(InputSpec((2,), 2), alpha=alpha).draw(torch.zeros(2000, 2), seeded())
    assert ks_2samp(shares, expected).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_rectangles_have_the_distribution_of_torchvision(alpha: float):
    image = torch.zeros(1, 1, 28, 40)
    theirs = v2.CutMix(alpha=alpha, num_classes=2)
    truth = torch.tensor([theirs.make_params([image])["box"] for _ in range(3000)])
    ours = cutmix(InputSpec((1, 28, 40), 2), alpha=alpha)
    drawn = ours.draw(image.expand(3000, -1, -1, -1), seeded())
    left, top, right, bottom = truth.unbind(1)
    for found, expected in zip(drawn, (top, left, bottom - top, right - left), strict=True):
        assert ks_2samp(found, expected).pvalue > 1e-3


@pytest.mark.parametrize("builder", [mixup, cutmix])
@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_the_given_share_of_the_samples_is_mixed(builder, probability: float):
    batch = noise((2000, 1, 16, 16))
    augmentation = builder(InputSpec((1, 16, 16), 10), alpha=5.0, probability=probability)
    found = augmentation(batch, seeded())
    changed = int((found.inputs != batch.inputs).any(dim=(1, 2, 3)).sum())
    assert binomtest(changed, 2000, probability).pvalue > 1e-3
    assert found.labels.dtype == torch.float32
    assert found.labels.shape == (2000, 10)


def test_points_are_blended_too():
    points = torch.tensor([[0.0, 0.0], [4.0, 8.0]])
    augmentation = mixup(InputSpec((2,), 2))
    share = augmentation.draw(points, seeded())
    found = augmentation(Batch(points, torch.tensor([0, 1])), seeded())
    other = torch.tensor([[4.0, 8.0], [0.0, 0.0]])
    torch.testing.assert_close(found.inputs, share[:, None] * points + (1 - share)[:, None] * other)
    torch.testing.assert_close(found.labels[:, 0], torch.stack((share[0], 1 - share[1])))


@pytest.mark.parametrize("builder", [mixup, cutmix])
def test_a_batch_of_one_has_only_itself_to_mix_with(builder):
    batch = noise((1, 3, 8, 8))
    found = builder(InputSpec((3, 8, 8), 10))(batch, seeded())
    torch.testing.assert_close(found.inputs, batch.inputs)
    torch.testing.assert_close(found.labels, probabilities(batch))
