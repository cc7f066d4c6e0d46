"""Pages of artefacts: result first, exercises last, and a notebook that still runs in its order."""

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from made_up import a_result

from kclib.errors import InputError

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "book"))
import answers  # noqa: E402
import composing  # noqa: E402
import exercise  # noqa: E402
import front  # noqa: E402
import pages  # noqa: E402

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[!.]*.ipynb"))
#: Pages of text that one reads from top to bottom; the others are for looking up.
CHAPTERS = ["explore", "method", "fitting", "claims", "data", "rerun", "own_networks"]


@pytest.fixture(scope="module")
def recorded():
    return front.recorded()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_begins_with_its_result_and_loses_nothing(path, recorded):
    notebook = nbformat.read(path, as_version=4)
    page = composing.opened(notebook, path.stem, recorded)
    nbformat.validate(page)
    title, answer, result, *_ = page.cells
    assert title.source == f"# {pages.titles()[path.stem]}" and "**" in answer.source
    [tagged] = [cell for cell in notebook.cells if "result" in cell.metadata.get("tags", [])]
    assert result.outputs == tagged.outputs != []
    was, now = ([c for c in n.cells if c.cell_type == "code"] for n in (notebook, page))
    assert [c.source for c in now[1:]] == [c.source for c in was]
    assert all(line.startswith("#") for line in result.source.splitlines())
    before, after = (
        sorted(json.dumps(o) for c in cells for o in c.outputs) for cells in (was, now)
    )
    assert before == after  # moved, not doubled
    words = "\n".join(c.source for c in page.cells if c.cell_type == "markdown")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert all(line in words for line in cell.source.splitlines()), cell.id
    for name in composing.of(path.stem):
        assert f"<claim-{name}>`" in words


def test_words_and_captions_change_without_a_run():
    source = nbformat.read(NOTEBOOKS[0], as_version=4)
    executed = composing.copy.deepcopy(source)
    [where] = [k for k, c in enumerate(source.cells) if "parameters" in c.metadata.get("tags", [])]
    injected = nbformat.v4.new_code_cell("profile = 'smoke'")
    injected.metadata.tags = ["injected-parameters"]
    executed.cells.insert(where + 1, injected)
    last = max(k for k, c in enumerate(source.cells) if c.cell_type == "code")
    source.cells[0].source = "# Another title"
    source.cells.insert(where + 1, nbformat.v4.new_markdown_cell("A word more."))
    source.cells[last + 1].metadata["mystnb"] = {"figure": {"caption": "New."}}

    page = composing.told_anew(executed, source)
    nbformat.validate(page)
    assert page.cells[0].source == "# Another title"
    assert [page.cells[where + k].source for k in (1, 2)] == [injected.source, "A word more."]
    assert page.cells[last + 2].metadata["mystnb"] == {"figure": {"caption": "New."}}
    outputs = [c.get("outputs") for c in page.cells if c.cell_type == "code"]
    assert outputs == [c.get("outputs") for c in executed.cells if c.cell_type == "code"]

    source.cells[last + 1].source += "\n# other code"
    assert composing.told_anew(executed, source) is executed


def test_each_page_of_an_artefact_and_each_chapter_has_exercises():
    names = {path.stem for path in NOTEBOOKS} | {*CHAPTERS, "performance"}
    assert set(exercise.pages()) == names == {path.stem for path in exercise.FOLDER.glob("*")}
    for name in names:
        found = exercise.of(name)
        assert len(found) >= 3 and len({one.title for one in found}) == len(found)
        assert {one.level for one in found} >= {"easy"} or name in ("method", "fitting", "rerun")
        for one in found:  # plain Markdown, which Jupyter shows as the book does
            assert not re.search(r"\{\w+\}`|^:::", one.task + one.solution, re.M), one.title


def test_exercises_are_listed_with_where_they_stand():
    listed = exercise.catalogue(pages.titles("book") | pages.titles())
    count = sum(len(exercise.of(page)) for page in exercise.pages())
    assert len(listed.splitlines()) == count + 2
    assert "[Two channels](method.md#two-channels) | [The method](method.md) | medium |" in listed
    assert "(../notebooks/table1_instability.ipynb#what-an-interval-covers)" in listed


@pytest.mark.parametrize(
    "text",
    [
        "### A\n\n*simple, 5 minutes*\n\nWhat?\n\n:::{dropdown} Solution\nThat.\n:::\n",
        "### A\n\n*easy*\n\nWhat?\n\n:::{dropdown} Solution\nThat.\n:::\n",
        "### A\n\n*easy, 5 minutes*\n\nWhat?\n",
    ],
)
def test_an_exercise_of_another_shape_is_refused(text):
    with pytest.raises(InputError, match="an exercise of another shape, 'A'"):
        exercise.parsed("method", text)


def test_every_artefact_has_an_answer_and_none_without_results(recorded):
    for path in NOTEBOOKS:
        said, profile = answers.answer(path.stem, recorded)
        assert re.search(r"\*\*[−+\d]", said) and profile in recorded
        assert answers.answer(path.stem, {}) == ("", "")


def test_an_answer_has_the_numbers_of_its_rows():
    rows = [
        {"fit": "joint, per image", "pairs": 2, "tap": "conv5_3", "direction": direction, "left": n}
        for direction, n in (("fine to binary", 0.125), ("binary to fine", 0.5))
    ]
    result = a_result("quick", artefact="fig5_tasks", rows=rows)
    said, profile = answers.answer("fig5_tasks", {"quick": {"fig5_tasks": result}})
    assert re.findall(r"\*\*(\d+)\xa0%", said) == ["12", "50"] and profile == "quick"
