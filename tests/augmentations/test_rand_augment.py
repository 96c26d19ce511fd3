"""RandAugment does to 256 levels what torchvision does to uint8 images."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest, chisquare
from torch import Tensor
from torchvision.transforms import v2

from rdfia_cli.augmentations.rand_augment import RandAugment, change_all_and_keep, rand_augment
from rdfia_cli.errors import ComponentError, UsageError
from rdfia_cli.spec import Batch, InputSpec

THEIRS = v2.RandAugment._AUGMENTATION_SPACE
NAMES = tuple(THEIRS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """uint8 images (B, C, H, W), each of its own range of levels, which some leave half unused."""
    generator = seeded(seed)
    low, high = torch.rand(2, *shape[:2], 1, 1, generator=generator).mul(255).sort(0).values
    images = low + (high - low) * torch.rand(shape, generator=generator)
    return images.to(torch.uint8)


class Rigged:
    """A RandAugment of one operation whose draws are given instead of drawn."""

    def __init__(self, module: RandAugment, place: int, sign: int) -> None:
        self.module, self.place, self.sign = module, place, sign
        module.draw = self.draw  # type: ignore[method-assign]

    def draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.full((len(images),), self.place), torch.full((len(images),), self.sign)

    def __call__(self, images: Tensor) -> Tensor:
        batch = Batch(images / 255, torch.zeros(len(images), dtype=torch.long))
        return self.module(batch, seeded()).inputs * 255


def transformed(image: Tensor, name: str, magnitude: int, bins: int, sign: int) -> Tensor:
    """One uint8 image (C, H, W) through torchvision's operation, at a magnitude of its table."""
    find_magnitudes, signed = THEIRS[name]
    magnitudes = find_magnitudes(bins, *image.shape[1:])
    amount = 0.0 if magnitudes is None else float(magnitudes[magnitude])
    return v2.RandAugment()._apply_image_or_video_transform(
        image, name, sign * amount if signed else amount, "nearest", {}
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("magnitude", [0, 5, 9, 17, 30])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_operation_is_that_of_torchvision_to_within_a_level(
    name: str, magnitude: int, sign: int
):
    for shape in ((8, 3, 32, 32), (4, 1, 17, 26), (2, 3, 2, 3), (1, 1, 1, 1)):
        images = photographs(shape)
        module = rand_augment(InputSpec(shape[1:], 10), num_ops=1, magnitude=magnitude)
        found = Rigged(module, NAMES.index(name), sign)(images)
        expected = torch.stack([transformed(image, name, magnitude, 31, sign) for image in images])
        difference = (found - expected).abs()
        assert difference.max() < 1.01
        # Where the result is a whole level, rounding decides between it and the one below.
        assert (difference > 0.01).float().mean() <= 0.03


# A shear of 20 puts a row half-way between two pixels, where rounding decides.
@pytest.mark.parametrize("magnitude", [3, 9, 21])
@pytest.mark.parametrize("shape", [(150, 3, 32, 32), (150, 1, 15, 22)])
def test_operations_follow_one_another_as_in_torchvision(shape: tuple[int, ...], magnitude: int):
    images = photographs(shape)
    module = rand_augment(InputSpec(shape[1:], 10), num_ops=2, magnitude=magnitude)
    generator = seeded()
    rounds = [module.draw(images, generator) for _ in range(2)]
    found = module(Batch(images / 255, torch.zeros(len(images))), seeded()).inputs * 255
    expected = images.clone()
    for places, signs in rounds:
        for sample, (place, sign) in enumerate(zip(places, signs.tolist(), strict=True)):
            name = NAMES[place]
            expected[sample] = transformed(expected[sample], name, magnitude, 31, sign)
    # A level more or less before the second operation may be several after it.
    assert ((found - expected).abs() > 1.01).float().mean() < 0.002


def test_the_operations_are_those_of_torchvision_in_its_order():
    module = rand_augment(InputSpec((3, 32, 32), 10))
    names = [name.replace("_", "") for name in (*module.geometry, *module.colour)]
    assert names == [name.lower() for name in NAMES]


def test_every_operation_and_sign_is_drawn_equally_often():
    images = torch.zeros(1, 3, 4, 4).expand(14_000, -1, -1, -1)
    places, signs = rand_augment(InputSpec((3, 4, 4), 10)).draw(images, seeded())
    assert chisquare(places.bincount(minlength=14)).pvalue > 1e-3
    assert binomtest(int((signs == 1).sum()), 14_000).pvalue > 1e-3
    assert set(signs.tolist()) == {1, -1}
    both = torch.stack((places, signs.add(1) // 2)).unique(dim=1, return_counts=True)[1]
    assert chisquare(both).pvalue > 1e-3


def test_a_gpu_changes_all_samples_and_gets_the_same(monkeypatch: pytest.MonkeyPatch):
    images = photographs((64, 3, 19, 16)) / 255
    batch = Batch(images, torch.zeros(64))
    module = rand_augment(InputSpec((3, 19, 16), 10), num_ops=3)
    expected = module(batch, seeded()).inputs
    monkeypatch.setattr("rdfia_cli.augmentations.rand_augment._change_found", change_all_and_keep)
    assert torch.equal(module(batch, seeded()).inputs, expected)


def test_no_operation_leaves_an_image_of_256_levels_bit_for_bit():
    images = photographs((4, 3, 8, 8)).float().div_(255)
    module = rand_augment(InputSpec((3, 8, 8), 10), num_ops=0)
    assert torch.equal(module(Batch(images, torch.zeros(4)), seeded()).inputs, images)


def test_the_fill_comes_in_from_outside():
    module = rand_augment(InputSpec((3, 32, 32), 10), num_ops=1, magnitude=30, fill=0.2)
    found = Rigged(module, NAMES.index("TranslateX"), 1)(torch.full((1, 3, 32, 32), 255))
    assert found[..., :14].eq(51).all()
    assert found[..., 14:].eq(255).all()


def test_a_magnitude_beyond_its_bins_is_refused():
    spec = InputSpec((3, 8, 8), 10)
    assert rand_augment(spec, magnitude=30)
    with pytest.raises(UsageError, match="no magnitude 31 in 31 bins") as caught:
        rand_augment(spec, magnitude=31)
    assert "30 or less" in caught.value.remedy
    with pytest.raises(UsageError, match="no range of magnitudes in 1 bin"):
        rand_augment(spec, magnitude=0, num_magnitude_bins=1)


def test_images_of_other_than_1_or_3_channels_are_refused():
    with pytest.raises(ComponentError, match="1 or 3 channels"):
        rand_augment(InputSpec((2, 8, 8), 10))
