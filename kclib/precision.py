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
