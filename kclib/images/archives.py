"""The paper's data sets, read from the archives that their makers publish.

CUB-200-2011, Stanford Dogs and the animals of Pascal VOC 2012 are downloaded, checked and extracted
once. Images are cropped to the published boxes and squashed to squares, the authors' protocol, and
come in the order of torchvision's ``ImageFolder``: by class name, then by file name.
"""

import errno
import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.request
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

from ..errors import InputError, choose
from .datasets import ImageSet


@dataclass(frozen=True)
class Archive:
    """A published tar file: its address, which ends in its name, its sha256, its size in bytes.

    Examples
    --------
    >>> CUB.name, len(CUB.sha256), f"{CUB.size / 1e9:.2f} GB"
    ('CUB_200_2011.tgz', 64, '1.15 GB')
    """

    url: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[-1]

    def extracted(self, root) -> Path:
        """Return the folder under a root that holds its content, once that is complete."""
        return Path(root).expanduser() / f"{self.name.split('.')[0]}-{self.sha256[:8]}"


# The checksums and sizes that TensorFlow Datasets records (url_checksums/caltech_birds2011.txt,
# stanford_dogs.txt and voc.txt). For CUB and VOC they name the same files as torchvision's md5
# sums, 97eceeb196236b17998738112f37df78 and 6cd6e144f989b92b3379bac3b3de84fd.
CUB = Archive(
    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
    "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
    1_150_585_339,
)
DOGS = tuple(
    Archive(f"http://vision.stanford.edu/aditya86/ImageNetDogs/{name}.tar", sha256, size)
    for name, size, sha256 in (
        ("images", 793_579_520, "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58"),
        (
            "annotation",
            21_852_160,
            "662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd",
        ),
        ("lists", 481_280, "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c"),
    )
)
VOC = Archive(  # where host.robots.ox.ac.uk, the address of old, redirects to
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    1_999_639_040,
)
ANIMALS = ("bird", "cat", "cow", "dog", "horse", "sheep")


class _Crop(NamedTuple):
    photo: Path
    box: tuple[int, int, int, int]  # left, top, right, bottom: pixels of the photo, from 0
    label: int
    parts: list[list[float]] = []  # each part's x and y in the photo, and whether it is visible


def cub200(root, split: str, size: int, download=False, *, archive=CUB, progress=None) -> ImageSet:
    """Load CUB-200-2011: 5,994 training and 5,794 test photos of 200 kinds of birds.

    Parameters
    ----------
    root : path
        Folder of the archive and of what is extracted from it, together 2.4 GB.
    split : {"train", "test"}
        The official split (``train_test_split.txt``).
    size : int
        Side in pixels that each crop is squashed to, 16 to 512; bilinear with antialiasing.
    download : bool
        Fetch the archive if it is missing.
    archive : Archive, optional
        The archive to read.
    progress : callable, optional
        ``progress(done, total)`` is called in each long step: bytes downloaded, bytes checked,
        bytes extracted, images cropped.

    Returns
    -------
    ImageSet
        With the 15 annotated parts; a part that is not visible stands at (0, 0).

    Raises
    ------
    InputError
        If the archive is missing, is not the published one, or cannot be downloaded or extracted.

    Examples
    --------
    With ``download=True`` it would be fetched:

    >>> cub200("no-such-folder", "train", 64)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    kclib.errors.InputError: there is no no-such-folder/CUB_200_2011.tgz; get it from https://...
    """
    _check_request(split, size)
    base = fetch(archive, root, download, progress) / "CUB_200_2011"
    split_file = base / "train_test_split.txt"
    with _official_layout(base):
        photos, classes = _table(base / "images.txt"), _table(base / "classes.txt")
        class_of = _table(base / "image_class_labels.txt")
        boxes = _table(base / "bounding_boxes.txt")
        parts = _table(base / "parts" / "parts.txt")
        points = _table(base / "parts" / "part_locs.txt", keys=2)
        class_names = sorted(classes.values())
        crops = []
        for image, training in _table(split_file).items():
            if training == {"train": "1", "test": "0"}[split]:
                x, y, width, height = (int(float(v)) for v in boxes[image].split())
                label = class_names.index(classes[class_of[image]])
                seen = [[float(v) for v in points[f"{image} {part}"].split()] for part in parts]
                photo = base / "images" / photos[image]
                crops.append(_Crop(photo, (x, y, x + width, y + height), label, seen))
    made_from = (split, split_file, archive)
    return _image_set(crops, class_names, size, made_from, progress, tuple(parts.values()))


