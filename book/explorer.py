"""What the page *Explore* shows: recorded maps of one feature, order by order, as one script.

A page that is opened from a file may load a script but not read data, so the maps stand in a script
that sets one variable. Numbers are 16-bit, relative to the largest value that a filter has.
"""

import base64
import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from kclib.book import environment

#: Of 16-bit whole numbers, which values are stored as, the largest.
LARGEST = 32_000
#: The arrays of Fig. 1's record, by way of fitting.
WAYS = {"lowest first": "lowest first, per image", "joint, per image": "joint, per image"}
TITLES = {
    "twins": "VGG-16 → VGG-16 that started from other weights",
    "blind spots": "AlexNet (weak) → ResNet-34 (strong): blind spots",
    "unreliable features": "ResNet-34 (strong) → AlexNet (weak): unreliable features",
}


class Panel(NamedTuple):
    """One pair of networks in one direction.

    Attributes
    ----------
    key, title : str
        A word for the page's address, and what a reader sees.
    source : str
        The data set of the images.
    pictures : list of numpy.ndarray or None
        uint8 (S, S, 3), or None where the image is not recorded.
    filters : list of str
    target : numpy.ndarray
        x*, shape (images, filters, H, W).
    parts : dict of str to numpy.ndarray
        x(0), x(1), ... by way of fitting, shape (orders, images, filters, H, W).
    """

    key: str
    title: str
    source: str
    pictures: list
    filters: list[str]
    target: np.ndarray
    parts: dict[str, np.ndarray]


def of_atlas(file: Path) -> list[Panel]:
    """Return the panels that ``book/atlas.py`` recorded."""
    with np.load(file) as had:
        facts = json.loads(str(had["facts"]))
        pictures = list(had["images"].transpose(0, 2, 3, 1))  # (N, S, S, 3)
        found = []
        for number, one in enumerate(facts["directions"]):
            scale = np.array(one["scale"])[:, None, None]
            maps = {
                name.split(", ", 1)[1]: had[name] * scale
                for name in had
                if name.startswith(f"{number}, ")
            }
            target = maps.pop("target")
            key = one["title"].replace(" ", "-")
            filters = [f"filter {k}" for k in one["filters"]]
            title = f"Creatures ({facts['profile']}): {TITLES[one['title']]}"
            found.append(Panel(key, title, "Creatures", pictures, filters, target, maps))
    return found


def of_figure(file: Path, profile: str) -> Panel:
    """Return the panel of one filter that Fig. 1 recorded."""
    with np.load(file) as had:
        names = {way: start for way, start in WAYS.items() if f"{start}, x(0)" in had}
        target = had["joint, per image, target x*"][:, None]
        parts = {
            way: np.stack([had[n] for n in sorted(had) if n.startswith(f"{start}, x(")])[:, :, None]
            for way, start in names.items()
        }
        pictures = [None] * len(target)
        if "images" in had:
            pictures = list(had["images"].transpose(0, 2, 3, 1))
    source = "Creatures" if profile == "quick" else "CUB-200-2011"
    title = f"{source} ({profile}): {TITLES['twins']}"
    filters = ["the filter that varies most"]
    return Panel(f"figure-{profile}", title, source, pictures, filters, target, parts)


def panels(recorded: Path = environment.RECORDED) -> list[Panel]:
    """Return all that is recorded: photographs first, then drawn animals."""
    figures = {
        p: recorded / p / "fig1_fuzziness_levels.npz" for p in ("plain64", "real64", "quick")
    }
    atlas = recorded / "quick" / "atlas.npz"
    if atlas.exists():  # it has the figure's maps, and more
        del figures["quick"]
    found = [of_figure(file, profile) for profile, file in figures.items() if file.exists()]
    return found + (of_atlas(atlas) if atlas.exists() else [])


def png(picture: np.ndarray) -> str:
    """Return a picture, uint8 (H, W, 3), as the address of a PNG that holds it.

    Examples
    --------
    >>> png(np.zeros((2, 2, 3), np.uint8))[:22]
    'data:image/png;base64,'
    """
    stream = io.BytesIO()
    # Uncompressed: the same bytes whatever the version of zlib.
    Image.fromarray(picture).save(stream, "PNG", compress_level=0)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _numbers(maps: np.ndarray, scale: np.ndarray) -> str:
    whole = np.round(maps / scale[:, None, None]).astype("<i2")
    return base64.b64encode(whole.tobytes()).decode()


def script(found: list[Panel]) -> str:
    """Return the script that holds the panels."""
    pictures, shown = [], []
    for panel in found:
        scale = np.abs(np.concatenate([panel.target[None], *panel.parts.values()]))
        scale = scale.max((0, 1, 3, 4)) / LARGEST  # (filters,)
        places = []
        for picture in panel.pictures:
            address = None if picture is None else png(picture)
            if address is not None and address not in pictures:
                pictures.append(address)
            places.append(-1 if address is None else pictures.index(address))
        shown.append(
            {
                "key": panel.key,
                "title": panel.title,
                "pictures": places,
                "filters": panel.filters,
                "size": panel.target.shape[2:],
                "scale": [float(f"{one:.6g}") for one in scale],
                "target": _numbers(panel.target, scale),
                "ways": {
                    way: [_numbers(part, scale) for part in parts]
                    for way, parts in panel.parts.items()
                },
            }
        )
    return f"const RECORDED = {json.dumps({'pictures': pictures, 'panels': shown})};\n"
