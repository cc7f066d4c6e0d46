"""Comparing two networks: one pass for all layers, fits for chosen ones, and what is found."""

import datetime
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..atomic import writable
from ..errors import DegenerateFeatures, InputError
from . import pairs as chosen_pairs
from .forecast import forecast
from .items import Items, items_of, same
from .kept import Kept
from .layers import PARTS, Cell, Products
from .models import Model, model_of, parameters
from .pairs import Fits, Pair
from .reader import Reader
from .sides import Sides, tensors_of
from .sweep import swept
from .threads import on_free_cores


@dataclass(frozen=True)
class Comparison:
    """What the report is drawn from.

    Attributes
    ----------
    networks : dict of str to dict
        By ``"a"``, ``"b"``, ``"a again"``, ``"b again"``: name, class, parameters,
        preprocessing, taps.
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
    again_a=None,
    weights_a: str | Path | None = None,
    weights_b: str | Path | None = None,
    weights_again: str | Path | None = None,
    weights_again_a: str | Path | None = None,
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
    again, again_a : torch.nn.Module or str, optional
        Second training runs of B and of A: what two runs leave of each other is the usual spread.
    weights_a, weights_b, weights_again, weights_again_a : str or Path, optional
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
        folder = Path(folder).expanduser()
        writable(folder / "index.html")
    shown = {"a": items_of(images)}
    shown["b"] = shown["a"] if images_b is None else items_of(images_b)
    same(shown["a"], shown["b"])
    named = {
        "a": (a, weights_a),
        "b": (b, weights_b),
        "a again": (again_a, weights_again_a),
        "b again": (again, weights_again),
    }
    models = _models(shown, named, size=size, seed=seed)
    fitting = {"order": order, "kernel_size": kernel_size}
    with warnings.catch_warnings(record=True) as caught, on_free_cores(tell):
        warnings.simplefilter("always")
        sides = Sides(
            models, shown, {"a": taps_a, "b": taps_b}, seed=seed, batch=batch, device=device
        )
        found = _compared(sides, folder, pairs, fitting, progress, tell)
    found.done["warnings"] += _told(caught)
    found.done["seconds"] = round(time.perf_counter() - began, 1)
    return found


def _models(shown: dict[str, Items], named: dict[str, tuple], **how: Any) -> dict[str, Model]:
    """Return the networks that were named, made for what they are shown."""
    kind = shown["a"].kind
    if shown["b"].kind != kind:
        raise InputError(f"A is shown a kind of {kind}, B of {shown['b'].kind}; allowed: the same.")
    texts = shown["a"].get(range(len(shown["a"]))) if kind == "text" else []
    how |= {"kind": kind, "sized": shown["a"].sized and shown["b"].sized}
    how["texts"] = [text for text in texts if text]
    return {
        key: model_of(given, weights=weights, **how)
        for key, (given, weights) in named.items()
        if given is not None
    }


def _compared(
    sides: Sides,
    folder: Path | None,
    named: list[tuple[str, str]] | None,
    fitting: dict[str, int],
    progress: Callable[[int, int, str], None],
    tell: Callable[[str], None],
) -> Comparison:
    """Read all networks, fit chosen pairs, and return what was found."""
    kept = Kept(folder and folder / ".unfinished", sides.key())
    with sides.readers() as readers:
        chosen_pairs.check(named, readers)
        tell(forecast(sides, readers, named=named, **fitting))
        products = swept(sides, readers, kept, progress)
        if sides.left_out:
            said = f"{len(sides.left_out)} files cannot be read and were left out: "
            sides.notes.append(said + sides.names_of(sides.left_out) + ".")
            tell(sides.notes[-1])
        progress(0, 1, "solving for all layers")
        cells = {(one, other): products.cells(one, other) for one, other in products.directions}
        floors = {key: products.floors(key) for key in ("a", "b")}
        chosen = chosen_pairs.chosen(cells, named)
        fits = Fits(sides, readers, chosen, kept, progress=progress, **fitting)
    return Comparison(
        {k: _described(sides, k, readers[k]) for k in sides.models if "untrained" not in k},
        sides.shown["a"],
        tuple(fits.held_out),
        cells,
        floors,
        [fits.pair(number) for number in range(len(chosen))],
        _done(sides, products, fits),
    )


def _described(sides: Sides, key: str, reader: Reader) -> dict:
    """Return what a report says of a network."""
    model = sides.models[key]
    return {
        "name": model.name,
        "class": type(model.network).__name__,
        "parameters": parameters(model.network),
        "preprocessing": model.preprocessing,
        "input": ", ".join(
            f"{name} {' × '.join(map(str, value.shape[1:]))}".strip()
            for name, value in tensors_of(sides.given(key))
        ),
        "taps": {tap: list(shape) for tap, shape in reader.shapes.items()},
    }


def _done(sides: Sides, products: Products, fits: Fits) -> dict:
    """Return what a report says of how it was made."""
    from .. import __version__

    return {
        "date": datetime.date.today().isoformat(),
        "kclib": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(sides.device),
        "threads": torch.get_num_threads(),
        "seed": sides.seed,
        "order": fits.how["order"],
        "kernel size of chosen pairs": fits.how["kernel_size"],
        "items, all layers": dict(zip(PARTS, products.images.tolist(), strict=True)),
        "items, chosen pairs": {"fit": fits.fitted, "held out": len(fits.held_out)},
        "left out": [sides.shown["a"].names[k] for k in sides.left_out],
        "warnings": sides.notes,
    }


def _told(caught: list[warnings.WarningMessage]) -> list[str]:
    """Return warnings without their repetitions; those of single fits are counted."""
    odd = [one for one in caught if issubclass(one.category, DegenerateFeatures)]
    said = [str(one.message) for one in caught if one not in odd]
    if odd:
        said.append(
            f"{len(odd)} fits were on layers with channels that never vary or repeat others: "
            "there a ridge chooses among the weights."
        )
    return list(dict.fromkeys(said))
