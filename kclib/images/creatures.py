"""Creatures: a synthetic data set of birds and dogs, drawn here, with a mask for every part.

Every animal is a list of *tapered capsules*: a segment from a to b whose radius goes linearly from
r_a to r_b. A capsule with a = b is a disc (eye), one with r_b = 0 a cone (beak, pointed ear), one
with r_a < r_b a fan (tail). Clutter behind the animal and occluders in front of it are capsules
too, so one loop paints everything. An animal looks to the right, y is up, a torso is about 1 long.

A fine-grained class is a combination of attributes spread over the parts (`ATTRIBUTES`), so that
each part carries some of the evidence and none carries all of it. The class definitions follow
from a fixed seed; image i follows from (seed, split, i) alone, whatever the number of images.

The data set is this project's own, not the paper's: it stands in for its photographs where
nothing can be downloaded, and it has what they lack, exact knowledge of where each part is.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from numbers import Integral, Real

import numpy as np
import torch

from ..errors import InputError, choose
from .datasets import ImageSet

COARSE_NAMES = ("bird", "dog")
PART_NAMES = ("torso", "head", "snout", "ears", "tail", "legs")
SPLITS = ("train", "test")
_CLASS_SEED = 20200

# Attribute -> its values, named for (bird, dog) where the shapes differ.
COLOURS = {
    "cream": (0.94, 0.88, 0.72), "grey": (0.62, 0.64, 0.66), "coal": (0.17, 0.17, 0.21),
    "brown": (0.46, 0.29, 0.16), "rust": (0.80, 0.38, 0.14), "gold": (0.95, 0.74, 0.20),
    "teal": (0.10, 0.55, 0.52), "blue": (0.25, 0.42, 0.80),
}  # fmt: skip
ATTRIBUTES = {
    "colour": (tuple(COLOURS),) * 2,
    "accent": (tuple(range(1, len(COLOURS))),) * 2,  # steps from `colour` around COLOURS
    "pattern": (("plain", "striped", "banded", "checked", "spotted"),) * 2,
    "pitch": (("wide", "medium", "narrow"),) * 2,
    "build": (("stout", "medium", "slender"),) * 2,
    "head": (tuple(COLOURS),) * 2,
    "snout": (("cone", "dagger", "hooked", "bill"), ("short", "long", "jowled", "tapered")),
    "ears": (("plume", "mohawk", "bun", "horned"), ("pricked", "floppy", "round", "bat")),
    "tail": (("fan", "long", "forked", "cocked"), ("curled", "whip", "pompom", "bushy")),
    "legs": (("short", "medium", "tall"),) * 2,
}

# Shapes by [coarse][style]: capsules (ax, ay, bx, by, r_a, r_b). Snout, ears and eye are relative
# to the centre of the head, the tail to its root. Of three ears the last is in front of the head.
_NONE = (0, 0, 0, 0, 0, 0)
_SNOUTS = (
    (
        ((0.17, 0.00, 0.44, -0.04, 0.11, 0.00), _NONE),
        ((0.17, 0.00, 0.72, -0.03, 0.07, 0.01), _NONE),
        ((0.17, 0.03, 0.38, 0.00, 0.13, 0.06), (0.38, 0.00, 0.37, -0.18, 0.06, 0.00)),
        ((0.17, -0.04, 0.32, -0.09, 0.07, 0.06), (0.32, -0.09, 0.50, -0.09, 0.05, 0.09)),
    ),
    (
        ((0.10, -0.06, 0.23, -0.07, 0.15, 0.12), (0.33, -0.01, 0.33, -0.01, 0.055, 0.055)),
        ((0.10, -0.05, 0.48, -0.09, 0.14, 0.07), (0.53, -0.05, 0.53, -0.05, 0.055, 0.055)),
        ((0.10, -0.06, 0.30, -0.15, 0.15, 0.17), (0.42, -0.03, 0.42, -0.03, 0.065, 0.065)),
        ((0.08, -0.04, 0.40, 0.00, 0.17, 0.04), (0.43, 0.03, 0.43, 0.03, 0.05, 0.05)),
    ),
)
_EARS = (
    (
        ((-0.05, 0.18, -0.38, 0.34, 0.06, 0.02), (-0.10, 0.13, -0.44, 0.18, 0.06, 0.02), _NONE),
        ((-0.11, 0.15, -0.22, 0.38, 0.06, 0.01), (0.00, 0.18, -0.04, 0.46, 0.06, 0.01),
         (0.09, 0.18, 0.12, 0.40, 0.06, 0.01)),
        ((-0.08, 0.20, -0.08, 0.21, 0.15, 0.15), (-0.12, 0.32, -0.12, 0.33, 0.09, 0.09), _NONE),
        ((0.02, 0.12, 0.12, 0.46, 0.09, 0.00), _NONE, (-0.12, 0.10, -0.18, 0.43, 0.09, 0.00)),
    ),
    (
        ((0.02, 0.12, 0.10, 0.44, 0.11, 0.00), _NONE, (-0.12, 0.10, -0.12, 0.43, 0.11, 0.00)),
        (_NONE, _NONE, (-0.12, 0.14, -0.19, -0.24, 0.07, 0.11)),
        ((0.10, 0.20, 0.10, 0.21, 0.11, 0.11), _NONE, (-0.13, 0.20, -0.13, 0.21, 0.13, 0.13)),
        ((0.05, 0.16, 0.22, 0.46, 0.06, 0.09), _NONE, (-0.11, 0.12, -0.32, 0.44, 0.06, 0.12)),
    ),
)  # fmt: skip
_TAILS = (
    (
        ((0, 0, -0.44, 0.20, 0.05, 0.10), (0, 0, -0.50, 0.00, 0.05, 0.10),
         (0, 0, -0.44, -0.20, 0.05, 0.10)),
        ((0.05, 0, -0.80, -0.12, 0.10, 0.04), _NONE, _NONE),
        ((0, 0, -0.60, 0.16, 0.09, 0.00), (0, 0, -0.60, -0.18, 0.09, 0.00), _NONE),
        ((0, 0, -0.20, 0.46, 0.08, 0.10), (0, 0, -0.32, 0.38, 0.06, 0.07), _NONE),
    ),
    (
        ((0.05, 0, -0.16, 0.20, 0.07, 0.07), (-0.16, 0.20, -0.06, 0.42, 0.07, 0.07),
         (-0.06, 0.42, 0.12, 0.34, 0.07, 0.06)),
        ((0.05, 0, -0.30, -0.14, 0.06, 0.045), (-0.30, -0.14, -0.62, -0.04, 0.045, 0.02), _NONE),
        ((0.05, 0, -0.22, 0.32, 0.045, 0.045), (-0.24, 0.38, -0.25, 0.39, 0.14, 0.14), _NONE),
        ((0.05, 0, -0.24, 0.10, 0.06, 0.15), (-0.24, 0.10, -0.52, 0.34, 0.15, 0.03), _NONE),
    ),
)  # fmt: skip

# What is painted, back to front: (part, name of its colour); the torso's texture right after it.
_LAYERS = (
    *(("tail", "tail"),) * 3, *(("legs", "far_legs"),) * 2, ("torso", "base"), ("torso", "accent"),
    ("torso", "wing"), *(("legs", "legs"),) * 2, *(("ears", "ears"),) * 2, *(("head", "head"),) * 2,
    ("snout", "snout"), ("snout", "tip"), ("head", "white"), ("head", "coal"), ("ears", "ears"),
)  # fmt: skip
_TORSO = _LAYERS.index(("torso", "base"))
_CLUTTER, _OCCLUDERS = 6, 4
# Numbers of the layers: 0 is the ground, then clutter, the animal, occluders.
_ANIMAL = 1 + _CLUTTER
_FRONT = _ANIMAL + len(_LAYERS)
_DEPTH = _FRONT + _OCCLUDERS
_OUTLINE = 0.03  # width, in halves of the image's side
# Pattern: weights of cosines along the torso, across it and of their product; threshold.
_PATTERNS = ((0, 0, 0, 1), (1, 0, 0, 0.1), (0, 1, 0, 0.1), (0, 0, 1, 0), (1, 1, 0, 0.6))
_WAVELENGTHS = (1.6, 1.1, 0.75)  # of the pitches, in radii of the chest


@dataclass(frozen=True)
class Difficulty:
    """How much the images of one class differ, each way from 0 (not at all) to 1 (most).

    The defaults are set so that networks trained on two to three thousand images of 24 classes at
    48 px over-fit as the paper's do: near 100 % on these images, 40 to 75 % on others.

    Attributes
    ----------
    pose : float
        Rotation (up to 40 degrees), facing left, foreshortening, angles of neck, tail and legs.
    scale : float
        Size (0.5 to 1.1 times the usual) and place (off centre by up to 1/8 of the side).
    light : float
        Brightness (up to 40 %), colour cast (25 %) and a gradient across the image (50 %).
    clutter : float
        Contrast of the smooth background, and chance of each of 6 shapes behind the animal.
    occlusion : float
        Chance of each of 4 branches and patches in front of the animal.
    noise : float
        Uniform noise of each pixel and channel, up to 40 % of the range of values.
    attribute_jitter : float
        Chance (times 0.6) of each part to be that of another class of the same coarse class, and
        deviation of sizes (up to 25 %) and colours (15 %) from the class's own.

    Raises
    ------
    InputError
        If a field is not a number from 0 to 1.

    Examples
    --------
    >>> Difficulty(noise=0).noise
    0
    >>> Difficulty(noise=20)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    kclib.errors.InputError: Difficulty: noise: got 20; allowed: a number from 0 to 1; ...
    """

    pose: float = 0.5
    scale: float = 0.5
    light: float = 0.5
    clutter: float = 0.5
    occlusion: float = 0.5
    noise: float = 0.2
    attribute_jitter: float = 0.5

    def __post_init__(self):
        for name, value in asdict(self).items():
            if not isinstance(value, Real) or not 0 <= value <= 1:
                raise InputError(
                    f"Difficulty: {name}: got {value!r}; allowed: a number from 0 to 1; "
                    "use 0 for none of it and 1 for the most."
                )


DEFAULT = Difficulty()


def render(
    count: int,
    *,
    classes: int = 24,
    size: int = 48,
    seed: int = 0,
    split: str = "train",
    difficulty: Difficulty = DEFAULT,
    hide: Collection[str] = (),
) -> ImageSet:
    """Draw `count` images of animals, with labels and part masks.

    Image i depends on `seed`, `split` and i, and on the options below, not on `count`. Images are
    drawn at twice the size and averaged. Each class occurs equally often, up to one image.

    Parameters
    ----------
    count : int
        Number of images, 1 to 1,000,000. One core draws several hundred a
        second at 48 px, a few dozen at 224 px.
    classes : int
        Number of fine-grained classes, even, 2 to 64; the first half are birds. Birds, and dogs,
        keep their looks when there are more classes.
    size : int
        Side of an image in pixels, 16 to 224.
    seed : int
        Seed of the images, 0 or more. The classes do not depend on it.
    split : {"train", "test"}
        Independent streams of images.
    difficulty : Difficulty
        How much the images of one class differ.
    hide : collection of str
        Parts (of `PART_NAMES`) that are painted over with what is behind the animal, so that a
        network never sees them. Their masks still say where they would be visible.

    Returns
    -------
    ImageSet
        With coarse labels (0 bird, 1 dog), and with masks (N, 6, S, S) of the visible pixels of
        each part: at least half of the pixel belongs to the part, and no occluder covers it.

    Raises
    ------
    InputError
        If an argument is outside its range, or there is no such split or part.

    Examples
    --------
    >>> animals = render(4, classes=2, size=32)
    >>> animals.images.shape, animals.part_masks.shape
    (torch.Size([4, 3, 32, 32]), torch.Size([4, 6, 32, 32]))
    >>> sorted(animals.coarse_names[label] for label in animals.coarse)
    ['bird', 'bird', 'dog', 'dog']
    """
    count, classes = _whole("count", count, 1, 1_000_000), _whole("classes", classes, 2, 64)
    size, seed = _whole("size", size, 16, 224), _whole("seed", seed, 0, 2**63 - 1)
    if classes % 2:
        raise InputError(
            f"classes: got {classes}; allowed: an even number, half birds and half dogs; "
            f"use {classes - 1} or {classes + 1}."
        )
    choose("split", split, SPLITS)
    if not isinstance(difficulty, Difficulty):
        raise InputError(
            f"difficulty: got {difficulty!r}; allowed: a Difficulty; "
            "make one, e.g. Difficulty(noise=0)."
        )
    hide = sorted({choose("part", part, PART_NAMES) for part in hide})

    key = [seed, split]
    described = ["creatures", *key, count, classes, size, hide]
    described += [[name, float(value)] for name, value in asdict(difficulty).items()]
    labels = _balanced([*key, "labels"], classes, count)
    coarse = labels // (classes // 2)
    looks = _looks(classes)
    images = np.empty((count, 3, size, size), np.uint8)
    masks = np.empty((count, len(PART_NAMES), size, size), bool)
    step = max(1, 2**15 // size**2)  # few enough to stay in the processor's cache
    for first in range(0, count, step):
        block = slice(first, min(first + step, count))
        draws = _Draws([*key, "images"], np.arange(block.start, block.stop))
        images[block], masks[block] = _block(
            labels[block], coarse[block], looks, size, draws, difficulty, hide
        )
    return ImageSet(
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        class_names=_names(looks),
        digest=hashlib.sha256(json.dumps(described).encode()).hexdigest(),
        coarse=torch.from_numpy(coarse),
        coarse_names=COARSE_NAMES,
        part_names=PART_NAMES,
        part_masks=torch.from_numpy(masks),
    )


def _whole(name, value, low, high):
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value <= high:
        raise InputError(
            f"{name}: got {value!r}; allowed: {low} to {high}; give a whole number in this range."
        )
    return int(value)


class _Draws:
    """Uniform draws for many counters at once; each depends on (key, counter, turn) alone.

    A counter-based generator: SplitMix64's finaliser (Steele, Lea & Flood 2014) as a hash.
    """

    def __init__(self, key, counters):
        digest = hashlib.sha256(json.dumps(key).encode()).digest()
        start = np.uint64(int.from_bytes(digest[:8], "little"))
        self._origin = self._hash(counters.astype(np.uint64) + start)  # (N,)
        self._turn = 0

    @staticmethod
    def _hash(z):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    def __call__(self, *shape, low=0.0, high=1.0):
        """Return float64 (N, *shape), uniform in [low, high)."""
        size = int(np.prod(shape))
        turns = np.arange(self._turn, self._turn + size, dtype=np.uint64)
        self._turn += size
        bits = self._hash(self._origin[:, None] + turns * np.uint64(0x9E3779B97F4A7C15))
        fraction = (bits >> np.uint64(11)) * 2.0**-53
        return (low + (high - low) * fraction).reshape(-1, *shape)


def _balanced(key, values, count):
    """Return int64 (count,), 0 ... values - 1 again and again, each time in another order."""
    repeats = np.arange(-(-count // values))
    return _Draws(key, repeats)(values).argsort(axis=1).reshape(-1)[:count]


def _looks(classes):
    """Return {attribute: int64 (classes,)}, indices of the attribute's values for each class.

    All values of an attribute are used equally often within a coarse class.
    """
    looks = {}
    for name, values in ATTRIBUTES.items():
        keys = [[_CLASS_SEED, coarse, name] for coarse in range(len(COARSE_NAMES))]
        halves = [_balanced(key, len(values[0]), classes // 2) for key in keys]
        looks[name] = np.concatenate(halves)
    return looks


def _names(looks):
    """Return the names of the classes: a number and what a reader can see."""
    names, colours, half = [], tuple(COLOURS), len(looks["tail"]) // 2
    for label in range(2 * half):
        coarse, number = divmod(label, half)
        look = {name: ATTRIBUTES[name][coarse][looks[name][label]] for name in looks}
        accent = colours[(colours.index(look["colour"]) + look["accent"]) % len(colours)]
        pattern = look["pattern"] if look["pattern"] == "plain" else f"{accent} {look['pattern']}"
        names.append(
            f"{COARSE_NAMES[coarse]} {number + 1:02d}: {look['colour']}, {pattern}, "
            f"{look['head']} head, {look['snout']} {('beak', 'muzzle')[coarse]}, "
            f"{look['ears']} {('crest', 'ears')[coarse]}, {look['tail']} tail"
        )
    return tuple(names)


def _turned(capsules, angle):
    """Rotate the ends of capsules (N, K, 6) about the origin by `angle` (N,), in radians."""
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    ax, ay, bx, by, ra, rb = np.moveaxis(capsules, 2, 0)
    ends = (cos * ax - sin * ay, sin * ax + cos * ay, cos * bx - sin * by, sin * bx + cos * by)
    return np.stack((*ends, ra, rb), axis=2)


def _moved(capsules, x, y):
    """Shift capsules (N, K, 6) by x, y (N,)."""
    zero = np.zeros_like(x)
    return capsules + np.stack((x, y, x, y, zero, zero), axis=1)[:, None]


def _anatomy(coarse, look, draws, pose, scale, jitter):
    """Return the animals' capsules (N, len(_LAYERS), 6) in image coordinates [-1, 1], y down."""
    count = len(coarse)

    def pick(bird, dog):
        return np.where(coarse == 0, bird, dog)

    def angle(most):
        return np.deg2rad(most) * pose * draws(1, low=-1)[:, 0]

    def size():
        return 1 + 0.25 * jitter * draws(1, low=-1)[:, 0]

    def capsules(*rows):  # K rows of six numbers or arrays (N,), as (N, K, 6)
        return np.stack([np.stack([np.broadcast_to(v, count) for v in row], 1) for row in rows], 1)

    def shape(shapes, style):  # (N, K, 6)
        return np.array(shapes)[coarse, style] * size()[:, None, None]

    length = np.array((0.80, 1.0, 1.25))[look["build"]] * size()
    girth = length**-0.5 * size()
    chest_x, chest_y = pick(0.20, 0.42) * length, pick(0.04, 0.02)
    rump_x, rump_y = pick(-0.30, -0.40) * length, pick(-0.12, 0)
    chest_r, rump_r = pick(0.39, 0.32) * girth, pick(0.22, 0.27) * girth
    torso = capsules((rump_x, rump_y, chest_x, chest_y, rump_r, chest_r))
    wing_x = pick(-0.42 * length, rump_x)  # a dog's haunch in place of a bird's wing
    wing = capsules(
        (pick(-0.02 * length, rump_x), pick(0.10, -0.10), wing_x, pick(-0.03, -0.11),
         0.17 * girth, pick(0.04, 0.17) * girth)
    )  # fmt: skip
    tail = _turned(shape(_TAILS, look["tail"]), angle(35))
    tail = _moved(tail, rump_x - 0.8 * rump_r, rump_y + pick(0, 0.08))

    legs, hip_y, thick, thin = [], pick(-0.26, -0.16), pick(0.05, 0.10), pick(0.04, 0.075)
    leg = np.array((0.30, 0.42, 0.56))[look["legs"]] * size() + pick(0.12, 0.16)
    for far in (0.1, 0):
        swing, hind_swing = angle(30), angle(30)
        front_x, hind_x = pick(-0.06, chest_x - 0.04) + far, rump_x - 0.02 + far
        foot_x, foot_y = front_x + leg * np.sin(swing), hip_y - leg * np.cos(swing)
        paw_x, paw_y = hind_x + leg * np.sin(hind_swing), hip_y - leg * np.cos(hind_swing)
        legs.append((front_x, hip_y, foot_x, foot_y, thick, thin))
        legs.append(
            (pick(foot_x - 0.04, hind_x), pick(foot_y, hip_y),  # a bird's toes, a dog's hind leg
             pick(foot_x + 0.16, paw_x), pick(foot_y - 0.02, paw_y), thick, thin)
        )  # fmt: skip
    legs = capsules(*legs)

    lean, neck = np.deg2rad(pick(15, 32)) + angle(30), pick(0.46, 0.44) * size()
    base_x, base_y = chest_x + pick(0.06, 0.08), chest_y + 0.14
    head_x, head_y = base_x + neck * np.sin(lean), base_y + neck * np.cos(lean)
    neck = capsules((base_x, base_y, head_x, head_y, pick(0.19, 0.17), 0.15))
    skull = capsules((0, 0, 0, 0, pick(0.25, 0.26), pick(0.25, 0.26)))
    eye = capsules((0.07, 0.06, 0.07, 0.06, 0.085, 0.085), (0.09, 0.06, 0.09, 0.06, 0.055, 0.055))
    snout, ears = shape(_SNOUTS, look["snout"]), shape(_EARS, look["ears"])
    head = np.concatenate((ears[:, :2], skull, snout, eye, ears[:, 2:]), axis=1)
    head = _moved(_turned(head, angle(20)), head_x, head_y)

    # In the order of _LAYERS; the accent is painted by _texture, its capsule is a placeholder.
    parts = (tail, legs[:, :2], torso, 0 * torso, wing, legs[:, 2:], head[:, :2], neck, head[:, 2:])
    animal = _moved(np.concatenate(parts, axis=1), pick(-0.05, -0.10), pick(-0.05, 0.05))
    animal[:, :, [0, 2]] *= 1 - 0.45 * pose * draws(1, 1)  # turned towards the viewer
    animal = _turned(animal, angle(40))
    animal[:, :, [0, 2]] *= np.where(draws(1, 1) < min(pose, 0.5), -1, 1)  # facing left
    animal[:, :, [1, 3]] *= -1  # y up to y down
    animal *= pick(0.90, 0.79)[:, None, None] * (1 + scale * draws(1, 1, low=-0.5, high=0.1))
    return _moved(animal, *scale * draws(2, low=-0.25, high=0.25).T)


