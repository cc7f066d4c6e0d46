"""A network that is read batch by batch at several taps, beside others."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import InputError
from ..reading import inputs, layouts, taps
from ..reading.borrowed import borrowed


class Reader:
    """Reads features of batches at taps; made by `reading`.

    Attributes
    ----------
    shapes : dict of str to (int, int, int)
        C, H and W by tap.
    """

    def __init__(
        self,
        network: nn.Module,
        names: list[str],
        first,
        *,
        title: str,
        device,
        averaged: bool = False,
        **how,
    ):
        self.network, self.prefix = taps.unwrapped(network)
        self.title, self.device, self.averaged = title, device, averaged
        self.places = [taps.locate(self.network, name, self.prefix) for name in names]
        floats = (p.dtype for p in self.network.parameters() if p.is_floating_point())
        self._dtype = next(floats, None)
        trail = layouts.Trail()
        small = [inputs.take(first, torch.arange(n) % inputs.rows(first)) for n in (2, 3)]
        two, three = map(self._called, small)
        trail.begin(three)
        after_two = self._run(two)
        after_three = self._run(three, watch=trail.see)
        layout: Mapping[str, str] = how.pop("layout", None) or {}
        self._layouts = {
            place.tap: layouts.recognise(
                after_two[place.tap],
                after_three[place.tap],
                place.tap,
                trail.until(place.module, place.use or 1),
                place.module,
                declared=layout.get(place.tap),
                maps=place.before,
                **how,
            )
            for place in self.places
        }
        maps = self._maps(after_two, small[0])
        self.shapes = {tap: tuple(found.shape[1:]) for tap, found in maps.items()}

    def features(self, given) -> dict[str, torch.Tensor]:
        """Return the features of a batch by tap, float32 (N, C, H, W)."""
        return self._maps(self._run(self._called(given)), given)

    def _called(self, given):
        return inputs.as_call(given, lambda batch: batch, self._dtype, self.device)

    def _maps(self, found: dict, given) -> dict[str, torch.Tensor]:
        count, maps = inputs.rows(given), {}
        for tap, output in found.items():
            maps[tap] = self._layouts[tap].maps(output, count, tap).float().cpu()
            if self.averaged and maps[tap].shape[2] == given["attention_mask"].shape[1]:
                mask = given["attention_mask"][:, None, :, None].float()  # (N, 1, T, 1)
                total = (maps[tap] * mask).sum(2, keepdim=True)
                maps[tap] = total / mask.sum(2, keepdim=True).clamp_min(1)  # (N, C, 1, 1)
        return maps

    def _run(self, call, **how) -> dict[str, torch.Tensor]:
        try:
            return taps.read(self.network, self.places, call, **how)
        except InputError:
            raise
        except Exception as error:
            shapes = ", ".join(
                f"{name}{tuple(value.shape)}"
                for name, value in [*(("", v) for v in call[0]), *call[1].items()]
                if isinstance(value, torch.Tensor)
            )
            first = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise InputError(
                f"{self.title} fails on inputs of shape {shapes}: {type(error).__name__}: {first}"
            ) from error


@contextmanager
def reading(network: nn.Module, names: list[str], first, **how) -> Iterator[Reader]:
    """Lend a network to a `Reader` while the block runs; afterwards it is as it was.

    Parameters
    ----------
    network : torch.nn.Module
    names : list of str
        Taps, as `kclib.features.extract` takes them.
    first
        A batch as the network is to be given it, with which layouts are recognised.
    how
        title, of the network in messages; device; averaged, to average over the tokens that the
        mask of a text leaves; and of `kclib.features.extract` layout by tap, grid and tokens.
    """
    with borrowed(taps.unwrapped(network)[0], how["device"]):
        yield Reader(network, names, first, **how)
