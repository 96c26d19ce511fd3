"""Crops and flips: every sample is some window, or mirror image, of its own original."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare
from torch import Tensor

from rdfia_cli.augmentations.geometry import horizontal_flip, random_crop
from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import Batch, InputSpec

CIFAR = InputSpec((3, 32, 32), 10)


def distinct(*shape: int) -> Batch:
    """Images in which no two pixels are alike, and their labels."""
    count = int(np.prod(shape))
    images = torch.arange(1, count + 1, dtype=torch.float32).view(shape)
    return Batch(images, torch.arange(shape[0]))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pad(image: Tensor, padding: int) -> np.ndarray:
    return np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)))


def offsets_of(window: Tensor, padded: np.ndarray) -> list[tuple[int, int]]:
    """Every place at which a window is found in its padded original."""
    size, (_, height, width) = window.shape[-1], padded.shape
    return [
        (top, left)
        for top in range(height - size + 1)
        for left in range(width - size + 1)
        if np.array_equal(window.numpy(), padded[:, top : top + size, left : left + size])
    ]


@st.composite
def crops(draw: st.DrawFn) -> tuple[Batch, int, int]:
    """A batch of small images, a size and a padding that fit it."""
    count, channels, height, width = (draw(st.integers(1, 6)) for _ in range(4))
    padding = draw(st.integers(0, 3))
    size = draw(st.integers(1, min(height, width) + 2 * padding))
    return distinct(count, channels, height, width), size, padding


@settings(max_examples=80, deadline=None)
@given(crops(), st.integers(0, 2**32))
def test_each_crop_is_a_window_of_its_own_padded_original(case: tuple[Batch, int, int], seed: int):
    batch, size, padding = case
    crop = random_crop(InputSpec(batch.inputs.shape[1:], 10), size=size, padding=padding)
    images, labels = crop(batch, seeded(seed))
    assert images.shape == (len(batch.labels), batch.inputs.shape[1], size, size)
    assert images.dtype == torch.float32
    assert torch.equal(labels, batch.labels)
    for window, original in zip(images, batch.inputs, strict=True):
        assert offsets_of(window, pad(original, padding))


@settings(max_examples=80, deadline=None)
@given(crops())
def test_the_centre_is_cut_at_test_time(case: tuple[Batch, int, int]):
    batch, size, padding = case
    crop = random_crop(InputSpec(batch.inputs.shape[1:], 10), size=size, padding=padding)
    images, labels = crop.evaluation(batch, seeded())
    assert torch.equal(labels, batch.labels)
    for window, original in zip(images, batch.inputs, strict=True):
        padded = pad(original, padding)
        top, left = ((side - size) // 2 for side in padded.shape[1:])
        expected = padded[:, top : top + size, left : left + size]
        assert np.array_equal(window.numpy(), expected)


def test_the_centre_of_cifar10_cut_to_28_leaves_two_pixels_at_each_side():
    batch = distinct(2, 3, 32, 32)
    images = random_crop(CIFAR).evaluation(batch, seeded()).inputs
    assert torch.equal(images, batch.inputs[:, :, 2:-2, 2:-2])


def test_the_crop_of_the_test_time_is_its_own_counterpart_of_none():
    centre = random_crop(CIFAR, size=24).evaluation
    assert centre.evaluation is None
    assert centre.output == InputSpec((3, 24, 24), 10)


def drawn_offsets(count: int, seed: int) -> list[tuple[int, int]]:
    """The places of the 3x3 windows cut from one image of 5x6 repeated: 3 x 4 are possible."""
    image = distinct(1, 1, 5, 6)
    batch = Batch(image.inputs.expand(count, -1, -1, -1), torch.zeros(count, dtype=torch.long))
    crop = random_crop(InputSpec((1, 5, 6), 2), size=3)
    padded = pad(image.inputs[0], 0)
    found = [offsets_of(window, padded) for window in crop(batch, seeded(seed)).inputs]
    assert all(len(places) == 1 for places in found)
    return [places[0] for places in found]


def test_every_offset_is_drawn_equally_often():
    places = drawn_offsets(6000, seed=1)
    counts = [places.count((top, left)) for top in range(3) for left in range(4)]
    assert sum(counts) == 6000
    assert min(counts) > 0
    assert chisquare(counts).pvalue > 1e-3


def test_neighbours_in_a_batch_have_their_own_draws():
    places = drawn_offsets(4000, seed=2)
    pairs = [(*a, *b) for a, b in zip(places[::2], places[1::2], strict=True)]
    counts = [
        pairs.count((top, left, next_top, next_left))
        for top in range(3)
        for left in range(4)
        for next_top in range(3)
        for next_left in range(4)
    ]
    assert chisquare(counts).pvalue > 1e-3


def test_a_crop_of_the_whole_image_changes_nothing():
    batch = distinct(4, 3, 7, 7)
    crop = random_crop(InputSpec((3, 7, 7), 10), size=7)
    assert torch.equal(crop(batch, seeded()).inputs, batch.inputs)
    assert torch.equal(crop.evaluation(batch, seeded()).inputs, batch.inputs)


def test_padding_is_zeros_around_the_image():
    crop = random_crop(InputSpec((1, 2, 2), 10), size=4, padding=1)
    images = crop(Batch(torch.ones(1, 1, 2, 2), torch.zeros(1)), seeded()).inputs
    assert images[0, 0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_the_crop_is_28_pixels_without_padding_unless_told_otherwise():
    assert random_crop(CIFAR).output == InputSpec((3, 28, 28), 10)


@settings(max_examples=60, deadline=None)
@given(
    side=st.integers(1, 20),
    other=st.integers(0, 9),
    size=st.integers(1, 60),
    padding=st.integers(0, 5),
)
def test_a_size_that_does_not_fit_is_refused_and_either_way_out_works(side, other, size, padding):
    spec = InputSpec((1, side, side + other), 10)
    if size <= side + 2 * padding:
        assert random_crop(spec, size=size, padding=padding).output.shape == (1, size, size)
        return
    with pytest.raises(ComponentError, match=f"{size}x{size}.*{side}x{side + other}") as caught:
        random_crop(spec, size=size, padding=padding)
    largest, least = map(int, re.findall(r"\d+", caught.value.remedy))
    assert random_crop(spec, size=largest, padding=padding)
    assert random_crop(spec, size=size, padding=least)
    for close in ({"size": largest + 1, "padding": padding}, {"size": size, "padding": least - 1}):
        with pytest.raises(ComponentError):
            random_crop(spec, **close)


@pytest.mark.parametrize("builder", [random_crop, horizontal_flip])
def test_points_are_refused(builder):
    with pytest.raises(ComponentError, match=f"{builder.__name__} needs images"):
        builder(InputSpec((2,), 2))


def flip(batch: Batch, probability: float, seed: int = 0) -> Tensor:
    augmentation = horizontal_flip(InputSpec(batch.inputs.shape[1:], 10), probability=probability)
    images, labels = augmentation(batch, seeded(seed))
    assert torch.equal(labels, batch.labels)
    return images


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 4),
    probability=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_each_flip_is_the_original_or_its_mirror_image(shape, probability: float, seed: int):
    batch = distinct(*shape)
    for image, original in zip(flip(batch, probability, seed), batch.inputs, strict=True):
        mirror = original.numpy()[:, :, ::-1]
        assert np.array_equal(image, original) or np.array_equal(image, mirror)


def test_a_flip_of_probability_zero_changes_nothing():
    batch = distinct(500, 1, 2, 3)
    assert torch.equal(flip(batch, 0.0), batch.inputs)


def test_a_flip_of_probability_one_mirrors_every_sample():
    batch = distinct(500, 1, 2, 3)
    assert np.array_equal(flip(batch, 1.0), batch.inputs.numpy()[..., ::-1])


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_a_flip_mirrors_the_given_share_each_sample_by_its_own_draw(probability: float):
    batch = distinct(4000, 1, 1, 2)
    mirrored = (flip(batch, probability) != batch.inputs).any(dim=(1, 2, 3))
    assert binomtest(int(mirrored.sum()), 4000, probability).pvalue > 1e-3
    both = int((mirrored[::2] & mirrored[1::2]).sum())
    assert binomtest(both, 2000, probability**2).pvalue > 1e-3


def test_a_flip_is_by_half_and_only_while_training():
    augmentation = horizontal_flip(CIFAR)
    assert augmentation.probability == 0.5
    assert augmentation.evaluation is None
    assert augmentation.output == CIFAR


AUGMENTATIONS = [random_crop(CIFAR, padding=4), horizontal_flip(CIFAR)]
names = pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=["crop", "flip"])


@names
def test_the_batch_given_is_left_as_it_was(augmentation):
    batch = distinct(8, 3, 32, 32)
    kept = batch.inputs.clone()
    out = augmentation(batch, seeded())
    out.inputs.zero_()
    assert torch.equal(batch.inputs, kept)
    assert torch.equal(batch.labels, torch.arange(8))


@names
def test_equal_seeds_give_equal_batches_and_others_do_not(augmentation):
    batch = distinct(32, 3, 32, 32)
    torch.manual_seed(1)
    first = augmentation(batch, seeded(5)).inputs
    torch.manual_seed(2)
    assert torch.equal(augmentation(batch, seeded(5)).inputs, first)
    assert not torch.equal(augmentation(batch, seeded(6)).inputs, first)


@names
def test_draws_come_from_the_generator_given_alone(augmentation):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    augmentation(distinct(8, 3, 32, 32), seeded())
    assert torch.equal(torch.get_rng_state(), before)


@names
def test_the_layout_in_memory_decides_nothing(augmentation):
    batch = distinct(8, 3, 32, 32)
    channels_last = batch.inputs.contiguous(memory_format=torch.channels_last)
    expected = augmentation(batch, seeded()).inputs
    found = augmentation(Batch(channels_last, batch.labels), seeded()).inputs
    assert torch.equal(found, expected)


@names
def test_probabilities_as_labels_pass_through(augmentation):
    labels = torch.rand(8, 10).softmax(1)
    found = augmentation(Batch(distinct(8, 3, 32, 32).inputs, labels), seeded()).labels
    assert torch.equal(found, labels)
