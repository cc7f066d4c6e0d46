"""One thing has one name in the book's prose, and the glossary can be looked through."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    *sorted((ROOT / "book").rglob("*.md")),
    *sorted((ROOT / "course" / "lessons").glob("*.md")),
    *sorted((ROOT / "notebooks").glob("[!.]*.ipynb")),
    ROOT / "README.md",
]
PAGES = [page for page in PAGES if not {"_build", "_generated"} & {*page.parts}]
#: What the book calls otherwise, each with what it says instead.
OTHERWISE = {
    r"residuals?": "what is left, the share left",
    r"rebuil[dt]s?": "reconstruct",
    r"method chapter": "a link",
    r"1e\+0?\d+": "1,000,000",
    r"\w*(?:normaliz|initializ|regulariz|optimiz|minimiz|visualiz|recogniz|generaliz)\w*": "-is-",
    r"(?:behavior|center|color|favor|artifact|gray|modeling|labeled)s?": "British spelling",
}


def prose(page: Path) -> str:
    """Return a page without its code."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text())["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    else:
        text = page.read_text()
    text = re.sub(r"^ *```(?:python|bash|\{raw\}).*?^ *```", "", text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`|^:color:.*$|^ {4,}\S.*$", "", text, flags=re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_one_thing_has_one_name(page):
    text = prose(page)
    for word, instead in OTHERWISE.items():
        found = re.search(rf"\b{word}\b", text)
        assert not found, f"{found[0]!r}; the book says: {instead}"


def test_another_name_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("The residual of `residual`.\n```python\nresidual\n```\n")
    assert prose(page).split() == ["The", "residual", "of", "."]
    with pytest.raises(AssertionError, match="'residual'; the book says: what is left"):
        test_one_thing_has_one_name(page)


def test_the_glossary_is_in_alphabetical_order():
    text = (ROOT / "book" / "glossary.md").read_text().split("```{glossary}\n")[1].split("```")[0]
    terms = re.findall(r"^(\S.*)$", text, re.M)
    assert len(terms) > 40 and terms == sorted(terms, key=str.lower)
    pages = "".join(page.read_text() for page in PAGES if page.suffix == ".md")
    asked = re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", pages)
    assert asked and {*map(str.lower, asked)} <= {*map(str.lower, terms)}