def dogs120(root, split: str, size: int, download=False, *, archives=DOGS, progress=None):
    """Load Stanford Dogs: 12,000 training and 8,580 test photos of 120 breeds, the first box each.

    Parameters, result and errors are those of `cub200`, without parts; ``archives`` are those of
    photos, annotation and split, 1.7 GB with what is extracted. The official split is a MATLAB
    file, which SciPy reads: this function alone needs it.

    Examples
    --------
    >>> dogs120("no-such-folder", "test", 8)
    Traceback (most recent call last):
        ...
    kclib.errors.InputError: size is 8 pixels; allowed: 16 to 512.
    """
    _check_request(split, size)
    try:
        from scipy.io import loadmat
    except ImportError:
        raise InputError("reading the split of Stanford Dogs takes SciPy; install it.") from None
    images, annotation, lists = (fetch(one, root, download, progress) for one in archives)
    split_file = lists / f"{split}_list.mat"
    with _official_layout(lists.parent):
        class_names = _folders(images / "Images")
        crops = []
        for cell in loadmat(split_file)["file_list"].ravel():
            photo = str(cell.item())  # breed/name.jpg
            label = class_names.index(photo.split("/")[0])
            _, box, _ = [*_objects(annotation / "Annotation" / photo.removesuffix(".jpg"))][0]
            crops.append(_Crop(images / "Images" / photo, box, label))
    return _image_set(crops, class_names, size, (split, split_file, *archives), progress)


def voc_animals(root, split: str, size: int, download=False, *, archive=VOC, progress=None):
    """Load the animals of Pascal VOC 2012: bird, cat, cow, dog, horse, sheep; one image per box.

    Parameters, result and errors are those of `cub200`, without parts; archive and folder take
    4 GB. "test" is VOC's list ``val.txt``. Boxes marked as difficult are left out, as in VOC's
    evaluation: that gives the authors' numbers of images. VOC counts pixels from 1; like the
    authors' code this counts from 0, so that a crop lacks its box's first row and column.

    Examples
    --------
    >>> voc_animals("no-such-folder", "val", 64)
    Traceback (most recent call last):
        ...
    kclib.errors.InputError: there is no split 'val'. Allowed: train, test.
    """
    _check_request(split, size)
    base = fetch(archive, root, download, progress) / "VOCdevkit" / "VOC2012"
    split_file = base / "ImageSets" / "Main" / {"train": "train.txt", "test": "val.txt"}[split]
    with _official_layout(base):
        crops = [
            _Crop(base / "JPEGImages" / f"{photo}.jpg", box, ANIMALS.index(name))
            for photo in split_file.read_text("utf-8").split()
            for name, box, difficult in _objects(base / "Annotations" / f"{photo}.xml")
            if name in ANIMALS and not difficult
        ]
    return _image_set(crops, ANIMALS, size, (split, split_file, archive), progress)


def fetch(archive: Archive, root, download=False, progress=None) -> Path:
    """Return the folder with an archive's content; parameters and errors are those of `cub200`.

    The folder appears only once it is complete; from then on, the archive is no longer needed.

    Examples
    --------
    >>> fetch(VOC, "no-such-folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    kclib.errors.InputError: there is no no-such-folder/VOCtrainval_11-May-2012.tar; get it from ...
    """
    path, folder = Path(root).expanduser() / archive.name, archive.extracted(root)
    if folder.is_dir():
        return folder
    if path.is_file():
        _check(path, archive, progress)
    elif download:
        _download(archive, path, progress)
    else:
        raise InputError(f"there is no {path}; get it from {archive.url}, or pass download=True.")
    _extract(path, folder, progress)
    return folder


def _download(archive, path, progress) -> None:
    """Download into a partial file, which gets its name once it is checked.

    What a broken connection, a full disk or a kill left of it is gone on from: at once as long as
    each connection brings something, and in the next call.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as target:
            while (had := target.tell()) < archive.size:
                try:
                    _go_on(archive, target, progress)
                except (OSError, http.client.HTTPException) as error:
                    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
                    if full or target.tell() <= had:
                        raise
    except (OSError, http.client.HTTPException) as error:
        if part.exists() and part.stat().st_size == 0:
            part.unlink()
        raise InputError(
            f"cannot download {archive.url} ({error}); try again, with space on the disk, which "
            f"goes on from what is there, or put the file at {path}."
        ) from None
    try:
        _check(part, archive, progress)
    except InputError:
        part.unlink()
        raise
    os.replace(part, path)


def _go_on(archive, target, progress) -> None:
    """Append to a file what it lacks of an archive, over one connection."""
    start = target.tell()
    headers = {"User-Agent": "kclib"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(archive.url, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as source:
        if start and source.status != http.HTTPStatus.PARTIAL_CONTENT:
            target.truncate(0)  # the server sends it from its start
            target.seek(0)
        while target.tell() < archive.size and (piece := source.read(1 << 20)):
            target.write(piece)
            if progress is not None:
                progress(target.tell(), archive.size)
    if target.tell() < archive.size:
        raise OSError(f"the connection ended after {target.tell():,} of {archive.size:,} bytes")


def _check(path, archive, progress) -> None:
    """Refuse a file unless it has the right sha256."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as source:
        while piece := source.read(1 << 20):
            digest.update(piece)
            done += len(piece)
            if progress is not None:
                progress(done, path.stat().st_size)
    if digest.hexdigest() != archive.sha256:
        raise InputError(
            f"{path} is incomplete, damaged or another file: {done:,} bytes, sha256 "
            f"{digest.hexdigest()}, expected {archive.sha256}; get it again from {archive.url}."
        )


