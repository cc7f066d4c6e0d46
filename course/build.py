"""Write the course's notebooks: ``python course/build.py``, or ``make course``.

A lesson is one file of Markdown. What stands between fences says who gets it:

``python``           code for all
``python task``      code to complete: the student's
``python solution``  what the task asks for: the teacher's, in its place
``python check``     code for all that says whether an answer is right
``notes``            Markdown for the teacher only
``exercises``        for all, at home: exercises of the book, a line ``PAGE: TITLE`` each

`student.zip` has tasks and checks, `teacher.zip` solutions, checks and notes. Exercises of the book
stand in ``book/exercises`` and nowhere else; the teacher gets their solutions.
"""

import io
import re
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import nbformat

from kclib.atomic import replace_file
from kclib.errors import InputError

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "book"))
import exercise  # noqa: E402

LESSONS = HERE / "lessons"
KINDS = ("python", "python task", "python solution", "python check", "notes", "exercises")
#: What each reader does not get.
LEFT_OUT = {"student": ("python solution", "notes"), "teacher": ("python task",)}


class Part(NamedTuple):
    """A piece of a lesson: its kind, one of `KINDS` or "text", and what it says."""

    kind: str
    text: str


def parts(lesson: str) -> list[Part]:
    r"""Return the pieces of a lesson in their order.

    Raises
    ------
    InputError
        If a fence has another kind than those above, or no end.

    Examples
    --------
    >>> parts("# One\n```python task\nx = ...\n```\n")
    [Part(kind='text', text='# One'), Part(kind='python task', text='x = ...')]
    """
    found = []
    for number, piece in enumerate(re.split(r"^```(.*)\n", lesson, flags=re.M)):
        # The pieces are: text, the words of a fence, its content, the words of its end, text, ...
        if number % 4 == 1:
            if piece not in KINDS:
                raise InputError(f"a lesson has a fence {piece!r}; allowed: {', '.join(KINDS)}.")
            kind = piece
        elif number % 4 == 3 and piece.strip():
            raise InputError(f"a lesson has a fence {kind!r} without an end.")
        elif number % 2 == 0 and piece.strip():
            found.append(Part("text" if number % 4 == 0 else kind, piece.strip()))
    return found


def at_home(lines: str) -> list[exercise.Exercise]:
    """Return the exercises that a lesson names.

    Raises
    ------
    InputError
        If the book has no such exercise.
    """
    found = []
    for line in lines.splitlines():
        page, _, title = line.partition(": ")
        known = exercise.of(page) if page in exercise.pages() else []
        matching = [one for one in known if one.title == title]
        if not matching:
            allowed = ", ".join(one.title for one in known) or ", ".join(exercise.pages())
            raise InputError(f"a lesson names the exercise {line!r}; allowed: {allowed}.")
        found += matching
    return found


def _without_links(text: str) -> str:
    """Return Markdown whose links, which lead into the book, are words."""
    return re.sub(r"\[([^\]]+)\]\([^)\s]+\)", r"\1", text)


def notebook(lesson: str, reader: str) -> nbformat.NotebookNode:
    """Return a lesson as a notebook for the student or the teacher."""
    cells = []
    for part in parts(lesson):
        if part.kind in LEFT_OUT[reader]:
            continue
        if part.kind == "notes":
            cells.append(nbformat.v4.new_markdown_cell(f"> **For the teacher**\n\n{part.text}"))
        elif part.kind == "exercises":
            for one in at_home(part.text):
                task = f"## At home: {one.title}\n\n*{one.level}, {one.minutes} minutes*\n\n"
                cells.append(nbformat.v4.new_markdown_cell(task + _without_links(one.task)))
                if reader == "teacher":
                    said = f"> **Solution**\n\n{_without_links(one.solution)}"
                    cells.append(nbformat.v4.new_markdown_cell(said))
        elif part.kind == "text":
            cells.append(nbformat.v4.new_markdown_cell(part.text))
        else:
            cells.append(nbformat.v4.new_code_cell(part.text))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # the same file from the same lesson
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def archive(reader: str) -> bytes:
    """Return the zip of a reader's notebooks, the same bytes for the same lessons."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(LESSONS.glob("*.md")):
            name = zipfile.ZipInfo(f"{reader}/{file.stem}.ipynb", (2020, 1, 1, 0, 0, 0))
            packed.writestr(name, nbformat.writes(notebook(file.read_text(), reader)))
    return stream.getvalue()


def main() -> int:
    """Write both archives."""
    for reader in LEFT_OUT:
        file = HERE / f"{reader}.zip"
        replace_file(file, archive(reader))
        print(f"Done: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
