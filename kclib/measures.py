"""Variances of features and their shares, with bootstrap intervals over images."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import nn

from .errors import InputError
from .features import resample

_BLOCK = 256  # images at a time, where something of the size of their features is held meanwhile


@dataclass(frozen=True)
class Moments:
    """First and second moments of one feature, image by image.

    They suffice for the paper's Var on any resample of the images: Var removes each channel's mean
    over images and positions and averages the squares over everything else.

    Attributes
    ----------
    mean : torch.Tensor
        float64, shape (N, C): mean over positions of each image and channel.
    square : torch.Tensor
        float64, shape (N,): mean square over channels and positions of each image.

    Examples
    --------
    >>> feature = torch.tensor([[1.0, 3.0], [5.0, 7.0]])[:, :, None, None]  # (2, 2, 1, 1)
    >>> float(Moments.of(feature).variance())
    4.0
    """

    mean: torch.Tensor
    square: torch.Tensor

    @classmethod
    def of(cls, feature: torch.Tensor) -> "Moments":
        """Measure a feature (N, C, H, W)."""
        wide = feature.double()
        return cls(wide.mean((2, 3)), wide.square().mean((1, 2, 3)))

    @classmethod
    def room(cls, images: int, channels: int) -> "Moments":
        """Return room for the moments of that many images, to `put` them in batch by batch."""
        mean = torch.zeros(images, channels, dtype=torch.float64)
        return cls(mean, torch.zeros(images, dtype=torch.float64))

    def put(self, start: int, feature: torch.Tensor) -> None:
        """Measure a feature's images (N, C, H, W) and keep them from image ``start`` on."""
        found = Moments.of(feature)
        self.mean[start : start + len(feature)] = found.mean
        self.square[start : start + len(feature)] = found.square

    def variance(self, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return Var over images drawn with ``weights``.

        Parameters
        ----------
        weights : torch.Tensor, optional
            float64, shape (R, N), rows that sum to 1; all images equally by default.

        Returns
        -------
        torch.Tensor
            float64, shape (R,), or a scalar without weights.
        """
        if weights is None:
            return self.square.mean() - self.mean.mean(0).square().mean()
        return weights @ self.square - (weights @ self.mean).square().mean(1)


def variance(feature: torch.Tensor) -> float:
    """Return Var of a feature (N, C, H, W): each channel's mean removed, squares averaged.

    Examples
    --------
    >>> variance(torch.tensor([1.0, 3.0])[:, None, None, None])
    1.0
    """
    return float(Moments.of(feature).variance())


@dataclass(frozen=True)
class Evaluation:
    """How a disentangler splits given features.

    Attributes
    ----------
    target, residual_part : Moments
        Of x* and of x^Δ.
    components : list of Moments
        Of x^(0), x^(1), ...
    left : list of Moments
        Of what orders 0 to k leave of x*, for each k, where orders were fitted lowest first; empty
        where they were fitted jointly.

    Examples
    --------
    >>> x = torch.randn(50, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    >>> found = Evaluation(Moments.of(x), [Moments.of(0.9 * x)], Moments.of(0.1 * x))
    >>> [round(share, 2) for share in found.explained], round(found.residual, 2)
    ([0.81], 0.01)
    """

    target: Moments
    components: list[Moments]
    residual_part: Moments
    left: list[Moments] = field(default_factory=list)

    @property
    def explained(self) -> list[float]:
        """The share of Var(x*) that each order k explains, lowest first.

        Of orders fitted jointly, Var(x^(k)) / Var(x*), as in Table 2: they may cancel each other,
        so these shares need not add up to 1 with `residual`. Of orders fitted lowest first, the
        drop in residual variance that order k brings: with `residual` the shares add up to 1; on
        the features of the fit none is negative, and each is Var(x^(k)) / Var(x*) too.
        """
        return [float(share) for share in self.shares()[:-1]]

    @property
    def residual(self) -> float:
        """Var(x^Δ) / Var(x*), the paper's instability of learning (Table 1)."""
        return float(self.residual_part.variance() / self.target.variance())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the moments as named tensors, for `from_tensors`."""
        parts = {"target": self.target}
        if not self.left:  # otherwise the residual is the last of them
            parts["residual"] = self.residual_part
        parts |= {f"order{k}": part for k, part in enumerate(self.components)}
        parts |= {f"left{k}": part for k, part in enumerate(self.left)}
        return {f"{n}.{field}": t for n, part in parts.items() for field, t in vars(part).items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor]) -> "Evaluation":
        """Rebuild what `tensors` took apart."""

        def part(name: str) -> Moments:
            return Moments(tensors[f"{name}.mean"], tensors[f"{name}.square"])

        def numbered(name: str) -> list[Moments]:
            count = sum(key.startswith(name) for key in tensors) // 2
            return [part(f"{name}{k}") for k in range(count)]

        left = numbered("left")
        return cls(part("target"), numbered("order"), left[-1] if left else part("residual"), left)

    def intervals(
        self, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
    ) -> list[tuple[float, float]]:
        """Return bootstrap intervals over images, of each order's share and of the residual.

        The fitted disentangler is kept: the intervals say what other images would change, not what
        another training run would.

        Parameters
        ----------
        resamples : int
            Resampled sets of images.
        level : float
            Coverage, between 0 and 1.
        seed : int

        Returns
        -------
        list of (float, float)
            Lower and upper end for orders 0 to K, then for the residual.
        """
        weights = bootstrap_weights(len(self.target.square), resamples, seed)
        return [quantiles(share, level) for share in self.shares(weights)]

    def residuals(self, weights: torch.Tensor) -> torch.Tensor:
        """Return `residual` over images drawn with ``weights`` (R, N), float64, shape (R,).

        With the same weights the residuals of two fits, or accuracy on the same images, belong
        together resample by resample; see `bootstrap_weights`.
        """
        return self.shares(weights)[-1]

    def shares(self, weights: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Return `explained`, order by order, then `residual`, over images drawn with ``weights``.

        Parameters
        ----------
        weights : torch.Tensor, optional
            float64, shape (R, N), from `bootstrap_weights`; all images equally by default.

        Returns
        -------
        list of torch.Tensor
            float64, shape (R,) each, or scalars without weights.
        """
        whole = self.target.variance(weights)
        if not self.left:
            parts = [part.variance(weights) for part in self.components]
        else:
            kept = [whole, *(part.variance(weights) for part in self.left)]
            parts = [before - after for before, after in pairwise(kept)]
        return [part / whole for part in (*parts, self.residual_part.variance(weights))]


def supported_order(
    held_out: Evaluation, *, least: float = 0.01, level: float = 0.95
) -> tuple[int, list[tuple[float, float]]]:
    """Return the highest order that other images support.

    An order counts if its drop in residual variance is more than ``least`` beyond doubt: the whole
    bootstrap interval over images lies above. Lower ones need not: features may lack a linear part.

    Parameters
    ----------
    held_out : Evaluation
        Of a disentangler fitted lowest first, on images that it was not fitted on.
    least : float
        Smallest share of Var(x*) worth an order, 0 to below 1.
    level : float
        Coverage of the intervals, between 0 and 1.

    Returns
    -------
    order : int
        -1 if none counts.
    intervals : list of (float, float)
        Of the share of each order, 0 to K.

    Raises
    ------
    InputError
        If the orders were fitted jointly: their shares are not drops.

    Examples
    --------
    Order 0 gives half of x*, order 1 nothing:

    >>> x = torch.randn(50, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    >>> half, nothing = Moments.of(x / 2), Moments.of(0 * x)
    >>> supported_order(Evaluation(Moments.of(x), [half, nothing], half, left=[half, half]))[0]
    0
    """
    if not held_out.left:
        raise InputError(
            "the orders of this evaluation were fitted jointly, so their shares do not say which "
            'order to stop at; fit with solver="lowest_first".'
        )
    if not 0 <= least < 1:
        raise InputError(f"least is {least}; allowed: 0 to below 1.")
    intervals = held_out.intervals(level=level)[:-1]
    return max((k for k, (low, _) in enumerate(intervals) if low > least), default=-1), intervals


def centred(feature: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a feature without each channel's mean over all images and positions, in float64.

    It comes some images at a time: all of it at once would be twice as large as what was given.

    Examples
    --------
    >>> torch.cat([*centred(torch.tensor([1.0, 3.0])[:, None, None, None])]).flatten().tolist()
    [-1.0, 1.0]
    """
    blocks = feature.split(_BLOCK)
    mean = torch.cat([block.double().mean((2, 3)) for block in blocks]).mean(0)
    for block in blocks:
        yield block.double() - mean[:, None, None]


def neighbour_products(feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Measure how alike neighbouring positions of a feature are, image by image.

    The ratio of the two sums over any set of images is the mean correlation between a position and
    the one beside or below it: near 1 for smooth shapes, near 0 for noise.

    Parameters
    ----------
    feature : torch.Tensor
        Shape (N, C, H, W), H and W 2 or more.

    Returns
    -------
    products, squares : torch.Tensor
        float64, shape (N,): the mean product of neighbours and the mean square of the same
        neighbours, each after the removal of every channel's mean over all images and positions.

    Examples
    --------
    >>> smooth = torch.linspace(-1, 1, 20).expand(1, 1, 20, 20)  # the same in each row
    >>> products, squares = neighbour_products(smooth)
    >>> 0.9 < float(products / squares) < 1
    True
    """
    axes, products, squares = (1, 2, 3), [], []
    for wide in centred(feature):
        beside = wide[..., :, 1:], wide[..., :, :-1]
        below = wide[..., 1:, :], wide[..., :-1, :]
        products.append(sum((one * other).mean(axes) for one, other in (beside, below)) / 2)
        squares.append(sum(part.square().mean(axes) for part in (*beside, *below)) / 4)
    return torch.cat(products), torch.cat(squares)


def ratio_interval(
    numerator: torch.Tensor,
    denominator: torch.Tensor,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return the ratio of two sums over images (N,), with its bootstrap interval.

    Returns
    -------
    tuple of float
        The ratio, and the lower and upper end of its interval.

    Examples
    --------
    >>> ones = torch.ones(20, dtype=torch.float64)
    >>> ratio_interval(ones, 2 * ones)
    (0.5, 0.5, 0.5)
    """
    weights = bootstrap_weights(len(numerator), resamples, seed)
    low, high = quantiles((weights @ numerator) / (weights @ denominator), level)
    return float(numerator.sum() / denominator.sum()), low, high


def rank_correlation(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return Spearman's rank correlation along the last axis.

    Parameters
    ----------
    one, other : torch.Tensor
        Shape (..., K), K 2 or more; equal values share the mean of their ranks.

    Returns
    -------
    torch.Tensor
        float64, shape (...), between -1 and 1; 0 where all values of one side are equal.

    Examples
    --------
    >>> float(rank_correlation(torch.tensor([1, 2, 3]), torch.tensor([1, 10, 100])))
    1.0
    """

    def centred_ranks(values):
        values = values.double()
        ahead = (values[..., None, :] < values[..., :, None]).sum(-1)  # (..., K)
        behind = (values[..., None, :] > values[..., :, None]).sum(-1)
        return (ahead - behind).double() / 2  # of mean 0

    a, b = centred_ranks(one), centred_ranks(other)
    scale = (a.square().sum(-1) * b.square().sum(-1)).sqrt()
    return (a * b).sum(-1) / scale.clamp(min=1e-300)


def bootstrap_weights(count: int, resamples: int, seed: int) -> torch.Tensor:
    """Return the weights of images in resamples with replacement, float64 (resamples, count).

    Examples
    --------
    >>> weights = bootstrap_weights(5, resamples=3, seed=0)
    >>> weights.shape, [round(float(row.sum()), 6) for row in weights]
    (torch.Size([3, 5]), [1.0, 1.0, 1.0])
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (resamples, count), generator=generator)
    weights = torch.zeros(resamples, count, dtype=torch.float64)
    return weights.scatter_add_(1, drawn, torch.full(drawn.shape, 1 / count, dtype=torch.float64))


def quantiles(values: torch.Tensor, level: float) -> tuple[float, float]:
    """Return the ends of the central interval that holds a share ``level`` of values (R,).

    Examples
    --------
    >>> low, high = quantiles(torch.linspace(0, 1, 101, dtype=torch.float64), 0.9)
    >>> round(low, 3), round(high, 3)
    (0.05, 0.95)
    """
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = values.quantile(ends).tolist()
    return low, high


def over_networks(draws: torch.Tensor, seed: int) -> torch.Tensor:
    """Resample pairs of networks too, where each row holds one pair's number on resampled images.

    Column by column the pairs are drawn with replacement and averaged. The mean of P drawn pairs
    spreads less than that of P new ones would, by (P - 1) / P; that is made up for. One pair alone
    says nothing about others: its row is returned as it is.

    Parameters
    ----------
    draws : torch.Tensor
        float64, shape (P, R, ...): P pairs, measured on the same R resamples of the images; where
        there are several numbers of each, the same pairs are drawn for all of them.
    seed : int

    Returns
    -------
    torch.Tensor
        float64, shape (R, ...): the mean over pairs, both networks and images resampled.

    Examples
    --------
    >>> over_networks(torch.tensor([[0.1, 0.2, 0.3]]), seed=0)
    tensor([0.1000, 0.2000, 0.3000])
    """
    pairs, resamples = draws.shape[:2]
    if pairs == 1:
        return draws[0]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(pairs, (pairs, resamples), generator=generator)
    centre = draws.mean(0)
    found = draws[drawn, torch.arange(resamples)].mean(0)
    return centre + (found - centre) * (pairs / (pairs - 1)) ** 0.5


def share_of_networks(draws: torch.Tensor, seed: int) -> float:
    """Return which share of the spread of a mean over pairs comes from the choice of networks.

    The rest comes from the choice of images. Each variance is that of the mean when only the
    networks, or only the images, are resampled.

    Parameters
    ----------
    draws : torch.Tensor
        As for `over_networks`, P 2 or more.
    seed : int

    Returns
    -------
    float
        0 (networks do not differ) to 1 (images do not); 0 where nothing differs at all.

    Examples
    --------
    >>> share_of_networks(torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]]), seed=0)
    0.0
    """
    of_images = draws.mean(0).var()
    of_networks = over_networks(draws.mean(1, keepdim=True).expand_as(draws), seed).var()
    return float(of_networks / (of_networks + of_images).clamp(min=1e-300))


def paired_difference(
    one: torch.Tensor,
    other: torch.Tensor,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return the difference of two means over the same images, with its paired interval.

    Images are resampled for both at once. Of two networks' right answers, it is the gain in
    accuracy.

    Parameters
    ----------
    one, other : torch.Tensor
        Shape (N,), one number an image, e.g. bool: whether it was answered rightly.
    resamples, level, seed
        As for `Evaluation.intervals`.

    Returns
    -------
    tuple of float
        The mean of ``one`` minus that of ``other``, and the lower and upper end of its interval.

    Raises
    ------
    InputError
        If the two are not of the same images.

    Examples
    --------
    >>> right = torch.tensor([True] * 60 + [False] * 40)
    >>> paired_difference(right, right)
    (0.0, 0.0, 0.0)
    >>> gain, low, high = paired_difference(right, right.flip(0))
    >>> gain, low < gain < high
    (0.0, True)
    """
    if one.dim() != 1 or one.shape != other.shape:
        raise InputError(
            f"numbers of shape {tuple(one.shape)} and {tuple(other.shape)}; allowed: (N,), both "
            "of the same images."
        )
    difference = one.double() - other.double()
    return ratio_interval(
        difference, torch.ones_like(difference), resamples=resamples, level=level, seed=seed
    )


@torch.no_grad()
def split(
    disentangler: nn.Module, x: torch.Tensor, target: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Split a target feature into what a disentangler gives of it and what it leaves.

    Parameters
    ----------
    disentangler : Disentangler or StagewiseDisentangler
        Fitted from features like x to features like the target.
    x : torch.Tensor
        Shape (N, C, H, W); brought to the target's map size if it has another one.
    target : torch.Tensor
        x*, shape (N, C*, H*, W*).

    Returns
    -------
    dict of str to torch.Tensor
        ``"target x*"``, the orders ``"x(0)"``, ``"x(1)"``, ..., and the rest ``"x_delta"``, each
        (N, C*, H*, W*): orders and rest add up to the target.

    Examples
    --------
    >>> from kclib import Disentangler
    >>> x, target = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    >>> list(split(Disentangler(3, 5, order=1), x, target))
    ['target x*', 'x(0)', 'x(1)', 'x_delta']
    """
    orders = target.new_empty(disentangler.order + 1, *target.shape)  # (K + 1, N, C*, H*, W*)
    for start in range(0, len(target), _BLOCK):  # a decomposition holds several times as much
        some = slice(start, start + _BLOCK)
        orders[:, some] = disentangler.decompose(resample(x[some], target.shape[2:]))
    numbered = {f"x({k})": part for k, part in enumerate(orders)}
    return {"target x*": target, **numbered, "x_delta": target - orders.sum(0)}


def mean_over_pairs(
    values: torch.Tensor, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float, float | None]:
    """Return the mean over pairs of networks and images, with an interval that covers both.

    Parameters
    ----------
    values : torch.Tensor
        Shape (P, N): of P pairs on the same N images, e.g. 1 where a refined network answers
        rightly and the other wrongly, -1 where it is the reverse, 0 elsewhere.
    resamples, level, seed
        As for `Evaluation.intervals`.

    Returns
    -------
    tuple of float
        The mean, the lower and upper end of its interval, and the share of its spread that comes
        from networks (`share_of_networks`), None of one pair: its interval covers images only.

    Examples
    --------
    >>> half = torch.tensor([1.0, 0.0]).repeat(50)
    >>> mean, low, high, of_networks = mean_over_pairs(half[None])
    >>> mean, low < 0.5 < high, of_networks
    (0.5, True, None)
    >>> mean_over_pairs(torch.stack([half, 1 - half]))[0]
    0.5
    """
    weights = bootstrap_weights(values.shape[1], resamples, seed)
    draws = values.double() @ weights.T  # (pairs, resamples)
    low, high = quantiles(over_networks(draws, seed), level)
    share = share_of_networks(draws, seed) if len(draws) > 1 else None
    return float(values.double().mean()), low, high, share
