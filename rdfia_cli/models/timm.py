"""timm's classification models, each by its own name: `timm/resnet18`.

Channels, image size, number of classes and weights are adapted by timm's own means.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import timm as library
import torch
from huggingface_hub.errors import EntryNotFoundError
from timm.models import group_parameters
from torch import nn

from rdfia_cli.errors import ComponentError, nearest
from rdfia_cli.models.patches import refuse_ignored_pixels
from rdfia_cli.models.weights import Weights, naming_download, read_weights, tell
from rdfia_cli.spec import InputSpec, PixelStatistics

FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm publishes weights as; it takes the first that there is."""
PATIENCE = 5.0
"""Seconds that the site of the weights may take to answer."""


def variants() -> Sequence[str]:
    """The names of all models."""
    return library.list_models()


def tagged_variants() -> Sequence[str]:
    """The names of all published weights: a model, a dot, and the tag of its weights."""
    return library.list_pretrained()


def timm(
    input: InputSpec | None = None,
    *,
    variant: str,
    pretrained: bool = False,
    weights: Path | None = None,
    **options: Any,
) -> nn.Module:
    """A model of timm, such as timm/resnet18; other keywords go to timm.create_model.

    Args:
        input: what it is fed, or None for what it was made for.
        variant: its name in timm, with or without the tag of its weights.
        pretrained: start from the weights that timm publishes.
        weights: start from a safetensors file in timm's naming.
        options: what else timm's builder takes, such as `patch_size=7` or `drop_path_rate=0.1`.

    Raises:
        ComponentError: timm has no such model, the weights cannot be had or do not fit, or the
            model would ignore pixels.
    """
    name = f"timm/{variant}"
    if not library.is_model(variant):
        raise ComponentError(
            f"timm {library.__version__} has no model '{variant}'",
            nearest(variant, library.list_models(), f"rdfia list models 'timm/{variant[:3]}*'"),
        )
    _refuse_unknown_tag(variant)
    own: Any = library.get_pretrained_cfg(variant)
    made_for = InputSpec(tuple(own.input_size), own.num_classes)
    if input is not None:
        options = {**_adaptation(name, input, fixed=own.fixed_input_size), **options}
    statistics = PixelStatistics(tuple(own.mean), tuple(own.std))
    if weights is not None:
        read = read_weights(weights)
        model = _load(name, read, own, options)
        statistics = read.statistics or statistics
    else:
        with naming_download(name, _way_to_weights(own, name), wanted=pretrained):
            if pretrained:
                _look_for_weights(own)
            model = _create(name, options, pretrained=pretrained)
    trained = pretrained or weights is not None
    tell(model, made_for=made_for, pixel_statistics=statistics if trained else None)
    if depths := _depths(model):
        tell(model, parameter_depths=depths)
    if input is not None:
        has_patch = "patch_size" in options or hasattr(model, "patch_embed")
        refuse_ignored_pixels(model, input, name, keyword="patch_size" if has_patch else None)
    return model


def _refuse_unknown_tag(variant: str) -> None:
    """Refuse a tag that none of the model's weights has.

    Raises:
        ComponentError: there are others, or none.
    """
    model, dot, tag = variant.partition(".")
    known = [name.partition(".")[2] for name in library.list_pretrained(f"{model}.*")]
    if dot and tag not in known:
        raise ComponentError(
            f"timm {library.__version__} has no weights '{tag}' of '{model}'",
            nearest(tag, known) if known else f"it has none: write timm/{model}",
        )


def _look_for_weights(own: Any) -> None:
    """Ask once whether the site of the weights answers: timm would ask for a minute.

    Raises:
        Exception: it does not, and the weights were not downloaded before; whatever the client of
            the site raises.
    """
    if not own.hf_hub_id:
        return
    repository: str = own.hf_hub_id
    if any(huggingface_hub.try_to_load_from_cache(repository, file) for file in FILES):
        return
    address = huggingface_hub.hf_hub_url(repository, FILES[0])
    with contextlib.suppress(EntryNotFoundError):
        huggingface_hub.get_hf_file_metadata(address, timeout=PATIENCE)


