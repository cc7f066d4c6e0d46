"""Maps that figures show, with the images that they answer to, as results hold them."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

#: Of the images: how many a result holds at most, and the largest side in pixels. They may be
#: photographs that belong to others, of which a page shows a few small ones and no file has more.
MOST, SIDE = 6, 64


class Pictures(NamedTuple):
    """Recorded maps.

    Attributes
    ----------
    origin : str
        What they were recorded with, for a reader; empty if nothing is recorded.
    images : torch.Tensor
        uint8 (n, 3, S, S), n at most `MOST` and 0 where only maps were recorded.
    maps : dict of str to torch.Tensor
        float32 (N, H, W), N at least n.

    Examples
    --------
    >>> target, rest = torch.zeros(2, 1, 4, 4)
    >>> found = Pictures("a run", torch.empty(0), {"blind, x*": target, "unreliable, x*": rest})
    >>> list(found.of("blind"))
    ['x*']
    """

    origin: str
    images: torch.Tensor
    maps: dict[str, torch.Tensor]

    def of(self, group: str) -> dict[str, torch.Tensor]:
        """Return the maps of a group by their names within it."""
        start = f"{group}, "
        return {n.removeprefix(start): one for n, one in self.maps.items() if n.startswith(start)}


def held(images: torch.Tensor, maps: Mapping[str, Mapping[str, torch.Tensor]]) -> dict:
    """Return what a result holds of maps and of the images that they answer to.

    Parameters
    ----------
    images : torch.Tensor
        uint8 (N, 3, S, S); held are the first `MOST`, with sides of at most `SIDE` pixels.
    maps : mapping
        From group to name to maps, float32 (N, H, W).

    Returns
    -------
    dict of str to numpy.ndarray
        For `kclib.book.study.Study.record`.

    Examples
    --------
    >>> images = torch.zeros(8, 3, 112, 112, dtype=torch.uint8)
    >>> found = held(images, {"blind": {"x*": torch.zeros(8, 14, 14)}})
    >>> {name: one.shape for name, one in found.items()}
    {'images': (6, 3, 64, 64), 'blind, x*': (8, 14, 14)}
    """
    few = images[:MOST]
    if few.shape[-1] > SIDE:
        few = nn.functional.interpolate(few.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
        few = few.round().to(torch.uint8)
    named = {f"{group}, {n}": one for group, of in maps.items() for n, one in of.items()}
    return {name: one.numpy() for name, one in ({"images": few} | named).items()}


def read(path: Path, origin: str) -> Pictures:
    """Read what `held` gave for a result; without that file there are no maps.

    Examples
    --------
    >>> read(Path("no-such-file.npz"), "a run").maps
    {}
    """
    if not path.exists():
        return Pictures(origin, torch.empty(0), {})
    with np.load(path, allow_pickle=False) as stored:
        maps = {name: torch.from_numpy(stored[name]) for name in stored.files}
    return Pictures(origin, maps.pop("images", torch.empty(0)), maps)
