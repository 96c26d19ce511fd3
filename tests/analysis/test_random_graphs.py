"""Random small networks, held against NaN in each single pixel of the real model."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rdfia_cli.analysis.intervals import NOTHING, separate
from rdfia_cli.analysis.receptive_field import run_pass
from rdfia_cli.analysis.verification import verify

pytestmark = pytest.mark.usefixtures("one_thread")

CHANNELS = 4
ONE_TO_3, NONE_TO_2 = st.integers(1, 3), st.integers(0, 2)
PAIR, GROUPS = st.tuples(ONE_TO_3, ONE_TO_3), st.sampled_from([1, 2, 4])
AXIS = st.sampled_from([2, 3])


class Step(nn.Module):
    """A function of images (1, 4, H, W), with a convolution that it may use."""

    def __init__(self, function, layer: nn.Module, name: str = "") -> None:
        super().__init__()
        self.function, self.layer, self.name = function, layer, name

    def extra_repr(self) -> str:
        return self.name

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.layer)


def layered(layer: nn.Module) -> Step:
    return Step(lambda x, layer: layer(x), layer)


def plain(function, name: str) -> Step:
    return Step(lambda x, layer: function(x), nn.Identity(), name)


@st.composite
def convolutions(draw):
    return layered(
        nn.Conv2d(
            CHANNELS, CHANNELS, draw(PAIR), draw(PAIR), draw(st.tuples(NONE_TO_2, NONE_TO_2)),
            draw(PAIR), draw(GROUPS), padding_mode=draw(st.sampled_from(["zeros", "replicate"])),
        )
    )  # fmt: skip


@st.composite
def transposed(draw):
    stride = draw(st.integers(1, 3))
    return layered(
        nn.ConvTranspose2d(
            CHANNELS, CHANNELS, draw(PAIR), stride, draw(NONE_TO_2),
            draw(st.integers(0, stride - 1)), draw(GROUPS), dilation=draw(st.integers(1, 2)),
        )
    )  # fmt: skip


@st.composite
def pools(draw):
    kind = draw(st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]))
    kernel = draw(st.integers(2, 4))
    padding = draw(st.integers(0, kernel // 2))
    return layered(kind(kernel, draw(ONE_TO_3), padding, ceil_mode=draw(st.booleans())))


@st.composite
def resamplings(draw):
    kind = draw(st.sampled_from(["nearest", "nearest-exact", "bilinear", "bicubic", "adaptive"]))
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    if kind == "adaptive":
        return layered(draw(st.sampled_from([nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d]))(size))
    options = {"antialias": draw(st.booleans())} if kind.startswith("bi") else {}
    options |= {"align_corners": draw(st.booleans())} if kind.startswith("bi") else {}
    if options.get("antialias") and size[1] == 1:
        # This one has no exact rule: of a width of 1 torch computes something else.
        size = (size[0], 2)
    options |= {"size": size, "mode": kind}
    return plain(partial(F.interpolate, **options), str(options))


@st.composite
def moves(draw):
    axis, shift = draw(AXIS), draw(st.integers(-3, 3))
    widths = draw(st.lists(st.integers(-1, 3), min_size=4, max_size=4))
    step = draw(st.integers(1, 2))
    mode = draw(st.sampled_from(["reflect", "replicate", "circular"]))
    known = {
        "roll": lambda x: x.roll(shift, axis),
        "channels apart": lambda x: torch.cat([x[:, :2].roll(shift, axis), x[:, 2:].flip(axis)], 1),
        "pad": lambda x: F.pad(x, widths),
        "pad by copies": lambda x: F.pad(x, [abs(width) for width in widths], mode=mode),
        "transpose": lambda x: x.transpose(2, 3),
        "mirror": lambda x: torch.cat([x, x.flip(axis)[:, :, 1:]], 2),
        "slice": lambda x: x[:, :, shift % 2 :: step, : max(x.shape[3] - 1, 1)],
        "unfold": lambda x: x.unfold(axis, min(2, x.shape[axis]), step).amax(-1),
        "shuffle": lambda x: F.pixel_shuffle(torch.cat([x] * 4, 1), 2),
        "repeat": lambda x: x.repeat_interleave(2, axis),
        "reshape": lambda x: x.reshape(1, 4, x.shape[3], x.shape[2]),
    }
    name = draw(st.sampled_from(list(known)))
    return plain(known[name], f"{name} {axis} {shift} {step} {widths} {mode}")


def overwritten(x: Tensor, axis: int) -> Tensor:
    x = x * 1
    x.narrow(axis, 0, 1).zero_()
    x[:, 1:3].add_(x.mean(axis, keepdim=True)[:, :2])
    return x


def windows(x: Tensor, axis: int) -> Tensor:
    """Attention over the tokens of each window of rows or columns."""
    tokens = x.unflatten(axis, (-1, 2 if x.shape[axis] % 2 == 0 else 1)).movedim(axis + 1, 3)
    return F.scaled_dot_product_attention(*[tokens.flatten(3)] * 3).reshape(x.shape)


@st.composite
def mixtures(draw):
    axis, step = draw(AXIS), draw(st.integers(1, 2))
    known = {
        "softmax": lambda x, c: x.softmax(axis),
        "sum so far": lambda x, c: x.cumsum(axis),
        "gate": lambda x, c: x * x.mean(axis, keepdim=True).sigmoid(),
        "norm of groups": lambda x, c: F.group_norm(x, 2) if x.shape[2] > 1 else x,
        "norm of rows": lambda x, c: F.layer_norm(x, x.shape[-1:]),
        "attention": lambda x, c: F.scaled_dot_product_attention(x, x, x, is_causal=step == 1),
        "windows": lambda x, c: windows(x, axis),
        "overwritten": lambda x, c: overwritten(x, axis),
        "residual": lambda x, c: x + c(x),
        "branches": lambda x, c: torch.cat([x[:, :2], c(x)[:, 1:3]], 1),
        "tokens": lambda x, c: x.flatten(2).mT.softmax(1).mT.reshape(x.shape),
        "product": lambda x, c: x @ x.transpose(2, 3),
        "larger": lambda x, c: torch.max(c(x).roll(1, axis), torch.zeros_like(x)),
        "fold": lambda x, c: F.fold(F.unfold(x, 2, stride=step), x.shape[2:], 2, stride=step),
        "einsum": lambda x, c: torch.einsum("bchw,bchv->bcwv", x, c(x)),
    }
    name = draw(st.sampled_from(list(known)))
    layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
    return Step(known[name], layer, f"{name} {axis} {step}")


STEPS = st.one_of(convolutions(), transposed(), pools(), resamplings(), moves(), mixtures())


def usable(steps: list[Step], image: Tensor) -> nn.Sequential:
    """The steps that can follow one another and keep the image small."""
    kept: list[Step] = []
    for step in steps:
        try:
            found = step(image)
        except (RuntimeError, ValueError):
            continue
        if found.numel() and max(found.shape) <= 24:
            image = found
            kept.append(step)
    return nn.Sequential(*kept).eval()


def poisoned_pixel_by_pixel(model: nn.Module, image: Tensor) -> list[np.ndarray]:
    """(2, *shape) lowest and negated highest row, then column, of all pixels that matter."""
    bounds = [np.full((2, *model(image).shape), NOTHING, dtype=np.int64) for _ in range(2)]
    for y in range(image.shape[2]):
        for x in range(image.shape[3]):
            spoilt = image.clone()
            spoilt[:, :, y, x] = torch.nan
            reached = model(spoilt).isnan().numpy()
            for found, index in zip(bounds, (y, x), strict=True):
                for end, place in enumerate((index, -index)):
                    found[end] = np.where(reached, np.minimum(found[end], place), found[end])
    return bounds


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, min_size=1, max_size=6), seed=st.integers(0, 99))
@torch.no_grad()
def test_a_random_network_sees_what_nan_reaches(steps: list[Step], seed: int):
    generator = torch.Generator().manual_seed(seed)
    height, width = torch.randint(3, 10, (2,), generator=generator).tolist()
    image = torch.rand(1, CHANNELS, height, width, generator=generator)
    model = usable(steps, image)
    shadow = copy.deepcopy(model).to("meta")
    for verdict in verify(shadow, model, tuple(image.shape[1:])):
        assert (verdict.smaller, verdict.larger) == (0, 0), verdict


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.one_of(convolutions(), transposed(), pools(), moves()), max_size=4))
@torch.no_grad()
def test_a_random_network_sees_every_single_pixel_that_nan_reaches(steps: list[Step]):
    image = torch.rand(1, CHANNELS, 6, 5)
    model = usable(steps, image)
    outputs = run_pass(copy.deepcopy(model).to("meta"), (CHANNELS, 6, 5), separate).outputs
    if outputs:
        field = next(output.kept for output in outputs if output.name == "")
        for bounds, seen in zip(
            (field.rows, field.columns), poisoned_pixel_by_pixel(model, image), strict=True
        ):
            np.testing.assert_array_equal(np.broadcast_to(bounds, seen.shape), seen)


def test_deterministic_kernels_asked_for_by_a_run_change_no_field():
    step = plain(partial(F.interpolate, size=(1, 1), mode="bilinear"), "bilinear")
    image = torch.rand(1, CHANNELS, 6, 5)
    model = usable([step], image)
    torch._C._set_deterministic_algorithms(True)
    try:
        found = verify(copy.deepcopy(model).to("meta"), model, tuple(image.shape[1:]))
    finally:
        torch._C._set_deterministic_algorithms(False)
    assert found
    assert all((verdict.smaller, verdict.larger) == (0, 0) for verdict in found)
