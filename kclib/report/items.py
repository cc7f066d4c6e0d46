"""What two networks are shown: images, texts or tensors, in order, with names and classes."""

import hashlib
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ..errors import InputError, unknown
from ..reading import inputs
from ..reading.inputs import _without_labels
from .naming import called, is_function

#: Fewer say too little: one in four is held out.
FEWEST = 30
IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_ARRAYS = (".npy", ".npz", ".safetensors")
_OF_PACKS = ("jpeg", "offsets", "names", "label", "class_names")


@dataclass(frozen=True)
class Items:
    """What is shown, one item after the other.

    Attributes
    ----------
    kind : {"image", "text", "tensor"}
        Images and texts go through each network's own preprocessing, tensors in as they are.
    names : tuple of str
    labels : tuple of int
        Class of each item; empty where there are none.
    class_names : tuple of str
    source : str
        Where they come from, in words.
    digest : str
        Changes when what is shown does.
    get : callable
        Called with a list of indices, returns a batch: a list of `PIL.Image.Image` or of str (None
        where a file cannot be read), or tensors as `kclib.features.extract` takes them.
    sized : bool
        Whether they are images of one size.

    Examples
    --------
    >>> items = items_of(np.zeros((40, 3, 8, 8), np.uint8))
    >>> items.kind, len(items), items.get([0])[0].size
    ('image', 40, (8, 8))
    """

    kind: str
    names: tuple[str, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    source: str
    digest: str
    get: Callable = field(repr=False)
    sized: bool = False

    def __len__(self) -> int:
        return len(self.names)


def items_of(given, *, fewest: int = FEWEST) -> Items:
    """Return what is shown, from any source.

    Parameters
    ----------
    given
        A folder of images, whose sub-folders are classes; a folder of texts (``.txt``); a list
        file, a path a line, a class after a tab if there are any; a pack (``.npz`` of JPEG files)
        or arrays (``.npy``, ``.npz``, ``.safetensors``), several in a file being inputs by
        name; ``file.py:function`` or ``package.module:function``, which returns what follows; a
        tensor or array, a tuple or dict of those, a `Dataset` or a `DataLoader`.
    fewest : int
        Fewer items are refused.

    Raises
    ------
    InputError
        If there is nothing of that name, or too few items.

    Examples
    --------
    >>> items_of(torch.zeros(2, 5), fewest=1).kind
    'tensor'
    """
    items = _from(given)
    if len(items) < fewest:
        raise InputError(
            f"there are {len(items)} items in {items.source}; allowed: {fewest} or more, as one in "
            "four is held out to measure on."
        )
    return items


def same(items: Items, others: Items) -> None:
    """Refuse two sets of items that are not versions of the same, in the same order.

    Examples
    --------
    >>> one = items_of(torch.zeros(40, 5))
    >>> same(one, items_of(torch.zeros(41, 5)))
    Traceback (most recent call last):
        ...
    kclib.errors.InputError: the networks are shown 40 and 41 items; allowed: the same for both, ...
    """
    if len(items) != len(others):
        raise InputError(
            f"the networks are shown {len(items)} and {len(others)} items; allowed: the same for "
            "both, in the same order."
        )
    for one, other in zip(items.names, others.names, strict=True):
        if Path(one).with_suffix("") != Path(other).with_suffix(""):
            raise InputError(
                f"the networks are shown different items: {one!r} and {other!r} stand in the same "
                "place; allowed: versions of the same, under the same names."
            )


def _from(given) -> Items:
    if isinstance(given, Items):
        return given
    if isinstance(given, str | Path):
        return _named(str(given))
    if isinstance(given, DataLoader):
        return _of_loader(given)
    if isinstance(given, Dataset):
        return _of_dataset(given, None)
    return _of_tensors(given, "tensors" if isinstance(given, tuple | Mapping) else "a tensor")


def _named(name: str) -> Items:
    path = Path(name).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.is_file() and path.suffix in _ARRAYS:
        return _of_arrays(path)
    if path.is_file() and path.suffix != ".py":
        return _of_list(path)
    if is_function(name):
        found = _from(called(name, "images"))
        return replace(found, source=f"{name} ({found.source})")
    near = unknown("folder or file", name, _around(path))
    raise InputError(
        str(near).split(" Allowed:")[0] + " Allowed: a folder of images or of texts, a list file, "
        "a pack, arrays (.npy, .npz, .safetensors), or file.py:function."
    )


def _around(path: Path) -> list[str]:
    folder = path.parent
    return [str(folder / p.name) for p in folder.iterdir()] if folder.is_dir() else []


def _of_folder(folder: Path) -> Items:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )
    images = [path for path in files if path.suffix.lower() in IMAGES]
    texts = [path for path in files if path.suffix.lower() == ".txt"]
    if not images and not texts:
        raise InputError(
            f"there are no images and no texts in {folder}; allowed: files that end with "
            f"{', '.join(sorted(IMAGES))} or .txt, in it or in its sub-folders, one a class."
        )
    chosen = images or texts
    names = [str(path.relative_to(folder)) for path in chosen]
    classes = [Path(name).parts[0] if len(Path(name).parts) > 1 else "" for name in names]
    return _of_files(chosen, names, classes, str(folder), text=not images)


