"""Where parts lie on a map, and areas under the ROC curve against the definition."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kclib import measures
from kclib.errors import InputError
from kclib.images import creatures, parts
from kclib.images.datasets import ImageSet

shapes = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_case(shape, seed: int, levels: int):
    """Return scores with ties, and where inside and outside are; some positions are neither."""
    generator = drawn(seed)
    scores = torch.randint(levels, shape, generator=generator).double()
    kind = torch.randint(3, shape, generator=generator)
    return scores, kind == 0, kind == 1


def by_pairs(scores, inside, outside) -> float:
    """Return the area by its definition: all pairs, ties counting half."""
    difference = scores[inside][:, None] - scores[outside][None]
    return float((difference.sign() + 1).div(2).mean())


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 1000), st.integers(1, 6))
def test_the_area_is_the_share_of_pairs(shape, seed, levels):
    scores, inside, outside = a_case(shape, seed, levels)
    found = parts.area_under_curve(scores, inside, outside)
    assert found.shape == shape[:1] and found.dtype == torch.float64
    for n in range(shape[0]):
        expected = by_pairs(scores[n], inside[n], outside[n])
        assert float(found[n]) == pytest.approx(expected, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(0, 1000))
def test_only_the_order_of_scores_counts(shape, seed):
    scores, inside, outside = a_case(shape, seed, 5)
    found = parts.area_under_curve(scores, inside, outside)
    same = {"equal_nan": True, "rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(
        parts.area_under_curve(scores.exp() - 3, inside, outside), found, **same
    )
    torch.testing.assert_close(parts.area_under_curve(-scores, inside, outside), 1 - found, **same)
    torch.testing.assert_close(parts.area_under_curve(scores, outside, inside), 1 - found, **same)


def test_areas_of_scores_that_tell_all_or_nothing():
    inside = torch.zeros(2, 3, 4, dtype=torch.bool)
    inside[:, 1] = True
    assert parts.area_under_curve(inside.float(), inside).tolist() == [1, 1]
    assert parts.area_under_curve(torch.full((2, 3, 4), 7.0), inside).tolist() == [0.5, 0.5]
    inside[0] = True  # nothing is outside
    assert parts.area_under_curve(inside.float(), inside).isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inside": torch.zeros(2, 3, 5, dtype=torch.bool)}, "same \\(N, H, W\\)"),
        ({"scores": torch.full((2, 3, 4), torch.nan)}, "finite"),
        ({"outside": torch.ones(2, 3, 4, dtype=torch.bool)}, "both inside and outside"),
    ],
)
def test_areas_of_what_makes_none_are_refused(change, message):
    inside = torch.zeros(2, 3, 4, dtype=torch.bool)
    inside[:, 1] = True
    case = {"scores": torch.zeros(2, 3, 4), "inside": inside} | change
    with pytest.raises(InputError, match=message):
        parts.area_under_curve(**case)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.floats(-5, 5))
def test_the_mean_energy_is_the_variance(count, channels, side, offset):
    feature = torch.randn(count, channels, side, side, generator=drawn(count)) + offset
    found = parts.energy(feature)
    assert found.shape == (count, side, side)
    assert float(found.mean()) == pytest.approx(measures.variance(feature), abs=1e-6)


def with_points(points: list) -> ImageSet:
    """Return images without content, with these annotated points (N, P, 3)."""
    points = torch.tensor(points)
    count = len(points)
    return ImageSet(
        images=torch.zeros(count, 3, 8, 8, dtype=torch.uint8),
        labels=torch.zeros(count, dtype=torch.int64),
        class_names=("one",),
        digest="made up",
        part_names=("beak", "tail"),
        part_points=points,
    )


def test_a_point_is_one_position_and_a_hidden_one_none():
    images = with_points([[[0.5, 0.1, 1], [0.0, 1.0, 1]], [[1.0, 0.99, 1], [0.4, 0.4, 0]]])
    found = parts.on_map(images, (4, 3))
    assert found.shape == (2, 2, 4, 3) and found.dtype == torch.bool
    assert found.nonzero().tolist() == [[0, 0, 0, 1], [0, 1, 3, 0], [1, 0, 3, 2]]


def test_a_position_belongs_to_a_part_that_covers_half_of_it():
    images = creatures.render(4, classes=4, size=32, split="test")
    masks = torch.zeros(4, 6, 32, 32, dtype=torch.bool)
    masks[0, 2, :8, :4] = True  # the upper left of 4 x 4 positions, its left half
    masks[1, 0, :8, :3] = True  # less than half of it
    masks[2, 1, 8:16] = True  # the second row
    found = parts.on_map(replace(images, part_masks=masks), (4, 4))
    assert found[0].nonzero().tolist() == [[2, 0, 0]] and not found[1].any()
    assert found[2, 1].any(1).tolist() == [False, True, False, False] and found[2].sum() == 4


def test_masks_at_the_map_s_own_size_stay_as_they_are():
    images = creatures.render(300, classes=4, size=32, split="test")
    assert torch.equal(parts.on_map(images, (32, 32)), images.part_masks)


def test_images_without_parts_are_refused():
    images = replace(with_points([[[0.5, 0.5, 1.0]]]), part_points=None)
    with pytest.raises(InputError, match="no annotated parts"):
        parts.on_map(images, (4, 4))


def test_regions_cover_each_map_once():
    images = creatures.render(6, size=32)
    found = parts.regions(images, (8, 8))
    assert list(found)[: len(images.part_names)] == list(images.part_names)
    head = torch.stack([found[name] for name in ("head", "snout", "ears")]).any(0)
    assert found["head, all of it"].equal(head) and found["torso, all of it"].equal(found["torso"])
    thrice = [found[name].int() for name in ("torso, all of it", "other parts", "background")]
    assert sum(thrice).equal(torch.ones(6, 8, 8, dtype=torch.int32))