def _way_to_weights(own: Any, name: str) -> str:
    """Which file to put where, if timm cannot download its weights."""
    if own.hf_hub_id:
        address = f"https://huggingface.co/{own.hf_hub_id}/resolve/main/{FILES[0]}"
        return f"fetch {address} where there is a network, and write {name}:weights=FILE"
    if own.url:
        return f"put {own.url} into {Path(torch.hub.get_dir()) / 'checkpoints'}"
    return "timm publishes none for it: leave out pretrained=true"


def _adaptation(name: str, input: InputSpec, *, fixed: bool) -> dict[str, Any]:
    """The keywords by which timm fits a model to an input."""
    channels, height, width = input.image(name)
    size = {"img_size": (height, width)} if fixed else {}
    return {"in_chans": channels, "num_classes": input.classes, **size}


def _create(name: str, options: Mapping[str, Any], **weights: Any) -> Any:
    """Call timm's builder.

    Raises:
        ComponentError: the model cannot have that size.
    """
    try:
        return library.create_model(name.removeprefix("timm/"), **options, **weights)
    except (AssertionError, TypeError) as error:
        size = options.get("img_size")
        if size is None or (isinstance(error, TypeError) and "'img_size'" not in str(error)):
            raise
        own: Any = library.get_pretrained_cfg(name.removeprefix("timm/"))
        reason = f": {error}" if isinstance(error, AssertionError) and str(error) else ""
        raise ComponentError(
            f"{name} cannot take images of {'x'.join(map(str, size))}{reason}",
            f"add --augment resize:size={own.input_size[1]}, its own size",
        ) from None


def _load(name: str, found: Weights, own: Any, options: Mapping[str, Any]) -> Any:
    """A model around the weights of a file, of which each must find its place.

    timm forgives what is missing when the number of classes differs, so the model is first built
    with the file's number; the head is then replaced.
    """
    heads = (own.classifier,) if isinstance(own.classifier, str) else tuple(own.classifier or ())
    rows = max((found.rows(head) for head in heads), default=0)
    firsts = (own.first_conv,) if isinstance(own.first_conv, str) else tuple(own.first_conv or ())
    kernels = [found.tensors[f"{n}.weight"] for n in firsts if f"{n}.weight" in found.tensors]
    channels = {kernel.shape[1] for kernel in kernels if kernel.ndim == 4} or {own.input_size[0]}
    overlay = {
        "state_dict": dict(found.tensors),
        "num_classes": rows,
        "custom_load": False,
        "input_size": (min(channels), *own.input_size[1:]),
        "label_offset": 0,
    }
    try:
        model = _create(
            name, {**options, "num_classes": rows}, pretrained=True, pretrained_cfg_overlay=overlay
        )
    except RuntimeError as error:
        reason = [line.strip() for line in str(error).splitlines()][:2][-1]
        raise ComponentError(
            f"weights file '{found.path}' does not fit {name}: {reason}",
            "the file must hold this model's weights, in timm's naming",
        ) from None
    classes = options.get("num_classes", rows)
    if classes != rows:
        model.reset_classifier(classes)
    return model


def _depths(model: Any) -> dict[str, int] | None:
    """How deep each parameter lies, where timm tells: the classifier alone is the deepest."""
    if not (hasattr(model, "group_matcher") and hasattr(model, "get_classifier")):
        return None
    found: Any = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    classifier = model.get_classifier()
    parts = classifier if isinstance(classifier, tuple | list) else (classifier,)
    head = {id(parameter) for part in parts for parameter in part.parameters()}
    deepest = max(found.values()) + 1
    depths = {
        name: deepest if id(parameter) in head else found[name]
        for name, parameter in model.named_parameters()
    }
    order = sorted(set(depths.values()))
    return {name: order.index(depth) for name, depth in depths.items()} if head else None