def _of_list(path: Path) -> Items:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(
            f"{path} is no text; allowed: a folder, a list file with a path a line, a pack or "
            "arrays (.npy, .npz, .safetensors)."
        ) from None
    entries = [line.strip().partition("\t") for line in lines if line.strip()]
    files = [path.parent / Path(name).expanduser() for name, _, _ in entries]
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not entries:
        raise InputError(
            f"{path} lists {len(entries)} files, of which {len(missing)} are not there"
            f"{f', first {missing[0]!r}' if missing else ''}; allowed: a path a line, from the "
            "list's own folder, and a class after a tab if there are any."
        )
    names = [name for name, _, _ in entries]
    classes = [label.strip() for _, _, label in entries]
    text = all(file.suffix.lower() == ".txt" for file in files)
    return _of_files(files, names, classes, str(path), text=text)


def _of_files(files, names, classes, source: str, *, text: bool) -> Items:
    mark = hashlib.sha256()
    for file, name in zip(files, names, strict=True):
        status = file.stat()
        mark.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "replace"))
    class_names = tuple(sorted(set(classes))) if len(set(classes)) > 1 else ()
    labels = tuple(class_names.index(name) for name in classes) if class_names else ()
    read = read_text if text else read_image

    def get(index: Sequence[int]) -> list:
        return [read(files[k]) for k in index]

    return Items(
        "text" if text else "image",
        tuple(names),
        labels,
        class_names,
        source,
        mark.hexdigest(),
        get,
    )


