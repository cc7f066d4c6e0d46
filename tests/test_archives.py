"""The published archives: layout, crops, order, and refusals.

Every test makes a tiny archive in the official layout. A photo is black with one bright rectangle,
the annotated box; its sides lie on JPEG's 8-pixel blocks, so that a crop which is off by a single
row shows, and its colour says which photo it is.
"""

import hashlib
import io
import os
import sys
import tarfile
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from kclib.errors import InputError
from kclib.images import archives
from kclib.images.archives import Archive, cub200, dogs120, voc_animals

SIDE = 16
WIDTH, HEIGHT = 80, 64
BOX = (16, 24, 56, 40)  # left, top, right, bottom
COLOURS = [(250, 40, 40), (40, 250, 40), (40, 40, 250), (250, 250, 40), (40, 250, 250)]


def photo(*rectangles, mode="RGB", form="JPEG"):
    """Encode a black photo with rectangles, each given as (box, colour)."""
    image = Image.new("RGB", (WIDTH, HEIGHT))
    for box, colour in rectangles:
        image.paste(colour, box)
    file = io.BytesIO()
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    image.convert(mode).save(file, form, **options)
    return file.getvalue()


def publish(path, files):
    """Write files (name to content) into a tar file; return it as a published archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return as_published(path)


def as_published(path):
    content = path.read_bytes()
    return Archive(path.as_uri(), hashlib.sha256(content).hexdigest(), len(content))


def lines(*rows):
    return "".join(f"{row}\n" for row in rows).encode()


def colours_of(images):
    """Return each image's one colour, after checking that it has one."""
    flat = images.images.flatten(2).float()  # (N, 3, S * S)
    assert flat.std(dim=2).max() == 0, "a crop holds something other than its box"
    return flat[:, :, 0]


def assert_shows(images, order):
    """Check that the crops show the photos with these colours, in this order."""
    expected = torch.tensor([COLOURS[i] for i in order], dtype=torch.float32)
    assert (colours_of(images) - expected).abs().max() <= 3  # JPEG's rounding


# ------------------------------------------------------------------------------ CUB-200-2011

CUB_PHOTOS = (  # in the order of images.txt, which is not that of the file names
    ("002.Crow/Crow_0002_7.jpg", 2, 1),
    ("001.Wren/Wren_0010_5.jpg", 1, 1),
    ("001.Wren/Wren_0003_9.jpg", 1, 0),
    ("001.Wren/Wren_0002_8.jpg", 1, 1),
    ("002.Crow/Crow_0001_6.jpg", 2, 0),
)


def cub_files(box=BOX, **changes):
    left, top, right, bottom = box
    numbered = list(enumerate(CUB_PHOTOS, start=1))
    files = {
        "images.txt": lines(*(f"{i} {name}" for i, (name, _, _) in numbered)),
        "classes.txt": lines("1 001.Wren", "2 002.Crow"),
        "image_class_labels.txt": lines(*(f"{i} {label}" for i, (_, label, _) in numbered)),
        "train_test_split.txt": lines(*(f"{i} {flag}" for i, (_, _, flag) in numbered)),
        "bounding_boxes.txt": lines(
            *(f"{i} {left}.0 {top}.0 {right - left}.0 {bottom - top}.0" for i, _ in numbered)
        ),
        "parts/parts.txt": lines("1 back", "2 left eye"),
        "parts/part_locs.txt": lines(
            *(
                f"{i} {row}"
                for i, _ in numbered
                for row in (f"1 {16 + 8 * i}.0 28.0 1", "2 0.0 0.0 0")
            )
        ),
    }
    for i, (name, _, _) in enumerate(CUB_PHOTOS):
        files[f"images/{name}"] = photo((BOX, COLOURS[i]))
    files |= {name.replace("__", "/"): content for name, content in changes.items()}
    return {f"CUB_200_2011/{name}": content for name, content in files.items()}


@pytest.fixture
def cub(tmp_path):
    return publish(tmp_path / "site" / "CUB_200_2011.tgz", cub_files())


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def test_cub_is_cropped_split_labelled_and_ordered(cub, root):
    train = cub200(root, "train", SIDE, download=True, archive=cub)
    assert train.images.dtype == torch.uint8 and train.images.shape == (3, 3, SIDE, SIDE)
    assert_shows(train, [3, 1, 0])  # by class folder, then by file name
    assert train.labels.tolist() == [0, 0, 1] and train.labels.dtype == torch.int64
    assert train.class_names == ("001.Wren", "002.Crow")
    test = cub200(root, "test", SIDE, archive=cub)
    assert_shows(test, [2, 4])
    assert test.labels.tolist() == [0, 1]


