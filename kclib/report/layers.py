"""Every layer of one network from every layer of another, in closed form, in one pass.

What linear maps with 1 x 1 kernels leave of a layer follows from sums of products over positions.
They are taken once a batch and shared by all pairs. A map of other size is brought to that of the
target as `kclib.features.resample` does it, a linear map M of positions; where M enlarges, the
products are taken at the small size: sum (M x)(M x)^T = sum (R x)(R x)^T with R^2 = M^T M, and
sum (M x) y^T = sum x (M^T y)^T.
"""

from dataclasses import dataclass
from functools import cache

import torch

from ..errors import InputError
from ..features import resample
from ..normal_equations import RIDGES

#: What an image serves for: the fit, the choice of the ridge, the number that is reported.
PARTS = ("fit", "ridge", "held out")
_RIDGES = RIDGES[::2]
_SKETCHED = 24  # random sums of a target's channels, on which its ridge is chosen
_ROUNDING = torch.finfo(torch.float32).eps ** 2  # of a variance, as a share of the mean square


@dataclass(frozen=True)
class Cell:
    """One layer from another.

    Attributes
    ----------
    left : float
        Var(x^Δ) / Var(x*) at order 0 with 1 x 1 kernels, on held-out images; 0 or more.
    cka : float
        Linear CKA of the two, positions as rows, at the smaller map's size; 0 to 1.

    Examples
    --------
    >>> Cell(left=0.25, cka=0.9).left
    0.25
    """

    left: float
    cka: float