def _colouring(coarse, look, draws, jitter):
    """Return float64 (N, len(_LAYERS), 3) in [0, 1], the colour of each layer."""
    bird, table = (coarse == 0)[:, None], np.array(tuple(COLOURS.values()))
    base, head, legs = table[look["colour"]], table[look["head"]], table[look["legs_colour"]]
    horn, coal, white = np.array((0.93, 0.55, 0.15)), COLOURS["coal"], np.array((0.97, 0.97, 0.95))
    colours = {
        "base": base,
        "accent": table[(look["colour"] + 1 + look["accent"]) % len(table)],
        "wing": np.where(bird, 0.75 * base, base),
        "tail": table[look["tail_colour"]],
        "legs": np.where(bird, horn, legs),
        "far_legs": np.where(bird, 0.75 * horn, 0.7 * legs),
        "ears": np.where(bird, table[look["crest_colour"]], 0.65 * head),
        "head": head,
        "snout": np.where(bird, horn, 0.5 * head + 0.5 * white),
        "tip": np.where(bird, 0.8 * horn, coal),
        "white": np.broadcast_to(white, head.shape),
        "coal": np.broadcast_to(coal, head.shape),
    }
    layers = np.stack([colours[name] for _, name in _LAYERS], axis=1)
    return np.clip(layers + 0.15 * jitter * draws(1, 3, low=-1), 0, 1)


