"""Chosen pairs of layers: which, how each order accounts for the other, and what is left."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import InputError
from ..features import resample
from ..imagenet import IMAGENET_MEAN, IMAGENET_STD
from ..measures import Evaluation
from ..solver import fit
from .kept import Kept
from .reader import Reader
from .sides import TITLES, Sides, tensors_of
from .spots import Spots, spots_of

#: As many layers of each network are looked at more closely, where no pairs are named.
CHOSEN = 3
#: Items on which chosen pairs are fitted and measured, at most.
MOST = 2000
_SHOWN = 6  # items with most left over
_SPLIT = 64  # items at a time


@dataclass(frozen=True)
class Pair:
    """One layer accounted for by another.

    Attributes
    ----------
    source, target : str
        ``"a"`` or ``"b"``.
    tap, target_tap : str
    orders : list of (float, float, float)
        Shares of Var(x*) that orders 0, 1, ... bring, lowest first, each with its interval; up to
        the order after which least is left of held-out items.
    unused : list of float
        Shares that the orders above those bring. Of few items and many channels they may be far
        below 0 on other items, so these orders are no part of what accounts for the target.
    left : (float, float, float)
        The share that is left, with its interval; 95 % over held-out items.
    floor : float
        What is left of the target if it is given itself.
    ceiling : float or None
        What is left if an untrained copy of the source is given; None if there is none.
    again : float or None
        What is left if the target network trained again is given, where it is.
    spots : Spots
        Of held-out items.
    pictures : dict of int to torch.Tensor
        By place among those items, of the ones with the highest scores: what the target network
        was shown, uint8 (3, H, W), where it is an image.

    Examples
    --------
    >>> from kclib import compare
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> found = compare(network, network, torch.rand(40, 3, 12, 12), order=0)
    >>> found.pairs[0].left[0] < 0.01  # of a layer of the network, its copy leaves nothing
    True
    """

    source: str
    target: str
    tap: str
    target_tap: str
    orders: list[tuple[float, float, float]]
    unused: list[float]
    left: tuple[float, float, float]
    floor: float
    ceiling: float | None
    again: float | None
    spots: Spots = field(repr=False)
    pictures: dict[int, torch.Tensor] = field(repr=False)


def check(named: list[tuple[str, str]] | None, readers: dict[str, Reader]) -> None:
    """Refuse pairs that the user named of layers that are not read.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> reader = SimpleNamespace(shapes={"layer1": (8, 4, 4)})
    >>> check([("layer1", "layer2")], {"a": reader, "b": reader})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    kclib.errors.InputError: the pair 'layer1', 'layer2' names a layer that is not read; ...
    """
    for both in named or ():
        if isinstance(both, str) or len(both) != 2:
            raise InputError(
                f"a pair is {both!r}; allowed: a list of pairs of taps, of A and of B, such as "
                "[('layer1', 'layer1')]."
            )
        for key, tap in zip(("a", "b"), both, strict=True):
            if tap not in readers[key].shapes:
                raise InputError(
                    f"the pair {both[0]!r}, {both[1]!r} names a layer that is not read; allowed, "
                    f"of {TITLES[key]}: {', '.join(readers[key].shapes)}."
                )


def chosen(cells: dict, named: list[tuple[str, str]] | None) -> list[tuple[str, str, str, str]]:
    """Return source, target and their taps for each pair to be looked at, both ways.

    Without names they are layers of each network, evenly from its last one down, each with the
    layer of the other that leaves least of it.

    Examples
    --------
    >>> chosen({}, [("x", "y")])
    [('a', 'b', 'x', 'y'), ('b', 'a', 'y', 'x')]
    """
    if named:
        both = [[("a", "b", x, y), ("b", "a", y, x)] for x, y in named]
        return [one for two in both for one in two]
    found = []
    for one, other in (("a", "b"), ("b", "a")):
        there = cells[one, other]
        taps = list(dict.fromkeys(y for _, y in there))
        if not taps:
            raise InputError(
                "no layer of A corresponds to one of B: tokens in a line and maps cannot be "
                "compared. Name layers of the same kind with taps_a and taps_b."
            )
        count = min(CHOSEN, len(taps))
        for k in range(count):
            tap = taps[round((k + 1) * len(taps) / count) - 1]
            best = min((x for x, y in there if y == tap), key=lambda x: there[x, tap].left)
            found.append((one, other, best, tap))
    return found


class Fits:
    """Fits of chosen pairs, to features of some of the items.

    Parameters
    ----------
    sides : Sides
    readers : dict of str to Reader
    pairs : list of (str, str, str, str)
        As `chosen` returns them.
    kept : Kept
    order, kernel_size : int
    progress : callable
        Called as ``progress(done, total, text)``.

    Attributes
    ----------
    held_out : list of int
        Items that they are measured on.
    fitted : int
        How many others they are fitted to.

    Examples
    --------
    `kclib.compare` makes them of pairs that it chose, and returns what each found:

    >>> from kclib import compare
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> found = compare(network, network, torch.rand(40, 3, 12, 12), order=0)
    >>> [(one.target, one.target_tap) for one in found.pairs]
    [('b', '0'), ('b', '1'), ('a', '0'), ('a', '1')]
    """

    def __init__(
        self,
        sides: Sides,
        readers: dict[str, Reader],
        pairs: list[tuple[str, str, str, str]],
        kept: Kept,
        *,
        order: int,
        kernel_size: int,
        progress: Callable[[int, int, str], None],
    ):
        self.sides, self.pairs, self.kept, self.progress = sides, pairs, kept, progress
        self.how: dict[str, Any] = {
            "order": order, "kernel_size": kernel_size, "norm": "dataset", "seed": sides.seed,
            "solver": "lowest_first",
        }  # fmt: skip
        left_out = set(sides.left_out)
        good = [k for k in sides.order.tolist() if k not in left_out]
        self.held_out = [k for k in good if sides.part[k] == 2][: MOST // 4]
        others = [k for k in good if sides.part[k] != 2][: MOST - len(self.held_out)]
        self.fitted = len(others)
        self.features = self._features(readers, torch.tensor(others + self.held_out))

    def pair(self, number: int) -> Pair:
        """Fit one of the pairs and what it is compared with, and score what is left."""
        one, other, tap, target = self.pairs[number]
        evaluation, left, unused = self._fit(number, one, tap)
        intervals = evaluation.intervals(seed=self.sides.seed)
        shares = [*evaluation.explained, evaluation.residual]
        numbers = [(s, *ends) for s, ends in zip(shares, intervals, strict=True)]
        floor = self._fit(number, other, target, order=0)[0].residual
        ceiling = again = reference = None
        if (f"{one} untrained", tap) in self.features:
            ceiling = self._fit(number, f"{one} untrained", tap)[0].residual
        if (f"{other} again", target) in self.features:
            usual, reference, _ = self._fit(number, f"{other} again", target)
            again = usual.residual
        items = self.sides.shown["a"]
        labels = [items.labels[k] for k in self.held_out] if items.labels else []
        y = self.features[other, target][self.fitted :]
        spots = spots_of(left, y, labels=labels, reference=reference)
        pictures = {}
        for k in spots.images.argsort(descending=True)[:_SHOWN].tolist():
            if (shown := picture(self.sides.prepared(other, [self.held_out[k]]))) is not None:
                pictures[k] = shown
        return Pair(
            one, other, tap, target, numbers[:-1], unused, numbers[-1], floor, ceiling, again,
            spots, pictures,
        )  # fmt: skip

    def _features(self, readers: dict[str, Reader], index: torch.Tensor) -> dict:
        """Return features by network and tap, of some items in their order."""
        needed: dict[tuple[str, str], None] = {}
        for one, other, tap, target in self.pairs:
            for place in (
                (one, tap), (f"{one} untrained", tap), (other, target), (f"{other} again", target),
            ):  # fmt: skip
                if place[0] in readers:
                    needed[place] = None
        shapes = {f"{k}/{tap}": (len(index), *readers[k].shapes[tap]) for k, tap in needed}
        used = {key: readers[key] for key, _ in needed}

        def batches():
            done = 0
            for features, part in self.sides.batches(index, used):
                done += len(part)
                self.progress(done, len(index), "reading chosen layers")
                yield {f"{key}/{tap}": features[key][tap] for key, tap in needed}

        found = self.kept.features(shapes, batches())
        return {(key, tap): found[f"{key}/{tap}"] for key, tap in needed}

    def _fit(self, number: int, source: str, tap: str, **changed):
        """Return how held-out items are split, what is left of them, and shares of unused orders.

        Orders are used up to the one after which least is left, (N, C, H, W), of held-out items.
        """
        _, other, _, target = self.pairs[number]
        how = self.how | changed
        name = f"{source}/{tap} to {other}/{target} {sorted(how.items())}"
        name = "pair " + hashlib.sha256(name.encode()).hexdigest()[:16]
        if (had := self.kept.get(name)) is not None:
            tensors, record = had
            left = tensors.pop("left over")
            return Evaluation.from_tensors(tensors), left, record["unused"]
        said = f"fit {number + 1} of {len(self.pairs)}: "
        said += f"{TITLES[source]} {tap} to {TITLES[other]} {target}"
        x, y = _sized(self.features[source, tap]), self.features[other, target]
        made = fit(
            x[: self.fitted], y[: self.fitted], **how, device=self.sides.device,
            progress=lambda done, whole, _: self.progress(done, whole, said),
        )  # fmt: skip
        x, y = x[self.fitted :], y[self.fitted :]
        tested = made.evaluate(x, y)
        variances = [float(part.variance()) for part in tested.left]
        used = variances.index(min(variances)) + 1
        unused = tested.explained[used:]
        tested = Evaluation(
            tested.target, tested.components[:used], tested.left[used - 1], tested.left[:used]
        )
        chains = made.disentangler.chains[:used]
        with torch.no_grad():
            left = torch.cat(
                [
                    part_y - sum(chain(resample(part_x, y.shape[2:])) for chain in chains)
                    for part_x, part_y in zip(x.split(_SPLIT), y.split(_SPLIT), strict=True)
                ]
            )
        self.kept.put(name, tested.tensors() | {"left over": left}, {"unused": unused})
        return tested, left, unused


def _sized(x: torch.Tensor) -> torch.Tensor:
    """Return what a fit is given, scaled if it cannot be squared: no share depends on its scale.

    The features of an untrained copy vanish if it is deep and normalises nothing.
    """
    most = max(map(abs, map(float, x.aminmax())))
    return x / most if most and not 1e-9 < most < 1e9 else x


def picture(given) -> torch.Tensor | None:
    """Return what a network is given of one item as a picture, uint8 (3, H, W), if it is one.

    Examples
    --------
    >>> picture(torch.rand(1, 3, 8, 8)).shape, picture(torch.rand(1, 5))
    (torch.Size([3, 8, 8]), None)
    """
    for _, value in tensors_of(given):
        if value.dim() == 4 and value.shape[1] in (1, 3):
            image = value[0].float().expand(3, -1, -1)
            mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
            plain = (image * std + mean) / 255
            if plain.min() < -0.05 or plain.max() > 1.05:  # normalised in another way
                plain = (image - image.min()) / (image.max() - image.min()).clamp_min(1e-6)
            return (255 * plain.clamp(0, 1)).round().to(torch.uint8)
    return None
