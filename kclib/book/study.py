"""What a notebook talks to: its parameters, its data, networks and fits, and its record."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

from ..errors import choose
from ..images.datasets import ImageSet
from ..training import classifier, refinement
from ..training.refinement import Refinement
from . import claims, environment, members, parameters, pictures, plans, profiles, records
from .making import Comparison, Workshop, labelled, training_images
from .members import Member
from .pictures import Pictures


class Study:
    """One run of one notebook.

    Parameters
    ----------
    artefact : str
        Name of the notebook.
    profile : str, optional
        Name of a profile.
    seed : int
        Of the first network of each pair.
    given : dict
        The notebook's other parameters; see `kclib.book.parameters`.

    Raises
    ------
    InputError
        If a parameter is unknown or out of its range, before anything is computed.
    """

    def __init__(self, artefact: str, profile: str | None = None, seed: int = 0, **given):
        self.parameters = parameters.checked({"profile": profile, "seed": seed, **given})
        self.artefact = artefact
        self.profile = profiles.load(self.parameters["profile"])
        self.needs = self.profile.artefacts[choose("artefact", artefact, self.profile.artefacts)]
        self._workshop = Workshop.usual()
        self.outcomes: list[claims.Outcome] = []  # of the claims that were tested so far
        self._used: dict[Member, dict] = {}  # the networks, with their records
        self._began = time.perf_counter()

    @property
    def device(self) -> str:
        """What computes."""
        return self._workshop.device

    def pairs(self) -> list[tuple[str, tuple[Member, Member]]]:
        """Return the pairs of networks to compare, each with its condition."""
        return members.pairs(self.needs, self.parameters["seed"])

    def members(self) -> list[Member]:
        """Return the networks that the notebook needs, most needed first."""
        given = self.parameters
        return members.members(
            self.needs, given["seed"], given.get("ratios"), given.get("generations")
        )

    def epochs(self) -> int:
        """Return the epochs of fine-tuning a tail: the parameter's or the profile's."""
        return self.parameters.get("epochs") or self.needs.epochs

    def images(self, split: str, network: str) -> ImageSet:
        """Return the images of a split (``"train"`` or ``"test"``) as a network is to see them.

        Parameters
        ----------
        split : str
        network : str
            Its name in the profile, which says whose images, how large, and with which labels.
        """
        images = self._workshop.images(plans.images(self.profile, network, split))
        return labelled(images, self.profile.networks[network].labels)

    def training_images(self, member: Member) -> ImageSet:
        """Return the images that a network is trained on."""
        plan = plans.network(self.profile, member)
        return training_images(plan.settings, self._workshop.images(plan.needs["train"]))

    def network(self, member: Member) -> tuple[nn.Module, dict]:
        """Return a trained network and its record, training it if it is not in the store."""
        record = self._note(member)
        return self._workshop.network(plans.network(self.profile, member)), record

    def _note(self, member: Member) -> dict:
        """Have a network made, and recorded as one that was used; return its record."""
        if member not in self._used:
            self._used[member] = self._workshop.record(plans.network(self.profile, member))
            for origin in member.origins:
                self._note(origin)
        return self._used[member]

    def accuracies(self, members: Iterable[Member]) -> list[dict]:
        """Return, for each network, what it was trained on and the share of images it gets right.

        Accuracy is on its training images and on all test images; where a network is meant to know
        its training images and does not, the profile says why.
        """
        rows = []
        for member in members:
            record = self._note(member)
            row = {
                "network": member.name,
                "trained on": member.subset,
                "seed": member.seed,
                "accuracy, training images": record["train_accuracy"],
                "accuracy, test images": record["test_accuracy"],
            }
            why = self.profile.networks[member.name].unfitted
            rows.append(row | ({"why not fitted": why} if why else {}))
        return rows

    def hits(self, member: Member) -> torch.Tensor:
        """Say of each test image whether a network gets it right: 1 or 0, float64 (N,)."""
        network, _ = self.network(member)
        tested = self.images("test", member.name)
        answers = classifier.predict(network, tested.images, device=self.device)
        return (answers == tested.labels).double()

    def features(
        self,
        member: Member,
        tap: str,
        split: str,
        group: str | None = None,
        hide: tuple[str, ...] = (),
        altered: tuple[str, ...] = (),
    ) -> torch.Tensor:
        """Return a network's features of a split's images at a tap, float32 (N, C, H, W).

        Those asked for last are kept and shared: do not change them in place.

        Parameters
        ----------
        member : Member
        tap : str
        split : {"train", "test"}
        group : str, optional
            A coarse label: of the images with it only.
        hide : tuple of str
            Parts of Creatures that are painted over in the images.
        altered : tuple of str
            What is done to the images then; see `kclib.images.alterations`.
        """
        self._note(member)
        images = plans.images(self.profile, member.name, split, hide, altered)
        return self._workshop.features(plans.network(self.profile, member), images, tap, group)

    def compare(
        self,
        a: Member,
        b: Member,
        tap: str,
        target_tap: str | None = None,
        *,
        group: str | None = None,
        hide: tuple[str, ...] = (),
        altered: tuple[str, ...] = (),
        **options,
    ) -> Comparison:
        """Fit, or load, the disentangler from A's features to B's.

        It is fitted on the training images and measured on the test images too, the same whatever
        the networks were trained on.

        Parameters
        ----------
        a, b : Member
            Trained on images of the same data; their sizes may differ.
        tap : str
            Of A's features.
        target_tap : str, optional
            Of B's features, by default the same.
        group : str, optional
            A coarse label: only the images with it are used.
        hide : tuple of str
            Parts of Creatures that are painted over in what A sees, not in what B sees.
        altered : tuple of str
            What is done to the images that A sees, not to what B sees: changes of pictures only.
        options
            Of `kclib.fit`: order, penalty, norm, solver, kernel_size, seed.

        Raises
        ------
        InputError
            If the two networks belong to different images.
        """
        seen = {"group": group, "hide": hide, "altered": altered}
        plan = plans.fit(self.profile, a, b, tap, target_tap, **seen, **options)
        self._note(a)
        self._note(b)
        return self._workshop.fit(plan)

    def refine(
        self,
        a: Member,
        b: Member,
        tap: str,
        *,
        upto: tuple[int, ...] = (2,),
        epochs: int | None = None,
        dropout: float | None = None,
        group: str | None = None,
        **options,
    ) -> list[Refinement]:
        """Put what A's features give of B's into B, and fine-tune B's layers above the tap.

        The input is x^(0) + ... + x^(k) of the disentangler that `compare` gives, which stays as
        it is (Table 3).

        Parameters
        ----------
        a, b : Member
        tap : str
            Of both.
        upto : tuple of int
            Highest orders k, one refinement each.
        epochs : int, optional
            Of fine-tuning, 1 or more; by default the parameter's or the profile's.
        dropout : float, optional
            Share of units that dropout layers of the tail drop meanwhile, 0 to below 1; by default
            as B was trained.
        group : str, optional
            A coarse label: only the images with it are used, also for the disentangler (Table 4).
        options
            Of `compare`.
        """
        fitted = plans.fit(self.profile, a, b, tap, group=group, **options)
        planned = [
            self._tail(b, tap, epochs, fitted=fitted, upto=k, dropout=dropout, group=group)
            for k in upto
        ]
        self._note(a)
        self._note(b)
        return [self._workshop.tail(plan) for plan in planned]

    def fine_tune(
        self,
        b: Member,
        tap: str,
        *,
        epochs: int | None = None,
        dropout: float | None = None,
        group: str | None = None,
        fresh: int | None = None,
    ) -> Refinement:
        """Fine-tune B's layers above a tap on B's own features, for as many steps as `refine`.

        Parameters
        ----------
        b, tap, epochs, dropout, group
            As for `refine`.
        fresh : int, optional
            Put a new disentangler of this order before those layers, of the size that `refine`
            takes, and train it with them.
        """
        planned = self._tail(b, tap, epochs, dropout=dropout, group=group, fresh=fresh)
        self._note(b)
        return self._workshop.tail(planned)

    def _tail(self, b: Member, tap: str, epochs: int | None, **how) -> plans.Plan:
        epochs, width = epochs or self.epochs(), self.profile.networks[b.name].width
        rate = self.parameters.get("rate") or refinement.rate_for(epochs, width)
        tuning = {"epochs": epochs, "rate": rate, "seed": self.parameters["seed"]}
        return plans.tail(self.profile, b, tap, **how, **tuning)

    def recorded(self, profile: str) -> list[dict]:
        """Return the committed rows of this notebook under a profile.

        A run that had another order, penalty, norm or size of what is planted or shown counts as
        none: its numbers are other quantities.
        """
        result = self._comparable(profile)
        return result.rows if result else []

    def _comparable(self, profile: str) -> records.Result | None:
        result = records.recorded(self.artefact, profile)
        had = result.provenance.parameters if result else {}
        same = all(had.get(name) == self.parameters.get(name) for name in parameters.OF_QUANTITIES)
        return result if same else None

    def regimes(self) -> dict[str, list[dict]]:
        """Return what is recorded on photographs, as `recorded` does, by how networks were trained.

        The names are those of `kclib.book.records.REGIMES`; without a result, a regime is left out.
        """
        found = {title: self.recorded(profile) for title, profile in records.REGIMES.items()}
        return {title: rows for title, rows in found.items() if rows}

    def pictures(self) -> Pictures:
        """Return the maps recorded on photographs, under the first of the regimes that has any.

        A run counts as for `recorded`; without any there are no maps.
        """
        for title, profile in records.REGIMES.items():
            if result := self._comparable(profile):
                path = records.RECORDED / profile / f"{self.artefact}.npz"
                found = pictures.read(path, f"{title}; right answers: {result.right_answers()}")
                if found.maps:
                    return found
        return Pictures("", torch.empty(0), {})

    def forecast(self) -> str:
        """Say what this profile is and how long the recorded run of this notebook took."""
        text = f"Profile {self.profile.name}: {self.profile.description.strip()}\n"
        result = records.recorded(self.artefact, self.profile.name)
        if result is None:
            return text + "No run of it is recorded, so there is no expected time."
        had = result.provenance
        training_time = sum(network["training_seconds"] for network in had.networks.values())
        trained = (
            f"; {training_time:.0f} s more to train its {len(had.networks)} networks if the store "
            "has none of them"
        )
        return text + (
            f"Expected time: {had.run_seconds:.0f} s, as recorded on {had.date} with "
            f"{had.hardware['threads']} thread of {had.hardware['processor']}"
            f"{trained if had.networks else ''}. Peak memory: {had.peak_memory:.1f} GB."
        )

    def ways(self, *names: str) -> dict[str, dict]:
        """Return ways of fitting by name, as options of `compare`, with this run's parameters.

        ``"joint, per image"``
            All orders at once, maps divided by their own scale in each image: the paper's network,
            normalised as in the authors' code.
        ``"joint, data set"``
            The same, maps divided by their scale over the data set, as in the paper's text.
        ``"lowest first"``
            Order 0 in closed form, then each further order on what is left; over the data set.
        ``"linear"``
            Order 0 alone, in closed form.
        """
        order, penalty = self.parameters.get("order", 2), self.parameters.get("penalty", 0.1)
        joint = {"order": order, "solver": "joint", "penalty": penalty}
        apart = {"solver": "lowest_first", "norm": "dataset"}
        known = {
            "joint, per image": joint | {"norm": "image"},
            "joint, data set": joint | {"norm": "dataset"},
            "lowest first": apart | {"order": order},
            "linear": apart | {"order": 0},
        }
        return {name: known[choose("way of fitting", name, known)] for name in names}

    def claim(
        self, name: str, outcomes: Sequence[float | bool | None], found: str, depends: str = ""
    ) -> None:
        """Hand over what the test of a claim found; the verdict follows by the registry's rule.

        Parameters
        ----------
        name : str
            The claim's, in ``results/claims.yaml``.
        outcomes : sequence of float, bool or None
            See `kclib.book.verdicts.verdict`; empty where nothing could be tested.
        found : str
            The numbers, for a reader.
        depends : str
            What the verdict depends on, or why there is none.
        """
        self.outcomes.append(claims.judged(self.artefact, name, outcomes, found, depends))

    def record(self, rows: list[dict], *, arrays: dict | None = None) -> Path:
        """Write this run's result, with its provenance, where the book finds it.

        Parameters
        ----------
        rows : list of dict
            The table or the figure's numbers, one flat dict a row.
        arrays : dict of str to numpy.ndarray, optional
            The maps that a figure shows, written as ``.npz`` beside the rows.

        Returns
        -------
        Path
            The JSON file.

        Raises
        ------
        InputError
            If a claim of the artefact has no outcome, or several.
        """
        claims.check(self.artefact, self.outcomes, f"the notebook {self.artefact}")
        used = {str(m): (plans.network(self.profile, m), had) for m, had in self._used.items()}
        provenance = records.provenance(
            self.parameters,
            seeds={member.seed for member in self._used} | {self.parameters["seed"]},
            networks=used,
            fits=self._workshop.fits,
            device=self.device,
            run_seconds=time.perf_counter() - self._began - self._workshop.training_seconds,
        )
        result = records.Result(
            artefact=self.artefact,
            profile=self.profile.name,
            provenance=provenance,
            rows=rows,
            claims=self.outcomes,
        )
        return records.write(result, environment.results_folder(), arrays)
