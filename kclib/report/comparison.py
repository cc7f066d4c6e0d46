"""Comparing two networks: one pass for all layers, fits for chosen ones, and what is found."""

import datetime
import hashlib
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..atomic import writable
from ..errors import DegenerateFeatures, InputError
from ..features import resample
from ..imagenet import IMAGENET_MEAN, IMAGENET_STD
from ..measures import Evaluation
from ..reading import taps
from ..solver import Fit, cost, fit
from . import spots as spotted
from .items import Items, items_of, same
from .kept import Kept
from .layers import PARTS, Cell, Products
from .models import Model, model_of, parameters
from .reader import Reader, reading
from .stages import places

#: As many layers of each network are looked at more closely, where no pairs are named.
CHOSEN = 3
#: Images of which chosen pairs are fitted and measured, at most.
MOST = 2000
_SHOWN = 6  # images with most left over
_SAVED = 60.0  # seconds between savings of the pass over all layers
_ANOTHER = 10_007  # added to the seed: an untrained copy is not the network's own beginning
_TRIED = 8  # images on which a forecast rests
#: By key of a network: what it is called.
TITLES = {
    "a": "A",
    "b": "B",
    "again": "B trained again",
    "a untrained": "A untrained",
    "b untrained": "B untrained",
}


@dataclass(frozen=True)
class Pair:
    """One layer accounted for by another.

    Attributes
    ----------
    source, target : str
        ``"a"`` or ``"b"``.
    tap, target_tap : str
    orders : list of (float, float, float)
        Shares of Var(x*) that orders 0, 1, ... bring, lowest first, each with its interval.
    left : (float, float, float)
        The share that is left, with its interval; 95 % over held-out images.
    floor : float
        What is left of the target if it is given itself.
    ceiling : float or None
        What is left if an untrained copy of the source is given; None if there is none.
    again : float or None
        What is left if the target network trained again is given, where it is.
    spots : Spots
        Of held-out items.
    pictures : dict of int to torch.Tensor
        By place among those items, of the ones with the highest scores: what the target network
        was shown, uint8 (3, H, W), where it is an image.

    Examples
    --------
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> found = compare(network, network, torch.rand(40, 3, 12, 12), order=0)
    >>> found.pairs[0].left[0] < 0.01  # of a layer of the network, its copy leaves nothing
    True
    """

    source: str
    target: str
    tap: str
    target_tap: str
    orders: list[tuple[float, float, float]]
    left: tuple[float, float, float]
    floor: float
    ceiling: float | None
    again: float | None
    spots: spotted.Spots = field(repr=False)
    pictures: dict[int, torch.Tensor] = field(repr=False)


@dataclass(frozen=True)
class Comparison:
    """What the report is drawn from.

    Attributes
    ----------
    networks : dict of str to dict
        By ``"a"``, ``"b"`` and ``"again"``: name, class, parameters, preprocessing, taps.
    items : Items
    shown : tuple of int
        Which items the chosen pairs were measured on (held out), in the order of their spots.
    cells : dict of (str, str) to dict of (str, str) to Cell
        By source and target network, then by their taps.
    floors : dict of str to dict of str to float
        What each layer leaves of itself, by network and tap.
    pairs : list of Pair
    done : dict
        Parameters, versions, counts, times and warnings.

    Examples
    --------
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> found = compare(network, network, torch.rand(40, 3, 12, 12), order=0)
    >>> found.best("a", "b", "1")
    '1'
    """

    networks: dict[str, dict]
    items: Items = field(repr=False)
    shown: tuple[int, ...] = field(repr=False)
    cells: dict[tuple[str, str], dict[tuple[str, str], Cell]] = field(repr=False)
    floors: dict[str, dict[str, float]] = field(repr=False)
    pairs: list[Pair]
    done: dict

    def best(self, source: str, target: str, tap: str) -> str:
        """Return the layer of one network that leaves least of a layer of the other."""
        of_tap = {a: cell.left for (a, b), cell in self.cells[source, target].items() if b == tap}
        return min(of_tap, key=of_tap.__getitem__)

    def write(self, folder: str | Path, *, command: str = "") -> Path:
        """Write ``index.html``, ``report.json`` and the tables, and return the page's path.

        Parts that were kept in the folder while the comparison was made are removed.

        Parameters
        ----------
        folder : str or Path
        command : str
            What made it, for those who want to make it again.

        Raises
        ------
        StoreError
            If the disk is full or writing is not allowed.
        """
        from . import page  # here: it needs the extra "report"

        return page.write(self, Path(folder).expanduser(), command)


