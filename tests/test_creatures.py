"""Creatures: what a set of drawn images must satisfy, whatever it looks like."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kclib.errors import InputError
from kclib.images import creatures
from kclib.images.creatures import PART_NAMES, Difficulty, render

CALM = Difficulty(0, 0, 0, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def drawn():
    return render(60, size=48)


def test_shapes_and_types(drawn):
    assert drawn.images.shape == (60, 3, 48, 48) and drawn.images.dtype == torch.uint8
    assert drawn.part_masks.shape == (60, len(PART_NAMES), 48, 48)
    assert drawn.part_masks.dtype == torch.bool
    assert drawn.labels.dtype == drawn.coarse.dtype == torch.int64
    assert len(set(drawn.class_names)) == 24
    assert drawn.part_names == PART_NAMES and drawn.coarse_names == ("bird", "dog")


def test_same_parameters_same_set(drawn):
    again = render(60, size=48)
    assert torch.equal(again.images, drawn.images) and again.digest == drawn.digest


@pytest.mark.parametrize("count", [1, 7, 31])
def test_an_image_does_not_depend_on_the_count(drawn, count):
    fewer = render(count, size=48)
    for name in ("images", "labels", "coarse", "part_masks"):
        assert torch.equal(getattr(fewer, name), getattr(drawn, name)[:count])


def test_an_image_does_not_depend_on_the_images_beside_it(drawn):
    labels, coarse = drawn.labels.numpy(), drawn.coarse.numpy()
    for i in (3, 41):
        draws = creatures._Draws([0, "train", "images"], np.array([i]))
        image, masks = creatures._block(
            labels[i : i + 1], coarse[i : i + 1], creatures._looks(24), 48, draws, Difficulty(), []
        )
        assert np.array_equal(image[0], drawn.images[i])
        assert np.array_equal(masks[0], drawn.part_masks[i])


@pytest.mark.parametrize(
    "change",
    [
        {"count": 13},
        {"classes": 8},
        {"size": 20},
        {"seed": 1},
        {"split": "test"},
        {"difficulty": Difficulty(noise=0)},
        {"hide": ("torso",)},
    ],
    ids=str,
)
def test_digest_covers_every_parameter(change):
    usual = {"count": 12, "size": 16}
    assert render(**usual | change).digest != render(**usual).digest


def test_splits_and_seeds_are_different_images(drawn):
    for other in (render(60, split="test"), render(60, seed=1)):
        assert not torch.equal(other.labels, drawn.labels)
        same = (other.images == drawn.images).flatten(1).all(dim=1)
        assert not same.any()
        assert other.class_names == drawn.class_names


@pytest.mark.parametrize(("count", "classes"), [(48, 24), (50, 24), (30, 2), (64, 64)])
def test_labels_are_balanced_shuffled_and_coarse_consistent(count, classes):
    drawn = render(count, classes=classes, size=16)
    counts = torch.bincount(drawn.labels, minlength=classes)
    assert counts.max() - counts.min() <= (count % classes > 0)
    assert not torch.equal(drawn.labels, drawn.labels.sort().values)
    names = [drawn.class_names[i].split()[0] for i in drawn.labels]
    assert names == [drawn.coarse_names[c] for c in drawn.coarse]


def test_classes_differ_in_several_attributes_and_share_each_of_them():
    looks = np.stack(list(creatures._looks(64).values()), axis=1)  # (classes, attributes)
    for half in (looks[:32], looks[32:]):
        differing = (half[:, None] != half[None]).sum(axis=2)
        assert differing[~np.eye(32, dtype=bool)].min() >= 3
        assert all(len(set(column)) < 32 for column in half.T)


def test_classes_keep_their_looks_when_there_are_more():
    few, many = creatures._looks(8), creatures._looks(64)
    for name, values in few.items():
        assert np.array_equal(values, np.r_[many[name][:4], many[name][32:36]])


def test_without_difficulty_a_class_differs_in_its_background_only():
    drawn = render(96, classes=2, size=32, difficulty=CALM)
    for label in (0, 1):
        mine = drawn.labels == label
        masks, images = drawn.part_masks[mine], drawn.images[mine]
        assert (masks == masks[0]).all()
        inside = _eroded(masks[0].any(dim=0))
        assert inside.any()
        same = images[:, :, inside] == images[0][:, inside]
        assert same.float().mean() > 0.97  # a pixel of the mask may be half ground
        assert images[:, :, 0, 0].float().std(dim=0).min() > 1


def test_every_part_is_visible_without_occluders():
    drawn = render(120, difficulty=Difficulty(occlusion=0))
    visible = drawn.part_masks.flatten(2).any(dim=2)  # (N, P)
    assert visible.float().mean(dim=0).min() > 0.97
    assert visible[:, PART_NAMES.index("torso")].all()


def test_masks_hardly_overlap(drawn):
    parts = drawn.part_masks.sum(dim=1)
    assert parts.max() <= 2
    assert (parts > 1).sum() < 0.05 * (parts > 0).sum()


def test_occluders_only_take_pixels_away_from_masks(drawn):
    free = render(60, difficulty=replace(creatures.DEFAULT, occlusion=0))
    assert not (drawn.part_masks & ~free.part_masks).any()
    assert drawn.part_masks.sum() < 0.95 * free.part_masks.sum()


@pytest.mark.parametrize("part", PART_NAMES)
def test_hide_changes_the_part_and_nothing_else(part):
    usual, hidden = render(24), render(24, hide=(part,))
    assert torch.equal(usual.part_masks, hidden.part_masks)
    mask = usual.part_masks[:, PART_NAMES.index(part)]
    changed = (usual.images != hidden.images).any(dim=1)
    # Outside there are only slivers of the part, covering less than half of their pixel.
    assert (changed & ~_dilated(mask)).float().mean() < 1e-3
    assert changed[mask].float().mean() > 0.95


def test_hidden_parts_leave_no_trace_of_the_class():
    """With the whole animal hidden, images of the same index are the same for other classes."""
    few = render(40, classes=2, size=24, hide=PART_NAMES, difficulty=replace(CALM, clutter=1))
    many = render(40, classes=64, size=24, hide=PART_NAMES, difficulty=replace(CALM, clutter=1))
    assert torch.equal(few.images, many.images)


@pytest.mark.parametrize("size", [16, 47, 224])
def test_sizes_show_the_same_picture(size):
    calm = replace(CALM, pose=1)
    small, large = (render(4, size=s, difficulty=calm).images.float() for s in (size, 96))
    small, large = (torch.nn.functional.adaptive_avg_pool2d(x, 8) for x in (small, large))
    assert (small - large).abs().mean() < 6


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"split": "valid"}, "split"),
        ({"size": 15}, "size"),
        ({"size": 225}, "size"),
        ({"size": 48.0}, "size"),
        ({"classes": 3}, "even"),
        ({"classes": 0}, "classes"),
        ({"classes": 66}, "classes"),
        ({"count": 0}, "count"),
        ({"count": True}, "count"),
        ({"seed": -1}, "seed"),
        ({"hide": ("wheel",)}, "wheel"),
        ({"difficulty": {"pose": 1}}, "difficulty"),
    ],
    ids=str,
)
def test_bad_input_is_refused(arguments, named):
    with pytest.raises(InputError, match=named):
        render(**{"count": 2} | arguments)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "high", None])
def test_difficulty_is_a_fraction(value):
    with pytest.raises(InputError, match="occlusion.*0 to 1"):
        Difficulty(occlusion=value)


def _dilated(mask, pixels=1):
    """Return masks (..., H, W) grown by some pixels."""
    width = 2 * pixels + 1
    grown = torch.nn.functional.max_pool2d(
        mask.float()[..., None, :, :].flatten(0, -3)[:, None], width, 1, pixels
    )
    return grown.view(mask.shape) > 0


def _eroded(mask, pixels=1):
    """Return masks (..., H, W) shrunk by some pixels."""
    return ~_dilated(~mask, pixels)
