"""All items shown to all networks, once, in which the products of all their layers are summed."""

import time
from collections.abc import Callable

import torch

from ..errors import InputError
from .items import FEWEST
from .kept import Kept
from .layers import Products
from .reader import Reader
from .sides import TITLES, Sides

_SAVED = 60.0  # seconds between savings


def directions(networks) -> list[tuple[str, str]]:
    """Return which network is to account for which, source and target by key.

    Examples
    --------
    >>> directions(["a", "b", "b again"])
    [('a', 'b'), ('b', 'a'), ('b again', 'b')]
    """
    wanted = [
        ("a", "b"), ("b", "a"), ("a untrained", "b"), ("b untrained", "a"),
        ("a again", "a"), ("b again", "b"),
    ]  # fmt: skip
    return [(one, other) for one, other in wanted if one in networks and other in networks]


def swept(
    sides: Sides, readers: dict[str, Reader], kept: Kept, progress: Callable[[int, int, str], None]
) -> Products:
    """Return the sums of products of all layers; they are kept from time to time.

    Raises
    ------
    InputError
        If a layer is not finite or the same for all images, or fewer than 30 items can be read.

    Examples
    --------
    >>> from kclib.report.items import items_of
    >>> from kclib.report.models import model_of
    >>> model = model_of(torch.nn.Conv2d(3, 4, 3), kind="tensor")
    >>> shown = dict.fromkeys("ab", items_of(torch.rand(40, 3, 12, 12)))
    >>> how = {"seed": 0, "batch": 16, "device": "cpu"}
    >>> sides = Sides(dict.fromkeys("ab", model), shown, dict.fromkeys("ab", [""]), **how)
    >>> with sides.readers() as readers:
    ...     products = swept(sides, readers, Kept(None, ""), lambda *_: None)
    >>> products.images.tolist(), products.cells("a", "b")["", ""].left < 0.01
    ([27, 3, 10], True)
    """
    shapes = {key: reader.shapes for key, reader in readers.items()}
    products = Products(shapes, directions(readers))
    done, odd = 0, {}
    if (before := kept.get("pass")) is not None:
        tensors, record = before
        products.resume(tensors, record["names"])
        done, sides.left_out = record["done"], record["left out"]
        odd = {tuple(name): number for name, number in record["odd"]}
    total, saved = len(sides.order), time.monotonic()
    progress(done, total, "reading all layers")
    for features, index in sides.batches(sides.order[done:], readers):
        done = min(total, done + sides.batch)
        if index:
            _add(products, features, sides.part[torch.tensor(index)], odd)
        progress(done, total, "reading all layers")
        if done == total or time.monotonic() - saved > _SAVED:
            record = {
                "names": products.names(),
                "done": done,
                "left out": sides.left_out,
                "odd": [[list(name), number] for name, number in odd.items()],
            }
            kept.put("pass", products.state(), record)
            saved = time.monotonic()
    if odd:
        said = "; ".join(
            f"{TITLES[key]}'s {tap!r} for {number:,} of {total:,} items"
            for (key, tap), number in odd.items()
        )
        raise InputError(
            f"layers hold NaN or infinity: {said}. Name other layers (--taps-a, --taps-b), leave "
            "those items out, or read the network in float32."
        )
    if int(products.images.min()) < 2 or int(products.images.sum()) < FEWEST:
        raise InputError(
            f"of {total} items {int(products.images.sum())} can be read; allowed: {FEWEST} or "
            f"more. Not readable are {sides.names_of(sides.left_out)}."
        )
    if constant := products.constant():
        said = ", ".join(f"{TITLES[key]}'s {tap!r}" for key, tap in constant)
        raise InputError(
            f"layers are the same for all images held out: {said}. Nothing can be compared there; "
            "name other layers (--taps-a, --taps-b)."
        )
    return products


def _add(products: Products, features: dict, part: torch.Tensor, odd: dict) -> None:
    """Add a batch without the items of which a layer is not finite; those are counted."""
    fine = torch.ones(len(part), dtype=torch.bool)
    for key, by_tap in features.items():
        for tap, maps in by_tap.items():
            finite = maps.sum((1, 2, 3)).isfinite()
            if not finite.all():
                odd[key, tap] = odd.get((key, tap), 0) + int((~finite).sum())
                fine &= finite
    if not fine.all():
        features = {k: {t: maps[fine] for t, maps in v.items()} for k, v in features.items()}
    if fine.any():
        products.add(features, part[fine])
