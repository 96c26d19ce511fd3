"""Every family of timm and every classifier of torchvision against NaN, element for element."""

from __future__ import annotations

import copy
import warnings

import pytest
import timm
import torch
import torchvision
from torch import nn

from rdfia_cli.analysis.verification import verify

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(3600)]

SMALLEST = (
    *("test_", "atto", "femto", "pico", "nano", "xxs", "xx_small", "xxtiny", "micro", "_t0"),
    *("tiny", "mini", "_xs", "x_small", "_t", "_s", "small", "m0", "18", "26", "050", "_b0", "50"),
)
"""What small members of a family have in their names, the smallest first."""

SIDES = (64, 96, 128, 224, 256, 384, 512, 1024)


def ranked(family: str) -> list[str]:
    def rank(name: str) -> tuple[int, int, int, str]:
        words = (number for number, word in enumerate(SMALLEST) if word in name)
        side = timm.get_pretrained_cfg(name).input_size[-1]
        return next(words, len(SMALLEST)), side, len(name), name

    return sorted(timm.list_models(module=family), key=rank)


def smallest_member(family: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A small member on the smallest image that it takes."""
    for side in SIDES:
        for name in ranked(family)[:3]:
            for options in ({}, {"img_size": side}):
                try:
                    model = timm.create_model(name, num_classes=10, **options).eval()
                    with torch.no_grad():
                        model(torch.rand(1, 3, side, side))
                except Exception:
                    continue
                return model, (3, side, side)
    raise LookupError(family)


def assert_equals_nan(model: nn.Module, shape: tuple[int, ...]) -> None:
    verdicts = verify(copy.deepcopy(model).to("meta").eval(), model.eval(), shape)
    assert verdicts
    assert not [v.name for v in verdicts if v.smaller]
    assert not [(v.name, v.kind) for v in verdicts if v.larger]


@pytest.mark.parametrize("family", timm.list_modules())
@pytest.mark.filterwarnings("ignore")
def test_every_family_of_timm_equals_nan(family: str):
    assert_equals_nan(*smallest_member(family))


@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
@pytest.mark.filterwarnings("ignore")
def test_every_classifier_of_torchvision_equals_nan(name: str):
    side = {"vit_h_14": 56, "inception_v3": 96}.get(name, 64)
    options: dict[str, object] = {}
    if name.startswith("vit_"):
        options["image_size"] = side
    elif name.startswith("maxvit"):
        side = 224
    elif name in ("inception_v3", "googlenet"):
        options["init_weights"] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(name, **options).eval()
    assert_equals_nan(model, (3, side, side))
