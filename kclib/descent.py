"""How g finds its weights: descent in white coordinates, until images held out gain no more.

Neighbouring positions and channels of a feature say nearly the same, so that in the weights' own
coordinates the objective is a narrow valley. Here each layer descends in coordinates in which its
inputs are white, from the least-squares output layer on, at a constant rate, with the weights
averaged; at the end the output layer is solved for.
"""

import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.utils import parametrize

from .disentangler import Chain, Disentangler, StagewiseDisentangler, channel_scale
from .errors import DegenerateFeatures
from .features import resample
from .muon import Muon
from .normal_equations import NormalEquations
from .precision import autocast, reduced_precision
from .seeds import of_epoch

#: A fit ends when a pass lowers what is left of images held out by less than this share of it.
TOLERANCE = 0.01
_MOMENTUM = 0.9  # a fit has a few hundred steps, too few for the usual memory
_RATE_OF_OTHERS = 1e-2  # of NAdam, for what is no matrix: the p_k and constants
_BETAS = (0.9, 0.95)
_AVERAGING = 8  # the mean of the weights is over about the last ninth of the steps
_ROWS_A_WEIGHT = 16  # positions a weight from which the coordinates are made white
CHUNK = 256  # images at a time in passes that only sum
_IN_MEMORY = 4 * 2**30  # bytes of what lower orders leave; more goes to a temporary file
_HELD_OUT = 8  # one image in so many says when to stop, and how much ridge is needed


