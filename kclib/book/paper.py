"""What the paper prints: its numbers, from ``results/paper.json`` and nowhere else."""

import json

from .environment import RECORDED

_ARCHITECTURES = {
    "alexnet": "AlexNet",
    "vgg16": "VGG-16",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
}
_GROUPS = {"VOC animal": "VOC-animal", "bird": "Mix-CUB", "dog": "Mix-Dogs"}


def numbers(artefact: str) -> dict:
    """Return the paper's numbers for an artefact; empty if the article at hand has none."""
    return json.loads((RECORDED / "paper.json").read_text()).get(artefact, {})


def listed(artefact: str, row: str, minus: str | None = None, lines: tuple[str, ...] = ()) -> str:
    """List a row of the paper's table for a reader, column by column.

    Parameters
    ----------
    artefact, row : str
    minus : str, optional
        A row that is taken away from it; differences are written with their sign.
    lines : tuple of str
        Where numbers stand under several lines, which of them.

    Examples
    --------
    >>> listed("table3_refinement", "Network A", lines=())[:21]
    'VGG-16 conv4-3 43.15;'
    """
    table, said = numbers(artefact), []
    for line in lines or ("",):
        rows = table[line] if line else table
        for column, name in enumerate(table["columns"]):
            value = rows[row][column]
            text = f"{value - rows[minus][column]:+.2f}" if minus else f"{value:g}"
            said.append(f"{line} {name} {text}".strip())
    return "; ".join(said)


def accuracy(network: str, tap: str, given: str, group: str | None = None) -> float | None:
    """Return an accuracy of Table 3 or, of a group of classes, of Table 4, in percent.

    Parameters
    ----------
    network : str
        A network's name in a profile, or its architecture: what follows a ``_`` is left out.
    tap : str
    given : str
        ``"A"``, ``"B"``, or what is fed into B's upper layers, e.g. ``"x(0)+x(1)"``.
    group : {"bird", "dog", "VOC animal"}, optional

    Returns
    -------
    float or None
        None where the paper prints none.

    Examples
    --------
    >>> accuracy("vgg16_authors", "conv4_3", "B"), accuracy("resnet18", "layer3", "A", "bird")
    (42.89, 31.93)
    """
    architecture = _ARCHITECTURES[network.split("_")[0]]
    called = architecture if tap == "layer3" else f"{architecture} {tap.replace('_', '-')}"
    table = numbers("table4_redundancy" if group else "table3_refinement")
    if group:
        column, row = _GROUPS[group], table[called].get(given, [])
    else:
        column, row = called, table.get(f"Network {given}", table.get(given, []))
    return dict(zip(table["columns"], row, strict=False)).get(column)


def gain(network: str, tap: str, given: str, group: str | None = None) -> float | None:
    """Return how much more accurate B is when it is refined, in the paper, as a share of 1.

    Parameters
    ----------
    network, tap, given, group
        As for `accuracy`.

    Examples
    --------
    >>> round(gain("vgg16", "conv4_3", "x(0)+x(1)+x(2)"), 4)
    0.0217
    >>> print(gain("vgg16", "conv4_3", "B, fine-tuned"))
    None
    """
    after, before = (accuracy(network, tap, one, group) for one in (given, "B"))
    refined = given not in ("A", "B") and after is not None and before is not None
    return (after - before) / 100 if refined else None
