"""Features at taps of a network, in memory or memory-mapped, and their alignment."""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .atomic import whole_file, writable
from .errors import InputError
from .imagenet import normalised
from .reading import inputs, layouts, taps
from .reading.borrowed import borrowed

__all__ = ["extract", "load_mapped", "normalised", "resample"]


def extract(
    network: nn.Module,
    images,
    tap: str | list[str],
    *,
    batch: int = 128,
    device: torch.device | str = "cpu",
    preprocess: Callable = normalised,
    layout: str | Mapping[str, str] | None = None,
    grid: tuple[int, int] | None = None,
    tokens: str = "patches",
    file: Path | Mapping[str, Path] | None = None,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return the features of images at a tap, the network in evaluation mode.

    Parameters
    ----------
    network : torch.nn.Module
        Any module; `DataParallel` and `torch.compile` around it, or in it, do not matter. It is
        afterwards as it was: modes, device, buffers, hooks.
    images : torch.Tensor, numpy.ndarray, tuple, dict, Dataset or DataLoader
        uint8 (N, 3, S, S) with the default `preprocess`. A tuple or dict holds several inputs,
        positional or by keyword. A data set or loader gives inputs, or pairs of input and label.
    tap : str or list of str
        Of torchvision's AlexNet, VGG and ResNet a name from `kclib.networks.taps`, the paper's:
        before ReLU. Otherwise the path of a module, whose own output is read. The same string can
        be both, a ResNet's ``"layer2"``: for torchvision's own networks it is the paper's; in
        others, and as ``"layer2@1"`` in all, it is the module's output.

        ``"relu@2"`` is the second use of a module in a forward pass; ``"lstm[0]"`` and
        ``"encoder.last_hidden_state"`` are elements of an output, ``""`` is the network's own
        output and ``".logits"`` an element of it. Of an output that holds one tensor, that is
        taken. A list of taps is read in one pass.
    batch : int
        Images at a time, 1 or more. A `DataLoader` has its own.
    device : torch.device or str
    preprocess : callable
        Applied to each batch on the device; ImageNet's normalisation of uint8 images by default,
        which leaves anything else in a tuple or dict as it is. Floating-point inputs then get the
        type of the network's weights.
    layout : str or dict of tap to str, optional
        What the axes of the output are, one letter each: ``"NCHW"``, ``"NHWC"``, ``"NTC"``,
        ``"TNC"``, ``"NCT"``, ``"NC"``. Where the modules tell, it is recognised.
    grid : (int, int), optional
        Rows and columns of the patches that tokens stand for. It is recognised where a convolution
        has cut the image into them. Other tokens, such as the class token, come before them.
    tokens : {"patches", "class", "all"}
        Of tokens with a grid: those of the patches, as maps; the first one; or all, in a line.
    file : Path or dict of tap to Path, optional
        Write the features to this file and memory-map it, for sets larger than memory. The file
        is there when all of it is; `load_mapped` reads it again.
    progress : callable, optional
        Called as ``progress(done, total, text)`` with images done and in all (None if unknown).

    Returns
    -------
    torch.Tensor, or dict of tap to torch.Tensor for a list of taps
        float32, shape (N, C, H, W). Vectors (N, C) become (N, C, 1, 1); tokens become the maps of
        their grid, (N, C, H, W), or a line (N, C, T, 1) where there is none.

    Raises
    ------
    InputError
        If there is no such tap (the message lists those there are), its output is no feature, or
        what is given could be read in several ways; the message says what to declare.
    StoreError
        If `file` cannot be written.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    >>> extract(network, images, "1").shape
    torch.Size([2, 4, 6, 6])
    >>> {tap: tuple(x.shape) for tap, x in extract(network, images, ["0", "3"]).items()}
    {'0': (2, 4, 6, 6), '3': (2, 5, 1, 1)}
    """
    several = not isinstance(tap, str)
    names = [tap] if isinstance(tap, str) else list(tap)
    if not names or len(set(names)) < len(names) or not all(isinstance(n, str) for n in names):
        raise InputError(f"taps are {names}; allowed: one name, or a list of different ones.")
    layout, files = _by_tap("layout", layout, names), _by_tap("file", file, names)
    if len(set(files.values())) < len(files):
        raise InputError(f"{len(names)} taps but one file; give a dict from tap to file.")
    files = {name: writable(path) for name, path in files.items()}
    parts, count = inputs.batches(images, batch)
    inner, prefix = taps.unwrapped(network)
    places = []
    for name in names:
        places.append(taps.locate(inner, name, prefix))
    text = ", ".join(names)
    weight = next((p.dtype for p in inner.parameters() if p.is_floating_point()), None)

    def called(given) -> tuple[tuple, dict]:
        return inputs.as_call(given, preprocess, weight, device)

    with borrowed(inner, device), ExitStack() as stack:
        parts = iter(parts)
        first, small = inputs.probes(parts)
        trail = layouts.Trail()
        two, three = map(called, small)
        trail.begin(three)
        after_two = taps.read(inner, places, two)
        after_three = taps.read(inner, places, three, watch=trail.see)
        known = {
            name: layouts.recognise(
                after_two[place.tap],
                after_three[place.tap],
                name,
                trail.until(place.module, place.use or 1),
                place.module,
                declared=layout.get(name),
                maps=place.before,
                grid=grid,
                tokens=tokens,
            )
            for name, place in zip(names, places, strict=True)
        }
        kept: dict[str, _Mapped | _InMemory] = {
            name: _Mapped(files[name], stack.enter_context(whole_file(files[name])))
            if name in files
            else _InMemory(count)
            for name in names
        }
        done = 0
        for given in chain([first], parts):
            number = inputs.rows(given)
            found = taps.read(inner, places, called(given))
            for name, place in zip(names, places, strict=True):
                maps = known[name].maps(found[place.tap], number, name)
                kept[name].add(maps.float().cpu())
            done += number
            if progress is not None:
                progress(done, count, text)
        if count is not None and done != count:
            raise InputError(
                f"the DataLoader gave {done} of its {count} images; allowed: all of them, in order."
            )
    features = {name: kept[name].whole() for name in names}
    return features if several else features[names[0]]


def load_mapped(file: Path, shape: tuple[int, int, int, int]) -> torch.Tensor:
    """Memory-map float32 features (N, C, H, W) that `extract` wrote to a file.

    Changing the tensor does not change the file.

    Parameters
    ----------
    file : Path
    shape : (int, int, int, int)
        N, C, H and W.

    Raises
    ------
    InputError
        If the file is missing or of another size.

    Examples
    --------
    >>> import tempfile
    >>> network, images = nn.Conv2d(3, 2, 3), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = extract(network, images, "", file=Path(folder) / "features")
    ...     torch.equal(load_mapped(Path(folder) / "features", written.shape), written)
    True
    """
    file = Path(file).expanduser()
    expected = 4 * math.prod(shape)
    if not file.is_file() or file.stat().st_size != expected:
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

    Parameters
    ----------
    feature : torch.Tensor
        Shape (N, C, H, W).
    size : (int, int)
        Height and width.

    Raises
    ------
    InputError
        If one of the two is a line of tokens (width 1, height above 1): places in it are no rows
        of an image.

    Examples
    --------
    >>> resample(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]), (1, 1))
    tensor([[[[3.]]]])
    """
    height, width = feature.shape[2:]
    lines = [side for side, across in ((height, width), size) if across == 1 and side > 1]
    if lines and (height, width) != tuple(size) and 1 not in (height * width, math.prod(size)):
        raise InputError(
            f"maps are {height} x {width} and {size[0]} x {size[1]}: one is a line of {lines[0]} "
            "tokens, whose places are no rows of an image, and cannot be resampled. Read tokens of "
            "patches as maps: features.extract(..., grid=(rows, columns))."
        )
    smaller = (min(height, size[0]), min(width, size[1]))
    if smaller != (height, width):
        feature = F.adaptive_avg_pool2d(feature, smaller)
    if smaller != tuple(size):
        feature = F.interpolate(feature, size=size, mode="bilinear", align_corners=False)
    return feature


def _by_tap(what: str, given, names: list[str]) -> dict:
    """Return a setting by tap: given for all, or for some of them."""
    if not isinstance(given, Mapping):
        return {} if given is None else dict.fromkeys(names, given)
    if set(given) - set(names):
        raise InputError(
            f"{what} is given for {', '.join(map(repr, set(given) - set(names)))}; allowed: the "
            f"taps {', '.join(map(repr, names))}."
        )
    return dict(given)


class _InMemory:
    """Features of a tap, filled as the batches come: half the memory of joining them."""

    def __init__(self, count: int | None):
        self.count, self.done = count, 0
        self.parts: list[torch.Tensor] = []  # all of them in one, where it is known how many

    def add(self, part: torch.Tensor) -> None:
        if self.count is None:
            self.parts.append(part)
            return
        if not self.parts:
            self.parts = [torch.empty((self.count, *part.shape[1:]))]
        self.parts[0][self.done : self.done + len(part)] = part[: self.count - self.done]
        self.done += len(part)

    def whole(self) -> torch.Tensor:
        return torch.cat(self.parts) if self.count is None else self.parts[0]


class _Mapped:
    """Features of a tap, written to a file."""

    def __init__(self, file: Path, opened):
        self.file, self.opened, self.count = file, opened, 0

    def add(self, part: torch.Tensor) -> None:
        self.opened.write(part.contiguous().numpy())
        self.count, self.one = self.count + len(part), part.shape[1:]

    def whole(self) -> torch.Tensor:
        channels, height, width = self.one
        return load_mapped(self.file, (self.count, channels, height, width))
