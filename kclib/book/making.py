"""Making what was planned: one function an entry, and the workshop that calls them.

Each function takes a plan's settings and what the plan needs, and returns tensors and a record of
JSON's types. What they hold is named by their code: see `kclib.book.plans.Plan`.
"""

import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from .. import networks, solver
from ..disentangler import Disentangler, StagewiseDisentangler
from ..errors import DegenerateFeatures
from ..features import extract
from ..images import alterations, datasets
from ..images.datasets import ImageSet
from ..measures import Evaluation
from ..training import classifier, distillation, pruning, refinement
from ..training.classifier import Recipe
from ..training.refinement import Refinement
from . import environment, parameters, plans, profiles, progress, sources
from .members import Member
from .plans import Plan
from .profiles import Data
from .store import Store

_KEPT_FEATURES = 4 * 10**9  # bytes that a workshop holds, for fits that need the same ones

Made = tuple[dict[str, torch.Tensor], dict]


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
        That it took to make: reading features, the fit, and measuring it.
    warnings : list of str
        What `kclib.fit` warned of.
    """

    disentangler: Disentangler | StagewiseDisentangler
    train: Evaluation
    test: Evaluation
    loss: list[float]
    seconds: float
    warnings: list[str]


# What is made, a function a kind


def labelled(images: ImageSet, labels: str) -> ImageSet:
    """Return images with the labels that a network learns: its ``"fine"`` or ``"coarse"`` ones."""
    return images.coarsened() if labels == "coarse" else images


def training_images(settings: dict, images: ImageSet) -> ImageSet:
    """Return those of the images that a network is trained on, with the labels that it learns."""
    images = labelled(images, settings["labels"])
    if settings["part"] in ("all", "none"):
        return images
    halves = datasets.halves(images.labels)
    return images.subset(halves[0 if settings["part"] == "first-half" else 1])


def trained(settings: dict, given: dict[str, ImageSet], _origin: None, **how) -> Made:
    """Train a network from its initialisation; of the part "none", leave it there."""
    model = networks.build(
        **settings["architecture"], classes=_classes(settings, given), seed=settings["seed"]
    )
    history = []
    if settings["part"] != "none":
        history = _train(model, settings, given, **how)
    return _network(model, history, settings, given, how["device"])


def pruned(settings: dict, given: dict[str, ImageSet], origin: nn.Module, **how) -> Made:
    """Prune a trained network, and train it on."""
    pruning.begin(origin, settings["pruned"])
    history = _train(origin, settings, given, **how)
    pruning.finish(origin)
    return _network(origin, history, settings, given, how["device"])


def born_again(settings: dict, given: dict[str, ImageSet], origin: nn.Module, **how) -> Made:
    """Train a network from its initialisation, with the generation before it as its teacher."""
    model = networks.build(
        **settings["architecture"], classes=_classes(settings, given), seed=settings["seed"]
    )
    loss_of = distillation.born_again_loss(origin, mixed=settings["recipe"]["mixed"])
    history = _train(model, settings, given, loss_of=loss_of, **how)
    return _network(model, history, settings, given, how["device"])


def features(
    network: nn.Module, images: ImageSet, tap: str, group: str | None, **how
) -> torch.Tensor:
    """Read a network's features, of the images with one coarse label or of all."""
    if group is not None:
        images = images.subset(images.group(group))
    return extract(network, images.images, tap, **how)


def fit(settings: dict, read: Callable[[str, str], torch.Tensor], **how) -> Made:
    """Fit a disentangler on training images, and measure it on the test images too.

    Parameters
    ----------
    settings : dict
    read : callable
        From ``"a"`` or ``"b"`` and a split to features.
    how
        Of `kclib.fit`: device and progress.
    """
    began = time.perf_counter()
    x, target = read("a", "train"), read("b", "train")
    fitting = time.perf_counter()
    with warnings.catch_warnings(record=True, category=DegenerateFeatures) as told:
        found = solver.fit(x, target, **settings["options"], **how)
    fit_seconds = time.perf_counter() - fitting
    held_out = found.evaluate(read("a", "test"), read("b", "test"), device=how["device"])
    g = found.disentangler.cpu()
    tensors = {f"g.{name}": value for name, value in g.state_dict().items()}
    for split, evaluation in (("train", found.evaluation), ("test", held_out)):
        tensors |= {f"{split}.{k}": v for k, v in evaluation.tensors().items()}
    return tensors, {
        "disentangler": g.settings,
        "loss": found.loss,
        "passes": found.passes,
        "converged": found.converged,
        "joint": settings["options"].get("solver", "joint") == "joint",
        "fit_seconds": round(fit_seconds, 1),
        "seconds": round(time.perf_counter() - began, 1),
        "warnings": sorted({str(warning.message) for warning in told}),
    }


