"""What a comparison found, in plain records and in sentences: every number is computed."""

from .comparison import Comparison
from .pairs import Pair
from .sides import TITLES
from .spots import stands_out


def percent(share: float) -> str:
    """Write a share.

    Examples
    --------
    >>> percent(0.934), percent(0.0042), percent(-0.1)
    ('93 %', '0.4 %', '-10 %')
    """
    digits = 1 if 0.0005 <= abs(share) < 0.0995 else 0
    return f"{100 * share:.{digits}f} %".removeprefix("-" if abs(share) < 0.0005 else " ")


def record(found: Comparison) -> dict:
    """Return all numbers of a comparison, of JSON's types.

    Examples
    --------
    >>> import torch
    >>> from kclib import compare
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> found = compare(network, network, torch.rand(40, 3, 12, 12), order=0)
    >>> sorted(record(found))
    ['at a glance', 'items', 'layer by layer', 'networks', 'pairs', 'what was done']
    """
    items = found.items
    return {
        "at a glance": sentences(found),
        "networks": found.networks,
        "items": {
            "kind": items.kind,
            "source": items.source,
            "count": len(items),
            "classes": len(items.class_names),
        },
        "layer by layer": layers(found),
        "pairs": [pair(found, one) for one in found.pairs],
        "what was done": found.done,
    }


def layers(found: Comparison) -> list[dict]:
    """Return a row for each layer of one network and each of the other, both ways.

    Examples
    --------
    >>> import torch
    >>> from kclib import compare
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> found = compare(network, network, torch.rand(40, 3, 12, 12), order=0)
    >>> list(layers(found)[0])
    ['from', 'layer', 'to', 'target', 'left', 'floor', 'ceiling', 'linear CKA', 'best']
    """
    rows = []
    for one, other in (("a", "b"), ("b", "a")):
        chance = found.cells.get((f"{one} untrained", other), {})
        cells = found.cells[one, other]
        best = {tap: found.best(one, other, tap) for tap in dict.fromkeys(t for _, t in cells)}
        for (tap, target), cell in cells.items():
            rows.append(
                {
                    "from": TITLES[one],
                    "layer": tap,
                    "to": TITLES[other],
                    "target": target,
                    "left": cell.left,
                    "floor": found.floors[other][target],
                    "ceiling": chance[tap, target].left if (tap, target) in chance else None,
                    "linear CKA": cell.cka,
                    "best": best[target] == tap,
                }
            )
    return rows


def pair(found: Comparison, one: Pair) -> dict:
    """Return the numbers of a chosen pair.

    Examples
    --------
    >>> import torch
    >>> from kclib import compare
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> found = compare(network, network, torch.rand(40, 3, 12, 12), order=0)
    >>> len(pair(found, found.pairs[0])["items"])
    10
    """
    items, spots = found.items, one.spots
    named = range(len(spots.images))
    out = set(stands_out(spots.images))
    classes = stands_out(list(spots.classes.values()))
    labels = list(spots.classes)
    channels = set(stands_out(spots.channels))
    return {
        "from": TITLES[one.source],
        "layer": one.tap,
        "to": TITLES[one.target],
        "target": one.target_tap,
        "orders": [dict(zip(("share", "low", "high"), o, strict=True)) for o in one.orders],
        "unused": one.unused,
        "left": dict(zip(("share", "low", "high"), one.left, strict=True)),
        "floor": one.floor,
        "ceiling": one.ceiling,
        "again": one.again,
        "items": [
            {
                "number": found.shown[k],
                "item": items.names[found.shown[k]],
                "class": items.class_names[items.labels[found.shown[k]]] if items.labels else "",
                "z": float(spots.images[k]),
                "left": float(spots.shares[k]),
                "stands out": k in out,
            }
            for k in sorted(named, key=lambda k: -float(spots.images[k]))
        ],
        "classes": [
            {
                "class": items.class_names[label],
                "z": spots.classes[label],
                "stands out": number in classes,
            }
            for number, label in sorted(enumerate(labels), key=lambda e: -spots.classes[e[1]])
        ],
        "channels": [
            {"channel": int(k), "z": float(spots.channels[k]), "stands out": int(k) in channels}
            for k in spots.channels.argsort(descending=True)
        ],
    }


def sentences(found: Comparison) -> list[str]:
    """Say in sentences what was found: what each network holds of the other, and what it lacks.

    Examples
    --------
    >>> import torch
    >>> from kclib import compare
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> found = compare(network, network, torch.rand(40, 3, 12, 12), order=0)
    >>> len(sentences(found))
    4
    """
    said = []
    for one, other in (("a", "b"), ("b", "a")):
        said.append(_overall(found, one, other))
        last = [p for p in found.pairs if (p.source, p.target) == (one, other)][-1]
        said.append(_of_pair(found, last))
    return said


def _overall(found: Comparison, one: str, other: str) -> str:
    cells = found.cells[one, other]
    targets = list(dict.fromkeys(target for _, target in cells))
    best = {target: found.best(one, other, target) for target in targets}
    left = [cells[tap, target].left for target, tap in best.items()]
    several = f"Of the {len(targets)} layers of {TITLES[other]} that were read"
    text = several if len(targets) > 1 else f"Of the one layer of {TITLES[other]} that was read"
    text += f", linear maps of the best layer of {TITLES[one]} account for "
    text += _range([1 - share for share in left])
    if chance := found.cells.get((f"{one} untrained", other)):
        shares = [1 - chance[tap, target].left for target, tap in best.items()]
        text += f"; of an untrained {TITLES[one]}, for {_range(shares)}"
    return text + "."


def _range(shares: list[float]) -> str:
    shares = [max(0.0, share) for share in shares]
    low, high = percent(min(shares)), percent(max(shares))
    return low if low == high else f"{low} to {high}"


def _of_pair(found: Comparison, one: Pair) -> str:
    source, target = TITLES[one.source], TITLES[one.target]
    held, linear = max(0.0, 1 - one.left[0]), max(0.0, one.orders[0][0])
    text = f"{source}’s {one.tap} accounts for {percent(held)} of {target}’s {one.target_tap}"
    if len(one.orders) > 1:
        text += f", {percent(linear)} linearly"
    elif one.unused:
        text += ", all of it linearly"
    beside = [f"the layer itself: {percent(1 - one.floor)}"]
    if one.ceiling is not None:
        beside.append(f"an untrained {source}: {percent(max(0.0, 1 - one.ceiling))}")
    if one.again is not None:
        beside.append(f"{target} trained again: {percent(max(0.0, 1 - one.again))}")
    text += f" ({'; '.join(beside)})"
    if one.ceiling is not None and one.left[2] > one.ceiling > one.floor + 0.05:
        return text + f": no more than what an untrained {source} gives."
    if one.left[0] < one.floor + 0.005:
        return text + ": there is nothing that it lacks."
    numbers = pair(found, one)
    if classes := [entry["class"] for entry in numbers["classes"] if entry["stands out"]]:
        text += f"; what it lacks is largest in items of {_listed(classes)}"
    elif numbers["classes"]:
        text += "; what it lacks is larger in no class than chance would make it"
    if count := sum(entry["stands out"] for entry in numbers["items"]):
        stands = "stands" if count == 1 else "stand"
        text += f"; {count} of {len(numbers['items'])} held-out items {stands} out"
    else:
        text += f"; none of {len(numbers['items'])} held-out items stands out"
    return text + "."


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"“{name}”" for name in names[:3])
    return shown + (f" and {len(names) - 3} more classes" if len(names) > 3 else "")
