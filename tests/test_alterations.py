"""Images changed on purpose: what is taken out is gone, and the rest stays."""

import pytest
import torch

from kclib.book import plans, profiles
from kclib.book.making import Workshop
from kclib.book.members import Member
from kclib.book.store import Store
from kclib.errors import InputError
from kclib.images import alterations, creatures

CLASSES = 6


@pytest.fixture(scope="module")
def drawn():
    return creatures.render(120, classes=CLASSES, size=32, split="train")


def test_grey_pictures_have_no_colour_and_the_same_light(drawn):
    grey = alterations.altered(drawn, ["grey"]).images
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])
    light = torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)
    assert ((drawn.images * light).sum(1) - grey[:, 0]).abs().max() <= 1


def test_blurred_pictures_have_no_detail_and_the_same_mean(drawn):
    blurred = alterations.altered(drawn, ["blurred"]).images.float()
    sharp = drawn.images.float()
    steps = [(of[..., 1:] - of[..., :-1]).square().mean() for of in (blurred, sharp)]
    assert steps[0] < steps[1] / 4
    assert (blurred.mean((2, 3)) - sharp.mean((2, 3))).abs().max() < 8


def test_of_the_right_half_nothing_is_seen(drawn):
    half = alterations.altered(drawn, ["left-half"]).images
    assert torch.equal(half[..., :16], drawn.images[..., :16])
    assert (half[..., 16:] == half[..., :1, 16:17]).all()  # one colour an image


def test_a_mirrored_picture_mirrored_again_is_the_picture(drawn):
    assert torch.equal(alterations.altered(drawn, ["mirrored"] * 2).images, drawn.images)


def test_classes_are_left_out_or_merged_and_the_others_keep_their_labels(drawn):
    fewer = alterations.altered(drawn, ["without-2"])
    assert fewer.labels.tolist() == [k for k in drawn.labels.tolist() if k >= 2]
    assert fewer.class_names == drawn.class_names
    merged = alterations.altered(drawn, ["merged-2"])
    assert merged.labels.tolist() == [0 if k == 1 else k for k in drawn.labels.tolist()]


@pytest.mark.parametrize("percent", [0, 50, 100])
def test_a_share_of_the_labels_is_drawn_anew(percent):
    many = creatures.render(1200, classes=CLASSES, size=32, split="train")
    kept = (alterations.altered(many, [f"relabelled-{percent}"]).labels == many.labels).double()
    expected = 1 - percent / 100 * (1 - 1 / CLASSES)
    assert abs(kept.mean() - expected) < 0.05


def test_marks_tell_the_class_in_as_many_images_as_they_should(drawn):
    def told(percent):
        marked = alterations.altered(drawn, [f"marked-{percent}"]).images
        where = (marked != drawn.images).any(1)  # (N, S, S)
        assert not where[:, 4:].any()  # marks are at the upper border
        left = where.any(1).float().argmax(1)
        return (left - drawn.labels * 28 / (CLASSES - 1)).abs() < 2

    assert told(100).all()
    assert told(0).double().mean() < 0.4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gray", "there is no alteration 'gray'; allowed: grey, blurred"),
        ("without", "there is no alteration 'without'"),
        ("without-0", "the number of without-0 is 0; allowed: 1"),
        ("marked-101", "the number of marked-101 is 101; allowed: 0 to 100"),
        (f"without-{CLASSES}", f"without-{CLASSES} leaves no image"),
    ],
)
def test_what_cannot_be_done_is_refused(drawn, name, said):
    with pytest.raises(InputError, match=said):
        alterations.altered(drawn, [name])


def test_a_profile_says_which_are_known():
    network = profiles.load("smoke").networks["vgg16"]
    with pytest.raises(ValueError, match="there is no alteration 'gray'"):
        profiles.Network(**network.model_dump() | {"altered": ["gray"]})


def test_altered_images_are_entries_of_their_own_and_others_keep_their_keys(tmp_path):
    profile = profiles.load("smoke")
    name = "vgg16"
    plain = plans.images(profile, name, "train")
    grey = plans.images(profile, name, "train", altered=("grey",))
    assert "altered" not in plain.settings and plain.key != grey.key
    workshop = Workshop(Store(tmp_path), "cpu")
    seen = workshop.images(grey).images
    assert torch.equal(seen[:, 0], seen[:, 1])
    assert torch.equal(workshop.images(plain).labels, workshop.images(grey).labels)


def test_a_network_learns_from_altered_images_and_is_tested_on_ordinary_ones():
    profile = profiles.load("smoke")
    described = profile.networks["vgg16"].model_copy(update={"altered": ("without-1",)})
    other = profile.model_copy(update={"networks": profile.networks | {"less": described}})
    needs = plans.network(other, Member("less", 0)).needs
    assert needs["train"].settings["altered"] == ["without-1"]
    assert "altered" not in needs["test"].settings
