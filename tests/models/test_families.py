"""timm's and torchvision's models: all of them by name, fitted to any images, never in silence."""

from __future__ import annotations

import fnmatch
from typing import Any

import huggingface_hub
import pytest
import timm as timm_library
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models as torchvision_models

from rdfia_cli.errors import ComponentError
from rdfia_cli.models import timm as timm_family
from rdfia_cli.models import torchvision as torchvision_family
from rdfia_cli.models.timm import timm
from rdfia_cli.models.torchvision import torchvision_model
from rdfia_cli.spec import InputSpec, Layered, MadeFor
from rdfia_cli.training.fine_tuning import parameter_depths

MNIST = InputSpec((1, 28, 28), 10)
GREY = InputSpec((1, 32, 32), 7)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def saved(model: nn.Module, path) -> Any:
    save_file(model.state_dict(), path)
    return path


PARTS = 12


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_timm_model_that_builds_on_the_meta_device_resolves_by_name(part: int):
    names = timm_family.variants()
    assert len(names) > 1200
    for name in names[part::PARTS]:
        with torch.device("meta"):
            model = timm(variant=name)
        assert isinstance(model, MadeFor)


@pytest.mark.slow
@pytest.mark.parametrize("name", torchvision_family.variants())
def test_every_torchvision_model_has_the_parameters_that_are_published(name: str):
    published = torchvision_models.get_model_weights(name).DEFAULT.meta["num_params"]
    if name.startswith("regnet"):  # its constructor computes on tensors
        assert parameters(torchvision_model(variant=name)) == published
    else:
        with torch.device("meta"):
            assert parameters(torchvision_model(variant=name)) == published


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "vit_b_16", "googlenet", "inception_v3"])
def test_torchvision_models_have_the_parameters_that_are_published(name: str):
    with torch.device("meta"):
        found = parameters(torchvision_model(variant=name))
    assert found == torchvision_models.get_model_weights(name).DEFAULT.meta["num_params"]


@pytest.mark.parametrize(
    ("family", "variant", "fed"),
    [
        (timm, "resnet18", GREY),
        (timm, "resnet18.a1_in1k", GREY),
        (timm, "test_vit", InputSpec((2, 48, 64), 3)),
        (timm, "convnext_atto", GREY),
        (timm, "mixer_s16_224", GREY),
        (torchvision_model, "resnet18", GREY),
        (torchvision_model, "squeezenet1_1", GREY),
        (torchvision_model, "densenet121", InputSpec((4, 32, 32), 3)),
        (torchvision_model, "mobilenet_v3_small", GREY),
        (torchvision_model, "googlenet", GREY),
        (torchvision_model, "swin_t", GREY),
    ],
)
def test_channels_size_and_classes_are_fitted(family, variant: str, fed: InputSpec):
    model = family(fed, variant=variant)
    logits = model(torch.rand(2, *fed.shape))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, fed.classes)
    logits.sum().backward()
    assert any(parameter.grad.any() for parameter in model.parameters())


def test_a_torchvision_vit_takes_its_image_size():
    with torch.device("meta"):
        model = torchvision_model(InputSpec((1, 96, 96), 5), variant="vit_b_32")
        assert model(torch.empty(2, 1, 96, 96)).shape == (2, 5)


@pytest.mark.parametrize(
    ("family", "variant", "share"),
    [
        (timm, "vit_small_patch16_224", "67%"),
        (timm, "convnext_atto", "13%"),
        (timm, "swin_tiny_patch4_window7_224", "13%"),
        (torchvision_model, "vit_b_16", "67%"),
        (torchvision_model, "convnext_tiny", "13%"),
        (timm, "pit_ti_224", "27%"),
        (timm, "tnt_s_patch16_224", "67%"),
    ],
)
def test_ignored_pixels_are_refused_with_the_ways_out(family, variant: str, share: str):
    side = 30 if share == "13%" else 28
    with (
        torch.device("meta"),
        pytest.raises(ComponentError, match=f"ignore {share} of the pixels") as caught,
    ):
        family(InputSpec((3, side, side), 10), variant=variant)
    assert "--augment pad:size=32" in caught.value.remedy
    assert "--augment resize:size=" in caught.value.remedy


def test_the_way_out_of_another_patch_works():
    with pytest.raises(ComponentError) as caught:
        timm(MNIST, variant="vit_tiny_patch16_224")
    assert "patch_size=14" in caught.value.remedy
    model = timm(MNIST, variant="vit_tiny_patch16_224", patch_size=14)
    assert model(torch.rand(1, 1, 28, 28)).shape == (1, 10)


