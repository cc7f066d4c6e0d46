"""Parts of the animal on a feature's map, and whether a feature is strong where they lie."""

import torch

from ..errors import InputError
from ..features import resample
from ..measures import centred
from .datasets import ImageSet

#: What is called head and torso, of Creatures and then of CUB.
HEAD = {"head", "snout", "ears"}
HEAD |= {"beak", "crown", "forehead", "left eye", "right eye", "nape", "throat"}
TORSO = {"torso", "back", "belly", "breast", "left wing", "right wing"}


def energy(feature: torch.Tensor) -> torch.Tensor:
    """Return how strong a feature is at each position of each image.

    Parameters
    ----------
    feature : torch.Tensor
        Shape (N, C, H, W).

    Returns
    -------
    torch.Tensor
        float64, shape (N, H, W): mean square over channels, after the removal of every channel's
        mean over all images and positions. Its mean is Var of the feature.

    Examples
    --------
    >>> energy(torch.tensor([[[[1.0, 3.0]]]]))
    tensor([[[1., 1.]]], dtype=torch.float64)
    """
    return torch.cat([wide.square().mean(1) for wide in centred(feature)])


def on_map(images: ImageSet, size: tuple[int, int]) -> torch.Tensor:
    """Say which positions of a map belong to which part.

    Of masks, a position belongs to a part if at least half of what the position covers does. Of
    annotated points, the one position that a visible point falls into.

    Parameters
    ----------
    images : ImageSet
        With masks or points of its parts.
    size : (int, int)
        Height and width of the map, in positions.

    Returns
    -------
    torch.Tensor
        bool, shape (N, P, H, W), parts in the order of ``images.part_names``.

    Raises
    ------
    InputError
        If the images have neither masks nor points.

    Examples
    --------
    >>> from kclib.images import creatures
    >>> on_map(creatures.render(2, size=32), (4, 4)).shape
    torch.Size([2, 6, 4, 4])
    """
    if images.part_masks is not None:
        return torch.cat(
            [resample(masks.float(), size) >= 0.5 for masks in images.part_masks.split(256)]
        )
    if images.part_points is None:
        raise InputError("these images have no annotated parts; allowed: Creatures and CUB.")
    height, width = size
    x, y, visible = images.part_points.unbind(-1)  # (N, P)
    row = (y * height).long().clamp(0, height - 1)
    column = (x * width).long().clamp(0, width - 1)
    place = torch.zeros(*x.shape, height * width, dtype=torch.bool)
    place.scatter_(2, (row * width + column)[..., None], (visible > 0)[..., None])
    return place.unflatten(2, size)  # (N, P, H, W)


def regions(images: ImageSet, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Return where parts of the animal, and unions of them, lie on a map.

    Parameters
    ----------
    images, size
        As for `on_map`.

    Returns
    -------
    dict of str to torch.Tensor
        bool, shape (N, H, W): each part by its name; ``"head, all of it"`` and ``"torso, all of
        it"``, unions by `HEAD` and `TORSO`; ``"other parts"``, all but the torso; ``"background"``,
        where no part is.

    Raises
    ------
    InputError
        As `on_map`.

    Examples
    --------
    >>> from kclib.images import creatures
    >>> found = regions(creatures.render(2, size=32), (4, 4))
    >>> bool((found["torso, all of it"] | found["other parts"] | found["background"]).all())
    True
    """
    each = dict(zip(images.part_names, on_map(images, size).unbind(1), strict=True))
    head, torso, animal = (
        torch.stack([each[name] for name in each if name in chosen]).any(0)
        for chosen in (HEAD, TORSO, each)
    )
    unions = {"head, all of it": head, "torso, all of it": torso}
    return each | unions | {"other parts": animal & ~torso, "background": ~animal}


def area_under_curve(
    scores: torch.Tensor, inside: torch.Tensor, outside: torch.Tensor | None = None
) -> torch.Tensor:
    """Return, image by image, how well scores tell positions inside a region from others.

    The area under the ROC curve: the probability that a position drawn from inside scores higher
    than one drawn from outside, ties counting half. 1: every position inside scores higher than all
    outside; 0.5: as if drawn by chance.

    Parameters
    ----------
    scores : torch.Tensor
        Finite numbers, shape (N, H, W).
    inside : torch.Tensor
        bool, same shape.
    outside : torch.Tensor, optional
        bool, same shape: the positions compared with, all that are not inside by default.

    Returns
    -------
    torch.Tensor
        float64, shape (N,), from 0 to 1; NaN for images without a position of both kinds.

    Raises
    ------
    InputError
        If shapes differ, scores are not finite, or a position is both inside and outside.

    Examples
    --------
    >>> scores = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]])
    >>> area_under_curve(scores, inside=scores > 0.25)
    tensor([1.], dtype=torch.float64)
    """
    outside = ~inside if outside is None else outside
    if not scores.shape == inside.shape == outside.shape or scores.dim() != 3:
        raise InputError(
            f"scores are {tuple(scores.shape)}, inside {tuple(inside.shape)} and outside "
            f"{tuple(outside.shape)}; allowed: three times the same (N, H, W)."
        )
    if not scores.isfinite().all():
        raise InputError("some scores are NaN or infinite; allowed: finite numbers.")
    if (inside & outside).any():
        raise InputError("some positions are both inside and outside; allowed: one of them.")
    flat, inside, outside = (part.flatten(1) for part in (scores.double(), inside, outside))
    others = flat.where(outside, torch.inf).sort(1).values  # (N, H W), those outside come first
    below = torch.searchsorted(others, flat, right=False)
    up_to = torch.searchsorted(others, flat, right=True)
    beaten = ((below + up_to) / 2.0).double()  # positions outside that each one beats
    pairs = inside.sum(1) * outside.sum(1)
    return (beaten * inside).sum(1) / pairs  # 0 / 0 is NaN