@dataclass(frozen=True)
class Pairs:
    """Pairs of features, read batch by batch, x* less ``mean`` (C*,) and divided by ``unit``."""

    x: torch.Tensor
    target: torch.Tensor
    mean: torch.Tensor
    unit: float
    device: torch.device | str
    precision: torch.dtype
    chosen: torch.Tensor  # (n,), which images

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features of some images, on the device, in units of the fit."""
        b = self.target[chosen].to(self.device, self.precision)
        b = (b - self.mean[:, None, None].to(b)) / self.unit
        return resample(self.x[chosen].to(self.device, self.precision), b.shape[2:]), b

    @torch.no_grad()
    def less(self, chain: Chain) -> "Pairs":
        """Return the pairs of x and of what a chain leaves of x*."""
        left = _room(self.target, self.precision)
        for chosen in self.chosen.split(CHUNK):
            x, target = self.take(chosen)
            left[chosen] = (target - chain(x)).to(left.device)
        return replace(self, target=left, mean=torch.zeros_like(self.mean), unit=1.0)

    def in_order(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield all of them, a chunk at a time."""
        for chosen in self.chosen.split(CHUNK):
            yield self.take(chosen)

    def shuffled(self, batch: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield all of them in an order that the seed draws, ``batch`` at a time."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        for chosen in self.chosen[order].split(batch):
            yield self.take(chosen)

    def apart(self) -> tuple["Pairs", "Pairs"]:
        """Return the images to descend on, and those held out."""
        held = self.chosen % _HELD_OUT == 0
        return replace(self, chosen=self.chosen[~held]), replace(self, chosen=self.chosen[held])


def _room(like: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """Return room for features like others: where those are, or in a nameless file if large."""
    size = like.numel()
    if like.device.type != "cpu" or size * precision.itemsize <= _IN_MEMORY:
        return torch.empty(like.shape, dtype=precision, device=like.device)
    with tempfile.NamedTemporaryFile(prefix="kclib-") as file:
        room = torch.from_file(file.name, shared=True, size=size, dtype=precision)
    return room.view(like.shape)


@dataclass(frozen=True)
class Course:
    """How long and in which order a descent runs, and who is told."""

    seed: int
    passes: tuple[int, int]  # at least and at most
    batch: int
    rate: float
    mixed: bool  # whether it computes in bfloat16 where the device gains from it
    progress: Callable[[int, int, str], None] | None
    before: int = 0  # descents that have run
    descents: int = 1  # of this fit

    def tell(self, done: int, images: int, text: str) -> None:
        """Say what goes on, after ``done`` steps over that many images."""
        if self.progress is not None:
            if self.descents > 1:
                text = f"descent {self.before + 1} of {self.descents}, {text}"
            most = self.passes[1] * math.ceil(images / self.batch)
            self.progress(self.before * most + done, self.descents * most, text)


@dataclass(frozen=True)
class _Descent:
    """What a descent took."""

    loss: list[float]  # mean squared error of each pass
    converged: bool


def fit_lowest_first(
    g: StagewiseDisentangler, pairs: Pairs, course: Course
) -> list[list[_Descent]]:
    """Fit one order after the other, each to what the lower ones leave."""
    orders, left = [], pairs
    stages = 2 if g.chains[0].linears[0].kernel_size[0] > 1 else 1
    for k, chain in enumerate(g.chains):
        if k:
            left = left.less(g.chains[k - 1])
            # Deeper steps start from those that the order below found.
            for layer, found in zip(chain.linears[2:], g.chains[k - 1].linears[1:], strict=True):
                layer.load_state_dict(found.state_dict())
        part = replace(course, before=stages * max(k - 1, 0), descents=stages * g.order)
        orders.append(fit_network(chain, left, 0.0, part))
    return orders


def fit_network(
    network: Disentangler | Chain, pairs: Pairs, penalty: float, course: Course
) -> list[_Descent]:
    """Fit all layers at once: descend in white coordinates, then solve for the output layer."""
    descents = []
    network.eval()
    if network.order > 0:
        kept, held_out = pairs.apart()
        course.tell(0, len(kept), "finding white coordinates")
        some = _some(kept, network, course.seed)
        narrow = None
        if isinstance(network, Chain) and network.linears[0].kernel_size[0] > 1:
            # With a ninth of the weights a weak order stands out from the noise; see the book.
            narrow = _narrowed(network)
            _make_white(narrow, some)
            descents = [_descend(narrow, kept, held_out, penalty, course)]
            _widen(narrow, network)
            course = replace(course, before=course.before + 1)
        _make_white(network, some, starts=narrow is None)
        descents.append(_descend(network, kept, held_out, penalty, course))
    _measure_scales(network, pairs.in_order)
    solved = _solve_output_layer(network, pairs)
    if network.order == 0:
        warn_not_unique(solved.degeneracy())
    return descents


def _narrowed(network: Chain) -> Chain:
    """Return a chain of the middles of a chain's kernels."""
    output, inner = network.linears[0], network.linears[-1]
    sizes = (inner.in_channels, output.out_channels, network.order)
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
        narrow = Chain(*sizes, 1, network.norm).to(output.weight).eval()
    with torch.no_grad():
        for layer, wide in zip(narrow.linears, network.linears, strict=True):
            layer.weight.copy_(3 * wide.weight[..., 1:2, 1:2])  # of the size a narrow one starts at
    return narrow


@torch.no_grad()
def _widen(narrow: Chain, network: Chain) -> None:
    """Let a chain compute what a narrow one does."""
    for layer, wide in zip(narrow.linears, network.linears, strict=True):
        wide.weight.zero_()
        wide.weight[..., 1:2, 1:2] = layer.weight
    network.linears[0].bias.copy_(narrow.linears[0].bias)


def _descend(
    network: Disentangler | Chain,
    kept: Pairs,
    held_out: Pairs,
    penalty: float,
    course: Course,
) -> _Descent:
    """Descend from white coordinates until images held out gain no more; leave the best weights."""
    white = [layer.parametrizations.weight.original for layer in network.linears]
    others = [p for p in network.parameters() if all(p is not coordinates for coordinates in white)]
    optimizers = [
        Muon(white, course.rate, _MOMENTUM, reduced_precision(kept.device, course.mixed)),
        torch.optim.NAdam(others, lr=_RATE_OF_OTHERS, betas=_BETAS),
    ]
    average = _Average(network)
    loss, left = [], [_left(network, held_out, course.mixed)]
    best = average.weights()
    least, most = course.passes
    converged = False
    for error in passes_over(network, kept, penalty, course, optimizers, after_step=average.update):
        loss.append(error)
        with average.applied():
            left.append(_left(network, held_out, course.mixed))
            if left[-1] < min(left[:-1]):
                best = average.weights()
        # Not a number is no gain either.
        converged = least < most and not left[-2] - left[-1] >= TOLERANCE * left[-2]
        if converged and len(loss) >= least:
            break
    average.put(best)
    for layer in network.linears:
        parametrize.remove_parametrizations(layer, "weight")
    return _Descent(loss, converged)


class _Average:
    """The mean of a network's weights over the last steps, more of them the longer it descends.

    At a constant rate weights end up walking around an optimum, and their mean is near it. A
    falling rate would get there too, but needs to know when the descent will end. The newest
    weights count (n + 1) / (n + t) at step t: polynomial-decay averaging (Shamir and Zhang, 2013).
    """

    def __init__(self, network: nn.Module):
        self._parameters = list(network.parameters())
        self._mean = self.weights()
        self._steps = 0

    def weights(self) -> list[torch.Tensor]:
        """Return a copy of what the network has now."""
        return [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def put(self, weights: list[torch.Tensor]) -> None:
        """Give the network other weights."""
        for parameter, weight in zip(self._parameters, weights, strict=True):
            parameter.copy_(weight)

    @torch.no_grad()
    def update(self) -> None:
        self._steps += 1
        share = (_AVERAGING + 1) / (_AVERAGING + self._steps)
        for mean, parameter in zip(self._mean, self._parameters, strict=True):
            mean.lerp_(parameter, share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the network have the mean for a while."""
        own = self.weights()
        self.put(self._mean)
        yield
        self.put(own)


@torch.no_grad()
def _left(network: Disentangler | Chain, pairs: Pairs, mixed: bool) -> float:
    """Return the mean square that a network leaves of the target."""
    network.eval()
    _measure_scales(network, pairs.in_order)
    total, count = 0.0, 0
    for x, target in pairs.in_order():
        with autocast(pairs.device, enabled=mixed):
            output = network(x)
        total += float((target - output).double().square().sum())
        count += target.numel()
    return total / count


@torch.enable_grad()
def passes_over(
    network: Disentangler | Chain,
    pairs: Pairs,
    penalty: float,
    course: Course,
    optimizers: list[torch.optim.Optimizer],
    *,
    after_step: Callable[[], None] | None = None,
) -> Iterator[float]:
    """Run passes of stochastic descent; yield each one's mean squared error."""
    done, most = 0, course.passes[1]
    bound = f"at most {most}" if course.passes[0] < most else f"{most}"
    for number in range(most):
        network.train()
        total = torch.zeros((), device=pairs.device)
        # Seeds are multiplied so that the passes of one do not repeat those of the next.
        for x, target in pairs.shuffled(course.batch, of_epoch(course.seed, number)):
            with autocast(pairs.device, enabled=course.mixed):
                output = network(x)
            error = (output.to(target.dtype) - target).square().mean()
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            (error + penalty * network.penalty() if penalty else error).backward()
            for optimizer in optimizers:
                optimizer.step()
            if after_step is not None:
                after_step()
            total += error.detach() * len(x)
            done += 1
            course.tell(done, len(pairs), f"pass {number + 1} of {bound}")
        network.eval()
        yield float(total) / len(pairs)


class _White(nn.Module):
    """A layer's weights in coordinates in which its inputs are white."""

    def __init__(self, whitener: torch.Tensor, kernel: torch.Size):
        super().__init__()
        self.kernel = kernel  # (C, k, k)
        self.register_buffer("whitener", whitener)  # (C k k, C k k)

    def forward(self, coordinates: torch.Tensor) -> torch.Tensor:
        return (coordinates @ self.whitener).view(-1, *self.kernel)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve(self.whitener, weight.flatten(1), left=False)


def _some(pairs: Pairs, network, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return batches of images at random, enough to tell which coordinates are white."""
    weights = network.linears[0].weight[0].numel()
    batches, rows = [], 0
    for x, target in pairs.shuffled(CHUNK, seed):
        batches.append((x, target))
        rows += target.shape[0] * target.shape[2] * target.shape[3]
        if rows >= _ROWS_A_WEIGHT * weights:
            break
    return batches


@torch.no_grad()
def _make_white(network: Disentangler | Chain, batches, *, starts: bool = True) -> None:
    """Let descent see white inputs at every layer; start from the best output layer, if asked."""
    _measure_scales(network, lambda: batches)
    equations = _output_equations(network, batches)
    whiteners = [equations.whitener()]
    if starts:
        _put_output_layer(network, equations)
    for k in range(1, network.order + 1):
        equations = NormalEquations(network.linears[k].kernel_size[0])
        for x, _ in batches:
            equations.add(network.inner(x, k))
        whiteners.append(equations.whitener())
    if isinstance(network, Disentangler):  # the last saw x^; of a chain's, order 0 has told
        warn_not_unique(equations.degeneracy())
    for layer, whitener in zip(network.linears, whiteners, strict=True):
        white = _White(whitener.to(layer.weight), layer.weight.shape[1:])
        parametrize.register_parametrization(layer, "weight", white)


def warn_not_unique(degeneracy: str | None) -> None:
    """Warn of features that many weights fit equally well, if there is a reason."""
    if degeneracy is not None:
        warn(
            f"The weights of the fit are not unique: {degeneracy}. A ridge chooses among "
            "them; shares on other images say how far to trust it."
        )


def warn(message: str) -> None:
    """Warn of features that are not what one would think."""
    warnings.warn(message, DegenerateFeatures, stacklevel=3)


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
def _output_equations(network: Disentangler | Chain, batches) -> NormalEquations:
    equations = NormalEquations(network.linears[0].kernel_size[0])
    for x, target in batches:
        equations.add(network.inner(x), target)
    return equations


@torch.no_grad()
def _put_output_layer(network, equations: NormalEquations, **options) -> None:
    output = network.linears[0]
    weight, constant = equations.solve(intercept=output.bias is not None, **options)
    output.weight.copy_(weight)
    if output.bias is not None:
        output.bias.copy_(constant)


@torch.no_grad()
def _solve_output_layer(network: Disentangler | Chain, pairs: Pairs) -> NormalEquations:
    """Put W_0, and its constant if it has one, at the optimum for the present inner layers.

    The ridge is the one that leaves least of the images held out; the solution is for all of them.
    What descent found stays if it leaves less of them than any solution does.
    """
    output = network.linears[0]
    intercept = output.bias is not None
    kept, held_out = (_output_equations(network, part.in_order()) for part in pairs.apart())
    ridge, least = kept.best_ridge(held_out, intercept=intercept)
    both = kept.merge(held_out)
    present = (
        output.weight,
        output.bias if intercept else output.weight.new_zeros(len(output.weight)),
    )
    descended = network.order > 0 and both.left(*present) < both.left(*(0 * p for p in present))
    if not descended or held_out.left(*present) >= least:
        _put_output_layer(network, both, ridge=ridge)
    return both
