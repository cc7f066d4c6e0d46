"""Fitting a disentangler: our schedule, and the authors'.

Both minimise the paper's objective, mean (g(x) - x*)^2 + penalty * sum_k p_k^2, for the same g.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from .disentangler import Disentangler, channel_scale
from .errors import InputError, choose
from .features import resample
from .measures import Evaluation, Moments
from .training import autocast

#: Names of the schedules. ``"joint"``: output layer in closed form, some epochs of Adam on a
#: one-cycle rate, output layer in closed form again. ``"authors"``: 1,000 epochs of Adam, rate
#: 1e-4 falling to 1e-6 on a log scale, weight decay 1e-4, as in the authors' published code.
SOLVERS = ("joint", "authors")
_RATE = 5e-4  # highest learning rate of "joint"
_RIDGE = 1e-6  # added to the unit diagonal of the normal matrix: keeps dependent channels solvable


@dataclass(frozen=True)
class Fit:
    """A fitted disentangler and how it splits the features it was fitted on.

    Attributes
    ----------
    disentangler : Disentangler
        In evaluation mode.
    evaluation : Evaluation
        On the features of the fit.
    loss : list of float
        Mean squared error of each epoch, in units of the mean square of x*.
    """

    disentangler: Disentangler
    evaluation: Evaluation
    loss: list[float]

    @property
    def explained(self) -> list[float]:
        """Var(x^(k)) / Var(x*) for k = 0 to K."""
        return self.evaluation.explained

    @property
    def residual(self) -> float:
        """Var(x^Δ) / Var(x*)."""
        return self.evaluation.residual

    def evaluate(self, x: torch.Tensor, target: torch.Tensor, *, batch: int = 64) -> Evaluation:
        """Measure the same split on other features of the same two networks."""
        return evaluate(self.disentangler, x, target, batch=batch)


def fit(
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    order: int = 2,
    solver: str = "joint",
    penalty: float = 0.1,
    seed: int = 0,
    kernel_size: int = 3,
    norm: str = "image",
    epochs: int | None = None,
    batch: int = 64,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> Fit:
    """Fit a disentangler that reconstructs ``target`` (x*) from ``x``.

    Features may be ordinary or memory-mapped tensors; they are read batch by batch. Maps of
    different size are brought to that of ``target`` by `kclib.features.resample`.

    Parameters
    ----------
    x : torch.Tensor
        Features of network A, shape (N, C, H, W).
    target : torch.Tensor
        Features of network B for the same images, shape (N, C*, H*, W*).
    order : int
        Highest order K, 0 to 5.
    solver : str
        One of `SOLVERS`.
    penalty : float
        Weight of the sum of the p_k^2, 0 or more (the authors: 0.1; 8.0 for AlexNet in Table 1).
    seed : int
        Of the initial weights and of the order of images.
    kernel_size : int
        1 or 3.
    norm : str
        ``"image"`` or ``"dataset"``; see `kclib.Disentangler`.
    epochs : int, optional
        Passes over the features; 20 for ``"joint"``, 1,000 for ``"authors"``.
    batch : int
        Images a step (the authors: 64).
    device : torch.device or str
    progress : callable, optional
        Called as ``progress(done, total, text)`` with steps done and in all.

    Returns
    -------
    Fit

    Raises
    ------
    InputError
        If the features do not belong together, hold NaN or infinity, vary nowhere, or an argument
        is out of its range.
    """
    choose("solver", solver, SOLVERS)
    if not 0 <= penalty < math.inf:
        raise InputError(f"penalty is {penalty}; allowed: 0 or more.")
    epochs = {"joint": 20, "authors": 1000}[solver] if epochs is None else epochs
    if epochs < 0 or batch < 2:
        raise InputError(f"epochs is {epochs} and batch {batch}; allowed: 0 and 2, or more.")
    x, target = x.detach(), target.detach()
    check_features(x, target, norm)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        g = Disentangler(x.shape[1], target.shape[1], order, kernel_size, norm).to(device)
    size = math.sqrt(sum(float(part.double().square().sum()) for part in target.split(batch)))
    size /= math.sqrt(target.numel())
    # Adam's rate has the scale of the weights: our schedule fits x* in units of its root mean
    # square, the authors' fits it as it is.
    unit = size if solver == "joint" else 1.0
    scaled = _Scaled(x, target, unit, device)
    penalty /= unit**2  # the same objective, in those units
    if solver == "joint":
        loss = _fit_joint(g, scaled, penalty, seed, epochs, batch, progress)
    else:
        loss = _fit_authors(g, scaled, penalty, seed, epochs, batch, progress)
    with torch.no_grad():
        g.linears[0].weight.mul_(unit)
    g.eval().cpu()
    loss = [error * (unit / size) ** 2 for error in loss]
    return Fit(g, evaluate(g, x, target, batch=batch), loss)


@torch.no_grad()
def evaluate(
    disentangler: Disentangler, x: torch.Tensor, target: torch.Tensor, *, batch: int = 64
) -> Evaluation:
    """Split features with a fitted disentangler and measure the parts.

    Parameters
    ----------
    disentangler : Disentangler
    x, target : torch.Tensor
        Features (N, C, H, W) and (N, C*, H*, W*).
    batch : int
        Images at a time; results do not depend on it.
    """
    check_features(x, target, disentangler.norm)
    output = disentangler.linears[0]
    if (x.shape[1], target.shape[1]) != (output.in_channels, output.out_channels):
        raise InputError(
            f"x has {x.shape[1]} channels and target {target.shape[1]}, but the disentangler was "
            f"made for {output.in_channels} and {output.out_channels}; give features of the same "
            "two networks at the same taps."
        )
    disentangler.eval()
    whole, parts, rest = [], [[] for _ in range(disentangler.order + 1)], []
    for a, b in zip(x.split(batch), target.split(batch), strict=True):
        a, b = a.to(output.weight), b.to(output.weight)  # its device and precision
        components = disentangler.decompose(resample(a, b.shape[2:]))
        whole.append(Moments.of(b))
        rest.append(Moments.of(b - components.sum(0)))
        for kept, component in zip(parts, components, strict=True):
            kept.append(Moments.of(component))
    return Evaluation(
        Moments.joined(whole), [Moments.joined(kept) for kept in parts], Moments.joined(rest)
    )


def check_features(x: torch.Tensor, target: torch.Tensor, norm: str) -> None:
    """Refuse features from which nothing can be learned; see `fit`."""
    for name, feature in (("x", x), ("target", target)):
        if feature.dim() != 4 or 0 in feature.shape[1:]:
            raise InputError(
                f"{name} has shape {tuple(feature.shape)}; allowed: (N, C, H, W), none of them 0. "
                "Give vectors as 1 x 1 maps, feature[:, :, None, None]."
            )
    if len(x) != len(target):
        raise InputError(
            f"x has {len(x)} images and target {len(target)}; both must be features of the same "
            "images, in the same order."
        )
    if len(x) < 2:
        raise InputError(f"the number of images is {len(x)}; shares of variance need 2 or more.")
    for name, feature in (("x", x), ("target", target)):
        if norm == "image" and feature.shape[2] * feature.shape[3] < 2:
            raise InputError(
                'norm="image" divides by the standard deviation over positions, and the maps of '
                f'{name} are 1 x 1; use norm="dataset".'
            )
        low, high = feature[0].clone(), feature[0].clone()
        for part in feature.split(256):
            if not torch.isfinite(part).all():
                raise InputError(
                    f"{name} holds NaN or infinity; find the images or the layer it comes from "
                    "(training may have diverged) and leave them out."
                )
            torch.minimum(low, part.amin(0), out=low)
            torch.maximum(high, part.amax(0), out=high)
        constant = low.amin((1, 2)) == high.amax((1, 2))  # (C,)
        dead = constant & (high.amax((1, 2)) == 0)
        if name == "target" and bool(constant.all()):
            raise InputError("every channel of target is constant; there is nothing to explain.")
        if name == "x" and norm == "image" and bool((constant & ~dead).any()):
            channels = (constant & ~dead).nonzero().flatten().tolist()
            raise InputError(
                f'channels {channels} of x are constant and not 0, and norm="image" would divide '
                'them by 0; leave them out, or use norm="dataset".'
            )


@dataclass(frozen=True)
class _Scaled:
    """Pairs of features, read batch by batch, x* divided by ``unit``."""

    x: torch.Tensor
    target: torch.Tensor
    unit: float
    device: torch.device | str

    def take(self, chosen) -> tuple[torch.Tensor, torch.Tensor]:
        b = (self.target[chosen].to(self.device) / self.unit).float()
        return resample(self.x[chosen].to(self.device).float(), b.shape[2:]), b

    def in_order(self, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, len(self.x), batch):
            yield self.take(slice(start, start + batch))

    def shuffled(self, batch: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed))
        for chosen in order.split(batch):
            yield self.take(chosen)


def _fit_joint(g, features, penalty, seed, epochs, batch, progress) -> list[float]:
    if g.norm == "dataset":
        _measure_scales(g, features, batch)
    solve_output_layer(g, features.in_order(batch))
    if g.order == 0:
        return []  # the closed form is the optimum
    steps = epochs * math.ceil(len(features.x) / batch)
    optimizer = torch.optim.Adam(g.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=_RATE, total_steps=steps + 1, cycle_momentum=False
    )
    loss = _descend(g, features, penalty, seed, epochs, batch, optimizer, schedule, True, progress)
    if g.norm == "dataset":
        _measure_scales(g, features, batch)
    solve_output_layer(g, features.in_order(batch))
    return loss


def _fit_authors(g, features, penalty, seed, epochs, batch, progress) -> list[float]:
    per_epoch = math.ceil(len(features.x) / batch)
    optimizer = torch.optim.Adam(g.parameters(), lr=1e-4, weight_decay=1e-4)
    last = max(1, epochs - 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.01 ** ((step // per_epoch) / last)
    )
    return _descend(g, features, penalty, seed, epochs, batch, optimizer, schedule, False, progress)


@torch.enable_grad()
def _descend(
    g, features, penalty, seed, epochs, batch, optimizer, schedule, mixed, progress
) -> list[float]:
    """Run epochs of stochastic descent; return each epoch's mean squared error."""
    g.train()
    history, done = [], 0
    steps = epochs * math.ceil(len(features.x) / batch)
    for epoch in range(epochs):
        total = torch.zeros((), device=features.device)
        for x, target in features.shuffled(batch, seed * 100_003 + epoch):
            with autocast(features.device, enabled=mixed):
                output = g(x)
            error = (output.float() - target).square().mean()
            optimizer.zero_grad(set_to_none=True)
            (error + penalty * g.penalty()).backward()
            optimizer.step()
            schedule.step()
            total += error.detach() * len(x)
            done += 1
            if progress is not None:
                progress(done, steps, f"epoch {epoch + 1} of {epochs}")
        history.append(float(total) / len(features.x))
    g.eval()
    return history


