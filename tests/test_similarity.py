"""Measures of similarity: what leaves them unchanged, and direct definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kclib import similarity
from kclib.errors import InputError

MEASURES = (
    similarity.linear_cka,
    similarity.svcca,
    similarity.procrustes,
    similarity.stitching,
)
ALL = (*MEASURES, similarity.pwcca)
seeds = st.integers(0, 10**4)


def normal(*shape, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def a_pair(seed: int, channels: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two features that share something, with channels of unequal strength and a mean."""
    x = normal(60, channels, seed=seed) * torch.linspace(0.2, 2, channels) + 3
    y = x[:, :3] @ normal(3, 4, seed=seed + 1) + normal(60, 4, seed=seed + 2) - 1
    return x, y


def rotation(channels: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(normal(channels, channels, seed=seed))[0]


def mixing(channels: int, seed: int) -> torch.Tensor:
    """Return an invertible map that stretches some directions ten times more than others."""
    scale = torch.logspace(0, 1, channels, dtype=torch.float64)
    return rotation(channels, seed) * scale @ rotation(channels, seed + 1)


@pytest.mark.parametrize("measure", MEASURES)
@settings(max_examples=20, deadline=None)
@given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_rotations_permutations_and_one_factor_change_nothing(measure, seed, factor):
    x, y = a_pair(seed)
    found = measure(x, y)
    assert -1e-9 <= found <= 1 + 1e-9
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(seed))
    for changed in (x[:, order], x @ rotation(5, seed), factor * x, x + 7):
        assert measure(changed, y) == pytest.approx(found, abs=1e-8)
    for changed in (y @ rotation(4, seed), factor * y):
        assert measure(x, changed) == pytest.approx(found, abs=1e-8)


@pytest.mark.parametrize("measure", ALL)
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_a_feature_is_like_itself_and_unlike_an_unrelated_one(measure, seed):
    x, _ = a_pair(seed)
    assert measure(x, x @ rotation(5, seed)) == pytest.approx(1, abs=1e-9)
    unrelated = normal(60, 4, seed=seed + 9)
    assert measure(x, unrelated) < 0.7


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_invertible_maps_of_x_change_some_measures_and_not_others(seed):
    x, y = a_pair(seed)
    mixed = x @ mixing(5, seed)
    for measure in (similarity.stitching, lambda a, b: similarity.svcca(a, b, kept=1)):
        assert measure(mixed, y) == pytest.approx(measure(x, y), abs=1e-8)
    for measure in (similarity.linear_cka, similarity.procrustes):
        assert measure(mixed, x) < 1 - 1e-3


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_symmetric_measures_and_a_directed_one(seed):
    x, y = a_pair(seed)
    for measure in (similarity.linear_cka, similarity.svcca, similarity.procrustes):
        assert measure(x, y) == pytest.approx(measure(y, x), abs=1e-9)
    wide = torch.cat([x, normal(60, 3, seed=seed + 5)], dim=1)
    assert similarity.stitching(wide, x) == pytest.approx(1)
    assert similarity.stitching(x, wide) < 0.99


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_cka_is_the_alignment_of_gram_matrices(seed):
    x, y = (part.numpy() for part in a_pair(seed))
    centre = np.eye(len(x)) - 1 / len(x)
    one, other = (centre @ part @ part.T @ centre for part in (x, y))
    expected = (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum())
    assert similarity.linear_cka(*map(torch.tensor, (x, y))) == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_no_rotation_does_better_than_procrustes(seed):
    x, _ = a_pair(seed)
    y = x @ mixing(5, seed)
    x, y = (part - part.mean(0) for part in (x, y))
    x, y = x / x.norm(), y / y.norm()
    least = 2 - 2 * similarity.procrustes(x, y)
    u, _, vh = torch.linalg.svd(x.T @ y)
    assert float((x @ (u @ vh) - y).square().sum()) == pytest.approx(least, abs=1e-9)
    for k in range(20):
        assert float((x @ rotation(5, seed + k) - y).square().sum()) >= least - 1e-12


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_canonical_correlations_are_those_of_whitened_features(seed):
    x, y = (part.numpy() - part.numpy().mean(0) for part in a_pair(seed))

    def white(part):
        return part @ np.linalg.inv(np.linalg.cholesky(part.T @ part)).T

    expected = np.linalg.svd(white(x).T @ white(y), compute_uv=False).mean()
    found = similarity.svcca(torch.tensor(x), torch.tensor(y), kept=1)
    assert found == pytest.approx(expected, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_pwcca_weighs_canonical_directions_by_their_products_with_the_channels(seed):
    x, y = (part.numpy() - part.numpy().mean(0) for part in a_pair(seed))
    # Canonical variates of x, as eigenvectors of the product of both projections.
    onto_x, onto_y = (part @ np.linalg.pinv(part) for part in (x, y))
    squares, variates = np.linalg.eigh(onto_x @ onto_y @ onto_x)
    squares, variates = squares[-4:], variates[:, -4:]  # y has four channels
    weights = np.abs(variates.T @ x).sum(1)
    expected = (weights * np.sqrt(squares)).sum() / weights.sum()
    found = similarity.pwcca(torch.tensor(x), torch.tensor(y))
    assert found == pytest.approx(expected, abs=1e-7)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_what_pwcca_overlooks(seed, factor):
    x, y = a_pair(seed)
    found = similarity.pwcca(x, y)
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(seed))
    for given_x, given_y in ((x[:, order], y), (factor * x + 7, y), (x, y @ mixing(4, seed))):
        assert similarity.pwcca(given_x, given_y) == pytest.approx(found, abs=1e-8)
    plain = similarity.svcca(x, y, kept=1)
    assert similarity.pwcca(x @ mixing(5, seed), y) != pytest.approx(found, abs=1e-6)
    assert found != pytest.approx(plain, abs=1e-6)