def _extract(path, folder, progress) -> None:
    """Extract into a partial folder of this process, renamed when complete; refuse ways out."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        with path.open("rb") as raw, tarfile.open(fileobj=raw) as tar:
            for member in tar:
                tar.extract(member, part, filter="data")
                if progress is not None:
                    progress(raw.tell(), path.stat().st_size)
        os.replace(part, folder)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if not folder.is_dir():  # else another process was faster
            raise InputError(
                f"{path} cannot be extracted ({error}); make space, or get the archive again."
            ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_request(split, size) -> None:
    choose("split", split, ("train", "test"))
    if not 16 <= size <= 512:
        raise InputError(f"size is {size} pixels; allowed: 16 to 512.")


@contextmanager
def _official_layout(folder):
    """Say which folder to look at when its lists and annotations are not as published."""
    try:
        yield
    except (OSError, LookupError, TypeError, ValueError, ElementTree.ParseError) as error:
        raise InputError(
            f"{folder}: not the official layout ({error!r}); remove what was extracted there."
        ) from None


def _folders(path) -> list[str]:
    """Return the names of the folders that are classes: not what a file manager leaves there."""
    return sorted(
        e.name for e in path.iterdir() if e.is_dir() and not e.name.startswith((".", "_"))
    )


def _table(path, keys=1) -> dict[str, str]:
    """Read one of CUB's lists: on each line one or two numbers, and what they stand for."""
    rows = (line.split(maxsplit=keys) for line in path.read_text("utf-8").splitlines())
    return {" ".join(row[:keys]): row[keys].strip() for row in rows}


def _objects(path):
    """Yield name, box, and whether it is difficult, of each object in a VOC-like annotation."""
    for entry in ElementTree.parse(path).getroot().findall("object"):
        sides = (entry.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
        box = tuple(int(float(side)) for side in sides)
        yield entry.findtext("name"), box, entry.findtext("difficult") == "1"


def _image_set(crops, class_names, size, made_from, progress, part_names=()) -> ImageSet:
    """Cut out the crops, in the order of class and file name, and assemble the set."""
    crops = sorted(crops, key=lambda crop: (crop.label, crop.photo.name))  # boxes keep their order
    images = np.empty((len(crops), 3, size, size), np.uint8)
    points = np.zeros((len(crops), len(part_names), 3), np.float32)
    for i, crop in enumerate(crops):
        try:
            with Image.open(crop.photo) as photo:
                left, top = max(crop.box[0], 0), max(crop.box[1], 0)
                right, bottom = min(crop.box[2], photo.width), min(crop.box[3], photo.height)
                if left >= right or top >= bottom:
                    raise ValueError("the box has no area in the photo")
                image = photo.convert("RGB").crop((left, top, right, bottom))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot cut {crop.box} out of {crop.photo}: {error}.") from None
        image = image.resize((size, size), Image.Resampling.BILINEAR)
        images[i] = np.asarray(image).transpose(2, 0, 1)  # (3, S, S)
        for j, (x, y, visible) in enumerate(crop.parts):
            if visible:
                points[i, j] = (x - left) / (right - left), (y - top) / (bottom - top), 1
        if progress is not None:
            progress(i + 1, len(crops))
    split, split_file, *archives = made_from
    key = " ".join([split, str(size), *class_names, *(archive.sha256 for archive in archives)])
    return ImageSet(
        images=torch.from_numpy(images),
        labels=torch.tensor([crop.label for crop in crops], dtype=torch.int64),
        class_names=tuple(class_names),
        digest=hashlib.sha256(key.encode() + split_file.read_bytes()).hexdigest(),
        part_names=part_names,
        part_points=torch.from_numpy(points) if part_names else None,
    )
