"""The first page: its sentences hold the results' numbers, and its picture is up to date."""

import base64
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from made_up import a_result

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "book"))
import composing  # noqa: E402
import drawings  # noqa: E402
import explorer  # noqa: E402
import findings  # noqa: E402
import front  # noqa: E402
import pages  # noqa: E402


@pytest.fixture(scope="module")
def recorded():
    return front.recorded()


def test_the_readme_and_the_picture_are_up_to_date(recorded):
    text = front.README.read_text()
    assert all(text.count(mark) == 1 for marks in front.MARKS.values() for mark in marks)
    assert front.readme(text, recorded) == text, "renew it: python book/front.py"
    assert front.idea(explorer.panels()[0]) == front.PICTURE.read_text(), "python book/front.py"


@pytest.mark.parametrize(
    ("had", "said"),
    [
        ([True, True], " with bfloat16, "),
        ([False, False], " without bfloat16, "),
        ([True, False], None),
        ([True, None], None),
    ],
)
def test_times_are_said_with_the_arithmetic_where_it_is_one(had, said):
    results = {str(k): a_result("quick") for k in range(len(had))}
    for result, bfloat16 in zip(results.values(), had, strict=True):
        result.provenance.hardware["bfloat16"] = bfloat16
    text = front.times(results)
    assert said in text if said else "bfloat16" not in text


def test_sentences_follow_the_numbers():
    place = {"network": "vgg16", "condition": "initialisations", "fit": "lowest first"}
    rows = [
        place | {"tap": "conv4_3", "seed": 0, "instability": 0.1},
        place | {"tap": "conv5_3", "seed": 0, "instability": 0.44},
        place | {"tap": "conv5_3", "seed": 0, "instability": 0.9, "condition": "halves"},
        place | {"tap": "conv5_3", "seed": None, "instability": 0.95},
    ]
    other = [place | {"tap": "conv5", "seed": 0, "instability": 0.7}]
    results = {
        "quick": {"table1_instability": a_result(artefact="table1_instability", rows=other)},
        "real64": {"table1_instability": a_result(artefact="table1_instability", rows=rows)},
    }
    [found] = findings.findings(results)
    for sentence in (found.en, found.zh):
        assert re.findall(r"\d+(?=\xa0%)", sentence) == ["10", "44"]
    assert found.profile == "real64" and "VGG-16 conv5-3" in found.en
    assert findings.findings({}) == [] and findings.listed([], "zh") == ""


def test_the_change_that_moves_most_is_found_beside_the_same_layer_unchanged():
    def row(tap, change, value, quantity="share left"):
        line = {"quantity": quantity, "network": "vgg16", "tap": tap}
        return line | {"change": change, "value": value}

    rows = [
        row("conv4_3", "nothing", 0.2),
        row("conv5_3", "nothing", 0.9),
        row("conv4_3", "epochs 20 → 5", 0.3),
        row("conv5_3", "penalty 0.1 → 8", 0.5),
        row("conv5_3", "penalty 0.1 → 8", -0.9, "gain over B"),
    ]
    [found] = findings.findings({"quick": {"check_dependencies": a_result(rows=rows)}})
    assert "penalty 0.1 → 8" in found.en and "VGG-16 conv5-3" in found.zh
    for sentence in (found.en, found.zh):
        assert re.findall(r"\d+(?=\xa0%)", sentence) == ["90", "50"]
    only = {"quick": {"check_dependencies": a_result(rows=rows[:2])}}
    assert findings.findings(only) == []


def test_every_finding_is_there_in_both_languages_and_leads_to_its_page(recorded):
    found = findings.findings(recorded)
    assert len(found) == 5
    for language in findings.LANGUAGES:
        lines = findings.listed(found, language).splitlines()
        assert len(lines) == 5
        for line, one in zip(lines, found, strict=True):
            assert f"(../notebooks/{one.artefact}.ipynb)" in line and re.search(r"\*\*\d", line)


def test_each_mark_of_the_chart_leads_to_its_claim_and_says_its_verdict(recorded):
    svg = ElementTree.fromstring(front.chart(recorded))
    marks = [a for a in svg.iter("{http://www.w3.org/2000/svg}a") if "aria-label" in a.attrib]
    outcomes = [
        (pages.called(profile, result), outcome)
        for profile, found in recorded.items()
        for result in found.values()
        for outcome in result.claims
    ]
    assert len(marks) == len(outcomes) > 30
    said = {(a.get("href"), a.get("aria-label")) for a in marks}
    page = pages.claims(recorded)
    for called, outcome in outcomes:
        statement = pages.registry()[outcome.id].statement
        label = f"{statement} {called}: {outcome.verdict}"
        assert (f"claims.html#claim-{outcome.id}", label) in said
        assert f"(claim-{outcome.id})=\n### {statement}" in page


def test_marks_can_be_told_apart_without_colour():
    shapes = {v: re.sub(r"#\w{6}", "", front.mark(v, 0, 0)) for v in front.VERDICTS}
    assert len(set(shapes.values())) == len(shapes) == 4


def test_the_picture_s_parts_add_up_to_its_first_map():
    panel = explorer.panels()[0]
    assert front.coloured(np.zeros((2, 2)), 1).tolist() == [[[247] * 3] * 2] * 2
    assert front.coloured(np.array([[1.0, -1.0]]), 1).tolist() == [[[178, 24, 43], [33, 102, 172]]]
    image, one = front.shown(panel)
    spread = panel.target.var((2, 3))
    assert spread[image, one] == spread.max()
    parts = next(iter(panel.parts.values()))
    assert front.idea(panel).count("<image ") == len(parts) + 2 + (panel.pictures[0] is not None)


def test_the_explorer_s_script_is_the_same_numbers():
    panel = explorer.panels()[-1]
    text = explorer.script([panel])
    assert text.startswith("const RECORDED = {") and len(explorer.script(explorer.panels())) < 3e6
    held = json.loads(text.removeprefix("const RECORDED = ").rstrip(";\n"))["panels"][0]
    whole = np.frombuffer(base64.b64decode(held["target"]), "<i2").reshape(panel.target.shape)
    back = whole * np.array(held["scale"])[:, None, None]
    assert np.abs(back - panel.target).max() < 1e-4 * np.abs(panel.target).max()
    assert list(held["ways"]) == ["lowest first", "joint, per image"]


def test_drawings_are_whole_and_say_on_the_page_what_they_say_themselves(tmp_path):
    drawings.write(tmp_path)
    pages = "".join((ROOT / "book" / f"{page}.md").read_text() for page in ("method", "fitting"))
    files = sorted(tmp_path.iterdir())
    assert len(files) == len(drawings.DRAWINGS) == 8
    for file in files:
        said = ElementTree.parse(file).getroot().get("aria-label")
        assert said == drawings.alternative(file.stem)
        image = f"```{{image}} _generated/{file.name}\n:alt: {said}\n"
        assert image in pages or file.stem in composing.DRAWN.values(), file.name


def test_the_curve_of_the_ridge_shows_what_its_words_say():
    ridges, on_fit, on_others = drawings.errors_by_ridge()
    assert len(ridges) == len(on_fit) == len(on_others) and on_fit == sorted(on_fit)
    best = on_others.index(min(on_others))
    assert 0 < best < len(ridges) - 1 and on_others[0] > on_others[best] < on_others[-1]
    assert min(on_others) > 0.5 > on_fit[0]  # a half is the best that any map can do
