"""Plans: what the store is to hold, how it is named there, and what it is made from.

Planning is pure: nothing is read, trained or fitted. The Snakefile plans the networks of a profile,
the study what a notebook asks for, and `kclib.book.making` makes what was planned.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

from ..errors import InputError
from . import code, sources
from .members import Member
from .profiles import Profile
from .store import content_key

#: All functions of `kclib.book.making` that make entries.
MAKERS = ("trained", "pruned", "born_again", "features", "fit", "tail", "consistent")


def code_of_makers() -> str:
    """Digest the code that makes entries: a result with another digest is of other code."""
    return content_key({name: code.digest("book.making", name) for name in MAKERS})


@dataclass(frozen=True, eq=False)
class Plan:
    """One entry of the store.

    Attributes
    ----------
    kind : str
        ``"images"``, ``"networks"``, ``"fits"`` or ``"tails"``: its folder in the store.
    settings : dict
        What it is made with, of JSON's types; the same dictionary names it and makes it.
    makers : tuple of str
        The functions of `kclib.book.making` that make it, the one that is called first.
    needs : dict of str to Plan
        What it is made from.
    title : str
        What it is called where a person waits for it; no part of its name.
    """

    kind: str
    settings: dict
    makers: tuple[str, ...] = ()
    needs: dict[str, "Plan"] = field(default_factory=dict)
    title: str = ""

    @cached_property
    def key(self) -> str:
        """The name of the entry in its folder, a digest of all that it depends on."""
        needs = {name: plan.key for name, plan in self.needs.items()}
        made_by = [code.digest("book.making", name) for name in self.makers]
        return content_key({"settings": self.settings, "needs": needs, "code": made_by})


def images(
    profile: Profile,
    network: str,
    split: str,
    hide: tuple[str, ...] = (),
    altered: tuple[str, ...] = (),
) -> Plan:
    """Plan the images of a split, as large as a network sees them.

    Parameters
    ----------
    profile : Profile
    network : str
        Its name in the profile.
    split : {"train", "test"}
    hide : tuple of str
        Parts of Creatures that are painted over.
    altered : tuple of str
        What is done to them then; see `kclib.images.alterations`.
    """
    data = profile.data_of(network)
    size = profile.networks[network].size
    settings = {
        "data": data.model_dump(),
        "split": split,
        "size": size,
        "hide": list(hide),
        "origin": sources.key(data, split, size, hide=hide),
    }
    if altered:
        settings["altered"] = list(altered)
        settings["altering"] = code.digest("images.alterations", "altered")
    # The origin's key names the code that draws or reads them.
    return Plan("images", settings, title=f"preparing {split} images")


def network(profile: Profile, member: Member) -> Plan:
    """Plan a network; a pruned or born-again one is made from its origin.

    After pruning it is trained for the profile's ``pruned_epochs``, at a tenth of the rate.
    """
    profile.data_of(member.name)  # refuses a name that is none
    described = profile.networks[member.name]
    recipe, maker = replace(described.training(), mixed=profile.mixed), "trained"
    needs = {
        "train": images(profile, member.name, "train", described.hidden_parts, described.altered),
        "test": images(profile, member.name, "test"),
    }
    settings = {
        "architecture": {
            name: getattr(described, name)
            for name in ("architecture", "width", "size", "stem_stride", "dropout")
        },
        "labels": described.labels,
        "part": member.subset,
        "seed": member.drawn,
    }
    if member.origin is not None:
        needs["origin"] = network(profile, member.origin)
        maker = "pruned" if member.pruned else "born_again"
    if member.pruned:
        rates = {"rate": recipe.rate / 10, "final_rate": recipe.final_rate / 10}
        recipe = replace(recipe, epochs=profile.pruned_epochs, **rates)
        settings["pruned"] = member.pruned
    settings["recipe"] = vars(recipe)
    return Plan("networks", settings, (maker,), needs, f"training {member}")


def fit(
    profile: Profile,
    a: Member,
    b: Member,
    tap: str,
    target_tap: str | None = None,
    *,
    group: str | None = None,
    hide: tuple[str, ...] = (),
    altered: tuple[str, ...] = (),
    **options,
) -> Plan:
    """Plan a disentangler from A's features to B's; parameters as for `Study.compare`.

    Raises
    ------
    InputError
        If the two networks belong to different images.
    """
    data = [profile.data_of(member.name) for member in (a, b)]
    if data[0] != data[1]:
        raise InputError(
            f"{a} is of {data[0].name} images and {b} of {data[1].name}; allowed: two networks of "
            "the same images."
        )
    effort = {"mixed": profile.mixed}
    if profile.fit_epochs is not None:
        effort["epochs"] = profile.fit_epochs
    needs = {"a": network(profile, a), "b": network(profile, b)}
    for split in sources.SPLITS:
        needs[f"a {split}"] = images(profile, a.name, split, hide, altered)
        needs[f"b {split}"] = images(profile, b.name, split)
    settings = {
        "taps": {"a": tap, "b": target_tap or tap},
        "group": group,
        "options": {"order": 2} | effort | options,
    }
    return Plan("fits", settings, ("fit", "features"), needs, f"fitting {a} to {b} at {tap}")


def tail(
    profile: Profile,
    b: Member,
    tap: str,
    *,
    fitted: Plan | None = None,
    upto: int | None = None,
    fresh: int | None = None,
    dropout: float | None = None,
    group: str | None = None,
    **tuning,
) -> Plan:
    """Plan B's layers above a tap, fine-tuned on features put in there.

    Parameters
    ----------
    profile : Profile
    b : Member
    tap : str
    fitted : Plan, optional
        Of a fit: x^(0) + ... + x^(upto) that it gives is put in; by default B's own features.
    upto : int, optional
        With `fitted`.
    fresh : int, optional
        Order of a new disentangler that is put before the tail and trained with it.
    dropout : float, optional
        Share of units that the tail's dropout layers drop meanwhile; by default as B was trained.
    group : str, optional
        A coarse label: only the images with it are used.
    tuning
        Of `kclib.training.refinement.fine_tune`: epochs, rate, seed.
    """
    if dropout is not None and not 0 <= dropout < 1:
        raise InputError(f"dropout is {dropout}; allowed: 0 to below 1.")
    needs = {"b": network(profile, b)}
    needs |= {f"b {split}": images(profile, b.name, split) for split in sources.SPLITS}
    if fitted is not None:
        highest = fitted.settings["options"]["order"]
        if upto not in range(highest + 1):
            raise InputError(f"upto is {upto}; allowed: 0 to {highest}, the order of the fit.")
        needs["fit"] = fitted
    settings = {
        "taps": {"b": tap},
        "upto": upto,
        "fresh": fresh,
        "dropout": dropout,
        "group": group,
        "labels": profile.networks[b.name].labels,
        "tuning": tuning | {"mixed": profile.mixed},
    }
    makers = ("tail", "features") if fitted is None else ("tail", "features", "consistent")
    return Plan("tails", settings, makers, needs, f"fine-tuning {b} above {tap}")
