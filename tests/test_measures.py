"""Variances, shares and intervals against direct definitions and known cases."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kclib import fit, measures
from kclib.errors import InputError
from kclib.features import resample
from kclib.measures import (
    Evaluation,
    Moments,
    bootstrap_weights,
    neighbour_products,
    over_networks,
    paired_difference,
    quantiles,
    rank_correlation,
    ratio_interval,
    share_of_networks,
    supported_order,
    variance,
)


def normal(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def direct(feature: torch.Tensor) -> float:
    """Return Var as the paper defines it: centre each channel, average all squares."""
    wide = feature.double()
    return float((wide - wide.mean((0, 2, 3), keepdim=True)).square().mean())


def split(count: int, *, noise: float = 0.5, seed: int = 0) -> Evaluation:
    """Return an evaluation of independent parts with shares that are known."""
    parts = [normal(count, 4, 3, 3, seed=seed), 0.5 * normal(count, 4, 3, 3, seed=seed + 1)]
    rest = noise * normal(count, 4, 3, 3, seed=seed + 2)
    target = sum(parts) + rest
    return Evaluation(Moments.of(target), [Moments.of(p) for p in parts], Moments.of(rest))


sizes = st.tuples(st.integers(1, 8), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=50, deadline=None)
@given(sizes, st.integers(0, 1000), st.floats(-3, 3), st.floats(-100, 100))
def test_variance_is_the_direct_one(shape, seed, exponent, offset):
    feature = 10**exponent * normal(*shape, seed=seed) + offset
    scale = float(feature.double().square().mean())  # of what cancels
    assert variance(feature) == pytest.approx(direct(feature), rel=1e-9, abs=1e-12 * scale)


def test_each_channel_s_mean_is_removed_and_no_other():
    feature = normal(20, 3, 4, 4)
    by_channel = torch.tensor([5.0, -3.0, 100.0]).view(1, 3, 1, 1)
    by_image = torch.linspace(-2, 2, 20).view(20, 1, 1, 1)
    assert variance(feature + by_channel) == pytest.approx(variance(feature), rel=1e-5)
    assert variance(feature + by_image) > variance(feature) + 1
    assert variance(3 * feature) == pytest.approx(9 * variance(feature))


@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(1, 8))
def test_moments_joined_are_those_of_the_whole(shape, batch):
    feature = normal(*shape)
    whole = Moments.of(feature)
    joined = Moments.room(*shape[:2])
    for start in range(0, len(feature), batch):
        joined.put(start, feature[start : start + batch])
    assert joined.mean.shape == shape[:2] and joined.square.shape == shape[:1]
    assert torch.equal(joined.mean, whole.mean) and torch.equal(joined.square, whole.square)
    assert joined.mean.dtype == joined.square.dtype == torch.float64


def test_weights_stand_for_images_that_are_drawn_again():
    feature = normal(5, 3, 4, 4)
    drawn = [0, 0, 3, 4, 3]
    weights = torch.bincount(torch.tensor(drawn), minlength=5).double() / 5
    found = Moments.of(feature).variance(weights[None])
    assert found.shape == (1,)
    assert float(found) == pytest.approx(direct(feature[drawn]))


def test_shares_are_ratios_of_variances():
    evaluation = split(400)
    # Variances 1, 1/4 and 1/4 of 3/2.
    assert evaluation.explained == pytest.approx([2 / 3, 1 / 6], rel=0.05)
    assert evaluation.residual == pytest.approx(1 / 6, rel=0.05)
    assert sum(evaluation.explained) + evaluation.residual == pytest.approx(1, abs=0.02)


def test_tensors_round_trip():
    evaluation = split(30)
    tensors = evaluation.tensors()
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    again = Evaluation.from_tensors(tensors)
    assert again.explained == evaluation.explained and again.residual == evaluation.residual
    assert again.intervals(resamples=50) == evaluation.intervals(resamples=50)


@pytest.mark.parametrize("orders", range(1, 7))
def test_round_trip_keeps_the_orders_in_their_order(orders):
    parts = [Moments.of((k + 1) * normal(6, 2, 3, 3, seed=k)) for k in range(orders)]
    evaluation = Evaluation(Moments.of(normal(6, 2, 3, 3)), parts, parts[0])
    again = Evaluation.from_tensors(dict(sorted(evaluation.tensors().items(), reverse=True)))
    assert again.explained == evaluation.explained and len(again.explained) == orders


# Intervals


def test_intervals_are_reproducible_and_depend_on_the_seed():
    evaluation = split(50)
    first = evaluation.intervals(resamples=200, seed=1)
    assert first == evaluation.intervals(resamples=200, seed=1)
    assert first != evaluation.intervals(resamples=200, seed=2)
    assert len(first) == 3  # orders 0 and 1, and the rest


def test_intervals_contain_the_value_and_nest():
    evaluation = split(100)
    wide, narrow = (evaluation.intervals(resamples=500, level=p) for p in (0.99, 0.5))
    values = [*evaluation.explained, evaluation.residual]
    for value, (low, high), (inner_low, inner_high) in zip(values, wide, narrow, strict=True):
        assert low < value < high
        assert low <= inner_low < inner_high <= high


def test_intervals_shrink_with_the_square_root_of_the_images():
    few, many = (split(count).intervals(resamples=400)[-1] for count in (50, 800))
    assert (few[1] - few[0]) / (many[1] - many[0]) == pytest.approx(4, rel=0.35)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """The true residual is 1/6; 95 % intervals of 100 independent sets miss it about 5 times."""
    missed = 0
    for seed in range(0, 300, 3):
        low, high = split(60, seed=seed).intervals(resamples=200, seed=seed)[-1]
        missed += not low <= 1 / 6 <= high
    assert missed <= 14  # 14 or fewer with a probability above 99.9 %


def test_bootstrap_weights():
    weights = bootstrap_weights(10, 500, seed=0)
    assert weights.shape == (500, 10) and weights.dtype == torch.float64
    torch.testing.assert_close(weights.sum(1), torch.ones(500, dtype=torch.float64))
    counts = weights * 10
    torch.testing.assert_close(counts, counts.round())
    torch.testing.assert_close(weights.mean(0), torch.full((10,), 0.1).double(), atol=0.02, rtol=0)
    state = torch.random.get_rng_state()
    assert torch.equal(bootstrap_weights(10, 500, seed=0), weights)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_quantiles_are_the_central_interval():
    values = torch.arange(101).double()[torch.randperm(101)]
    assert quantiles(values, 0.9) == pytest.approx((5, 95))


# Shape or noise


def correlation(feature: torch.Tensor) -> float:
    products, squares = neighbour_products(feature)
    assert products.shape == squares.shape == (len(feature),)
    return float(products.sum() / squares.sum())


def test_noise_has_neighbours_that_do_not_agree():
    assert correlation(normal(100, 4, 8, 8)) == pytest.approx(0, abs=0.02)


def test_shapes_have_neighbours_that_agree():
    ramp = torch.linspace(-1, 1, 40).view(1, 1, 1, -1).expand(20, 3, 40, 40)
    assert correlation(ramp + 5) == pytest.approx(1, abs=0.01)
    flat = normal(20, 3, 1, 1).expand(20, 3, 6, 6)
    assert correlation(flat) == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 1000))
def test_a_correlation_is_at_most_1(height, width, seed):
    """Also for maps that are large in the middle, where most neighbours are."""
    bump = torch.hann_window(height + 2)[1:-1, None] * torch.hann_window(width + 2)[1:-1]
    feature = normal(5, 2, 1, 1, seed=seed) * bump
    products, squares = neighbour_products(feature)
    assert (products.abs() <= squares * (1 + 1e-12)).all()


def test_a_checkerboard_has_neighbours_that_disagree():
    index = torch.arange(8)
    board = (-1.0) ** (index[:, None] + index)
    assert correlation(board.expand(10, 2, 8, 8)) == pytest.approx(-1)


def test_mixed_shape_and_noise_lie_between():
    """A shape and noise of equal variance: the correlation is the mean of theirs."""
    ramp = torch.linspace(-1, 1, 40).view(1, 1, 1, -1).expand(50, 3, 40, 40)
    mixed = ramp / ramp.std() + normal(50, 3, 40, 40)
    assert correlation(mixed) == pytest.approx(0.5, abs=0.03)


def test_ratio_interval():
    numerator, denominator = normal(200).double() * 0.1 + 1, normal(200, seed=1).double() * 0.1 + 2
    ratio, low, high = ratio_interval(numerator, denominator, resamples=400, seed=3)
    assert ratio == pytest.approx(float(numerator.sum() / denominator.sum()))
    assert low < ratio < high and high - low < 0.03
    assert (ratio, low, high) == ratio_interval(numerator, denominator, resamples=400, seed=3)
    # A ratio that every image shares has no uncertainty.
    assert ratio_interval(3 * denominator, denominator) == pytest.approx((3, 3, 3))


def test_a_difference_is_paired_by_images():
    right = normal(400) > 0
    other = right ^ (normal(400, seed=1) > 1.5)  # another answer to few of the images
    found = paired_difference(right, other, resamples=400, seed=3)
    assert found[0] == pytest.approx(float(right.double().mean() - other.double().mean()))
    assert found[1] < found[0] < found[2]
    swapped = paired_difference(other, right, resamples=400, seed=3)
    assert swapped == pytest.approx((-found[0], -found[2], -found[1]))
    # The same shares of right answers, but not to the same images, tell less.
    shuffled = other[torch.randperm(400, generator=torch.Generator().manual_seed(2))]
    unpaired = paired_difference(right, shuffled, resamples=400, seed=3)
    assert unpaired[0] == pytest.approx(found[0])
    assert unpaired[2] - unpaired[1] > 1.5 * (found[2] - found[1])
    # Image by image the same difference has no uncertainty.
    assert paired_difference(right.double() + 0.5, right) == pytest.approx((0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="both of the same images"):
        paired_difference(right, right[1:])


def test_the_order_to_stop_at_is_the_highest_that_other_images_support():
    def falling(*left):
        """Return an evaluation of which orders leave these shares, image by image alike."""
        noise = torch.randn(400, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        rests = [Moments.of(noise * share**0.5) for share in left]
        return Evaluation(Moments.of(noise), rests, rests[-1], rests)

    assert supported_order(falling(0.5, 0.3, 0.2))[0] == 2
    assert supported_order(falling(0.5, 0.3, 0.295))[0] == 1
    assert supported_order(falling(1.0, 0.8, 0.4))[0] == 2  # no linear part
    assert supported_order(falling(1.0, 1.001, 1.0))[0] == -1
    assert supported_order(falling(0.5, 0.3, 0.2), least=0.15)[0] == 1
    with pytest.raises(InputError, match="least is 1"):
        supported_order(falling(0.5), least=1)
    whole = falling(0.5)
    with pytest.raises(InputError, match="fitted jointly"):
        supported_order(Evaluation(whole.target, whole.components, whole.residual_part))


def test_residuals_of_resamples_are_those_that_intervals_are_made_of():
    evaluation = split(40)
    weights = bootstrap_weights(40, 300, seed=3)
    found = evaluation.residuals(weights)
    assert quantiles(found, 0.95) == evaluation.intervals(resamples=300, seed=3)[-1]
    equal = torch.full((1, 40), 1 / 40, dtype=torch.float64)
    assert float(evaluation.residuals(equal)) == pytest.approx(evaluation.residual)


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=8, unique=True), st.integers(0, 1000))
def test_rank_correlation_is_of_order_alone(values, seed):
    one = torch.tensor(values, dtype=torch.float64)
    assert float(rank_correlation(one, one.exp())) == pytest.approx(1)
    assert float(rank_correlation(one, -(one**3))) == pytest.approx(-1)
    other = normal(3, len(values), seed=seed)
    found = rank_correlation(one.expand(3, -1), other)
    d = one.argsort().argsort() - other.argsort(-1).argsort(-1)  # Spearman's formula without ties
    n = len(values)
    expected = 1 - 6 * d.double().square().sum(-1) / (n * (n * n - 1))
    torch.testing.assert_close(found, expected)


def test_equal_values_share_their_rank_and_a_constant_has_no_order():
    one, other = torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0, 4.0])
    assert float(rank_correlation(one, other)) == pytest.approx(
        0.9486833
    )  # by hand: 4.5 / 22.5**.5
    assert float(rank_correlation(one, torch.ones(4))) == 0


# --- networks and images ------------------------------------------------------------------------


def drawn(pairs, of_networks, of_images, resamples=4000, seed=0):
    """Numbers of pairs that differ by a known deviation, on images that do too."""
    noise = torch.Generator().manual_seed(seed)
    between = of_networks * torch.randn(pairs, 1, generator=noise, dtype=torch.float64)
    return between + of_images * torch.randn(1, resamples, generator=noise, dtype=torch.float64)


def test_networks_that_do_not_differ_add_nothing():
    draws = drawn(5, 0.0, 1.0)
    torch.testing.assert_close(over_networks(draws, 0), draws[0])
    assert share_of_networks(draws, 0) < 1e-20


def test_images_that_do_not_differ_leave_the_spread_of_networks():
    spreads = []
    for seed in range(200):
        draws = drawn(5, 1.0, 0.0, resamples=1000, seed=seed)
        spreads.append(over_networks(draws, seed).var())
        assert share_of_networks(draws, seed) == pytest.approx(1)
    # The mean of five networks of variance 1 has the variance 1/5.
    assert float(torch.stack(spreads).mean()) == pytest.approx(1 / 5, rel=0.15)


def test_both_spreads_add_up():
    totals, shares = [], []
    for seed in range(200):
        draws = drawn(5, 1.0, 0.5, resamples=1000, seed=seed)
        totals.append(over_networks(draws, seed).var())
        shares.append(share_of_networks(draws, seed))
    assert float(torch.stack(totals).mean()) == pytest.approx(1 / 5 + 1 / 4, rel=0.15)
    assert 0.2 < sum(shares) / len(shares) < 0.55


def test_a_single_pair_has_the_interval_over_images():
    draws = drawn(1, 1.0, 1.0)
    assert torch.equal(over_networks(draws, 3), draws[0])


def test_of_several_numbers_the_same_pairs_are_drawn():
    one, other = drawn(3, 1.0, 0.5), drawn(3, 1.0, 0.5, seed=1)
    both = over_networks(torch.stack([one, other], -1), 2)
    assert torch.equal(both, torch.stack([over_networks(one, 2), over_networks(other, 2)], -1))


@pytest.mark.parametrize("solver", ["joint", "lowest_first"])
def test_the_split_of_a_target_is_what_its_evaluation_measures(solver):
    x, target = normal(40, 3, 4, 4), normal(40, 5, 2, 2, seed=1)
    fitted = fit(x, target, order=1, solver=solver, norm="dataset", epochs=1)
    parts = measures.split(fitted.disentangler, x, target)
    assert list(parts) == ["target x*", "x(0)", "x(1)", "x_delta"]
    whole = parts.pop("target x*")
    assert whole is target
    torch.testing.assert_close(sum(parts.values()), target)
    rest = variance(parts["x_delta"]) / variance(target)
    assert rest == pytest.approx(fitted.evaluate(x, target).residual, abs=1e-6)


# More images than are worked on at once


@pytest.mark.parametrize("count", [255, 256, 257, 600])
def test_a_feature_is_centred_over_all_images_not_over_those_of_a_block(count):
    feature = normal(count, 3, 4, 4) + torch.arange(count).view(-1, 1, 1, 1)
    blocks = list(measures.centred(feature))
    wide = feature.double()
    expected = wide - wide.mean((0, 2, 3), keepdim=True)
    torch.testing.assert_close(torch.cat(blocks), expected)
    assert len(blocks) == -(-count // 256)
    products, squares = neighbour_products(feature)
    assert products.shape == squares.shape == (count,)
    beside = (expected[..., 1:] * expected[..., :-1]).mean((1, 2, 3))
    below = (expected[..., 1:, :] * expected[..., :-1, :]).mean((1, 2, 3))
    torch.testing.assert_close(products, (beside + below) / 2)


@pytest.mark.parametrize("norm", ["image", "dataset"])
def test_many_images_are_split_as_they_are_at_once(norm):
    x, target = normal(600, 3, 4, 4), normal(600, 5, 2, 2, seed=1)
    fitted = fit(x, target, order=1, solver="joint", norm=norm, epochs=1).disentangler
    parts = measures.split(fitted, x, target)
    whole = fitted.decompose(resample(x, (2, 2))).detach()
    torch.testing.assert_close(torch.stack([parts["x(0)"], parts["x(1)"]]), whole)
    torch.testing.assert_close(parts["x_delta"], target - whole.sum(0))
