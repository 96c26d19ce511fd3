"""Resizing and padding bring every image to one size, and draw nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from rdfia_cli.augmentations.sizes import pad, resize
from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import Augmentation, Batch, InputSpec

sides = st.integers(1, 20)


def apply(augmentation: Augmentation, images: torch.Tensor) -> torch.Tensor:
    batch = Batch(images, torch.zeros(len(images), dtype=torch.long))
    return augmentation(batch, torch.Generator()).inputs


@settings(max_examples=40, deadline=None)
@given(height=sides, width=sides, size=sides)
def test_resize_equals_torchvision_s(height: int, width: int, size: int):
    images = torch.rand(2, 3, height, width)
    found = apply(resize(InputSpec((3, height, width), 10), size=size), images)
    expected = v2.functional.resize(images, [size, size], antialias=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(height=sides, width=sides, more=st.integers(0, 9))
def test_pad_keeps_every_pixel_in_the_middle_of_the_fill(height: int, width: int, more: int):
    size = max(height, width) + more
    images = torch.rand(2, 1, height, width)
    found = apply(pad(InputSpec((1, height, width), 10), size=size, fill=0.25), images)
    top, left = (size - height) // 2, (size - width) // 2
    assert torch.equal(found[:, :, top : top + height, left : left + width], images)
    outside = found.sum() - images.sum()
    assert outside.item() == pytest.approx(0.25 * 2 * (size**2 - height * width), abs=1e-3)


@pytest.mark.parametrize("builder", [resize, pad])
def test_the_size_is_the_same_in_training_and_at_test_time(builder):
    augmentation = builder(InputSpec((1, 28, 28), 10), size=32)
    images = torch.rand(4, 1, 28, 28)
    assert augmentation.output == InputSpec((1, 32, 32), 10)
    assert torch.equal(apply(augmentation, images), apply(augmentation.evaluation, images))


def test_pad_refuses_to_make_images_smaller():
    with pytest.raises(ComponentError, match="28x28 smaller, to 16x16") as caught:
        pad(InputSpec((1, 28, 28), 10), size=16)
    assert "resize:size=16" in caught.value.remedy
