"""Orthogonality against the singular value decomposition, AdamW against torch's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from rdfia_muon.optimizers import muon, orthogonalise
from torch import nn


@pytest.mark.parametrize("shape", [(8, 8), (20, 6), (6, 20), (64, 75), (1, 9)])
def test_singular_vectors_stay_and_singular_values_come_near_1(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonalise(matrix) @ right.T
    diagonal = found.diagonal()
    torch.testing.assert_close(found, diagonal.diag(), rtol=0, atol=1e-4)
    # Values far below the largest are still on their way after five iterations.
    reached = diagonal[values > 0.02 * values[0]]
    assert ((reached > 0.3) & (reached < 1.3)).all()
    assert diagonal.mean() > 0.6


def test_scale_decides_nothing():
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalise(1000 * matrix), orthogonalise(matrix))


def test_the_hidden_matrices_alone_are_made_orthogonal():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5))
    first, second = muon(model).param_groups
    assert [id(p) for p in first["params"]] == [id(model[0].weight)]
    assert len(second["params"]) == 5
    assert (first["lr"], second["lr"]) == (0.02, 3e-3)


def test_the_rest_moves_as_with_torchs_adamw():
    ours = nn.Linear(6, 3)
    theirs = copy.deepcopy(ours)
    pair = (
        (ours, muon(ours, adam_lr=0.01, weight_decay=0.1)),
        (theirs, torch.optim.AdamW(theirs.parameters(), 0.01, (0.9, 0.95), weight_decay=0.1)),
    )
    for step in range(10):
        inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        for model, optimizer in pair:
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_the_loss_of_least_squares_falls_to_a_tenth():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 12, generator=generator)
    targets = inputs @ torch.randn(12, 8, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].requires_grad_(False)
    nn.init.eye_(model[1].weight)
    head = nn.Linear(1, 1)
    both = nn.ModuleList([model, head])
    optimizer = muon(both, lr=0.1)
    first = F.mse_loss(model(inputs), targets).item()
    for _ in range(60):
        optimizer.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
    assert F.mse_loss(model(inputs), targets).item() < first / 10
