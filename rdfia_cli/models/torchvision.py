"""torchvision's classification models, each by its own name: `torchvision/vgg16`."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from rdfia_cli.errors import ComponentError, nearest
from rdfia_cli.models.patches import refuse_ignored_pixels, refuse_patch
from rdfia_cli.models.weights import (
    fit_channels,
    load_strictly,
    naming_download,
    read_weights,
    tell,
)
from rdfia_cli.spec import InputSpec, PixelStatistics

IMAGENET = PixelStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = PixelStatistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
INCEPTIONS = ("googlenet", "inception_v3")
"""Their weights expect pixels in [-1, 1]; torchvision turns ImageNet's normalisation into that."""
AUXILIARY = re.compile(r"AuxLogits\.|aux1\.|aux2\.")
"""The side branches of Inception, which are of use in the training of the paper only."""


def variants() -> Sequence[str]:
    """The names of all classification models."""
    return models.list_models(module=models)


def torchvision_model(
    input: InputSpec | None = None,
    *,
    variant: str,
    pretrained: bool = False,
    weights: Path | None = None,
    **options: Any,
) -> nn.Module:
    """A model of torchvision, such as torchvision/vgg16; other keywords go to its builder.

    Args:
        input: what it is fed, or None for what it was made for.
        variant: its name in torchvision.
        pretrained: start from the weights that torchvision publishes.
        weights: start from a safetensors file in torchvision's naming.
        options: what else torchvision's builder takes, such as `dropout=0.2`.

    Raises:
        ComponentError: torchvision has no such model, the weights cannot be had or do not fit, or
            the model would ignore pixels.
    """
    name = f"torchvision/{variant}"
    if variant not in variants():
        raise ComponentError(
            f"torchvision {torchvision.__version__} has no model '{variant}'",
            nearest(variant, variants(), f"rdfia list models 'torchvision/{variant[:3]}*'"),
        )
    published = _published(variant)
    side: int = published.transforms.keywords["crop_size"]
    made_for = InputSpec((3, side, side), len(published.meta["categories"]))
    wanted = input or made_for
    # torchvision's tables count Inception v3 with its side branch; training has no use for it.
    branches = {} if variant not in INCEPTIONS else {"init_weights": True}
    if branches and (input is not None or variant == "googlenet"):
        branches["aux_logits"] = False
    options = {**_fixed_size(variant, wanted, name), **branches, **options}
    statistics = None
    if weights is not None:
        read = read_weights(weights)
        found, statistics = dict(read.tensors), read.statistics or _statistics(variant)
    elif pretrained:
        found, statistics = _download(published, name), _statistics(variant)
    else:
        found = None
    model = _create(variant, wanted, options, found, f"weights file '{weights}'")
    tell(model, made_for=made_for, pixel_statistics=statistics)
    if input is not None:
        refuse_ignored_pixels(model, input, name)
    return model


def _fixed_size(variant: str, input: InputSpec, name: str) -> dict[str, Any]:
    """The keyword by which torchvision fits a model of a fixed size to its input."""
    _, height, width = input.image(name)
    if variant.startswith("maxvit"):
        return {"input_size": (height, width)}
    if not variant.startswith("vit_"):
        return {}
    patch = int(variant.rpartition("_")[2])
    if height % patch or width % patch:
        refuse_patch(name, (patch, patch), (height, width), keyword=None)
    if height != width:
        raise ComponentError(
            f"{name} takes square images only, not {height}x{width}",
            f"use timm/vit_base_patch{patch}_224, or --augment resize:size={height}",
        )
    return {"image_size": height}


def _published(variant: str) -> Any:
    """The best weights that torchvision has for a model, as a member of its enumeration."""
    weights: Any = models.get_model_weights(variant)
    return weights.DEFAULT


def _statistics(variant: str) -> PixelStatistics:
    if variant in INCEPTIONS:
        return HALF
    settings = _published(variant).transforms.keywords
    return PixelStatistics(settings.get("mean", IMAGENET.mean), settings.get("std", IMAGENET.std))


def _download(published: Any, name: str) -> dict[str, Tensor]:
    """The weights that torchvision publishes, from its cache or its site."""
    place = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]
    with naming_download(name, f"put {published.url} as {place}", wanted=True):
        return torch.hub.load_state_dict_from_url(
            published.url, map_location="cpu", check_hash=True, weights_only=True
        )


def _create(
    variant: str,
    input: InputSpec,
    options: Mapping[str, Any],
    found: dict[str, Tensor] | None,
    source: str,
) -> nn.Module:
    """Build a model for an input, around weights where there are some."""
    channels = input.shape[0]
    if found is None:
        model = models.get_model(variant, num_classes=input.classes, **options)
        _fit_first_convolution(model, channels)
        return model
    found = {key: tensor for key, tensor in found.items() if not AUXILIARY.match(key)}
    model = models.get_model(variant, **options)
    head = _head(model)
    rows = len(found[f"{head}.weight"]) if f"{head}.weight" in found else input.classes
    _replace_head(model, head, rows)
    first = _fit_first_convolution(model, channels)
    if f"{first}.weight" in found:
        found[f"{first}.weight"] = fit_channels(found[f"{first}.weight"], channels)
    if "image_size" in options and "encoder.pos_embedding" in found:
        patch = int(variant.rpartition("_")[2])
        found = interpolate_embeddings(options["image_size"], patch, OrderedDict(found))
    load_strictly(model, found, source)
    if rows != input.classes:
        _replace_head(model, head, input.classes)
    return model


def _head(model: nn.Module) -> str:
    """The name of the layer that makes the logits: the last that is linear or a convolution."""
    return [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]


def _replace_head(model: nn.Module, name: str, classes: int) -> None:
    """Put a new layer where the logits are made."""
    old = model.get_submodule(name)
    if isinstance(old, nn.Linear):
        has_bias = "bias" in dict(old.named_parameters())
        new: nn.Module = nn.Linear(old.in_features, classes, bias=has_bias)
    else:
        assert isinstance(old, nn.Conv2d)
        new = nn.Conv2d(old.in_channels, classes, 1)
    model.set_submodule(name, new.to(next(old.parameters()).device))


def _fit_first_convolution(model: nn.Module, channels: int) -> str:
    """Let the first convolution take another number of channels; its name."""
    name, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if first.in_channels != channels:
        first.weight = nn.Parameter(fit_channels(first.weight.detach(), channels))
        first.in_channels = channels
    return name
