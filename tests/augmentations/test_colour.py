"""Colours change as torchvision changes them, in the order drawn for each sample."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, ks_2samp
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from rdfia_cli.augmentations.colour import Jitter, color_jitter, turn_hue
from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import Batch, InputSpec

KERNELS = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)
HUE = 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(shape: tuple[int, ...], seed: int = 0) -> Batch:
    images = torch.rand(shape, generator=seeded(seed))
    return Batch(images, torch.zeros(shape[0], dtype=torch.long))


def orders(jitter: Jitter) -> list[list[int]]:
    """All four changes of each sample by number, in their order."""
    found = jitter.order.tolist()
    for order, place in zip(found, jitter.turned_after.tolist(), strict=True):
        order.insert(place, HUE)
    return found


def change(image: Tensor, order: list[int], amounts: list[float]) -> Tensor:
    for kernel in order:
        image = KERNELS[kernel](image, amounts[kernel])
    return image


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(1, 12), st.integers(1, 12)),
    st.tuples(*[st.floats(0, 2)] * 3),
    st.floats(0, 0.5),
    st.integers(0, 2**32),
)
def test_colours_change_as_torchvision_changes_them(
    shape: tuple[int, ...], most: tuple[float, ...], hue: float, seed: int
):
    brightness, contrast, saturation = most
    augmentation = color_jitter(
        InputSpec(shape[1:], 10),
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
    )
    batch = noise(shape, seed)
    jitter = augmentation.draw(batch.inputs, seeded(seed))
    amounts = torch.cat((jitter.factors, jitter.turn[:, None]), 1).tolist()
    expected = [
        change(image, order, amount)
        for image, order, amount in zip(batch.inputs, orders(jitter), amounts, strict=True)
    ]
    found = augmentation(batch, seeded(seed)).inputs
    # Contrast and saturation grow what rounding has left, up to threefold each.
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=5e-5)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=3, max_size=3), st.floats(-0.5, 0.5)
)
def test_the_hue_turns_as_in_torchvision_for_pure_colours_and_greys(colour, turn: float):
    image = torch.tensor(colour).view(1, 3, 1, 1)
    found = turn_hue(image, torch.tensor([turn]))
    torch.testing.assert_close(found, functional.adjust_hue(image, turn), rtol=0, atol=1e-5)


def test_factors_and_order_have_the_distribution_of_torchvision():
    image = torch.zeros(1, 3, 1, 1)
    amounts = {"brightness": 0.4, "contrast": 0.8, "saturation": 1.5, "hue": 0.2}
    theirs = v2.ColorJitter(**amounts)
    expected = [theirs.make_params([image[0]]) for _ in range(2000)]
    ours = color_jitter(InputSpec((3, 1, 1), 2), **amounts)
    jitter = ours.draw(image.expand(5000, -1, -1, -1), seeded())
    drawn = (*jitter.factors.unbind(1), jitter.turn)
    for name, values in zip(amounts, drawn, strict=True):
        truth = [params[f"{name}_factor"] for params in expected]
        assert ks_2samp(values, truth).pvalue > 1e-3, name
    found = orders(jitter)
    assert chisquare([found.count(list(order)) for order in permutations(range(4))]).pvalue > 1e-3


def test_nothing_to_change_leaves_the_images_as_they_were():
    batch = noise((6, 3, 5, 5))
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    found = color_jitter(InputSpec((3, 5, 5), 2), **still)(batch, seeded()).inputs
    assert torch.equal(found, batch.inputs)


@pytest.mark.parametrize("channels", [2, 4])
def test_images_without_colours_or_with_more_are_refused(channels: int):
    with pytest.raises(ComponentError, match=f"1 or 3 channels, but the data has {channels}"):
        color_jitter(InputSpec((channels, 4, 4), 2))
