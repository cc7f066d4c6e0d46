"""Every link, anchor, image and download of the built pages leads somewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml


class Page(HTMLParser):
    """What a page links to, what can be linked to on it, and its images."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.places, self.images = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places.update(given[name] for name in ("id", "name") if given.get(name))
        self.links += [given[name] for name in ("href", "src") if given.get(name)]
        if tag == "img":
            self.images.append(given)


@pytest.fixture(scope="module")
def pages(html):
    files = [file for file in html.rglob("*.html") if "_static" not in file.parts]
    return {file: Page(file.read_text()) for file in files}


def dead(pages, file: Path, link: str) -> bool:
    """Say whether a link within the book leads nowhere."""
    address = urlsplit(link)
    path = unquote(address.path)
    target = (file.parent / path).resolve() if path else file
    if not target.is_file():
        return True
    place = unquote(address.fragment)
    return bool(place) and target in pages and place not in pages[target].places


def test_links_lead_to_pages_files_and_places_that_exist(pages):
    count = 0
    for file, page in pages.items():
        inner = [link for link in page.links if not re.match(r"[a-z]+:", link)]
        inner = [link for link in inner if link not in ("#", "#pst-back-to-top")]
        assert not [link for link in inner if dead(pages, file, link)], file
        count += len(inner)
    assert count > 1000


def test_addresses_on_the_web_are_encrypted_and_whole(pages):
    for file, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link) and not link.startswith(("data:", "mailto:")):
                assert re.match(r"https://[\w.-]+\.\w+(/|$)", link), (file, link)


def test_images_have_an_alternative_text(pages):
    for file, page in pages.items():
        assert not [image["src"] for image in page.images if "alt" not in image], file
        names = [image["alt"] for image in page.images]
        assert not [alt for alt in names if re.search(r"\.(png|svg)$|^_images/", alt)], file


def test_a_notebook_s_page_offers_the_notebook(pages, html):
    toc = yaml.safe_load((Path(__file__).parents[2] / "_toc.yml").read_text())
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    for file in files:
        if file.startswith("notebooks/"):
            links = pages[html / f"{file}.html"].links
            assert f"../_sources/{file}.ipynb" in links


def test_a_dead_link_is_found(tmp_path):
    (tmp_path / "b.html").write_text("<p id='here'>")
    pages = {tmp_path / "b.html": Page("<p id='here'>")}
    file = tmp_path / "a.html"
    assert not dead(pages, file, "b.html#here") and not dead(pages, file, "b.html")
    assert dead(pages, file, "b.html#there") and dead(pages, file, "c.html")
