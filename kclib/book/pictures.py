"""Maps that figures show, with the images that they answer to, as results hold them."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ..errors import InputError

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


def filter_shown(x: torch.Tensor, channel: int, tap: str) -> int:
    """Return the filter whose maps are shown: the one asked for, or the one that varies most.

    Parameters
    ----------
    x : torch.Tensor
        Features, shape (N, C, H, W).
    channel : int
        From 0; -1 chooses.
    tap : str
        Where they are, for the message.

    Raises
    ------
    InputError
        If there is no such filter, or it gives one value everywhere.

    Examples
    --------
    >>> x = torch.stack([torch.zeros(2, 4, 4), torch.arange(32.0).reshape(2, 4, 4)], dim=1)
    >>> filter_shown(x, -1, "conv5")
    1
    >>> filter_shown(x, 0, "conv5")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    kclib.errors.InputError: channel is 0; allowed are the filters 0 to 1 of conv5, except those ...
    """
    dead = (x.amax((0, 2, 3)) == x.amin((0, 2, 3))).nonzero().flatten().tolist()
    if channel >= x.shape[1] or channel in dead:
        raise InputError(
            f"channel is {channel}; allowed are the filters 0 to {x.shape[1] - 1} of {tap}, except "
            f"those that give one value everywhere ({', '.join(map(str, dead)) or 'none'}); -1 "
            "chooses the one that varies most."
        )
    return channel if channel >= 0 else int(x.var((0, 2, 3)).argmax())


def answering(*maps: torch.Tensor) -> torch.Tensor:
    """Return the images, as indices, in which each filter answers as in at least half of all.

    Parameters
    ----------
    maps : torch.Tensor
        Of each filter, shape (N, H, W); its answer is the spread over a map's positions.

    Examples
    --------
    >>> strong, weak = torch.randn(2, 2, 8, 8)
    >>> answering(torch.stack([strong[0], 0.1 * weak[0], 3 * strong[1]])).tolist()
    [0, 2]
    """
    spreads = torch.stack([one.std((1, 2)) for one in maps])
    return (spreads >= spreads.median(1, keepdim=True).values).all(0).nonzero().flatten()


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

    Raises
    ------
    InputError
        If the file is damaged.

    Examples
    --------
    >>> read(Path("no-such-file.npz"), "a run").maps
    {}
    """
    if not path.exists():
        return Pictures(origin, torch.empty(0), {})
    try:
        with np.load(path, allow_pickle=False) as stored:
            maps = {name: torch.from_numpy(stored[name]) for name in stored.files}
    except Exception as error:  # each layer of the format raises its own
        raise InputError(
            f"{path} is damaged ({error}). Get it back from git, or delete it and run its notebook "
            "again."
        ) from None
    return Pictures(origin, maps.pop("images", torch.empty(0)), maps)
