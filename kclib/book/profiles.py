"""Profiles: which data, networks and efforts a run of the book uses."""

from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ..errors import InputError, choose
from ..images import alterations
from ..images.creatures import PART_NAMES
from ..networks import ARCHITECTURES
from ..training.classifier import RECIPES, Recipe
from . import environment

#: How the two networks of a pair differ (Table 1's two halves).
CONDITIONS = ("initialisations", "halves")
#: Creatures, published data sets, and mixtures of them, whose images are of all their classes.
DATA = ("creatures", "cub200", "cub200+dogs120", "cub200+dogs120+vocanimal")
#: Share of its training images (0 to 1) that a network of the paper's regime gets right at least.
FITTED = 0.99
#: Which labels a network learns: the fine-grained ones, or the coarse ones (bird or dog).
LABELS = ("fine", "coarse")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Strict):
    """The images of a profile."""

    name: Literal[DATA]
    classes: int = Field(default=24, ge=2, description="of Creatures")
    train: int = Field(default=0, ge=0, description="images; 0: all there are")
    test: int = Field(default=0, ge=0, description="images; 0: all there are")


class Network(_Strict):
    """One network: architecture, size and recipe; fields of the recipe may be changed by name."""

    data: Data | None = Field(default=None, description="its images, if not the profile's")
    labels: Literal[LABELS] = "fine"
    hidden_parts: tuple[Literal[PART_NAMES], ...] = Field(
        default=(), description="of Creatures, painted over in the images it is trained on"
    )
    altered: tuple[str, ...] = Field(
        default=(), description="what is done to the images it is trained on; see alterations"
    )
    architecture: Literal[ARCHITECTURES]
    width: float = Field(gt=0, le=1)
    size: int = Field(ge=32, le=224, description="side of the images in pixels")
    stem_stride: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    recipe: Literal[tuple(RECIPES)]
    epochs: int | None = Field(default=None, ge=1)
    batch: int | None = Field(default=None, ge=2)
    rate: float | None = Field(default=None, gt=0)
    augment: bool | None = None
    unfitted: str = Field(
        default="", description="why it may know less of its training images than `FITTED`"
    )

    @field_validator("altered")
    @classmethod
    def _known(cls, names):
        for name in names:
            try:
                alterations.known(name)
            except InputError as error:
                raise ValueError(str(error)) from None
        return names

    def training(self) -> Recipe:
        """Return the recipe with this network's changes."""
        fields = ("epochs", "batch", "rate", "augment")
        changes = {k: v for k in fields if (v := getattr(self, k)) is not None}
        return Recipe(**vars(RECIPES[self.recipe]) | changes)


class Artefact(_Strict):
    """What one notebook needs."""

    networks: dict[str, tuple[str, ...]] = Field(
        default={}, description="from network to the taps that are read"
    )
    conditions: dict[Literal[CONDITIONS], int] = Field(
        default={}, description="from condition to the number of pairs; none: networks alone"
    )
    pairs: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default={}, description="pairs of single networks, in each condition, if not as many"
    )
    once: dict[str, tuple[str, ...]] = Field(
        default={}, description="as networks, for those that are needed once beside the pairs"
    )
    repeats: int = Field(default=1, ge=1, description="of each network where there are no pairs")
    samples: int = Field(default=0, ge=0, description="images of planted features")
    ratios: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(), description="shares of each layer's weights that are pruned away"
    )
    generations: int = Field(default=0, ge=0, description="of born-again networks")
    epochs: int = Field(default=0, ge=0, description="of fine-tuning a tail on features")
    longer: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(), description="other numbers of these epochs that are tried"
    )

    @model_validator(mode="after")
    def _repeats_without_pairs(self):
        if self.conditions and self.repeats > 1:
            raise ValueError("repeats are of networks without conditions; count their pairs there")
        return self


class Profile(_Strict):
    """A whole profile, as in ``kclib/profiles/<name>.yaml``."""

    name: str
    description: str
    data: Data
    networks: dict[str, Network]
    artefacts: dict[str, Artefact]
    fit_epochs: int | None = Field(
        default=None, ge=1, description="passes of every fit; without it as many as it gains from"
    )
    pruned_epochs: int = Field(ge=1, description="epochs of training after pruning")
    gpu: bool = Field(default=False, description="ask a cluster for a GPU for each job")
    mixed: bool = Field(
        default=True, description="train and fit in bfloat16 where the device gains from it"
    )

    @model_validator(mode="after")
    def _fits_the_data(self):
        for name, network in self.networks.items():
            data = (network.data or self.data).name
            if network.labels == "coarse" and data == "cub200":
                raise ValueError(f"the images of {name}, {data}, have no coarse labels")
            if network.hidden_parts and data != "creatures":
                raise ValueError(f"parts of {name} can be hidden in Creatures only, not in {data}")
        return self

    def data_of(self, network: str) -> Data:
        """Return the images that a network is trained and measured on."""
        return self.networks[choose("network", network, self.networks)].data or self.data


def load(name: str) -> Profile:
    """Load a profile by name.

    Raises
    ------
    InputError
        If there is no such profile, or a field of it is unknown or out of range.
    """
    path = environment.PROFILES / f"{choose('profile', name, environment.profile_names())}.yaml"
    return parse(path.read_text(), name)


def parse(text: str, name: str) -> Profile:
    """Read a profile from YAML text; see `load`."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise InputError(f"the profile {name!r} is not YAML: {problem}.") from None
    if not isinstance(content, dict):
        raise InputError(f"the profile {name!r} is not a mapping from fields to values.")
    try:
        profile = Profile.model_validate(content | {"name": name})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']} (given: {e['input']!r})"
            for e in error.errors()
        )
        raise InputError(f"the profile {name!r} is not valid: {problems}.") from None
    for artefact, needs in profile.artefacts.items():
        for network in (*needs.networks, *needs.once):
            choose(f"network (asked for by {artefact})", network, profile.networks)
        for network in needs.pairs:
            choose(f"network (whose pairs {artefact} counts)", network, needs.networks)
    return profile
