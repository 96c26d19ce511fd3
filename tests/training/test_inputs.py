"""The way of the examples to the model: split, scaled, augmented, normalised, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import CenterCrop

from rdfia_cli import config
from rdfia_cli.augmentations.geometry import horizontal_flip, random_crop
from rdfia_cli.commands.progress import watch
from rdfia_cli.errors import UsageError
from rdfia_cli.sources import Sources
from rdfia_cli.spec import Batch, InputSpec, Split, Splits
from rdfia_cli.training import assembly, inputs
from rdfia_cli.training.inputs import (
    Pipeline,
    Statistics,
    fit_statistics,
    scale,
    split_validation,
)

CPU = torch.device("cpu")
checks = settings(max_examples=60, deadline=None)

# The product of a share and a count is rounded before it is rounded.
HALF = Fraction(1, 2) + Fraction(1, 10**12)


# The validation split


def numbered(labels: Sequence[int], classes: int) -> Splits:
    """Train examples that are their own numbers, and a test split that is no part of them."""
    train = Split(torch.arange(len(labels))[:, None].float(), torch.tensor(labels))
    test = Split(torch.tensor([[-1.0], [-2.0]]), torch.tensor([0, 0]))
    return Splits(train, test, tuple(str(label) for label in range(classes)))


def numbers(split: Split | None) -> list[int]:
    return [] if split is None else inputs_of(split).flatten().int().tolist()


def inputs_of(split: Split) -> torch.Tensor:
    return split.take(torch.arange(len(split)))


@st.composite
def labelled(draw: st.DrawFn) -> Splits:
    classes = draw(st.integers(1, 5))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=80))
    return numbered(labels, classes)


@checks
@given(labelled(), st.floats(0.01, 0.99), st.integers(0, 2**63 - 1))
def test_validation_takes_the_same_share_of_each_class_and_never_all_of_one(splits, share, seed):
    total = Counter(splits.train.labels.tolist())
    try:
        found = split_validation(splits, share, seed)
    except UsageError:
        assert all(n == 1 or Fraction(share) * n <= HALF for n in total.values())
        return
    taken = Counter(found.validation.labels.tolist())
    for label, count in total.items():
        nearest = abs(taken[label] - Fraction(share) * count) <= HALF
        assert nearest or taken[label] == count - 1
        assert taken[label] < count


@checks
@given(labelled(), st.floats(0.3, 0.9), st.integers(0, 2**63 - 1))
def test_train_and_validation_are_disjoint_and_together_the_old_train(splits, share, seed):
    assume(splits.train.labels.bincount().max() > 1)
    found = split_validation(splits, share, seed)
    train, validation = numbers(found.train), numbers(found.validation)
    assert sorted(train + validation) == numbers(splits.train)
    assert (train, validation) == (sorted(train), sorted(validation))
    for split in (found.train, found.validation):
        assert torch.equal(split.labels, splits.train.labels[inputs_of(split).flatten().long()])
    assert found.test is splits.test
    assert found.classes == splits.classes


def test_a_tenth_of_ten_classes_of_a_hundred_is_ten_of_each():
    found = split_validation(numbered([n % 10 for n in range(1000)], 10), 0.1, 0)
    assert torch.bincount(found.validation.labels).tolist() == [10] * 10
    assert torch.bincount(found.train.labels).tolist() == [90] * 10


def test_a_thousand_classes_are_split_as_ten_are():
    splits = numbered([n % 1000 for n in range(20_000)], 1000)
    found = split_validation(splits, 0.1, 0)
    assert torch.bincount(found.validation.labels).tolist() == [2] * 1000


def test_the_seed_alone_chooses_the_validation_split():
    splits = numbered([n % 3 for n in range(300)], 3)
    torch.manual_seed(1)
    first = numbers(split_validation(splits, 0.2, 5).validation)
    torch.manual_seed(2)
    assert numbers(split_validation(splits, 0.2, 5).validation) == first
    assert numbers(split_validation(splits, 0.2, 6).validation) != first


def test_every_example_is_chosen_equally_often_over_the_seeds():
    splits = numbered([0] * 10, 1)
    validations = [split_validation(splits, 0.3, seed).validation for seed in range(500)]
    chosen = Counter(number for split in validations for number in numbers(split))
    # Binomial of 500 draws at 0.3: 150 on average, with a standard deviation of 10.2.
    assert all(100 < chosen[n] < 200 for n in range(10))


def test_a_share_of_zero_leaves_train_whole():
    splits = numbered([0, 1, 0, 1], 2)
    assert split_validation(splits, 0.0, 0) is splits


def test_a_validation_split_of_the_datasets_own_stays():
    own = replace(numbered([0, 1] * 50, 2), validation=Split(torch.ones(1, 1), torch.zeros(1)))
    assert split_validation(own, 0.5, 0) is own


def test_a_share_that_takes_nothing_is_refused_with_the_way_out():
    with pytest.raises(UsageError, match=r"validation = 0\.1 of 4 training examples") as caught:
        split_validation(numbered([0, 1, 0, 1], 2), 0.1, 0)
    assert "--validation" in caught.value.remedy


# Scaling and statistics


def test_pixels_are_scaled_from_0_to_1_exactly():
    pixels = torch.arange(256).to(torch.uint8)
    expected = np.arange(256, dtype=np.float32) / np.float32(255)
    assert np.array_equal(scale(pixels).numpy(), expected)
    assert torch.equal(pixels, torch.arange(256).to(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_other_inputs_become_float32_as_they_are(dtype: torch.dtype):
    values = torch.tensor([-3, 0, 200], dtype=dtype)
    assert scale(values).tolist() == [-3.0, 0.0, 200.0]
    assert scale(values).dtype == torch.float32


def examples(kind: str, count: int = 50, seed: int = 0) -> Split:
    """Random pixels, images or points, each channel or feature with a distribution of its own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    if kind == "points":
        spread = torch.tensor([1.0, 30.0])
        return Split(torch.randn(count, 2, generator=generator) * spread + 5, labels)
    images = torch.rand(count, 3, 5, 4, generator=generator)
    images *= torch.tensor([1.0, 0.5, 0.1])[:, None, None]
    return Split((images * 255).to(torch.uint8) if kind == "pixels" else images, labels)


