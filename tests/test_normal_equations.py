"""Normal equations by Fourier transform against patches, which are slow but plain."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from kclib.normal_equations import RIDGES, NormalEquations


def normal(*shape, seed=0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_patches(x, target, kernel_size):
    """Return a regression's rows of inputs and of wanted outputs, float64."""
    patches = F.unfold(x.double(), kernel_size, padding=kernel_size // 2)  # (N, C k k, H W)
    return patches.transpose(1, 2).flatten(0, 1), target.double().permute(0, 2, 3, 1).flatten(0, 2)


def summed(x, target, kernel_size, chunk=100) -> NormalEquations:
    equations = NormalEquations(kernel_size)
    for a, b in zip(x.split(chunk), target.split(chunk), strict=True):
        equations.add(a, b)
    return equations


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 7),
    st.integers(1, 7),
    st.sampled_from([1, 3]),
    st.integers(1, 9),
    st.integers(0, 100),
)
def test_products_are_those_of_patches(channels, outputs, height, width, kernel_size, chunk, seed):
    x = normal(9, channels, height, width, seed=seed, dtype=torch.float64)
    target = normal(9, outputs, height, width, seed=seed + 1, dtype=torch.float64)
    equations = summed(x, target, kernel_size, chunk)
    rows, wanted = by_patches(x, target, kernel_size)
    torch.testing.assert_close(equations.matrix(), rows.T @ rows, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(equations.right(), rows.T @ wanted, rtol=1e-9, atol=1e-9)
    assert equations.rows == len(rows)


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("intercept", [False, True])
def test_the_solution_is_that_of_least_squares(kernel_size, intercept):
    x, target = normal(40, 3, 5, 6) + 0.5, normal(40, 2, 5, 6, seed=1) + 2
    weight, constant = summed(x, target, kernel_size).solve(intercept=intercept)
    rows, wanted = by_patches(x, target, kernel_size)
    if intercept:
        rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
    solution = torch.linalg.lstsq(rows, wanted).solution
    found = weight.flatten(1).T
    if intercept:
        found = torch.cat([found, constant[None]])
    else:
        assert not constant.any()
    torch.testing.assert_close(found, solution, rtol=1e-4, atol=1e-5)


def test_single_precision_shows_rounding_and_nothing_else():
    x, target = normal(200, 6, 6, 6), normal(200, 4, 6, 6, seed=1)
    single = summed(x, target, 3).matrix()
    double = summed(x.double(), target.double(), 3).matrix()
    assert (single - double).abs().max() / double.abs().max() < 1e-6


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_inputs_are_white_in_the_coordinates_of_the_whitener(kernel_size):
    mixing = normal(4, 4, seed=3)
    x = torch.einsum("oc,nchw->nohw", mixing, normal(300, 4, 6, 6))
    equations = summed(x, x, kernel_size)
    root = equations.whitener().double()
    seen = root @ (equations.matrix() / equations.rows) @ root.T
    off = seen - seen.diagonal().diag()
    assert seen.diagonal().min() > 0.3 and seen.diagonal().max() < 1.01
    assert off.abs().max() < 0.6  # the ridge leaves weak directions weaker
    plain = torch.linalg.cond(equations.matrix())
    assert torch.linalg.cond(seen) < 0.2 * plain or plain < 10


@pytest.mark.parametrize(
    ("x", "problem"),
    [
        (normal(40, 3, 5, 5), None),
        (normal(40, 3, 5, 5)[:, [0, 1, 1]], "9 of the 27 inputs are sums of others"),
        (normal(1, 3, 5, 5), "there are 25 positions for 27 weights"),
    ],
)
def test_it_says_why_a_solution_is_not_the_only_one(x, problem):
    equations = summed(x, x, 3)
    weight, _ = equations.solve()
    assert weight.isfinite().all()
    if problem is None:
        assert equations.degeneracy() is None
    else:
        assert problem in equations.degeneracy()


def test_an_input_that_was_hardly_ever_seen_gets_no_large_weight():
    x, target = normal(200, 3, 4, 4), normal(200, 2, 4, 4, seed=1)
    x[:, 2] = 0
    x[7, 2, 1, 1] = 1e-4
    weight, _ = summed(x, target, 1).solve()
    assert weight[:, 2].abs().max() < 1
    without, _ = summed(x[:, :2], target, 1).solve()
    assert torch.allclose(weight[:, :2], without, atol=1e-5)


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("intercept", [False, True])
def test_the_ridge_is_that_which_leaves_least_of_other_images(kernel_size, intercept):
    weight = 0.1 * normal(3, 4, kernel_size, kernel_size, seed=2)
    x, noise = normal(60, 4, 4, 4), normal(60, 3, 4, 4, seed=3)
    target = F.conv2d(x, weight, padding=kernel_size // 2) + 2 * noise + 1
    kept, held_out = (
        summed(x[part], target[part], kernel_size) for part in (slice(5), slice(20, 60))
    )
    rows, wanted = by_patches(x[20:], target[20:], kernel_size)

    def left(ridge):
        found, constant = kept.solve(intercept=intercept, ridge=ridge)
        return (rows @ found.flatten(1).T + constant - wanted).square().sum()

    best = min(RIDGES, key=left)
    ridge, least = kept.best_ridge(held_out, intercept=intercept)
    assert ridge == best and least == pytest.approx(float(left(best)), rel=1e-4)
    assert held_out.left(*kept.solve(intercept=intercept, ridge=best)) == pytest.approx(least)
    assert best > RIDGES[0]


def test_features_without_noise_need_no_ridge():
    x = normal(60, 4, 5, 5)
    target = F.conv2d(x, normal(3, 4, 3, 3, seed=2), padding=1)
    kept, held_out = summed(x[:40], target[:40], 3), summed(x[40:], target[40:], 3)
    assert kept.best_ridge(held_out)[0] == RIDGES[0]


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_merged_sums_are_those_of_all_images(kernel_size):
    x, target = normal(30, 4, 5, 5), normal(30, 3, 5, 5, seed=1)
    merged = summed(x[:13], target[:13], kernel_size).merge(
        summed(x[13:], target[13:], kernel_size)
    )
    whole = summed(x, target, kernel_size)
    assert merged.rows == whole.rows
    torch.testing.assert_close(merged.matrix(), whole.matrix(), rtol=1e-4, atol=1e-4)
    for found, wanted in zip(
        merged.solve(intercept=True), whole.solve(intercept=True), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
