"""Which networks a study compares: their names, seeds, training images and origins."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import InputError, choose
from . import profiles

#: Subsets of the training images that a network may learn from; of "none", it is as initialised.
SUBSETS = ("all", "first-half", "second-half", "none")
_LARGEST_SEED, _LAST_GENERATION = 10**7, 100


@dataclass(frozen=True)
class Member:
    """One network of a study.

    Attributes
    ----------
    name : str
        The network's name in the profile.
    seed : int
        Of initialisation and training, 0 to ten millions.
    subset : str
        Of the training images, those that it learned from: one of `SUBSETS`.
    pruned : float
        Share of each layer's weights (0 to below 1) that was then pruned away.
    born : int
        Generation, 0 to 100: 0 learned from labels alone, each later one from the one before it
        too.
    """

    name: str
    seed: int
    subset: str = "all"
    pruned: float = 0.0
    born: int = 0

    def __post_init__(self):
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise InputError(f"seed is {self.seed}; allowed: 0 to {_LARGEST_SEED}.")
        if not 0 <= self.pruned < 1:
            raise InputError(f"pruned is {self.pruned}; allowed: 0 to below 1.")
        if not 0 <= self.born <= _LAST_GENERATION or (self.born and self.pruned):
            raise InputError(
                f"born is {self.born}; allowed: 0 to {_LAST_GENERATION}, and 0 if pruned."
            )

    def __str__(self) -> str:
        pruned = f"_pruned{self.pruned:g}" if self.pruned else ""
        born = f"_born{self.born}" if self.born else ""
        return f"{self.name}_{self.subset}_{self.seed}{pruned}{born}"

    @property
    def origin(self) -> "Member | None":
        """The network that this one is made from: what was pruned, or its teacher."""
        if self.pruned:
            return replace(self, pruned=0.0)
        return replace(self, born=self.born - 1) if self.born else None

    @property
    def origins(self) -> "list[Member]":
        """The origin, its origin, and so on."""
        return [] if self.origin is None else [self.origin, *self.origin.origins]

    @property
    def drawn(self) -> int:
        """The seed that weights and training order are drawn with: another one a generation."""
        return self.seed + 1000 * self.born

    @classmethod
    def parse(cls, text: str) -> "Member":
        """Read a member from the text that ``str`` gives.

        Raises
        ------
        InputError
            If the text has another form, or names a subset that does not exist.
        """
        found = re.fullmatch(
            r"(?P<name>.+)_(?P<subset>[^_]+)_(?P<seed>\d+)"
            r"(_pruned(?P<pruned>0\.\d+))?(_born(?P<born>\d+))?",
            text,
        )
        if found is None:
            raise InputError(
                f"{text!r} names no network; write NAME_SUBSET_SEED, e.g. vgg16_all_0, with one of "
                f"the subsets {', '.join(SUBSETS)}, and perhaps _pruned0.9 or _born2 after it."
            )
        subset = choose("subset of the training images", found["subset"], SUBSETS)
        pruned, born = float(found["pruned"] or 0), int(found["born"] or 0)
        return cls(found["name"], int(found["seed"]), subset, pruned, born)


def pair(name: str, condition: str, seed: int) -> tuple[Member, Member]:
    """Return the two networks that are compared.

    Parameters
    ----------
    name : str
        The network's name in the profile.
    condition : str
        ``"initialisations"``: the same training images, seeds ``seed`` and ``seed + 5`` (the
        authors' 0 and 5). ``"halves"``: one seed, disjoint halves of the training images.
    seed : int
    """
    choose("condition", condition, profiles.CONDITIONS)
    if condition == "initialisations":
        return Member(name, seed), Member(name, seed + 5)
    return Member(name, seed, "first-half"), Member(name, seed, "second-half")


def pairs(needs: profiles.Artefact, seed: int) -> list[tuple[str, tuple[Member, Member]]]:
    """Return the pairs of networks that an artefact compares, each with its condition.

    The first pairs of all conditions and networks come first, then the second pairs, and so on, as
    many as the profile asks for.
    """
    most = max([0, *needs.conditions.values(), *needs.pairs.values()])
    return [
        (condition, pair(name, condition, seed + number))
        for number in range(most)
        for condition, count in needs.conditions.items()
        for name in needs.networks
        if number < needs.pairs.get(name, count)
    ]


def members(
    needs: profiles.Artefact,
    seed: int,
    ratios: Sequence[float] | None = None,
    generations: int | None = None,
) -> list[Member]:
    """Return the networks that an artefact needs, most needed first.

    They are those of `pairs`, without conditions each network of the artefact as often as the
    profile repeats it; then those that the profile asks for once beside them. Of networks that are
    not in pairs, the first has the given seed, each next one 5 more, and each repeat 1 more. Pruned
    and born-again networks follow; of a pair, only network A is pruned and born again.

    Parameters
    ----------
    needs : kclib.book.profiles.Artefact
    seed : int
    ratios : sequence of float, optional
        Shares of weights that are pruned away; by default as the artefact needs.
    generations : int, optional
        Of born-again networks; by default as the artefact needs.
    """
    compared = pairs(needs, seed)
    paired = [member for _, both in compared for member in both]
    alone = [
        [
            Member(name, seed + number + 5 * k)
            for number in range(count)
            for k, name in enumerate(networks)
        ]
        for networks, count in ((needs.networks, needs.repeats), (needs.once, 1))
    ]
    first = list(dict.fromkeys((paired if needs.conditions else alone[0]) + alone[1]))
    origins = list(dict.fromkeys(a for _, (a, _) in compared)) or first
    born = range(1, (generations or needs.generations) + 1)
    return [
        *first,
        *(replace(member, pruned=ratio) for member in origins for ratio in ratios or needs.ratios),
        *(replace(member, born=number) for member in origins for number in born),
    ]