def tail(
    settings: dict,
    b: nn.Module,
    labels: Callable[[str], torch.Tensor],
    inputs: Callable[[str], torch.Tensor],
    **how,
) -> Made:
    """Fine-tune B's layers above a tap.

    Parameters
    ----------
    settings : dict
    b : torch.nn.Module
    labels, inputs : callable
        From a split to the labels of its images and to what is put in at the tap.
    how
        Of `kclib.training.refinement.fine_tune`: device and progress.
    """
    began = time.perf_counter()
    layers = networks.split(b, settings["taps"]["b"])[1]
    for module in layers.modules():
        if isinstance(module, nn.Dropout) and settings["dropout"] is not None:
            module.p = settings["dropout"]
    given = [read(split) for split in sources.SPLITS for read in (inputs, labels)]
    fresh = None
    if settings["fresh"] is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings["tuning"]["seed"])
            fresh = Disentangler(given[0].shape[1], given[0].shape[1], settings["fresh"])
    _, found = refinement.fine_tune(layers, *given, **settings["tuning"], fresh=fresh, **how)
    return {"hits": found.hits}, {
        "history": found.history,
        "train_accuracy": list(found.train_accuracy),
        "seconds": round(time.perf_counter() - began, 1),
    }


def consistent(
    comparison: Comparison, x: torch.Tensor, size: tuple[int, int], upto: int, device: str
) -> torch.Tensor:
    """Return x^(0) + ... + x^(upto) of B's features, from A's."""
    g = comparison.disentangler
    return refinement.consistent_part(g, x, size, upto=upto, device=device)


def _classes(settings: dict, given: dict[str, ImageSet]) -> int:
    return len(training_images(settings, given["train"]).class_names)


def _train(model, settings: dict, given: dict[str, ImageSet], **how) -> list[dict]:
    images = training_images(settings, given["train"])
    recipe, seed = Recipe(**settings["recipe"]), settings["seed"]
    return classifier.train(model, images.images, images.labels, recipe, seed=seed, **how)


def _network(model, history, settings: dict, given: dict[str, ImageSet], device) -> Made:
    measured = {
        "test": labelled(given["test"], settings["labels"]),
        "train": training_images(settings, given["train"]),
    }
    accuracies = {
        f"{split}_accuracy": classifier.accuracy(model, seen.images, seen.labels, device=device)
        for split, seen in measured.items()
    }
    count = networks.parameter_count(model)
    record = {"history": history, **accuracies, "parameters": count}
    return {k: v.cpu() for k, v in model.state_dict().items()}, record


# The workshop


def train_network(member: str, profile: str | None = None) -> dict:
    """Have one network of a profile in the store; return its record.

    Parameters
    ----------
    member : str
        As `kclib.book.members.Member.parse` reads it.
    profile : str, optional
        Its name.
    """
    known = profiles.load(parameters.checked({"profile": profile})["profile"])
    return Workshop.usual().record(plans.network(known, Member.parse(member)))


