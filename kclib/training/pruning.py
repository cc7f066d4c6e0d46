"""Magnitude pruning, layer by layer (the compressed networks of Fig. 4)."""

from torch import nn
from torch.nn.utils import prune

from ..errors import InputError


def begin(network: nn.Module, ratio: float) -> None:
    """Set the smallest weights of each convolution and linear layer to zero and hold them there.

    The authors remove what lies below a multiple of the layer's standard deviation, so that their
    ratio differs somewhat from layer to layer; here every layer loses the same share. Biases and
    batch normalisation stay whole.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place: until `finish`, its weights are stored as ``weight_orig`` and
        ``weight_mask``, and training leaves the zeros alone.
    ratio : float
        Share of each layer's weights that is removed, above 0 and below 1.

    Raises
    ------
    InputError
        If the ratio is out of its range.

    Examples
    --------
    >>> layer = nn.Linear(4, 2)
    >>> begin(layer, 0.5)
    >>> int((layer.weight == 0).sum())
    4
    """
    if not 0 < ratio < 1:
        raise InputError(
            f"ratio is {ratio}; allowed: above 0 and below 1, the share of weights to be removed."
        )
    for layer in _layers(network):
        prune.l1_unstructured(layer, "weight", amount=ratio)


def finish(network: nn.Module) -> None:
    """Make the zeros that `begin` set part of the weights, which get their own name back.

    Examples
    --------
    >>> layer = nn.Linear(4, 2, bias=False)
    >>> begin(layer, 0.5)
    >>> [name for name, _ in layer.named_parameters()]
    ['weight_orig']
    >>> finish(layer)
    >>> [name for name, _ in layer.named_parameters()]
    ['weight']
    """
    for layer in _layers(network):
        prune.remove(layer, "weight")


def removed(network: nn.Module) -> float:
    """Return the share of all trainable parameters (0 to 1) that are zero weights of layers.

    Examples
    --------
    >>> layer = nn.Linear(4, 2, bias=False)
    >>> begin(layer, 0.5)
    >>> finish(layer)
    >>> removed(layer)
    0.5
    """
    zeros = sum(int((layer.weight == 0).sum()) for layer in _layers(network))
    return zeros / sum(parameter.numel() for parameter in network.parameters())


def _layers(network: nn.Module) -> list[nn.Module]:
    kinds = (nn.Conv2d, nn.Linear)
    return [module for module in network.modules() if isinstance(module, kinds)]
