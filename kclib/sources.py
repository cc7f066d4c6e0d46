"""Where the images of a profile come from: drawn, from packs, or from original archives."""

from . import archives, creatures, datasets
from .datasets import ImageSet
from .errors import choose
from .profiles import Data
from .store import code_digest

SPLITS = ("train", "test")
_PACK_SIZE = 112  # pixels; larger images come from the original archive


def images(data: Data, split: str, size: int, progress=None) -> ImageSet:
    """Return the images of one split of a profile's data at ``size`` pixels.

    Raises
    ------
    InputError
        If the data are not there or damaged; the message says where they are looked for.
    """
    choose("split", split, SPLITS)
    count = getattr(data, split)
    if data.name == "creatures":
        return creatures.render(count, classes=data.classes, size=size, split=split)
    if _has_pack(data, split, size):
        found = datasets.load_pack(_pack(data, split), size)
    else:
        found = archives.cub200(datasets.data_folder(), split, size, progress=progress)
    return found.subset(range(min(count, len(found)))) if count else found


def key(data: Data, split: str, size: int) -> dict:
    """Return what identifies those images in the store, without making or reading them."""
    choose("split", split, SPLITS)
    content = {"name": data.name, "split": split, "size": size, "count": getattr(data, split)}
    if data.name == "creatures":
        return content | {"classes": data.classes, "code": code_digest("creatures")}
    if _has_pack(data, split, size):
        pack = datasets.PACKS[_pack(data, split)]
        return content | {"sha256": pack, "code": code_digest("datasets")}
    return content | {"sha256": archives.CUB.sha256, "code": code_digest("archives")}


def _has_pack(data: Data, split: str, size: int) -> bool:
    return size <= _PACK_SIZE and (datasets.data_folder() / _pack(data, split)).exists()


def _pack(data: Data, split: str) -> str:
    return f"{data.name}_{split}_{_PACK_SIZE}.npz"
