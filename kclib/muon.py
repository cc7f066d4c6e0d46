"""Muon: momentum whose matrix is made nearly orthogonal before each step.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the size of a
step as in J. Liu et al., "Muon is scalable for LLM training" (2025), section 2.2. torch has it from
2.9 on, always in bfloat16, which costs time and digits where a machine has no such products.
"""

import math

import torch

#: Of the odd polynomial a s + b s^3 + c s^5 that drives singular values towards 1 (Jordan).
_POLYNOMIAL = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_LEAST_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """Stochastic descent of matrices, with Nesterov momentum made nearly orthogonal.

    A step moves a matrix's entries by about a fifth of the rate, root mean square.

    Parameters
    ----------
    matrices : list of torch.nn.Parameter
        Of two dimensions each.
    rate : float
        Above 0.
    momentum : float
        0 to below 1.
    precision : torch.dtype
        In which matrices are made orthogonal.

    Examples
    --------
    >>> matrix = torch.nn.Parameter(torch.eye(3))
    >>> matrix.grad = torch.diag(torch.tensor([1.0, 2.0, 4.0]))
    >>> Muon([matrix], rate=0.1, momentum=0.9, precision=torch.float32).step()
    >>> moved = torch.eye(3) - matrix.detach()  # equally far, though gradients differ
    >>> bool((moved.diagonal() > 0.02).all() and (moved.diagonal() < 0.05).all())
    True
    """

    def __init__(self, matrices, rate: float, momentum: float, precision: torch.dtype):
        super().__init__(matrices, {"rate": rate, "momentum": momentum, "precision": precision})

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step along the gradients at hand."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                velocity = state.setdefault("velocity", torch.zeros_like(matrix))
                velocity.lerp_(matrix.grad, 1 - group["momentum"])
                ahead = matrix.grad.lerp(velocity, group["momentum"])
                direction = nearly_orthogonal(ahead.to(group["precision"]))
                size = 0.2 * math.sqrt(max(matrix.shape))
                matrix.add_(direction, alpha=-group["rate"] * size)


def nearly_orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return the matrix with its singular values brought to between about 0.7 and 1.2.

    Those far below the largest stay smaller.

    Examples
    --------
    >>> found = nearly_orthogonal(torch.diag(torch.tensor([1.0, 2.0, 4.0])))
    >>> bool((found.diagonal() > 0.6).all() and (found.diagonal() < 1.3).all())
    True
    """
    a, b, c = _POLYNOMIAL
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    wide = wide / wide.norm().clamp(min=_LEAST_NORM)
    for _ in range(_ITERATIONS):
        products = wide @ wide.T
        products = torch.addmm(products, products, products, beta=b, alpha=c)
        wide = torch.addmm(wide, products, wide, beta=a)
    return wide.T if tall else wide