def read_image(file) -> Image.Image | None:
    """Return an image file as RGB, upright; None if it cannot be read.

    What is transparent becomes white, grey three equal channels, 16 bits 8, and of several frames
    the first is taken.

    Examples
    --------
    >>> file = io.BytesIO()
    >>> Image.new("LA", (4, 4), (0, 0)).save(file, "PNG")
    >>> read_image(file).getpixel((0, 0))
    (255, 255, 255)
    >>> read_image(io.BytesIO(file.getvalue()[:30])) is None
    True
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; a bomb is an error below
            with Image.open(file) as opened:
                opened.load()
                image = ImageOps.exif_transpose(opened)
            if image.mode.startswith(("I;16", "I", "F")):
                wide = np.asarray(image).astype(np.float64)
                wide = wide / 257 if wide.max() > 255 else wide
                image = Image.fromarray(wide.clip(0, 255).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image)
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None


def read_text(file: Path) -> str | None:
    """Return a text file; None if it cannot be read or is empty.

    Examples
    --------
    >>> read_text(Path("/nowhere")) is None
    True
    """
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _of_arrays(path: Path) -> Items:
    try:
        if path.suffix == ".safetensors":
            return _of_tensors(_sole(load_file(path)), str(path))
        if path.suffix == ".npy":
            arrays = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with np.load(path, allow_pickle=False) as opened:
                arrays = {name: opened[name] for name in opened.files}
    except InputError:
        raise
    except Exception as error:  # each library raises its own
        raise InputError(
            f"{path} cannot be read ({str(error).partition(chr(10))[0]}); allowed: arrays of "
            "numbers, saved by numpy.save, numpy.savez or safetensors, without pickled objects."
        ) from None
    if isinstance(arrays, dict) and "jpeg" in arrays:
        return _of_pack(arrays, path)
    for array in arrays.values() if isinstance(arrays, dict) else (arrays,):
        if array.dtype.kind not in "biufc":
            raise InputError(f"{path} holds {array.dtype}; allowed: arrays of numbers.")
    return _of_tensors(_sole(arrays), str(path))


def _sole(arrays):
    """Return what stands alone in a file without its name: the one input of any network."""
    alone = isinstance(arrays, dict) and len(arrays) == 1
    return next(iter(arrays.values())) if alone else arrays


def _of_pack(arrays: dict, path: Path) -> Items:
    jpeg, offsets, names, label, class_names = _parts_of_pack(arrays, path)

    def one(k: int) -> Image.Image | None:
        return read_image(io.BytesIO(jpeg[offsets[k] : offsets[k + 1]].tobytes()))

    return Items(
        "image",
        tuple(map(str, names)),
        tuple(map(int, label)),
        tuple(map(str, class_names)),
        str(path),
        hashlib.sha256(jpeg.tobytes()).hexdigest(),
        lambda index: [one(k) for k in index],
    )


def _parts_of_pack(arrays: dict, path: Path) -> list[np.ndarray]:
    """Return what makes up a pack, or refuse it."""
    parts = [arrays.get(name, np.empty(())) for name in _OF_PACKS]
    jpeg, offsets, names, label, class_names = parts
    whole = (
        all(part.ndim == 1 for part in parts)
        and jpeg.dtype == np.uint8
        and offsets.dtype.kind in "iu"
        and (label.dtype.kind in "iu" or not len(label))
        and len(offsets) - 1 == len(names) == len(label)
        and (np.diff(offsets.astype(np.int64)) >= 0).all()
        and 0 <= offsets[0] <= offsets[-1] <= len(jpeg)
        and all(0 <= number < len(class_names) for number in label)
    )
    if not whole:
        raise InputError(
            f"the pack {path} is not whole; allowed: arrays {', '.join(_OF_PACKS)}; image k is the "
            "bytes offsets[k] to offsets[k + 1] of jpeg, and its class class_names[label[k]]."
        )
    return parts


def _of_tensors(given, source: str) -> Items:
    inputs.batches(given, 1)  # which refuses what is no tensor, or has other numbers of rows
    count = inputs.rows(given)
    mark = hashlib.sha256()
    for value in given.values() if isinstance(given, Mapping) else (
        given if isinstance(given, tuple) else (given,)
    ):  # fmt: skip
        mark.update(str(getattr(value, "dtype", value)).encode())
        if isinstance(value, np.ndarray):
            mark.update(np.ascontiguousarray(value).data)
        elif isinstance(value, torch.Tensor):
            mark.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    names = tuple(f"item {k}" for k in range(count))
    if isinstance(given, torch.Tensor | np.ndarray) and (axes := _of_pictures(given)):

        def one(k: int) -> Image.Image:
            picture = np.asarray(given[k]).transpose(axes)
            return Image.fromarray(picture.squeeze(2) if picture.shape[2:] == (1,) else picture)

        return Items(
            "image",
            names,
            (),
            (),
            source,
            mark.hexdigest(),
            lambda index: [one(k).convert("RGB") for k in index],
            sized=True,
        )

    def get(index: Sequence[int]):
        return inputs.take(given, np.asarray(index))  # one index of torch's is a number to NumPy

    return Items("tensor", names, (), (), source, mark.hexdigest(), get)


def _of_pictures(given: torch.Tensor | np.ndarray) -> tuple[int, ...]:
    """Return the axes of a picture, its channels last, if an array holds pictures; else none."""
    if "uint8" in str(given.dtype):
        if given.ndim == 3:
            return 0, 1
        if given.ndim == 4 and given.shape[1] in (1, 3):
            return 1, 2, 0
        if given.ndim == 4 and given.shape[3] in (1, 3):
            return 0, 1, 2
    return ()


def _of_loader(loader: DataLoader) -> Items:
    inputs.batches(loader, 1)  # which refuses one without a fixed order
    if isinstance(loader.dataset, IterableDataset):
        return _of_dataset([item for item in loader.dataset], loader.collate_fn)
    if loader.batch_size is None:
        raise InputError(
            "the DataLoader has batch_size=None; allowed: one that makes batches of single items, "
            "so that some can be held out."
        )
    return _of_dataset(loader.dataset, loader.collate_fn)


def _of_dataset(dataset, collate) -> Items:
    source = f"a {type(dataset).__name__}"
    count = len(dataset)
    if count == 0:
        raise InputError("there are 0 items; allowed: 30 or more.")
    first = dataset[0]
    alone = first[0] if isinstance(first, list | tuple) else first
    labels = tuple(int(label) for label in getattr(dataset, "targets", ()) or ())
    class_names = tuple(map(str, getattr(dataset, "classes", ()) or ()))
    if len(labels) != count or not class_names:
        labels, class_names = (), ()
    names = tuple(f"item {k}" for k in range(count))
    mark = hashlib.sha256(f"{source} {count} {_described(alone)}".encode()).hexdigest()

    def item(k: int):
        found = dataset[k]
        return found[0] if isinstance(found, list | tuple) else found

    if isinstance(alone, Image.Image):
        return Items(
            "image", names, labels, class_names, source, mark,
            lambda index: [item(k).convert("RGB") for k in index],
        )  # fmt: skip
    if isinstance(alone, str):
        return Items(
            "text", names, labels, class_names, source, mark, lambda index: [*map(item, index)]
        )
    join = collate or default_collate

    def get(index: Sequence[int]):
        return _without_labels(join([dataset[k] for k in index]))

    return Items("tensor", names, labels, class_names, source, mark, get)


def _described(value) -> str:
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        ).hexdigest()
    return type(value).__name__
