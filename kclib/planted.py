"""Features whose orders are known by construction, to check fits against."""

from dataclasses import dataclass

import torch

from .errors import InputError
from .measures import variance

_SECOND_ORDER = 2  # units t


@dataclass(frozen=True)
class Planted:
    """Features x and x*, and what x* is made of.

    Attributes
    ----------
    x : torch.Tensor
        Shape (N, C, H, W).
    parts : torch.Tensor
        Shape (4, N, C, H, W): orders 0, 1 and 2, then noise; uncorrelated but for sampling.

    Examples
    --------
    >>> found = planted(10, 4, 3, rank=2, shares=(0.5,), seed=0)
    >>> found.x.shape, found.parts.shape
    (torch.Size([10, 4, 3, 3]), torch.Size([4, 10, 4, 3, 3]))
    >>> found.target.equal(found.parts.sum(0))
    True
    """

    x: torch.Tensor
    parts: torch.Tensor

    @property
    def target(self) -> torch.Tensor:
        """The feature x*, shape (N, C, H, W): the sum of the parts."""
        return self.parts.sum(0)

    @property
    def shares(self) -> list[float]:
        """The share of Var(x*) of orders 0, 1 and 2 and of the noise, measured on this sample."""
        whole = variance(self.target)
        return [variance(part) / whole for part in self.parts]


def planted(
    images: int,
    channels: int,
    side: int,
    *,
    rank: int,
    shares: tuple[float, ...],
    seed: int,
) -> Planted:
    """Draw features of which each order explains a given share.

    x is Gaussian, independent at all positions, and ::

        x* = A x + B z + D t + noise,    z_i = |c_i x|,    t_j = |u_j + v_j| - |u_j - v_j|,

    with orthonormal directions c_i, random A, B and D, and u_j and v_j sums of disjoint halves of
    the z_i, as many of them subtracted as added. ``|a|`` is ReLU(a) + ReLU(-a), so z takes one
    non-linear step and t two. The parts are uncorrelated: A x changes sign with x, and z and t do
    not; t_j changes sign if in one half the added and the subtracted z_i trade places, and the z_i
    of the other half do not notice.

    Parameters
    ----------
    images, channels, side : int
        N, C and H = W: from 2, 1 and 1.
    rank : int
        Directions c_i, 1 to ``channels``. With a second order a multiple of 4, up to half of
        ``channels``: each ``|c_i x|`` takes two units of a layer. Of 4 or 8 directions, one wide
        non-linear step can imitate much of a second order.
    shares : tuple of float
        Of orders 0, 1 and 2, none negative, with a sum of at most 1; missing ones are 0. What they
        leave is noise.
    seed : int

    Returns
    -------
    Planted

    Raises
    ------
    InputError
        If an argument is out of its range.

    Examples
    --------
    >>> found = planted(300, 24, 5, rank=12, shares=(0.3, 0.5), seed=0)
    >>> [round(share, 1) for share in found.shares]
    [0.3, 0.5, 0.0, 0.2]
    """
    shares = _checked(images, channels, side, rank, shares)
    generator = torch.Generator().manual_seed(seed)

    def gaussian(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x, noise = (gaussian(images, channels, side, side) for _ in range(2))  # (N, C, H, W)
    directions = torch.linalg.qr(gaussian(channels, rank))[0].T  # (rank, C)
    z = _mixed(directions, x).abs()  # (N, rank, H, W)
    sources = [x, z]
    if shares[2]:
        t = [_second_order(z, generator) for _ in range(_SECOND_ORDER)]
        sources.append(torch.stack(t, 1))  # (N, 2, H, W)
    parts = [_mixed(gaussian(channels, source.shape[1]), source) for source in sources]
    parts += [torch.zeros_like(x)] * (3 - len(parts))
    drawn = zip((*parts, noise), shares, strict=True)
    return Planted(x, torch.stack([_scaled(part, share) for part, share in drawn]))


def _second_order(z: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return one t, shape (N, H, W), of the units z (N, rank, H, W)."""
    quarters = torch.randperm(z.shape[1], generator=generator).chunk(4)
    added, subtracted, also_added, also_subtracted = (z[:, quarter].sum(1) for quarter in quarters)
    u, v = added - subtracted, also_added - also_subtracted
    return (u + v).abs() - (u - v).abs()


def _mixed(matrix: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
    """Apply a matrix (C*, C) to the channels of a feature (N, C, H, W)."""
    return torch.einsum("oc,nchw->nohw", matrix, feature)


def _scaled(part: torch.Tensor, share: float) -> torch.Tensor:
    """Return a part with the variance ``share``."""
    return part * (share / variance(part)) ** 0.5 if share else torch.zeros_like(part)


def _checked(
    images: int, channels: int, side: int, rank: int, shares: tuple[float, ...]
) -> tuple[float, float, float, float]:
    """Return the shares of orders 0, 1 and 2 and of the noise, or refuse what cannot be drawn."""
    for name, value, least in (("images", images, 2), ("channels", channels, 1), ("side", side, 1)):
        if value < least:
            raise InputError(f"{name} is {value}; allowed: {least} or more.")
    noise = 1 - sum(shares)
    if len(shares) > 3 or not all(share >= 0 for share in shares) or noise < -1e-9:
        raise InputError(
            f"shares are {shares}; allowed: up to three numbers, for orders 0, 1 and 2, none of "
            "them negative, with a sum of at most 1."
        )
    if not 1 <= rank <= channels:
        raise InputError(f"rank is {rank}; allowed: 1 to the number of channels, {channels}.")
    zeroth, first, second = (*shares, *[0.0] * (3 - len(shares)))
    if second and (rank % 4 or rank > channels // 2):
        raise InputError(
            f"rank is {rank} with {channels} channels; a second order takes a multiple of 4, up to "
            "half of the channels. Change one of them, or let the share of order 2 be 0."
        )
    return zeroth, first, second, max(0.0, noise)
