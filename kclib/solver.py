"""Fitting a disentangler: the paper's, fast or as the authors do, and one whose orders are apart.

``"joint"`` and ``"authors"`` minimise the paper's objective, mean (g(x) - x*)^2 + penalty *
sum_k p_k^2, for the same g. Plain Adam is slow because neighbouring positions and channels of a
feature say nearly the same: in the weights' own coordinates the objective is a narrow valley.
``"joint"`` therefore descends in coordinates in which the inputs of each layer are white, starts at
the least-squares output layer and ends at it. ``"lowest_first"`` fits one order after the other,
each to what the lower ones left.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.utils import parametrize

from .disentangler import Chain, Disentangler, StagewiseDisentangler, channel_scale
from .errors import DegenerateFeatures, InputError, choose
from .features import resample
from .measures import Evaluation, Moments
from .normal_equations import NormalEquations
from .precision import autocast

#: Epochs that each solver takes by default. ``"authors"``: Adam, rate 1e-4 falling to 1e-6 on a log
#: scale, weight decay 1e-4, as in the authors' published code.
EPOCHS = {"joint": 6, "lowest_first": 6, "authors": 1000}
SOLVERS = tuple(EPOCHS)
#: Highest learning rate of each solver, for the weights' own coordinates or white ones.
RATES = {"joint": 5e-3, "lowest_first": 5e-3, "authors": 1e-4}
#: Images a step. Half as many leave a little less after as many epochs, but take longer.
BATCHES = {"joint": 128, "lowest_first": 128, "authors": 64}
_RATE_OF_P = 1e-2
_BETAS = (0.9, 0.95)  # a fit has a few hundred steps, too few for the usual memory of a thousand
_RISE = 0.15  # share of the steps in which the rate rises
_ROWS_A_WEIGHT = 16  # positions a weight from which the coordinates are made white
_CHUNK = 256  # images at a time in passes that only sum
_HELD_OUT = 8  # one image in so many tells how much ridge the output layer needs


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
        Mean squared error of each epoch, in units of the mean square of x*; with
        ``solver="lowest_first"`` the epochs of order 1, then those of order 2, ...
    """

    disentangler: Disentangler | StagewiseDisentangler
    evaluation: Evaluation
    loss: list[float]

    @property
    def explained(self) -> list[float]:
        """The share of Var(x*) that each order explains; see `Evaluation.explained`."""
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
    batch: int | None = None,
    rate: float | None = None,
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
        Weight of the sum of the p_k^2, 0 or more (the authors: 0.1; 8.0 for AlexNet in Table 1);
        not used by ``"lowest_first"``, whose orders need no push.
    seed : int
        Of the initial weights and of the order of images.
    kernel_size : int
        1 or 3.
    norm : str
        ``"image"`` or ``"dataset"``; see `kclib.Disentangler`.
    epochs : int, optional
        Passes over the features, ``EPOCHS[solver]`` by default; an order, with ``"lowest_first"``.
    batch : int, optional
        Images a step, 2 or more; ``BATCHES[solver]`` by default.
    rate : float, optional
        Highest learning rate, above 0; ``RATES[solver]`` by default.
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

    Warns
    -----
    DegenerateFeatures
        If channels of x never vary or repeat each other, or there are fewer positions than weights:
        the answer is finite, but one of many.
    """
    choose("solver", solver, SOLVERS)
    if not 0 <= penalty < math.inf:
        raise InputError(f"penalty is {penalty}; allowed: 0 or more.")
    epochs = EPOCHS[solver] if epochs is None else epochs
    batch = BATCHES[solver] if batch is None else batch
    if epochs < 0 or batch < 2:
        raise InputError(f"epochs is {epochs} and batch {batch}; allowed: 0 and 2, or more.")
    rate = RATES[solver] if rate is None else rate
    if not 0 < rate < math.inf:
        raise InputError(f"rate is {rate}; allowed: above 0.")
    x, target = x.detach(), target.detach()
    constant = check_features(x, target, norm)
    if constant:
        _warn(f"channels {constant} of x never vary, and tell nothing")
    kind = StagewiseDisentangler if solver == "lowest_first" else Disentangler
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        g = kind(x.shape[1], target.shape[1], order, kernel_size, norm)
    precision = torch.promote_types(target.dtype, torch.float32)
    g.to(device=device, dtype=precision)
    size = math.sqrt(sum(float(part.double().square().sum()) for part in target.split(batch)))
    size /= math.sqrt(target.numel())
    # Adam's rate has the scale of the weights: our schedules fit x* in units of its root mean
    # square, the authors' fits it as it is.
    unit = 1.0 if solver == "authors" else size
    pairs = _Pairs(x, target, unit, device, precision)
    course = _Course(seed, epochs, batch, rate, progress)
    penalty /= unit**2  # the same objective, in those units
    if solver == "joint":
        loss = _fit_network(g, pairs, penalty, course)
    elif solver == "lowest_first":
        loss = _fit_lowest_first(g, pairs, course)
    else:
        loss = _fit_authors(g, pairs, penalty, course)
    with torch.no_grad():
        for output in _output_layers(g):
            for parameter in output.parameters():
                parameter.mul_(unit)
    g.eval().cpu()
    loss = [error * (unit / size) ** 2 for error in loss]
    return Fit(g, _evaluated(g, x, target, batch), loss)


def evaluate(
    disentangler: Disentangler | StagewiseDisentangler,
    x: torch.Tensor,
    target: torch.Tensor,
    *,
    batch: int = 64,
) -> Evaluation:
    """Split features with a fitted disentangler and measure the parts.

    Parameters
    ----------
    disentangler : Disentangler or StagewiseDisentangler
    x, target : torch.Tensor
        Features (N, C, H, W) and (N, C*, H*, W*).
    batch : int
        Images at a time; results do not depend on it.
    """
    check_features(x, target, disentangler.norm)
    output = _output_layers(disentangler)[0]
    if (x.shape[1], target.shape[1]) != (output.in_channels, output.out_channels):
        raise InputError(
            f"x has {x.shape[1]} channels and target {target.shape[1]}, but the disentangler was "
            f"made for {output.in_channels} and {output.out_channels}; give features of the same "
            "two networks at the same taps."
        )
    return _evaluated(disentangler, x, target, batch)


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
    return constant_channels


@dataclass(frozen=True)
class _Pairs:
    """Pairs of features, read batch by batch, x* divided by ``unit``.

    With ``lower``, what that function of x leaves of x*.
    """

    x: torch.Tensor
    target: torch.Tensor
    unit: float
    device: torch.device | str
    precision: torch.dtype
    lower: Callable[[torch.Tensor], torch.Tensor] | None = None

    def take(self, chosen) -> tuple[torch.Tensor, torch.Tensor]:
        b = self.target[chosen].to(self.device, self.precision) / self.unit
        a = resample(self.x[chosen].to(self.device, self.precision), b.shape[2:])
        if self.lower is None:
            return a, b
        with torch.no_grad():
            return a, b - self.lower(a)

    def in_order(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, len(self.x), _CHUNK):
            yield self.take(slice(start, start + _CHUNK))

    def shuffled(self, batch: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed))
        for chosen in order.split(batch):
            yield self.take(chosen)


@dataclass(frozen=True)
class _Course:
    """How long and in which order a descent runs, and who is told."""

    seed: int
    epochs: int
    batch: int
    rate: float
    progress: Callable[[int, int, str], None] | None
    before: int = 0  # descents that have run
    descents: int = 1  # of this fit

    def tell(self, done: int, steps: int, epoch: int) -> None:
        if self.progress is not None:
            text = f"epoch {epoch + 1} of {self.epochs}"
            if self.descents > 1:
                text = f"order {self.before + 1} of {self.descents}, {text}"
            self.progress(self.before * steps + done, self.descents * steps, text)


def _fit_lowest_first(g: StagewiseDisentangler, pairs: _Pairs, course: _Course) -> list[float]:
    history = []
    for k, chain in enumerate(g.chains):
        left = pairs
        if k:
            left = replace(pairs, lower=lambda x, below=g.chains[:k]: sum(c(x) for c in below))
            # Deeper steps start from those that the order below found.
            for layer, found in zip(chain.linears[2:], g.chains[k - 1].linears[1:], strict=True):
                layer.load_state_dict(found.state_dict())
        part = replace(course, before=max(k - 1, 0), descents=g.order)
        history += _fit_network(chain, left, 0.0, part)
    return history


def _fit_network(
    network: Disentangler | Chain, pairs: _Pairs, penalty: float, course: _Course
) -> list[float]:
    """Fit all layers at once: descend in white coordinates, then solve for the output layer."""
    history = []
    network.eval()
    if network.order > 0:
        some = _some(pairs, network, course.seed)
        _measure_scales(network, lambda: some)
        _make_white(network, some)
        named = dict(network.named_parameters())
        p_logits = [named.pop("p_logits")] if "p_logits" in named else []
        groups = [{"params": list(named.values())}, {"params": p_logits}]
        optimizer = torch.optim.NAdam(groups, betas=_BETAS)
        steps = course.epochs * math.ceil(len(pairs.x) / course.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, [course.rate, _RATE_OF_P], steps + 1, pct_start=_RISE, cycle_momentum=False
        )
        history = _descend(network, pairs, penalty, course, optimizer, schedule, mixed=True)
        for layer in network.linears:
            parametrize.remove_parametrizations(layer, "weight")
    _measure_scales(network, pairs.in_order)
    solved = _solve_output_layer(network, pairs.in_order())
    if network.order == 0:
        _warn(solved.degeneracy())
    return history


def _fit_authors(g: Disentangler, pairs: _Pairs, penalty: float, course: _Course) -> list[float]:
    per_epoch = math.ceil(len(pairs.x) / course.batch)
    optimizer = torch.optim.Adam(g.parameters(), lr=course.rate, weight_decay=1e-4)
    last = max(1, course.epochs - 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.01 ** ((step // per_epoch) / last)
    )
    return _descend(g, pairs, penalty, course, optimizer, schedule, mixed=False)


@torch.enable_grad()
def _descend(network, pairs, penalty, course, optimizer, schedule, *, mixed: bool) -> list[float]:
    """Run epochs of stochastic descent; return each epoch's mean squared error."""
    network.train()
    history, done = [], 0
    steps = course.epochs * math.ceil(len(pairs.x) / course.batch)
    for epoch in range(course.epochs):
        total = torch.zeros((), device=pairs.device)
        for x, target in pairs.shuffled(course.batch, course.seed * 100_003 + epoch):
            with autocast(pairs.device, enabled=mixed):
                output = network(x)
            error = (output.to(target.dtype) - target).square().mean()
            optimizer.zero_grad(set_to_none=True)
            (error + penalty * network.penalty() if penalty else error).backward()
            optimizer.step()
            schedule.step()
            total += error.detach() * len(x)
            done += 1
            course.tell(done, steps, epoch)
        history.append(float(total) / len(pairs.x))
    network.eval()
    return history


