"""Affine maps and rotations show what torchvision shows for the same draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from rdfia_cli.augmentations.affine import random_affine, random_rotation, rotation_maps
from rdfia_cli.errors import UsageError
from rdfia_cli.spec import Batch, InputSpec

SHAPES = st.tuples(
    st.integers(1, 4), st.sampled_from([1, 3]), st.integers(2, 24), st.integers(2, 24)
)
FILLS = st.sampled_from([0.0, 0.4])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(shape: tuple[int, ...], seed: int) -> Batch:
    images = torch.rand(shape, generator=seeded(seed))
    return Batch(images, torch.zeros(shape[0], dtype=torch.long))


def filled(kernel: Callable[..., Tensor], image: Tensor, fill: float, **arguments: Any) -> Tensor:
    """What torchvision shows of an image that goes on with the fill beyond its edge.

    Asked to fill bilinearly, torchvision weights a pixel at the edge by the share of it that lies
    inside, which the interpolation with zeros has done already. Without a fill it goes on with 0.
    """
    if arguments["interpolation"] is v2.InterpolationMode.NEAREST:
        return kernel(image, fill=[fill], **arguments)
    return kernel(image - fill, **arguments) + fill


def near_a_half(maps: Tensor, height: int, width: int) -> Tensor:
    """Where rounding may choose either neighbour: (B, H, W) bool, by sampled positions."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.double)
    pixels = torch.stack((x, y), -1) - centre
    positions = torch.einsum("bij,hwj->bhwi", maps[..., :2].double(), pixels)
    positions += maps[:, None, None, :, 2] + centre
    return ((positions.frac().abs() - 0.5).abs() < 1e-4).any(-1)


def assert_nearest(found: Tensor, expected: Tensor, maps: Tensor):
    unsure = near_a_half(maps, *found.shape[2:])
    differs = ((found - expected).abs() > 1e-6).any(1)
    assert not (differs & ~unsure).any()


@settings(max_examples=60, deadline=None)
@given(
    SHAPES,
    st.floats(0, 360),
    st.floats(0, 1),
    st.floats(0.3, 3),
    st.floats(0, 60),
    FILLS,
    st.integers(0, 2**32),
)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_an_affine_map_is_that_of_torchvision_for_the_same_draws(
    interpolation: str,
    shape: tuple[int, ...],
    degrees: float,
    translate: float,
    scale: float,
    shear: float,
    fill: float,
    seed: int,
):
    augmentation = random_affine(
        InputSpec(shape[1:], 10),
        degrees=degrees,
        translate=translate,
        scale_min=min(scale, 1.0),
        scale_max=max(scale, 1.0),
        shear=shear,
        interpolation=interpolation,
        fill=fill,
    )
    batch = noise(shape, seed)
    draws = augmentation.draw(batch.inputs, seeded(seed))
    expected = [
        filled(
            functional.affine,
            image,
            fill,
            angle=degrees,
            translate=translation,
            scale=scale,
            shear=[shear, 0.0],
            interpolation=v2.InterpolationMode(interpolation),
        )
        for image, degrees, translation, scale, shear in zip(
            batch.inputs, *(drawn.tolist() for drawn in draws), strict=True
        )
    ]
    found = augmentation(batch, seeded(seed)).inputs
    if interpolation == "nearest":
        assert_nearest(found, torch.stack(expected), draws.maps())
    else:
        torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-5 / min(1, scale))


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.floats(0, 360), FILLS, st.integers(0, 2**32))
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_a_rotation_is_that_of_torchvision_for_the_same_angle(
    interpolation: str, shape: tuple[int, ...], degrees: float, fill: float, seed: int
):
    augmentation = random_rotation(
        InputSpec(shape[1:], 10), degrees=degrees, interpolation=interpolation, fill=fill
    )
    batch = noise(shape, seed)
    angles = augmentation.draw(batch.inputs, seeded(seed))
    expected = [
        filled(
            functional.rotate,
            image,
            fill,
            angle=angle,
            interpolation=v2.InterpolationMode(interpolation),
        )
        for image, angle in zip(batch.inputs, angles.tolist(), strict=True)
    ]
    found = augmentation(batch, seeded(seed)).inputs
    if interpolation == "nearest":
        assert_nearest(found, torch.stack(expected), rotation_maps(angles))
    else:
        torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("side", [8, 9])
def test_nothing_drawn_leaves_the_image_as_it_was(interpolation: str, side: int):
    batch = noise((4, 3, side, side + 2), 0)
    spec = InputSpec((3, side, side + 2), 10)
    still: dict[str, Any] = {"translate": 0.0, "scale_min": 1.0, "scale_max": 1.0}
    for augmentation in (
        random_affine(spec, degrees=0.0, interpolation=interpolation, **still),
        random_rotation(spec, degrees=0.0, interpolation=interpolation),
    ):
        found = augmentation(batch, seeded()).inputs
        torch.testing.assert_close(found, batch.inputs, rtol=0, atol=2e-6)


def test_draws_have_the_distribution_of_torchvision():
    image = torch.zeros(1, 1, 28, 40)
    theirs = v2.RandomAffine(15, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=7)
    expected = [theirs.make_params([image[0]]) for _ in range(3000)]
    ours = random_affine(InputSpec((1, 28, 40), 2), shear=7.0).draw(
        image.expand(3000, -1, -1, -1), seeded(1)
    )
    pairs = [
        (ours.degrees, [params["angle"] for params in expected]),
        (ours.translation[:, 0], [params["translate"][0] for params in expected]),
        (ours.translation[:, 1], [params["translate"][1] for params in expected]),
        (ours.scale, [params["scale"] for params in expected]),
        (ours.shear, [params["shear"][0] for params in expected]),
    ]
    for drawn, truth in pairs:
        assert ks_2samp(drawn, truth).pvalue > 1e-3


def test_angles_have_the_distribution_of_torchvision():
    image = torch.zeros(1, 1, 4, 4)
    expected = [v2.RandomRotation(30).make_params([image])["angle"] for _ in range(3000)]
    ours = random_rotation(InputSpec((1, 4, 4), 2), degrees=30.0)
    drawn = ours.draw(image.expand(3000, -1, -1, -1), seeded())
    assert ks_2samp(drawn, expected).pvalue > 1e-3


def test_a_scale_from_more_to_less_is_refused():
    with pytest.raises(UsageError, match=r"scale_min = 1.2 and scale_max = 1.1"):
        random_affine(InputSpec((1, 4, 4), 2), scale_min=1.2)
