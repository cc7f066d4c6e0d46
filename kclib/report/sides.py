"""The networks of a comparison side by side: what each is shown, and where and how it is read."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from ..errors import InputError
from ..reading import taps
from .items import Items
from .models import Model
from .reader import Reader, reading
from .stages import places

#: By key of a network, a side and perhaps what became of it: what it is called.
TITLES = {
    "a": "A",
    "b": "B",
    "a again": "A trained again",
    "b again": "B trained again",
    "a untrained": "A untrained",
    "b untrained": "B untrained",
}
_ANOTHER = 10_007  # added to the seed: an untrained copy is not the network's own beginning
_PROBED = 3  # items with which taps are found and layouts recognised


def side(key: str) -> str:
    """Return the side of a network, ``"a"`` or ``"b"``.

    Examples
    --------
    >>> side("b untrained")
    'b'
    """
    return key.split()[0]


class Sides:
    """The networks of a comparison, of both sides, and what each is shown.

    Parameters
    ----------
    models : dict of str to Model
        By key, see `TITLES`; ``"a"`` and ``"b"`` among them. Untrained copies are added.
    shown : dict of str to Items
        By side, versions of the same items.
    named : dict of str to list of str or None
        By side, the taps; None for a handful.
    seed : int
        Of which items are held out, and of untrained copies.
    batch : int
        Items at a time.
    device : torch.device or str

    Attributes
    ----------
    taps : dict of str to list of str
        By side.
    order : torch.Tensor
        Items in the order in which they are read.
    part : torch.Tensor
        Of each item, which of `kclib.report.layers.PARTS` it is in.
    left_out : list of int
        Items that could not be read so far.
    notes : list of str
        What was missing, for the report.

    Raises
    ------
    InputError
        If fewer than three items can be read, or a tap is not there.

    Examples
    --------
    >>> from kclib.report.items import items_of
    >>> from kclib.report.models import model_of
    >>> model = model_of(torch.nn.Conv2d(3, 4, 3), kind="tensor")
    >>> shown = dict.fromkeys("ab", items_of(torch.rand(40, 3, 12, 12)))
    >>> how = {"seed": 0, "batch": 16, "device": "cpu"}
    >>> sides = Sides(dict.fromkeys("ab", model), shown, dict.fromkeys("ab", [""]), **how)
    >>> with sides.readers() as readers:
    ...     for features, index in sides.batches(sides.order, readers):
    ...         print(len(index), features["b untrained"][""].shape)
    16 torch.Size([16, 4, 10, 10])
    16 torch.Size([16, 4, 10, 10])
    8 torch.Size([8, 4, 10, 10])
    """

    def __init__(
        self,
        models: dict[str, Model],
        shown: dict[str, Items],
        named: dict[str, list[str] | None],
        *,
        seed: int,
        batch: int,
        device: torch.device | str,
    ):
        self.models, self.shown = dict(models), shown
        self.seed, self.batch, self.device = seed, batch, device
        self.notes: list[str] = []
        self.left_out: list[int] = []
        count = len(shown["a"])
        self.order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        self.part = torch.zeros(count, dtype=torch.int64)
        held_out = count // 4
        self.part[self.order[:held_out]] = 2
        self.part[self.order[held_out : held_out + max(1, (count - held_out) // 8)]] = 1
        index = self._first_readable()
        self._first = {key: self.prepared(key, index) for key in self.models}
        self.taps = {key: self._taps(key, named[key]) for key in ("a", "b")}
        for key in ("a", "b"):
            self._add_untrained(key)

    def given(self, key: str):
        """Return what a network is given of the first few items."""
        return self._first[key]

    def prepared(self, key: str, index: list[int], got=None):
        """Return what a network is given of some items, which may have been got before.

        Raises
        ------
        InputError
            If the network's preprocessing fails on them.
        """
        items, model = self.shown[side(key)], self.models[key]
        got = items.get(index) if got is None else got
        try:
            return model.prepare(got)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{TITLES[key]} ({model.name}): its preprocessing fails on {items.kind}s such as "
                f"{items.names[index[0]]!r}: {type(error).__name__}: {_first_line(error)}"
            ) from error

    @contextmanager
    def readers(self) -> Iterator[dict[str, Reader]]:
        """Lend all networks to readers while the block runs; afterwards they are as they were."""
        with ExitStack() as stack:
            yield {
                key: stack.enter_context(
                    reading(
                        model.network,
                        self.taps[side(key)],
                        self._first[key],
                        title=f"{TITLES[key]} ({model.name})",
                        device=self.device,
                        averaged=model.texts,
                    )
                )
                for key, model in self.models.items()
            }

    def batches(
        self, order: torch.Tensor, readers: dict[str, Reader]
    ) -> Iterator[tuple[dict[str, dict[str, torch.Tensor]], list[int]]]:
        """Yield features by network and tap, batch by batch, with the numbers of their items.

        Items that cannot be read are left out; a batch may be empty, therefore.
        """
        for index in order.split(self.batch):
            got, wanted = self._got([k for k in index.tolist() if k not in self.left_out])
            if not wanted:
                yield {}, []
                continue
            made: dict[tuple[int, Callable], object] = {}
            features = {}
            for key, reader in readers.items():
                items = id(self.shown[side(key)])
                how = (items, self.models[key].prepare)
                if how not in made:
                    made[how] = self.prepared(key, wanted, got[items])
                features[key] = reader.features(made[how])
            yield features, wanted

    def names_of(self, index: list[int]) -> str:
        """Return the names of items as a sentence has them: five at most."""
        names = [repr(self.shown["a"].names[k]) for k in index[:5]]
        return ", ".join(names) + (f" and {len(index) - 5} more" if len(index) > 5 else "")

    def key(self) -> str:
        """Return a text that is another for every other comparison of all layers."""
        from .. import __version__

        parts = [__version__, str(self.seed)]
        for key, model in self.models.items():
            mark = hashlib.sha256(repr(model.network).encode())
            for name, value in model.network.state_dict().items():
                mark.update(name.encode())
                if isinstance(value, torch.Tensor):
                    raw = value.detach().cpu().contiguous().flatten()
                    mark.update(raw.view(torch.uint8).numpy().data if raw.numel() else b"")
            items = self.shown[side(key)]
            parts += [key, mark.hexdigest(), items.digest, model.preprocessing]
            parts += self.taps[side(key)]
        return "\n".join(parts)

    def _first_readable(self) -> list[int]:
        found: list[int] = []
        items = self.shown["a"]
        for k in range(len(items)):
            found += self._got([k], remember=False)[1]
            if len(found) == _PROBED:
                return found
        raise InputError(
            f"of {len(items)} files in {items.source}, {len(found)} can be read; allowed: 30 or "
            "more. Give images that open in an image viewer."
        )

    def _got(self, wanted: list[int], *, remember: bool = True) -> tuple[dict, list[int]]:
        """Return items by the `id` of their source, and which of those wanted can be read."""
        sources = {id(items): items for items in self.shown.values()}
        got = {name: items.get(wanted) if wanted else [] for name, items in sources.items()}
        lists = [got[name] for name, items in sources.items() if items.kind != "tensor"]
        bad = {
            k for found in lists for k, item in zip(wanted, found, strict=True) if item is None
        }  # fmt: skip
        if not bad:
            return got, wanted
        if remember:
            self.left_out += sorted(bad)
        fine = [k not in bad for k in wanted]
        got = {
            name: [item for item, good in zip(found, fine, strict=True) if good]
            for name, found in got.items()
        }
        return got, [k for k in wanted if k not in bad]

    def _taps(self, key: str, named: list[str] | None) -> list[str]:
        model = self.models[key]
        title = f"{TITLES[key]} ({model.name})"
        if named:
            if len(set(named)) < len(named):
                raise InputError(f"taps are {', '.join(named)}; allowed: different ones.")
            inner, prefix = taps.unwrapped(model.network)
            for tap in named:
                taps.locate(inner, tap, prefix)
            return list(named)
        try:
            found = places(model.network, self._first[key], device=self.device)
        except InputError as error:
            raise InputError(f"no layer of {title} can be read: {error}") from None
        except Exception as error:
            said = f"{title} fails on inputs of shape {self._shapes(key)}: "
            said += f"{type(error).__name__}: {_first_line(error)}"
            if self.shown[side(key)].kind == "image":
                said += (
                    f". Images were {model.preprocessing}; name their size (--size), or a function "
                    "that returns the network and the transform of PIL images that it needs."
                )
            raise InputError(said) from error
        return [place.tap for place in found if place.chosen]

    def _shapes(self, key: str) -> str:
        tensors = [value for _, value in tensors_of(self._first[key])]
        return ", ".join(str(tuple(tensor.shape)) for tensor in tensors)

    def _add_untrained(self, key: str) -> None:
        """Add an untrained copy: it says how much any network of that kind accounts for."""
        model = self.models[key]
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed + _ANOTHER)
                fresh = model.fresh().float()
        except Exception as error:  # of the user's own code
            self.notes.append(f"There is no ceiling from an untrained {TITLES[key]}: "
                              f"{_first_line(error)}")  # fmt: skip
            return
        self.models[f"{key} untrained"] = Model(
            f"{model.name}, untrained", fresh, model.prepare, "", model.fresh, model.texts
        )
        self._first[f"{key} untrained"] = self._first[key]


def tensors_of(given) -> list[tuple[str, torch.Tensor]]:
    """Return the tensors of what a network is given, each with its name; without one, ``""``.

    Examples
    --------
    >>> [(name, tuple(x.shape)) for name, x in tensors_of({"pixels": torch.zeros(2, 3), "n": 4})]
    [('pixels', (2, 3))]
    """
    if isinstance(given, dict):
        values = list(given.items())
    else:
        values = [("", value) for value in (given if isinstance(given, tuple) else (given,))]
    return [(name, value) for name, value in values if isinstance(value, torch.Tensor)]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
