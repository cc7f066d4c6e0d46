"""Training a classifier, deterministic for a seed and resumable after a kill."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional as F

from .atomic import replace_file
from .errors import InputError, choose
from .imagenet import normalised
from .precision import autocast

#: Courses of the learning rate; see `Recipe`.
SCHEDULES = ("log", "one-cycle")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with momentum on cross-entropy.

    Attributes
    ----------
    epochs : int
        Passes over the training set, 1 or more.
    batch : int
        Images per step, 2 or more.
    rate, final_rate : float
        Highest learning rate, above 0, and the last one, 0 or more (above 0 for ``"log"``).
    schedule : str
        ``"log"``: from `rate` to `final_rate`, equal factors from epoch to epoch.
        ``"one-cycle"``: linearly up to `rate` over the first quarter of all steps, then down to
        `final_rate` on a cosine.
    momentum : float
        0 to below 1.
    weight_decay : float
        0 or more.
    nesterov : bool
        Needs a momentum above 0.
    augment : bool
        Mirror images at random and shift them by up to an eighth of their side.
    """

    epochs: int
    batch: int
    rate: float
    final_rate: float
    schedule: str
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    augment: bool = False

    def __post_init__(self):
        if self.epochs < 1:
            raise InputError(f"epochs is {self.epochs}; allowed: 1 or more.")
        if self.batch < 2:
            raise InputError(f"batch is {self.batch} images; allowed: 2 or more.")
        choose("schedule", self.schedule, SCHEDULES)
        if not 0 < self.rate < math.inf:
            raise InputError(f"rate is {self.rate}; allowed: above 0.")
        log = self.schedule == "log"
        lowest = "above 0, with schedule log," if log else "0 or more"
        if not 0 <= self.final_rate <= self.rate or (log and not self.final_rate):
            raise InputError(
                f"final_rate is {self.final_rate}; allowed: {lowest} up to the rate, {self.rate}."
            )
        if not 0 <= self.momentum < 1 or (self.nesterov and not self.momentum):
            raise InputError(
                f"momentum is {self.momentum}; allowed: 0 to below 1, above 0 with nesterov."
            )
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay is {self.weight_decay}; allowed: 0 or more.")


