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


def column(network: str, tap: str) -> str:
    """Return what Tables 3 and 4 of the paper call a network at a tap.

    Parameters
    ----------
    network : str
        A network's name in a profile, or its architecture: what follows a ``_`` is left out.
    tap : str

    Examples
    --------
    >>> column("vgg16_authors", "conv4_3"), column("resnet18", "layer3")
    ('VGG-16 conv4-3', 'ResNet-18')
    """
    architecture = _ARCHITECTURES[network.split("_")[0]]
    return architecture if tap == "layer3" else f"{architecture} {tap.replace('_', '-')}"