class Products:
    """Sums of products of the features of several networks, for all pairs of their layers.

    Parameters
    ----------
    shapes : dict of str to dict of str to (int, int, int)
        Of each network, by the name it has here: C, H and W by tap.
    directions : list of (str, str)
        Source and target: networks by name.

    Examples
    --------
    >>> x = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> features = {"a": {"one": x}, "b": {"two": 2 * x[:, :2]}}
    >>> products = Products({"a": {"one": (3, 4, 4)}, "b": {"two": (2, 4, 4)}}, [("a", "b")])
    >>> products.add(features, torch.arange(40) % 3)
    >>> products.cells("a", "b")["one", "two"].left < 1e-9
    True
    """

    def __init__(self, shapes: dict, directions: list[tuple[str, str]]):
        self.shapes, self.directions = shapes, directions
        self.images = torch.zeros(len(PARTS), dtype=torch.int64)
        self._sums: dict[tuple, torch.Tensor] = {}  # one a part, float64
        self._norms: dict[tuple, float] = {}
        self._shift: dict[tuple, torch.Tensor] = {}  # near the mean: less is lost to rounding
        sized = {(key, tap): shape[1:] for key in shapes for tap, shape in shapes[key].items()}
        self.pairs = [
            (one, a, other, b)
            for one, other in directions
            for a in shapes[one]
            for b in shapes[other]
            if _correspond(sized[one, a], sized[other, b])
        ]
        own = [(key, tap, size) for (key, tap), size in sized.items()]
        brought = [(one, a, sized[other, b]) for one, a, other, b in self.pairs]
        self._inputs = list(dict.fromkeys([*own, *brought]))  # of normal matrices

    def add(self, features: dict, part: torch.Tensor) -> None:
        """Add a batch.

        Parameters
        ----------
        features : dict of str to dict of str to torch.Tensor
            By network and tap, float32, shape (N, C, H, W).
        part : torch.Tensor
            Shape (N,): which of `PARTS` each image is in.
        """
        rows = {(k, tap): maps for k, taps in features.items() for tap, maps in taps.items()}
        for name, maps in rows.items():
            if name not in self._shift:
                self._shift[name] = maps.mean((0, 2, 3))
            rows[name] = maps.permute(0, 2, 3, 1).contiguous() - self._shift[name]  # (N, H, W, C)
        for number in part.unique().tolist():
            index = (part == number).nonzero()[:, 0]
            self.images[number] += len(index)
            if len(index) < len(part):
                self._add_part({name: maps[index] for name, maps in rows.items()}, number)
            else:
                self._add_part(rows, number)

    def _add_part(self, rows: dict[tuple, torch.Tensor], number: int) -> None:
        brought: dict[tuple, torch.Tensor] = {}

        def at(name: tuple, size: tuple[int, int], how: str) -> torch.Tensor:
            """Return positions (N H W, C) after a map of positions, made once."""
            maps = rows[name]
            if tuple(maps.shape[1:3]) == tuple(size):
                return maps.flatten(0, 2)
            if (name, size, how) not in brought:
                ends = zip(maps.shape[1:3], size, strict=True)
                sides = [(to, end) if how == "back" else (end, to) for end, to in ends]
                tall, wide = (_line(*side, how) for side in sides)
                brought[name, size, how] = _moved(maps, tall, wide).flatten(0, 2)
            return brought[name, size, how]

        over_images = {name: maps.sum(0).flatten(0, 1) for name, maps in rows.items()}  # (H W, C)
        for key, tap, size in self._inputs:
            maps = rows[key, tap]
            how = "onto" if _area(size) <= _area(maps.shape[1:3]) else "root"
            seen = at((key, tap), size, how)
            self._put(("gram", key, tap, size), number, seen.T @ seen)
            ends = zip(maps.shape[1:3], size, strict=True)
            weights = torch.outer(*(_line(*side, "onto").sum(0) for side in ends))  # (H, W)
            self._put(("sum", key, tap, size), number, weights.flatten() @ over_images[key, tap])
        for one, a, other, b in self.pairs:
            if (cross := self._cross(one, a, other, b)) is None:
                continue
            x, y = rows[one, a], rows[other, b]
            size = tuple(y.shape[1:3])
            if _area(size) <= _area(x.shape[1:3]):
                product = at((one, a), size, "onto").T @ y.flatten(0, 2)
            else:
                product = x.flatten(0, 2).T @ at((other, b), tuple(x.shape[1:3]), "back")
            self._put(cross, number, product)

    def _cross(self, one: str, a: str, other: str, b: str) -> tuple | None:
        """Return the key of a product's sum, or None where it is taken the other way round."""
        if (one, a) == (other, b):
            return None
        equal = self.shapes[one][a][1:] == self.shapes[other][b][1:]
        back = ("cross", other, b, one, a)
        return None if equal and back < ("cross", one, a, other, b) and (
            (other, one) in self.directions
        ) else ("cross", one, a, other, b)  # fmt: skip

    def _put(self, name: tuple, number: int, value: torch.Tensor) -> None:
        if name not in self._sums:
            self._sums[name] = torch.zeros((len(PARTS), *value.shape), dtype=torch.float64)
        self._sums[name][number] += value

    def _crossed(self, one: str, a: str, other: str, b: str) -> torch.Tensor:
        """Return the products of a pair, (3, C, C*)."""
        if (one, a) == (other, b):
            return self._sums["gram", one, a, self.shapes[one][a][1:]]
        if (name := self._cross(one, a, other, b)) is not None:
            return self._sums[name]
        return self._sums["cross", other, b, one, a].transpose(1, 2)

    def cells(self, one: str, other: str) -> dict[tuple[str, str], Cell]:
        """Return what each layer of one network leaves of each of the other, by their taps.

        Pairs whose maps cannot be brought to one size (a line of tokens and maps) are left out.
        """
        left: dict[tuple[str, str], float] = {}
        self._norms = {}  # of normal matrices, for CKA
        for a in self.shapes[one]:
            targets = [b for key, tap, other_key, b in self.pairs
                       if (key, tap, other_key) == (one, a, other)]  # fmt: skip
            for size in dict.fromkeys(self.shapes[other][b][1:] for b in targets):
                there = [b for b in targets if self.shapes[other][b][1:] == size]
                shares = self._left(one, a, other, there, size)
                left |= {(a, b): share for b, share in zip(there, shares, strict=True)}
        return {(a, b): Cell(share, self._cka(one, a, other, b)) for (a, b), share in left.items()}

    def floors(self, key: str) -> dict[str, float]:
        """Return what each layer leaves of itself, as `cells` does it of another."""
        return {
            tap: self._left(key, tap, key, [tap], shape[1:])[0]
            for tap, shape in self.shapes[key].items()
        }

    def constant(self) -> list[tuple[str, str]]:
        """Return the layers, by network and tap, that no held-out image changes.

        Of those that something is to account for; a share of what does not vary is not defined.
        """
        found = []
        for key in dict.fromkeys(other for _, other in self.directions):
            for tap in self.shapes[key]:
                variance = self._variance([2], key, tap)
                shift = float(self._shift[key, tap].double().square().sum())
                if variance <= 10 * _ROUNDING * (shift + abs(variance)):
                    found.append((key, tap))
        return found

    def _centred(self, parts: list[int], one: str, a: str, other: str, b: str, size):
        """Return mean products of what deviates from the mean over the positions of parts."""
        rows = float(self.images[parts].sum()) * _area(size)
        if (one, a) == (other, b):
            product = self._sums["gram", one, a, size]
        else:
            product = self._crossed(one, a, other, b)
        x = _over(self._sums["sum", one, a, size], parts) / rows
        y = _over(self._sums["sum", other, b, size], parts)
        return (_over(product, parts) / rows).addr_(x, y / rows, alpha=-1)

    def _left(self, one, a, other, targets: list[str], size) -> list[float]:
        """Return what one layer leaves of several of the same map size."""
        squares = [self._centred([p], one, a, one, a, size) for p in range(3)]
        squares.append(self._centred([0, 1], one, a, one, a, size))
        scale = squares[0].diagonal().clamp_min(0).sqrt()
        if (varies := scale > 0).any():
            scale = scale.clamp_min(scale[varies].median())
        scale = torch.where(scale > 0, scale, 1.0)
        squares = [part.div_(scale).div_(scale[:, None]) for part in squares]
        crosses = {
            b: [
                self._centred(parts, one, a, other, b, size).div_(scale[:, None])
                for parts in ([0], [1], [2], [0, 1])
            ]
            for b in targets
        }
        ridges = _best_ridges(squares, crosses)
        found = {}
        for ridge in set(ridges.values()):
            chosen = [b for b in targets if ridges[b] == ridge]
            weight = _solved(squares[3], torch.cat([crosses[b][3] for b in chosen], 1), ridge)
            tested = torch.cat([crosses[b][2] for b in chosen], 1)
            errors = (weight * (squares[2] @ weight - 2 * tested)).sum(0)
            widths = [crosses[b][2].shape[1] for b in chosen]
            for b, error in zip(chosen, errors.split(widths), strict=True):
                whole = self._variance([2], other, b)
                found[b] = max(0.0, float((whole + error.sum()) / whole))
        return [found[b] for b in targets]

    def _variance(self, parts: list[int], key: str, tap: str) -> float:
        """Return the sum of the variances of a layer's channels over parts."""
        size = self.shapes[key][tap][1:]
        rows = float(self.images[parts].sum()) * _area(size)
        squares = _over(self._sums["gram", key, tap, size].diagonal(dim1=1, dim2=2), parts).sum()
        means = _over(self._sums["sum", key, tap, size], parts) / rows
        return float(squares / rows - means.square().sum())

    def _cka(self, one: str, a: str, other: str, b: str) -> float:
        x, y = self.shapes[one][a][1:], self.shapes[other][b][1:]
        if _area(x) < _area(y) and (other, one) in self.directions:
            one, a, other, b, y = other, b, one, a, x
        every = list(range(len(PARTS)))
        for name in ((one, a, y), (other, b, y)):
            if name not in self._norms:
                key, tap, size = name
                self._norms[name] = float(self._centred(every, key, tap, key, tap, size).norm())
        cross = float(self._centred(every, one, a, other, b, y).square().sum())
        norms = self._norms[one, a, y] * self._norms[other, b, y]
        return cross / norms if norms > 0 else 0.0  # one of an untrained copy may be constant

    def state(self) -> dict[str, torch.Tensor]:
        """Return the sums so far as named tensors, for `resume`."""
        named = {f"sums/{k}": value for k, value in enumerate(self._sums.values())}
        named |= {f"shift/{k}": value for k, value in enumerate(self._shift.values())}
        return named | {"images": self.images}

    def names(self) -> dict[str, list]:
        """Return the names of what `state` returns, in order, of JSON's types."""
        return {"sums": [*map(list, self._sums)], "shift": [*map(list, self._shift)]}

    def resume(self, state: dict[str, torch.Tensor], names: dict[str, list]) -> None:
        """Go on from sums that `state` and `names` returned."""
        self.images = state["images"].clone()
        for what, kept in (("sums", self._sums), ("shift", self._shift)):
            for number, name in enumerate(names[what]):
                plain = tuple(tuple(part) if isinstance(part, list) else part for part in name)
                kept[plain] = state[f"{what}/{number}"].clone()