def _scattered(draws, number, chance, reach, thickness):
    """Return capsules (N, number, 6) anywhere in the image, each present with this chance."""
    x, y, angle, half, radius, present = np.moveaxis(draws(number, 6), 2, 0)
    x, y, angle, half = 2 * x - 1, 2 * y - 1, 2 * np.pi * angle, reach * half
    dx, dy = half * np.cos(angle), half * np.sin(angle)
    radius = thickness * (0.4 + radius) * (present < chance)  # radius 0: nothing is painted
    return np.stack((x - dx, y - dy, x + dx, y + dy, radius, radius), axis=2)


def _plane(along_x, along_y, offset, x, y):
    """Return float32 (N, H, W): along_x x + along_y y + offset, with coefficients (N,)."""
    row = along_x[:, None] * x  # (N, W)
    column = along_y[:, None] * y + offset[:, None]  # (N, H)
    return column.astype(np.float32)[:, :, None] + row.astype(np.float32)[:, None, :]


def _axes(capsules, grid):
    """Return u along and v across the axis of capsules (N, 6), (N, H, W), and its length (N,).

    The unit of u and v is the axis itself, so that u goes from 0 to 1 from a to b.
    """
    ax, ay, bx, by = capsules[:, :4].T
    dx, dy = bx - ax, by - ay
    dx = np.where(np.hypot(dx, dy) < 1e-3, 1e-3, dx)  # a disc is a very short capsule
    square = dx**2 + dy**2
    u = _plane(dx / square, dy / square, -(ax * dx + ay * dy) / square, grid, grid)
    v = _plane(-dy / square, dx / square, (ax * dy - ay * dx) / square, grid, grid)
    return u, v, np.sqrt(square)