def compare(
    a,
    b,
    images,
    *,
    images_b=None,
    again=None,
    weights_a: str | Path | None = None,
    weights_b: str | Path | None = None,
    weights_again: str | Path | None = None,
    taps_a: list[str] | None = None,
    taps_b: list[str] | None = None,
    pairs: list[tuple[str, str]] | None = None,
    order: int = 2,
    kernel_size: int = 1,
    size: int | None = None,
    batch: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
    folder: str | Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Comparison:
    """Compare two networks on the same images: which layer holds what another one knows.

    Each layer from each other in closed form, at order 0; chosen ones at all orders. The networks
    are afterwards as they were.

    Parameters
    ----------
    a, b : torch.nn.Module or str or Model
        Networks, or their names: ``torchvision:NAME``, ``timm:NAME``, ``hf:NAME_OR_FOLDER``,
        ``package.module:function``, ``file.py:function``; see `kclib.report.models.model_of`.
    images
        A folder of images or texts, a list file, a pack or arrays, ``file.py:function``; a tensor,
        array, tuple, dict, `Dataset` or `DataLoader`; see `kclib.report.items.items_of`.
    images_b
        Other versions of the same, for B (and what is compared with B); by default the same.
    again : torch.nn.Module or str, optional
        A second training run of B: what two runs leave of each other is the usual spread.
    weights_a, weights_b, weights_again : str or Path, optional
        Files of weights, or ``"random"``.
    taps_a, taps_b : list of str, optional
        Layers, as `kclib.features.extract` takes them; by default a handful.
    pairs : list of (str, str), optional
        Taps of A and of B to look at more closely, both ways; by default three of B's layers and
        of A's, each with the layer that leaves least of it.
    order : int
        Highest order of chosen pairs, 0 to 5.
    kernel_size : int
        1 or 3, of chosen pairs.
    size : int, optional
        Side of images in pixels, by default each network's own.
    batch : int
        Images at a time.
    seed : int
        Of random weights, of which images are held out, and of the fits.
    device : torch.device or str
    folder : str or Path, optional
        Where finished parts are kept until all is done, so that an interrupted comparison goes on.
    progress : callable, optional
        Called as ``progress(done, total, text)``.
    tell : callable, optional
        Called with a line of text: the forecast, and what is left out.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If a network, an item or a tap is not there or does not fit, or a layer is not finite.
    StoreError
        If `folder` cannot be written to.

    Examples
    --------
    >>> a = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> found = compare(a, a, torch.rand(40, 3, 12, 12), order=0)
    >>> found.cells["a", "b"]["0", "0"].left < 0.01 < found.pairs[0].ceiling
    True
    >>> found.best("a", "b", "1")
    '1'
    """
    began = time.perf_counter()
    tell = tell or (lambda _: None)
    progress = progress or (lambda *_: None)
    if order not in range(6) or kernel_size not in (1, 3) or batch < 1:
        raise InputError(
            f"order is {order}, kernel_size {kernel_size} and batch {batch}; allowed: 0 to 5, 1 or "
            "3, and 1 or more."
        )
    if folder is not None:
        writable(Path(folder) / "index.html")
    shown = {"a": items_of(images)}
    shown["b"] = shown["a"] if images_b is None else items_of(images_b)
    same(shown["a"], shown["b"])
    kind = shown["a"].kind
    if shown["b"].kind != kind:
        raise InputError(f"A is shown a kind of {kind}, B of {shown['b'].kind}; allowed: the same.")
    named = {"a": (a, weights_a), "b": (b, weights_b)}
    if again is not None:
        named["again"], shown["again"] = (again, weights_again), shown["b"]
    texts = shown["a"].get(range(len(shown["a"]))) if kind == "text" else []
    sized = shown["a"].sized and shown["b"].sized
    options = {"size": size, "kind": kind, "sized": sized, "seed": seed}
    options["texts"] = [text for text in texts if text]
    models = {
        key: model_of(given, weights=weights, **options) for key, (given, weights) in named.items()
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = _Comparing(
            models, shown, {"a": taps_a, "b": taps_b, "again": taps_b}, seed, batch, device,
            folder and Path(folder).expanduser(), progress, tell,
        ).run(pairs, order, kernel_size)  # fmt: skip
    found.done["warnings"] += _told(caught)
    found.done["seconds"] = round(time.perf_counter() - began, 1)
    return found


class _Comparing:
    """One comparison while it is made."""

    def __init__(self, models, shown, named_taps, seed, batch, device, folder, progress, tell):
        self.models: dict[str, Model] = dict(models)
        self.shown: dict[str, Items] = dict(shown)
        self.seed, self.batch, self.device = seed, batch, device
        self.progress, self.tell, self.folder = progress, tell, folder
        self.notes: list[str] = []
        count = len(shown["a"])
        generator = torch.Generator().manual_seed(seed)
        self.order = torch.randperm(count, generator=generator)  # of items in the pass
        self.part = torch.zeros(count, dtype=torch.int64)
        held_out = count // 4
        self.part[self.order[:held_out]] = 2
        self.part[self.order[held_out : held_out + max(1, (count - held_out) // 8)]] = 1
        self.left_out: list[int] = []
        self._first = self._first_batch()
        self.taps = {
            key: self._taps(key, named_taps[key]) for key in models if key != "again"
        }  # fmt: skip
        if "again" in models:
            self.taps["again"] = self.taps["b"]
        self._add_untrained()

    def _first_batch(self) -> dict:
        """Return what each network is given of the first few items that can be read."""
        index: list[int] = []
        for k in range(len(self.shown["a"])):
            if self._readable([k]):
                index.append(k)
            if len(index) == 3:
                break
        if len(index) < 3:
            raise InputError(
                f"of {len(self.shown['a'])} files in {self.shown['a'].source}, {len(index)} can be "
                "read; allowed: 30 or more. Give images that open in an image viewer."
            )
        self._index = index
        return {key: self._prepared(key, index) for key in self.models}

    def _readable(self, index: list[int]) -> list[int]:
        """Return those of some items that can be read, for all networks."""
        if self.shown["a"].kind == "tensor":
            return index
        bad: set[int] = set()
        for items in dict.fromkeys(map(id, self.shown.values())):
            got = next(i for i in self.shown.values() if id(i) == items).get(index)
            bad |= {k for k, item in zip(index, got, strict=True) if item is None}
        return [k for k in index if k not in bad]

    def _prepared(self, key: str, index: list[int], got=None):
        items, model = self.shown[key], self.models[key]
        got = items.get(index) if got is None else got
        try:
            return model.prepare(got)
        except InputError:
            raise
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise InputError(
                f"{TITLES[key]} ({model.name}): its preprocessing fails on {items.kind}s such as "
                f"{items.names[index[0]]!r}: {type(error).__name__}: {first}"
            ) from error

    def _taps(self, key: str, named: list[str] | None) -> list[str]:
        network = self.models[key].network
        if named:
            if len(set(named)) < len(named):
                raise InputError(f"taps are {', '.join(named)}; allowed: different ones.")
            inner, prefix = taps.unwrapped(network)
            for tap in named:
                taps.locate(inner, tap, prefix)
            return list(named)
        with self._naming(key):
            found = places(network, self._first[key], device=self.device)
        chosen = [place.tap for place in found if place.chosen]
        if not chosen:
            raise InputError(
                f"no layer of {TITLES[key]} ({self.models[key].name}) can be read without saying "
                "how; name layers with taps_a or taps_b (--taps-a, --taps-b)."
            )
        return chosen

    def _naming(self, key: str) -> ExitStack:
        """Turn a network's own errors into one line that names it."""
        stack = ExitStack()
        stack.push(lambda kind, error, _: self._explained(key, error))
        return stack

    def _explained(self, key: str, error) -> bool:
        if error is None or isinstance(error, InputError) or not isinstance(error, Exception):
            return False
        given = self._first[key]
        values = given.values() if isinstance(given, dict) else (
            given if isinstance(given, tuple) else (given,)
        )  # fmt: skip
        shapes = ", ".join(str(tuple(v.shape)) for v in values if isinstance(v, torch.Tensor))
        first = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"{TITLES[key]} ({self.models[key].name}) fails on inputs of shape {shapes}: "
            f"{type(error).__name__}: {first}"
        ) from error

    def _add_untrained(self) -> None:
        """Add untrained copies, which say how much any network of that kind accounts for."""
        for key in ("a", "b"):
            model = self.models[key]
            try:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(self.seed + _ANOTHER)
                    fresh = model.fresh().float()
            except Exception as error:
                self.notes.append(
                    f"There is no ceiling from an untrained {TITLES[key]}: "
                    f"{(str(error).strip().splitlines() or [''])[0]}"
                )
                continue
            self.models[f"{key} untrained"] = Model(
                f"{model.name}, untrained", fresh, model.prepare, "", model.fresh, model.texts
            )
            self.shown[f"{key} untrained"] = self.shown[key]
            self.taps[f"{key} untrained"] = self.taps[key]
            self._first[f"{key} untrained"] = self._first[key]

    def run(self, pairs, order: int, kernel_size: int) -> Comparison:
        """Make the comparison."""
        kept = Kept(self.folder and self.folder / ".unfinished", self._key())
        with ExitStack() as stack:
            readers = {key: stack.enter_context(self._reader(key)) for key in self.models}
            self._check_pairs(pairs, readers)
            self._forecast(readers, order, kernel_size, pairs)
            products = self._pass(readers, kept)
            if self.left_out:
                self._say_left_out()
            self.progress(0, 1, "solving for all layers")
            cells = {(one, other): products.cells(one, other) for one, other in products.directions}
            floors = {key: products.floors(key) for key in ("a", "b")}
            chosen = self._chosen(cells, pairs)
            features, held_out = self._features(readers, chosen, kept)
        found = [
            self._pair(number, len(chosen), one, features, held_out, order, kernel_size, kept)
            for number, one in enumerate(chosen)
        ]
        return Comparison(
            {key: self._described(key, readers[key]) for key in self.models if " " not in key},
            self.shown["a"],
            tuple(self._images[held_out:].tolist()),
            cells,
            floors,
            found,
            self._done(products, order, kernel_size, held_out),
        )

    def _key(self) -> str:
        """Return a text that is another for every other comparison."""
        parts = []
        for key, model in self.models.items():
            mark = hashlib.sha256(repr(model.network).encode())
            for name, value in model.network.state_dict().items():
                mark.update(name.encode())
                if isinstance(value, torch.Tensor):
                    raw = value.detach().cpu().contiguous().flatten()
                    mark.update(raw.view(torch.uint8).numpy().data if raw.numel() else b"")
            items = self.shown[key]
            parts += [key, mark.hexdigest(), items.digest, model.preprocessing, *self.taps[key]]
        from .. import __version__

        return "\n".join([__version__, str(self.seed), *parts])

    def _reader(self, key: str):
        return reading(
            self.models[key].network,
            self.taps[key],
            self._first[key],
            title=f"{TITLES[key]} ({self.models[key].name})",
            device=self.device,
            averaged=self.models[key].texts,
        )

    def _batches(self, order: torch.Tensor, readers: dict) -> Iterator[tuple[dict, list[int]]]:
        """Yield features of all networks, batch by batch, with the indices of the items."""
        for index in order.split(self.batch):
            wanted = [k for k in index.tolist() if k not in self.left_out]
            got = {}
            bad: set[int] = set()
            for key in readers:
                items = self.shown[key]
                if id(items) not in got:
                    got[id(items)] = items.get(wanted) if wanted else []
                    if items.kind != "tensor":
                        pairs = zip(wanted, got[id(items)], strict=True)
                        bad |= {k for k, item in pairs if item is None}
            self.left_out += sorted(bad)
            if bad:
                good = [k not in bad for k in wanted]
                got = {
                    name: [item for item, fine in zip(list_, good, strict=True) if fine]
                    for name, list_ in got.items()
                }
                wanted = [k for k, fine in zip(wanted, good, strict=True) if fine]
            if not wanted:
                yield {}, []
                continue
            made: dict[tuple, object] = {}
            features = {}
            for key, reader in readers.items():
                how = (id(self.shown[key]), id(self.models[key].prepare))
                if how not in made:
                    made[how] = self._prepared(key, wanted, got[id(self.shown[key])])
                features[key] = reader.features(made[how])
            yield features, wanted

    def _forecast(self, readers, order, kernel_size, pairs) -> None:
        began = time.perf_counter()
        few = self.order[: min(_TRIED, len(self.order))]
        for _ in self._batches(few, readers):
            pass
        each = (time.perf_counter() - began) / len(few)
        count = len(self.order)
        fitted, chosen = min(count, MOST), len(pairs) if pairs else CHOSEN
        fits = 0.0
        for one, other in (("a", "b"), ("b", "a")):
            for tap in list(readers[other].shapes)[-chosen:]:
                width, *size = readers[other].shapes[tap]
                given = max(shape[0] for shape in readers[one].shapes.values())
                one_fit = cost(
                    (given, width), fitted, tuple(size), order=order, kernel_size=kernel_size
                ).seconds
                fits += (2 + ("again" in readers)) * one_fit
        whole = each * (count + fitted)
        sums = sum(
            readers[one].shapes[x][0] * readers[other].shapes[y][0] * 8 * len(PARTS)
            for one, other in self._directions(readers)
            for x in readers[one].shapes
            for y in readers[other].shapes
        )
        stored = 4 * fitted * max(
            shape[0] * shape[1] * shape[2] for r in readers.values() for shape in r.shapes.values()
        )  # fmt: skip
        self.tell(
            f"{count:,} items; {len(self.taps['a'])} layers of A, {len(self.taps['b'])} of B. "
            f"About {_time(whole)} to read them all, {_time(fits)} to fit {2 * chosen} pairs; "
            f"{(sums + stored) / 1e9 + 0.5:.1f} GB of memory or disk beside the networks."
        )

    @staticmethod
    def _directions(readers) -> list[tuple[str, str]]:
        wanted = [
            ("a", "b"), ("b", "a"), ("a untrained", "b"), ("b untrained", "a"), ("again", "b"),
        ]  # fmt: skip
        return [(one, other) for one, other in wanted if one in readers and other in readers]

    def _pass(self, readers: dict[str, Reader], kept: Kept) -> Products:
        """Show all items to all networks, once; what was summed is kept from time to time."""
        shapes = {key: reader.shapes for key, reader in readers.items()}
        products = Products(shapes, self._directions(readers))
        done, odd = 0, {}
        if (before := kept.get("pass")) is not None:
            tensors, record = before
            products.resume(tensors, record["names"])
            done, self.left_out = record["done"], record["left out"]
            odd = {tuple(name): number for name, number in record["odd"]}
        saved = time.monotonic()
        total = len(self.order)
        self.progress(done, total, "reading all layers")

        def save() -> None:
            record = {
                "names": products.names(),
                "done": done,
                "left out": self.left_out,
                "odd": [[list(name), number] for name, number in odd.items()],
            }
            kept.put("pass", products.state(), record)

        if done < total:
            start = done
            for features, index in self._batches(self.order[start:], readers):
                done = min(total, done + self.batch)
                if index:
                    self._add(products, features, index, odd)
                self.progress(done, total, "reading all layers")
                if done == total or time.monotonic() - saved > _SAVED:
                    save()
                    saved = time.monotonic()
        self._check_finite(odd)
        if int(products.images.min()) < 2 or int(products.images.sum()) < 30:
            raise InputError(
                f"of {total} items {int(products.images.sum())} can be read; allowed: 30 or more. "
                f"Not readable are {self._names(self.left_out)}."
            )
        return products

    def _add(self, products: Products, features: dict, index: list[int], odd: dict) -> None:
        fine = torch.ones(len(index), dtype=torch.bool)
        for key, by_tap in features.items():
            for tap, maps in by_tap.items():
                finite = maps.sum((1, 2, 3)).isfinite()
                if not finite.all():
                    odd[key, tap] = odd.get((key, tap), 0) + int((~finite).sum())
                    fine &= finite
        if not fine.all():
            features = {k: {t: maps[fine] for t, maps in v.items()} for k, v in features.items()}
        if fine.any():
            products.add(features, self.part[torch.tensor(index)][fine])

    def _check_finite(self, odd: dict) -> None:
        if not odd:
            return
        said = "; ".join(
            f"{TITLES[key]}'s {tap!r} for {number:,} of {len(self.order):,} items"
            for (key, tap), number in odd.items()
        )
        raise InputError(
            f"layers hold NaN or infinity: {said}. Name other layers (--taps-a, --taps-b), leave "
            "those items out, or read the network in float32."
        )

    def _names(self, index: list[int]) -> str:
        names = [repr(self.shown["a"].names[k]) for k in index[:5]]
        return ", ".join(names) + (f" and {len(index) - 5} more" if len(index) > 5 else "")

    def _say_left_out(self) -> None:
        said = f"{len(self.left_out)} files cannot be read and were left out: "
        self.notes.append(said + self._names(self.left_out) + ".")
        self.tell(self.notes[-1])

    def _check_pairs(self, pairs, readers) -> None:
        for a, b in pairs or ():
            for key, tap in (("a", a), ("b", b)):
                if tap not in readers[key].shapes:
                    raise InputError(
                        f"the pair {a!r}, {b!r} names a layer that is not read; allowed, of "
                        f"{TITLES[key]}: {', '.join(readers[key].shapes)}."
                    )

    def _chosen(self, cells, pairs) -> list[tuple[str, str, str, str]]:
        """Return source, target and their taps for each pair to be looked at, both ways."""
        if pairs:
            both = [[("a", "b", x, y), ("b", "a", y, x)] for x, y in pairs]
            return [one for two in both for one in two]
        chosen = []
        for one, other in (("a", "b"), ("b", "a")):
            there = cells[one, other]
            named = list(dict.fromkeys(y for _, y in there))
            if not named:
                raise InputError(
                    "no layer of A corresponds to one of B: tokens in a line and maps cannot be "
                    "compared. Name layers of the same kind with taps_a and taps_b."
                )
            count = min(CHOSEN, len(named))
            for k in range(count):
                tap = named[round((k + 1) * len(named) / count) - 1]
                best = min((x for x, y in there if y == tap), key=lambda x: there[x, tap].left)
                chosen.append((one, other, best, tap))
        return chosen

    def _features(self, readers, chosen, kept: Kept) -> tuple[dict, int]:
        """Return features of chosen layers, and how many of their first images are fitted."""
        needed = {}
        for one, other, tap, target in chosen:
            for key in (one, f"{one} untrained"):
                needed[key, tap] = None
            needed[other, target] = None
            if other == "b":
                needed["again", target] = None
        names = [(key, tap) for key, tap in needed if key in readers]
        good = [k for k in self.order.tolist() if k not in set(self.left_out)]
        held = [k for k in good if self.part[k] == 2][: MOST // 4]
        fitted = [k for k in good if self.part[k] != 2][: MOST - len(held)]
        self._images = torch.tensor(fitted + held)
        shapes = {f"{k}/{tap}": (len(self._images), *readers[k].shapes[tap]) for k, tap in names}

        def batches():
            done = 0
            for features, index in self._batches(self._images, readers):
                done += len(index)
                self.progress(done, len(self._images), "reading chosen layers")
                yield {f"{key}/{tap}": features[key][tap] for key, tap in names}

        found = kept.features(shapes, batches())
        return {(k, tap): found[f"{k}/{tap}"] for k, tap in names}, len(fitted)

    def _pair(self, number, total, chosen, features, held_out, order, kernel_size, kept) -> Pair:
        """Fit one chosen pair, what it is compared with, and score what is left."""
        one, other, tap, target = chosen
        y = features[other, target]
        how = {"order": order, "kernel_size": kernel_size, "norm": "dataset", "seed": self.seed}
        how["solver"] = "lowest_first"

        def fitted(source: str, tap: str, **changed) -> tuple[Evaluation, torch.Tensor]:
            name = f"{source}/{tap} to {other}/{target} {sorted((how | changed).items())}"
            name = "fit " + hashlib.sha256(name.encode()).hexdigest()[:16]
            x = features[source, tap]
            if (had := kept.get(name)) is not None:
                tensors = had[0]
                left = tensors.pop("left over")
                return Evaluation.from_tensors(tensors), left
            said = (
                f"fit {number + 1} of {total}: {TITLES[source]} {tap} to {TITLES[other]} {target}"
            )
            made: Fit = fit(
                x[:held_out], y[:held_out], **(how | changed), device=self.device,
                progress=lambda done, whole, _: self.progress(done, whole, said),
            )  # fmt: skip
            tested = made.evaluate(x[held_out:], y[held_out:])
            with torch.no_grad():
                parts = [
                    part_y - made.disentangler(resample(part_x, y.shape[2:]))
                    for part_x, part_y in zip(
                        x[held_out:].split(64), y[held_out:].split(64), strict=True
                    )
                ]
            left = torch.cat(parts)
            kept.put(name, tested.tensors() | {"left over": left}, {})
            return tested, left

        evaluation, left = fitted(one, tap)
        intervals = evaluation.intervals(seed=self.seed)
        shares = [*evaluation.explained, evaluation.residual]
        numbers = [(s, *ends) for s, ends in zip(shares, intervals, strict=True)]
        floor, _ = fitted(other, target, order=0)
        ceiling = again = reference = None
        if (f"{one} untrained", tap) in features:
            ceiling = fitted(f"{one} untrained", tap)[0].residual
        if other == "b" and ("again", target) in features:
            usual, reference = fitted("again", target)
            again = usual.residual
        items = self.shown["a"]
        index = self._images[held_out:].tolist()
        labels = [items.labels[k] for k in index] if items.labels else []
        spots = spotted.spots_of(left, y[held_out:], labels=labels, reference=reference)
        highest = spots.images.argsort(descending=True)[:_SHOWN].tolist()
        pictures = {}
        for k in highest:
            if (picture := _picture(self._prepared(other, [index[k]]))) is not None:
                pictures[k] = picture
        return Pair(
            one, other, tap, target, numbers[:-1], numbers[-1], floor.residual, ceiling, again,
            spots, pictures,
        )  # fmt: skip

    def _described(self, key: str, reader: Reader) -> dict:
        model = self.models[key]
        return {
            "name": model.name,
            "class": type(model.network).__name__,
            "parameters": parameters(model.network),
            "preprocessing": model.preprocessing,
            "input": _shapes(self._first[key]),
            "taps": {tap: list(shape) for tap, shape in reader.shapes.items()},
        }

    def _done(self, products, order, kernel_size, held_out) -> dict:
        from .. import __version__

        counts = dict(zip(PARTS, products.images.tolist(), strict=True))
        return {
            "date": datetime.date.today().isoformat(),
            "kclib": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "seed": self.seed,
            "order": order,
            "kernel size of chosen pairs": kernel_size,
            "items, all layers": counts,
            "items, chosen pairs": {
                "fit": held_out, "held out": len(self._images) - held_out
            },
            "left out": [self.shown["a"].names[k] for k in self.left_out],
            "warnings": self.notes,
        }  # fmt: skip


def _told(caught: list) -> list[str]:
    """Return warnings without their repetitions; those of single fits are counted."""
    odd = [one for one in caught if issubclass(one.category, DegenerateFeatures)]
    said = [str(one.message) for one in caught if one not in odd]
    if odd:
        said.append(
            f"{len(odd)} fits were on layers with channels that never vary or repeat others: "
            "there a ridge chooses among the weights."
        )
    return list(dict.fromkeys(said))


def _shapes(given) -> str:
    values = given.items() if isinstance(given, dict) else [("", given)]
    if isinstance(given, tuple):
        values = [("", value) for value in given]
    return ", ".join(
        f"{name} {' × '.join(map(str, value.shape[1:]))}".strip()
        for name, value in values
        if isinstance(value, torch.Tensor)
    )


def _picture(given) -> torch.Tensor | None:
    """Return what a network is given of one item as a picture, uint8 (3, H, W), if it is one."""
    values = given.values() if isinstance(given, dict) else [given]
    for value in values:
        if isinstance(value, torch.Tensor) and value.dim() == 4 and value.shape[1] in (1, 3):
            image = value[0].float().expand(3, -1, -1)
            mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
            plain = (image * std + mean) / 255
            if plain.min() < -0.05 or plain.max() > 1.05:  # normalised in another way
                plain = (image - image.min()) / (image.max() - image.min()).clamp_min(1e-6)
            return (255 * plain.clamp(0, 1)).round().to(torch.uint8)
    return None


def _time(seconds: float) -> str:
    """Return a time in words, rounded.

    Examples
    --------
    >>> _time(40), _time(1000)
    ('40 s', '17 min')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

