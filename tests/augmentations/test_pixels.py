"""The fast choice equals the plain one, and the layout in memory is that of what was given."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdfia_cli.augmentations.pixels import choose, lay_out_like

FINITE = st.floats(-(2.0**99), 2.0**99, width=32)


@settings(max_examples=200)
@given(st.booleans(), FINITE, FINITE)
def test_a_choice_is_exactly_one_or_the_other(mask: bool, chosen: float, otherwise: float):
    values = torch.tensor(chosen), torch.tensor(otherwise)
    found = choose(torch.tensor(mask), *values)
    assert torch.equal(found, torch.where(torch.tensor(mask), *values))


@pytest.mark.parametrize("shape", [(5, 1, 1, 1), (5, 1, 4, 3), (5, 3, 4, 3)])
def test_a_mask_is_broadcast_as_where_does_it(shape: tuple[int, ...]):
    generator = torch.Generator().manual_seed(0)
    chosen, otherwise = torch.randn(2, 5, 3, 4, 3, generator=generator)
    mask = torch.rand(shape, generator=generator) < 0.5
    found = choose(mask, chosen, otherwise)
    assert torch.equal(found, torch.where(mask, chosen, otherwise))


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_images_lie_in_memory_as_those_given(form: torch.memory_format):
    images, given_images = torch.rand(2, 4, 3, 5, 6)
    for before in (torch.contiguous_format, torch.channels_last):
        found = lay_out_like(
            images.contiguous(memory_format=before), given_images.contiguous(memory_format=form)
        )
        assert torch.equal(found, images)
        assert found.is_contiguous(memory_format=form)