def test_cub_parts_are_in_units_of_the_crop(cub, root):
    train = cub200(root, "train", SIDE, download=True, archive=cub)
    assert train.part_names == ("back", "left eye")
    # photos 4, 2, 1 of images.txt: x = 16 + 8 i in a box from 16 to 56; y = 28 in one from 24 to 40
    back = torch.tensor([[32 / 40, 0.25, 1], [16 / 40, 0.25, 1], [8 / 40, 0.25, 1]])
    torch.testing.assert_close(train.part_points[:, 0], back)
    assert train.part_points[:, 1].eq(0).all()  # not visible


def test_order_is_that_of_an_image_folder(cub, root):
    from torchvision.datasets import ImageFolder

    train = cub200(root, "train", SIDE, download=True, archive=cub)
    folder = next(root.glob("CUB_200_2011-*")) / "CUB_200_2011" / "images"
    training = {name for name, _, flag in CUB_PHOTOS if flag}
    samples = [
        (os.path.relpath(path, folder).replace(os.sep, "/"), label)
        for path, label in ImageFolder(folder).samples
    ]
    order = [sample for sample in samples if sample[0] in training]
    assert train.labels.tolist() == [label for _, label in order]
    names = [name for name, _, _ in CUB_PHOTOS]
    assert_shows(train, [names.index(name) for name, _ in order])


def test_a_box_beyond_the_photo_ends_at_its_edge(tmp_path, root):
    files = cub_files(box=(16, 24, WIDTH + 20, 40))
    for i, (name, _, _) in enumerate(CUB_PHOTOS):
        files[f"CUB_200_2011/images/{name}"] = photo(((16, 24, WIDTH, 40), COLOURS[i]))
    archive = publish(tmp_path / "CUB_200_2011.tgz", files)
    train = cub200(root, "train", SIDE, download=True, archive=archive)
    assert_shows(train, [3, 1, 0])  # no black margin
    assert train.part_points[0, 0, 0] == 32 / (WIDTH - 16)


def test_a_box_outside_the_photo_is_refused(tmp_path, root):
    files = cub_files(box=(WIDTH, 24, WIDTH + 8, 40))
    archive = publish(tmp_path / "CUB_200_2011.tgz", files)
    with pytest.raises(InputError, match="no area"):
        cub200(root, "train", SIDE, download=True, archive=archive)


def test_grey_photos_become_rgb_and_png_under_a_jpeg_name_is_read(tmp_path, root):
    white = (BOX, (200, 200, 200))
    files = cub_files(
        **{
            "images__001.Wren/Wren_0002_8.jpg": photo(white, mode="L"),
            "images__001.Wren/Wren_0010_5.jpg": photo(white, mode="RGBA", form="PNG"),
        }
    )
    archive = publish(tmp_path / "CUB_200_2011.tgz", files)
    colours = colours_of(cub200(root, "train", SIDE, download=True, archive=archive))
    assert (colours[:2] - 200).abs().max() <= 3


@pytest.mark.parametrize(
    "change",
    [
        {"bounding_boxes.txt": lines("1 0.0 0.0 8.0 8.0")},  # photos without a box
        {"image_class_labels.txt": lines(*(f"{i} 3" for i in range(1, 6)))},  # no such class
        {"train_test_split.txt": b"1\n"},
        {"classes.txt": b"\xff\xfe"},
    ],
)
def test_lists_that_are_not_as_published_are_named(tmp_path, root, change):
    archive = publish(tmp_path / "CUB_200_2011.tgz", cub_files(**change))
    with pytest.raises(InputError, match="CUB_200_2011: not the official layout"):
        cub200(root, "train", SIDE, download=True, archive=archive)


def test_a_damaged_photo_is_named(tmp_path, root):
    broken = {"images__001.Wren/Wren_0002_8.jpg": photo((BOX, COLOURS[3]))[:300]}
    archive = publish(tmp_path / "CUB_200_2011.tgz", cub_files(**broken))
    with pytest.raises(InputError, match="Wren_0002_8.jpg"):
        cub200(root, "train", SIDE, download=True, archive=archive)