def _best_ridges(squares: list[torch.Tensor], crosses: dict) -> dict[str, float]:
    """Choose for each target the ridge that leaves least of other images.

    Of a target's channels random sums are tried: they are few, and their mean error is that of all.
    """
    generator = torch.Generator().manual_seed(0)
    sketched = {}
    for b, (fit, ridge, *_) in crosses.items():
        width = fit.shape[1]
        mixed = torch.eye(width)
        if width > _SKETCHED:
            mixed = torch.randn(width, _SKETCHED, generator=generator) / _SKETCHED**0.5
        sketched[b] = (fit.float() @ mixed, ridge.float() @ mixed)
    fit, tried = (torch.cat([pair[k] for pair in sketched.values()], 1) for k in range(2))
    widths = [pair[0].shape[1] for pair in sketched.values()]
    squares = [part.float() for part in squares[:2]]  # the choice needs no more
    best = dict.fromkeys(crosses, (float("inf"), _RIDGES[0]))
    open_ones = set(crosses)
    for ridge in _RIDGES:
        weight = _solved(squares[0], fit, ridge)
        errors = (weight * (squares[1] @ weight - 2 * tried)).sum(0)
        for b, error in zip(crosses, errors.split(widths), strict=True):
            if b in open_ones and float(error.sum()) < best[b][0]:
                best[b] = (float(error.sum()), ridge)
            else:
                open_ones.discard(b)
        if not open_ones:
            break
    return {b: ridge for b, (_, ridge) in best.items()}


