"""bfloat16 arithmetic where the machine gains from it."""

import torch


def gains_from_bfloat16(device: torch.device | str) -> bool:
    """Say whether the device multiplies bfloat16 matrices in hardware.

    Examples
    --------
    >>> gains_from_bfloat16("cpu") in (True, False)
    True
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def reduced_precision(device: torch.device | str, mixed: bool) -> torch.dtype:
    """Return bfloat16 if asked for and where the machine gains from it, otherwise float32.

    Examples
    --------
    >>> reduced_precision("cpu", mixed=False)
    torch.float32
    """
    return torch.bfloat16 if mixed and gains_from_bfloat16(device) else torch.float32


def autocast(device: torch.device | str, *, enabled: bool = True) -> torch.autocast:
    """Return bfloat16 autocast, switched on only where the machine gains from it.

    Examples
    --------
    >>> with autocast("cpu", enabled=False):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
    """
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=enabled and gains_from_bfloat16(device))
