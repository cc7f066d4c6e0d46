"""Born-again networks: each generation also learns from the one before it (Fig. 4)."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import InputError
from ..precision import autocast


def born_again_loss(
    teacher: nn.Module, *, weight: float = 0.5, temperature: float = 1.0, mixed: bool = True
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the loss of a network that learns from labels and from a teacher's answers.

    Cross-entropy with the labels, plus `weight` times the cross-entropy with the teacher's
    probabilities for the same, equally augmented, images. The defaults are the authors'.

    Parameters
    ----------
    teacher : torch.nn.Module
        Trained for the same classes; it is set to evaluation mode and not changed.
    weight : float
        0 or more.
    temperature : float
        Above 0; divides the outputs of teacher and student before they become probabilities.
    mixed : bool
        Whether the teacher computes in bfloat16 where the device gains from it.

    Returns
    -------
    callable
        For the argument ``loss_of`` of `kclib.training.classifier.train`.

    Raises
    ------
    InputError
        If weight or temperature is out of its range; when called, if teacher and student have
        different numbers of classes.

    Examples
    --------
    >>> teacher = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    >>> loss_of = born_again_loss(teacher, weight=0.0)  # the labels alone
    >>> labels = torch.tensor([0, 1, 1])
    >>> round(float(loss_of(torch.zeros(3, 3, 2, 2), torch.zeros(3, 2), labels)), 4)
    0.6931
    """
    if weight < 0:
        raise InputError(f"weight is {weight}; allowed: 0 or more.")
    if temperature <= 0:
        raise InputError(f"temperature is {temperature}; allowed: above 0.")
    teacher.eval()

    def loss_of(batch, logits, labels):
        with torch.no_grad(), autocast(batch.device, enabled=mixed):
            answers = teacher.to(batch.device)(batch).float()
        if answers.shape != logits.shape:
            raise InputError(
                f"the teacher knows {answers.shape[1]} classes and the network {logits.shape[1]}; "
                "they must learn the same ones."
            )
        soft = F.cross_entropy(logits / temperature, (answers / temperature).softmax(1))
        return F.cross_entropy(logits, labels) + weight * soft

    return loss_of
