"""Planted features hold what they say, and orders fitted lowest first find it."""

from itertools import combinations

import pytest
import torch

from kclib import fit
from kclib.errors import InputError
from kclib.measures import variance
from kclib.planted import planted


def draw(images=400, channels=24, side=4, **changes):
    settings = {"rank": 12, "shares": (0.4, 0.2, 0.2), "seed": 0} | changes
    return planted(images, channels, side, **settings)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shares", [(0.4, 0.2, 0.2), (0.1, 0.1, 0.8), (0, 0, 0.5)])
def test_the_parts_have_their_shares_and_are_uncorrelated(seed, shares):
    drawn = draw(shares=shares, seed=seed)
    parts = [part for part in drawn.parts if part.any()]
    for one, other in combinations(parts, 2):
        product = variance(one + other) - variance(one) - variance(other)
        assert abs(product) / 2 < 0.05 * (variance(one) * variance(other)) ** 0.5
    for found, share in zip(drawn.shares, (*shares, 1 - sum(shares)), strict=True):
        assert found == pytest.approx(share, abs=0.02)
    assert variance(drawn.target) == pytest.approx(1, abs=0.05)


def test_the_target_is_the_sum_of_the_parts_and_missing_shares_are_0():
    drawn = draw(shares=(0.5,), rank=1)
    assert drawn.parts.shape == (4, *drawn.x.shape) == (4, 400, 24, 4, 4)
    assert torch.equal(drawn.target, drawn.parts.sum(0))
    assert not drawn.parts[1:3].any() and drawn.shares[1:3] == [0, 0]
    assert draw(shares=()).shares == [0, 0, 0, 1]
    assert draw(shares=(0.5, 0.3, 0.2)).shares[3] == pytest.approx(0, abs=1e-6)


def test_order_0_is_linear_and_the_others_are_even():
    """Order 0 is a function A x; fitted by least squares, the others have no linear part."""
    drawn = draw(images=2000)
    x = drawn.x.movedim(1, -1).flatten(0, 2).double()  # (N H W, C)
    for k, part in enumerate(drawn.parts[:3]):
        target = (part - part.mean((0, 2, 3), keepdim=True)).movedim(1, -1).flatten(0, 2).double()
        left = target - x @ torch.linalg.lstsq(x, target).solution
        share = 1 - float(left.square().sum() / target.square().sum())
        assert share == pytest.approx(1 if k == 0 else 0, abs=0.01)


def test_a_seed_names_features():
    assert torch.equal(draw().target, draw().target)
    assert torch.equal(draw().x, draw().x)
    assert not torch.equal(draw().x, draw(seed=1).x)


BAD = {
    "one image": ({"images": 1}, "images is 1; allowed: 2 or more"),
    "no channels": ({"channels": 0}, "channels is 0"),
    "no positions": ({"side": 0}, "side is 0"),
    "negative": ({"shares": (0.5, -0.1)}, "none of them negative"),
    "above 1": ({"shares": (0.5, 0.4, 0.2)}, "sum of at most 1"),
    "not a number": ({"shares": (float("nan"),)}, "shares are"),
    "too many": ({"shares": (0.1, 0.1, 0.1, 0.1)}, "up to three"),
    "rank 0": ({"rank": 0}, "rank is 0; allowed: 1 to the number of channels, 24"),
    "above channels": ({"rank": 25, "shares": (0.1,)}, "rank is 25"),
    "not four": ({"rank": 14, "channels": 40}, "multiple of 4, up to half"),
    "few directions": ({"rank": 2}, "rank is 2 with 24 channels"),
    "few channels": ({"rank": 16}, "rank is 16 with 24 channels"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_drawn_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        draw(**changes)


# Images, channels, side, rank, shares. Fits have the default arguments; the kernel is under test.
PLANTED = {
    "one step": (1500, 24, 7, 12, (0.35, 0.45)),
    "one step, high rank": (1500, 32, 6, 24, (0.3, 0.4)),
    "one step, few images": (600, 16, 4, 6, (0.5, 0.3)),
    "one step, no linear part": (800, 16, 6, 10, (0.0, 0.6)),
    "two steps": (1500, 32, 6, 12, (0.4, 0.2, 0.2)),
    "two steps, no linear part": (1500, 32, 6, 12, (0.0, 0.2, 0.4)),
    "two steps, the first not there": (2000, 24, 6, 12, (0.2, 0.0, 0.5)),
    "two steps, small maps": (2000, 48, 5, 24, (0.3, 0.3, 0.2)),
    "linear": (1500, 32, 6, 8, (0.7,)),
    "noise": (1500, 32, 6, 4, ()),
}


def found_on_other_images(case, seed, **options):
    """Return true shares, and those found on images that a fit of half of them did not see."""
    images, channels, side, rank, shares = PLANTED[case]
    drawn = planted(2 * images, channels, side, rank=rank, shares=shares, seed=seed)
    x, target = drawn.x, drawn.target
    fitted = fit(x[:images], target[:images], solver="lowest_first", seed=seed, **options)
    assert fitted.converged
    other = fitted.evaluate(x[images:], target[images:])
    return drawn.shares, [*other.explained, other.residual]


def check_shares(shares, found):
    assert found == pytest.approx(shares, abs=0.02)
    assert all(share or found[k] < 0.01 for k, share in enumerate(shares))


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("case", PLANTED)
def test_orders_fitted_lowest_first_have_their_true_shares(case, kernel_size):
    check_shares(*found_on_other_images(case, 0, norm="dataset", kernel_size=kernel_size))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("case", ["one step", "two steps", "noise"])
def test_other_seeds_find_them_too(case, seed):
    check_shares(*found_on_other_images(case, seed, norm="dataset", kernel_size=1))


def test_an_order_more_than_there_is_finds_nothing():
    shares, (*orders, left) = found_on_other_images(
        "one step", 0, norm="dataset", kernel_size=1, order=3
    )
    assert [*orders, left] == pytest.approx([*shares[:3], 0, shares[3]], abs=0.02)
    assert max(orders[2:]) < 0.01


def test_the_scale_of_each_image_is_lost_where_it_is_divided_by():
    """Under norm="image" more than the noise is left: what it costs is no small matter here."""
    shares, found = found_on_other_images("one step", 0, norm="image", kernel_size=1)
    assert found[3] > shares[3] + 0.02 and sum(found) == pytest.approx(1)
