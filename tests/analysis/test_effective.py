"""The effective receptive field against its closed form in Luo et al. 2016, arXiv:1701.04128."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rdfia_cli.analysis.blank import shadow
from rdfia_cli.analysis.effective import Effective, effective_field
from rdfia_cli.analysis.layers import analyse

pytestmark = pytest.mark.usefixtures("one_thread")


def measured(model: nn.Module, shape: tuple[int, ...]) -> Effective:
    layer = analyse(shadow(model), shape).layers[0]
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    return effective_field(model.eval(), images, layer)


def uniform_convolutions(count: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolutions whose weights are all 1, and nothing between them."""
    model = nn.Sequential(*(nn.Conv2d(1, 1, kernel, stride, bias=False) for _ in range(count)))
    for weight in model.parameters():
        nn.init.ones_(weight)
    return model


def folded_boxes(count: int, kernel: int) -> np.ndarray:
    """The n-fold convolution of a box."""
    found = np.ones(1)
    for _ in range(count):
        found = np.convolve(found, np.ones(kernel))
    return found


def moments(mass: Tensor, axis: int) -> tuple[float, float]:
    """Mean and variance of a map along one of its axes."""
    line = mass.double().sum(1 - axis)
    line = line / line.sum()
    places = torch.arange(len(line), dtype=torch.float64)
    mean = (line * places).sum()
    return mean.item(), (line * (places - mean) ** 2).sum().item()


@pytest.mark.parametrize(("count", "kernel"), [(1, 3), (4, 3), (7, 3), (3, 5), (5, 2), (2, 9)])
def test_uniform_convolutions_have_the_field_of_a_box_folded_with_itself(count, kernel):
    reach = count * (kernel - 1) + 1
    found = measured(uniform_convolutions(count, kernel), (1, reach + 6, reach + 6))
    box = folded_boxes(count, kernel)
    expected = np.outer(box, box)
    rows, columns = (slice(at[0], at[0] + reach) for at in found.signed.nonzero().T)
    np.testing.assert_allclose(found.signed[rows, columns], expected, rtol=1e-6)
    np.testing.assert_allclose(found.absolute[rows, columns].sum(), 1, rtol=1e-6)
    for axis in (0, 1):
        for mass in (found.signed, found.absolute):
            _, variance = moments(mass, axis)
            assert variance == pytest.approx(count * (kernel**2 - 1) / 12, rel=1e-6)


def test_strides_widen_the_later_boxes():
    # Taps of layer i lie 2**i pixels apart, so that its variance counts 4**i times.
    found = measured(uniform_convolutions(3, 3, stride=2), (1, 47, 47))
    _, variance = moments(found.absolute, 0)
    assert variance == pytest.approx((1 + 4 + 16) * (3**2 - 1) / 12, rel=1e-6)


def test_the_box_that_holds_a_share_of_a_uniform_field_has_the_root_of_that_share_as_its_side():
    found = measured(uniform_convolutions(1, 9), (1, 15, 15))
    for spread in found.absolute_spread:
        inner = int(np.sqrt(spread.share) * 9 - 1) // 2 * 2 + 1
        assert inner <= spread.side <= inner + 2
        assert spread.error == pytest.approx(0, abs=1e-5)
