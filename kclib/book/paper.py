"""What the paper prints: its numbers, from ``results/paper.json`` and nowhere else."""

import json

from .environment import RECORDED


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
