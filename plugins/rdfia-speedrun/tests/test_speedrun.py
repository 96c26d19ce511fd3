"""The ingredients do what their paper says."""

import pytest
import torch
import torch.nn.functional as F
from rdfia_speedrun.augmentations import AlternatingFlip, alternating_flip, first_side
from rdfia_speedrun.models import speednet

from rdfia_cli import config, recipe
from rdfia_cli.errors import ComponentError
from rdfia_cli.sources import Sources
from rdfia_cli.spec import Batch, InputSpec, Visit

SPEC = InputSpec((3, 32, 32), 10)


def images(count: int = 64) -> torch.Tensor:
    """Noise whose neighbours are alike, as in photographs."""
    noise = torch.randn(count, 3, 34, 34, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(noise, 3, stride=1)


def test_the_first_layer_makes_patches_white():
    model, inputs = speednet(SPEC), images()
    model.fit_inputs(inputs)
    with torch.no_grad():
        found = F.conv2d(inputs, model.whitening.weight)
    flat = found[:, :12].movedim(1, 0).flatten(1)
    moments = flat @ flat.T / flat.shape[1]
    torch.testing.assert_close(moments, torch.eye(12), rtol=0, atol=0.1)
    torch.testing.assert_close(found[:, 12:], -found[:, :12])


def test_the_network_has_the_parameters_of_the_paper():
    learning = sum(p.numel() for p in speednet(SPEC).parameters() if p.requires_grad)
    kernels = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    assert learning == kernels + 24 + 2 * (64 + 256 + 256) + 256 * 10


def test_a_mirror_image_has_the_same_logits_at_test_time():
    model, inputs = speednet(SPEC).eval(), images(4)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs.flip(3)), model(inputs))
        plain = speednet(SPEC, mirror=False).eval()
        assert not torch.allclose(plain(inputs.flip(3)), plain(inputs))


def test_two_epochs_in_a_row_show_each_example_from_both_sides():
    flip, pixels = alternating_flip(SPEC), torch.rand(32, 3, 32, 32)
    assert isinstance(flip, AlternatingFlip)
    examples = torch.randint(50_000, (32,), generator=torch.Generator().manual_seed(0))
    batch = Batch(pixels, torch.zeros(32, dtype=torch.int64))
    seen = [
        flip.visit(batch, torch.Generator(), Visit(examples, epoch, seed=3)).inputs
        for epoch in range(3)
    ]
    torch.testing.assert_close(seen[1], seen[0].flip(3), rtol=0, atol=0)
    assert torch.equal(seen[2], seen[0])
    sides = {torch.equal(a, b) for a, b in zip(seen[0], pixels, strict=True)}
    assert sides == {True, False}


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_half_of_the_examples_begin_mirrored_whatever_the_seed(seed):
    sides = first_side(torch.arange(50_000), seed).double()
    assert abs(sides.mean() - 0.5) < 0.01
    assert abs((sides[1:] * sides[:-1]).mean() - 0.25) < 0.01


def test_seeds_begin_on_unrelated_sides():
    first, second = (first_side(torch.arange(50_000), seed).double() for seed in (0, 1))
    assert abs((first * second).mean() - 0.25) < 0.01


def test_images_too_small_are_refused():
    with pytest.raises(ComponentError, match="at least 9x9"):
        speednet(InputSpec((1, 8, 8), 10))


def test_the_recipe_is_found_and_is_valid():
    assert recipe.find("speedrun-cifar10").distribution == "rdfia-speedrun"
    found = config.resolve(Sources({}, recipe="speedrun-cifar10")).config
    assert found.model.name == "speednet"
    assert [each.name for each in found.augment] == ["alternating_flip", "random_crop"]
