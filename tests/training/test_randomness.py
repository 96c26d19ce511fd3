"""Randomness is a pure function of what it is for: no draw depends on the one before."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

from rdfia_cli.training.randomness import derive_seed, draw_order, seed_global_generators

CPU = torch.device("cpu")
seeds = st.integers(0, 2**63 - 1)
counters = st.integers(0, 10**9)
draws = st.tuples(seeds, st.text(max_size=20), counters, counters)
checks = settings(max_examples=100, deadline=None)


@checks
@given(draws)
def test_a_seed_fits_every_generator(what):
    seed = derive_seed(*what)
    assert 0 <= seed < 2**63
    assert torch.Generator().manual_seed(seed).initial_seed() == seed


@checks
@given(draws, draws)
def test_other_arguments_give_another_seed_and_equal_ones_the_same(one, other):
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)


def test_no_two_draws_of_a_long_run_share_a_seed():
    purposes = ("order", "layers", "augmentation 0", "augmentation 1")
    drawn = {derive_seed(*what) for what in product((0, 1), purposes, range(20), range(200))}
    assert len(drawn) == 2 * 4 * 20 * 200


def test_seeds_are_the_same_on_every_machine_so_that_a_run_can_go_on_there():
    # The first 63 bits of the 8-byte BLAKE2b of "7/order/3/5", by `b2sum -l 64`.
    assert derive_seed(7, "order", 3, 5) == 0xC495F2CC52741BD3 >> 1


def test_the_bits_of_consecutive_seeds_are_as_good_as_random():
    drawn = [derive_seed(0, "layers", 0, step) for step in range(4000)]
    for bit in range(63):
        ones = sum(seed >> bit & 1 for seed in drawn)
        assert abs(ones - 2000) < 5 * 1000**0.5


@checks
@given(st.integers(1, 200), seeds, counters)
def test_an_epoch_visits_every_example_once_in_the_same_order_each_time(count, seed, epoch):
    order = draw_order(count, seed, epoch)
    assert sorted(order.tolist()) == list(range(count))
    assert order.dtype == torch.int64
    assert torch.equal(draw_order(count, seed, epoch), order)


def test_each_epoch_and_each_seed_has_an_order_of_its_own():
    orders = {
        tuple(draw_order(50, seed, epoch).tolist()) for seed in range(10) for epoch in range(30)
    }
    assert len(orders) == 300


def test_every_order_is_equally_likely():
    drawn = Counter(tuple(draw_order(4, 0, epoch).tolist()) for epoch in range(4800))
    assert len(drawn) == 24
    assert chisquare(list(drawn.values())).pvalue > 1e-3


def test_drawing_an_order_neither_reads_nor_moves_the_global_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw_order(100, 0, 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(draw_order(100, 0, 0), first)


@pytest.mark.parametrize("draw", [lambda: torch.rand(9), lambda: nn.Dropout(0.5)(torch.ones(99))])
def test_layers_draw_the_same_after_the_same_seed_and_otherwise_after_another(draw):
    seed_global_generators(11, CPU)
    first = draw()
    seed_global_generators(11, CPU)
    assert torch.equal(draw(), first)
    seed_global_generators(12, CPU)
    assert not torch.equal(draw(), first)
