"""A real browser for the built book; where there is none, its tests are skipped and counted."""

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

HTML = Path(__file__).parents[2] / "book" / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LARGE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def html():
    """The folder of the built book."""
    assert HTML.is_dir(), f"{HTML} is not there: run make book PROFILE=smoke first"
    return HTML


@pytest.fixture(scope="session")
def browser(html):
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("there is no Chromium here (apt-get install chromium)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def tab(browser):
    """One tab for a module's tests, with what went wrong in it as ``tab.trouble``."""
    permissions = ["clipboard-read", "clipboard-write"]
    context = browser.new_context(reduced_motion="reduce", permissions=permissions)
    tab = context.new_page()
    tab.trouble = []
    tab.on("pageerror", lambda error: tab.trouble.append(f"error: {error}"))
    tab.on("console", lambda said: said.type == "error" and tab.trouble.append(said.text))
    tab.on("requestfailed", lambda request: tab.trouble.append(f"failed: {request.url}"))
    tab.on("request", lambda r: r.url[:4] == "http" and tab.trouble.append(f"network: {r.url}"))
    yield tab
    context.close()


@pytest.fixture(autouse=True)
def quiet(request):
    """Each test that uses a tab ends without an error, a failed request or one to the network."""
    if "tab" not in request.fixturenames:
        yield
        return
    tab = request.getfixturevalue("tab")
    tab.trouble.clear()
    tab.set_viewport_size(LARGE)
    yield
    assert not tab.trouble