def test_digest_says_what_the_set_was_made_from(cub, root):
    first = cub200(root, "train", SIDE, download=True, archive=cub)
    assert first.digest == cub200(root, "train", SIDE, archive=cub).digest
    moved = next(root.glob("CUB_200_2011-*"))
    other = replace(cub, sha256="0" * 64)
    moved.rename(root / "CUB_200_2011-00000000")
    digests = {
        first.digest,
        cub200(root, "train", SIDE, archive=other).digest,
        cub200(root, "test", SIDE, archive=other).digest,
        cub200(root, "train", 2 * SIDE, archive=other).digest,
    }
    assert len(digests) == 4 and all(len(digest) == 64 for digest in digests)


# ------------------------------------------------------------------------------ Stanford Dogs


def annotation(*objects):
    """Write an annotation in VOC's format; each object as (name, box, further elements)."""
    body = "".join(
        f"<object><name>{name}</name>{more}<bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name, (left, top, right, bottom), more in objects
    )
    return f"<annotation><folder>x</folder>{body}</annotation>".encode()


DOG_LISTS = {
    "train": ["n02-Beagle/n02_9.jpg", "n01-Pug/n01_20.jpg", "n01-Pug/n01_3.jpg"],
    "test": ["n02-Beagle/n02_10.jpg"],
}


@pytest.fixture
def dogs(tmp_path):
    names = DOG_LISTS["train"] + DOG_LISTS["test"]
    second = (BOX[0], 48, BOX[2], 56)
    images = {
        f"Images/{name}": photo((BOX, COLOURS[i]), (second, (255, 255, 255)))
        for i, name in enumerate(names)
    }
    boxes = annotation(("dog", BOX, ""), ("dog", second, ""))
    notes = {f"Annotation/{name.removesuffix('.jpg')}": boxes for name in names}
    lists = {f"{split}_list.mat": lines(*names) for split, names in DOG_LISTS.items()}
    return tuple(
        publish(tmp_path / "site" / f"{name}.tar", files)
        for name, files in (("images", images), ("annotation", notes), ("lists", lists))
    )


@pytest.fixture
def scipy(monkeypatch):
    """Stand in for SciPy: `loadmat` gives a cell array as SciPy does, read from a plain list."""

    def loadmat(path):
        names = path.read_text().split()
        cells = np.empty((len(names), 1), object)
        for i, name in enumerate(names):
            cells[i, 0] = np.array([name])
        return {"file_list": cells, "labels": np.ones((len(names), 1), np.uint8)}

    module = types.ModuleType("scipy.io")
    module.loadmat = loadmat
    monkeypatch.setitem(sys.modules, "scipy", types.ModuleType("scipy"))
    monkeypatch.setitem(sys.modules, "scipy.io", module)


def test_dogs_come_from_three_archives_with_the_first_box_of_each_photo(dogs, root, scipy):
    train = dogs120(root, "train", SIDE, download=True, archives=dogs)
    assert_shows(train, [1, 2, 0])  # n01_20 sorts before n01_3
    assert train.labels.tolist() == [0, 0, 1]
    assert train.class_names == ("n01-Pug", "n02-Beagle")
    assert train.part_points is None
    test = dogs120(root, "test", SIDE, archives=dogs)
    assert_shows(test, [3])
    assert test.labels.tolist() == [1] and test.class_names == train.class_names
    assert test.digest != train.digest


@pytest.mark.parametrize("left", [".DS_Store", "Thumbs.db", ".ipynb_checkpoints/x", "__MACOSX/x"])
def test_what_a_file_manager_leaves_is_no_class(dogs, root, scipy, left):
    train = dogs120(root, "train", SIDE, download=True, archives=dogs)
    place = next(root.glob("images-*")) / "Images" / left
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b"")
    again = dogs120(root, "train", SIDE, archives=dogs)
    assert again.class_names == train.class_names and torch.equal(again.labels, train.labels)
    assert again.digest == train.digest
    # A folder more is a class more, and another set of images.
    (place.parent if place.parent.name == "Images" else place.parents[1]).joinpath("a").mkdir()
    more = dogs120(root, "train", SIDE, archives=dogs)
    assert len(more.class_names) == len(train.class_names) + 1 and more.digest != train.digest


