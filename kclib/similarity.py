"""Other measures of how alike two features are, to compare knowledge consistency with.

All take two features as float64 matrices of positions times channels, rows of the same positions of
the same images (see `rows_of`), remove each channel's mean first, and return 1 for a feature
compared with itself. None of them looks at a position's neighbours. They warn of fewer rows than
the two have channels together, for then each of them finds a likeness in unrelated noise too.
`cka_by_row` and `neighbours_lost` give each row a number instead, so that rows can be ranked.
"""

import warnings

import torch

from .errors import DegenerateFeatures, InputError
from .features import resample

#: Singular values below this share of the largest count as 0.
_RANK = 1e-10


def rows_of(
    x: torch.Tensor, target: torch.Tensor, *, count: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same positions of two features as rows, drawn without replacement.

    Parameters
    ----------
    x, target : torch.Tensor
        Features of the same images, shapes (N, C, H, W) and (N, C*, H*, W*); ``x`` is brought to
        the map size of ``target``.
    count : int
        Positions to draw, 1 or more; all there are, if they are fewer.
    seed : int

    Returns
    -------
    tuple of torch.Tensor
        float64, shapes (M, C) and (M, C*).

    Examples
    --------
    >>> one, other = rows_of(torch.rand(2, 3, 4, 4), torch.rand(2, 5, 2, 2), count=6, seed=0)
    >>> one.shape, other.shape
    (torch.Size([6, 3]), torch.Size([6, 5]))
    """
    if len(x) != len(target) or count < 1:
        raise InputError(
            f"features of {len(x)} and {len(target)} images, {count} positions; allowed: features "
            "of the same images, and 1 position or more."
        )
    x = resample(x, target.shape[2:])
    area = target[0, 0].numel()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(x) * area, generator=generator)[:count]
    image, place = drawn // area, drawn % area
    return tuple(part.flatten(2)[image, :, place].double() for part in (x, target))  # (M, C)


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """Return linear centred kernel alignment (Kornblith et al., 2019), from 0 to 1.

    Symmetric; unchanged by rotations (permutations among them) and by one factor on all channels.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [2.0, 0.0]])
    >>> round(linear_cka(x, 3 * x.flip(1)), 6)
    1.0
    """
    x, y = _centred(x, y)
    return float((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


def svcca(x: torch.Tensor, y: torch.Tensor, *, kept: float = 0.99) -> float:
    """Return the mean canonical correlation of the leading singular directions, from 0 to 1.

    SVCCA (Raghu et al., 2017) is a procedure with choices. Here: of each feature the fewest
    singular directions that hold a share ``kept`` of its variance; the canonical correlations of
    the two sets; their mean over as many as the smaller set has directions. Symmetric; unchanged by
    rotations and by one factor on all channels.

    Parameters
    ----------
    x, y : torch.Tensor
        Shapes (M, C) and (M, C*).
    kept : float
        Above 0 and at most 1. With 1 it is plain CCA, unchanged by any invertible linear map.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [2.0, 0.0]])
    >>> round(svcca(x, 3 * x.flip(1)), 6)
    1.0
    """
    if not 0 < kept <= 1:
        raise InputError(f"kept is {kept}; allowed: above 0 and at most 1.")
    bases = []
    for part in _centred(x, y):
        u, s, _ = _svd(part)
        held = s.square().cumsum(0) / s.square().sum()
        bases.append(u[:, : int((held < kept - 1e-12).sum()) + 1])
    return float(torch.linalg.svdvals(bases[0].T @ bases[1]).clamp(max=1).mean())


def pwcca(x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the mean canonical correlation, weighted by what each direction is to x, from 0 to 1.

    Projection-weighted CCA (Morcos et al., 2018): the weight of a canonical direction of x is the
    sum of the sizes of its products with x's channels. Directed; unchanged by every invertible
    linear map of y, but not of x, where even a rotation moves the weights, though not by much.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [2.0, 0.0]])
    >>> round(pwcca(x, x @ torch.tensor([[1.0, 2.0], [3.0, 4.0]])), 6)
    1.0
    """
    x, y = _centred(x, y)
    basis = _svd(x)[0]
    turn, correlations, _ = torch.linalg.svd(basis.T @ _svd(y)[0], full_matrices=False)
    weights = (turn.T @ (basis.T @ x)).abs().sum(1)
    return float((weights * correlations.clamp(max=1)).sum() / weights.sum())


def procrustes(x: torch.Tensor, y: torch.Tensor) -> float:
    """Return how well a rotation turns one feature into the other, from 0 to 1.

    With both features scaled to norm 1, the least squared distance after an orthogonal map is
    2 - 2 s, where s is the sum of the singular values of x^T y (Schönemann, 1966). Returned is s.
    Features of different widths are compared as if zeros filled the narrower one. Symmetric;
    unchanged by rotations and by one factor on all channels.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [2.0, 0.0]])
    >>> round(procrustes(x, 3 * x.flip(1)), 6)
    1.0
    """
    x, y = _centred(x, y)
    return float(torch.linalg.svdvals(x.T @ y).sum() / (x.norm() * y.norm()))


