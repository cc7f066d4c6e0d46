"""Labelled images in memory, and the prepared packs of the paper's data sets.

A pack is one ``.npz`` of JPEG files, cropped to the published bounding boxes; `load_pack` reads
those in a folder. The original archives are read
by :mod:`kclib.images.archives`, the embedded data set is drawn by :mod:`kclib.images.creatures`.
"""

import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import InputError, choose

#: sha256 of each known pack.
PACKS = {
    "cub200_test_112.npz": "43b0a31a2a79f0f64a69f339e131fa6b1a7195bb5a59158f95383589207d8b53",
    "cub200_train_112.npz": "338c63e82f6abafb8fd415bd1af307d01778306c593775ee6faa10cdee5527c5",
    "dogs120_test_112.npz": "541c7eea5a26efa17244708e84d252e57f76579f1f171f510a5c0813d0dfeb51",
    "dogs120_train_112.npz": "1eb9abadaef99401dfde7e9371f6e5657d70d53c5b9cc91fa887e477baee8e47",
    "vocanimal_test_112.npz": "872639830c3423e2b1c0a7f15e21c18574505c52be8570480d6b5bcbdfaf8504",
    "vocanimal_train_112.npz": "63df8c9cfa8d75fadf600a2c23df7cbcc6c49e173d0f076f15070b0ead87d0da",
}


@dataclass(frozen=True)
class ImageSet:
    """Labelled images.

    Attributes
    ----------
    images : torch.Tensor
        uint8, shape (N, 3, S, S).
    labels : torch.Tensor
        int64, shape (N,), 0-based.
    class_names : tuple of str
    digest : str
        Hexadecimal sha256 of what the set was made from; part of every stored result's key.
    coarse : torch.Tensor, optional
        int64, shape (N,), labels of a coarser task (bird or dog).
    coarse_names : tuple of str
    part_names : tuple of str
    part_points : torch.Tensor, optional
        float32, shape (N, P, 3): x and y in units of the crop's side, and visibility (CUB).
    part_masks : torch.Tensor, optional
        bool, shape (N, P, S, S) (Creatures).

    Examples
    --------
    >>> images = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    >>> birds = ImageSet(images, torch.tensor([0, 1, 1]), ("crow", "wren"), digest="made up")
    >>> wrens = birds.subset(birds.labels == 1)
    >>> len(wrens), wrens.digest == birds.digest
    (2, False)
    """

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    digest: str
    coarse: torch.Tensor | None = None
    coarse_names: tuple[str, ...] = ()
    part_names: tuple[str, ...] = ()
    part_points: torch.Tensor | None = None
    part_masks: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self) -> tuple[dict[str, torch.Tensor], dict]:
        """Return the set as named tensors and a record of JSON's types, for `of_parts`."""
        fields = {name: value for name, value in vars(self).items() if value is not None}
        tensors = {k: v for k, v in fields.items() if isinstance(v, torch.Tensor)}
        return tensors, {k: v for k, v in fields.items() if k not in tensors}

    def coarsened(self) -> "ImageSet":
        """Return the set with its coarse labels in place of the fine-grained ones.

        Raises
        ------
        InputError
            If it has none.
        """
        if self.coarse is None:
            raise InputError("these images have no coarse labels; allowed: Creatures and mixtures.")
        mark = hashlib.sha256(f"{self.digest} coarse".encode()).hexdigest()
        return replace(self, labels=self.coarse, class_names=self.coarse_names, digest=mark)

    def group(self, name: str) -> torch.Tensor:
        """Return the indices, int64 and ascending, of the images with a coarse label.

        Raises
        ------
        InputError
            If there is no such coarse label.
        """
        number = self.coarse_names.index(choose("group of images", name, self.coarse_names))
        return (self.coarse == number).nonzero()[:, 0]

    @classmethod
    def of_parts(cls, tensors: dict[str, torch.Tensor], record: dict) -> "ImageSet":
        """Rebuild a set from what `parts` returned, also after a detour through JSON."""
        names = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        return cls(**tensors, **names)

    def subset(self, indices) -> "ImageSet":
        """Return the images at ``indices`` (a sequence of int), in that order.

        A bool mask of shape (N,) chooses the images where it is true.
        """
        index = torch.as_tensor(indices)
        if index.dtype == torch.bool and index.shape == self.labels.shape:
            index = index.nonzero()[:, 0]
        if len(index) and (index.dtype.is_floating_point or index.dtype == torch.bool):
            raise InputError(
                f"indices are {index.dtype} of shape {tuple(index.shape)}; allowed: whole numbers, "
                f"or one bool for each of the {len(self)} images."
            )
        index = index.to(torch.int64)
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise InputError(
                f"indices reach from {int(index.min())} to {int(index.max())}; "
                f"allowed: 0 to {len(self) - 1}, the images of this set."
            )
        chosen = {
            name: None if (value := getattr(self, name)) is None else value[index]
            for name in ("images", "labels", "coarse", "part_points", "part_masks")
        }
        mark = hashlib.sha256(self.digest.encode() + index.numpy().tobytes()).hexdigest()
        return replace(self, digest=mark, **chosen)