def _solved(square: torch.Tensor, cross: torch.Tensor, ridge: float) -> torch.Tensor:
    """Return regularised least-squares weights, (C, D)."""
    unstable = True
    while unstable:  # rounding of float32 products can leave eigenvalues a little below zero
        shifted = square.diagonal_scatter(square.diagonal() + ridge)
        factor, unstable = torch.linalg.cholesky_ex(shifted)
        ridge *= 10
        if unstable and ridge > 1e6:
            raise InputError("sums of products are not finite: a layer's numbers are too large.")
    return torch.cholesky_solve(cross, factor)


def _over(sums: torch.Tensor, parts: list[int]) -> torch.Tensor:
    """Return the sum over some of the parts, the first axis; of one part it is no copy."""
    first, *others = parts
    return sum((sums[part] for part in others), start=sums[first])


def _area(size) -> int:
    return size[0] * size[1]


@cache
def _correspond(size: tuple[int, int], target: tuple[int, int]) -> bool:
    """Say whether the positions of two maps correspond."""
    try:
        resample(torch.zeros(1, 1, *size), target)
    except InputError:
        return False
    return True


@cache
def _line(size: int, target: int, how: str) -> torch.Tensor:
    """Return what `resample` does along one side: M (target, size), M^T, or R with R^2 = M^T M."""
    basis = torch.eye(size)[None, :, :, None].expand(1, size, size, 2)
    onto = resample(basis, (target, 2))[0, :, :, 0].T  # (target, size)
    if how == "onto":
        return onto
    if how == "back":
        return onto.T.contiguous()
    values, vectors = torch.linalg.eigh((onto.T @ onto).double())
    return (vectors * values.clamp_min(0).sqrt() @ vectors.T).float()


def _moved(maps: torch.Tensor, tall: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
    """Apply matrices along both sides of maps (N, H, W, C)."""
    count, _, width, channels = maps.shape
    maps = (tall @ maps.reshape(count, -1, width * channels)).unflatten(2, (width, channels))
    return wide @ maps
