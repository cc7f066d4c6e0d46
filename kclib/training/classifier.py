"""Training a classifier, deterministic for a seed and resumable after a kill."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional as F

from ..atomic import replace_file
from ..errors import InputError, choose
from ..imagenet import normalised
from .epochs import Loss, cross_entropy, learn

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
    mixed : bool
        Compute in bfloat16 where the device gains from it; weights stay float32.

    Examples
    --------
    >>> from dataclasses import replace
    >>> replace(RECIPES["strong"], epochs=3).epochs
    3
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
    mixed: bool = True

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
    """Return the learning rate at ``step`` of ``steps`` (0-based).

    Examples
    --------
    >>> recipe = RECIPES["authors"]
    >>> [round(learning_rate(recipe, step, steps=300), 6) for step in (0, 299)]
    [0.01, 0.0001]
    """
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
    loss_of: Loss = cross_entropy,
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
    loss_of : callable
        Called as ``loss_of(batch, logits, labels)`` with the images that the network saw, float32
        and normalised, its outputs and their labels.
    checkpoint : Path, optional
        File that holds the state after each epoch; training goes on from it if it is there.
    progress : callable, optional
        Called as ``progress(done, total, text)`` with steps done and in all.

    Returns
    -------
    list of dict
        One an epoch; see `kclib.training.epochs.learn`.

    Raises
    ------
    InputError
        If images and labels do not fit each other or are too few for one batch of two, the
        checkpoint is of another recipe or seed, or training diverges.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from kclib.images import creatures
    >>> animals = creatures.render(16, classes=2, size=32)
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    >>> recipe = replace(RECIPES["strong"], epochs=2, batch=8)
    >>> history = train(network, animals.images, animals.labels, recipe, seed=0)
    >>> [row["epoch"] for row in history]
    [1, 2]
    """
    if len(images) != len(labels):
        raise InputError(f"{len(images)} images but {len(labels)} labels; give one label an image.")
    if len(images) < 2:
        raise InputError(f"{len(images)} images; training needs 2 or more.")
    if seed < 0:
        raise InputError(f"seed is {seed}; allowed: 0 or more.")
    network.to(device=device, memory_format=torch.channels_last)
    images = images.to(device)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )
    origin = {"recipe": asdict(recipe), "seed": seed}
    history = _resume(network, optimizer, origin, checkpoint) if checkpoint is not None else []

    def take(chosen: torch.Tensor) -> torch.Tensor:
        batch = images[chosen.to(device)]
        return normalised(_augmented(batch) if recipe.augment else batch)

    for row in learn(
        network,
        take,
        labels,
        optimizer,
        lambda step, steps: learning_rate(recipe, step, steps) / recipe.rate,
        epochs=recipe.epochs,
        batch=recipe.batch,
        seed=seed,
        device=device,
        loss_of=loss_of,
        mixed=recipe.mixed,
        begun=len(history),
        progress=progress,
    ):
        history.append(row)
        if checkpoint is not None:
            _save(network, optimizer, origin, history, checkpoint)
    network.eval()
    return history


@torch.no_grad()
def predict(
    network: nn.Module, images: torch.Tensor, *, device="cpu", batch: int = 256
) -> torch.Tensor:
    """Return the predicted class of each uint8 image, int64 (N,), in float32 arithmetic.

    Examples
    --------
    >>> strongest_colour = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> red_green_blue = 255 * torch.eye(3, dtype=torch.uint8)[:, :, None, None]
    >>> predict(strongest_colour, red_green_blue)
    tensor([0, 1, 2])
    """
    network.to(device=device, memory_format=torch.channels_last).eval()
    parts = [network(normalised(part.to(device))).argmax(1).cpu() for part in images.split(batch)]
    return torch.cat(parts)


def accuracy(network: nn.Module, images, labels, *, device="cpu") -> float:
    """Return the share of images (0 to 1) whose predicted class is their label.

    Examples
    --------
    >>> strongest_colour = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> red_green_blue = 255 * torch.eye(3, dtype=torch.uint8)[:, :, None, None]
    >>> round(accuracy(strongest_colour, red_green_blue, torch.tensor([0, 1, 1])), 2)
    0.67
    """
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
