"""How time and memory grow with images, channels, maps and layers: ``python bench/growth.py``.

Fits on synthetic features and comparisons of synthetic networks, features and images mapped from
files, one quantity changed at a time, each in a process of its own. The result goes to
``results/bench/quick/growth.json``. A run takes two hours; one that is interrupted leaves its rows
beside the result, and the next one goes on after them.
"""

import argparse
import json
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import torch
from recording import printed, recorded
from torch import nn
from torch.nn import functional as F

import kclib
from kclib.atomic import replace_file
from kclib.book import environment
from kclib.features import load_mapped

NAME = "growth"
PROFILE = "quick"  # the numbers do not depend on it
#: What is held while one quantity changes.
HELD = {"images": 500, "channels": 32, "side": 7, "layers": 2}
IMAGES = (1000, 3000, 10_000, 30_000, 100_000)
SIDES = (7, 14, 28, 56)
#: By work, how each quantity changes. A fit with 3 x 3 kernels on 2,048 channels takes more memory
#: than most machines have (`kclib.cost`).
CHANGED = {
    "fit, 3 x 3": {"images": IMAGES, "channels": (32, 64, 128, 256, 512), "side": SIDES},
    "fit, 1 x 1": {"images": IMAGES, "channels": (128, 256, 512, 1024, 2048), "side": SIDES},
    "comparison": {
        "images": IMAGES,
        "channels": (128, 256, 512, 1024, 2048),
        "side": SIDES,
        "layers": (6, 12, 25, 50),
    },
}
PASSES = 2  # of a fit, so that all do the same
CHUNK = 500  # images at a time, where they are drawn


def mapped(file: Path, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Write smooth noise to a file, and return it mapped from there."""
    draw = torch.Generator().manual_seed(seed)
    with open(file, "wb") as stream:
        for start in range(0, shape[0], CHUNK):
            count = min(CHUNK, shape[0] - start)
            part = torch.randn(count, *shape[1:], generator=draw)
            part = F.relu(F.avg_pool2d(part, 3, stride=1, padding=1))
            stream.write(np.ascontiguousarray(part.numpy()))
    return load_mapped(file, shape)


def network(channels: int, layers: int) -> nn.Sequential:
    """Return a chain of convolutions and ReLUs that keeps the size and the scale of its maps."""
    chain = nn.Sequential()
    for k in range(layers):
        convolution = nn.Conv2d(channels if k else 3, channels, 1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        chain.append(nn.Sequential(convolution, nn.ReLU()))
    return chain


def prepared(work: str, size: dict, folder: Path) -> Callable[[], object]:
    """Return a piece of work of a size, its data written into a folder."""
    if work == "comparison":
        torch.manual_seed(0)
        shown = mapped(folder / "images", (size["images"], 3, size["side"], size["side"]), 0)
        a, b = (network(size["channels"], size["layers"]) for _ in range(2))
        taps, last = [f"{k}" for k in range(size["layers"])], f"{size['layers'] - 1}"
        given = {"taps_a": taps, "taps_b": taps, "pairs": [(last, last)], "folder": folder / "kept"}
        return lambda: kclib.compare(a, b, shown, **given)
    shape = (size["images"], size["channels"], size["side"], size["side"])
    x, target = (mapped(folder / name, shape, seed) for seed, name in enumerate(("x", "target")))
    kernel = int(work[-1])
    return lambda: kclib.fit(x, target, kernel_size=kernel, epochs=PASSES)


class Memory:
    """The most memory that this process takes, beyond what it has and what is mapped from files."""

    def __init__(self) -> None:
        self._process, self._ended = psutil.Process(), threading.Event()
        self._least = self.most = self._now()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Memory":
        self._watch.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._watch.join()

    @property
    def megabytes(self) -> float:
        """The most so far, less what there was."""
        return (self.most - self._least) / 1e6

    def _now(self) -> int:
        had = self._process.memory_info()
        return had.rss - getattr(had, "shared", 0)  # Linux tells what is mapped; a Mac does not

    def _look(self) -> None:
        while not self._ended.wait(0.01):
            self.most = max(self.most, self._now())


def measured(work: str, size: dict) -> dict:
    """Do a piece of work; return the processor's seconds and megabytes that it took."""
    warnings.simplefilter("ignore")  # of what noise lacks, and of large fits
    small = {name: min(size[name], least) for name, least in (("channels", 8), ("layers", 2))}
    with tempfile.TemporaryDirectory() as place:
        first, then = Path(place) / "first", Path(place) / "then"
        first.mkdir(), then.mkdir()
        prepared(work, HELD | small | {"images": 100}, first)()  # what only the first pays
        do = prepared(work, size, then)
        with Memory() as memory:
            began = time.process_time()
            do()
            seconds = time.process_time() - began
    return {"seconds": float(f"{seconds:.4g}"), "megabytes": float(f"{memory.megabytes:.4g}")}


def growth(changed: dict, held: dict, had: list[dict]) -> Iterator[dict]:
    """Yield one row a measurement, those that are there as they are."""
    for work, quantities in changed.items():
        for quantity, values in quantities.items():
            for value in values:
                about = {"method": work, "quantity": quantity} | held | {quantity: value}
                same = (row for row in had if about.items() <= row.items())
                if (row := next(same, None)) is None:
                    size = held | {quantity: value}
                    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                        row = about | alone.submit(measured, work, size).result()
                yield row


def run(folder: Path) -> Path:
    """Measure, and write the result into a folder; return its path."""
    part = folder / PROFILE / f"{NAME}.part.jsonl"
    had = [json.loads(line) for line in part.read_text().splitlines()] if part.exists() else []
    rows = []
    began = time.perf_counter() - sum(row["seconds"] for row in had)
    part.parent.mkdir(parents=True, exist_ok=True)
    for row in printed(growth(CHANGED, HELD, had)):
        rows.append(row)
        replace_file(part, "".join(json.dumps(row) + "\n" for row in rows).encode())
    path = recorded(rows, folder, PROFILE, NAME, {"passes": PASSES} | HELD, began)
    part.unlink()
    return path


def main() -> None:
    """Run, and say where the result is."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    path = run(environment.results_folder(environment.RECORDED / "bench"))
    print(f"written: {os.path.relpath(path)}", flush=True)


if __name__ == "__main__":
    main()