@torch.no_grad()
def _measure_scales(g: Disentangler, features: _Scaled, batch: int) -> None:
    """Freeze the divisors of ``norm="dataset"`` at the statistics of all features.

    From the innermost unit outwards, because each depends on the ones below it; the divisors are
    standard deviations over all images and positions, the paper's Sigma.
    """
    g.eval()
    for k in (0, *range(g.order, 0, -1)):
        count, first, second = 0, 0.0, 0.0
        for x, _ in features.in_order(batch):
            h = x if k == 0 else g.linears[k](g.inner(x, k))
            count += h.shape[0] * h.shape[2] * h.shape[3]
            first = first + h.double().sum((0, 2, 3))
            second = second + h.double().square().sum((0, 2, 3))
        g.scales[k] = channel_scale(first / count, second / count)


@torch.no_grad()
def solve_output_layer(g: Disentangler, batches) -> None:
    """Put W_0 at its least-squares optimum for the present inner layers.

    Accumulates the normal equations of the regression of x* on the patches that W_0 sees.

    Parameters
    ----------
    g : Disentangler
    batches : iterable of (torch.Tensor, torch.Tensor)
        Pairs of x (N, C, H, W) and x* (N, C*, H, W).
    """
    g.eval()
    weight = g.linears[0].weight  # (C*, C, k, k)
    normal, right = 0.0, 0.0
    for x, target in batches:
        patches = torch.nn.functional.unfold(
            g.inner(x), weight.shape[2:], padding=weight.shape[2] // 2
        )  # (N, C k k, H W)
        patches = patches.transpose(0, 1).flatten(1)  # (C k k, N H W)
        wanted = target.transpose(0, 1).flatten(1)  # (C*, N H W)
        normal = normal + (patches @ patches.T).double()
        right = right + (patches @ wanted.T).double()
    size = normal.diagonal().sqrt()
    size = size.where(size > 0, 1)  # what is always zero gets the weight zero
    normal = normal / size / size[:, None]
    ridge = _RIDGE
    unstable = True
    while unstable:  # float32 products can leave eigenvalues a little below zero
        factor, unstable = torch.linalg.cholesky_ex(
            normal.diagonal_scatter(normal.diagonal() + ridge)
        )
        ridge *= 10
    solution = torch.cholesky_solve(right / size[:, None], factor) / size[:, None]  # (C k k, C*)
    weight.copy_(solution.T.reshape(weight.shape))
