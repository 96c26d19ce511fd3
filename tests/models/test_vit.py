"""The Vision Transformer: the report's to the parameter, and timm's to the last digits."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from torch import Tensor, nn

from rdfia_cli.errors import ComponentError, UsageError
from rdfia_cli.models import attention
from rdfia_cli.models.vit import Block, load_timm_weights, resample_positions, sinusoids, vit
from rdfia_cli.spec import InputSpec, ShowsAttention

MNIST = InputSpec((1, 28, 28), 10)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def small(**chosen: Any) -> nn.Module:
    torch.manual_seed(0)
    return vit(MNIST, **{"dim": 16, "depth": 2, "heads": 2, "patch": 14, **chosen})


@pytest.mark.parametrize(
    ("position", "expected"), [("learned", 27_978), ("sinusoidal", 27_434), ("none", 27_434)]
)
def test_the_default_has_the_parameters_of_the_report(position, expected: int):
    assert parameters(vit(MNIST, position=position)) == expected


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vit_tiny_patch16_224", {"dim": 192, "heads": 3}),
        ("vit_small_patch16_224", {"dim": 384, "heads": 6}),
        ("vit_base_patch16_224", {"dim": 768, "heads": 12}),
    ],
)
def test_the_sizes_of_the_paper_have_the_parameters_that_timm_counts(name: str, settings):
    import timm

    with torch.device("meta"):
        ours = vit(InputSpec((3, 224, 224), 1000), depth=12, patch=16, **settings)
        theirs = timm.create_model(name)
    assert parameters(ours) == parameters(theirs)


@st.composite
def twins(draw: st.DrawFn) -> tuple[nn.Module, nn.Module, Tensor]:
    """A timm model with drawn weights, ours with the same, and images, all in float64."""
    channels, classes, depth, heads = (draw(st.integers(1, 4)) for _ in range(4))
    patch, rows, columns = (draw(st.integers(1, n)) for n in (5, 4, 4))
    dim = heads * draw(st.integers(1, 6))
    ratio = draw(st.sampled_from([1.0, 2.0, 4.0]))
    pooling = draw(st.sampled_from(["token", "mean"]))
    position = draw(st.sampled_from(["learned", "none"]))
    torch.manual_seed(draw(st.integers(0, 2**32)))
    theirs = TimmTransformer(
        img_size=(rows * patch, columns * patch),
        patch_size=patch,
        in_chans=channels,
        num_classes=classes,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=ratio,
        class_token=pooling == "token",
        global_pool="token" if pooling == "token" else "avg",
        pos_embed="learn" if position == "learned" else "none",
    ).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = vit(
        InputSpec((channels, rows * patch, columns * patch), classes),
        dim=dim,
        depth=depth,
        heads=heads,
        patch=patch,
        mlp_ratio=ratio,
        position=position,
        pooling=pooling,
    ).double()
    load_timm_weights(ours, theirs.state_dict())
    images = torch.randn(3, channels, rows * patch, columns * patch, dtype=torch.double)
    return theirs, ours, images


@settings(max_examples=50, deadline=None)
@given(twins())
def test_with_timm_s_weights_logits_and_gradients_are_timm_s(pair):
    theirs, ours, images = pair
    goals = torch.randn(3, theirs.num_classes, dtype=torch.double)
    logits = [model(images) for model in (theirs, ours)]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-10, atol=1e-10)
    for found in logits:
        F.mse_loss(found, goals).backward()
    # What maps timm's weights to ours only renames and reshapes: it maps the gradients too.
    expected = vit_like(ours)
    load_timm_weights(expected, {n: p.grad for n, p in theirs.named_parameters()})
    for name, parameter in ours.named_parameters():
        want = expected.get_parameter(name)
        torch.testing.assert_close(parameter.grad, want, rtol=1e-9, atol=1e-9)


def vit_like(model: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(model).requires_grad_(False)


@pytest.mark.parametrize("pooling", ["token", "mean"])
@pytest.mark.parametrize("position", ["learned", "sinusoidal", "none"])
def test_the_last_block_computes_just_what_the_head_reads(pooling, position):
    model = small(pooling=pooling, position=position).double()
    images = torch.randn(4, 1, 28, 28, dtype=torch.double)
    tokens = model.embed(images)
    for block in model.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(model(images), model.read(tokens), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_written_out_equals_the_fused_kernel(dtype):
    parts = [torch.randn(2, 3, 50, 8, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    parts = [part.to(dtype) for part in parts]
    queries, keys, values = parts
    explicit = attention.attention_probabilities(queries, keys) @ values
    fused = F.scaled_dot_product_attention(queries, keys, values)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(explicit, fused, rtol=tolerance, atol=tolerance)
    chosen = explicit if dtype == torch.bfloat16 else fused
    assert torch.equal(attention.attend(queries, keys, values), chosen)


def test_sinusoids_are_those_of_the_paper():
    found = sinusoids(5, 6)[0]
    for token in range(5):
        for channel in range(6):
            angle = torch.tensor(token / 10_000 ** (2 * (channel // 2) / 6))
            expected = angle.sin() if channel % 2 == 0 else angle.cos()
            assert found[token, channel] == pytest.approx(expected.item(), abs=1e-6)


def test_without_positions_the_order_of_the_patches_does_not_matter():
    images = torch.rand(2, 1, 28, 28)
    swapped = images.flip(2).unflatten(2, (2, 14)).flip(3).flatten(2, 3)
    assert swapped.shape == images.shape
    blank, told = small(position="none"), small(position="learned")
    nn.init.normal_(told.position_embedding)
    torch.testing.assert_close(blank(swapped), blank(images))
    assert not torch.allclose(told(swapped), told(images))


def test_each_row_of_the_attention_sums_to_1_and_explains_the_logits():
    model = small(depth=1).double()
    images = torch.randn(3, 1, 28, 28, dtype=torch.double)
    assert isinstance(model, ShowsAttention)
    found = model.attention(images)
    assert found.shape == (1, 3, 2, 5, 5)
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 3, 2, 5, dtype=torch.double))
    block = model.blocks[0]
    values = block.attention._split(block.norm1(model.embed(images)))[2]
    mixed = (found[0] @ values).transpose(1, 2).flatten(2)
    tokens = model.embed(images) + block.attention.output(mixed)
    tokens = tokens + block.mlp(block.norm2(tokens))
    torch.testing.assert_close(model.read(tokens), model(images))


def test_stochastic_depth_leaves_out_blocks_for_some_examples_in_training_only():
    torch.manual_seed(0)
    block = Block(8, 2, 4.0, 0.0, skipped=0.75)
    tokens = torch.randn(4096, 3, 8)
    untouched = (block(tokens) == tokens).all(2).all(1).double().mean().item()
    # Both branches are left out for 0.75 ** 2 of the examples; five standard deviations.
    assert abs(untouched - 0.75**2) < 5 * sqrt(0.75**2 * (1 - 0.75**2) / 4096)
    block.eval()
    assert torch.equal(block(tokens), block(tokens))
    assert not (block(tokens) == tokens).all(2).all(1).any()


def test_stochastic_depth_keeps_the_mean_of_a_branch():
    torch.manual_seed(0)
    block = Block(8, 2, 4.0, 0.0, skipped=0.5).double()
    tokens, branch = torch.zeros(40_000, 1, 8, dtype=torch.double), torch.ones(1, 1, 8).double()
    mean = block._add(tokens, branch.expand_as(tokens)).mean().item()
    assert mean == pytest.approx(1, abs=5 / sqrt(40_000))


def test_stochastic_depth_grows_with_depth():
    rates = [block.skipped for block in small(depth=5, stochastic_depth=0.2).blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize("patch", [3, 5, 16])
def test_a_patch_that_does_not_divide_is_refused_with_the_ways_out(patch: int):
    with pytest.raises(ComponentError, match=f"28x28 images into patches of {patch}x{patch}") as e:
        vit(MNIST, patch=patch)
    assert "patch=" in e.value.remedy
    assert "pad:size=" in e.value.remedy
    assert "resize:size=" in e.value.remedy


def test_the_share_of_ignored_pixels_is_said():
    with pytest.raises(ComponentError, match="ignore 67% of the pixels"):
        vit(MNIST, patch=16)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UsageError, match="5 heads do not divide dim=32") as caught:
        vit(MNIST, heads=5)
    assert "heads=4" in caught.value.remedy


def test_points_are_refused():
    with pytest.raises(ComponentError, match="vit needs images"):
        vit(InputSpec((2,), 2))


@settings(max_examples=30, deadline=None)
@given(
    patch=st.integers(1, 6),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    channels=st.integers(1, 4),
    classes=st.integers(1, 5),
)
def test_any_size_and_channels_give_logits(patch, rows, columns, channels, classes):
    fed = InputSpec((channels, rows * patch, columns * patch), classes)
    logits = vit(fed, dim=8, patch=patch)(torch.rand(2, *fed.shape))
    assert logits.shape == (2, classes)
    assert logits.isfinite().all()


def test_every_parameter_gets_a_gradient():
    model = small()
    model(torch.rand(4, 1, 28, 28)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# Weights from files.


def theirs(**chosen: Any) -> TimmTransformer:
    torch.manual_seed(1)
    usual = {"img_size": 28, "patch_size": 14, "in_chans": 1, "num_classes": 10}
    size = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    return TimmTransformer(**{**usual, **size, **chosen}).eval()


def saved(model: nn.Module, path) -> Any:
    save_file(model.state_dict(), path)
    return path


@pytest.mark.parametrize("dim", [96, 768])
def test_blocks_start_as_wide_as_pytorch_s_layers_of_that_width_and_the_rest_narrowly(dim: int):
    torch.manual_seed(0)
    model = vit(InputSpec((3, 32, 32), 10), dim=dim, depth=1, heads=4, patch=4)
    theirs = float(torch.nn.Linear(dim, 1000).weight.detach().std())
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            expected = theirs if name.startswith("blocks.") else 0.02
            assert float(weight.detach().std()) == pytest.approx(expected, rel=0.1), name


def test_a_few_epochs_teach_it_the_digits(rdfia):
    settings = ("--optimizer", "adam", "--schedule", "cosine:warmup=1", "--epochs", "5")
    outcome = rdfia("train", "vit:patch=2", *settings, "--json", "-q")
    assert outcome.json["test"]["accuracy"] > 0.85


def test_a_file_in_timm_s_naming_starts_the_model(tmp_path):
    source = theirs()
    model = small(weights=saved(source, tmp_path / "w.safetensors"))
    images = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(model(images), source(images))
    assert model.pixel_statistics.mean == (0.5,)


def test_a_file_in_our_own_naming_starts_the_model(tmp_path):
    source = small()
    nn.init.normal_(source.head.weight)
    model = small(weights=saved(source, tmp_path / "w.safetensors"))
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(model(images), source(images))


def test_another_number_of_classes_starts_a_fresh_head(tmp_path):
    source = theirs(num_classes=7)
    model = small(weights=saved(source, tmp_path / "w.safetensors"))
    assert model.head.weight.shape == (10, 16)
    torch.testing.assert_close(model.blocks[1].mlp.hidden.weight, source.blocks[1].mlp.fc1.weight)


@pytest.mark.parametrize("old", [(3, 3), (5, 5)])
@pytest.mark.parametrize("new", [(4, 4), (2, 7)])
@pytest.mark.parametrize("prefix", [0, 1])
def test_positions_are_resampled_as_timm_does(old, new, prefix: int):
    positions = torch.randn(1, prefix + old[0] * old[1], 6)
    expected = resample_abs_pos_embed(
        positions, new_size=list(new), old_size=list(old), num_prefix_tokens=prefix
    )
    torch.testing.assert_close(resample_positions(positions, new, prefix), expected)


def test_a_file_for_another_image_size_is_resampled(tmp_path):
    path = saved(theirs(img_size=56), tmp_path / "w.safetensors")
    assert small(weights=path).position_embedding.shape == (1, 5, 16)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"embed_dim": 8}, r"shape \(.*8.*\), the model needs \(.*16.*\)"),
        ({"depth": 1}, "has no 'blocks.1"),
        ({"depth": 3}, "has 'blocks.2.*which the model has not"),
        ({"patch_size": 7}, r"'patch_embedding.weight' of shape \(16, 49\)"),
        ({"mlp_ratio": 2}, "blocks.0.mlp.hidden"),
        ({"class_token": False, "global_pool": "avg"}, "has no 'class_token'"),
    ],
)
def test_weights_of_another_shape_are_refused_by_name(change: dict[str, Any], told: str):
    with pytest.raises(ComponentError, match=told):
        load_timm_weights(small(), theirs(**change).state_dict())
