"""Pages as a browser gets them: no script is loaded or declared twice, none from the network.

The book that is built here has a repository; the one that `make test` builds usually has none.
"""

import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
import yaml
from jupyter_book.config import get_default_sphinx_config

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "book"))
import repository  # noqa: E402

WHERE = repository.Repository("someone/a-book", "draft")


class Scripts(HTMLParser):
    """The scripts of a page: their addresses, and the text of those that stand in it."""

    def __init__(self, page: str):
        super().__init__()
        self.addresses, self.inline, self._inside = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "script":
            given = dict(attrs)
            self._inside = "src" not in given
            if not self._inside:
                self.addresses.append(given["src"].split("?")[0])

    def handle_data(self, data):
        if self._inside:
            self.inline.append(data)

    def handle_endtag(self, tag):
        self._inside = False

    def declared(self) -> list[str]:
        """Return the names that a browser refuses to have declared twice."""
        return re.findall(r"(?:^|[;\n])\s*(?:const|let|class)\s+(\w+)", "\n".join(self.inline))


def twice(found: list[str]) -> list[str]:
    return [name for name, count in Counter(found).items() if count > 1]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of a small book, of a page of text and a notebook, built as the book is."""
    folder = tmp_path_factory.mktemp("pages")
    settings = yaml.safe_load((ROOT / "_config.yml").read_text())
    settings = yaml.safe_dump(repository.configured(settings, WHERE))
    (folder / "_config.yml").write_text(settings)
    (folder / "book").mkdir()
    (folder / "_extra").mkdir()
    shutil.copy(ROOT / "book" / "references.bib", folder / "book")
    (folder / "book" / "index.md").write_text("# Text\n\nA formula, $x$.\n")
    cells = [nbformat.v4.new_markdown_cell("# Code"), nbformat.v4.new_code_cell("1 + 1")]
    kernel = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, folder / "code.ipynb")
    toc = {"format": "jb-book", "root": "book/index", "chapters": [{"file": "code"}]}
    (folder / "_toc.yml").write_text(yaml.safe_dump(toc))
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(folder), "-W"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    html = folder / "_build" / "html"
    return {str(path.relative_to(html)): path.read_text() for path in html.rglob("*.html")}


def test_no_script_is_loaded_or_declared_twice(pages):
    for name in ("book/index.html", "code.html", "search.html"):
        scripts = Scripts(pages[name])
        assert scripts.addresses and scripts.declared(), name  # the theme has both
    for name, page in pages.items():
        scripts = Scripts(page)
        assert not twice(scripts.addresses) and not twice(scripts.declared()), name


def test_no_script_comes_from_the_network(pages):
    for name, page in pages.items():
        assert not [a for a in Scripts(page).addresses if "//" in a], name


def test_buttons_lead_to_the_page_in_the_repository(pages):
    github, hub = "https://github.com/someone/a-book", "https://mybinder.org/v2/gh/someone/a-book"
    text, code = pages["book/index.html"], pages["code.html"]
    for page, file in ((text, "book/index.md"), (code, "code.ipynb")):
        assert f'href="{github}/edit/draft/{file}"' in page
        assert f'href="{github}"' in page and f'href="{github}/issues/new' in page
    assert f'href="{hub}/draft?urlpath=lab/tree/code.ipynb"' in code
    assert "colab.research.google.com/github/someone/a-book/blob/draft/code.ipynb" in code
    assert "mybinder" not in text and "colab" not in text


def test_what_is_declared_twice_is_found():
    page = '<script>const A = 1; let b = "const A"</script><script src="x.js?v=1"></script>'
    scripts = Scripts(page + "<p>let c = 1</p>" + page)
    assert twice(scripts.declared()) == ["A", "b"]
    assert twice(scripts.addresses) == ["x.js"]


def test_jupyter_book_s_own_extensions_are_all_there_but_thebe():
    listed = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]["extensions"]
    assert set(get_default_sphinx_config()["extensions"]) - set(listed) == {"sphinx_thebe"}
