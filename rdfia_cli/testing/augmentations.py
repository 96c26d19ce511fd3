"""What every augmentation promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR

from rdfia_cli.errors import RdfiaError
from rdfia_cli.spec import Augmentation, Batch, InputSpec
from rdfia_cli.testing.short_run import descent, pixels, plan_for, require_exact_resume
from rdfia_cli.testing.subject import NonConformityError, NotApplicableError, Subject, require

INPUTS = (
    InputSpec((3, 32, 32), 10),
    InputSpec((1, 28, 28), 10),
    InputSpec((3, 33, 29), 7),
    InputSpec((1, 17, 23), 3),
    InputSpec((3, 64, 64), 5),
    InputSpec((2,), 3),
)
SAMPLES = 64
"""Equal samples of which not all may become alike."""


def accepted(subject: Subject) -> Iterator[tuple[InputSpec, Augmentation]]:
    """The augmentation for each of INPUTS that its builder does not refuse in words."""
    for fed in INPUTS:
        try:
            built: Any = subject.build(fed)
        except RdfiaError as error:
            if error.__cause__ is not None:
                raise
            continue
        require(
            isinstance(built, Augmentation) and nn.Module in type(built).__mro__,
            f"it returns {type(built).__name__}, not an nn.Module with `output` and `evaluation`",
        )
        yield fed, built


def usual(subject: Subject) -> tuple[InputSpec, Augmentation]:
    """The augmentation for the first of INPUTS that its builder takes.

    Raises:
        NonConformityError: it refuses all of them.
    """
    for fed, augmentation in accepted(subject):
        return fed, augmentation
    shapes = ", ".join("x".join(map(str, fed.shape)) for fed in INPUTS)
    raise NonConformityError(f"the builder takes none of {shapes}")


def seeded(seed: int = 0) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def augmented(augmentation: Augmentation, batch: Batch) -> Batch:
    """What an augmentation makes of a batch, with a generator that is the same each time.

    Raises:
        NonConformityError: it is no batch.
    """
    found: Any = augmentation(batch, seeded())
    require(isinstance(found, Batch), f"it returns {type(found).__name__}, not Batch")
    return found


def shape_and_dtype_are_as_promised(subject: Subject) -> None:
    """Batches of any size become float32 of the shape that `output` tells, at test time too."""
    usual(subject)
    for fed, augmentation in accepted(subject):
        for flow in (augmentation, augmentation.evaluation):
            for count in (1, 5):
                if flow is not None:
                    _require_promised(flow, augmentation.output, pixels(fed, count))


def _require_promised(flow: Augmentation, output: InputSpec, given: Batch) -> None:
    found, count = augmented(flow, given), len(given.labels)
    shape, expected = tuple(found.inputs.shape), (count, *output.shape)
    where = f"{count} inputs of {tuple(given.inputs.shape[1:])}"
    require(shape == expected, f"it makes {shape} of {where}; `output` says {expected}")
    require(found.inputs.dtype == torch.float32, f"it makes {found.inputs.dtype} of float32")
    require(flow.output == output, "its counterpart at test time has another `output`")
    require(len(found.labels) == count, f"it returns {len(found.labels)} labels for {where}")


def pixels_stay_in_range(subject: Subject) -> None:
    """Pixels in [0, 1] stay in [0, 1]."""
    for fed, augmentation in accepted(subject):
        found = augmented(augmentation, pixels(fed, SAMPLES)).inputs
        require(found.isfinite().all(), "it makes NaN or infinity")
        low, high = float(found.min()), float(found.max())
        require(-1e-6 <= low <= high <= 1 + 1e-6, f"it makes pixels from {low:.3g} to {high:.3g}")


def labels_stay_labels(subject: Subject) -> None:
    """Labels stay class indices or become shares that add up to 1; shares stay shares."""
    fed, augmentation = usual(subject)
    batch = pixels(fed, 8)
    shares = torch.rand(8, fed.classes, generator=seeded()).softmax(1)
    for labels in (batch.labels, shares):
        found = augmented(augmentation, Batch(batch.inputs, labels)).labels
        if found.ndim == 1:
            require(labels.ndim == 1, "it turns shares of classes into something else")
            require(found.dtype == torch.int64, f"it makes {found.dtype} of labels in int64")
        else:
            require(found.shape == (8, fed.classes), f"it makes labels of {tuple(found.shape)}")
            require(torch.allclose(found.sum(1), torch.ones(8)), "shares do not add up to 1")


def its_input_is_left_alone(subject: Subject) -> None:
    """The batch that it is given is left as it was, whoever writes into the result."""
    fed, augmentation = usual(subject)
    batch = pixels(fed, 8)
    before = Batch(batch.inputs.clone(), batch.labels.clone())
    found = augmented(augmentation, batch)
    same = torch.equal(batch.inputs, before.inputs) and torch.equal(batch.labels, before.labels)
    require(same, "it changes the batch that it is given")
    if found.inputs is not batch.inputs:
        found.inputs.zero_()
        require(
            torch.equal(batch.inputs, before.inputs),
            "what it returns shares memory with the batch that it is given",
        )


def the_generator_decides_everything(subject: Subject) -> None:
    """Equal generators give equal bits; no other generator is drawn from."""
    fed, augmentation = usual(subject)
    batch, state = pixels(fed, 16), torch.get_rng_state()
    first, again = (augmented(augmentation, batch) for _ in range(2))
    require(torch.equal(torch.get_rng_state(), state), "it draws from torch's global generator")
    require(
        torch.equal(first.inputs, again.inputs) and torch.equal(first.labels, again.labels),
        "two calls with equal generators differ: draw from the one given, and keep nothing",
    )


def each_sample_has_its_own_draw(subject: Subject) -> None:
    """Equal samples of one batch become unlike, unless it draws nothing at all."""
    fed, augmentation = usual(subject)
    if not _draws(augmentation, fed):
        raise NotApplicableError("it draws nothing")
    image = pixels(fed, 1).inputs
    shape = (SAMPLES, *(-1 for _ in fed.shape))
    batch = Batch(image.expand(*shape).contiguous(), torch.arange(SAMPLES) % fed.classes)
    found = augmented(augmentation, batch)
    results = found.inputs.flatten(1)
    if found.labels.ndim == 2:
        # Equal images mix to the same image; how much of each shows in the labels.
        results = torch.cat([results, found.labels.max(1, keepdim=True).values], 1)
    require(len(results.unique(dim=0)) > 1, f"{SAMPLES} equal samples all become alike")


def _draws(augmentation: Augmentation, fed: InputSpec) -> bool:
    generator = seeded()
    before = generator.get_state()
    augmentation(pixels(fed, 4), generator)
    return not torch.equal(generator.get_state(), before)


def test_time_draws_nothing(subject: Subject) -> None:
    """The counterpart at test time draws nothing, keeps the labels, and is its own counterpart."""
    fed, augmentation = usual(subject)
    evaluation = augmentation.evaluation
    if evaluation is None:
        raise NotApplicableError("it does nothing at test time")
    require(not _draws(evaluation, fed), "`evaluation` draws random numbers")
    batch = pixels(fed, 4)
    found = augmented(evaluation, batch)
    require(torch.equal(found.labels, batch.labels), "`evaluation` changes the labels")
    require(evaluation.evaluation in (None, evaluation), "`evaluation` has an `evaluation` besides")


def the_layout_decides_nothing(subject: Subject) -> None:
    """Images whose channels lie last in memory, and views of larger ones, give the same pixels."""
    fed, augmentation = usual(subject)
    if len(fed.shape) != 3:
        raise NotApplicableError("it takes no images")
    batch = pixels(fed, 8)
    expected = augmented(augmentation, batch).inputs
    wide = torch.zeros(8, *(size + 2 for size in fed.shape))
    view = wide[:, 1:-1, 1:-1, 1:-1]
    view.copy_(batch.inputs)
    last = batch.inputs.contiguous(memory_format=torch.channels_last)
    for name, inputs in {"channels that lie last": last, "a view": view}.items():
        found = augmented(augmentation, Batch(inputs, batch.labels)).inputs
        require(_close(found, expected), f"{name} in memory give other pixels")


def a_run_resumes_exactly(subject: Subject) -> None:
    """A run with it that is stopped and resumed ends with the same bytes as one never stopped."""
    fed, augmentation = usual(subject)
    output = augmentation.output
    values = int(torch.tensor(output.shape).prod())

    def parts() -> tuple[nn.Module, torch.optim.Optimizer, type[ConstantLR]]:
        model = nn.Sequential(nn.Flatten(), nn.Linear(values, output.classes))
        optimizer = descent(model.parameters(), 0.01, momentum=0.9)
        return model, optimizer, ConstantLR

    require_exact_resume(plan_for(fed, [augmentation]), parts)


def _close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=1e-5)


CHECKS = (
    shape_and_dtype_are_as_promised,
    pixels_stay_in_range,
    labels_stay_labels,
    its_input_is_left_alone,
    the_generator_decides_everything,
    each_sample_has_its_own_draw,
    test_time_draws_nothing,
    the_layout_decides_nothing,
    a_run_resumes_exactly,
)
