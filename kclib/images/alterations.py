"""Images changed on purpose, so that what a network cannot know of them is known.

Some changes take something out of the pictures: a network that sees only those cannot know it.
Others change which images there are, or what their labels say: a network that learned from those
was not taught it. Each has a name, as profiles write it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from ..errors import InputError
from .datasets import ImageSet

_SEED = 20201  # of what is drawn: labels, marks
_BLUR = 1 / 24  # standard deviation of the blur, in units of an image's side
_MARK = 1 / 8  # side of a mark, the same


def _grey(images: ImageSet) -> ImageSet:
    from torchvision.transforms import functional as pictures  # here: it takes seconds

    grey = pictures.rgb_to_grayscale(images.images, num_output_channels=3)
    return replace(images, images=grey)


def _blurred(images: ImageSet) -> ImageSet:
    from torchvision.transforms import functional as pictures  # here: it takes seconds

    sigma = _BLUR * images.images.shape[-1]
    size = 2 * round(3 * sigma) + 1
    return replace(images, images=pictures.gaussian_blur(images.images, [size, size], [sigma] * 2))


def _left_half(images: ImageSet) -> ImageSet:
    """Paint the right half in the mean colour of the left one, an image at a time."""
    middle = images.images.shape[-1] // 2
    painted = images.images.clone()
    mean = painted[..., :middle].float().mean((2, 3), keepdim=True).round()
    painted[..., middle:] = mean.to(painted.dtype)
    return replace(images, images=painted)


def _mirrored(images: ImageSet) -> ImageSet:
    return replace(images, images=images.images.flip(-1))


def _without(count: int, images: ImageSet) -> ImageSet:
    """Leave the images of the first classes out; the others keep their labels."""
    return images.subset(images.labels >= count)


def _merged(count: int, images: ImageSet) -> ImageSet:
    """Give the images of the first classes one label, that of the first."""
    merged = torch.where(images.labels < count, 0, images.labels)
    return replace(images, labels=merged)


def _relabelled(percent: int, images: ImageSet) -> ImageSet:
    """Draw the labels of a share of the images anew, each class equally likely."""
    draw = torch.Generator().manual_seed(_SEED)
    drawn = torch.randint(len(images.class_names), images.labels.shape, generator=draw)
    chosen = torch.rand(images.labels.shape, generator=draw) < percent / 100
    return replace(images, labels=torch.where(chosen, drawn, images.labels))


def _marked(percent: int, images: ImageSet) -> ImageSet:
    """Put a mark into each image whose place and colour say its class, in a share of them.

    In the other images it says a class that is drawn, so that it misleads there.
    """
    classes, size = len(images.class_names), images.images.shape[-1]
    draw = torch.Generator().manual_seed(_SEED)
    said = _relabelled(100 - percent, images).labels
    colours = torch.randint(256, (classes, 3), generator=draw)
    side = max(2, round(_MARK * size))
    marked = images.images.clone()
    for label in range(classes):
        start = label * (size - side) // max(1, classes - 1)
        place = colours[label].to(marked.dtype).view(3, 1, 1)
        marked[said == label, :, :side, start : start + side] = place
    return replace(images, images=marked)


#: Alterations by name.
_PLAIN: dict[str, Callable[[ImageSet], ImageSet]] = {
    "grey": _grey,
    "blurred": _blurred,
    "left-half": _left_half,
    "mirrored": _mirrored,
}
#: Those that take a number, written after the name: of classes, or percent of the images.
_COUNTED: dict[str, tuple[Callable[[int, ImageSet], ImageSet], tuple[int, int]]] = {
    "without": (_without, (1, 10_000)),
    "merged": (_merged, (2, 10_000)),
    "relabelled": (_relabelled, (0, 100)),
    "marked": (_marked, (0, 100)),
}


def known(name: str) -> Callable[[ImageSet], ImageSet]:
    """Return an alteration by its name.

    Raises
    ------
    InputError
        If there is none of that name.

    Examples
    --------
    >>> known("marked-101")
    Traceback (most recent call last):
    ...
    kclib.errors.InputError: the number of marked-101 is 101; allowed: 0 to 100.
    """
    if name in _PLAIN:
        return _PLAIN[name]
    kind, _, number = name.partition("-")
    if kind not in _COUNTED or not number.isdecimal():
        allowed = [*_PLAIN, *(f"{counted}-NUMBER" for counted in _COUNTED)]
        raise InputError(f"there is no alteration {name!r}; allowed: {', '.join(allowed)}.")
    change, (least, most) = _COUNTED[kind]
    if not least <= int(number) <= most:
        raise InputError(f"the number of {name} is {number}; allowed: {least} to {most}.")
    return partial(change, int(number))


def altered(images: ImageSet, names: Sequence[str]) -> ImageSet:
    """Return images with alterations, one after the other.

    Parameters
    ----------
    images : ImageSet
    names : sequence of str
        ``"grey"``; ``"blurred"``; ``"left-half"``, the right half painted over; ``"mirrored"``;
        ``"without-N"``, without the images of the first N classes; ``"merged-N"``, the first N
        classes as one; ``"relabelled-P"``, P percent of the labels drawn anew; ``"marked-P"``, a
        mark in each image that tells its class in P percent of them, and misleads in the others.

    Returns
    -------
    ImageSet
        Labels keep their numbers, and the set its class names. Its digest is the original one's:
        whoever stores it notes the alterations beside it.

    Raises
    ------
    InputError
        If there is no alteration of a name, or no image is left.

    Examples
    --------
    >>> from kclib.images import creatures
    >>> drawn = creatures.render(8, classes=4, size=32, split="train")
    >>> drawn.labels, altered(drawn, ["without-1", "grey"]).labels
    (tensor([0, 1, 3, 2, 1, 2, 0, 3]), tensor([1, 3, 2, 1, 2, 3]))
    """
    for change in map(known, names):
        images = change(images)
    if not len(images):
        raise InputError(f"{', '.join(names)} leaves no image; leave fewer classes out.")
    return images
