"""Crops and flips: every sample is some window, or mirror image, of its own original."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare, ks_2samp
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from rdfia_cli.augmentations.geometry import horizontal_flip, random_crop, vertical_flip
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
        padded = torch.from_numpy(pad(original, padding))
        assert torch.equal(window, v2.CenterCrop(size)(padded))


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


@st.composite
def paddings(draw: st.DrawFn) -> tuple[Batch, int, str]:
    """A batch, a padding that its images can be mirrored into, and what the padding holds."""
    count, channels, height, width = (draw(st.integers(1, 6)) for _ in range(4))
    mode = draw(st.sampled_from(["constant", "edge", "reflect", "symmetric"]))
    side = min(height, width)
    most = {"reflect": side - 1, "symmetric": side}.get(mode, 7)
    return distinct(count, channels, height, width), draw(st.integers(0, most)), mode


@settings(max_examples=80, deadline=None)
@given(paddings(), st.sampled_from([0.0, 0.25, 1.0]), st.integers(0, 2**32), st.data())
def test_a_crop_is_what_torchvision_cuts_at_the_same_place(case, fill: float, seed: int, data):
    batch, padding, mode = case
    shape = batch.inputs.shape[1:]
    size = data.draw(st.integers(1, min(shape[1:]) + 2 * padding), label="size")
    crop = random_crop(
        InputSpec(shape, 10), size=size, padding=padding, padding_mode=mode, fill=fill
    )
    padded = functional.pad(batch.inputs, [padding], fill=fill, padding_mode=mode)
    top, left = crop.draw(padded, seeded(seed))
    found = crop(batch, seeded(seed)).inputs
    for window, image, i, j in zip(found, padded, top.tolist(), left.tolist(), strict=True):
        assert torch.equal(window, functional.crop(image, i, j, size, size))


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric"])
def test_the_centre_at_test_time_is_padded_in_the_same_way(mode: str):
    batch = distinct(2, 3, 4, 4)
    crop = random_crop(InputSpec((3, 4, 4), 10), size=10, padding=3, padding_mode=mode)
    expected = functional.pad(batch.inputs, [3], padding_mode=mode)
    assert torch.equal(crop.evaluation(batch, seeded()).inputs, expected)


def test_offsets_have_the_distribution_of_torchvision():
    image = torch.zeros(1, 1, 12, 9)
    theirs = v2.RandomCrop(5)
    expected = [theirs.make_params([image[0]]) for _ in range(2000)]
    top, left = random_crop(InputSpec((1, 12, 9), 2), size=5).draw(
        image.expand(2000, -1, -1, -1), seeded()
    )
    assert ks_2samp(top, [params["top"] for params in expected]).pvalue > 1e-3
    assert ks_2samp(left, [params["left"] for params in expected]).pvalue > 1e-3


@pytest.mark.parametrize(("mode", "most"), [("reflect", 4), ("symmetric", 5)])
def test_an_image_is_not_mirrored_beyond_itself(mode: str, most: int):
    spec = InputSpec((1, 5, 9), 10)
    assert random_crop(spec, size=4, padding=most, padding_mode=mode)
    with pytest.raises(ComponentError, match=f"cannot mirror {most + 1} pixels") as caught:
        random_crop(spec, size=4, padding=most + 1, padding_mode=mode)
    assert f"padding to {most} or less" in caught.value.remedy
    assert random_crop(spec, size=4, padding=most + 1, padding_mode="edge")


def flip(batch: Batch, probability: float, seed: int = 0) -> Tensor:
    augmentation = horizontal_flip(InputSpec(batch.inputs.shape[1:], 10), probability=probability)
    images, labels = augmentation(batch, seeded(seed))
    assert torch.equal(labels, batch.labels)
    return images


@pytest.mark.parametrize(
    ("builder", "mirror"),
    [(horizontal_flip, functional.horizontal_flip), (vertical_flip, functional.vertical_flip)],
)
@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 6)] * 4), seed=st.integers(0, 2**32))
def test_a_flip_mirrors_the_samples_drawn_as_torchvision_does(builder, mirror, shape, seed: int):
    batch = distinct(*shape)
    augmentation = builder(InputSpec(shape[1:], 10))
    mirrored = augmentation.draw(batch.inputs, seeded(seed)).tolist()
    found = augmentation(batch, seeded(seed)).inputs
    for image, original, flipped in zip(found, batch.inputs, mirrored, strict=True):
        assert torch.equal(image, mirror(original) if flipped else original)


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


@pytest.mark.parametrize("builder", [horizontal_flip, vertical_flip])
def test_a_flip_is_by_half_and_only_while_training(builder):
    augmentation = builder(CIFAR)
    assert augmentation.probability == 0.5
    assert augmentation.evaluation is None
    assert augmentation.output == CIFAR


@pytest.mark.parametrize(("side", "expected"), [(32, 28), (8, 7), (224, 196)])
def test_a_share_of_the_image_is_28_of_32_pixels_at_any_size(side: int, expected: int):
    crop = random_crop(InputSpec((3, side, side + 4), 10), share=0.875)
    assert crop.output.shape == (3, expected, expected)