def _paint(canvas, capsules, first, grid):
    """Paint capsules (N, K, 6), in order, as layers first ... first + K - 1 of canvas (N, H, W).

    The canvas holds 2 x layer at a capsule's outline and 2 x layer + 1 within it, so that what is
    in front is what is larger.
    """
    for k in range(capsules.shape[1]):
        u, v, length = _axes(capsules[:, k], grid)
        start, end = (capsules[:, k, 4:].T / length).astype(np.float32)[:, :, None, None]
        width = (_OUTLINE / length).astype(np.float32)[:, None, None]
        nearest = np.clip(u, 0, 1)
        u -= nearest
        u *= u
        v *= v
        u += v  # squared distance to the axis
        nearest *= end - start
        nearest += start  # radius there
        for value, radius in ((0, nearest), (1, np.maximum(nearest - width, 0.6 * nearest))):
            inside = (u < radius * radius).view(np.uint8)
            np.maximum(canvas, inside * np.uint8(2 * (first + k) + value), out=canvas)


def _texture(canvas, torso, look, grid):
    """Paint the accent on the torso where the class's pattern says so."""
    u, v, length = _axes(torso, grid)
    waves = 2 * np.pi * length / (np.array(_WAVELENGTHS)[look["pitch"]] * torso[:, 5])
    waves = waves.astype(np.float32)[:, None, None]
    weights = np.array(_PATTERNS, np.float32)[look["pattern"]].T
    along, across, both, threshold = weights[:, :, None, None]
    a, b = np.cos(u * waves), np.cos(v * waves)
    pattern = along * a + across * b + both * a * b > threshold
    pattern &= canvas == 2 * (_ANIMAL + _TORSO) + 1
    np.maximum(canvas, pattern * np.uint8(2 * (_ANIMAL + _TORSO + 1) + 1), out=canvas)


