"""The page of a comparison of one's own networks, as a browser shows it."""

import pytest
import torch
from conftest import LARGE, PHONE
from test_pages import CONTRAST, RULES, SCRIPT, violations
from torch import nn

import kclib

COMMAND = "kclib compare a.py:one 'b c.py:two' --images photos/"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a small comparison, on items that are images."""
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3)) for _ in range(2))
    found = kclib.compare(a, b, torch.randint(0, 256, (40, 3, 16, 16)).byte(), order=1)
    return found.write(tmp_path_factory.mktemp("report"), command=COMMAND)


def test_the_button_copies_the_command(tab, report):
    tab.goto(report.as_uri())
    tab.get_by_role("button", name="Copy the command").click()
    tab.get_by_role("button", name="Copied").wait_for()
    assert tab.evaluate("navigator.clipboard.readText()") == COMMAND


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [LARGE, PHONE], ids=["large", "phone"])
def test_it_fits_and_can_be_read(tab, report, theme, size):
    tab.emulate_media(color_scheme=theme)
    tab.set_viewport_size(size)
    tab.goto(report.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= size["width"]
    tab.evaluate(SCRIPT)
    assert violations(tab, RULES, []) == violations(tab, CONTRAST, []) == {}
    light = tab.evaluate("getComputedStyle(document.querySelector('main')).backgroundColor")
    assert (light == "rgb(255, 255, 255)") == (theme == "light")