def load_pack(name: str, size: int, folder: Path, *, checksum: str | None = None) -> ImageSet:
    """Load one pack, its images squashed to ``size`` x ``size``.

    The images stand in the order of ``torchvision.datasets.ImageFolder`` (class folders sorted,
    then files sorted), in which the authors' halves of CUB count.

    Parameters
    ----------
    name : str
        The file's name, e.g. ``"cub200_train_112.npz"``.
    size : int
        Side in pixels, 16 to 512; bilinear with antialiasing, as the authors resize.
    folder : Path
        Where the pack lies.
    checksum : str, optional
        Expected sha256; the known pack's own by default.

    Returns
    -------
    ImageSet

    Raises
    ------
    InputError
        If the pack is missing, truncated, or its checksum is not the expected one.

    Examples
    --------
    A pack of one image; ``offsets`` say where in ``jpeg`` each file begins and ends:

    >>> from tempfile import TemporaryDirectory
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (20, 30)).save(file, "JPEG")
    >>> jpeg = np.frombuffer(file.getvalue(), np.uint8)
    >>> arrays = {"jpeg": jpeg, "offsets": [0, len(jpeg)], "names": ["1.jpg"], "label": [0]}
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "crows.npz"
    ...     np.savez(path, class_names=["crow"], **arrays)
    ...     checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    ...     load_pack("crows.npz", 16, Path(folder), checksum=checksum).images.shape
    torch.Size([1, 3, 16, 16])
    """
    if not 16 <= size <= 512:
        raise InputError(f"size is {size} pixels; allowed: 16 to 512.")
    path = Path(folder) / name
    if checksum is None:
        checksum = PACKS[choose("pack", name, PACKS)]
    content = _verified(path, checksum)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as pack:
            arrays = {key: pack[key] for key in pack.files}
        jpeg, offsets = arrays["jpeg"], arrays["offsets"]
        order = np.lexsort((arrays["names"], arrays["label"]))  # as ImageFolder would list them
        images = np.stack(
            [_decode(jpeg[offsets[i] : offsets[i + 1]], size) for i in order]
        )  # (N, S, S, 3)
        labels, class_names = arrays["label"][order], arrays["class_names"]
    except (ValueError, LookupError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"the pack {path} cannot be read ({error}); copy or download it again."
        ) from None
    points = arrays.get("part_xyv")
    return ImageSet(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),  # (N, 3, S, S)
        labels=torch.from_numpy(labels.astype(np.int64)),
        class_names=tuple(map(str, class_names)),
        digest=hashlib.sha256(f"{checksum} {size}".encode()).hexdigest(),
        part_names=tuple(map(str, arrays.get("part_names", ()))),
        part_points=None if points is None else torch.from_numpy(points[order].astype(np.float32)),
    )


def mixture(sets: dict[str, ImageSet]) -> ImageSet:
    """Put sets together: one set of all their classes, coarse labels saying which set it was.

    Parameters
    ----------
    sets : dict of str to ImageSet
        From what a set shows (``"bird"``) to the set; images of one size. Annotated parts, which
        not all have, are left out.

    Raises
    ------
    InputError
        If the sizes of the images differ.

    Examples
    --------
    >>> images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    >>> birds = ImageSet(images, torch.tensor([0, 1]), ("crow", "wren"), digest="one")
    >>> dogs = ImageSet(images, torch.tensor([0, 0]), ("pug",), digest="another")
    >>> both = mixture({"bird": birds, "dog": dogs})
    >>> both.labels, both.coarse
    (tensor([0, 1, 2, 2]), tensor([0, 0, 1, 1]))
    """
    sizes = {name: found.images.shape[-1] for name, found in sets.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"images have sides of {sizes} pixels; allowed: one size for all sets.")
    labels, coarse, class_names = [], [], []
    for number, found in enumerate(sets.values()):
        labels.append(found.labels + len(class_names))
        coarse.append(torch.full_like(found.labels, number))
        class_names += found.class_names
    digests = " ".join(found.digest for found in sets.values())
    return ImageSet(
        images=torch.cat([found.images for found in sets.values()]),
        labels=torch.cat(labels),
        class_names=tuple(class_names),
        digest=hashlib.sha256(digests.encode()).hexdigest(),
        coarse=torch.cat(coarse),
        coarse_names=tuple(sets),
    )


def halves(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split a training set into two disjoint halves (Table 1, lower half).

    The first half takes the first half of each class's images, rounded down, in the set's order.
    On CUB-200-2011 these are the authors' halves, of 2,994 and 3,000 images.

    Parameters
    ----------
    labels : torch.Tensor
        int64, shape (N,).

    Returns
    -------
    tuple of torch.Tensor
        int64 indices, ascending.

    Examples
    --------
    >>> halves(torch.tensor([0, 0, 1, 1, 1, 0]))
    (tensor([0, 2]), tensor([1, 3, 4, 5]))
    """
    first = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        first[members[: len(members) // 2]] = True
    return first.nonzero().flatten(), (~first).nonzero().flatten()


def _verified(path: Path, checksum: str) -> bytes:
    """Return the content of ``path`` if its sha256 is ``checksum``."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {path} ({error.strerror}); put it there, or give its folder."
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != checksum:
        raise InputError(
            f"{path} is damaged or another file: its sha256 is {found[:16]}..., expected "
            f"{checksum[:16]}... ({len(content):,} bytes read); copy or download it again."
        )
    return content


def _decode(jpeg: np.ndarray, size: int) -> np.ndarray:
    """Decode one JPEG to uint8 (size, size, 3)."""
    with Image.open(io.BytesIO(jpeg.tobytes())) as image:
        image = image.convert("RGB")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(image)
