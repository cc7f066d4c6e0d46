"""Muon is torch's, where torch has it; and it does what it is for in float32 too."""

import pytest
import torch

from kclib.muon import Muon, nearly_orthogonal


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has it from 2.9 on")
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (16, 144)])
def test_steps_are_torchs(shape):
    draw = torch.Generator().manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(shape, generator=draw))
    theirs = torch.nn.Parameter(ours.detach().clone())
    how = {"lr": 2e-2, "momentum": 0.9, "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = Muon([ours], 2e-2, 0.9, torch.bfloat16), torch.optim.Muon([theirs], **how)
    for _ in range(5):
        gradient = torch.randn(shape, generator=draw)
        for matrix, optimizer in zip((ours, theirs), optimizers, strict=True):
            matrix.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(24, 24), (8, 72), (72, 8)])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_singular_values_come_near_one(shape, size):
    draw = torch.Generator().manual_seed(1)
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=draw), full_matrices=False)
    spread = torch.logspace(-1.5, 0, len(right))
    found = torch.linalg.svdvals(nearly_orthogonal(size * left * spread @ right))
    assert 0.6 < found.min() and found.max() < 1.3


def test_a_gradient_of_zeros_moves_nothing():
    matrix = torch.nn.Parameter(torch.ones(3, 5))
    matrix.grad = torch.zeros(3, 5)
    Muon([matrix], 1e-2, 0.9, torch.float32).step()
    assert torch.equal(matrix, torch.ones(3, 5))
