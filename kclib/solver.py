"""Fitting a disentangler: the paper's, fast or as the authors do, and one whose orders are apart.

``"joint"`` and ``"authors"`` minimise the paper's objective, mean (g(x) - x*)^2 + penalty *
sum_k p_k^2, for the same g; ``"joint"`` as `kclib.descent` does. ``"lowest_first"`` fits one order
after the other, each to what the lower ones left. Both stop when images held out gain no more.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn

from .descent import (
    CHUNK,
    Course,
    Pairs,
    fit_lowest_first,
    fit_network,
    passes_over,
    warn,
    warn_not_unique,
)
from .disentangler import Disentangler, StagewiseDisentangler
from .errors import InputError, LargeFit, choose
from .features import resample
from .measures import Evaluation, Moments

#: Ways to fit; see the module's text.
SOLVERS = ("joint", "lowest_first", "authors")
#: Passes over the features at least and at most, for an order with ``"lowest_first"``.
PASSES = (3, 60)
#: The authors' published recipe: Adam, its rate falling to a hundredth on a log scale.
AUTHORS = SimpleNamespace(epochs=1000, batch=64, rate=1e-4, weight_decay=1e-4)
_RATE = 2e-2  # of Muon, in white coordinates
_BATCHES = (32, 128)  # images a step at least and at most;
_STEPS = 32  # in between, as many as make so many steps a pass
_MEAN_RULES = 10  # times its variance; a target whose mean square is so much of a mean
_STRONGEST_PENALTY = 1e6  # in units of Var(x*); more shuts the paths no tighter, but overflows
_SIZES = {"x": 1e15, "target": 1e30}  # root mean squares beyond which squares overflow
_LARGE = (8 * 2**30, 600.0)  # bytes and seconds from which a fit says before what it will cost
_FLOPS = 3e10  # a second, of one core of a present machine


@dataclass(frozen=True)
class Fit:
    """A fitted disentangler and how it splits the features it was fitted on.

    Attributes
    ----------
    disentangler : Disentangler or StagewiseDisentangler
        In evaluation mode; the latter with ``solver="lowest_first"``.
    evaluation : Evaluation
        On the features of the fit.
    loss : list of float
        Mean squared error of each pass, in units of the mean square of what was fitted; with
        ``solver="lowest_first"`` the passes of order 1, then those of order 2, ...
    passes : list of int
        Passes over the features, of each order from 1 on with ``solver="lowest_first"``; otherwise
        one number. Empty where there was nothing to descend (order 0).
    converged : bool
        Whether all descents were stopped by `TOLERANCE`, and none by a number of passes.

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(64, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    >>> fitted = fit(x, x.relu(), order=1, norm="dataset")
    >>> fitted.converged, len(fitted.passes), len(fitted.explained)
    (True, 1, 2)
    """

    disentangler: Disentangler | StagewiseDisentangler
    evaluation: Evaluation
    loss: list[float]
    passes: list[int]
    converged: bool

    @property
    def explained(self) -> list[float]:
        """The share of Var(x*) that each order explains; see `Evaluation.explained`."""
        return self.evaluation.explained

    @property
    def residual(self) -> float:
        """Var(x^Δ) / Var(x*)."""
        return self.evaluation.residual

    def evaluate(
        self,
        x: torch.Tensor,
        target: torch.Tensor,
        *,
        batch: int = 64,
        device: torch.device | str = "cpu",
    ) -> Evaluation:
        """Measure the same split on other features of the same two networks."""
        return evaluate(self.disentangler, x, target, batch=batch, device=device)


@dataclass(frozen=True)
class Cost:
    """What a fit will take, roughly; see `cost`.

    Attributes
    ----------
    memory : int
        Bytes, beside the features.
    seconds : float
        On one core of a present machine.

    Examples
    --------
    >>> Cost(memory=10**9, seconds=20.0).seconds
    20.0
    """

    memory: int
    seconds: float


def cost(
    channels: tuple[int, int],
    images: int,
    map_size: tuple[int, int],
    *,
    order: int = 2,
    kernel_size: int = 3,
    passes: int = 6,
) -> Cost:
    """Estimate what `fit` will take, within a factor of about three.

    Parameters
    ----------
    channels : (int, int)
        Of x and of the target.
    images : int
    map_size : (int, int)
        Height and width of the target's maps.
    order, kernel_size : int
        As for `fit`.
    passes : int
        Passes over the features.

    Returns
    -------
    Cost

    Examples
    --------
    >>> tokens = cost((768, 768), 120, (17, 1), kernel_size=3)
    >>> tokens.seconds > 20 * cost((768, 768), 120, (17, 1), kernel_size=1).seconds
    True
    """
    height, width = map_size
    inner, outer = channels
    inputs = inner * kernel_size**2
    positions = images * height * width
    descent = 6 * positions * inputs * (order * inner + outer) * passes * (order > 0)
    frequencies = height * width if kernel_size == 1 else 4 * (height + 2) * (width // 2 + 2)
    products = 2 * images * frequencies * inner * (inner + outer) * (order + 2)
    factors = (6 + 2 * order) * inputs**3 + 12 * inputs**2 * outer
    memory = 8 * inputs * (8 * inputs + 4 * outer) + 8 * _BATCHES[1] * height * width * inputs
    return Cost(int(memory), (descent + products + factors) / _FLOPS)


def fit(
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    order: int = 2,
    solver: str = "joint",
    penalty: float = 0.1,
    seed: int = 0,
    kernel_size: int | None = None,
    norm: str = "image",
    epochs: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
    mixed: bool = True,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> Fit:
    """Fit a disentangler that reconstructs ``target`` (x*) from ``x``.

    Features may be ordinary or memory-mapped tensors; they are read batch by batch. Maps of
    different size are brought to that of ``target`` by `kclib.features.resample`. A fit is made
    whole or not at all: one that is interrupted starts anew.

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
        Weight of the sum of the p_k^2, 0 or more (the authors: 0.1; 8.0 for AlexNet in Table 1);
        not used by ``"lowest_first"``, whose orders need no push.
    seed : int
        Of the initial weights and of the order of images.
    kernel_size : int, optional
        1 or 3; by default 3 where both sides of the target's maps are 2 or more, otherwise 1: on a
        line of tokens, six of the nine weights of a 3 x 3 kernel would see nothing but padding.
    norm : str
        ``"image"`` or ``"dataset"``; see `kclib.Disentangler`.
    epochs : int, optional
        Passes over the features; with ``"lowest_first"`` for an order, and for 3 x 3 kernels as
        many again with 1 x 1 ones before. By default as many as images held out gain from, one in
        eight: until a pass lowers what is left of them by less than `TOLERANCE` of it, at least
        and at most as many as `PASSES` says. The best weights are kept in any case. ``"authors"``:
        1000 by default.
    batch : int, optional
        Images a step, 2 or more; by default 32 to 128, more for more images (``"authors"``: 64).
    rate : float, optional
        Learning rate, above 0.
    mixed : bool
        Whether descent computes in bfloat16 where the device gains from it; whatever is solved or
        measured is not. ``"authors"`` never does.
    device : torch.device or str
    progress : callable, optional
        Called as ``progress(done, total, text)`` with steps done and in all, if it takes as many
        as it may; from the start on.

    Returns
    -------
    Fit

    Raises
    ------
    InputError
        If the features do not belong together, hold NaN or infinity, vary nowhere, or an argument
        is out of its range.

    Warns
    -----
    DegenerateFeatures
        If channels of x never vary or repeat each other, or there are fewer positions than weights:
        the answer is finite, but one of many. If the target is little but a constant: the paper's g
        has none, so ``"joint"`` fits what the channels' means leave.
    LargeFit
        If the fit will take more than 8 GiB or ten minutes; see `cost`.

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(64, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    >>> fitted = fit(x, 2 * x, order=0, norm="dataset")
    >>> [round(share, 3) for share in fitted.explained], round(fitted.residual, 3)
    ([1.0], 0.0)
    """
    choose("solver", solver, SOLVERS)
    if not 0 <= penalty < math.inf:
        raise InputError(f"penalty is {penalty}; allowed: 0 or more.")
    if (epochs is not None and epochs < 0) or (batch is not None and batch < 2):
        raise InputError(f"epochs is {epochs} and batch {batch}; allowed: 0 and 2, or more.")
    if rate is not None and not 0 < rate < math.inf:
        raise InputError(f"rate is {rate}; allowed: above 0.")
    x, target = x.detach(), target.detach()
    constant = check_features(x, target, norm)
    if constant:
        warn_not_unique(f"channels {constant} of x never vary, and tell nothing")
    line = min(target.shape[2:]) < 2
    if kernel_size is None:
        kernel_size = 1 if line else 3
    elif kernel_size == 3 and line and max(target.shape[2:]) > 1:
        warn(
            f"Six of the nine weights of a 3 x 3 kernel see only padding on maps of "
            f"{target.shape[2]} x {target.shape[3]}; kernel_size=1 costs far less."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = StagewiseDisentangler if solver == "lowest_first" else Disentangler
        g = kind(x.shape[1], target.shape[1], order, kernel_size, norm)
    _tell_cost(x, target, order, kernel_size)
    if solver == "authors":
        found = authors_recipe(
            g,
            x,
            target,
            penalty=penalty,
            seed=seed,
            epochs=AUTHORS.epochs if epochs is None else epochs,
            batch=AUTHORS.batch if batch is None else batch,
            rate=AUTHORS.rate if rate is None else rate,
            device=device,
            progress=progress,
        )
        mean_square = float(sum(p.double().square().sum() for p in target.split(CHUNK)))
        loss = [error * target.numel() / mean_square for error in found]
        evaluation = _evaluated(g, x, target, batch or 64)
        return Fit(g.cpu(), evaluation, loss, [len(loss)], False)

    mean, unit = _centre_and_unit(target, solver)
    precision = torch.promote_types(target.dtype, torch.float32)
    g.to(device=device, dtype=precision)
    pairs = Pairs(x, target, mean, unit, device, precision, torch.arange(len(x)))
    least, most = _BATCHES
    batch = min(most, max(least, len(x) // _STEPS)) if batch is None else batch
    passes = PASSES if epochs is None else (epochs, epochs)
    course = Course(seed, passes, batch, _RATE if rate is None else rate, mixed, progress)
    if solver == "joint":
        # The same objective in those units.
        orders = [fit_network(g, pairs, min(penalty / unit / unit, _STRONGEST_PENALTY), course)]
    else:
        orders = fit_lowest_first(g, pairs, course)
    with torch.no_grad():
        for output in _output_layers(g):
            for parameter in output.parameters():
                parameter.mul_(unit)
        if solver == "lowest_first":
            g.chains[0].linears[0].bias += mean.to(g.chains[0].linears[0].bias)
    evaluation = _evaluated(g, x, target, batch)
    g.cpu()
    descents = [descent for stages in orders for descent in stages]
    return Fit(
        g,
        evaluation,
        [error for descent in descents for error in descent.loss],
        [sum(len(descent.loss) for descent in stages) for stages in orders if stages],
        all(descent.converged for descent in descents),
    )


def authors_recipe(
    g: Disentangler,
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    penalty: float = 0.1,
    seed: int = 0,
    epochs: int = AUTHORS.epochs,
    batch: int = AUTHORS.batch,
    rate: float = AUTHORS.rate,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> Iterator[float]:
    """Train g in place as the authors' published code does, an epoch at a time.

    ``fit(..., solver="authors")`` runs it to its end; whoever wants to look in between iterates.

    Parameters
    ----------
    g : Disentangler
    x, target, penalty, seed, epochs, batch, rate, device, progress
        As for `fit`.

    Yields
    ------
    float
        The epoch's mean squared error.

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(64, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    >>> len(list(authors_recipe(Disentangler(4, 4), x, x, epochs=3)))
    3
    """
    precision = torch.promote_types(target.dtype, torch.float32)
    g.to(device=device, dtype=precision)
    none = torch.zeros(target.shape[1], dtype=torch.float64)
    pairs = Pairs(x, target, none, 1.0, device, precision, torch.arange(len(x)))
    optimizer = torch.optim.Adam(g.parameters(), lr=rate, weight_decay=AUTHORS.weight_decay)
    course = Course(seed, (epochs, epochs), batch, rate, False, progress)
    for epoch, error in enumerate(passes_over(g, pairs, penalty, course, [optimizer]), 1):
        yield error
        optimizer.param_groups[0]["lr"] = rate * 0.01 ** (epoch / max(1, epochs - 1))


def _tell_cost(x, target, order, kernel_size) -> None:
    channels = (x.shape[1], target.shape[1])
    found = cost(channels, len(x), target.shape[2:], order=order, kernel_size=kernel_size)
    if found.memory > _LARGE[0] or found.seconds > _LARGE[1]:
        warnings.warn(
            f"This fit will take about {found.memory / 2**30:.0f} GiB and {found.seconds / 60:.0f} "
            f"minutes on one core, with {x.shape[1] * kernel_size**2:,} inputs of a layer; fewer "
            "channels or kernel_size=1 take less.",
            LargeFit,
            stacklevel=3,
        )


def _centre_and_unit(target: torch.Tensor, solver: str) -> tuple[torch.Tensor, float]:
    """Return what is subtracted from each channel of x*, and what the rest is divided by."""
    total, square = 0.0, 0.0
    for part in target.split(CHUNK):
        wide = part.double()
        total = total + wide.sum((0, 2, 3)).cpu()
        square += float(wide.square().sum())
    mean = total * target.shape[1] / target.numel()  # (C*,)
    # A second pass, because the difference of two large numbers would be rounding.
    centre = mean[:, None, None].to(target.device)
    varies = sum(float((p.double() - centre).square().sum()) for p in target.split(CHUNK))
    varies, square = varies / target.numel(), square / target.numel()
    if solver == "joint":
        if square - varies <= _MEAN_RULES * varies:
            return torch.zeros_like(mean), math.sqrt(square)
        warn(
            f"The target is mostly constant: its channels' means hold {1 - varies / square:.1%} of "
            f"its mean square, and its variance {varies / square:.1%}. A disentangler has no "
            "constant, and would have to make the means from x; so it was fitted to what the means "
            'leave. The shares, of variance, are of that; solver="lowest_first" has a constant.'
        )
    return mean, math.sqrt(varies)


def evaluate(
    disentangler: Disentangler | StagewiseDisentangler,
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    batch: int = 64,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Split features with a fitted disentangler and measure the parts.

    Parameters
    ----------
    disentangler : Disentangler or StagewiseDisentangler
    x, target : torch.Tensor
        Features (N, C, H, W) and (N, C*, H*, W*).
    batch : int
        Images at a time; results do not depend on it.
    device : torch.device or str
        The disentangler is on it afterwards.

    Examples
    --------
    >>> import torch
    >>> x, more = torch.randn(2, 64, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    >>> fitted = fit(x, 2 * x, order=0, norm="dataset")
    >>> round(evaluate(fitted.disentangler, more, 2 * more).residual, 3)
    0.0
    """
    check_features(x, target, disentangler.norm)
    output = _output_layers(disentangler)[0]
    if (x.shape[1], target.shape[1]) != (output.in_channels, output.out_channels):
        raise InputError(
            f"x has {x.shape[1]} channels and target {target.shape[1]}, but the disentangler was "
            f"made for {output.in_channels} and {output.out_channels}; give features of the same "
            "two networks at the same taps."
        )
    return _evaluated(disentangler.to(device), x, target, batch)


@torch.no_grad()
def _evaluated(g, x, target, batch) -> Evaluation:
    g.eval()
    weight = _output_layers(g)[0].weight
    stages = isinstance(g, StagewiseDisentangler)
    size = len(target), target.shape[1]
    whole = Moments.room(*size)
    parts = [Moments.room(*size) for _ in range(g.order + 1)]
    left = [Moments.room(*size) for _ in range(g.order + 1 if stages else 1)]
    for start in range(0, len(x), batch):
        b = target[start : start + batch].to(weight)  # its device and precision
        a = resample(x[start : start + batch].to(weight), b.shape[2:])
        components = g.decompose(a)
        rests = b - components.cumsum(0) if stages else (b - components.sum(0))[None]
        whole.put(start, b)
        for kept, features in ((parts, components), (left, rests)):
            for moments, feature in zip(kept, features, strict=True):
                moments.put(start, feature)
    return Evaluation(whole, parts, left[-1], left if stages else [])


def _output_layers(g: Disentangler | StagewiseDisentangler) -> list[nn.Conv2d]:
    networks = g.chains if isinstance(g, StagewiseDisentangler) else [g]
    return [network.linears[0] for network in networks]


def check_features(x: torch.Tensor, target: torch.Tensor, norm: str) -> list[int]:
    """Refuse features from which nothing can be learned; see `fit`.

    Returns
    -------
    list of int
        Channels of x that never vary.

    Examples
    --------
    >>> import torch
    >>> x = torch.stack([torch.arange(18.0).view(2, 3, 3), torch.zeros(2, 3, 3)], 1)
    >>> check_features(x, x[:, :1], "dataset")
    [1]
    """
    constant_channels = []
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
        square = 0.0
        blank: list[tuple[int, int]] = []  # blank: (image, channel) of one value that is not 0
        for start, part in zip(range(0, len(feature), CHUNK), feature.split(CHUNK), strict=True):
            if not torch.isfinite(part).all():
                raise InputError(
                    f"{name} holds NaN or infinity; find the images or the layer it comes from "
                    "(training may have diverged) and leave them out."
                )
            square += float(part.double().square().sum())
            torch.minimum(low, part.amin(0), out=low)
            torch.maximum(high, part.amax(0), out=high)
            if name == "x" and norm == "image":
                least, most = part.amin((2, 3)), part.amax((2, 3))  # (n, C)
                images, channels = ((least == most) & (most != 0)).nonzero(as_tuple=True)
                blank += zip((images + start).tolist(), channels.tolist(), strict=True)
        size = math.sqrt(square / feature.numel())
        if size and not 1 / _SIZES[name] <= size <= _SIZES[name]:
            raise InputError(
                f"the root mean square of {name} is {size:.1e}; allowed: {1 / _SIZES[name]:.0e} to "
                f"{_SIZES[name]:.0e}, because squares must fit float32. Multiply it by a number."
            )
        constant = low.amin((1, 2)) == high.amax((1, 2))  # (C,)
        dead = constant & (high.amax((1, 2)) == 0)
        if name == "x":
            constant_channels = constant.nonzero().flatten().tolist()
        if name == "target" and bool(constant.all()):
            raise InputError("every channel of target is constant; there is nothing to explain.")
        if name == "x" and norm == "image" and bool((constant & ~dead).any()):
            channels = (constant & ~dead).nonzero().flatten().tolist()
            raise InputError(
                f'channels {channels} of x are constant and not 0, and norm="image" would divide '
                'them by 0; leave them out, or use norm="dataset".'
            )
        if blank:
            image, channel = blank[0]
            others = f", and {len(blank) - 1} more like it" if len(blank) > 1 else ""
            raise InputError(
                f"channel {channel} of image {image} of x is constant and not 0{others}, and "
                'norm="image" would divide it by 0; leave such images out, or use norm="dataset".'
            )
    return constant_channels