def stitching(
    x: torch.Tensor,
    y: torch.Tensor,
    held_out: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> float:
    """Return the share of y's variance that a linear map of x gives, position by position.

    A linear stitching layer, judged by its own error (R^2), not by the accuracy of the network that
    it is stitched into. Directed; unchanged by every invertible linear map of x, but not of y. It
    is knowledge consistency of order 0 with 1 x 1 kernels.

    Parameters
    ----------
    x, y : torch.Tensor
        Shapes (M, C) and (M, C*): the map is fitted on these.
    held_out : tuple of torch.Tensor, optional
        Other rows of both, to judge it on; those of the fit by default.

    Returns
    -------
    float
        At most 1; on held-out rows it can be negative.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [2.0, 0.0]])
    >>> round(stitching(x, x @ torch.rand(2, 2)), 6)
    1.0
    """
    mean_x, mean_y = x.double().mean(0), y.double().mean(0)
    u, s, vh = _svd(_centred(x, y)[0])
    linear = vh.T @ ((u.T @ (y.double() - mean_y)) / s[:, None])  # (C, C*)
    x, y = (x, y) if held_out is None else held_out
    rest = y.double() - mean_y - (x.double() - mean_x) @ linear
    whole = y.double() - y.double().mean(0)
    return float(1 - (rest - rest.mean(0)).square().sum() / whole.square().sum())


def cka_by_row(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return what each row contributes to linear CKA's likeness, in units of its own size.

    With centred Gram matrices K and L, linear CKA is the cosine of the angle between them; this is
    the cosine between their rows: whether the rows that are like this one in x are so in y.

    Parameters
    ----------
    x, y : torch.Tensor
        Shapes (M, C) and (M, C*).

    Returns
    -------
    torch.Tensor
        float64, shape (M,), from -1 to 1.

    Examples
    --------
    >>> x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    >>> bool((cka_by_row(x, 5 * x) > 0.999).all())
    True
    """
    x, y = _centred(x, y)
    return torch.cosine_similarity(x @ x.T, y @ y.T, dim=1)


def neighbours_lost(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return how much each row's neighbours in y are far from it in x.

    The affinities of *Representational Difference Explanations* (Kondapaneni et al., 2025), which
    that method divides into clusters; here each row's mean affinity ranks the rows. Distances are
    ranks among a row's neighbours; a pair counts the more, the nearer it is in y and the farther in
    x, small ranks most. Their constants: 80 / M within the tanh, 5 before it.

    Parameters
    ----------
    x, y : torch.Tensor
        Shapes (M, C) and (M, C*).

    Returns
    -------
    torch.Tensor
        float64, shape (M,), above 0.

    Examples
    --------
    >>> x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    >>> bool(torch.allclose(neighbours_lost(x, x), torch.ones(40).double()))
    True
    """
    of_x, of_y = map(_ranks_of_neighbours, (x, y))
    nearest = torch.minimum(of_x, of_y) + 1
    difference = torch.tanh(80 / len(x) * (of_y - of_x) / nearest)
    affinity = torch.exp(-5 * difference)
    return ((affinity + affinity.T) / 2).mean(1)


def _ranks_of_neighbours(x: torch.Tensor) -> torch.Tensor:
    """Return which row is nearest to each row (0), which next (1), ...: float64, shape (M, M)."""
    order = torch.cdist(x, x).argsort(1)
    ranks = torch.arange(len(x), dtype=torch.float64).expand_as(order)
    return torch.empty_like(ranks).scatter_(1, order, ranks)


def _centred(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both matrices in float64, each channel's mean removed."""
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y):
        raise InputError(
            f"features are {tuple(x.shape)} and {tuple(y.shape)}; allowed: (M, C) and (M, C*), "
            "rows of the same M positions."
        )
    parts = []
    for part in (x.double(), y.double()):
        if not part.isfinite().all():
            raise InputError("a feature holds NaN or infinity; allowed: finite numbers.")
        centred = part - part.mean(0)
        if centred.norm() <= 1e-12 * part.norm():
            raise InputError(
                "a feature has the same value at all positions; it cannot be compared."
            )
        parts.append(centred)
    if len(x) < x.shape[1] + y.shape[1]:
        warnings.warn(
            f"{len(x)} rows for {x.shape[1]} and {y.shape[1]} channels: with fewer rows than both "
            "have together, unrelated noise looks alike too. Take more images or positions.",
            DegenerateFeatures,
            stacklevel=3,
        )
    return tuple(parts)


def _svd(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the singular value decomposition without directions that hold nothing."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((s > _RANK * s[0]).sum())
    return u[:, :rank], s[:rank], vh[:rank]
