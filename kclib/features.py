"""Features at a tap of a network, in memory or memory-mapped, and their alignment."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from . import networks
from .atomic import whole_file
from .errors import InputError, choose
from .training.classifier import normalised


class _TapReached(Exception):
    """Ends a forward pass at the tap: what lies above it need not run."""


@torch.no_grad()
def extract(
    network: nn.Module,
    images: torch.Tensor,
    tap: str,
    *,
    batch: int = 128,
    device: torch.device | str = "cpu",
    preprocess: Callable[[torch.Tensor], torch.Tensor] = normalised,
    file: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> torch.Tensor:
    """Return the features of images at a tap, the network in evaluation mode.

    Parameters
    ----------
    network : torch.nn.Module
        Any module that takes a batch of images; it is left on `device`, in evaluation mode.
    images : torch.Tensor
        Shape (N, ...): uint8 (N, 3, S, S) with the default `preprocess`.
    tap : str
        A name from `kclib.networks.taps`, or the path of any module inside the network; of a
        module that is used more than once, the first use counts.
    batch : int
        Images at a time, 1 or more.
    device : torch.device or str
    preprocess : callable
        Applied to each batch on the device; ImageNet's normalisation of uint8 images by default.
    file : Path, optional
        Write the features to this file and memory-map it, for sets larger than memory. The file
        is there when all of it is; `load_mapped` reads it again.
    progress : callable, optional
        Called as ``progress(done, total, text)`` with images done and in all.

    Returns
    -------
    torch.Tensor
        float32, shape (N, C, H, W); vectors (N, C) become (N, C, 1, 1), and tokens (N, T, C)
        become (N, C, T, 1).

    Raises
    ------
    InputError
        If there is no such tap (the message lists those there are), or its output is no feature.
    StoreError
        If `file` cannot be written.
    """
    if len(images) == 0 or batch < 1:
        raise InputError(f"{len(images)} images in batches of {batch}; allowed: 1 or more of both.")
    network.to(device).eval()
    read = _reader(network, tap)

    def parts() -> Iterable[torch.Tensor]:
        for start in range(0, len(images), batch):
            chosen = images[start : start + batch]
            given = preprocess(chosen.to(device))
            if given.dim() == 4:  # convolutions are faster in this layout
                given = given.contiguous(memory_format=torch.channels_last)
            yield _as_maps(read(given), tap, len(chosen)).float().cpu()
            if progress is not None:
                progress(start + len(chosen), len(images), tap)

    if file is None:
        return _joined(parts(), len(images))
    with whole_file(Path(file)) as opened:
        for part in parts():
            opened.write(part.contiguous().numpy())
    return load_mapped(file, (len(images), *part.shape[1:]))


def load_mapped(file: Path, shape: tuple[int, int, int, int]) -> torch.Tensor:
    """Memory-map float32 features (N, C, H, W) that `extract` wrote to a file.

    Changing the tensor does not change the file.
    """
    expected = 4 * math.prod(shape)
    if not Path(file).exists() or Path(file).stat().st_size != expected:
        raise InputError(
            f"{file} is missing or has another size than the {expected:,} bytes of float32 "
            f"features of shape {tuple(shape)}; extract the features again."
        )
    return torch.from_numpy(np.memmap(file, dtype=np.float32, mode="c", shape=tuple(shape)))


def resample(feature: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bring a feature (N, C, H, W) to another map size, so that positions correspond.

    A side that shrinks is averaged over the old positions that each new one touches; one that
    grows is interpolated bilinearly between the centres of positions. Equal sizes change nothing.
    (The authors compare maps of equal size only.)
    """
    height, width = feature.shape[2:]
    smaller = (min(height, size[0]), min(width, size[1]))
    if smaller != (height, width):
        feature = F.adaptive_avg_pool2d(feature, smaller)
    if smaller != tuple(size):
        feature = F.interpolate(feature, size=size, mode="bilinear", align_corners=False)
    return feature


def _reader(network: nn.Module, tap: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function from a batch to the tapped output."""
    names = networks.taps(network)
    if tap in names:
        return networks.split(network, tap)[0].eval()
    modules = {name: module for name, module in network.named_modules() if name}
    module = modules[choose("tap", tap, [*names, *modules])]

    def read(x: torch.Tensor) -> torch.Tensor:
        kept = []

        def keep(_module, _inputs, output):
            kept.append(output)
            raise _TapReached

        handle = module.register_forward_hook(keep)
        try:
            network(x)
        except _TapReached:
            pass
        finally:
            handle.remove()
        if not kept:
            raise InputError(f"the forward pass never reached {tap!r}; choose a module it uses.")
        return kept[0]

    return read


def _as_maps(output, tap: str, count: int) -> torch.Tensor:
    """Return a module's output for ``count`` images as feature maps (N, C, H, W)."""
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if not isinstance(output, torch.Tensor) or len(shape) not in (2, 3, 4) or shape[0] != count:
        raise InputError(
            f"the output at {tap!r} is {shape}; allowed: a tensor (N, C), (N, T, C) or "
            f"(N, C, H, W) for the N = {count} images. Choose a module with such an output."
        )
    if output.dim() == 2:
        return output[:, :, None, None]  # (N, C, 1, 1)
    if output.dim() == 3:
        return output.transpose(1, 2)[:, :, :, None]  # (N, C, T, 1)
    return output


def _joined(parts: Iterable[torch.Tensor], count: int) -> torch.Tensor:
    """Return one tensor of ``count`` rows, filled as the parts come: half the memory of `cat`."""
    features, done = None, 0
    for part in parts:
        if features is None:
            features = torch.empty((count, *part.shape[1:]))
        features[done : done + len(part)] = part
        done += len(part)
    return features
