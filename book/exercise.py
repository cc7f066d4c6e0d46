"""Exercises, each written once: in a file of ``book/exercises`` that is named after its page.

A page ends with its file's exercises, the page of exercises lists them all, and lessons of the
course name those that belong to them. An exercise is plain Markdown: a heading, a line that says
how hard it is and how long it takes, the task, and its solution in a dropdown.
"""

import re
from pathlib import Path
from typing import NamedTuple

import yaml

from kclib.errors import InputError

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "book" / "exercises"
LEVELS = ("easy", "medium", "hard", "project")
_SHAPE = re.compile(
    r"\A(?P<title>.+)\n\n\*(?P<level>\w+), (?P<minutes>\d+) minutes\*\n\n(?P<task>.+?)\n\n"
    r":::\{dropdown\} Solution\n(?P<solution>.+?)\n:::\s*\Z",
    re.S,
)


class Exercise(NamedTuple):
    """An exercise: its page, title, level (of `LEVELS`), minutes, task and solution."""

    page: str
    title: str
    level: str
    minutes: int
    task: str
    solution: str

    def address(self) -> str:
        """Return where it stands in the book, seen from a page of ``book``."""
        home = f"{self.page}.md" if (ROOT / "book" / f"{self.page}.md").exists() else None
        anchor = re.sub(r"[^\w -]", "", self.title.lower()).replace(" ", "-")
        return f"{home or f'../notebooks/{self.page}.ipynb'}#{anchor}"


def parsed(page: str, text: str) -> list[Exercise]:
    r"""Return the exercises of a file.

    Raises
    ------
    InputError
        If one has another shape than the module says.

    Examples
    --------
    >>> text = "### Sum\n\n*easy, 1 minutes*\n\n1 + 1?\n\n:::{dropdown} Solution\n2\n:::\n"
    >>> parsed("method", text)[0].solution
    '2'
    """
    found = []
    for part in re.split(r"^### ", text, flags=re.M)[1:]:
        match = _SHAPE.match(part)
        if match is None or match["level"] not in LEVELS:
            raise InputError(
                f"book/exercises/{page}.md has an exercise of another shape, "
                f"{part.splitlines()[0]!r}; it takes a heading, *LEVEL, N minutes* with one of "
                f"{', '.join(LEVELS)}, a task, and :::{{dropdown}} Solution."
            )
        words = match.groupdict() | {"page": page, "minutes": int(match["minutes"])}
        found.append(Exercise(**words))
    return found


def pages() -> list[str]:
    """Return the names of the pages that have exercises, in the book's order."""
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    names = [Path(chapter["file"]).name for part in parts for chapter in part["chapters"]]
    return [name for name in names if (FOLDER / f"{name}.md").exists()]


def of(page: str) -> list[Exercise]:
    """Return the exercises of a page."""
    return parsed(page, (FOLDER / f"{page}.md").read_text())


def section(page: str) -> str:
    """Return what a page ends with, in MyST; nothing where it has no exercises."""
    if not (FOLDER / f"{page}.md").exists():
        return ""
    of(page)  # refuses what has another shape
    return f"## Exercises\n\n{(FOLDER / f'{page}.md').read_text()}"


def catalogue(titles: dict[str, str]) -> str:
    """Return the table of all exercises; ``titles`` has those of their pages."""
    lines = ["| Exercise | Page | Difficulty | Minutes |", "| --- | --- | --- | --- |"]
    for page in pages():
        for one in of(page):
            home = f"[{titles[page]}]({one.address().split('#')[0]})"
            lines.append(
                f"| [{one.title}]({one.address()}) | {home} | {one.level} | {one.minutes} |"
            )
    return "\n".join([*lines, ""])