#: The authors' recipe, and a strong short one. A profile changes single fields by name.
RECIPES = {
    "authors": Recipe(epochs=300, batch=128, rate=1e-2, final_rate=1e-4, schedule="log"),
    "strong": Recipe(
        epochs=30,
        batch=64,
        rate=0.05,
        final_rate=0.0,
        schedule="one-cycle",
        weight_decay=5e-4,
        nesterov=True,
        augment=True,
    ),
}


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate at ``step`` of ``steps`` (0-based)."""
    if recipe.schedule == "log":
        epoch = step * recipe.epochs // steps
        share = epoch / max(1, recipe.epochs - 1)
        return recipe.rate * (recipe.final_rate / recipe.rate) ** share
    rise = max(1, steps // 4)
    if step < rise:
        return recipe.rate * (step + 1) / rise
    share = (step - rise) / max(1, steps - rise)
    fall = (1 + math.cos(math.pi * share)) / 2
    return recipe.final_rate + (recipe.rate - recipe.final_rate) * fall


def train(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    loss_of: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[dict]:
    """Train a network in place.

    The whole data set is kept on the device. All randomness (order, augmentation, dropout) of an
    epoch comes from the seed and the epoch's number, so a run that was killed and resumed from
    its checkpoint ends with the same weights as one that was not interrupted.

    Parameters
    ----------
    network : torch.nn.Module
    images : torch.Tensor
        uint8, shape (N, 3, S, S).
    labels : torch.Tensor
        int64, shape (N,).
    recipe : Recipe
    seed : int
        0 or more.
    device : torch.device or str
    loss_of : callable, optional
        Called as ``loss_of(batch, logits, labels)`` with the images that the network saw, float32
        and normalised, its outputs and their labels; cross-entropy of the last two by default.
    checkpoint : Path, optional
        File that holds the state after each epoch; training goes on from it if it is there.
    progress : callable, optional
        Called as ``progress(done, total, text)`` with steps done and in all.

    Returns
    -------
    list of dict
        One an epoch: ``epoch``, ``loss``, ``accuracy`` (0 to 1, running, on training images) and
        ``seconds``.

    Raises
    ------
    InputError
        If images and labels do not fit each other or are too few for one batch of two, the
        checkpoint is of another recipe or seed, or training diverges.
    """
    if len(images) != len(labels):
        raise InputError(f"{len(images)} images but {len(labels)} labels; give one label an image.")
    if len(images) < 2:
        raise InputError(f"{len(images)} images; training needs 2 or more.")
    if seed < 0:
        raise InputError(f"seed is {seed}; allowed: 0 or more.")
    network.to(device=device, memory_format=torch.channels_last).train()
    images, labels = images.to(device), labels.to(device)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )
    origin = {"recipe": asdict(recipe), "seed": seed}
    history = _resume(network, optimizer, origin, checkpoint) if checkpoint is not None else []
    # Batch norm must not meet a batch of one image: sizes differ by one at most, from 2 up.
    per_epoch = min(math.ceil(len(images) / recipe.batch), len(images) // 2)
    steps = per_epoch * recipe.epochs
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    for epoch in range(len(history), recipe.epochs):
        began = time.perf_counter()
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed * 100_003 + epoch)
            order = torch.randperm(len(images)).to(device)
            loss_sum = torch.zeros((), device=device)
            hits = torch.zeros((), device=device)
            for number, chosen in enumerate(order.tensor_split(per_epoch)):
                step = epoch * per_epoch + number
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, step, steps)
                batch = images[chosen]
                if recipe.augment:
                    batch = _augmented(batch)
                batch = normalised(batch)
                with autocast(device):
                    logits = network(batch)
                logits = logits.float()
                if step == 0:
                    _check_labels(labels, logits.shape[1])
                if loss_of is None:
                    loss = F.cross_entropy(logits, labels[chosen])
                else:
                    loss = loss_of(batch, logits, labels[chosen])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                loss_sum += loss.detach() * len(chosen)
                hits += (logits.detach().argmax(1) == labels[chosen]).sum()
                if progress is not None:
                    progress(step + 1, steps, f"epoch {epoch + 1} of {recipe.epochs}")
        loss = float(loss_sum) / len(images)
        if not math.isfinite(loss):
            raise InputError(
                f"training diverged in epoch {epoch + 1}: the loss is {loss}. Lower the recipe's "
                f"rate, {recipe.rate}."
            )
        history.append(
            {
                "epoch": epoch + 1,
                "loss": loss,
                "accuracy": float(hits) / len(images),
                "seconds": round(time.perf_counter() - began, 2),
            }
        )
        if checkpoint is not None:
            _save(network, optimizer, origin, history, checkpoint)
    network.eval()
    return history


@torch.no_grad()
def predict(
    network: nn.Module, images: torch.Tensor, *, device="cpu", batch: int = 256
) -> torch.Tensor:
    """Return the predicted class of each uint8 image, int64 (N,), in float32 arithmetic."""
    network.to(device=device, memory_format=torch.channels_last).eval()
    parts = [network(normalised(part.to(device))).argmax(1).cpu() for part in images.split(batch)]
    return torch.cat(parts)


def accuracy(network: nn.Module, images, labels, *, device="cpu") -> float:
    """Return the share of images (0 to 1) whose predicted class is their label."""
    return float((predict(network, images, device=device) == labels).float().mean())


def _augmented(batch: torch.Tensor) -> torch.Tensor:
    """Mirror each image with probability 1/2 and shift it by up to an eighth of its side."""
    count, _, _, side = batch.shape
    reach = side // 8
    padded = F.pad(batch.float(), (reach,) * 4, mode="replicate")
    shift = torch.randint(0, 2 * reach + 1, (2, count), device=batch.device)
    mirror = torch.rand(count, device=batch.device) < 0.5
    span = torch.arange(side, device=batch.device)
    rows = shift[0, :, None] + span  # (N, S)
    columns = shift[1, :, None] + torch.where(mirror[:, None], side - 1 - span, span)  # (N, S)
    image = torch.arange(count, device=batch.device)[:, None, None]
    picked = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)  # (N, 3, S, S)


def _check_labels(labels: torch.Tensor, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"labels reach from {low} to {high}; allowed: 0 to {classes - 1}, "
            "the network's classes."
        )


def _save(network, optimizer, origin, history, checkpoint: Path) -> None:
    """Write the state after an epoch; the file is replaced at once or not at all."""
    momenta = [optimizer.state[p].get("momentum_buffer") for p in network.parameters()]
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"momentum.{k}": value for k, value in enumerate(momenta) if value is not None}
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    metadata = {"history": json.dumps(history), "origin": json.dumps(origin)}
    content = safetensors.torch.save(tensors, metadata=metadata)
    replace_file(checkpoint, content)


def _resume(network, optimizer, origin, checkpoint: Path) -> list[dict]:
    """Restore the state that `_save` wrote; without a readable one, start afresh."""
    try:
        tensors = safetensors.torch.load_file(checkpoint)
        with safe_open(checkpoint, "pt") as file:
            metadata = file.metadata()
    except (FileNotFoundError, SafetensorError):
        return []
    history, found = json.loads(metadata["history"]), json.loads(metadata["origin"])
    if found != origin:
        raise InputError(
            f"{checkpoint} is of another run ({found}; this one: {origin}); name another file, or "
            "delete it to start afresh."
        )
    device = next(network.parameters()).device
    prefix = "network."
    network.load_state_dict(
        {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    )
    for k, parameter in enumerate(network.parameters()):
        if (momentum := tensors.get(f"momentum.{k}")) is not None:
            momentum = momentum.to(device).to(memory_format=torch.preserve_format)
            optimizer.state[parameter]["momentum_buffer"] = momentum.clone(
                memory_format=torch.preserve_format
            )
    return history


def recipe_from(settings: dict) -> Recipe:
    """Return a named recipe with single fields changed: ``{"recipe": "strong", "epochs": 12}``."""
    settings = dict(settings)
    base = asdict(RECIPES[settings.pop("recipe")])
    return Recipe(**base | settings)
