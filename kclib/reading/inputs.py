"""What a network is shown: tensors, arrays, several inputs, data sets and loaders, in batches."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    default_collate,
)

from ..errors import InputError
from ..imagenet import normalised

_ARRAYS = torch.Tensor | np.ndarray


def batches(images, batch: int) -> tuple[Iterable, int | None]:
    """Return batches of what a network is shown, in order, and the number of images.

    Parameters
    ----------
    images : torch.Tensor, numpy.ndarray, tuple, mapping, Dataset or DataLoader
        A tuple or mapping holds several inputs, each with one row an image; other values in it
        (``None``, flags) go in as they are. A data set gives inputs, or pairs of input and label.
    batch : int
        Images at a time; a `DataLoader` has its own.

    Returns
    -------
    batches : iterable
        Of what `images` holds, its tensors on the CPU or where they were.
    count : int or None
        None where it shows only at the end.

    Raises
    ------
    InputError
        If there is nothing, inputs have different numbers of rows, or a loader would give images
        in no fixed order, or not all of them.

    Examples
    --------
    >>> parts, count = batches(np.zeros((5, 3, 8, 8), np.uint8), 2)
    >>> [len(part) for part in parts], count
    ([2, 2, 1], 5)
    """
    if batch < 1:
        raise InputError(f"images in batches of {batch}; allowed: 1 or more.")
    if isinstance(images, Dataset) and not isinstance(images, DataLoader):
        images = DataLoader(images, batch_size=batch)
    if isinstance(images, DataLoader):
        return _loaded(images), _count(images)
    if not isinstance(images, _ARRAYS | tuple | Mapping):
        raise InputError(
            f"images are a {type(images).__name__}; allowed: a tensor or array with one row an "
            "image, a tuple or dict of those for several inputs, a Dataset, or a DataLoader. A "
            "list of images becomes a tensor by torch.stack."
        )
    count = rows(images)
    if count == 0:
        raise InputError("there are 0 images; allowed: 1 or more.")
    return (take(images, slice(k, k + batch)) for k in range(0, count, batch)), count


def rows(given) -> int:
    """Return how many images a batch holds.

    Examples
    --------
    >>> rows({"pixels": torch.zeros(4, 3, 8, 8), "mask": torch.zeros(4, 16), "labels": None})
    4
    """
    tensors = [value for value in _values(given) if isinstance(value, _ARRAYS)]
    counts = {len(tensor) if tensor.ndim else 0 for tensor in tensors}
    if len(counts) != 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "none"
        raise InputError(
            f"inputs are tensors of shapes {shapes}; allowed: one row an image in each of them."
        )
    return counts.pop()


def take(given, index):
    """Return the images of a batch at an index: a slice, or a tensor of whole numbers.

    Examples
    --------
    >>> take((torch.arange(5), None), slice(1, 3))
    (tensor([1, 2]), None)
    """

    def taken(rows):
        # Of an array, which may be mapped and read-only, only these rows are copied.
        return torch.from_numpy(rows[index].copy()) if isinstance(rows, np.ndarray) else rows[index]

    return _mapped(given, taken)


def as_call(given, preprocess: Callable, dtype: torch.dtype | None, device) -> tuple[tuple, dict]:
    """Return a batch as the arguments of a network: positional ones, and those by keyword.

    Parameters
    ----------
    given
        A batch as `batches` gives it.
    preprocess : callable
        Called with the batch on the device. The default of `kclib.features.extract`,
        `kclib.features.normalised`, is for uint8 images; in a tuple or mapping it is applied to
        those, and everything else goes in as it is.
    dtype : torch.dtype, optional
        Of the network's weights, which floating-point inputs get.
    device : torch.device or str

    Examples
    --------
    >>> as_call({"x": torch.ones(1)}, normalised, torch.float16, "cpu")
    ((), {'x': tensor([1.], dtype=torch.float16)})
    """
    given = _mapped(given, lambda tensor: tensor.to(device))
    if preprocess is not normalised:
        given = preprocess(given)
    elif isinstance(given, torch.Tensor):
        _check_images(given)
        given = normalised(given)
    else:
        given = _mapped(given, lambda t: normalised(t) if _are_images(t) else t)

    def ready(tensor: torch.Tensor) -> torch.Tensor:
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        if tensor.dim() == 4:  # convolutions are faster in this layout
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    given = _mapped(given, ready)
    if isinstance(given, Mapping):
        return (), dict(given)
    return (given if isinstance(given, tuple) else (given,)), {}


def _values(given) -> Iterable:
    if isinstance(given, Mapping):
        return given.values()
    return given if isinstance(given, tuple) else (given,)


def _mapped(given, change: Callable):
    """Return a batch with its tensors changed."""

    def one(value):
        return change(value) if isinstance(value, _ARRAYS) else value

    if isinstance(given, Mapping):
        return {name: one(value) for name, value in given.items()}
    return tuple(map(one, given)) if isinstance(given, tuple) else one(given)


def _count(loader: DataLoader) -> int | None:
    """Return how many images a loader gives; refuse one that does not give all, in order."""
    if isinstance(loader.dataset, IterableDataset):
        return None
    total = len(loader.dataset)
    if total == 0:
        raise InputError("there are 0 images; allowed: 1 or more.")
    sampler = loader.batch_sampler or loader.sampler
    if type(sampler) is BatchSampler:
        sampler = sampler.sampler
    if type(sampler) is not SequentialSampler:
        raise InputError(
            f"the DataLoader takes its images from a {type(sampler).__name__} (shuffle=True makes "
            "one): in another order for each network, or not each image once. Give a DataLoader "
            "with shuffle=False and without a sampler; for some of the images, a Subset of the "
            "data set."
        )
    if loader.drop_last and total % loader.batch_size:
        raise InputError(
            f"drop_last leaves out {total % loader.batch_size} of the {total} images; give a "
            "DataLoader with drop_last=False."
        )
    with torch.random.fork_rng(devices=[]):
        first, again = (_leaves(loader.dataset[0]) for _ in range(2))
    if (
        any(isinstance(leaf, Image.Image) for leaf in first)
        and loader.collate_fn is default_collate
    ):
        raise InputError(
            "the data set gives PIL images; allowed: tensors of one size. Give it a transform, "
            "such as torchvision.transforms.v2.PILToTensor after a Resize and a CenterCrop."
        )
    if len(first) != len(again) or any(map(_differ, first, again)):
        raise InputError(
            "the data set gives another image each time that its first one is asked for: its "
            "transform is random. Give the data set the transform for evaluation, so that both "
            "networks see the same images."
        )
    return None if loader.batch_size is None else total  # else its items are batches


def _leaves(item) -> list:
    if isinstance(item, Mapping):
        item = list(item.values())
    if isinstance(item, list | tuple):
        return [leaf for part in item for leaf in _leaves(part)]
    return [item]


def _differ(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return one.shape != other.shape or not torch.equal(one, other)
    return isinstance(one, np.ndarray) and not np.array_equal(one, other)


def _loaded(loader: DataLoader) -> Iterator:
    for given in loader:  # which draws from torch's generator when it begins, not before
        yield _without_labels(given)


def _without_labels(given):
    """Return the input of what a loader gives: a tensor, a dict of inputs, or a pair."""
    if isinstance(given, torch.Tensor | Mapping):
        return given
    if isinstance(given, list | tuple) and len(given) == 1:
        return given[0]
    if isinstance(given, list | tuple) and len(given) == 2:
        first, label = given
        flat = isinstance(label, torch.Tensor) and label.dim() == 1
        if flat or not isinstance(label, torch.Tensor):
            return first
    shapes = ", ".join(str(tuple(getattr(part, "shape", ()))) for part in given)
    raise InputError(
        f"the data set gives {len(given)} values an image (in a batch: {shapes}); allowed: an "
        "input, a pair of input and label (one number an image), or a dict of inputs by keyword."
    )


def _are_images(given: torch.Tensor) -> bool:
    return given.dtype == torch.uint8 and given.dim() == 4 and given.shape[1] == 3


def _check_images(given: torch.Tensor) -> None:
    """Refuse what the default preprocessing would turn into something else, silently."""
    if _are_images(given):
        return
    shape = ", ".join(["N", *map(str, given.shape[1:])])
    if given.dtype == torch.uint8:
        last = given.dim() == 4 and given.shape[3] == 3
        hint = (
            "These have their channels last: images.permute(0, 3, 1, 2) puts them first."
            if last
            else "Of grey images, images.expand(-1, 3, -1, -1) makes three equal channels."
        )
    else:
        hint = (
            "If they are in 0 to 1, give preprocess=lambda batch: normalised(255 * batch), from "
            "kclib.features; if they are as the network takes them, preprocess=lambda batch: batch."
        )
    raise InputError(
        f"images are {str(given.dtype).removeprefix('torch.')} of shape ({shape}); the default "
        f"preprocess takes uint8 images (N, 3, S, S) from 0 to 255. {hint}"
    )


def probes(parts: Iterator) -> tuple[object, list]:
    """Return the first batch, and two small batches made of its images: of 2 and of 3.

    Examples
    --------
    >>> first, (two, three) = probes(iter([torch.tensor([7, 8])]))
    >>> two, three
    (tensor([7, 8]), tensor([7, 8, 7]))
    """
    first = next(parts, None)
    if first is None:
        raise InputError("there are 0 images; allowed: 1 or more.")
    there = rows(first)
    if there == 0:
        raise InputError("there are 0 images; allowed: 1 or more.")
    return first, [take(first, torch.arange(small) % there) for small in (2, 3)]
