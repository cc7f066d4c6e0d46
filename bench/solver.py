"""Time the fast solver against the authors' recipe: ``python bench/solver.py --profile quick``.

Both fit the same features in one process: those of two initialisations of a network at a tap. Each
pair's result goes to ``results/bench/PROFILE/NETWORK_TAP.json`` when it is there, that of synthetic
features to ``scaling.json``; or under the folder that KC_RESULTS names.
"""

import argparse
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import torch
from recording import recorded
from torch.nn import functional as F

from kclib import Disentangler, solver
from kclib.book import environment, parameters, plans, profiles
from kclib.book.making import Workshop
from kclib.book.members import pair
from kclib.errors import DegenerateFeatures, InputError, choose
from kclib.features import resample
from kclib.normal_equations import NormalEquations

#: Pairs of layers, NETWORK:TAP, by profile.
PAIRS = {"plain64": ["vgg16:conv4_3", "vgg16:conv5_3", "resnet34:last_conv"]}
USUAL_PAIRS = ["vgg16:conv4_3"]
ORDER, PENALTY = 2, 0.1  # the authors', as for every fit here
EPOCHS = (1, 2, 4, 6, 8, 12)  # of the fast solver, to show its course
DEFAULT = "fast, default"  # as many as it finds right
SEEDS = 5  # with which the default fit is made
OTHERS = ", other seeds"  # than the first: only their ends count
CHUNK = 64  # images at a time, where patches are unfolded
SCALING = "scaling"  # the result of synthetic features
PATCHES = "normal matrix, patches"  # the unit in which a run is compared with the one before

#: Synthetic features: what is held while one quantity changes, and how each changes.
HELD = {"images": 512, "channels": 32, "side": 8, "kernel_size": 3, "order": 2}
CHANGED = {
    "images": (128, 512, 2048),
    "channels": (8, 16, 32, 64, 128),
    "kernel_size": (1, 3),
    "order": (0, 1, 2, 3, 5),
}


