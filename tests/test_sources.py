"""Where images come from: packs and mixtures of them, and keys that tell them apart."""

import pytest
import torch
from test_datasets import CLASSES, NAMES, PARTS, photo, write_pack

from kclib.book import environment, sources
from kclib.book.profiles import Data
from kclib.errors import InputError
from kclib.images import archives, datasets
from kclib.images.datasets import load_pack

CUB, MIX = Data(name="cub200"), Data(name="cub200+dogs120")
THREE = Data(name="cub200+dogs120+vocanimal")
#: How much bluer the photos of each pack are, so that they are told apart.
KINDS = {"cub200": 0, "dogs120": 1, "vocanimal": 2}


@pytest.fixture(autouse=True)
def packs(monkeypatch, tmp_path):
    """Small packs under the names of the paper's data sets; only CUB's have parts."""
    made = {}
    for name, number in KINDS.items():
        for split in sources.SPLITS:
            path = tmp_path / f"{name}_{split}_112.npz"
            photos = [photo(k + number / 4) for k in range(len(NAMES))]
            offsets = torch.tensor([0, *map(len, photos)]).cumsum(0).numpy()
            drop = () if name == "cub200" else ("part_names", "part_xyv")
            jpeg = torch.frombuffer(bytearray(b"".join(photos)), dtype=torch.uint8).numpy()
            names = [f"{name} {kind} {split}" for kind in CLASSES]
            made[path.name] = write_pack(
                path, drop=drop, jpeg=jpeg, offsets=offsets, class_names=names
            )
    monkeypatch.setattr(datasets, "PACKS", made)
    monkeypatch.setenv("KC_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("data", "shows"), [(MIX, ["bird", "dog"]), (THREE, ["bird", "dog", "VOC animal"])]
)
@pytest.mark.parametrize("split", sources.SPLITS)
def test_a_mixture_holds_each_pack_whole_and_says_which_it_was(data, shows, split):
    mixed = sources.images(data, split, 16)
    names = data.name.split("+")
    assert len(mixed) == len(names) * len(NAMES) and mixed.coarse_names == tuple(shows)
    assert len(mixed.class_names) == len(names) * len(CLASSES) == len(set(mixed.class_names))
    for name, shown in zip(names, shows, strict=True):
        alone = load_pack(f"{name}_{split}_112.npz", 16, environment.data_folder())
        group = mixed.subset(mixed.group(shown))
        assert torch.equal(group.images, alone.images)
        called = [mixed.class_names[label] for label in group.labels]
        assert called == [alone.class_names[label] for label in alone.labels]


def test_one_pack_alone_keeps_its_parts_and_has_no_coarse_labels():
    alone = sources.images(CUB, "train", 16)
    assert alone.part_names == PARTS and alone.coarse is None
    assert sources.images(MIX, "train", 16).part_points is None


def test_a_count_takes_the_first_images():
    few = sources.images(Data(name="cub200", train=3, test=100), "train", 16)
    every = sources.images(CUB, "train", 16)
    assert len(few) == 3 and torch.equal(few.images, every.images[:3])
    assert len(sources.images(Data(name="cub200", test=100), "test", 16)) == len(every)


def test_keys_tell_data_splits_and_sizes_apart():
    asked = [(d, s, size) for d in (CUB, MIX, THREE) for s in sources.SPLITS for size in (16, 20)]
    asked.append((Data(name="cub200", train=3), "train", 16))
    keys = [sources.key(*request) for request in asked]
    assert len({str(sorted(key.items())) for key in keys}) == len(asked)
    assert keys == [sources.key(*request) for request in asked]


@pytest.mark.parametrize("name", KINDS)
def test_the_key_of_a_mixture_holds_every_pack_that_it_is_made_of(monkeypatch, name):
    before = sources.key(MIX, "train", 16)
    monkeypatch.setitem(datasets.PACKS, f"{name}_train_112.npz", "another file")
    assert (sources.key(MIX, "train", 16) != before) == (name in MIX.name)


def test_without_a_pack_the_archive_is_read_and_its_checksum_is_in_the_key(packs):
    whole = sources.key(MIX, "train", 16)
    (packs / "dogs120_train_112.npz").unlink()
    found = sources.key(MIX, "train", 16)
    assert found["cub200"] == whole["cub200"]
    assert found["dogs120"] == " ".join(archive.sha256 for archive in archives.DOGS)
    assert found["code"] != whole["code"]
    with pytest.raises(InputError, match="there is no .*CUB_200_2011.tgz; get it from"):
        (packs / "cub200_train_112.npz").unlink()
        sources.images(MIX, "train", 16)


def test_what_is_wrong_with_a_pack_is_said_with_the_variable_that_names_its_folder(packs):
    (packs / "cub200_train_112.npz").write_bytes(b"another file")
    with pytest.raises(InputError, match="damaged or another file.* KC_DATA names the folder"):
        sources.images(CUB, "train", 16)


def test_images_larger_than_a_pack_s_come_from_the_archive():
    assert sources.key(CUB, "train", 112)["cub200"] == datasets.PACKS["cub200_train_112.npz"]
    assert sources.key(CUB, "train", 113)["cub200"] == archives.CUB.sha256
    with pytest.raises(
        InputError, match="there is no .*CUB_200_2011.tgz.* KC_DATA names the folder"
    ):
        sources.images(CUB, "train", 113)


def test_hidden_parts_of_creatures_are_another_key_and_other_images():
    data = Data(name="creatures", classes=4, train=6, test=6)
    assert sources.key(data, "train", 32) != sources.key(data, "train", 32, hide=("torso",))
    seen, hidden = (sources.images(data, "train", 32, hide=h) for h in ((), ("torso",)))
    assert not torch.equal(seen.images, hidden.images)
    assert torch.equal(seen.labels, hidden.labels)


@pytest.mark.parametrize("ask", [sources.key, sources.images])
def test_a_split_that_is_none_is_refused(ask):
    with pytest.raises(InputError, match="no split 'tests'. Did you mean 'test'"):
        ask(MIX, "tests", 16)
