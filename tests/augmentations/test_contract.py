"""What every augmentation promises, whatever it does."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdfia_cli import signature
from rdfia_cli.errors import ComponentError
from rdfia_cli.spec import Augmentation, Batch, InputSpec

BUILDERS = {entry.name: entry for entry in entry_points(group="rdfia.augmentations")}
OWN = {name: entry for name, entry in BUILDERS.items() if entry.value.startswith("rdfia_cli.")}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("color_jitter", {}),
    ("color_jitter", {"hue": 0.0}),
    ("cutmix", {}),
    ("horizontal_flip", {}),
    ("mixup", {}),
    ("pad", {"size": 14, "fill": 0.5}),
    ("rand_augment", {}),
    ("rand_augment", {"interpolation": "bilinear", "fill": 0.3, "num_ops": 3}),
    ("random_affine", {}),
    ("random_affine", {"interpolation": "bilinear", "fill": 0.5, "shear": 20.0}),
    ("random_crop", {"size": 4, "padding": 1}),
    ("random_crop", {"size": 5, "padding": 2, "padding_mode": "edge"}),
    ("random_crop", {"size": 5, "padding": 2, "padding_mode": "reflect"}),
    ("random_crop", {"size": 5, "padding": 2, "padding_mode": "symmetric"}),
    ("random_erasing", {"probability": 1.0}),
    ("random_erasing", {"value": "random"}),
    ("random_resized_crop", {"size": 6}),
    ("random_rotation", {"degrees": 90.0}),
    ("resize", {"size": 6}),
    ("vertical_flip", {}),
]
MIXING = ("cutmix", "mixup")
FIXED = ("pad", "resize")
"""They draw nothing."""
each = pytest.mark.parametrize(
    ("name", "chosen"), SETTINGS, ids=[f"{name}-{chosen}" for name, chosen in SETTINGS]
)


def build(name: str, shape: tuple[int, ...], chosen: dict[str, Any]) -> Augmentation:
    return OWN[name].load()(InputSpec(shape, 10), **chosen)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Batch:
    generator = seeded(seed)
    labels = torch.randint(10, (shape[0],), generator=generator)
    return Batch(torch.rand(shape, generator=generator), labels)


def test_every_augmentation_of_the_tool_is_tried_here():
    assert {name for name, _ in SETTINGS} == set(OWN)


@each
def test_the_batch_given_is_left_as_it_was(name: str, chosen: dict[str, Any]):
    batch, untouched = noise(8, 3, 9, 7), noise(8, 3, 9, 7)
    out = build(name, (3, 9, 7), chosen)(batch, seeded())
    out.inputs.zero_()
    if out.labels is not batch.labels:
        out.labels.zero_()
    assert torch.equal(batch.inputs, untouched.inputs)
    assert torch.equal(batch.labels, untouched.labels)


@each
def test_equal_seeds_give_equal_bits_and_others_do_not(name: str, chosen: dict[str, Any]):
    augmentation, batch = build(name, (3, 9, 7), chosen), noise(32, 3, 9, 7)
    first = augmentation(batch, seeded(5))
    again = augmentation(batch, seeded(5))
    assert torch.equal(again.inputs, first.inputs)
    assert torch.equal(again.labels, first.labels)
    other = augmentation(batch, seeded(6))
    assert torch.equal(other.inputs, first.inputs) == (name in FIXED)


@each
def test_draws_come_from_the_generator_given_alone(name: str, chosen: dict[str, Any]):
    before = torch.get_rng_state()
    build(name, (3, 9, 7), chosen)(noise(8, 3, 9, 7), seeded())
    assert torch.equal(torch.get_rng_state(), before)


@each
def test_the_images_decide_nothing_about_the_draws(name: str, chosen: dict[str, Any]):
    augmentation = build(name, (3, 9, 7), chosen)
    states = []
    for seed in (1, 2):
        generator = seeded()
        augmentation(noise(16, 3, 9, 7, seed=seed), generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [(name, chosen) for name, chosen in SETTINGS if name not in (*MIXING, *FIXED)],
)
def test_equal_samples_in_one_batch_become_unlike(name: str, chosen: dict[str, Any]):
    image = noise(1, 3, 9, 7).inputs
    batch = Batch(image.expand(64, -1, -1, -1), torch.zeros(64, dtype=torch.long))
    found = build(name, (3, 9, 7), chosen)(batch, seeded()).inputs
    assert len(found.flatten(1).unique(dim=0)) > 1


@each
def test_the_layout_in_memory_is_kept_and_decides_nothing(name: str, chosen: dict[str, Any]):
    augmentation, batch = build(name, (3, 9, 7), chosen), noise(8, 3, 9, 7)
    planes = augmentation(batch, seeded()).inputs
    channels_last = batch.inputs.contiguous(memory_format=torch.channels_last)
    found = augmentation(Batch(channels_last, batch.labels), seeded()).inputs
    torch.testing.assert_close(found, planes, rtol=0, atol=1e-6)
    assert planes.is_contiguous()
    assert found.is_contiguous(memory_format=torch.channels_last)


@each
def test_a_view_is_as_good_as_its_copy(name: str, chosen: dict[str, Any]):
    augmentation = build(name, (3, 9, 7), chosen)
    inside = noise(8, 3, 13, 12).inputs[:, :, 2:-2, 1:-4]
    labels = noise(8, 3, 9, 7).labels
    expected = augmentation(Batch(inside.contiguous(), labels), seeded()).inputs
    found = augmentation(Batch(inside, labels), seeded()).inputs
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@each
@settings(max_examples=12, deadline=None)
@given(
    count=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    height=st.integers(3, 12),
    width=st.integers(3, 12),
    seed=st.integers(0, 2**32),
)
def test_any_images_become_images_of_the_shape_promised(
    name: str, chosen: dict[str, Any], count: int, channels: int, height: int, width: int, seed: int
):
    augmentation = build(name, (channels, height, width), chosen)
    batch = noise(count, channels, height, width, seed=seed)
    for flow in (augmentation, augmentation.evaluation):
        if flow is None:
            continue
        found = flow(batch, seeded(seed))
        assert found.inputs.shape == (count, *augmentation.output.shape)
        assert found.inputs.dtype == torch.float32
        assert -1e-6 <= found.inputs.min() <= found.inputs.max() <= 1 + 1e-6
        assert len(found.labels) == count
        assert flow.output == augmentation.output
        assert flow.output.classes == 10


@each
def test_the_counterpart_at_test_time_draws_nothing(name: str, chosen: dict[str, Any]):
    evaluation = build(name, (3, 9, 7), chosen).evaluation
    if evaluation is None:
        return
    generator = seeded()
    before = generator.get_state()
    batch = noise(4, 3, 9, 7)
    assert torch.equal(evaluation(batch, generator).labels, batch.labels)
    assert torch.equal(generator.get_state(), before)
    assert evaluation.evaluation is None


@each
def test_mixed_labels_pass_through_or_stay_probabilities(name: str, chosen: dict[str, Any]):
    mixed = torch.rand(8, 10, generator=seeded()).softmax(1)
    batch = Batch(noise(8, 3, 9, 7).inputs, mixed)
    found = build(name, (3, 9, 7), chosen)(batch, seeded()).labels
    assert found.shape == (8, 10)
    torch.testing.assert_close(found.sum(1), torch.ones(8))
    assert torch.equal(found, mixed) == (name not in MIXING)


@pytest.mark.parametrize("name", sorted(set(OWN) - {"mixup"}))
def test_points_are_refused(name: str):
    with pytest.raises(ComponentError, match=f"{name} needs images"):
        build(name, (2,), {})


@pytest.mark.parametrize("name", sorted(OWN))
def test_hyper_parameters_are_read_from_the_source_as_from_the_function(name: str):
    module, _, attribute = OWN[name].value.partition(":")
    assert attribute == name
    found = signature.of_source(module, attribute)
    assert found is not None
    assert found == signature.of_function(OWN[name].load())
    assert found.description
    for parameter in found.parameters.values():
        assert parameter.usual == parameter.default
