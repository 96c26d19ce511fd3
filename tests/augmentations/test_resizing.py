"""Parts of images are resized as torchvision does it for the same rectangle."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from rdfia_cli.augmentations.resizing import random_resized_crop
from rdfia_cli.errors import UsageError
from rdfia_cli.spec import Batch, InputSpec


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(shape: tuple[int, ...], seed: int = 0) -> Batch:
    images = torch.rand(shape, generator=seeded(seed))
    return Batch(images, torch.zeros(shape[0], dtype=torch.long))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 4)] * 2, *[st.integers(1, 30)] * 2),
    st.integers(1, 20),
    st.integers(0, 2**32),
)
def test_a_part_is_resized_as_torchvision_does(shape: tuple[int, ...], size: int, seed: int):
    crop = random_resized_crop(InputSpec(shape[1:], 10), size=size)
    batch = noise(shape, seed)
    parts = crop.draw(batch.inputs, seeded(seed))
    found = crop(batch, seeded(seed)).inputs
    for image, original, *part in zip(
        found, batch.inputs, *(sides.tolist() for sides in parts), strict=True
    ):
        expected = functional.resized_crop(original, *part, [size, size], antialias=True)
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 256, 300), (3, 91, 64)])
def test_large_images_are_resized_as_precisely(shape: tuple[int, ...]):
    crop = random_resized_crop(InputSpec(shape, 10), size=224)
    batch = noise((2, *shape))
    parts = crop.draw(batch.inputs, seeded(3))
    expected = [
        functional.resized_crop(image, *part, [224, 224], antialias=True)
        for image, *part in zip(batch.inputs, *(sides.tolist() for sides in parts), strict=True)
    ]
    found = crop(batch, seeded(3)).inputs
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 4)] * 2, *[st.integers(1, 30)] * 2),
    st.integers(1, 20),
    st.integers(0, 9),
)
def test_at_test_time_the_shorter_side_is_resized_and_the_centre_cut(
    shape: tuple[int, ...], size: int, more: int
):
    crop = random_resized_crop(InputSpec(shape[1:], 10), size=size, resize=size + more)
    batch = noise(shape)
    theirs = v2.Compose([v2.Resize(size + more, antialias=True), v2.CenterCrop(size)])
    found = crop.evaluation(batch, seeded()).inputs
    torch.testing.assert_close(found, theirs(batch.inputs), rtol=0, atol=1e-6)


def test_the_shorter_side_becomes_the_size_where_nothing_else_is_told():
    batch = noise((2, 3, 20, 30))
    crop = random_resized_crop(InputSpec((3, 20, 30), 10), size=10)
    expected = functional.center_crop(functional.resize(batch.inputs, [10]), [10])
    torch.testing.assert_close(crop.evaluation(batch, seeded()).inputs, expected)


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0)])
@pytest.mark.parametrize("side", [(32, 32), (20, 50)])
def test_parts_have_the_distribution_of_torchvision(scale, side: tuple[int, int]):
    image = torch.zeros(1, 1, *side)
    theirs = v2.RandomResizedCrop(8, scale=scale)
    expected = [theirs.make_params([image[0]]) for _ in range(2000)]
    crop = random_resized_crop(
        InputSpec((1, *side), 2), size=8, scale_min=scale[0], scale_max=scale[1]
    )
    parts = crop.draw(image.expand(2000, -1, -1, -1), seeded(1))
    for name in ("top", "left", "height", "width"):
        truth = [params[name] for params in expected]
        assert ks_2samp(getattr(parts, name), truth).pvalue > 1e-3, name


@pytest.mark.parametrize(
    ("side", "ratio"), [((4, 40), (0.75, 1.3)), ((40, 4), (0.75, 1.3)), ((9, 10), (0.9, 0.9))]
)
def test_where_no_part_fits_the_largest_in_the_centre_is_taken(side, ratio):
    image = torch.zeros(1, *side)
    crop = random_resized_crop(
        InputSpec((1, *side), 2), scale_min=1.0, ratio_min=ratio[0], ratio_max=ratio[1]
    )
    expected = v2.RandomResizedCrop(8, scale=(1.0, 1.0), ratio=ratio).make_params([image])
    parts = crop.draw(image.expand(5, -1, -1, -1), seeded())
    for name, value in expected.items():
        assert getattr(parts, name).tolist() == [value] * 5


def test_settings_that_leave_nothing_to_draw_are_refused():
    spec = InputSpec((3, 32, 32), 10)
    with pytest.raises(UsageError, match=r"scale_min = 0.5 and scale_max = 0.2"):
        random_resized_crop(spec, scale_min=0.5, scale_max=0.2)
    with pytest.raises(UsageError, match=r"ratio_min = 2 and ratio_max = 1.33333"):
        random_resized_crop(spec, ratio_min=2.0)
    with pytest.raises(UsageError, match="28x28 pixels from an image resized to 27") as caught:
        random_resized_crop(spec, size=28, resize=27)
    assert "28 or more" in caught.value.remedy