def test_a_model_that_pads_its_images_is_not_refused():
    padding = {"dynamic_img_size": True, "dynamic_img_pad": True}
    with torch.device("meta"):
        model = timm(MNIST, variant="vit_tiny_patch16_224", **padding)
        assert model(torch.empty(1, 1, 28, 28)).shape == (1, 10)


@pytest.mark.parametrize(
    ("family", "given", "nearest"),
    [(timm, "resnet81", "resnet18"), (torchvision_model, "vgg166", "vgg16")],
)
def test_an_unknown_variant_comes_with_the_nearest(family, given: str, nearest: str):
    with pytest.raises(ComponentError, match=given) as caught:
        family(MNIST, variant=given)
    assert nearest in caught.value.remedy


def test_built_for_nothing_else_a_model_is_the_library_s_own():
    with torch.device("meta"):
        model = timm(variant="inception_v3")
    assert model.made_for == InputSpec((3, 299, 299), 1000)
    assert model.pixel_statistics is None


# Weights.


@pytest.mark.parametrize(
    ("family", "create", "variant"),
    [
        (timm, timm_library.create_model, "resnet10t"),
        (timm, timm_library.create_model, "test_vit"),
        (torchvision_model, torchvision_models.get_model, "shufflenet_v2_x0_5"),
    ],
)
def test_a_file_of_weights_starts_the_model(tmp_path, family, create, variant: str):
    torch.manual_seed(1)
    source = create(variant, num_classes=10).eval()
    side = getattr(source, "default_cfg", {}).get("input_size", (3, 64, 64))[1]
    path = saved(source, tmp_path / "weights.safetensors")
    model = family(InputSpec((3, side, side), 10), variant=variant, weights=path).eval()
    images = torch.rand(2, 3, side, side)
    torch.testing.assert_close(model(images), source(images))
    assert len(model.pixel_statistics.mean) == 3


@pytest.mark.parametrize(
    ("family", "variant", "head"),
    [(timm, "resnet10t", "fc"), (torchvision_model, "shufflenet_v2_x0_5", "fc")],
)
def test_other_classes_and_channels_keep_the_rest_of_the_weights(tmp_path, family, variant, head):
    torch.manual_seed(1)
    source = family(InputSpec((3, 64, 64), 10), variant=variant).eval()
    path = saved(source, tmp_path / "weights.safetensors")
    model = family(InputSpec((1, 64, 64), 4), variant=variant, weights=path).eval()
    # A grey image answers as its coloured copy did, but for the fresh head.
    grey = torch.rand(2, 1, 64, 64)
    seen: dict[str, torch.Tensor] = {}
    for name, network in (("source", source), ("model", model)):
        network.get_submodule(head).register_forward_pre_hook(
            lambda _, arguments, name=name: seen.update({name: arguments[0]})
        )
    source(grey.expand(-1, 3, -1, -1))
    assert model(grey).shape == (2, 4)
    torch.testing.assert_close(seen["model"], seen["source"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "right", "wrong"),
    [(timm, "resnet10t", "resnet18"), (torchvision_model, "vgg11", "vgg13")],
)
def test_another_model_s_weights_are_refused_by_name(tmp_path, family, right, wrong):
    path = saved(family(GREY, variant=wrong), tmp_path / "wrong.safetensors")
    with pytest.raises(ComponentError, match=r"wrong.safetensors") as caught:
        family(GREY, variant=right, weights=path)
    assert caught.value.remedy


def test_a_missing_file_and_a_pickle_are_refused(tmp_path):
    with pytest.raises(ComponentError, match=r"absent.safetensors' does not exist"):
        timm(GREY, variant="resnet10t", weights=tmp_path / "absent.safetensors")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "pickle.pt")
    with pytest.raises(ComponentError, match=r"pickle.pt' cannot be read as safetensors") as caught:
        timm(GREY, variant="resnet10t", weights=tmp_path / "pickle.pt")
    assert "save_file" in caught.value.remedy


def test_a_run_folder_is_told_which_of_its_files_has_the_weights(tmp_path):
    for step in ("0000000041", "0000000082"):
        (tmp_path / "run/checkpoints" / step).mkdir(parents=True)
        (tmp_path / "run/checkpoints" / step / "model.safetensors").touch()
    with pytest.raises(ComponentError, match="run' is a folder") as caught:
        timm(GREY, variant="resnet10t", weights=tmp_path / "run")
    assert caught.value.remedy.endswith("run/checkpoints/0000000082/model.safetensors")