def test_svcca_drops_directions_that_hold_little():
    shared = normal(500, 1, seed=0)
    x = torch.cat([shared, 1e-3 * normal(500, 1, seed=1)], dim=1)
    y = torch.cat([-shared, 1e-3 * normal(500, 1, seed=2)], dim=1)
    assert similarity.svcca(x, y) > 0.999
    assert similarity.svcca(x, y, kept=1) < 0.6


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_stitching_is_least_squares(seed):
    x, y = a_pair(seed)
    design = np.column_stack([x.numpy(), np.ones(len(x))])
    rest = y.numpy() - design @ np.linalg.lstsq(design, y.numpy(), rcond=None)[0]
    whole = y.numpy() - y.numpy().mean(0)
    expected = 1 - (rest**2).sum() / (whole**2).sum()
    assert similarity.stitching(x, y) == pytest.approx(expected)
    assert similarity.stitching(x, y, (x, y)) == pytest.approx(expected)


def test_a_map_fitted_to_noise_fails_on_other_rows():
    x, y = normal(40, 30, seed=0), normal(40, 3, seed=1)
    assert similarity.stitching(x, y) > 0.5
    assert similarity.stitching(x, y, (normal(40, 30, seed=2), normal(40, 3, seed=3))) < 0


def test_channels_that_repeat_each_other_do_no_harm():
    x, y = a_pair(0)
    twice = torch.cat([x, x, torch.ones(60, 1)], dim=1)
    assert similarity.stitching(twice, y) == pytest.approx(similarity.stitching(x, y))
    assert similarity.svcca(twice, y, kept=1) == pytest.approx(similarity.svcca(x, y, kept=1))


def test_rows_are_the_same_positions_of_both():
    x = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).float()
    one, other = similarity.rows_of(x, x[:, :2] + 0.5, count=10, seed=3)
    assert one.shape == (10, 3) and one.dtype == torch.float64
    assert torch.equal(one[:, :2] + 0.5, other)
    assert len(one.unique(dim=0)) == 10
    every, _ = similarity.rows_of(x, x, count=1000, seed=0)
    assert sorted(every[:, 0].tolist()) == sorted(x[:, 0].flatten().tolist())
    small, large = similarity.rows_of(x, normal(2, 5, 2, 2, seed=0), count=100, seed=0)
    assert small.shape == (8, 3) and large.shape == (8, 5)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(4, 2, 2), torch.zeros(4, 2), r"\(M, C\)"),
        (torch.rand(4, 2), torch.rand(5, 2), r"\(M, C\)"),
        (torch.full((4, 2), torch.nan), torch.rand(4, 2), "finite"),
        (torch.full((4, 2), 0.1), torch.rand(4, 2), "same value"),
    ],
)
def test_what_cannot_be_compared_is_refused(x, y, message):
    for measure in ALL:
        with pytest.raises(InputError, match=message):
            measure(x, y)
    with pytest.raises(InputError, match="kept is 0"):
        similarity.svcca(torch.rand(4, 2), torch.rand(4, 2), kept=0)


RANKINGS = (similarity.cka_by_row, similarity.neighbours_lost)


@pytest.mark.parametrize("ranking", RANKINGS)
@settings(max_examples=20, deadline=None)
@given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_what_rows_get_does_not_depend_on_rotation_scale_and_their_order(ranking, seed, factor):
    x, y = a_pair(seed)
    found = ranking(x, y)
    assert torch.allclose(ranking(factor * x @ rotation(5, seed), y + 7), found, atol=1e-6)
    assert torch.allclose(ranking(x.flip(0), y.flip(0)), found.flip(0), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_rows_of_linear_cka_add_up_to_it(seed):
    x, y = a_pair(seed)
    ours = similarity.cka_by_row(x, y)
    both = [part - part.mean(0) for part in (x, y)]
    grams = [part @ part.T for part in both]
    weights = grams[0].norm(dim=1) * grams[1].norm(dim=1) / (grams[0].norm() * grams[1].norm())
    assert float((ours * weights).sum()) == pytest.approx(similarity.linear_cka(x, y))


def test_both_rankings_find_rows_that_one_feature_cannot_tell_apart():
    # Thirty rows form a group of their own in y; in x they lie anywhere among the others.
    y, group = normal(120, 6, seed=0), torch.arange(120) < 30
    x = y.clone()
    y[group] = 0.3 * y[group] + 4
    x[group] = normal(30, 6, seed=1)
    assert similarity.neighbours_lost(x, y)[group].mean() > 2 * (
        similarity.neighbours_lost(x, y)[~group].mean()
    )
    of_rows = similarity.cka_by_row(x, y)
    assert of_rows[group].mean() < of_rows[~group].mean() - 0.1


def test_affinities_are_those_of_the_definition_pair_by_pair():
    x, y = a_pair(3)
    ranks = []
    for part in (x, y):
        distances = (part[:, None] - part).norm(dim=2)
        ranks.append([[int((row < one).sum()) for one in row] for row in distances])
    size = len(x)
    expected = torch.zeros(size, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            for p, q in ((i, j), (j, i)):
                of_x, of_y = ranks[0][p][q], ranks[1][p][q]
                share = 80 / size * (of_y - of_x) / (min(of_x, of_y) + 1)
                expected[i] += torch.exp(-5 * torch.tanh(torch.tensor(share).double())) / 2 / size
    assert torch.allclose(similarity.neighbours_lost(x, y), expected)