class _White(nn.Module):
    """A layer's weights in coordinates in which its inputs are white."""

    def __init__(self, whitener: torch.Tensor):
        super().__init__()
        self.register_buffer("whitener", whitener)  # (C k k, C k k)

    def forward(self, coordinates: torch.Tensor) -> torch.Tensor:
        return (coordinates.flatten(1) @ self.whitener).view_as(coordinates)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        solution = torch.linalg.solve(self.whitener, weight.flatten(1), left=False)
        return solution.view_as(weight)


def _some(pairs: _Pairs, network, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return batches of images at random, enough to tell which coordinates are white."""
    weights = network.linears[0].weight[0].numel()
    batches, rows = [], 0
    for x, target in pairs.shuffled(_CHUNK, seed):
        batches.append((x, target))
        rows += target.shape[0] * target.shape[2] * target.shape[3]
        if rows >= _ROWS_A_WEIGHT * weights:
            break
    return batches


@torch.no_grad()
def _make_white(network: Disentangler | Chain, batches) -> None:
    """Start from the best output layer, and let descent see white inputs at every layer."""
    whiteners = [_solve_output_layer(network, batches).whitener()]
    for k in range(1, network.order + 1):
        equations = NormalEquations(network.linears[k].kernel_size[0])
        for x, _ in batches:
            equations.add(network.inner(x, k))
        whiteners.append(equations.whitener())
    if isinstance(network, Disentangler):  # the last saw x^; of a chain's, order 0 has told
        _warn(equations.degeneracy())
    for layer, whitener in zip(network.linears, whiteners, strict=True):
        white = _White(whitener.to(layer.weight))
        parametrize.register_parametrization(layer, "weight", white)


def _warn(degeneracy: str | None) -> None:
    if degeneracy is not None:
        warnings.warn(
            f"The weights of the fit are not unique: {degeneracy}. A ridge chooses among "
            "them; shares on other images say how far to trust it.",
            DegenerateFeatures,
            stacklevel=2,
        )


@torch.no_grad()
def _measure_scales(g: Disentangler, batches: Callable) -> None:
    """Freeze the divisors of ``norm="dataset"`` at the statistics of all features.

    From the innermost unit outwards, because each depends on the ones below it; the divisors are
    standard deviations over all images and positions, the paper's Sigma.
    """
    if g.norm != "dataset":
        return
    for k in (0, *range(g.order, 0, -1)):
        count, first, second = 0, 0.0, 0.0
        for x, _ in batches():
            h = x if k == 0 else g.linears[k](g.inner(x, k))
            count += h.shape[0] * h.shape[2] * h.shape[3]
            first = first + h.double().sum((0, 2, 3))
            second = second + h.double().square().sum((0, 2, 3))
        g.scales[k] = channel_scale(first / count, second / count)


@torch.no_grad()
def _solve_output_layer(network: Disentangler | Chain, batches) -> NormalEquations:
    """Put W_0, and its constant if it has one, at the optimum for the present inner layers.

    The ridge is the one that leaves least of images held out; the solution is for all of them.
    """
    output = network.linears[0]
    intercept = output.bias is not None
    kept, held_out = (NormalEquations(output.kernel_size[0]) for _ in range(2))
    images = 0
    for x, target in batches:
        inner = network.inner(x)
        held = torch.arange(images, images + len(x), device=x.device) % _HELD_OUT == 0
        images += len(x)
        for equations, chosen in ((kept, ~held), (held_out, held)):
            equations.add(inner[chosen], target[chosen])
    equations = kept.merge(held_out)
    ridge = kept.best_ridge(held_out, intercept=intercept)
    weight, constant = equations.solve(intercept=intercept, ridge=ridge)
    output.weight.copy_(weight)
    if intercept:
        output.bias.copy_(constant)
    return equations