def by_numpy(split: Split) -> tuple[np.ndarray, np.ndarray]:
    values = inputs_of(split).numpy().astype(np.float64)
    values = values / 255 if split.inputs.dtype == torch.uint8 else values
    axes = (0, 2, 3) if values.ndim == 4 else 0
    return values.mean(axes), values.std(axes)


kinds = pytest.mark.parametrize("kind", ["pixels", "images", "points"])


@kinds
@pytest.mark.parametrize("values", [1, 420, 2**22])
def test_statistics_are_numpys_however_the_examples_are_chunked(
    monkeypatch: pytest.MonkeyPatch, kind: str, values: int
):
    monkeypatch.setattr(inputs, "STATISTICS_VALUES", values)
    train = examples(kind)
    found = fit_statistics("train", pipeline(train))
    for ours, theirs in zip((found.mean, found.std), by_numpy(train), strict=True):
        assert ours.dtype == torch.float32
        assert ours.flatten().tolist() == pytest.approx(theirs.tolist(), rel=1e-6)


@kinds
def test_statistics_read_a_file_once_ahead_and_a_bounded_part_at_a_time(
    monkeypatch: pytest.MonkeyPatch, kind: str
):
    expected: list[list[int]] = []
    rows = torch.randperm(50)[:40]
    train = examples(kind)
    train = replace(train.select(rows), prefetch=lambda found: expected.append(found.tolist()))
    each = train.inputs[0].numel()
    monkeypatch.setattr(inputs, "STATISTICS_VALUES", 7 * each + 1)
    fit_statistics("train", pipeline(train))
    assert [len(part) for part in expected] == [7, 7, 7, 7, 5]
    assert [row for part in expected for row in part] == rows[7:].tolist()


def test_pixels_far_apart_have_exact_statistics_in_one_reading():
    pixels = torch.tensor([0, 255] * 2**19, dtype=torch.uint8).view(-1, 1, 32, 32)
    found = fit_statistics("train", pipeline(Split(pixels, torch.zeros(len(pixels)))))
    assert (found.mean.item(), found.std.item()) == (0.5, 0.5)


@kinds
def test_the_train_split_normalised_has_mean_0_and_deviation_1(kind: str):
    train = examples(kind)
    found = fit_statistics("train", pipeline(train)).apply(scale(train.inputs)).numpy()
    axes = (0, 2, 3) if found.ndim == 4 else 0
    assert found.mean(axes) == pytest.approx(0, abs=1e-5)
    assert found.std(axes) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 77 / 255, 1.0, -1234.567], ids=str)
@pytest.mark.parametrize("shape", [(1000, 2), (100, 2, 3, 5)], ids=["points", "images"])
def test_a_constant_channel_is_centred_and_not_blown_up(value: float, shape: tuple[int, ...]):
    train = torch.rand(shape)
    train[:, 0] = value
    found = fit_statistics("train", pipeline(Split(train, torch.zeros(shape[0]))))
    assert found.std.flatten()[0] == 1
    assert found.apply(train)[:, 0].abs().max() < 1e-3
    assert found.apply(train + 0.5)[:, 0].mean().item() == pytest.approx(0.5, abs=1e-3)


