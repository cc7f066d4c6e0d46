"""Record the maps that the page *Explore* shows: ``python book/atlas.py PROFILE``.

Of two pairs of networks in both directions, several images and filters: the target and its parts of
every order, by both ways of fitting. What is left is the target less its parts, so that it is not
stored. Networks and fits are those of Figs. 1 and 3, from the store if they are there.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from kclib import measures
from kclib.atomic import whole_file
from kclib.book import environment
from kclib.book.study import Study
from kclib.errors import InputError

IMAGES, FILTERS = 8, 6
#: Of 16-bit whole numbers, which values are stored as, the largest.
LARGEST = 32_000


class Direction(NamedTuple):
    """From which network to which: the title, their names in words, and the parts' arrays.

    ``parts`` has for each way of fitting an array of x(0), x(1), ..., shape (orders, images,
    filters, H, W), and ``target`` the target's own maps (images, filters, H, W).
    """

    title: str
    filters: list[int]
    target: np.ndarray
    parts: dict[str, np.ndarray]


def chosen_images(study: Study, network: str) -> torch.Tensor:
    """Return which test images are shown: birds and dogs in turn, the first ones."""
    images = study.images("test", network)
    groups = [images.group(name).tolist() for name in images.coarse_names]
    return torch.tensor([k for both in zip(*groups, strict=False) for k in both][:IMAGES])


def direction(study: Study, title: str, a, b, taps, chosen) -> Direction:
    """Compute the maps of the filters of B that vary most."""
    x, target = (study.features(member, taps[member], "test") for member in (a, b))
    filters = target.var((0, 2, 3)).argsort(descending=True)[:FILTERS]
    shown = target[chosen][:, filters]  # (images, filters, H, W)
    parts = {}
    for way, options in study.ways("lowest first", "joint, per image").items():
        g = study.compare(a, b, taps[a], taps[b], **options).disentangler
        split = measures.split(g, x[chosen], target[chosen])
        orders = [part[:, filters] for name, part in split.items() if name.startswith("x(")]
        parts[way] = torch.stack(orders).numpy()
    return Direction(title, filters.tolist(), shown.numpy(), parts)


def directions(profile: str) -> tuple[np.ndarray, list[Direction]]:
    """Return the images, uint8 (N, 3, S, S), and what every direction shows of them."""
    study = Study("fig1_fuzziness_levels", profile=profile)
    [(_, (a, b))] = study.pairs()
    chosen = chosen_images(study, a.name)
    [tap] = study.needs.networks[a.name]
    found = [direction(study, "twins", a, b, {a: tap, b: tap}, chosen)]
    study = Study("fig3_blind_spots", profile=profile)
    weak, strong = study.members()
    taps = {member: study.needs.networks[member.name][0] for member in (weak, strong)}
    found.append(direction(study, "blind spots", weak, strong, taps, chosen))
    found.append(direction(study, "unreliable features", strong, weak, taps, chosen))
    return study.images("test", weak.name).images[chosen].numpy(), found


def record(profile: str) -> Path:
    """Compute the maps and write them to ``results/<profile>/atlas.npz``."""
    images, found = directions(profile)
    arrays, facts = {"images": images}, {"profile": profile, "directions": []}
    for number, one in enumerate(found):
        # One scale for a filter: its maps are shown side by side.
        whole = np.abs(np.concatenate([one.target[None], *one.parts.values()]))
        scale = whole.max((0, 1, 3, 4)) / LARGEST  # (filters,)
        for name, maps in {"target": one.target, **one.parts}.items():
            arrays[f"{number}, {name}"] = np.round(maps / scale[:, None, None]).astype(np.int16)
        facts["directions"].append(
            {"title": one.title, "filters": one.filters, "scale": scale.tolist()}
        )
    file = environment.RECORDED / profile / "atlas.npz"
    arrays["facts"] = np.array(json.dumps(facts))
    with whole_file(file) as stream:
        np.savez_compressed(stream, **arrays)
    return file


def main() -> int:
    """Record, and say where."""
    try:
        print(record(*sys.argv[1:] or ["quick"]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
