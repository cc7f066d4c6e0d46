"""A user's network, lent for reading: in evaluation mode on a device, and afterwards as it was."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from ..errors import InputError


@contextmanager
def borrowed(network: nn.Module, device: torch.device | str) -> Iterator[None]:
    """Keep a network in evaluation mode on a device, without gradients, while the block runs.

    Afterwards, also after an error or an interrupt, its modules have the modes, its parameters
    and buffers the devices and values, and torch's generator the state, that they had before.
    Inside the block an autocast of the caller is off, and what was compiled runs uncompiled.

    Parameters
    ----------
    network : torch.nn.Module
    device : torch.device or str

    Raises
    ------
    InputError
        If its parameters have no values yet, or lie on several devices.

    Examples
    --------
    >>> network = nn.Dropout().train()
    >>> with borrowed(network, "cpu"):
    ...     network.training
    False
    >>> network.training
    True
    """
    _check_values(network)
    modules = list(network.modules())
    modes = [module.training for module in modules]
    parameters = [(p, p.data, p.grad) for p in network.parameters()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.autocast(torch.device(device).type, enabled=False))
            # Else nothing can be compiled, or (before torch 2.6) not be run uncompiled.
            if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            network.to(device).eval()
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for parameter, data, gradient in parameters:
            parameter.data, parameter.grad = data, gradient
        for module, name, buffer, values in buffers:
            if not torch.equal(buffer, values):
                with torch.no_grad():
                    buffer.copy_(values)
            module._buffers[name] = buffer


def _check_values(network: nn.Module) -> None:
    """Refuse a network whose weights are not all there, in one place."""
    tensors = [*network.parameters(), *network.buffers()]
    if any(isinstance(t, UninitializedParameter | UninitializedBuffer) for t in tensors):
        raise InputError(
            "the network has lazy layers without weights yet; run it once on a batch of images "
            "and train or load it, before features are read."
        )
    devices = {str(tensor.device) for tensor in tensors}
    if "meta" in devices or len(devices) > 1:
        raise InputError(
            f"the network's weights lie on {', '.join(sorted(devices))}; allowed: one device, on "
            "which they have values. Load the whole network on one device (without device_map or "
            "offloading)."
        )