def test_without_normalisation_the_inputs_stay():
    none = fit_statistics("none", pipeline(examples("points")))
    values = torch.randn(3, 2)
    assert torch.equal(none.apply(values), values)
    assert none.tensors() == {}


@pytest.mark.parametrize("kind", ["train", "none"])
def test_statistics_come_back_from_the_tensors_that_are_saved(kind: str):
    fitted = fit_statistics(kind, pipeline(examples("images")))
    loaded = Statistics(**fitted.to(CPU).tensors())
    values = torch.rand(2, 3, 5, 4)
    assert torch.equal(loaded.apply(values), fitted.apply(values))


@pytest.fixture(scope="module")
def digits_run() -> assembly.Assembly:
    resolved = config.resolve(Sources({"data": "digits", "model": "mlp", "device": "cpu"}))
    return watch(assembly.load_and_assemble(resolved.config), lambda event: None)


def test_a_run_fits_its_statistics_on_train_without_validation(digits_run: assembly.Assembly):
    state, _ = assembly.prepare(digits_run)
    mean, std = by_numpy(digits_run.splits.train)
    assert state.statistics.mean.flatten().tolist() == pytest.approx(mean.tolist(), rel=1e-6)
    assert state.statistics.std.flatten().tolist() == pytest.approx(std.tolist(), rel=1e-6)


def test_other_test_and_validation_images_change_no_statistics(digits_run: assembly.Assembly):
    splits = digits_run.splits
    others = replace(
        splits,
        test=Split(splits.test.inputs * 9 + 5, splits.test.labels),
        validation=Split(-splits.validation.inputs, splits.validation.labels),
    )
    expected = assembly.prepare(digits_run)[0].statistics.tensors()
    found = assembly.prepare(replace(digits_run, splits=others))[0].statistics.tensors()
    assert {name: t.tolist() for name, t in found.items()} == {
        name: t.tolist() for name, t in expected.items()
    }


# The pipeline


@dataclass
class Spy:
    """An augmentation that notes what it is given and adds a draw to each sample."""

    output: InputSpec
    evaluation: None = None
    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        self.seen.append(batch.inputs)
        draws = torch.rand(len(batch.inputs), generator=generator)
        return Batch(batch.inputs + draws[:, None, None, None], batch.labels)


def pipeline(split: Split, *augmentations, statistics=None, seed=0, layout=None) -> Pipeline:
    return Pipeline(
        split,
        augmentations,
        statistics or Statistics(),
        CPU,
        layout or torch.contiguous_format,
        seed,
    )


def shifts(found: Pipeline, epoch: int = 0, step: int = 0) -> list[float]:
    """What a spy added to each of ten samples."""
    taken = torch.arange(10)
    shift = found.batch(taken, epoch, step).inputs - scale(found.split.inputs[taken])
    return shift[:, 0, 0, 0].tolist()


def spied(seed: int = 0) -> Pipeline:
    return pipeline(examples("images"), Spy(InputSpec((3, 5, 4), 3)), seed=seed)


def test_a_batch_is_the_examples_asked_for_scaled_and_normalised():
    split = examples("pixels")
    statistics = fit_statistics("train", pipeline(split))
    indices = torch.tensor([4, 0, 33, 4])
    batch = pipeline(split, statistics=statistics).batch(indices, 0, 0)
    mean, std = (array[:, None, None] for array in by_numpy(split))
    expected = (split.inputs[indices].numpy() / 255 - mean) / std
    assert batch.inputs.numpy() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(batch.labels, split.labels[indices])


def test_augmentations_see_pixels_from_0_to_1_before_normalisation():
    split = examples("pixels")
    spy = Spy(InputSpec((3, 5, 4), 3))
    pipeline(split, spy, statistics=fit_statistics("train", pipeline(split))).batch(
        torch.arange(50), 0, 0
    )
    assert torch.equal(spy.seen[0], scale(split.inputs))


def test_augmentations_act_in_the_order_given():
    split = examples("images")
    crop = random_crop(InputSpec((3, 5, 4), 3), size=3)
    second = Spy(crop.output)
    pipeline(split, crop, second).batch(torch.arange(4), 0, 0)
    assert second.seen[0].shape == (4, 3, 3, 3)


def test_draws_are_a_function_of_seed_epoch_and_step_alone():
    expected = shifts(spied(), epoch=2, step=3)
    torch.manual_seed(99)
    other = spied()
    for earlier in range(3):
        shifts(other, epoch=0, step=earlier)
    list(other.evaluation_batches())
    assert shifts(other, epoch=2, step=3) == expected