def test_weights_that_cannot_be_downloaded_say_which_file_to_take_from_where(monkeypatch):
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise OSError("Network is unreachable")

    # timm itself asks for a minute: where the site does not answer once, it is not called at all.
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    monkeypatch.setattr(timm_library.models._builder, "load_state_dict_from_hf", pytest.fail)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(ComponentError, match="Network is unreachable") as caught:
        timm(GREY, variant="resnet18", pretrained=True)
    place = "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    assert place in caught.value.remedy
    assert "timm/resnet18:weights=FILE" in caught.value.remedy
    with pytest.raises(ComponentError, match="Network is unreachable") as caught:
        torchvision_model(GREY, variant="resnet18", pretrained=True)
    assert "https://download.pytorch.org/models/resnet18-" in caught.value.remedy
    assert "checkpoints/resnet18-" in caught.value.remedy


def test_weights_that_were_downloaded_before_need_no_network(monkeypatch, tmp_path):
    source = timm_library.create_model("resnet10t", num_classes=1000)
    stored = saved(source, tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(stored))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", pytest.fail)
    read = lambda *_, **__: load_file(stored)  # noqa: E731
    monkeypatch.setattr(timm_library.models._builder, "load_state_dict_from_hf", read)
    model = timm(GREY, variant="resnet10t", pretrained=True)
    assert torch.equal(model.get_parameter("layer1.0.conv1.weight"), source.layer1[0].conv1.weight)


def test_an_unknown_tag_of_weights_comes_with_the_nearest():
    with pytest.raises(ComponentError, match="no weights 'a11_in1k' of 'resnet18'") as caught:
        timm(GREY, variant="resnet18.a11_in1k")
    assert "a1_in1k" in caught.value.remedy


def test_a_head_without_bias_is_loaded_and_replaced(tmp_path):
    torch.manual_seed(1)
    source = torchvision_model(InputSpec((3, 224, 224), 10), variant="maxvit_t")
    path = saved(source, tmp_path / "weights.safetensors")
    model = torchvision_model(InputSpec((3, 224, 224), 4), variant="maxvit_t", weights=path)
    assert "classifier.5.bias" not in model.state_dict()
    assert model.classifier[5].weight.shape[0] == 4


# Depths, for fine-tuning.


@pytest.mark.parametrize("variant", ["resnet18", "test_vit", "convnext_atto", "pit_ti_224"])
def test_depths_rise_from_the_stem_to_the_classifier_alone(variant: str):
    model = timm(InputSpec((3, 224, 224), 10), variant=variant) if variant != "test_vit" else None
    model = model or timm(InputSpec((3, 160, 160), 10), variant=variant)
    depths = parameter_depths(model)
    assert isinstance(model, Layered) == (variant != "pit_ti_224")
    assert set(depths) == {name for name, _ in model.named_parameters()}
    assert set(depths.values()) == set(range(max(depths.values()) + 1))
    heads = [name for name, depth in depths.items() if depth == max(depths.values())]
    assert {model.get_parameter(name).shape[0] for name in heads} == {10}


# Listing.


@pytest.mark.parametrize("family", ["timm", "torchvision"])
def test_list_shows_the_members_of_a_family_that_fit_a_pattern(rdfia, family: str):
    outcome = rdfia("list", "models", f"{family}/resnet1*", "--json")
    assert outcome.code == 0, outcome.err
    names = [entry["name"] for entry in outcome.json["components"]]
    known = {"timm": timm_family, "torchvision": torchvision_family}[family].variants()
    assert names == [f"{family}/{name}" for name in known if fnmatch.fnmatch(name, "resnet1*")]
    keys = {p["name"] for p in outcome.json["components"][0]["parameters"]}
    assert keys == {"pretrained", "weights"}


def test_list_shows_the_tags_of_the_weights_where_the_pattern_has_a_dot(rdfia):
    outcome = rdfia("list", "models", "timm/resnet18.*", "--json")
    names = [entry["name"] for entry in outcome.json["components"]]
    assert names == [f"timm/{name}" for name in timm_library.list_pretrained("resnet18.*")]
    assert "timm/resnet18.a1_in1k" in names
    assert timm_library.is_model(names[0].removeprefix("timm/"))


def test_list_says_when_nothing_fits(rdfia):
    outcome = rdfia("list", "models", "timm/zzz*")
    assert outcome.code == 2
    assert "timm/zzz*" in outcome.err