@dataclass
class Workshop:
    """Makes what plans ask for, and keeps it in a store; what is there is read.

    Parameters
    ----------
    store : Store
    device : str
        What computes.

    Attributes
    ----------
    fits : dict of str to (dict, bool)
        Of each fit or tail that this workshop gave, by key: its record, and if it was in the store.
    training_seconds : float
        That the networks took which were not in the store.
    """

    store: Store
    device: str
    fits: dict[str, tuple[dict, bool]] = field(default_factory=dict)
    training_seconds: float = 0.0
    _images: dict[str, ImageSet] = field(default_factory=dict)
    _records: dict[str, dict] = field(default_factory=dict)
    _features: dict[tuple, torch.Tensor] = field(default_factory=dict)  # read last comes last

    @classmethod
    def usual(cls) -> "Workshop":
        """Return one with the store, the device and the threads that the environment asks for."""
        environment.use_one_thread()
        return cls(Store(environment.store_folder()), environment.device())

    def images(self, plan: Plan) -> ImageSet:
        """Return images; do not change them in place."""
        settings = plan.settings

        def make(_unfinished: Path) -> Made:
            with progress.bar(plan.title) as show:
                data = Data(**settings["data"])
                hide = tuple(settings["hide"])
                found = sources.images(
                    data, settings["split"], settings["size"], hide=hide, progress=show
                )
                return alterations.altered(found, settings.get("altered", ())).parts()

        if plan.key not in self._images:
            made = self.store.make(self.store.path(plan.kind, plan.key), make)
            self._images[plan.key] = ImageSet.of_parts(*made)
        return self._images[plan.key]

    def record(self, plan: Plan) -> dict:
        """Return the record of a network, which is made if it is not in the store."""
        if plan.key not in self._records:
            self._network(plan)
        return self._records[plan.key]

    def network(self, plan: Plan) -> nn.Module:
        """Return a network of its own, in evaluation mode, which is made if need be."""
        tensors = self._network(plan)
        settings = plan.settings
        classes = _classes(settings, self._training(plan))
        model = networks.build(**settings["architecture"], classes=classes, seed=settings["seed"])
        model.load_state_dict(tensors)
        return model.eval()

    def _training(self, plan: Plan) -> dict[str, ImageSet]:
        return {split: self.images(plan.needs[split]) for split in sources.SPLITS}

    def _network(self, plan: Plan) -> dict[str, torch.Tensor]:
        """Make or read the weights of a network, and keep its record."""
        origin = plan.needs.get("origin")
        given = self._training(plan)
        if origin is not None:
            self.record(origin)  # before the lock

        def make(unfinished: Path) -> Made:
            makers = {"trained": trained, "pruned": pruned, "born_again": born_again}
            make_it = makers[plan.makers[0]]
            model = self.network(origin) if origin is not None else None
            checkpoint, began = unfinished / "checkpoint.safetensors", time.perf_counter()
            with self._working(plan) as how:
                made = make_it(plan.settings, given, model, checkpoint=checkpoint, **how)
            self.training_seconds += time.perf_counter() - began
            return made

        tensors, self._records[plan.key] = self.store.make(
            self.store.path(plan.kind, plan.key), make
        )
        return tensors

    def features(self, network: Plan, images: Plan, tap: str, group: str | None) -> torch.Tensor:
        """Return features, float32 (N, C, H, W); those asked for last are kept and shared."""
        key = (network.key, images.key, tap, group)
        if key in self._features:
            found = self._features.pop(key)
        else:
            model = self.network(network)
            with progress.bar(f"features at {tap}") as show:
                how = {"device": self.device, "progress": show}
                found = features(model, self.images(images), tap, group, **how)
        self._features[key] = found
        while sum(f.nbytes for f in self._features.values()) > _KEPT_FEATURES:
            del self._features[next(iter(self._features))]
        return found

    def fit(self, plan: Plan) -> Comparison:
        """Return a fitted disentangler with its measures."""
        tap, group = plan.settings["taps"], plan.settings["group"]
        for side in ("a", "b"):
            self.record(plan.needs[side])  # before the lock

        def read(side: str, split: str) -> torch.Tensor:
            return self.features(plan.needs[side], plan.needs[f"{side} {split}"], tap[side], group)

        def make(_unfinished: Path) -> Made:
            with self._working(plan) as how:
                return fit(plan.settings, read, **how)

        tensors, record = self._made(plan, make)
        stages = plan.settings["options"].get("solver") == "lowest_first"
        g = (StagewiseDisentangler if stages else Disentangler)(**record["disentangler"])
        g.load_state_dict(_under("g.", tensors))
        return Comparison(
            g.eval(),
            Evaluation.from_tensors(_under("train.", tensors)),
            Evaluation.from_tensors(_under("test.", tensors)),
            record["loss"],
            record["seconds"],
            record["warnings"],
        )

    def tail(self, plan: Plan) -> Refinement:
        """Return what fine-tuning a network's upper layers did to its accuracy."""
        tap, group = plan.settings["taps"]["b"], plan.settings["group"]
        fitted, b = plan.needs.get("fit"), plan.needs["b"]
        comparison = self.fit(fitted) if fitted is not None else None  # before the lock

        def labels(split: str) -> torch.Tensor:
            seen = self.images(plan.needs[f"b {split}"])
            seen = seen if group is None else seen.subset(seen.group(group))
            return labelled(seen, plan.settings["labels"]).labels

        def inputs(split: str) -> torch.Tensor:
            if fitted is None:
                return self.features(b, plan.needs[f"b {split}"], tap, group)
            a, seen = fitted.needs["a"], fitted.needs[f"a {split}"]
            x = self.features(a, seen, fitted.settings["taps"]["a"], group)
            size = self._map_size(b, plan.needs["b test"], tap)
            return consistent(comparison, x, size, plan.settings["upto"], self.device)

        def make(_unfinished: Path) -> Made:
            with self._working(plan) as how:
                return tail(plan.settings, self.network(b), labels, inputs, **how)

        tensors, record = self._made(plan, make)
        return Refinement(record["history"], tensors["hits"], tuple(record["train_accuracy"]))

    @contextmanager
    def _working(self, plan: Plan):
        with progress.bar(plan.title) as show:
            yield {"device": self.device, "progress": show}

    def _made(self, plan: Plan, make) -> Made:
        """Load or make a fit or a tail, and note which of the two it was."""
        path = self.store.path(plan.kind, plan.key)
        was_there = path.exists()
        tensors, record = self.store.make(path, make)
        self.fits.setdefault(plan.key, (record, was_there))
        return tensors, record

    def _map_size(self, network: Plan, images: Plan, tap: str) -> tuple[int, int]:
        image = self.images(images).subset([0])
        found = features(self.network(network), image, tap, None, device=self.device)
        return found.shape[2], found.shape[3]


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
