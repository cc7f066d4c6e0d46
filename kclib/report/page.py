"""The report: one self-contained page, and the numbers behind it as JSON and tables."""

import base64
import csv
import io
import json
import shutil
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
import torch
from PIL import Image

from ..atomic import replace_file
from .comparison import Comparison
from .findings import layers, percent, record
from .sides import TITLES

#: A scale from dark blue to yellow, which colour-blind readers can tell apart (after cividis).
SCALE = ("#00224e", "#2a3f6d", "#575d6d", "#7c7b78", "#a59c74", "#d3c164", "#fee838")
#: One colour an order, and that of what is left (Okabe and Ito).
ORDERS = ("#0072b2", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00")
LEFT = "#a6a6a6"
#: Parts of the page, in order, which a notebook can show one by one.
SECTIONS = ("glance", "layers", "pairs", "spots", "reading", "done")
_SIDE = 128  # pixels of a picture


def write(found: Comparison, folder: Path, command: str = "") -> Path:
    """Write the page, its numbers and tables into a folder; return the page's path.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from kclib import compare
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> found = compare(network, network, torch.rand(40, 3, 12, 12), order=0)
    >>> with TemporaryDirectory() as place:
    ...     page = write(found, Path(place))
    ...     sorted(path.name for path in page.parent.iterdir())
    ['channels.csv', 'index.html', 'items.csv', 'layers.csv', 'pairs.csv', 'report.json']
    """
    numbers = record(found) | ({"command": command} if command else {})
    replace_file(folder / "report.json", (json.dumps(numbers, indent=1) + "\n").encode())
    for name, rows in _tables(numbers).items():
        replace_file(folder / name, _csv(rows))
    page = _template().render(view(found, command), sections=SECTIONS, whole=True)
    replace_file(folder / "index.html", page.encode("utf-8", "replace"))
    shutil.rmtree(folder / ".unfinished", ignore_errors=True)
    return folder / "index.html"


def section(found: Comparison, name: str) -> str:
    """Return one of `SECTIONS` as HTML, with its style, to be shown in a notebook.

    Examples
    --------
    >>> from kclib import compare
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> found = compare(network, network, torch.rand(40, 3, 12, 12), order=0)
    >>> "At a glance" in section(found, "glance")
    True
    """
    return _template().render(view(found), sections=[name], whole=False)


def view(found: Comparison, command: str = "") -> dict:
    """Return what the page shows, numbers written out and pictures as data.

    Examples
    --------
    >>> from kclib import compare
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> found = compare(network, network, torch.rand(40, 3, 12, 12), order=0)
    >>> sorted(view(found))[:4]
    ['colours', 'command', 'done', 'glance']
    """
    numbers = record(found)
    return {
        "glance": numbers["at a glance"],
        "networks": [(TITLES[key], one) for key, one in found.networks.items()],
        "items": numbers["items"],
        "matrices": [_matrix(found, one, other) for one, other in (("a", "b"), ("b", "a"))],
        "pairs": [
            _pair(found, number, one) for number, one in enumerate(numbers["pairs"])
        ],
        "done": found.done,
        "command": command,
        "colours": ORDERS,
        "left_colour": LEFT,
        "scale": SCALE,
        "percent": percent,
    }  # fmt: skip


def _tables(numbers: dict) -> dict[str, list[dict]]:
    pairs = []
    for one in numbers["pairs"]:
        row = {key: one[key] for key in ("from", "layer", "to", "target")}
        for order, share in enumerate(one["orders"]):
            row |= {f"order {order}{_end(key)}": value for key, value in share.items()}
        row |= {f"order {len(one['orders']) + k}, not used": v for k, v in enumerate(one["unused"])}
        row |= {f"left{_end(key)}": value for key, value in one["left"].items()}
        pairs.append(row | {key: one[key] for key in ("floor", "ceiling", "again")})

    def longer(what: str) -> list[dict]:
        return [
            {key: one[key] for key in ("from", "layer", "to", "target")} | entry
            for one in numbers["pairs"]
            for entry in one[what]
        ]

    return {
        "layers.csv": numbers["layer by layer"],
        "pairs.csv": pairs,
        "items.csv": longer("items"),
        "channels.csv": longer("channels"),
    }


def _end(key: str) -> str:
    return "" if key == "share" else f", {key}"


def _csv(rows: list[dict]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string((Path(__file__).parent / "page.html").read_text())


def _matrix(found: Comparison, one: str, other: str) -> dict:
    """Return a direction's layers by layers as rows of cells, with their colours."""
    rows = [r for r in layers(found) if (r["from"], r["to"]) == (TITLES[one], TITLES[other])]
    targets = list(found.networks[other]["taps"])
    by_place = {(row["layer"], row["target"]): row for row in rows}

    def cell(row: dict | None, key: str) -> dict:
        if row is None:
            return {"text": "–", "title": "maps that do not correspond", "style": "", "best": False}
        dark = row[key] if key == "left" else 1 - row[key]
        ceiling = "" if row["ceiling"] is None else f", untrained {percent(row['ceiling'])}"
        return {
            "text": f"{100 * row[key]:.0f}" if key == "left" else f"{row[key]:.2f}",
            "title": (
                f"{row['from']} {row['layer']} → {row['to']} {row['target']}: left "
                f"{percent(row['left'])} (itself {percent(row['floor'])}{ceiling}), linear CKA "
                f"{row['linear CKA']:.2f}"
            ),
            "style": _painted(dark),
            "best": row["best"] and key == "left",
        }

    best = {row["target"]: row for row in rows if row["best"]}
    return {
        "from": TITLES[one],
        "to": TITLES[other],
        "targets": targets,
        "kinds": [
            {
                "title": title,
                "key": key,
                "rows": [
                    (tap, [cell(by_place.get((tap, target)), key) for target in targets])
                    for tap in found.networks[one]["taps"]
                ],
            }
            for title, key in (("left over, in %", "left"), ("linear CKA", "linear CKA"))
        ],
        "floors": [f"{100 * found.floors[other][target]:.0f}" for target in targets],
        "ceilings": [
            f"{100 * best[target]['ceiling']:.0f}"
            if target in best and best[target]["ceiling"] is not None
            else "–"
            for target in targets
        ],
    }


def _rgb(share: float) -> tuple[int, ...]:
    """Return a colour of the scale, of a share from 0 (dark) to 1 (light)."""
    place = min(1.0, max(0.0, share)) * (len(SCALE) - 1)
    low = min(int(place), len(SCALE) - 2)
    ends = [[int(SCALE[k][i : i + 2], 16) for i in (1, 3, 5)] for k in (low, low + 1)]
    return tuple(round(a + (b - a) * (place - low)) for a, b in zip(*ends, strict=True))


def _painted(share: float) -> str:
    """Return the style of a cell, with the one of black and white that contrasts more."""
    colour = _rgb(share)
    linear = (((part / 255 + 0.055) / 1.055) ** 2.4 for part in colour)  # sRGB
    luminance = sum(w * part for w, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    ink = "#000" if luminance > 0.179 else "#fff"  # (1.05 x 0.05)^0.5 - 0.05: as much either way
    return f"background:rgb({','.join(map(str, colour))});color:{ink}"


def _pair(found: Comparison, number: int, numbers: dict) -> dict:
    """Return a chosen pair as it is shown: bars, marks, pictures with maps."""
    one = found.pairs[number]
    parts, start = [], 0.0
    for order, (share, low, high) in enumerate(one.orders):
        width = min(max(0.0, share), 1 - start)
        parts.append(
            {
                "name": f"order {order}" + (" (linear)" if order == 0 else ""),
                "colour": ORDERS[order], "start": 100 * start, "width": 100 * width,
                "share": percent(share), "low": percent(low), "high": percent(high),
            }
        )  # fmt: skip
        start += width
    share, low, high = one.left
    rest = {
        "name": "left", "colour": LEFT, "start": 100 * start, "width": 100 * (1 - start),
        "share": percent(share), "low": percent(low), "high": percent(high),
    }  # fmt: skip
    marks = [("floor", "the layer itself", one.floor)]
    if one.ceiling is not None:
        marks.append(("ceiling", f"an untrained {TITLES[one.source]}", one.ceiling))
    if one.again is not None:
        marks.append(("again", f"{TITLES[one.target]} trained again", one.again))
    by_number = {entry["number"]: entry for entry in numbers["items"]}
    limit = max([float(one.spots.maps[k].quantile(0.99)) for k in one.pictures] or [1.0])
    cards = []
    for k, picture in one.pictures.items():
        entry = by_number[found.shown[k]]
        cards.append(
            {
                **entry,
                "z": f"{entry['z']:+.1f}",
                "left": percent(entry["left"]),
                "image": _data(picture.numpy().transpose(1, 2, 0), smooth=True),
                "map": _data(_coloured(one.spots.maps[k] / (limit or 1.0)), smooth=False),
            }
        )
    return {
        **numbers,
        "parts": [*parts, rest],
        "marks": [
            {
                "key": key, "name": name, "left": percent(value),
                "at": 100 * (1 - min(1.0, max(0.0, value))),
            }
            for key, name, value in marks
        ],
        "ceiling_text": "–" if one.ceiling is None else percent(one.ceiling),
        "cards": cards,
        "calibrated": "again" if one.again is not None else "energy",
        "out": sum(entry["stands out"] for entry in numbers["items"]),
        "shown_items": [e | {"z": f"{e['z']:+.1f}"} for e in numbers["items"][:6]],
        "shown_classes": [e | {"z": f"{e['z']:+.1f}"} for e in numbers["classes"][:5]],
        "shown_channels": [e | {"z": f"{e['z']:+.1f}"} for e in numbers["channels"][:8]],
    }  # fmt: skip


def _coloured(values: torch.Tensor) -> np.ndarray:
    """Paint a map (H, W) from 0 to 1 in the scale, uint8 (H, W, 3)."""
    return np.array([[_rgb(float(v)) for v in row] for row in values.clamp(0, 1)], dtype=np.uint8)


def _data(pixels: np.ndarray, *, smooth: bool) -> str:
    """Return pixels (H, W, 3) as the address of a picture that stands in the page itself."""
    image = Image.fromarray(pixels)
    scale = _SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    size = (width, height)
    image = image.resize(size, Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "JPEG" if smooth else "PNG", **({"quality": 85} if smooth else {}))
    kind = "jpeg" if smooth else "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