def test_dogs_without_scipy_are_refused_before_anything_is_fetched(dogs, root, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(InputError, match="SciPy"):
        dogs120(root, "train", SIDE, download=True, archives=dogs)
    assert not root.exists()


# ------------------------------------------------------------------------------ Pascal VOC 2012


def test_voc_gives_one_image_for_each_animal_box(tmp_path, root):
    lower = (BOX[0], 48, BOX[2], 56)
    plain, difficult = "<difficult>0</difficult>", "<difficult>1</difficult>"
    head = f"{plain}<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    notes = {
        "2008_000003": annotation(
            ("sheep", lower, plain), ("person", BOX, head), ("sheep", BOX, plain)
        ),
        "2008_000002": annotation(("bird", (16.2, 24.4, 56.0, 40.9), plain)),  # VOC has fractions
        "2008_000005": annotation(("sheep", BOX, difficult), ("cat", lower, plain)),
        "2008_000007": annotation(("sheep", BOX, "")),
        "2008_000008": annotation(("chair", BOX, plain)),
    }
    files = {
        "ImageSets/Main/train.txt": lines(*list(notes)[:3]),
        "ImageSets/Main/val.txt": lines(*list(notes)[3:]),
        "ImageSets/Main/sheep_train.txt": lines("2008_000003  1"),
    }
    for i, (name, note) in enumerate(notes.items()):
        files[f"Annotations/{name}.xml"] = note
        second = COLOURS[4] if name == "2008_000003" else COLOURS[i]
        files[f"JPEGImages/{name}.jpg"] = photo((BOX, COLOURS[i]), (lower, second))
    archive = publish(
        tmp_path / "site" / "VOCtrainval_11-May-2012.tar",
        {f"VOCdevkit/VOC2012/{name}": content for name, content in files.items()},
    )
    train = voc_animals(root, "train", SIDE, download=True, archive=archive)
    assert train.class_names == ("bird", "cat", "cow", "dog", "horse", "sheep")
    assert train.labels.tolist() == [0, 1, 5, 5]
    assert_shows(train, [1, 2, 4, 0])  # boxes of one photo in the order of the annotation
    test = voc_animals(root, "test", SIDE, archive=archive)
    assert test.labels.tolist() == [5]
    assert_shows(test, [3])
    assert (root / "VOCtrainval_11-May-2012.tar").is_file()


# ------------------------------------------------------------------------------ fetching


def content_of(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_missing_archive_says_where_it_belongs_and_how_to_get_it(root, cub):
    with pytest.raises(InputError) as caught:
        cub200(root, "train", SIDE, archive=cub)
    for part in (str(root / "CUB_200_2011.tgz"), cub.url, "download=True"):
        assert part in str(caught.value)
    assert not root.exists()


@pytest.mark.parametrize(("split", "size"), [("val", SIDE), ("train", 8), ("train", 1024)])
def test_bad_requests_are_refused_before_anything_is_fetched(root, cub, split, size):
    with pytest.raises(InputError, match="split|pixels"):
        cub200(root, split, size, download=True, archive=cub)
    assert not root.exists()


def test_what_was_extracted_needs_neither_site_nor_archive(tmp_path, root, cub):
    first = cub200(root, "train", SIDE, download=True, archive=cub)
    (tmp_path / "site" / "CUB_200_2011.tgz").unlink()
    (root / "CUB_200_2011.tgz").unlink()
    again = cub200(root, "train", SIDE, archive=cub)
    assert torch.equal(first.images, again.images)
    assert content_of(root) == [f"CUB_200_2011-{cub.sha256[:8]}"]


def test_an_archive_of_the_user_is_checked_and_kept_when_it_is_another_file(root, cub):
    root.mkdir()
    mine = root / "CUB_200_2011.tgz"
    mine.write_bytes(b"not the archive")
    with pytest.raises(InputError) as caught:
        cub200(root, "train", SIDE, download=True, archive=cub)
    message = str(caught.value)
    for part in (str(mine), hashlib.sha256(b"not the archive").hexdigest(), cub.sha256, cub.url):
        assert part in message
    assert mine.read_bytes() == b"not the archive" and content_of(root) == [mine.name]


def test_a_download_that_is_not_the_archive_leaves_nothing(root, cub):
    with pytest.raises(InputError, match="expected " + "0" * 64):
        cub200(root, "train", SIDE, download=True, archive=replace(cub, sha256="0" * 64))
    assert content_of(root) == []


def test_a_download_cut_short_is_no_archive(tmp_path, root, cub):
    served = tmp_path / "site" / "CUB_200_2011.tgz"
    whole = served.read_bytes()
    served.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=f"ended after {len(whole) - 100:,} of {len(whole):,}"):
        cub200(root, "train", SIDE, download=True, archive=cub)
    assert content_of(root) == ["CUB_200_2011.tgz.part"]
    served.write_bytes(whole)
    assert len(cub200(root, "train", SIDE, download=True, archive=cub)) == 3


