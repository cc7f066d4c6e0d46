"""Where the images of a profile come from: drawn, from packs, or from original archives."""

from collections.abc import Callable
from typing import NamedTuple

from ..errors import choose
from ..images import archives, creatures, datasets
from ..images.datasets import ImageSet
from . import code, environment
from .profiles import Data

SPLITS = ("train", "test")
_PACK_SIZE = 112  # pixels; larger images come from the original archive


class _Published(NamedTuple):
    """A published data set: its loader, its archives, and what all its images show."""

    load: Callable[..., ImageSet]
    archives: tuple[archives.Archive, ...]
    shows: str


_PUBLISHED = {
    "cub200": _Published(archives.cub200, (archives.CUB,), "bird"),
    "dogs120": _Published(archives.dogs120, archives.DOGS, "dog"),
    "vocanimal": _Published(archives.voc_animals, (archives.VOC,), "VOC animal"),
}


def images(data: Data, split: str, size: int, *, hide=(), progress=None) -> ImageSet:
    """Return the images of one split of a profile's data at ``size`` pixels.

    Parameters
    ----------
    data : kclib.book.profiles.Data
    split : {"train", "test"}
    size : int
    hide : sequence of str
        Parts of Creatures that are painted over.
    progress : callable, optional
        Called as ``progress(done, total, text)`` while archives are read.

    Raises
    ------
    InputError
        If the data are not there or damaged; the message says where they are looked for.
    """
    choose("split", split, SPLITS)
    count = getattr(data, split)
    if data.name == "creatures":
        return creatures.render(count, classes=data.classes, size=size, split=split, hide=hide)
    names = data.name.split("+")
    sets = {_PUBLISHED[name].shows: _published(name, split, size, progress) for name in names}
    return _assembled(sets, count)


def archives_of(data: Data, split: str, size: int) -> tuple[archives.Archive, ...]:
    """Return the makers' archives that those images are cut from: none if packs hold them.

    Examples
    --------
    >>> archives_of(Data(name="creatures"), "train", 64)  # drawn
    ()
    """
    names = () if data.name == "creatures" else data.name.split("+")
    without = (name for name in names if not _has_pack(name, split, size))
    return tuple(archive for name in without for archive in _PUBLISHED[name].archives)


def key(data: Data, split: str, size: int, *, hide=()) -> dict:
    """Return what identifies those images in the store, without making or reading them."""
    choose("split", split, SPLITS)
    content = {"name": data.name, "split": split, "size": size, "count": getattr(data, split)}
    if data.name == "creatures":
        hidden = {"hide": " ".join(hide)} if hide else {}
        drawn = code.digest("images.creatures", "render")
        return content | {"classes": data.classes, "code": drawn} | hidden
    used = [code.digest("book.sources", "_assembled")]
    for name in data.name.split("+"):
        if _has_pack(name, split, size):
            content[name] = datasets.PACKS[_pack(name, split)]
            used.append(code.digest("images.datasets", "load_pack"))
        else:
            content[name] = " ".join(archive.sha256 for archive in _PUBLISHED[name].archives)
            used.append(code.digest("images.archives", _PUBLISHED[name].load.__name__))
    return content | {"code": " ".join(dict.fromkeys(used))}


def _assembled(sets: dict[str, ImageSet], count: int) -> ImageSet:
    """Put published sets together, and keep the first ``count`` images; 0 keeps all."""
    found = datasets.mixture(sets) if len(sets) > 1 else next(iter(sets.values()))
    return found.subset(range(min(count, len(found)))) if count else found


@environment.hint("KC_DATA")
def _published(name: str, split: str, size: int, progress) -> ImageSet:
    folder = environment.data_folder()
    if _has_pack(name, split, size):
        return datasets.load_pack(_pack(name, split), size, folder)
    return _PUBLISHED[name].load(folder, split, size, progress=progress)


def _has_pack(name: str, split: str, size: int) -> bool:
    return size <= _PACK_SIZE and (environment.data_folder() / _pack(name, split)).exists()


def _pack(name: str, split: str) -> str:
    return f"{name}_{split}_{_PACK_SIZE}.npz"