def test_each_seed_epoch_and_step_has_draws_of_its_own():
    drawn = [
        tuple(shifts(spied(seed), epoch, step))
        for seed in (0, 1)
        for epoch in (0, 1, 2)
        for step in (0, 1, 2)
    ]
    assert len(set(drawn)) == 18


def test_two_augmentations_of_one_kind_have_draws_of_their_own():
    spec = InputSpec((3, 5, 4), 3)
    first, second = Spy(spec), Spy(spec)
    result = pipeline(examples("images"), first, second).batch(torch.arange(10), 0, 0).inputs
    assert not torch.allclose(second.seen[0] - first.seen[0], result - second.seen[0], atol=1e-3)


def test_batches_leave_the_split_as_it_was():
    split = examples("images")
    kept = split.inputs.clone()
    flow = pipeline(split, horizontal_flip(InputSpec((3, 5, 4), 3)))
    flow.batch(torch.arange(50), 0, 0).inputs.zero_()
    for batch in flow.evaluation_batches():
        batch.inputs.zero_()
    assert torch.equal(split.inputs, kept)


@pytest.mark.parametrize("size", [1, 7, 50, 1024])
def test_evaluation_visits_the_whole_split_in_order(monkeypatch: pytest.MonkeyPatch, size: int):
    monkeypatch.setattr(inputs, "EVALUATION_BATCH", size)
    split = examples("images")
    batches = list(pipeline(split).evaluation_batches())
    assert max(len(batch.labels) for batch in batches) == min(size, 50)
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), split.inputs)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), split.labels)


def test_evaluation_cuts_the_centre_draws_nothing_and_is_the_same_each_time():
    split = examples("pixels")
    spec = InputSpec((3, 5, 4), 3)
    chain = (random_crop(spec, size=2), horizontal_flip(InputSpec((3, 2, 2), 3), probability=1.0))
    flow = pipeline(split, *chain, statistics=fit_statistics("train", pipeline(split)))
    (first,), (second,) = (list(flow.evaluation_batches()) for _ in range(2))
    expected = CenterCrop(2)(flow.statistics.apply(scale(split.inputs)))
    assert torch.equal(first.inputs, expected)
    assert torch.equal(second.inputs, expected)


def test_the_seed_of_a_run_changes_no_evaluation():
    split = examples("images")
    crop = random_crop(InputSpec((3, 5, 4), 3), size=3)
    (one,), (other,) = (
        list(pipeline(split, crop, seed=seed).evaluation_batches()) for seed in (0, 1)
    )
    assert torch.equal(one.inputs, other.inputs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_batches_lie_in_memory_as_the_run_wants(layout: torch.memory_format):
    crop = random_crop(InputSpec((3, 5, 4), 3), size=3)
    flow = pipeline(examples("images"), crop, layout=layout)
    for batch in (flow.batch(torch.arange(9), 0, 0), *flow.evaluation_batches()):
        assert batch.inputs.is_contiguous(memory_format=layout)


def test_points_flow_through_as_images_do():
    split = examples("points")
    statistics = fit_statistics("train", pipeline(split))
    flow = pipeline(split, statistics=statistics, layout=torch.channels_last)
    (evaluated,) = flow.evaluation_batches()
    assert torch.equal(evaluated.inputs, statistics.apply(split.inputs))
    assert torch.equal(flow.batch(torch.arange(50), 0, 0).inputs, evaluated.inputs)


def test_the_model_is_fed_what_the_last_augmentation_produces():
    spec = InputSpec((3, 32, 32), 10)
    assert inputs.output_of([], spec) == spec
    chain = [random_crop(spec, size=30), random_crop(InputSpec((3, 30, 30), 10), size=24)]
    assert inputs.output_of(chain, spec) == InputSpec((3, 24, 24), 10)


def test_a_split_stays_where_it_is_on_the_cpu():
    split = examples("points")
    assert inputs.settle(split, CPU) is split


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_copy_is_made_in_parts_and_lies_in_memory_as_the_original(
    monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format
):
    split = examples("pixels")
    split = replace(split, inputs=split.inputs.contiguous(memory_format=layout))
    split = split.select(torch.randperm(50)[:31])
    whole = split.take(torch.arange(31))
    taken: list[int] = []
    real = Split.take
    monkeypatch.setattr(Split, "take", lambda s, e: taken.append(len(e)) or real(s, e))
    monkeypatch.setattr(inputs, "EVALUATION_VALUES", 8 * 60)
    copy = inputs.copy_inputs(split, CPU)
    assert taken == [8, 8, 8, 7]
    assert torch.equal(copy, whole)
    assert copy.stride() == whole.stride()
