"""The reference has every public name of kclib, each with an example that the tests run."""

import doctest
import re
import sys
from pathlib import Path

import pytest
import yaml

import kclib

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "book")]
import reference  # noqa: E402

#: Modules whose names are called by kclib itself, not by those who use it.
INNER = {
    "atomic",
    "compatibility",
    "descent",
    "muon",
    "normal_equations",
    "precision",
    "seeds",
    "report.command",
    "report.forecast",
    "report.kept",
    "report.naming",
    "report.reader",
    "report.running",
    "report.sides",
    "report.sweep",
    "report.threads",
    "report.waiting",
    "training.epochs",
}
NAMES = [name for group in reference.GROUPS for name in reference.group(group)]


def test_every_module_is_in_one_group_or_inner():
    files = [path.relative_to(ROOT / "kclib") for path in (ROOT / "kclib").rglob("*.py")]
    modules = {".".join(path.with_suffix("").parts) for path in files if "__" not in path.stem}
    offered = {name for name in modules if not name.startswith(("book.", "reading."))}
    listed = [module for group in reference.GROUPS.values() for module in group]
    assert len(listed) == len(set(listed)) and not INNER & set(listed)
    assert set(listed) | INNER == offered


def test_what_kclib_offers_itself_stands_under_that_name():
    assert {f"kclib.{name}" for name in kclib.__all__} <= set(NAMES)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_each_name_has_an_example_that_is_run(name):
    thing = reference.found(name)
    said = doctest.DocTestParser().get_examples(thing.__doc__)
    assert any(not one.options.get(doctest.SKIP) and one.want for one in said)
    module = sys.modules[thing.__module__]  # where pytest --doctest-modules finds it
    assert getattr(module, thing.__name__) is thing


def test_each_group_has_a_page():
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    chapters = [chapter for part in parts for chapter in part["chapters"]]
    (chapter,) = [chapter for chapter in chapters if chapter["file"] == "book/reference"]
    pages = [section["file"] for section in chapter["sections"]]
    assert pages == [f"book/reference/{group}" for group in reference.GROUPS]
    for group in reference.GROUPS:
        text = (reference.PAGES / f"{group}.md").read_text()
        assert text.startswith("# ") and f"_generated/reference_{group}.md" in text


def test_names_that_pages_link_to_are_in_the_reference():
    """Sphinx would leave a name that is not there as it is, without a word."""
    linked = set()
    for page in (ROOT / "book").glob("*.md"):
        linked |= set(re.findall(r"\{py:obj\}`(?:[^`<]*<)?([\w.]+)>?`", page.read_text()))
    assert len(linked) > 10
    for name in linked:
        parent, _, member = name.rpartition(".")
        there = name in NAMES or (parent in NAMES and getattr(reference.found(parent), member))
        assert there, name


def test_the_table_says_what_each_name_is():
    text = reference.overview()
    assert text.count("{py:obj}") == len(NAMES)
    assert "`fit <kclib.fit>` | Fit a disentangler that reconstructs" in text
