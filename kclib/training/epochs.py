"""Epochs of stochastic descent: the one loop in which classifiers and tails learn."""

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import InputError
from ..precision import autocast
from ..seeds import of_epoch

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(_batch, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the usual loss of a classifier.

    Examples
    --------
    >>> round(float(cross_entropy(None, torch.zeros(3, 2), torch.tensor([0, 1, 1]))), 4)
    0.6931
    """
    return F.cross_entropy(logits, labels)


def learn(
    network: nn.Module,
    take: Callable[[torch.Tensor], torch.Tensor],
    labels: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    share: Callable[[int, int], float],
    *,
    epochs: int,
    batch: int,
    seed: int,
    device: torch.device | str,
    loss_of: Loss = cross_entropy,
    mixed: bool = True,
    begun: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Iterator[dict]:
    """Train a network in place, and give the word to the caller after each epoch.

    All randomness of an epoch (order, augmentation, dropout) comes from the seed and the epoch's
    number, so that a run may be resumed at any epoch.

    Parameters
    ----------
    network : torch.nn.Module
        On the device.
    take : callable
        From indices (int64, on the CPU) to what the network is given for them, on the device.
    labels : torch.Tensor
        int64, shape (N,), N from 2.
    optimizer : torch.optim.Optimizer
        Its groups' learning rates are the highest ones.
    share : callable
        ``share(step, steps)``: the share of these rates that a step takes, 0-based.
    epochs, batch, seed : int
        Passes in all, images a step (2 or more), and what randomness comes from.
    device : torch.device or str
    loss_of : callable
        Called as ``loss_of(given, logits, labels)`` with what the network was given.
    mixed : bool
        Whether the network computes in bfloat16 where the device gains from it.
    begun : int
        Epochs that an earlier run has done.
    progress : callable, optional
        Called as ``progress(done, total, text)`` with steps done and in all.

    Yields
    ------
    dict
        ``epoch`` (from 1), ``rate`` (of the first group, at the last step), ``loss``, ``accuracy``
        (0 to 1, running, on what was given) and ``seconds``.

    Raises
    ------
    InputError
        If a label is none of the network's classes, or the loss is no longer finite.

    Examples
    --------
    >>> network = nn.Linear(2, 2)
    >>> x, labels = torch.eye(2).repeat(8, 1), torch.tensor([0, 1]).repeat(8)
    >>> rows = learn(
    ...     network,
    ...     lambda chosen: x[chosen],
    ...     labels,
    ...     torch.optim.SGD(network.parameters(), lr=0.1),
    ...     lambda step, steps: 1 - step / steps,
    ...     epochs=3,
    ...     batch=4,
    ...     seed=0,
    ...     device="cpu",
    ... )
    >>> [row["epoch"] for row in rows]
    [1, 2, 3]
    """
    count = len(labels)
    labels = labels.to(device)
    highest = [group["lr"] for group in optimizer.param_groups]
    # Batch norm must not meet a batch of one image: sizes differ by one at most, from 2 up.
    per_epoch = min(math.ceil(count / batch), count // 2)
    steps = per_epoch * epochs
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    for epoch in range(begun, epochs):
        began = time.perf_counter()
        network.train()
        loss_sum, hits = (torch.zeros((), device=device) for _ in range(2))
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(of_epoch(seed, epoch))
            for number, chosen in enumerate(torch.randperm(count).tensor_split(per_epoch)):
                step = epoch * per_epoch + number
                for group, rate in zip(optimizer.param_groups, highest, strict=True):
                    group["lr"] = rate * share(step, steps)
                given, answers = take(chosen), labels[chosen.to(device)]
                with autocast(device, enabled=mixed):
                    logits = network(given)
                logits = logits.float()
                if step == 0:
                    _check_labels(labels, logits.shape[1])
                loss = loss_of(given, logits, answers)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                loss_sum += loss.detach() * len(chosen)
                hits += (logits.detach().argmax(1) == answers).sum()
                if progress is not None:
                    progress(step + 1, steps, f"epoch {epoch + 1} of {epochs}")
        mean = float(loss_sum) / count
        if not math.isfinite(mean):
            raise InputError(
                f"training diverged in epoch {epoch + 1}: the loss is {mean}. Lower the rate, "
                f"{highest[0]}."
            )
        yield {
            "epoch": epoch + 1,
            "rate": optimizer.param_groups[0]["lr"],
            "loss": mean,
            "accuracy": float(hits) / count,
            "seconds": round(time.perf_counter() - began, 2),
        }


def _check_labels(labels: torch.Tensor, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"labels reach from {low} to {high}; allowed: 0 to {classes - 1}, "
            "the network's classes."
        )