def _belongs(parts):
    """Return uint8 (2 _DEPTH,): 1 for the values of a canvas that are one of these parts."""
    belongs = np.zeros((_DEPTH, 2), np.uint8)
    belongs[_ANIMAL:_FRONT] = [[part in parts] for part, _ in _LAYERS]
    return belongs.reshape(-1)


def _pooled(fine):
    """Sum the four sub-pixels of each pixel: (..., 2 S, 2 S) to (..., S, S)."""
    rows = fine[..., 0::2, :] + fine[..., 1::2, :]
    return rows[..., 0::2] + rows[..., 1::2]


def _smooth(noise, size):
    """Enlarge (..., cells, cells) to (..., size, size) by cosine interpolation."""
    cells = noise.shape[-1]
    distance = np.abs(np.linspace(0, cells - 1, size)[:, None] - np.arange(cells))
    weights = 0.5 + 0.5 * np.cos(np.pi * np.minimum(distance, 1))  # (size, cells)
    return weights @ noise @ weights.T


def _block(labels, coarse, looks, size, draws, difficulty, hide):
    """Return images uint8 (N, 3, S, S) and masks bool (N, P, S, S)."""
    count, half, jitter = len(labels), len(looks["tail"]) // 2, difficulty.attribute_jitter

    # The class that each part is taken from: the label, or another of the same coarse class.
    swap, other = draws(len(PART_NAMES)), draws(len(PART_NAMES))
    other = coarse[:, None] * half + (half * other).astype(np.int64)
    donors = np.where(swap < 0.6 * jitter, other, labels[:, None])  # (N, P)
    donor = dict(zip(PART_NAMES, donors.T, strict=True))
    # An attribute named like a part is that part's, the others are the torso's.
    look = {name: of_class[donor.get(name, donor["torso"])] for name, of_class in looks.items()}
    look |= {f"{part}_colour": looks["colour"][donor[part]] for part in ("tail", "legs")}
    crest = looks["colour"] + 1 + looks["accent"]
    look["crest_colour"] = crest[donor["ears"]] % len(COLOURS)

    grid = (np.arange(2 * size) + 0.5) / size - 1
    canvas = np.zeros((count, 2 * size, 2 * size), np.uint8)
    animal = _anatomy(coarse, look, draws, difficulty.pose, difficulty.scale, jitter)
    _paint(canvas, _scattered(draws, _CLUTTER, difficulty.clutter, 0.5, 0.2), 1, grid)
    behind = canvas.copy()
    _paint(canvas, animal[:, : _TORSO + 1], _ANIMAL, grid)
    _texture(canvas, animal[:, _TORSO], look, grid)
    _paint(canvas, animal[:, _TORSO + 2 :], _ANIMAL + _TORSO + 2, grid)
    occluders = _scattered(draws, _OCCLUDERS, difficulty.occlusion, 0.9, 0.11)
    _paint(canvas, occluders, _FRONT, grid)
    masks = np.stack([_pooled(_belongs((part,))[canvas]) >= 2 for part in PART_NAMES], axis=1)
    if hide:
        canvas = np.where(_belongs(hide)[canvas], behind, canvas)

    colours = np.zeros((count, _DEPTH, 3))
    colours[:, 1:_ANIMAL] = draws(_CLUTTER, 3, low=0.15, high=0.85)
    colours[:, _ANIMAL:_FRONT] = _colouring(coarse, look, draws, jitter)
    colours[:, _FRONT:] = draws(_OCCLUDERS, 3, low=0.1, high=0.6)
    palette = np.stack((0.55 * colours, colours), axis=2)  # (N, _DEPTH, 2, 3): outline, within
    palette = palette.astype(np.float32).reshape(-1, 3)  # (N x 2 _DEPTH, 3)
    entry = canvas + 2 * _DEPTH * np.arange(count)[:, None, None]
    image = np.stack([_pooled(channel[entry]) for channel in palette.T.copy()], axis=1)

    ground = draws(3, low=0.4, high=0.8)[:, :, None, None]
    for cells, contrast in ((3, 0.3), (8, 0.2)):
        noise = 0.7 * draws(1, cells, cells, low=-1) + 0.5 * draws(3, cells, cells, low=-1)
        ground = ground + difficulty.clutter * contrast * _smooth(noise, size)
    image += _pooled((canvas == 0).view(np.uint8))[:, None] * ground.astype(np.float32)

    light, centres = difficulty.light, grid.reshape(size, 2).mean(axis=1)
    gain = (1 + 0.4 * light * draws(1, low=-1)) * (1 + 0.25 * light * draws(3, low=-1))
    slope, angle = 0.5 * light * draws(1)[:, 0], 2 * np.pi * draws(1)[:, 0]
    slopes = slope * np.cos(angle), slope * np.sin(angle)
    image *= _plane(*slopes, np.ones(count), centres, centres)[:, None]
    image *= 255 / 4 * gain.astype(np.float32)[:, :, None, None]  # a pixel sums 4 sub-pixels
    image += 255 * 0.4 * difficulty.noise * draws(3, size, size, low=-1)
    return np.rint(image).clip(0, 255).astype(np.uint8), masks
