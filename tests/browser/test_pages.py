"""Every page opens without an error, fits a phone, and can be read by those who do not see it."""

from pathlib import Path

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe

PHONE = {"width": 390, "height": 844}
TOC = yaml.safe_load((Path(__file__).parents[2] / "_toc.yml").read_text())
CHAPTERS = [chapter for part in TOC["parts"] for chapter in part["chapters"]]
FILES = [page["file"] for one in CHAPTERS for page in [one, *one.get("sections", [])]]
PAGES = [TOC["root"], *FILES, "search", "genindex", "prf-prf"]
SCRIPT = Axe().axe_script
#: Contrast takes by far the longest, word by word: the first rows of a table stand for all of them,
#: and the code on one page for all code.
LEFT_OUT = ["tbody tr:nth-child(n+4)", "mjx-container"]
WITH_CODE = "book/method"
#: What a page's buttons are called is no standard rule of axe. Its own look at style sheets, which
#: a page from a file may not read, is for rules about the orientation of phones.
RULES = {"preload": False, "rules": {"label-content-name-mismatch": {"enabled": True}}}
CONTRAST = {"preload": False, "runOnly": ["color-contrast"]}


def violations(tab, options, left_out=LEFT_OUT):
    """Return what axe finds that is serious or critical, each with its first places."""
    where = {"include": ["html"], "exclude": left_out}
    found = tab.evaluate("([where, how]) => axe.run(where, how)", [where, options])
    return {
        rule["id"]: [node["html"] for node in rule["nodes"][:3]]
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
    }


def show(tab, theme):
    """Change the theme, and end the transition of colours at once."""
    tab.evaluate("t => Object.assign(document.documentElement.dataset, {theme: t, mode: t})", theme)


@pytest.mark.parametrize("name", PAGES)
def test_page(tab, html, name):
    tab.goto((html / f"{name}.html").as_uri(), wait_until="load")
    tab.add_style_tag(content="* { transition: none !important }")
    tab.set_viewport_size(PHONE)
    assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    tab.set_viewport_size({"width": 1400, "height": 900})
    tab.evaluate(SCRIPT)
    left_out = LEFT_OUT if name == WITH_CODE else [*LEFT_OUT, ".highlight"]
    show(tab, "light")
    assert violations(tab, RULES, left_out) == {}
    show(tab, "dark")
    assert violations(tab, CONTRAST, left_out) == {}


def test_what_is_wrong_is_found(tab, html, tmp_path):
    """The tests above can fail."""
    page = tmp_path / "wrong.html"
    page.write_text(
        "<html lang=en><title>x</title><script>undefined.x</script><img src='none.png'>"
        "<p style='color: #ccc; background: white; width: 500px'>pale</p>"
        "<button aria-label='No'>Yes</button>"
    )
    tab.set_viewport_size(PHONE)
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") > PHONE["width"]
    tab.evaluate(SCRIPT)
    assert {"color-contrast", "image-alt", "label-content-name-mismatch"} <= set(
        violations(tab, RULES)
    )
    assert any("undefined" in one for one in tab.trouble)
    assert any(one.startswith("failed: ") for one in tab.trouble)
    tab.trouble.clear()