def authors_recipe(
    x: torch.Tensor, target: torch.Tensor, epochs: int, device: str = "cpu", seed: int = 0
) -> Iterator[tuple[Disentangler, float]]:
    """Run `kclib.solver.authors_recipe`, from the weights that `kclib.fit` begins with.

    Yields
    ------
    disentangler : Disentangler
        As it is after the epoch.
    seconds : float
        That all epochs so far took, without what the caller did between them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        g = Disentangler(x.shape[1], target.shape[1], ORDER)
    recipe = solver.authors_recipe(
        g, x, target, penalty=PENALTY, seed=seed, epochs=epochs, device=device
    )
    seconds = 0.0
    for _ in range(epochs):
        _, more = timed(lambda: next(recipe))
        seconds += more
        yield g, seconds


def timed(work: Callable):
    """Return what a function returns, and the seconds that it took.

    Seconds of the processor, so that what else the machine does counts little; with a GPU, which
    works beside it, seconds of the clock.
    """
    if not torch.cuda.is_available():
        began = time.process_time()
        return work(), time.process_time() - began
    began = time.perf_counter()
    done = work()
    torch.cuda.synchronize()
    return done, time.perf_counter() - began


def compare(
    train: tuple, test: tuple, cap: float, device: str, *, seeds: int = 1
) -> Iterator[dict]:
    """Fit one pair of features in every way; yield one row a measurement.

    Parameters
    ----------
    train, test : tuple of torch.Tensor
        Features x and x* of the training and of the test images.
    cap : float
        Seconds that a run of the authors' recipe may take.
    device : str
    seeds : int
        With how many the authors' recipe runs.
    """
    for order, epochs, seed in (
        (0, None, 0),
        *((ORDER, epochs, 0) for epochs in EPOCHS),
        *((ORDER, None, seed) for seed in range(SEEDS)),
    ):
        fitted, seconds = timed(
            lambda order=order, epochs=epochs, seed=seed: solver.fit(
                *train, order=order, penalty=PENALTY, seed=seed, epochs=epochs, device=device
            )
        )
        name = f"fast{OTHERS}" if seed else "fast" if epochs else DEFAULT
        method = name if order else "order 0"
        passes = sum(fitted.passes)
        row = {"method": method, "epochs": passes, "seconds": seconds, "seed": seed}
        yield row | {"residual": fitted.evaluate(*test).residual}
    for method, seconds in normal_matrices(*train, 3, device).items():
        yield {"method": method, "seconds": seconds}

    full, ends = solver.AUTHORS.epochs, []
    for seed in range(seeds):
        due = 1
        for epoch, (g, seconds) in enumerate(authors_recipe(*train, full, device, seed), 1):
            last = seconds >= cap or epoch == full
            if last or (epoch == due and not seed):
                due = math.ceil(1.6 * epoch)
                method = f"authors{OTHERS if seed else ''}"
                row = {"method": method, "epochs": epoch, "seconds": seconds, "seed": seed}
                yield row | {"residual": solver.evaluate(g, *test).residual}
            if last:
                ends.append(epoch)
                break
    if ends[0] < full:
        # Their rate falls to a hundredth over all epochs: cut short it is not their recipe. The
        # whole schedule in fewer epochs says what residual the recipe reaches at least.
        *_, (g, seconds) = authors_recipe(*train, ends[0], device)
        row = {"method": "authors, squeezed", "epochs": ends[0], "seconds": seconds}
        yield row | {"residual": solver.evaluate(g, *test).residual}


@torch.no_grad()
def normal_matrices(x, target, kernel_size: int, device: str) -> dict[str, float]:
    """Return the seconds that one normal matrix takes: over patches, and as the solver does it."""
    size = target.shape[2:]

    def patches():
        side = x.shape[1] * kernel_size**2
        matrix = torch.zeros(side, side, device=device)
        for part in x.split(CHUNK):
            part = resample(part.to(device), size)
            rows = F.unfold(part, kernel_size, padding=kernel_size // 2)  # (N, C k k, H W)
            rows = rows.transpose(1, 2).flatten(0, 1)  # (N H W, C k k)
            matrix.addmm_(rows.T, rows)
        return matrix

    def fourier():
        equations = NormalEquations(kernel_size)
        for part in x.split(4 * CHUNK):
            equations.add(resample(part.to(device), size))
        return equations.matrix()

    return {
        name: timed(work)[1]
        for name, work in ((PATCHES, patches), ("normal matrix, Fourier", fourier))
    }


def scaling(changed: dict, held: dict, device: str) -> Iterator[dict]:
    """Time fits and normal matrices on synthetic features, one quantity changed at a time."""
    for quantity, values in changed.items():
        for value in values:
            size = held | {quantity: value}
            x, target = synthetic(size["images"], size["channels"], size["side"])
            kernel = size["kernel_size"]
            _, seconds = timed(
                lambda x=x, target=target, size=size: solver.fit(
                    x, target, order=size["order"], kernel_size=size["kernel_size"], epochs=2,
                    device=device,
                )
            )  # fmt: skip
            common = {"features": "synthetic", "quantity": quantity} | size
            yield common | {"method": "fast", "epochs": 2, "seconds": seconds}
            for method, seconds in normal_matrices(x, target, kernel, device).items():
                yield common | {"method": method, "seconds": seconds}


def synthetic(images: int, channels: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return smooth features and what a convolution with a ReLU makes of them."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(images, channels, side, side, generator=draw)
    x = F.relu(F.avg_pool2d(x, 3, stride=1, padding=1))
    weight = torch.randn(channels, channels, 3, 3, generator=draw) / (3 * channels**0.5)
    return x, F.relu(F.conv2d(x, weight, padding=1))


def run(profile: str | None, pairs: list[str] | None, cap: float, seeds: int = 1) -> Iterator[Path]:
    """Compare the solvers on one pair after the other, then time synthetic features.

    Parameters
    ----------
    profile : str, optional
    pairs : list of str, optional
        NETWORK:TAP each; by default those of ``PAIRS``.
    cap : float
        Seconds that a run of the authors' recipe may take.
    seeds : int
        With how many it runs.

    Yields
    ------
    Path
        The file of each result, as soon as it is there.
    """
    if not 0 < cap < math.inf:
        raise InputError(f"the cap is {cap:g} seconds; allowed: above 0.")
    if seeds < 1:
        raise InputError(f"the number of seeds is {seeds}; allowed: 1 or more.")
    known = profiles.load(parameters.checked({"profile": profile})["profile"])
    networks = known.artefacts["table1_instability"].networks  # they are those compared
    named = pairs or PAIRS.get(known.name, USUAL_PAIRS)
    taps = [f"{network}:{tap}" for network, taps in networks.items() for tap in taps]
    chosen = [choose("pair", name, taps).split(":") for name in named]
    workshop = Workshop.usual()
    warnings.simplefilter("ignore", DegenerateFeatures)  # the times are the same
    solver.fit(*synthetic(64, 8, 8), epochs=1, device=workshop.device)  # what only the first pays

    for network, tap in chosen:
        began = time.perf_counter()
        planned = {
            member: plans.network(known, member) for member in pair(network, "initialisations", 0)
        }
        train, test = (
            tuple(
                workshop.features(plan, plans.images(known, network, split), tap, None)
                for plan in planned.values()
            )
            for split in ("train", "test")
        )
        size = dict(zip(("images", "channels", "side"), train[1].shape[:3], strict=True))
        common = {"features": f"{network} {tap}", "test_images": len(test[0])} | size
        measured = compare(train, test, cap, workshop.device, seeds=seeds)
        rows = list(told(common | row for row in measured))
        used = {str(m): (plan, workshop.record(plan)) for m, plan in planned.items()}
        given = {"cap": cap}
        yield record(known, workshop, f"{network}_{tap}", rows, given, used, began)
    began = time.perf_counter()
    rows = list(told(scaling(CHANGED, HELD, workshop.device)))
    yield record(known, workshop, SCALING, rows, HELD, {}, began)


def record(
    profile, workshop: Workshop, name: str, rows, given: dict, networks: dict, began
) -> Path:
    """Write rows as the result ``name``, with what made them."""
    folder = environment.results_folder(environment.RECORDED / "bench")
    given = {"order": ORDER, "authors_epochs": solver.AUTHORS.epochs} | given
    how = {"unit": PATCHES, "networks": networks, "device": workshop.device}
    return recorded(rows, folder, profile.name, name, given, began, **how)


def told(rows) -> Iterator[dict]:
    """Print rows as they come, so that a long run shows where it is."""
    for row in rows:
        row = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}
        named = [name for name in ("seed", "epochs", "seconds", "residual") if name in row]
        words = (f"{name} {row[name]}" for name in named)
        print(", ".join(chain([row["features"], row["method"]], words)), flush=True)
        yield row


def main(words: list[str] | None = None) -> int:
    """Read the command line, run, and say where the result is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", help="data and networks (default: quick)")
    parser.add_argument(
        "--pairs",
        nargs="+",
        metavar="NETWORK:TAP",
        help="layers to compare, of Table 1 (default: "
        f"{' '.join(USUAL_PAIRS)}; plain64: {' '.join(PAIRS['plain64'])})",
    )
    parser.add_argument(
        "--cap",
        type=float,
        default=180,
        help="seconds that a run of the authors' recipe may take, two runs a pair (default: 180)",
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="with how many that recipe runs (default: 1)"
    )
    given = parser.parse_args(words)
    try:
        for path in run(given.profile, given.pairs, given.cap, given.seeds):
            print(f"written: {os.path.relpath(path)}", flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
