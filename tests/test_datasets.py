"""Packs, halves and subsets: the right images in the right order, or a clear refusal."""

import hashlib
import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kclib.book import environment
from kclib.errors import InputError
from kclib.images import datasets
from kclib.images.datasets import ImageSet, halves, load_pack, mixture

SIDE = 24
CLASSES = ("001.Auk", "002.Bee_eater", "010.Crow")
#: In the order in which `write_pack` puts them: unsorted, and easy to sort wrongly.
NAMES = (
    "010.Crow/b.jpg",
    "001.Auk/9.jpg",
    "002.Bee_eater/Z.jpg",
    "001.Auk/10.jpg",
    "010.Crow/B.jpg",
    "002.Bee_eater/a.jpg",
    "001.Auk/9_.jpg",
)
PARTS = ("beak", "tail")


def photo(number, side=SIDE, form="JPEG"):
    """Encode a gradient whose blue says which photo it is."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, side)
    pixels[:, :, 1] = np.linspace(0, 255, side)[:, None]
    pixels[:, :, 2] = 30 * number
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, quality=100, subsampling=0)
    return file.getvalue()


def decoded(content, size):
    """Return a photo as uint8 (3, size, size), resized as the authors do."""
    image = Image.open(io.BytesIO(content)).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def contents(photos):
    """Return the arrays of a pack of photos (one for each of NAMES)."""
    label = [CLASSES.index(name.split("/")[0]) for name in NAMES]
    number = np.arange(len(NAMES), dtype=np.float32)
    return {
        "jpeg": np.frombuffer(b"".join(photos), np.uint8),
        "offsets": np.cumsum([0, *map(len, photos)]),
        "label": np.array(label, np.int16),
        "names": np.array(NAMES),
        "class_names": np.array(CLASSES),
        "size": np.array(SIDE),
        "box_xyxy": np.zeros((len(NAMES), 4), np.float32),
        "part_names": np.array(PARTS),
        # The first coordinate of the first part says whose it is.
        "part_xyv": np.stack([np.full((2, 3), k / 10, np.float32) for k in number]),
    }


def write_pack(path, *, save=np.savez, drop=(), **changes):
    """Write a pack of seven photos; return its sha256."""
    arrays = contents([photo(number) for number in range(len(NAMES))]) | changes
    save(path, **{key: value for key, value in arrays.items() if key not in drop})
    return sha256(path)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def known(tmp_path, monkeypatch):
    """The path of a pack that kclib knows, in the folder that KC_DATA names."""
    path = tmp_path / "birds_train_24.npz"
    monkeypatch.setattr(datasets, "PACKS", {path.name: write_pack(path)})
    monkeypatch.setenv("KC_DATA", str(tmp_path))
    return path


def refusal(name="birds_train_24.npz", size=SIDE, **options):
    """Return the message with which a pack is refused, by default of the folder KC_DATA names."""
    with pytest.raises(InputError) as caught:
        folder = options.pop("folder", None) or environment.data_folder()
        load_pack(name, size, folder, **options)
    return str(caught.value)


# --- packs ------------------------------------------------------------------------------------


def test_images_stand_in_the_order_of_imagefolder(known, tmp_path):
    from torchvision.datasets import ImageFolder  # imports only after kclib

    for number, name in enumerate(NAMES):
        file = tmp_path / "unpacked" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photo(number))
    expected = ImageFolder(tmp_path / "unpacked")
    loaded = load_pack(known.name, SIDE, known.parent)
    assert loaded.class_names == tuple(expected.classes)
    assert loaded.labels.tolist() == expected.targets
    assert loaded.labels.dtype == torch.int64 and loaded.images.dtype == torch.uint8
    for image, (other, _) in zip(loaded.images, expected, strict=True):
        assert torch.equal(image, torch.from_numpy(np.array(other)).permute(2, 0, 1))


@pytest.mark.parametrize("size", [16, SIDE, 40])
def test_images_are_resized_bilinearly_to_any_size(known, size):
    loaded = load_pack(known.name, size, known.parent)
    assert loaded.images.shape == (len(NAMES), 3, size, size)
    order = sorted(range(len(NAMES)), key=lambda k: NAMES[k])
    for image, number in zip(loaded.images, order, strict=True):
        assert torch.equal(image, decoded(photo(number), size))


def test_part_points_follow_the_images(known):
    loaded = load_pack(known.name, 16, known.parent)
    assert loaded.part_names == PARTS
    assert loaded.part_points.shape == (len(NAMES), 2, 3)
    assert loaded.part_points.dtype == torch.float32
    numbers = (loaded.images[:, 2].float().mean((1, 2)) / 30).round()  # what blue says
    assert torch.allclose(loaded.part_points[:, 0, 0], numbers / 10)
    assert sorted(numbers.tolist()) == list(range(len(NAMES)))


def test_pack_without_parts_has_none(tmp_path):
    path = tmp_path / "dogs.npz"
    checksum = write_pack(path, drop=("part_names", "part_xyv"))
    loaded = load_pack(path.name, SIDE, folder=tmp_path, checksum=checksum)
    assert loaded.part_points is None and loaded.part_names == ()


def test_grey_photos_become_colour(tmp_path):
    path = tmp_path / "grey.npz"
    file = io.BytesIO()
    Image.new("L", (SIDE, SIDE), 77).save(file, "JPEG")
    checksum = write_pack(path, **contents([file.getvalue()] * len(NAMES)))
    loaded = load_pack(path.name, 16, folder=tmp_path, checksum=checksum)
    assert (loaded.images == 77).all()


def test_digest_depends_on_content_and_size_alone(known, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "renamed.npz"
    copy.write_bytes(known.read_bytes())
    digest = load_pack(known.name, 16, known.parent).digest
    assert load_pack(copy.name, 16, folder=copy.parent, checksum=sha256(copy)).digest == digest
    assert load_pack(known.name, 20, known.parent).digest != digest
    checksum = write_pack(copy, class_names=np.array(["x", "y", "z"]))
    assert load_pack(copy.name, 16, folder=copy.parent, checksum=checksum).digest != digest


# --- refusals ---------------------------------------------------------------------------------


def test_without_kc_data_the_message_says_what_to_set(known, monkeypatch):
    monkeypatch.delenv("KC_DATA")
    message = refusal()
    assert "KC_DATA is not set" in message
    assert "Creatures" in message


def test_kc_data_that_is_no_folder_is_named(known, monkeypatch):
    monkeypatch.setenv("KC_DATA", str(known))
    assert repr(str(known)) in (message := refusal()) and "not a folder" in message


def test_missing_pack_is_named_with_what_to_do(known):
    known.unlink()
    message = refusal()
    assert str(known) in message and "No such file" in message and "give its folder" in message
    assert "KC_DATA" not in message  # the library knows of no variables


def test_unknown_pack_gets_the_nearest_name(known):
    message = refusal("birds_trian_24.npz")
    assert "'birds_trian_24.npz'" in message and f"Did you mean '{known.name}'" in message


@pytest.mark.parametrize("size", [-1, 0, 15, 513])
def test_size_out_of_range_is_refused(known, size):
    assert f"size is {size} pixels; allowed: 16 to 512" in refusal(size=size)


def test_truncated_pack_says_what_was_read_and_what_was_expected(known):
    expected = sha256(known)
    known.write_bytes(known.read_bytes()[:-100])
    message = refusal()
    assert str(known) in message
    assert sha256(known)[:16] in message and expected[:16] in message
    assert f"{known.stat().st_size:,} bytes" in message
    assert "copy or download it again" in message


def test_another_checksum_than_the_given_one_is_refused(known):
    message = refusal(checksum="0" * 64)
    assert str(known) in message and "0" * 16 in message and sha256(known)[:16] in message


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pack_that_was_truncated_before_its_checksum_was_taken(tmp_path, save, share):
    path = tmp_path / "short.npz"
    write_pack(path, save=save)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    message = refusal(path.name, folder=tmp_path, checksum=sha256(path))
    assert str(path) in message and "cannot be read" in message and "again" in message


@pytest.mark.parametrize(
    "change",
    [
        dict(drop=("jpeg",)),
        dict(drop=("label",)),
        dict(offsets=np.arange(3)),
        dict(jpeg=np.zeros(10_000, np.uint8)),
        dict(label=np.array([0, 1])),
        dict(names=np.array(NAMES, dtype=object)),  # would have to be unpickled
    ],
    ids=["no images", "no labels", "few offsets", "no JPEG", "few labels", "pickled names"],
)
def test_pack_that_is_none_is_refused(tmp_path, change):
    path = tmp_path / "odd.npz"
    checksum = write_pack(path, **change)
    message = refusal(path.name, folder=tmp_path, checksum=checksum)
    assert str(path) in message and "cannot be read" in message


def test_damaged_compressed_pack_is_refused(tmp_path):
    path = tmp_path / "odd.npz"
    write_pack(path, save=np.savez_compressed)
    content = bytearray(path.read_bytes())
    for place in range(100, 400):
        content[place] ^= 0xFF
    path.write_bytes(content)
    message = refusal(path.name, folder=tmp_path, checksum=sha256(path))
    assert "cannot be read" in message


# --- subsets ----------------------------------------------------------------------------------


@pytest.fixture
def six():
    """A set of six images with everything that can be attached to one."""
    number = torch.arange(6)
    return ImageSet(
        images=number.to(torch.uint8).view(6, 1, 1, 1).expand(6, 3, 4, 4).contiguous(),
        labels=number % 3,
        class_names=("a", "b", "c"),
        digest="d",
        coarse=number % 2,
        coarse_names=("bird", "dog"),
        part_names=("head",),
        part_points=number.float().view(6, 1, 1).expand(6, 1, 3),
        part_masks=(number > 2).view(6, 1, 1, 1).expand(6, 1, 4, 4),
    )


def test_subset_keeps_what_belongs_to_each_image(six):
    chosen = six.subset([4, 1, 1])
    assert len(chosen) == 3
    assert chosen.images[:, 0, 0, 0].tolist() == [4, 1, 1]
    assert chosen.labels.tolist() == [1, 1, 1]
    assert chosen.coarse.tolist() == [0, 1, 1]
    assert chosen.part_points[:, 0, 0].tolist() == [4, 1, 1]
    assert chosen.part_masks[:, 0, 0, 0].tolist() == [True, False, False]
    assert (chosen.class_names, chosen.part_names) == (six.class_names, six.part_names)


def test_subset_of_all_is_equal_but_for_its_digest(six):
    everything = six.subset(range(6))
    tensors, _ = six.parts()
    for name, tensor in everything.parts()[0].items():
        assert torch.equal(tensor, tensors[name])


def test_digest_tells_subsets_apart(six):
    digests = [six.subset(chosen).digest for chosen in ([0, 1], [1, 0], [0], [0, 1, 2], [])]
    assert len({six.digest, *digests}) == 6
    assert six.subset(torch.tensor([0, 1])).digest == six.subset((0, 1)).digest == digests[0]


def test_mask_chooses_where_it_is_true(six):
    mask = six.labels == 1
    assert six.subset(mask).images[:, 0, 0, 0].tolist() == [1, 4]
    assert six.subset(mask).digest == six.subset([1, 4]).digest
    assert len(six.subset(torch.zeros(6, dtype=torch.bool))) == 0


@pytest.mark.parametrize(
    "indices, given",
    [
        ([0, 6], "from 0 to 6"),
        ([-1], "from -1 to -1"),
        ([0.5], "float32"),
        ([True, False], r"bool of shape \(2,\)"),
    ],
)
def test_indices_outside_the_set_are_refused(six, indices, given):
    with pytest.raises(InputError, match=given):
        six.subset(indices)


def test_set_survives_a_detour_through_json(six, known):
    for original in (six, load_pack(known.name, 16, known.parent)):
        tensors, record = original.parts()
        back = ImageSet.of_parts(tensors, json.loads(json.dumps(record)))
        for name, value in vars(original).items():
            same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
            assert same(getattr(back, name), value), name


# --- coarse labels, groups and mixtures --------------------------------------------------------


def test_coarse_labels_take_the_place_of_the_fine_ones(six):
    coarse = six.coarsened()
    assert coarse.labels.tolist() == [0, 1, 0, 1, 0, 1] and coarse.class_names == ("bird", "dog")
    assert torch.equal(coarse.images, six.images) and len(coarse) == 6
    assert coarse.digest not in (six.digest, coarse.coarsened().digest)
    assert coarse.digest == six.coarsened().digest != six.subset([0, 1]).coarsened().digest


def test_groups_are_disjoint_and_make_the_whole(six):
    groups = [six.group(name) for name in six.coarse_names]
    assert [group.tolist() for group in groups] == [[0, 2, 4], [1, 3, 5]]
    assert six.subset(groups[1]).images[:, 0, 0, 0].tolist() == [1, 3, 5]
    assert six.subset([5, 4, 1]).group("dog").tolist() == [0, 2]
    assert six.subset([0, 2]).group("dog").tolist() == []


def test_what_has_no_coarse_labels_has_none_of_either(six, known):
    with pytest.raises(InputError, match="no coarse labels; allowed: Creatures and mixtures"):
        load_pack(known.name, 16, known.parent).coarsened()
    with pytest.raises(InputError, match="group of images 'brid'. Did you mean 'bird'"):
        six.group("brid")


def birds_and_dogs(birds=5, dogs=3, size=4):
    """Return two sets whose images say which they are, with labels from 0 in each."""
    return {
        name: ImageSet(
            images=torch.full((count, 3, size, size), value, dtype=torch.uint8),
            labels=torch.arange(count) % classes,
            class_names=tuple(f"{name} {k}" for k in range(classes)),
            digest=name,
            **parts,
        )
        for name, count, value, classes, parts in (
            (
                "bird",
                birds,
                10,
                3,
                {"part_names": ("beak",), "part_points": torch.zeros(birds, 1, 3)},
            ),
            ("dog", dogs, 20, 2, {}),
        )
    }


@given(st.integers(1, 9), st.integers(1, 9))
def test_a_mixture_has_all_images_under_all_classes(birds, dogs):
    sets = birds_and_dogs(birds, dogs)
    mixed = mixture(sets)
    assert len(mixed) == birds + dogs and len(mixed.class_names) == 5
    assert mixed.coarse_names == ("bird", "dog")
    for name, found in sets.items():
        group = mixed.subset(mixed.group(name))
        assert torch.equal(group.images, found.images)
        called = [mixed.class_names[label] for label in group.labels]
        assert called == [found.class_names[label] for label in found.labels]
    assert mixed.labels.dtype == mixed.coarse.dtype == torch.int64
    assert mixed.part_points is None and mixed.part_names == ()
    assert mixed.coarsened().class_names == ("bird", "dog")


def test_the_digest_of_a_mixture_is_that_of_its_sets_in_their_order():
    sets = birds_and_dogs()
    turned = dict(reversed(sets.items()))
    digests = {mixture(sets).digest, mixture(turned).digest, sets["bird"].digest}
    assert len(digests) == 3 and mixture(birds_and_dogs()).digest == mixture(sets).digest
    other = sets | {"dog": sets["dog"].subset([0, 1])}
    assert mixture(other).digest not in digests


def test_images_of_different_sizes_do_not_mix():
    sets = birds_and_dogs() | {"dog": birds_and_dogs(size=5)["dog"]}
    with pytest.raises(InputError, match="sides of .*'bird': 4, 'dog': 5.* pixels; allowed: one"):
        mixture(sets)


# --- halves -----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4)))
def test_halves_are_disjoint_complete_and_even_in_each_class(labels):
    labels = torch.tensor(labels, dtype=torch.int64)
    first, second = halves(labels)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(len(labels)))
    assert first.tolist() == sorted(first.tolist()) and second.tolist() == sorted(second.tolist())
    for label in range(5):
        members = (labels == label).nonzero().flatten().tolist()
        here = [k for k in first.tolist() if labels[k] == label]
        assert here == members[: len(members) // 2]
