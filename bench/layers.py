"""Time every layer of one network by every layer of another, beside torch_cka.

``python bench/layers.py``: ResNet-18 by ResNet-34 of torchvision with random weights, 8 by 16 block
outputs, 512 random images of 64 px, one process, in turns. What is timed is each library's own way
from images to its matrices. The result goes to ``results/bench/quick/layers.json``.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from recording import printed, recorded
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kclib.book import environment
from kclib.report.items import items_of
from kclib.report.kept import Kept
from kclib.report.models import model_of
from kclib.report.sides import Sides
from kclib.report.sweep import swept

NAME = "layers"
PROFILE = "quick"  # the numbers do not depend on it
ALONE = "the two networks alone"  # the unit in which a run is compared with the one before
IMAGES, SIDE, BATCH, ROUNDS = 512, 64, 128, 3
BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


def blocks(counts: tuple[int, ...]) -> list[str]:
    """Return the names of a ResNet's blocks."""
    return [f"layer{s}.{k}" for s, count in enumerate(counts, 1) for k in range(count)]


def passes(a: nn.Module, b: nn.Module, taps: tuple, images: torch.Tensor) -> Iterator[str]:
    """Pass the images through both networks, which both libraries have to do."""
    with torch.no_grad():
        for part in images.split(BATCH):
            a(part)
            b(part)
    yield ALONE


def ours(a: nn.Module, b: nn.Module, taps: tuple, images: torch.Tensor) -> Iterator[str]:
    """Find what each layer leaves of each, both ways, floors and linear CKA, as `compare` does."""
    items = items_of(images)
    models = {key: model_of(network, kind="tensor") for key, network in (("a", a), ("b", b))}
    named = dict(zip("ab", taps, strict=True))
    sides = Sides(models, dict.fromkeys("ab", items), named, seed=0, batch=BATCH, device="cpu")
    with sides.readers() as readers:
        asked = {key: readers[key] for key in "ab"}  # torch_cka has no untrained copies
        products = swept(sides, asked, Kept(None, ""), lambda *_: None)
        yield "kclib, reading and sums"
        for one, other in products.directions:
            products.cells(one, other)
        for key in asked:
            products.floors(key)
    yield "kclib"


def theirs(a: nn.Module, b: nn.Module, taps: tuple, images: torch.Tensor) -> Iterator[str]:
    """Find torch_cka's matrix of minibatch CKA."""
    from torch_cka import CKA

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that it was not given
        compared = CKA(a, b, model1_layers=taps[0], model2_layers=taps[1], device="cpu")
        compared.compare(DataLoader(TensorDataset(images), batch_size=BATCH))
    yield "torch_cka"
    for network in (a, b):  # it leaves its hooks
        for module in network.modules():
            module._forward_hooks.clear()


def measured(a: nn.Module, b: nn.Module, taps: tuple, images: torch.Tensor, rounds: int):
    """Yield one row a measurement, in turns: seconds of the processor.

    Parameters
    ----------
    a, b : torch.nn.Module
    taps : (list of str, list of str)
    images : torch.Tensor
        float32, shape (N, 3, S, S).
    rounds : int
    """
    ways: list[Callable] = [passes, ours, theirs]
    for number in range(rounds):
        for way in ways:
            began = time.process_time()
            for method in way(a, b, taps, images):
                seconds = time.process_time() - began
                yield {"method": method, "round": number, "seconds": float(f"{seconds:.4g}")}


def run(folder: Path) -> Path:
    """Measure, and write the result into a folder; return its path."""
    import torchvision

    began = time.perf_counter()
    torch.manual_seed(0)
    a, b = (getattr(torchvision.models, name)().eval() for name in BLOCKS)
    taps = tuple(map(blocks, BLOCKS.values()))
    images = torch.randn(IMAGES, 3, SIDE, SIDE)
    rows = list(printed(measured(a, b, taps, images, ROUNDS)))
    given = {"networks": list(BLOCKS), "images": IMAGES, "side": SIDE, "batch": BATCH}
    given |= {"layers": list(map(len, taps))}
    return recorded(rows, folder, PROFILE, NAME, given, began, unit=ALONE)


def main() -> None:
    """Run, and say where the result is."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    path = run(environment.results_folder(environment.RECORDED / "bench"))
    print(f"written: {os.path.relpath(path)}", flush=True)


if __name__ == "__main__":
    main()
