"""What is left of a feature, image by image, class by class and channel by channel, calibrated.

Much is left where a feature is strong. So what is left is compared with a reference, what another
training run leaves or else the feature's own energy: on a log scale a line is fitted from the
reference to what is left, and the z-score says how far above the line an image or a channel lies,
in robust standard deviations.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch

_CHANCE = 0.01  # of naming anything where there is nothing
_FEWEST = 5  # images of a class, to say something about it


@dataclass(frozen=True)
class Spots:
    """Scores of images, classes and channels.

    Attributes
    ----------
    images, channels : torch.Tensor
        float64, shapes (N,) and (C,): z-scores, high where more is left than the reference says.
    shares : torch.Tensor
        float64, shape (N,): what is left of each image's own energy.
    classes : dict of int to float
        z-score of the mean over a class's images, of classes with five images or more.
    maps : torch.Tensor
        float32, shape (N, H, W): where it is left, mean square over channels.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> target = torch.randn(60, 8, 3, 3, generator=generator)
    >>> left = 0.3 * torch.randn(60, 8, 3, 3, generator=generator)
    >>> left[7] *= 3
    >>> spots = spots_of(left, target, labels=[k // 30 for k in range(60)])
    >>> int(spots.images.argmax()), stands_out(spots.images)
    (7, [7])
    """

    images: torch.Tensor
    channels: torch.Tensor
    shares: torch.Tensor
    classes: dict[int, float]
    maps: torch.Tensor


def spots_of(left, target, *, labels=(), reference=None) -> Spots:
    """Score what is left of a feature.

    Parameters
    ----------
    left, target : torch.Tensor
        x^Δ and x*, shape (N, C, H, W).
    labels : sequence of int
        Class of each image, if there are any.
    reference : torch.Tensor, optional
        What another training run leaves of x*, shape (N, C, H, W); by default x* less its means.

    Examples
    --------
    >>> target = torch.randn(40, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    >>> spots_of(target / 2, target).images.shape
    torch.Size([40])
    """
    centred = target - target.mean((0, 2, 3), keepdim=True)
    left = left - left.mean((0, 2, 3), keepdim=True)
    reference = centred if reference is None else reference
    squares = [part.double().square() for part in (left, reference, centred)]
    of_images = [part.mean((1, 2, 3)) for part in squares]
    z = calibrated(of_images[0], of_images[1])
    classes = {}
    for label in sorted(set(labels)):
        members = z[torch.tensor([other == label for other in labels])]
        if len(members) >= _FEWEST:
            classes[label] = float(members.mean() / z.std().clamp_min(1e-12) * len(members) ** 0.5)
    channels = calibrated(squares[0].mean((0, 2, 3)), squares[1].mean((0, 2, 3)))
    shares = of_images[0] / of_images[2].clamp_min(1e-300)
    return Spots(z, channels, shares, classes, squares[0].mean(1).float())


def calibrated(left: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return how far each number lies above what a reference predicts, as a z-score.

    Parameters
    ----------
    left, reference : torch.Tensor
        Shape (K,), 0 or more.

    Examples
    --------
    >>> reference = torch.linspace(1, 2, 50)
    >>> z = calibrated(reference**2 * (1 + 0.1 * (torch.arange(50) % 3 - 1)), reference)
    >>> bool(z.abs().max() < 3)
    True
    """
    floor = 1e-12 * float(reference.double().mean()) + 1e-300
    y, x = (part.double().clamp_min(floor).log() for part in (left, reference))
    kept = torch.ones(len(y), dtype=torch.bool)
    z = torch.zeros_like(y)
    for _ in range(3):  # what stands out does not bend the line
        spread = (x[kept] - x[kept].mean()).square().sum()
        slope = ((x[kept] - x[kept].mean()) * (y[kept] - y[kept].mean())).sum()
        slope = slope / spread if spread > 1e-12 else torch.zeros(())
        apart = y - y[kept].mean() - slope * (x - x[kept].mean())
        deviation = 1.4826 * (apart - apart.median()).abs().median()
        if deviation <= 1e-9:
            return torch.zeros_like(y)
        z = (apart - apart.median()) / deviation
        kept = z.abs() < 2.5
    return z


def stands_out(z) -> list[int]:
    """Return what lies above what chance gives once in a hundred such lists, the highest first.

    Examples
    --------
    >>> stands_out(torch.tensor([0.1, 9.0, -0.5, 0.3]))
    [1]
    """
    z = torch.as_tensor(z)
    if not len(z):
        return []
    limit = NormalDist().inv_cdf(1 - _CHANCE / len(z))
    found = [int(k) for k in z.argsort(descending=True) if float(z[k]) > limit]
    return [k for k in found if math.isfinite(float(z[k]))]
