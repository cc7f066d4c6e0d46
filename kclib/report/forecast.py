"""What a comparison will take, said before it begins."""

import time

from ..solver import cost
from .layers import PARTS
from .pairs import CHOSEN, MOST
from .reader import Reader
from .sides import Sides
from .sweep import directions

_TRIED = 8  # items that are read to see how long one takes


def forecast(
    sides: Sides,
    readers: dict[str, Reader],
    *,
    named: list[tuple[str, str]] | None,
    order: int,
    kernel_size: int,
) -> str:
    """Say how long reading, solving and fitting will take about, and how much memory.

    Examples
    --------
    >>> import torch
    >>> from kclib import compare
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> told = []
    >>> _ = compare(network, network, torch.rand(40, 3, 12, 12), order=0, tell=told.append)
    >>> told[0].split(" About ")[0]
    '40 items; 2 layers of A, 2 of B.'
    """
    count = len(sides.order)
    began = time.perf_counter()
    few = sides.order[: min(_TRIED, count)]
    for _ in sides.batches(few, readers):
        pass
    each = (time.perf_counter() - began) / len(few)
    fitted = min(count, MOST)
    chosen, fits = len(named) if named else CHOSEN, 0.0
    for one, other in (("a", "b"), ("b", "a")):
        widest = max(shape[0] for shape in readers[one].shapes.values())
        for width, *size in list(readers[other].shapes.values())[-chosen:]:
            one_fit = cost(
                (widest, width), fitted, (size[0], size[1]), order=order, kernel_size=kernel_size
            ).seconds
            fits += (2 + (f"{other} again" in readers)) * one_fit
    sums, solving = 0, 0.0
    for one, other in directions(readers):
        width = sum(shape[0] for shape in readers[other].shapes.values())
        for x in readers[one].shapes.values():
            sums += x[0] * width * 8 * len(PARTS)
            solving += cost((x[0], width), 0, (1, 1), order=0, kernel_size=1).seconds
    largest = max(
        shape[0] * shape[1] * shape[2] for r in readers.values() for shape in r.shapes.values()
    )
    memory = (sums + 4 * fitted * largest) / 1e9 + 0.5
    a, b = sides.taps["a"], sides.taps["b"]
    return (
        f"{count:,} items; {len(a)} layers of A, {len(b)} of B. About "
        f"{in_words(each * (count + fitted))} to read them all, {in_words(solving)} to solve for "
        f"all layers, {in_words(fits)} to fit {2 * chosen} pairs; {memory:.1f} GB of memory or "
        "disk beside the networks."
    )


def in_words(seconds: float) -> str:
    """Return a time in words, rounded.

    Examples
    --------
    >>> in_words(40), in_words(1000)
    ('40 s', '17 min')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
