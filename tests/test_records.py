"""Recorded results and the pages that are computed from them."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from kclib import records
from kclib.errors import InputError

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "book"))
import pages  # noqa: E402


def a_result(**changes) -> records.Result:
    provenance = {
        "parameters": {"profile": "smoke", "seed": 0},
        "seeds": [0, 5],
        "data": [{"name": "creatures"}],
        "networks": {"net_all_0": {"seconds": 1.5}},
        "versions": records.versions(),
        "hardware": records.hardware("cpu"),
        "code": "0123",
        "seconds": 2.0,
        "peak_memory": 0.5,
        "date": "2026-01-01",
    }
    claim = {
        "id": "made-up",
        "statement": "A | B.",
        "where": "Table 0",
        "test": "none",
        "paper": "1",
        "found": "2",
        "verdict": "fails",
    }
    content = {
        "artefact": "table0",
        "profile": "smoke",
        "provenance": provenance,
        "rows": [{"tap": "conv1", "value": 0.25}, {"tap": "conv2", "value": None}],
        "claims": [claim],
    }
    return records.Result.model_validate(content | changes)


def test_what_is_written_is_read_again(tmp_path):
    result = a_result()
    path = records.write(result, tmp_path)
    assert path == tmp_path / "smoke" / "table0.json"
    assert records.read(path) == result
    with open(path.with_suffix(".csv")) as file:
        assert [row["value"] for row in csv.DictReader(file)] == ["0.25", ""]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": []}, "rows"),
        ({"rows": [{"value": float("nan")}]}, "rows"),
        ({"unknown": 1}, "unknown"),
        ({"profile": "quick"}, "its provenance of 'smoke'"),
    ],
)
def test_invalid_results_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        a_result(**changes)


def test_a_result_in_the_wrong_place_is_refused(tmp_path):
    path = records.write(a_result(), tmp_path)
    (tmp_path / "quick").mkdir()
    moved = path.rename(tmp_path / "quick" / "table0.json")
    with pytest.raises(InputError, match="quick/table0.json"):
        records.read(moved)


def test_every_recorded_result_is_valid():
    found = [path for path in records.FOLDER.glob("*/*.json")]
    assert found
    for path in found:
        result = records.read(path)
        assert all(network["seconds"] > 0 for network in result.provenance.networks.values())


def test_pages_hold_every_claim(tmp_path):
    records.write(a_result(), tmp_path)
    pages.write(tmp_path / "pages", pages.collect([tmp_path / "smoke"]))
    for page in ("summary", "claims"):
        text = (tmp_path / "pages" / f"{page}.md").read_text()
        assert "fails" in text and "smoke" in text
    assert "table0" in (tmp_path / "pages" / "runtimes.md").read_text()


def test_the_build_fails_on_a_result_whose_provenance_does_not_match(tmp_path):
    path = records.write(a_result(), tmp_path)
    content = json.loads(path.read_text())
    content["provenance"]["parameters"]["profile"] = "real64"
    path.write_text(json.dumps(content))
    notebooks = tmp_path / "notebooks" / "smoke"
    notebooks.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, ROOT / "book" / "build.py", notebooks, tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert str(path) in done.stderr and "Traceback" not in done.stderr
