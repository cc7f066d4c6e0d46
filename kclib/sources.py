"""Where the images of a profile come from: drawn, from packs, or from original archives."""

from . import creatures, datasets
from .datasets import ImageSet
from .errors import choose
from .profiles import Data
from .store import code_digest

SPLITS = ("train", "test")


def images(data: Data, split: str, size: int) -> ImageSet:
    """Return the images of one split of a profile's data at ``size`` pixels."""
    choose("split", split, SPLITS)
    if data.name == "creatures":
        return creatures.render(getattr(data, split), classes=data.classes, size=size, split=split)
    found = datasets.load_pack(_pack(data, split), size)
    count = getattr(data, split)
    return found.subset(range(min(count, len(found)))) if count else found


def key(data: Data, split: str, size: int) -> dict:
    """Return what identifies those images in the store, without making or reading them."""
    content = {"name": data.name, "split": split, "size": size, "count": getattr(data, split)}
    if data.name == "creatures":
        return content | {"classes": data.classes, "code": code_digest("creatures")}
    return content | {"sha256": datasets.PACKS[_pack(data, split)]}


def _pack(data: Data, split: str) -> str:
    return f"{data.name}_{split}_112.npz"
