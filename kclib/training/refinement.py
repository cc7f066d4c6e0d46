"""Refinement: training the layers above a tap further, on features put in there (Table 3)."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ..disentangler import Disentangler, StagewiseDisentangler
from ..errors import InputError
from ..features import resample
from .epochs import learn

#: The authors' epochs and first learning rate, for networks of full width.
AUTHORS_EPOCHS, AUTHORS_RATE = 100, 1e-5
#: The learning rate of the last epoch over that of the first.
FALL = 1e-2
#: Learning rate of a fresh network put before the tail, Adam's usual one.
FRESH_RATE = 1e-3


@dataclass(frozen=True)
class Refinement:
    """What fine-tuning a tail did to its accuracy.

    Attributes
    ----------
    history : list of dict
        One an epoch: see `kclib.training.epochs.learn`, and ``test_accuracy`` (0 to 1).
    hits : torch.Tensor
        bool, shape (epochs + 1, N): which of the N test images were right, first with the tail as
        it was given, then after each epoch.
    train_accuracy : tuple of float
        On training images, in evaluation mode: of the tail as given, and after the last epoch.

    Examples
    --------
    >>> hits = torch.tensor([[True, False], [True, True], [True, True]])
    >>> found = Refinement([], hits, train_accuracy=(0.5, 1.0))
    >>> found.before, found.accuracy, found.best_epoch
    (0.5, 1.0, 1)
    """

    history: list[dict]
    hits: torch.Tensor
    train_accuracy: tuple[float, float]

    @property
    def before(self) -> float:
        """Accuracy on test images (0 to 1) of the tail as it was given."""
        return float(self.hits[0].double().mean())

    @property
    def accuracy(self) -> float:
        """Accuracy on test images (0 to 1) after the last epoch: the result."""
        return float(self.hits[-1].double().mean())

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) with the highest accuracy on test images, the first of several."""
        return 1 + int(self.hits[1:].sum(1).argmax())

    @property
    def best_on_test(self) -> float:
        """The highest accuracy on test images over the epochs.

        It is what the authors' code reports. The epoch being chosen on the test images
        themselves, it is too high as an estimate for other images.
        """
        return float(self.hits[self.best_epoch].double().mean())

    def best_of(self, looks: int) -> float:
        """Return the highest accuracy on test images over some epochs, evenly spaced.

        The authors' fine-tuning looks every tenth of its 100 epochs, ten times, and reports the
        best look.

        Parameters
        ----------
        looks : int
            Epochs that are looked at, 1 or more, the last one among them; of fewer epochs, all.

        Examples
        --------
        >>> hits = torch.tensor([[True, True], [True, True], [True, False], [False, False]])
        >>> found = Refinement([], hits, train_accuracy=(0.5, 1.0))
        >>> found.best_of(1), found.best_of(2), found.best_of(3)
        (0.0, 0.5, 1.0)

        Raises
        ------
        InputError
            If ``looks`` is below 1.
        """
        if looks < 1:
            raise InputError(f"looks is {looks}; allowed: 1 or more.")
        epochs = len(self.hits) - 1
        chosen = sorted({-(-epochs * look // looks) for look in range(1, looks + 1)})
        return float(self.hits[chosen].double().mean(1).max())


def rate_for(epochs: int, width: float = 1.0) -> float:
    """Return the first learning rate for fewer epochs or a narrower network.

    The authors' 1e-5 belongs to 100 epochs and full width. Adam moves each weight by about its
    rate a step, and a layer of ``width`` times the inputs adds up that much less: to change its
    output as far, in fewer epochs, the rate is divided by ``width`` and by the share of epochs.

    Parameters
    ----------
    epochs : int
        1 or more.
    width : float
        Factor on channel counts, in (0, 1].

    Examples
    --------
    >>> rate_for(100), round(rate_for(10, width=0.25), 6)
    (1e-05, 0.0004)
    """
    if epochs < 1 or not 0 < width <= 1:
        raise InputError(
            f"epochs is {epochs} and width {width}; allowed: 1 or more, and above 0 up to 1."
        )
    return AUTHORS_RATE * AUTHORS_EPOCHS / epochs / width


def fine_tune(
    tail: nn.Module,
    features: torch.Tensor,
    labels: torch.Tensor,
    test_features: torch.Tensor,
    test_labels: torch.Tensor,
    *,
    epochs: int = AUTHORS_EPOCHS,
    rate: float = AUTHORS_RATE,
    batch: int = 64,
    seed: int = 0,
    fresh: nn.Module | None = None,
    mixed: bool = True,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[nn.Module, Refinement]:
    """Train a copy of a network's tail further, on given features and their labels.

    Adam on cross-entropy, the rate falling from `rate` to a hundredth of it on a log scale from
    epoch to epoch, as in the authors' code. They report the best accuracy over epochs on the test
    images; here the one after the last epoch is the result, and `Refinement.best_on_test` stands
    beside it.

    Parameters
    ----------
    tail : torch.nn.Module
        The layers above a tap, from `kclib.networks.split`; it is not changed.
    features, test_features : torch.Tensor
        float32, shape (N, C, H, W), read batch by batch (may be memory-mapped).
    labels, test_labels : torch.Tensor
        int64, shape (N,), 0-based.
    epochs : int
        1 or more.
    rate : float
        Adam's rate in the first epoch, above 0; see `rate_for`.
    batch : int
        Images a step, 2 or more.
    seed : int
        Of the order of images and of dropout, 0 or more.
    fresh : torch.nn.Module, optional
        Put before the tail and trained with it, a copy, at `FRESH_RATE` falling in the same way.
    mixed : bool
        Whether the tail computes in bfloat16 where the device gains from it while it learns.
    device : torch.device or str
    progress : callable, optional
        Called as ``progress(done, total, text)`` with steps done and in all.

    Returns
    -------
    tuned : torch.nn.Module
        The fine-tuned copy, in evaluation mode, with ``fresh`` before it if given.
    refinement : Refinement

    Raises
    ------
    InputError
        If features and labels do not belong together or to the tail, hold NaN or infinity, are
        fewer than two, an argument is out of its range, or training diverges.

    Examples
    --------
    >>> features = torch.eye(2).repeat(8, 1)[:, :, None, None]
    >>> labels = torch.tensor([0, 1]).repeat(8)
    >>> tail = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    >>> tuned, found = fine_tune(tail, features, labels, features, labels, epochs=3)
    >>> len(found.history), found.hits.shape  # of the tail as given and after each epoch
    (3, torch.Size([4, 16]))
    """
    _check_settings(epochs, rate, batch, seed)
    tail = copy.deepcopy(tail)
    groups = [{"params": list(tail.parameters()), "lr": rate}]
    if fresh is not None:
        fresh = copy.deepcopy(fresh)
        groups.append({"params": list(fresh.parameters()), "lr": FRESH_RATE})
        tail = nn.Sequential(fresh, tail)
    tail.to(device=device, memory_format=torch.channels_last)
    for what, one, other in (
        ("training", features, labels),
        ("test", test_features, test_labels),
    ):
        _check_features(tail, what, one, other, device)
    if len(features) < 2:
        raise InputError(f"{len(features)} training images; fine-tuning needs 2 or more.")
    hits = [_hits(tail, test_features, test_labels, device)]
    train_before = _accuracy(tail, features, labels, device)
    optimizer = torch.optim.Adam(groups)
    history = []
    for row in learn(
        tail,
        lambda chosen: _batch(features[chosen], device),
        labels,
        optimizer,
        lambda step, steps: FALL ** (step * epochs // steps / max(1, epochs - 1)),
        epochs=epochs,
        batch=batch,
        seed=seed,
        device=device,
        mixed=mixed,
        progress=progress,
    ):
        hits.append(_hits(tail, test_features, test_labels, device))
        history.append(row | {"test_accuracy": float(hits[-1].double().mean())})
    train_after = _accuracy(tail, features, labels, device)
    tail.eval().cpu()
    return tail, Refinement(history, torch.stack(hits), (train_before, train_after))


@torch.no_grad()
def consistent_part(
    disentangler: Disentangler | StagewiseDisentangler,
    x: torch.Tensor,
    size: tuple[int, int],
    *,
    upto: int | None = None,
    batch: int = 256,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Return x^(0) + ... + x^(upto): what network A's features give of network B's.

    Parameters
    ----------
    disentangler : Disentangler or StagewiseDisentangler
        Fitted from A's features to B's.
    x : torch.Tensor
        A's features, shape (N, C, H, W), read batch by batch.
    size : (int, int)
        Height and width of B's maps.
    upto : int, optional
        Highest order, 0 to the disentangler's; by default all.
    batch : int
        Images at a time; the result does not depend on it.
    device : torch.device or str

    Returns
    -------
    torch.Tensor
        float32, shape (N, C*, H*, W*), the maps of that size.

    Raises
    ------
    InputError
        If `upto` is out of its range.

    Examples
    --------
    >>> g = Disentangler(2, 3, order=1)
    >>> consistent_part(g, torch.randn(4, 2, 6, 6), (5, 5), upto=0).shape
    torch.Size([4, 3, 5, 5])
    """
    upto = disentangler.order if upto is None else upto
    if upto not in range(disentangler.order + 1):
        raise InputError(
            f"upto is {upto}; allowed: 0 to {disentangler.order}, the order of the disentangler."
        )
    disentangler.to(device).eval()
    whole = None
    for start in range(0, len(x), batch):
        part = x[start : start + batch].to(device, torch.float32)
        found = disentangler.decompose(resample(part, size))[: upto + 1].sum(0).cpu()
        if whole is None:  # filled as the parts come: half the memory of joining them
            whole = torch.empty((len(x), *found.shape[1:]))
        whole[start : start + len(found)] = found
    disentangler.cpu()
    return whole


@torch.no_grad()
def predict(
    tail: nn.Module,
    features: torch.Tensor,
    *,
    among: torch.Tensor | None = None,
    batch: int = 256,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Return the class that a tail gives to each feature, int64 (N,), in float32 arithmetic.

    Parameters
    ----------
    tail : torch.nn.Module
        Set to evaluation mode.
    features : torch.Tensor
        Shape (N, C, H, W).
    among : torch.Tensor, optional
        int64: the only classes to choose from; by default all.
    batch : int
    device : torch.device or str

    Examples
    --------
    >>> features = torch.eye(3)[:, :, None, None]
    >>> predict(nn.Flatten(), features)
    tensor([0, 1, 2])
    >>> predict(nn.Flatten(), features, among=torch.tensor([0, 2]))
    tensor([0, 0, 2])
    """
    tail.to(device).eval()
    parts = []
    for part in features.split(batch):
        logits = tail(_batch(part, device)).float().cpu()
        parts.append(logits.argmax(1) if among is None else among[logits[:, among].argmax(1)])
    return torch.cat(parts)


def _batch(features: torch.Tensor, device) -> torch.Tensor:
    return features.to(device, torch.float32).contiguous(memory_format=torch.channels_last)


def _hits(tail, features, labels, device) -> torch.Tensor:
    return predict(tail, features, device=device) == labels


def _accuracy(tail, features, labels, device) -> float:
    return float(_hits(tail, features, labels, device).double().mean())


def _check_settings(epochs, rate, batch, seed) -> None:
    if epochs < 1:
        raise InputError(f"epochs is {epochs}; allowed: 1 or more.")
    if not 0 < rate < math.inf:
        raise InputError(f"rate is {rate}; allowed: above 0.")
    if batch < 2:
        raise InputError(f"batch is {batch} images; allowed: 2 or more.")
    if seed < 0:
        raise InputError(f"seed is {seed}; allowed: 0 or more.")


def _check_features(tail, what, features, labels, device) -> None:
    """Refuse features that the tail cannot take, or labels that it cannot give."""
    if features.dim() != 4 or 0 in features.shape:
        raise InputError(
            f"the {what} features have shape {tuple(features.shape)}; allowed: (N, C, H, W), none "
            "of them 0."
        )
    if len(features) != len(labels):
        raise InputError(
            f"{len(features)} {what} features but {len(labels)} labels; give one label a feature, "
            "in the same order."
        )
    if not all(bool(torch.isfinite(part).all()) for part in features.split(256)):
        raise InputError(
            f"the {what} features hold NaN or infinity; find the images or the layer they come "
            "from (training may have diverged) and leave them out."
        )
    try:
        with torch.no_grad():
            outputs = tail.eval()(_batch(features[:1], device))
    except RuntimeError as error:
        raise InputError(
            f"the tail cannot take the {what} features, maps {tuple(features.shape[1:])} of an "
            f"image ({str(error).splitlines()[0]}); give features of the tap that it begins at."
        ) from None
    low, high = int(labels.min()), int(labels.max())
    if outputs.dim() != 2 or low < 0 or high >= outputs.shape[1]:
        raise InputError(
            f"the {what} labels reach from {low} to {high} and the tail gives "
            f"{tuple(outputs.shape[1:])} numbers an image; allowed: one number for each class, and "
            "labels from 0 to one less than that."
        )
