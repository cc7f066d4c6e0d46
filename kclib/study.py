"""What a notebook talks to: the profile's data, networks and fits, from the store or made."""

import os
import time
import warnings
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from . import (
    datasets,
    distillation,
    features,
    networks,
    parameters,
    profiles,
    progress,
    pruning,
    records,
    refinement,
    solver,
    sources,
    training,
)
from .datasets import ImageSet
from .disentangler import Disentangler, StagewiseDisentangler
from .errors import DegenerateFeatures, InputError, choose
from .measures import Evaluation
from .members import Member, pair
from .refinement import Refinement
from .store import Store, code_digest

_KEPT_FEATURES = 4 * 10**9  # bytes that a study holds, for fits that need the same ones


@dataclass(frozen=True)
class Comparison:
    """Network A's features reconstructing network B's at one tap.

    Attributes
    ----------
    disentangler : Disentangler or StagewiseDisentangler
        Fitted on training images.
    train, test : Evaluation
        Of that fit on the training images and on the test images.
    loss : list of float
        Mean squared error after each epoch, in units of the mean square of x*.
    seconds : float
        That the fit took.
    warnings : list of str
        What `kclib.fit` warned of.
    """

    disentangler: Disentangler | StagewiseDisentangler
    train: Evaluation
    test: Evaluation
    loss: list[float]
    seconds: float
    warnings: list[str]


def default_store() -> Store:
    """Return the store in the folder that ``KC_STORE`` names, by default ``.kc-store``."""
    named = os.environ.get("KC_STORE")
    return Store(Path(named) if named else records.FOLDER.parent / ".kc-store")


def default_device() -> str:
    """Return the device that ``KC_DEVICE`` names, or a GPU if there is one, else the processor.

    Raises
    ------
    InputError
        If there is no such device.
    """
    named = os.environ.get("KC_DEVICE")
    if not named:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=named)
    except (RuntimeError, AssertionError):
        raise InputError(
            f"KC_DEVICE names the device {named!r}, which this machine or this build of torch does "
            'not have; name another, such as "cpu" or "cuda:0".'
        ) from None
    return named