def test_an_address_that_does_not_answer_is_named(root, cub):
    gone = replace(cub, url=cub.url.replace("site", "nowhere"))
    with pytest.raises(InputError, match="cannot download file:.*nowhere"):
        cub200(root, "train", SIDE, download=True, archive=gone)
    assert content_of(root) == []


def test_an_interrupted_download_leaves_no_finished_file(root, cub):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cub200(root, "train", SIDE, download=True, archive=cub, progress=interrupt)
    assert content_of(root) == ["CUB_200_2011.tgz.part"]
    assert len(cub200(root, "train", SIDE, download=True, archive=cub)) == 3


def test_an_interrupted_extraction_leaves_no_folder(root, cub):
    calls = []

    def interrupt(done, total):
        calls.append(done)
        if len(calls) == 5:  # downloaded and checked in one piece each; then the third file
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cub200(root, "train", SIDE, download=True, archive=cub, progress=interrupt)
    assert content_of(root) == ["CUB_200_2011.tgz"]
    assert len(cub200(root, "train", SIDE, archive=cub)) == 3


def test_progress_counts_each_step_to_its_end(tmp_path, root, cub):
    seen = []
    cub200(root, "train", SIDE, True, archive=cub, progress=lambda *step: seen.append(step))
    size = (tmp_path / "site" / "CUB_200_2011.tgz").stat().st_size
    assert seen[:2] == [(size, size)] * 2  # downloaded, then checked, in one piece each
    extracting = [step for step in seen[2:] if step[1] == size]
    assert len(extracting) == len(cub_files()) and extracting == sorted(extracting)
    assert seen[-3:] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("suffix", [".tgz", ".tar"])
def test_a_truncated_archive_is_refused_even_if_its_checksum_says_otherwise(tmp_path, root, suffix):
    whole = tmp_path / f"CUB_200_2011{suffix}"
    publish(whole, cub_files())
    root.mkdir()
    cut = root / whole.name
    content = whole.read_bytes()
    cut.write_bytes(content[: max(content.find(b"\xff\xd8"), 0) + 300])  # in a photo, if visible
    with pytest.raises(InputError, match="cannot be extracted"):
        archives.fetch(as_published(cut), root)
    assert content_of(root) == [cut.name]


def members_that_lead_outside():
    dotted = tarfile.TarInfo("CUB_200_2011/../../outside.txt")
    link = tarfile.TarInfo("CUB_200_2011/link")
    link.type, link.linkname = tarfile.SYMTYPE, "../../../outside.txt"
    device = tarfile.TarInfo("CUB_200_2011/null")
    device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
    return [dotted, link, device]


@pytest.mark.parametrize("member", members_that_lead_outside(), ids=lambda member: member.name)
def test_a_member_that_leads_outside_is_refused(tmp_path, root, member):
    root.mkdir()
    path = root / "evil.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(member, io.BytesIO())
    with pytest.raises(InputError, match="cannot be extracted"):
        archives.fetch(as_published(path), root)
    assert content_of(root) == ["evil.tar"] and not (tmp_path / "outside.txt").exists()


def test_an_absolute_member_stays_inside(tmp_path, root):
    root.mkdir()
    outside = tmp_path / "outside.txt"
    archive = publish(root / "evil.tar", {str(outside): b"here"})
    folder = archives.fetch(archive, root)
    assert not outside.exists()
    assert [path.read_bytes() for path in folder.rglob("*.txt")] == [b"here"]


def test_another_process_that_was_faster_wins(root, cub):
    mark = f"CUB_200_2011-{cub.sha256[:8]}"

    def meanwhile(done, total):
        (root / mark).mkdir(exist_ok=True)
        (root / mark / "theirs").touch()

    assert archives.fetch(cub, root, download=True, progress=meanwhile) == root / mark
    assert content_of(root / mark) == ["theirs"]
    assert content_of(root) == [mark, "CUB_200_2011.tgz"]
