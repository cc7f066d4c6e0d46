"""Least squares for a convolution: normal equations in one streaming pass, without patches.

The normal matrix of a 3 x 3 convolution over zero-padded maps holds, for each pair of kernel
offsets u and v, the products of x at q and at q + v - u, summed over positions. But for what the
border cuts off, that depends on v - u alone: it is the correlation of the map with itself, a
product in the Fourier domain. A map of H x W positions then costs about (H + 2)(W + 3) / 2 complex
products of channels, where patches cost 81 H W real ones.
"""

import math
from collections.abc import Iterator

import torch
from torch.nn import functional as F

from .errors import InputError

#: Ridges, as shares of each input's mean square; the least keeps dependent inputs solvable. Of the
#: median one's where an input has less: one that is 1e-4 at a single position would get a weight of
#: 1e4, which on other images makes any output.
RIDGES = (1e-6, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 10.0, 100.0)
_ROUNDING = 1e-6  # of sums of float32 products, as a share
_WHITENING_RIDGE = 0.3  # of an input; weaker directions, mostly noise, are not amplified further
_WEAK = 0.01  # of the median input's size; a rectifier that hardly ever opens is below
_OFFSETS = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]


class NormalEquations:
    """Sums over images and positions that give a convolution's least-squares weights.

    Products are taken in the precision of what is added and summed in float64, on its device.

    Parameters
    ----------
    kernel_size : int
        1 or 3; the convolution pads with zeros to keep the map's size.

    Attributes
    ----------
    rows : int
        Positions of all images added so far.
    """

    def __init__(self, kernel_size: int):
        self.kernel_size = kernel_size
        self.rows = 0
        nothing = torch.zeros((), dtype=torch.float64)  # takes the shape of what is added
        self._spectrum = self._cross = nothing  # of x with itself and with the target
        self._borders: dict = {}  # products that the border cuts off
        self._sum = self._target_sum = self._target_square = nothing
        self._matrix: torch.Tensor | None = None  # of what is summed so far, once asked for
        self._right: torch.Tensor | None = None

    def add(self, x: torch.Tensor, target: torch.Tensor | None = None) -> None:
        """Add images: inputs (N, C, H, W) and, to solve for, wanted outputs (N, C*, H, W)."""
        if len(x) == 0:  # transforms of nothing are refused
            return
        self._matrix = self._right = None
        self.rows += x.shape[0] * x.shape[2] * x.shape[3]
        self._sum = self._sum + x.sum(0, dtype=torch.float64)  # (C, H, W)
        if self.kernel_size == 1:
            flat = x.transpose(0, 1).flatten(1)  # (C, N H W)
            self._spectrum = self._spectrum + (flat @ flat.T).double()
        else:
            spectra = _spectra(x)  # (frequencies, C, N)
            self._spectrum = self._spectrum + _products(spectra, spectra)
            for name, value in _border_products(x).items():
                self._borders[name] = self._borders.get(name, 0.0) + value.double()
        if target is None:
            return
        self._target_sum = self._target_sum + target.sum((0, 2, 3), dtype=torch.float64)
        square = target.square().sum((0, 2, 3), dtype=torch.float64)
        self._target_square = self._target_square + square  # (C*,)
        if self.kernel_size == 1:
            wanted = target.transpose(0, 1).flatten(1)  # (C*, N H W)
            self._cross = self._cross + (flat @ wanted.T).double()
        else:
            self._cross = self._cross + _products(spectra, _spectra(target))

    def matrix(self) -> torch.Tensor:
        """Return the sum of products of all pairs of weights' inputs, float64 (C k k, C k k)."""
        if self._matrix is None:
            self._matrix = self._spectrum if self.kernel_size == 1 else self._assembled()
        return self._matrix

    def _assembled(self) -> torch.Tensor:
        products = self._correlations(self._spectrum)
        channels = products.shape[-1]
        matrix = products.new_empty(channels, 9, channels, 9)
        for u, (a, b) in enumerate(_OFFSETS):
            for v, (a2, b2) in enumerate(_OFFSETS):
                block = products[a2 - a, b2 - b].clone()
                if a == a2 != 0:
                    block -= self._borders["row", a, b2 - b]
                if b == b2 != 0:
                    block -= self._borders["column", b, a2 - a]
                if a == a2 != 0 and b == b2 != 0:
                    block += self._borders["corner", a, b]
                matrix[:, u, :, v] = block
        return matrix.flatten(2, 3).flatten(0, 1)

    def right(self) -> torch.Tensor:
        """Return the sum of products of weights' inputs and targets, float64 (C k k, C*)."""
        if self._right is None:
            if self.kernel_size == 1:
                return self._cross
            products = self._correlations(self._cross)
            self._right = torch.stack([products[-a, -b] for a, b in _OFFSETS], 1).flatten(0, 1)
        return self._right

    def merge(self, other: "NormalEquations") -> "NormalEquations":
        """Return the sums over the images of both."""
        both = NormalEquations(self.kernel_size)
        for name in ("rows", "_spectrum", "_cross", "_sum", "_target_sum", "_target_square"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        both._borders = {name: mine + other._borders[name] for name, mine in self._borders.items()}
        return both

    def solve(
        self, *, intercept: bool = False, ridge: float = RIDGES[0]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights that leave the least mean square, regularised.

        The ridge grows with an input's mean square, but holds down what was hardly ever seen.

        Parameters
        ----------
        intercept : bool
            Also fit a constant per output channel; it is 0 otherwise.
        ridge : float
            Above 0, a share of each input's mean square.

        Returns
        -------
        weight : torch.Tensor
            float64, shape (C*, C, k, k).
        constant : torch.Tensor
            float64, shape (C*,).
        """
        solution, constant = next(self._solutions(intercept, [ridge]))
        kernel = (self.kernel_size, self.kernel_size)
        return solution.T.unflatten(1, (-1, *kernel)), constant

    def left(self, weight: torch.Tensor, constant: torch.Tensor) -> float:
        """Return the sum of squares that weights (C*, C, k, k) and constants (C*,) leave."""
        return self._left(weight.double().flatten(1).T, constant.double())

    def best_ridge(
        self, held_out: "NormalEquations", *, intercept: bool = False
    ) -> tuple[float, float]:
        """Return which of `RIDGES` leaves least of other images, and the sum of squares it leaves.

        They are tried until that rises.
        """
        rounding = _ROUNDING * float(held_out._target_square.sum())
        best, least = RIDGES[0], math.inf
        for ridge, solution in zip(RIDGES, self._solutions(intercept, RIDGES), strict=True):
            left = held_out._left(*solution)
            if left > least + rounding:
                break
            if left < least - rounding:
                best, least = ridge, left
        return best, least

    def _left(self, weight: torch.Tensor, constant: torch.Tensor) -> float:
        """Return what weights (C k k, C*) and constants (C*,) leave."""
        product = (weight * (self.matrix() @ weight - 2 * self.right())).sum()
        wanted = self._target_sum - self._input_sums() @ weight
        shift = (constant * (self.rows * constant - 2 * wanted)).sum()
        return float(self._target_square.sum() + product + shift)

    def _solutions(self, intercept: bool, ridges) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield for each ridge the weights (C k k, C*) and the constants (C*,)."""
        matrix, right = self.matrix(), self.right()
        inputs = self._input_sums() / self.rows
        wanted = self._target_sum / self.rows
        if intercept:
            matrix = matrix - self.rows * inputs[:, None] * inputs
            right = right - self.rows * inputs[:, None] * wanted
        size = _sizes(matrix)
        if (seen := matrix.diagonal() > 0).any():
            size = size.clamp_min(size[seen].median().item())
        matrix = matrix / size / size[:, None]
        for ridge in ridges:
            unstable = True
            # float32 products can leave eigenvalues a little below zero; not a number stays one.
            while unstable and ridge < math.inf:
                factor, unstable = torch.linalg.cholesky_ex(
                    matrix.diagonal_scatter(matrix.diagonal() + ridge)
                )
                ridge *= 10
            if unstable:
                raise InputError(
                    "sums of products are not finite; divide the features by a number."
                )
            solution = torch.cholesky_solve(right / size[:, None], factor) / size[:, None]
            yield solution, wanted - inputs @ solution if intercept else torch.zeros_like(wanted)

    def degeneracy(self) -> str | None:
        """Say why the least-squares weights are not the only ones; None where they are."""
        matrix = self.matrix()
        size = _sizes(matrix)
        if self.rows < len(matrix):
            return f"there are {self.rows:,} positions for {len(matrix):,} weights of an output"
        scaled, least = matrix / size / size[:, None], 10 * RIDGES[0]
        shifted = scaled.diagonal_scatter(scaled.diagonal() - least)
        if torch.linalg.cholesky_ex(shifted).info:  # far cheaper than eigenvalues
            dependent = max(1, int((torch.linalg.eigvalsh(scaled) < least).sum()))
            return f"{dependent} of the {len(matrix):,} inputs are sums of others, or always 0"
        return None

    def whitener(self) -> torch.Tensor:
        """Return the matrix P for which gradient descent on U, with weights U P, is conditioned.

        The inverse of P^T P is the mean product of inputs, up to a ridge on weak directions.

        Returns
        -------
        torch.Tensor
            float32, shape (C k k, C k k).
        """
        matrix = self.matrix() / self.rows
        size = _sizes(matrix)
        if (seen := matrix.diagonal() > 0).any():  # below that it would be rounding made white
            size = size.clamp_min(_WEAK * size[seen].median().item())
        scaled = (matrix / size / size[:, None]).float()
        root = torch.linalg.cholesky(scaled.diagonal_scatter(scaled.diagonal() + _WHITENING_RIDGE))
        identity = torch.eye(len(root), device=root.device)
        return torch.linalg.solve_triangular(root, identity, upper=False) / size.float()

    def _correlations(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Return products summed over positions, indexed by offset: (H + 2, W + 2, C, C')."""
        size = (self._sum.shape[1] + 2, self._sum.shape[2] + 2)
        spectrum = spectrum.unflatten(0, (size[0], size[1] // 2 + 1))
        return torch.fft.irfft2(spectrum, s=size, dim=(0, 1))

    def _input_sums(self) -> torch.Tensor:
        """Return the sum of each weight's input over images and positions, (C k k,)."""
        if self.kernel_size == 1:
            return self._sum.sum((1, 2))
        return F.unfold(self._sum[None], 3, padding=1)[0].sum(1)


def _spectra(x: torch.Tensor) -> torch.Tensor:
    """Return the Fourier transforms of maps (N, C, H, W), padded: (frequencies, C, N)."""
    size = (x.shape[2] + 2, x.shape[3] + 2)  # offsets reach from -2 to 2
    return torch.fft.rfft2(x, s=size).permute(2, 3, 1, 0).flatten(0, 1).contiguous()


def _products(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.bmm(one.conj(), other.transpose(1, 2)).to(torch.complex128)


def _border_products(x: torch.Tensor) -> dict[tuple, torch.Tensor]:
    """Return the products that a kernel's offset moves out of the map, each (C, C).

    Offset -1 never reads the last row or column, offset 1 never the first.
    """
    found = {}
    for offset, index in ((-1, -1), (1, 0)):
        for name, line in (("row", x[:, :, index]), ("column", x[:, :, :, index])):
            line = line.transpose(0, 1)  # (C, N, W or H)
            for shift in range(3):
                kept = max(line.shape[2] - shift, 0)
                product = line[:, :, :kept].flatten(1) @ line[:, :, shift:].flatten(1).T
                found[name, offset, shift] = product
                found[name, offset, -shift] = product.T
        for across, column in ((-1, -1), (1, 0)):
            corner = x[:, :, index, column]  # (N, C)
            found["corner", offset, across] = corner.T @ corner
    return found


def _sizes(matrix: torch.Tensor) -> torch.Tensor:
    """Return the root mean square of each input; 1 for what is always 0, whose weight stays 0."""
    size = matrix.diagonal().clamp_min(0).sqrt()
    return size.where(size > 0, 1)
