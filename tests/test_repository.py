"""A book has buttons and links to its repository where there is one, and else none."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kclib.errors import InputError

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "book"))
import repository  # noqa: E402

SETTINGS = yaml.safe_load((ROOT / "_config.yml").read_text())
NAMED = {"GITHUB_REPOSITORY": "someone/a-book", "GITHUB_REF_NAME": "draft"}


def test_the_environment_names_the_repository():
    assert repository.named({}) is None and repository.named({"GITHUB_REPOSITORY": ""}) is None
    found = repository.named(NAMED)
    assert found == ("someone/a-book", "draft")
    assert found.address == "https://github.com/someone/a-book" and found.name == "a-book"
    assert repository.named({"GITHUB_REPOSITORY": "a/b"}).branch == "main"


@pytest.mark.parametrize("path", ["a-book", "a/b/c", "https://github.com/a/b", "a/b c"])
def test_what_is_no_repository_is_refused(path):
    with pytest.raises(InputError, match="write owner/name"):
        repository.named({"GITHUB_REPOSITORY": path})


def test_without_a_repository_nothing_leads_to_one():
    settings = repository.configured(SETTINGS, None)
    text = yaml.safe_dump(settings) + "".join(repository.instructions(None).values())
    assert not [word for word in ("github", "git+", "binder", "_button") if word in text.lower()]
    assert "git log" in settings["parse"]["myst_substitutions"]["claims_history"]


def test_with_a_repository_buttons_lead_to_the_branch_that_is_built():
    settings = repository.configured(SETTINGS, repository.named(NAMED))
    assert settings["repository"] == {
        "url": "https://github.com/someone/a-book",
        "branch": "draft",
    }
    assert settings["launch_buttons"]["colab_url"] and settings["launch_buttons"]["binderhub_url"]
    assert settings["html"]["use_issues_button"] and settings["html"]["extra_footer"]
    assert "/commits/draft/" in settings["parse"]["myst_substitutions"]["claims_history"]
    assert "repository" not in SETTINGS and "launch_buttons" not in SETTINGS


def test_pages_stand_in_the_book_where_they_stand_in_the_repository():
    """So that edit and launch buttons, which follow the book's layout, lead to files that exist."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    files = [toc["root"]] + [p["file"] for c in chapters for p in [c, *c.get("sections", [])]]
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no clone: nothing says which files are committed")
    committed = set(listed.stdout.split())
    for file in files:
        assert committed & {f"{file}.md", f"{file}.ipynb"}, file
