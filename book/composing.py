"""Pages as the book shows them: an artefact's begins with its result and ends with exercises.

In a notebook the result comes after what it is computed from. On its page it comes first: what the
cell tagged ``result`` put out stands under the title, between the sentence that it answers and the
verdicts of its claims, and no longer where it was computed. Run from top to bottom, the notebook
that a page offers for download works all the same.
"""

import copy
from pathlib import Path

import answers
import drawings
import exercise
import nbformat
import pages

from kclib.book.claims import of
from kclib.book.records import Result
from kclib.report.command import NOTEBOOK

SOURCES = Path(__file__).parent.parent / "notebooks"
#: Drawings that say what is compared, by the artefacts that need them.
DRAWN = {
    "table1_instability": "reconstruction",
    "fig3_blind_spots": "directions",
    "table3_refinement": "refinement",
}


def verdicts(artefact: str, results: dict[str, dict[str, Result]]) -> str:
    """Return the table of an artefact's claims with their verdicts, a column a profile."""
    profiles = [profile for profile in results if artefact in results[profile]]
    known = of(artefact)
    if not known or not profiles:
        return ""
    heads = [pages.called(profile, results[profile][artefact]) for profile in profiles]
    lines = [f"| Claim | {' | '.join(heads)} |", f"| --- |{' --- |' * len(heads)}"]
    for name, claim in known.items():
        found = [
            next((o.verdict for o in results[p][artefact].claims if o.id == name), "not tested")
            for p in profiles
        ]
        statement = " ".join(claim.statement.split()).replace("|", "\\|").replace("`", "")
        lines.append(f"| {{ref}}`{statement} <claim-{name}>` | {' | '.join(found)} |")
    return "\n".join(lines)


def _text(identity: str, text: str) -> nbformat.NotebookNode:
    cell = nbformat.v4.new_markdown_cell(text)
    cell.id = identity
    return cell


def opened(
    notebook: nbformat.NotebookNode, artefact: str, results: dict[str, dict[str, Result]]
) -> nbformat.NotebookNode:
    """Return a notebook as its page: its result first, exercises last.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        Executed.
    artefact : str
        Its name.
    results : dict
        What is recorded, by profile and artefact.
    """
    page = copy.deepcopy(notebook)
    [where] = [k for k, c in enumerate(page.cells) if "result" in c.metadata.get("tags", [])]
    below = page.cells[where]
    above = copy.deepcopy(below)
    above.id = "result-first"
    above.source = f"# What the cell {below.id!r} below puts out, shown first on the page."
    above.metadata.tags = ["remove-input"]
    below.outputs = []
    below.metadata.pop("mystnb", None)
    place = f"result-{artefact.replace('_', '-')}"
    pointer = _text("result-pointer", f"*What this puts out stands {{ref}}`at the top <{place}>`.*")
    title, question = page.cells[0].source.split("\n", 1)
    sentence, profile = answers.answer(artefact, results)
    said = ""
    if sentence:
        said = f"{sentence} (*{pages.called(profile, results[profile][artefact])}*)"
    top = [_text("title", title), _text("answer", f"({place})=\n{said or 'The result:'}"), above]
    if table := verdicts(artefact, results):
        top.append(_text("verdicts-first", table))
    asked = ["## The question", question.strip()]
    if drawing := DRAWN.get(artefact):
        words = f":alt: {drawings.alternative(drawing)}\n:width: 100%"
        asked.insert(1, f"```{{image}} ../book/_generated/{drawing}.svg\n{words}\n```")
    top.append(_text(page.cells[0].id, "\n\n".join(asked)))
    rest = [*page.cells[1 : where + 1], pointer, *page.cells[where + 1 :]]
    exercises = exercise.section(artefact)
    page.cells = [*top, *rest, *([_text("exercises", exercises)] if exercises else [])]
    return page


def told_anew(
    executed: nbformat.NotebookNode, source: nbformat.NotebookNode
) -> nbformat.NotebookNode:
    """Return an executed notebook with the text and the captions that its source has now.

    So a word can be changed without a computation. Where the code differs, what was run stays.
    """
    runs: list[list[nbformat.NotebookNode]] = []  # each with what papermill put behind it
    for cell in executed.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            runs[-1].append(cell)
        elif cell.cell_type == "code":
            runs.append([cell])
    codes = [cell for cell in source.cells if cell.cell_type == "code"]
    if [run[0].source for run in runs] != [cell.source for cell in codes]:
        return executed
    left, cells = iter(runs), []
    for cell in source.cells:
        if cell.cell_type == "code":
            run = next(left)
            run[0].metadata = copy.deepcopy(cell.metadata)
            cells += run
        else:
            cells.append(copy.deepcopy(cell))
    return nbformat.from_dict({**executed, "cells": cells})


def write(
    notebooks: Path, pages_of_text: Path, stage: Path, results: dict[str, dict[str, Result]]
) -> None:
    """Write the pages of a stage: executed notebooks, and pages of text with their exercises."""
    (stage / "notebooks").mkdir()
    for path in sorted(notebooks.glob("[!.]*.ipynb")):
        page = nbformat.read(path, as_version=4)
        source = NOTEBOOK if path.name == NOTEBOOK.name else SOURCES / path.name
        if source.exists():
            page = told_anew(page, nbformat.read(source, as_version=4))
        if path.stem in pages.titles():  # the report on two networks is of no artefact
            page = opened(page, path.stem, results)
        nbformat.write(page, stage / "notebooks" / path.name)
    for path in sorted(pages_of_text.glob("*.md")):
        text = path.read_text()
        exercises = exercise.section(path.stem)
        (stage / "book" / path.name).write_text(f"{text}\n{exercises}" if exercises else text)
