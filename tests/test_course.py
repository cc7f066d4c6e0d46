"""The course: solutions pass the checks, tasks alone do not, and archives are whole."""

import importlib.util
import io
import re
import zipfile
from pathlib import Path

import nbformat
import pytest
import torch

from kclib.errors import InputError

ROOT = Path(__file__).parent.parent


specification = importlib.util.spec_from_file_location("course", ROOT / "course" / "build.py")
course = importlib.util.module_from_spec(specification)
specification.loader.exec_module(course)
LESSONS = sorted(course.LESSONS.glob("*.md"))


def unpacked(reader: str) -> dict[str, list]:
    """Return the cells of each notebook of an archive."""
    with zipfile.ZipFile(io.BytesIO(course.archive(reader))) as packed:
        assert packed.testzip() is None
        return {
            Path(name).stem: nbformat.reads(packed.read(name).decode(), 4).cells
            for name in packed.namelist()
        }


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_solutions_pass_the_checks(lesson, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    with torch.random.fork_rng():
        for cell in unpacked("teacher")[lesson.stem]:
            if cell.cell_type == "code":
                exec(compile(cell.source, lesson.name, "exec"), names)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_every_task_has_a_solution_and_a_check(lesson):
    kinds = [p.kind for p in course.parts(lesson.read_text()) if p.kind != "text"]
    assert kinds[:2] == ["notes", "python"] and kinds.pop() == "exercises"
    assert kinds[2:] == ["python task", "python solution", "python check"] * 2 + kinds[8:]
    assert len(kinds[2:]) % 3 == 0
    notes = next(p.text for p in course.parts(lesson.read_text()) if p.kind == "notes")
    for word in ("**Aims.**", "**Plan, 90 minutes.**", "**What goes wrong.**"):
        assert word in notes
    assert sum(map(int, re.findall(r"(?<![\w,])(\d+): ", notes))) == 90


def test_a_task_that_was_not_done_fails_its_check():
    [task] = [p.text for p in course.parts(LESSONS[3].read_text()) if p.kind == "python task"][:1]
    check = next(p.text for p in course.parts(LESSONS[3].read_text()) if p.kind == "python check")
    names = {}
    with pytest.raises((AssertionError, AttributeError)):
        exec(f"{task}\n{check}", names)


def test_a_student_gets_no_solution_and_no_note():
    assert len(LESSONS) == 6
    student, teacher = unpacked("student"), unpacked("teacher")
    for lesson in LESSONS:
        given = "\n".join(cell.source for cell in student[lesson.stem])
        held = "\n".join(cell.source for cell in teacher[lesson.stem])
        for part in course.parts(lesson.read_text()):
            if part.kind == "exercises":
                for one in course.at_home(part.text):
                    assert f"## At home: {one.title}" in given and one.title in held
                    first = one.solution.splitlines()[0].split("[")[0]
                    assert first not in given and first in held
                continue
            assert (part.text in given) == (part.kind not in course.LEFT_OUT["student"])
            assert (part.text in held) == (part.kind not in course.LEFT_OUT["teacher"])


def test_what_the_student_takes_home_is_plain_markdown():
    for cells in unpacked("student").values():
        for cell in cells:
            assert not re.search(r":::|\{\w+\}`|\]\(", cell.source)


@pytest.mark.parametrize("line", ["method: No such", "no_such_page: Direction"])
def test_an_exercise_that_the_book_does_not_have_is_refused(line):
    with pytest.raises(InputError, match="a lesson names the exercise"):
        course.at_home(line)


def test_the_same_lessons_make_the_same_archive():
    assert course.archive("student") == course.archive("student")


@pytest.mark.parametrize("text", ["```bash\nls\n```\n", "```python\nx\n```python task\ny\n```\n"])
def test_a_fence_that_nobody_knows_is_refused(text):
    with pytest.raises(InputError, match="a lesson has a fence"):
        course.parts(text)
