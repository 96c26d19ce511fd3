"""A rectangle is erased as torchvision erases it, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, ks_2samp, kstest
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from rdfia_cli.augmentations.erasing import random_erasing
from rdfia_cli.errors import UsageError
from rdfia_cli.spec import Batch, InputSpec


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(shape: tuple[int, ...], seed: int = 0) -> Batch:
    images = torch.rand(shape, generator=seeded(seed))
    return Batch(images, torch.zeros(shape[0], dtype=torch.long))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 6)] * 2, *[st.integers(1, 20)] * 2),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
def test_the_rectangle_drawn_is_erased_as_torchvision_does(
    shape: tuple[int, ...], value: float, probability: float, seed: int
):
    erasing = random_erasing(InputSpec(shape[1:], 10), probability=probability, value=value)
    batch = noise(shape, seed)
    rectangles = erasing.draw(batch.inputs, seeded(seed))
    found = erasing(batch, seeded(seed)).inputs
    for image, original, *rectangle in zip(
        found, batch.inputs, *(sides.tolist() for sides in rectangles), strict=True
    ):
        assert torch.equal(image, functional.erase(original, *rectangle, torch.tensor(value)))


@pytest.mark.parametrize("side", [(32, 32), (15, 40)])
def test_rectangles_have_the_distribution_of_torchvision(side: tuple[int, int]):
    image = torch.zeros(1, 1, *side)
    theirs = v2.RandomErasing()
    expected = [theirs.make_params([image[0]]) for _ in range(3000)]
    expected = [params for params in expected if params["v"] is not None]
    ours = random_erasing(InputSpec((1, *side), 2), probability=1.0)
    drawn = ours.draw(image.expand(3000, -1, -1, -1), seeded())
    erased = drawn.height * drawn.width > 0
    for name, theirs_name in (("top", "i"), ("left", "j"), ("height", "h"), ("width", "w")):
        truth = [params[theirs_name] for params in expected]
        assert ks_2samp(getattr(drawn, name)[erased], truth).pvalue > 1e-3, name


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_the_given_share_of_samples_loses_a_rectangle(probability: float):
    batch = noise((3000, 1, 16, 16))
    found = random_erasing(InputSpec((1, 16, 16), 2), probability=probability)(batch, seeded())
    changed = int((found.inputs != batch.inputs).any(dim=(1, 2, 3)).sum())
    assert binomtest(changed, 3000, probability).pvalue > 1e-3


def test_random_values_are_uniform_and_each_pixel_has_its_own():
    batch = Batch(torch.full((200, 3, 16, 16), 2.0), torch.zeros(200))
    erasing = random_erasing(InputSpec((3, 16, 16), 2), probability=1.0, value="random")
    found = erasing(batch, seeded()).inputs
    values = found[found != 2]
    assert len(values) > 1000
    assert len(values.unique()) > 0.99 * len(values)
    assert kstest(values, "uniform").pvalue > 1e-3


def test_an_area_from_more_to_less_is_refused():
    with pytest.raises(UsageError, match=r"scale_min = 0.4 and scale_max = 0.33"):
        random_erasing(InputSpec((1, 4, 4), 2), scale_min=0.4)