class Study:
    """One run of one notebook: its parameters, its data and networks, its record.

    Parameters
    ----------
    artefact : str
        Name of the notebook.
    profile : str, optional
        Name of a profile.
    seed : int
        Of the first network of each pair.
    given : dict
        The notebook's other parameters; see `kclib.parameters`.

    Raises
    ------
    InputError
        If a parameter is unknown or out of its range, before anything is computed.
    """

    def __init__(self, artefact: str, *, profile: str | None = None, seed: int = 0, **given):
        self.parameters = parameters.checked({"profile": profile, "seed": seed, **given})
        self.artefact = artefact
        self.profile = profiles.load(self.parameters["profile"])
        self.needs = self.profile.artefacts[choose("artefact", artefact, self.profile.artefacts)]
        self.store = default_store()
        self.device = default_device()
        if "OMP_NUM_THREADS" not in os.environ:
            # The book's numbers are those of one thread. With several, torch 2.13 corrupts memory
            # in the gradient of a ResNet's strided 1 x 1 convolutions, channels last.
            torch.set_num_threads(1)
        self._images: dict[str, ImageSet] = {}
        self._features: dict[tuple, torch.Tensor] = {}  # read last comes last
        self._used: dict[Member, dict] = {}
        self._began = time.perf_counter()
        self._spared: dict[str, float] = {}  # seconds of fits that were in the store
        self._kept: set[str] = set()  # fits that this run has made or loaded
        self._joint: list[float] = []  # seconds of each joint fit that this run has made

    def pairs(self) -> list[tuple[str, tuple[Member, Member]]]:
        """Return the pairs of networks that the notebook compares, each with its condition.

        The first pairs of all conditions and networks come first, then the second pairs, if the
        profile asks for more than one.
        """
        seed, conditions, twice = self.parameters["seed"], self.needs.conditions, self.needs.twice
        return [
            (condition, pair(name, condition, seed + number))
            for number in range(max(conditions.values(), default=0) + 1)
            for condition, count in conditions.items()
            for name in self.needs.networks
            if number < count + (name in twice)
        ]

    def members(self) -> list[Member]:
        """Return the networks that the notebook needs, most needed first.

        They are those of `pairs`, without conditions each network of the artefact once; then those
        that the profile asks for once beside them. Of networks that are needed once, the first has
        the notebook's seed and each next one 5 more. Pruned and born-again networks follow; of a
        pair, only network A is pruned and born again.
        """
        seed = self.parameters["seed"]
        paired = [member for _, pair in self.pairs() for member in pair]
        alone = [
            [Member(name, seed + 5 * k) for k, name in enumerate(networks)]
            for networks in (self.needs.networks, self.needs.once)
        ]
        first = list(dict.fromkeys((paired if self.needs.conditions else alone[0]) + alone[1]))
        origins = list(dict.fromkeys(a for _, (a, _) in self.pairs())) or first
        pruned = [replace(m, pruned=ratio) for m in origins for ratio in self.ratios()]
        born = [replace(m, born=n) for m in origins for n in range(1, self.generations() + 1)]
        return [*first, *pruned, *born]

    def ratios(self) -> list[float]:
        """Return the shares of weights that are pruned away: the parameter's or the profile's."""
        return self.parameters.get("ratios") or list(self.needs.ratios)

    def generations(self) -> int:
        """Return the number of born-again generations: the parameter's or the profile's."""
        return self.parameters.get("generations") or self.needs.generations

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
        return self._load_images(split, network, hide=())

    def _load_images(self, split: str, network: str, hide: tuple[str, ...]) -> ImageSet:
        data, settings = self.profile.data_of(network), self.profile.networks[network]
        key = sources.key(data, split, settings.size, hide=hide)
        place = self.store.path("images", key)

        def make(_unfinished: Path):
            with progress.bar(f"preparing {split} images") as show:
                made = sources.images(data, split, settings.size, hide=hide, progress=show)
                return made.parts()

        if place.name not in self._images:
            self._images[place.name] = ImageSet.of_parts(*self.store.make(place, make))
        images = self._images[place.name]
        return images.coarsened() if settings.labels == "coarse" else images

    def training_images(self, member: Member) -> ImageSet:
        """Return the images that a network is trained on."""
        self.profile.data_of(member.name)
        hidden = self.profile.networks[member.name].hidden_parts
        images = self._load_images("train", member.name, hide=hidden)
        if member.part in ("all", "none"):
            return images
        halves = datasets.halves(images.labels)
        return images.subset(halves[0 if member.part == "first-half" else 1])

    def network(self, member: Member) -> tuple[nn.Module, dict]:
        """Return a trained network and its record, training it if it is not in the store."""
        images = self.training_images(member)
        settings = self.profile.networks[member.name]
        architecture = dict(
            architecture=settings.architecture,
            classes=len(images.class_names),
            width=settings.width,
            size=settings.size,
            stem_stride=settings.stem_stride,
            dropout=settings.dropout,
            seed=member.drawn,
        )
        if member.origin:
            self.network(member.origin)  # before the lock

        def make(unfinished: Path):
            model, loss_of = networks.build(**architecture), None
            if member.pruned:
                model = self.network(member.origin)[0]
                pruning.begin(model, member.pruned)
            elif member.born:
                loss_of = distillation.born_again_loss(self.network(member.origin)[0])
            history = []
            if member.part != "none":
                with progress.bar(f"training {member}") as show:
                    history = training.train(
                        model,
                        images.images,
                        images.labels,
                        self._recipe(member),
                        seed=member.drawn,
                        device=self.device,
                        loss_of=loss_of,
                        checkpoint=unfinished / "checkpoint.safetensors",
                        progress=show,
                    )
            if member.pruned:
                pruning.finish(model)
            test = self.images("test", member.name)
            record = {
                "history": history,
                "test_accuracy": training.accuracy(
                    model, test.images, test.labels, device=self.device
                ),
                "train_accuracy": training.accuracy(
                    model, images.images, images.labels, device=self.device
                ),
                "parameters": networks.parameter_count(model),
            }
            return {k: v.cpu() for k, v in model.state_dict().items()}, record

        tensors, record = self.store.make(self.network_path(member), make)
        model = networks.build(**architecture)
        model.load_state_dict(tensors)
        self._used[member] = record
        return model.eval(), record

    def _recipe(self, member: Member) -> training.Recipe:
        """Return how a network is trained: after pruning shorter, at a tenth of the rate."""
        recipe = self.profile.networks[member.name].training()
        if not member.pruned:
            return recipe
        rates = {"rate": recipe.rate / 10, "final_rate": recipe.final_rate / 10}
        return replace(recipe, epochs=self.profile.pruned_epochs, **rates)

    def network_path(self, member: Member) -> Path:
        """Return where the store keeps a network, whether or not it is there."""
        data = self.profile.data_of(member.name)
        settings = self.profile.networks[member.name]
        hidden = settings.hidden_parts
        spec = {
            "data": [
                sources.key(data, "train", settings.size, hide=hidden),
                sources.key(data, "test", settings.size),
            ],
            "labels": settings.labels,
            "part": member.part,
            "seed": member.drawn,
            "architecture": settings.architecture,
            "width": settings.width,
            "size": settings.size,
            "stem_stride": settings.stem_stride,
            "dropout": settings.dropout,
            "recipe": vars(self._recipe(member)),
        }
        modules = ["datasets", "networks", "training"]
        if member.origin:
            kind = "pruning" if member.pruned else "distillation"
            spec |= {"origin": self.network_path(member.origin).name, "pruned": member.pruned}
            modules.append(kind)
        return self.store.path("networks", spec, tuple(modules))

    def features(
        self,
        member: Member,
        tap: str,
        split: str,
        group: str | None = None,
        hide: tuple[str, ...] = (),
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
        """
        key = (member, tap, split, group, hide)
        if key in self._features:
            found = self._features.pop(key)
        else:
            model, _ = self.network(member)
            images = self._load_images(split, member.name, hide)
            if group is not None:
                images = images.subset(images.group(group))
            with progress.bar(f"features of {member} at {tap}") as show:
                found = features.extract(
                    model, images.images, tap, device=self.device, progress=show
                )
        self._features[key] = found
        while sum(f.nbytes for f in self._features.values()) > _KEPT_FEATURES:
            del self._features[next(iter(self._features))]
        return found

    def compare(
        self,
        a: Member,
        b: Member,
        tap: str,
        target_tap: str | None = None,
        *,
        group: str | None = None,
        hide: tuple[str, ...] = (),
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
        options
            Of `kclib.fit`: order, penalty, norm, solver, seed.

        Raises
        ------
        InputError
            If the two networks belong to different images.
        """
        options = self._fit_options(options)
        target_tap = target_tap or tap
        data = [self.profile.data_of(member.name) for member in (a, b)]
        if data[0] != data[1]:
            raise InputError(
                f"{a} is of {data[0].name} images and {b} of {data[1].name}; allowed: two networks "
                "of the same images."
            )
        for member in (a, b):
            self.network(member)  # before the lock, and noted as used

        def sides(split: str) -> tuple[tuple, tuple]:
            return (a, tap, split, group, hide), (b, target_tap, split, group)

        def make(_unfinished: Path):
            began = time.perf_counter()
            x, target = (self.features(*side) for side in sides("train"))
            with (
                progress.bar(f"fitting {a} to {b} at {tap}") as show,
                warnings.catch_warnings(record=True, category=DegenerateFeatures) as told,
            ):
                fitting = time.perf_counter()
                fit = solver.fit(x, target, device=self.device, progress=show, **options)
            if options.get("solver", "joint") == "joint":
                self._joint.append(time.perf_counter() - fitting)
            held_out = fit.evaluate(*(self.features(*side) for side in sides("test")))
            tensors = {f"g.{name}": value for name, value in fit.disentangler.state_dict().items()}
            for split, evaluation in (("train", fit.evaluation), ("test", held_out)):
                tensors |= {f"{split}.{k}": v for k, v in evaluation.tensors().items()}
            g = fit.disentangler
            shape = {"in_channels": x.shape[1], "out_channels": target.shape[1]}
            shape |= {"order": g.order, "norm": g.norm}
            seconds = round(time.perf_counter() - began, 1)
            told = sorted({str(warning.message) for warning in told})
            record = {"shape": shape, "loss": fit.loss, "seconds": seconds, "warnings": told}
            return tensors, record

        spec = {
            "networks": [self.network_path(member).name for member in (a, b)],
            "taps": [tap, target_tap],
            "group": group,
            "hide": hide,
            "options": options,
        }
        path = self.store.path("fits", spec, ("solver",))
        tensors, record = self._made(path, make)
        stages = options.get("solver") == "lowest_first"
        g = (StagewiseDisentangler if stages else Disentangler)(**record["shape"])
        g.load_state_dict(_under("g.", tensors))
        return Comparison(
            g.eval(),
            Evaluation.from_tensors(_under("train.", tensors)),
            Evaluation.from_tensors(_under("test.", tensors)),
            record["loss"],
            record["seconds"],
            record["warnings"],
        )

    def refine(
        self,
        a: Member,
        b: Member,
        tap: str,
        *,
        upto: tuple[int, ...] = (2,),
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
        dropout : float, optional
            Share of units that dropout layers of the tail drop meanwhile, 0 to below 1; by default
            as B was trained.
        group : str, optional
            A coarse label: only the images with it are used, also for the disentangler (Table 4).
        options
            Of `compare`.
        """
        comparison = self.compare(a, b, tap, group=group, **options)

        @cache
        def source(split: str) -> torch.Tensor:
            return self.features(a, tap, split, group)

        def consistent(k: int, split: str) -> torch.Tensor:
            size = self._map_size(b, tap)
            g = comparison.disentangler
            return refinement.consistent_part(g, source(split), size, upto=k, device=self.device)

        spec = {"a": self.network_path(a).name, "options": self._fit_options(options)}
        return [
            self._fine_tuned(
                b,
                tap,
                partial(consistent, k),
                {**spec, "upto": k},
                dropout=dropout,
                group=group,
                title=f"refining {b} from {a} at {tap}, order {k}",
            )
            for k in upto
        ]

    def fine_tune(
        self,
        b: Member,
        tap: str,
        *,
        dropout: float | None = None,
        group: str | None = None,
        fresh: int | None = None,
    ) -> Refinement:
        """Fine-tune B's layers above a tap on B's own features, for as many steps as `refine`.

        Parameters
        ----------
        b, tap, dropout, group
            As for `refine`.
        fresh : int, optional
            Put a new disentangler of this order before those layers, of the size that `refine`
            takes, and train it with them.
        """
        spec = {} if fresh is None else {"fresh": fresh}
        return self._fine_tuned(
            b,
            tap,
            lambda split: self.features(b, tap, split, group),
            spec,
            dropout=dropout,
            group=group,
            fresh=fresh,
            title=f"fine-tuning {b} above {tap}",
        )

    def _fine_tuned(self, b, tap, inputs, spec, *, dropout, group, title, fresh=None) -> Refinement:
        """Fine-tune B's tail on ``inputs(split)``, or load what that gave."""
        model, _ = self.network(b)
        width = self.profile.networks[b.name].width
        settings = {
            "epochs": self.epochs(),
            "rate": self.parameters.get("rate") or refinement.rate_for(self.epochs(), width),
            "seed": self.parameters["seed"],
        }

        def make(_unfinished: Path):
            began = time.perf_counter()
            tail = networks.split(model, tap)[1]
            for module in tail.modules():
                if isinstance(module, nn.Dropout) and dropout is not None:
                    module.p = dropout
            given = []
            for split in ("train", "test"):
                images = self.images(split, b.name)
                labels = images.labels if group is None else images.labels[images.group(group)]
                given += [inputs(split), labels]
            new = None
            if fresh is not None:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(settings["seed"])
                    new = Disentangler(given[0].shape[1], given[0].shape[1], fresh)
            with progress.bar(title) as show:
                _, found = refinement.fine_tune(
                    tail, *given, **settings, fresh=new, device=self.device, progress=show
                )
            record = {
                "history": found.history,
                "train_accuracy": list(found.train_accuracy),
                "seconds": round(time.perf_counter() - began, 1),
            }
            return {"hits": found.hits}, record

        spec = {
            "b": self.network_path(b).name,
            "tap": tap,
            "group": group,
            "dropout": dropout,
            "settings": settings,
            **spec,
        }
        path = self.store.path("refinements", spec, ("refinement", "solver"))
        tensors, record = self._made(path, make)
        train_accuracy = tuple(record["train_accuracy"])
        return Refinement(record["history"], tensors["hits"], train_accuracy)

    def _made(self, path: Path, make) -> tuple[dict[str, torch.Tensor], dict]:
        """Load or make a fit; of one that was there, note how long it took."""
        was_there = path.exists()
        tensors, record = self.store.make(path, make)
        if was_there and path.name not in self._kept:
            self._spared[path.name] = record["seconds"]
        self._kept.add(path.name)
        return tensors, record

    def _fit_options(self, options: dict) -> dict:
        """Return the options of a fit, the profile's epochs among them if it names any."""
        return {"epochs": self.profile.fit_epochs, **options}

    def _map_size(self, member: Member, tap: str) -> tuple[int, int]:
        """Return height and width of a network's maps at a tap."""
        image = self.images("test", member.name).images[:1]
        found = features.extract(self.network(member)[0], image, tap, device=self.device)
        return found.shape[2], found.shape[3]

    def recorded(self, profile: str, **parameters) -> list[dict]:
        """Return the committed rows of this notebook under a profile.

        Parameters
        ----------
        profile : str
        parameters
            That the recorded run must have had; a run with others counts as none.
        """
        result = records.recorded(self.artefact, profile)
        if result is None:
            return []
        had = result.provenance.parameters
        same = all(had.get(name) == value for name, value in parameters.items())
        return result.rows if same else []

    def forecast(self) -> str:
        """Say what this profile is and how long the recorded run of this notebook took."""
        text = f"Profile {self.profile.name}: {self.profile.description.strip()}\n"
        result = records.recorded(self.artefact, self.profile.name)
        if result is None:
            return text + "No run of it is recorded, so there is no expected time."
        had = result.provenance
        training_time = sum(network["seconds"] for network in had.networks.values())
        trained = (
            f"; {training_time:.0f} s more to train its {len(had.networks)} networks if the store "
            "has none of them"
        )
        return text + (
            f"Expected time: {had.seconds:.0f} s, as recorded on {had.date} with "
            f"{had.hardware['threads']} thread of {had.hardware['processor']}"
            f"{trained if had.networks else ''}. Peak memory: {had.peak_memory:.1f} GB."
        )

    def record(
        self, rows: list[dict], claims: list[records.Claim], *, arrays: dict | None = None
    ) -> Path:
        """Write this run's result, with its provenance, where the book finds it.

        The folder is the one that the environment variable ``KC_RESULTS`` names, by default
        ``book/_build/results``.

        Parameters
        ----------
        rows : list of dict
            The table or the figure's numbers, one flat dict a row.
        claims : list of kclib.records.Claim
        arrays : dict of str to numpy.ndarray, optional
            The maps that a figure shows, written as ``.npz`` beside the rows.

        Returns
        -------
        Path
            The JSON file.
        """
        data = []
        for name in sorted({member.name for member in self._used}):
            settings = self.profile.networks[name]
            for split, hide in (("train", settings.hidden_parts), ("test", ())):
                key = sources.key(self.profile.data_of(name), split, settings.size, hide=hide)
                data += [key] if key not in data else []
        used = {
            str(member): {
                "key": self.network_path(member).name,
                "test_accuracy": record["test_accuracy"],
                "train_accuracy": record["train_accuracy"],
                "parameters": record["parameters"],
                "epochs": len(record["history"]),
                "seconds": round(sum(epoch["seconds"] for epoch in record["history"]), 1),
            }
            for member, record in self._used.items()
        }
        given = {
            name: ", ".join(map(str, value)) if isinstance(value, list) else value
            for name, value in self.parameters.items()
        }
        provenance = records.Provenance(
            parameters=given,
            seeds=sorted({member.seed for member in self._used} | {self.parameters["seed"]}),
            data=data,
            networks=used,
            versions=records.versions(),
            hardware=records.hardware(self.device),
            code=code_digest("study"),
            seconds=round(time.perf_counter() - self._began + sum(self._spared.values()), 1),
            joint_fits=len(self._joint),
            joint_fit_seconds=round(sum(self._joint), 1),
            peak_memory=round(records.peak_memory(), 2),
            date=datetime.now(UTC).date().isoformat(),
        )
        result = records.Result(
            artefact=self.artefact,
            profile=self.profile.name,
            provenance=provenance,
            rows=rows,
            claims=claims,
        )
        return records.write(result, results_folder(), arrays)


def results_folder() -> Path:
    """Return the folder that ``KC_RESULTS`` names, by default ``book/_build/results``."""
    named = os.environ.get("KC_RESULTS")
    return Path(named) if named else records.FOLDER.parent / "book" / "_build" / "results"


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
