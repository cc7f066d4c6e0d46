"""Recorded results: what is written is read again, and nothing else is."""

import csv
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import a_result, an_outcome
from pydantic import ValidationError

from kclib import precision
from kclib.book import environment, paper, profiles, records
from kclib.book.members import Member
from kclib.errors import InputError, StoreError

cells = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
rows = st.lists(st.dictionaries(st.text(min_size=1), cells), min_size=1, max_size=5)


def test_what_is_written_is_read_again(tmp_path):
    result = a_result(claims=[an_outcome(outcomes=[True, 0.5, -1])])
    path = records.write(result, tmp_path)
    assert path == tmp_path / "smoke" / "table0.json"
    found = records.read(path)
    assert found == result
    assert [type(one) for one in found.claims[0].outcomes] == [bool, float, float]
    with open(path.with_suffix(".csv")) as file:
        assert [row["value"] for row in csv.DictReader(file)] == ["0.25", ""]


@settings(max_examples=30, deadline=None)
@given(rows)
def test_every_row_survives(tmp_path_factory, rows):
    path = records.write(a_result(rows=rows), tmp_path_factory.mktemp("results"))
    found = records.read(path).rows
    assert found == rows
    # Also the type of each: True is not 1, and 1.0 is not 1.
    assert [[type(v) for v in row.values()] for row in found] == [
        [type(v) for v in row.values()] for row in rows
    ]


def test_csv_has_one_column_a_name_and_one_line_a_row(tmp_path):
    given = [{"tap": "a, b", "low": 0.1}, {"tap": 'c "d"', "high": 2e-7}, {"low": True}]
    path = records.write(a_result(rows=given), tmp_path).with_suffix(".csv")
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        found = list(reader)
    assert reader.fieldnames == ["tap", "low", "high"]
    assert found == [
        {name: str(row.get(name, "")) for name in ("tap", "low", "high")} for row in given
    ]


def test_arrays_stand_beside_the_rows(tmp_path):
    maps = {"target": np.arange(6, dtype=np.float32).reshape(2, 3)}
    path = records.write(a_result(), tmp_path, maps).with_suffix(".npz")
    with np.load(path, allow_pickle=False) as stored:
        assert stored.files == ["target"]
        np.testing.assert_array_equal(stored["target"], maps["target"])


def test_writing_again_replaces(tmp_path):
    records.write(a_result(), tmp_path)
    path = records.write(a_result(rows=[{"value": 1}]), tmp_path)
    assert records.read(path).rows == [{"value": 1}]
    assert sorted(p.name for p in path.parent.iterdir()) == ["table0.csv", "table0.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": []}, "rows"),
        ({"rows": [{"value": float("nan")}]}, "rows"),
        ({"rows": [{"value": float("inf")}]}, "rows"),
        ({"rows": [{"value": [1, 2]}]}, "rows"),
        ({"unknown": 1}, "unknown"),
        ({"claims": [an_outcome(verdict="maybe")]}, "verdict"),
        ({"claims": [an_outcome(verdickt="holds")]}, "verdickt"),
        ({"claims": [an_outcome(outcomes=[float("nan")])]}, "outcomes"),
        ({"claims": [an_outcome(outcomes=["much"])]}, "outcomes"),
    ],
)
def test_invalid_results_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        a_result(**changes)


def test_a_profile_that_its_provenance_does_not_have_is_refused():
    provenance = a_result(profile="quick").provenance
    with pytest.raises(ValidationError, match="of profile 'smoke' but its provenance of 'quick'"):
        a_result(provenance=provenance)


def changed(content: dict) -> dict[str, tuple[str, str]]:
    """Return broken files and what the message about each has to say."""

    def text(**changes) -> str:
        return json.dumps(content | changes)

    provenance = content["provenance"]
    without_code = {k: v for k, v in provenance.items() if k != "code"}
    return {
        "unknown field": (text(verdict="holds"), "verdict"),
        "unknown field within": (text(provenance=provenance | {"host": "x"}), "provenance.host"),
        "missing field": (text(provenance=without_code), "provenance.code"),
        "NaN": (text(rows=[{"value": float("nan")}]), "rows.0.value"),
        "another profile": (
            text(provenance=provenance | {"parameters": {"profile": "quick"}}),
            "of profile 'smoke' but its provenance of 'quick'",
        ),
        "no profile": (text(provenance=provenance | {"parameters": {}}), "provenance of None"),
        "negative time": (
            text(provenance=provenance | {"run_seconds": -1}),
            "provenance.run_seconds",
        ),
        "cut short": (text()[:100], "Invalid JSON"),
        "empty": ("", "Invalid JSON"),
        "no mapping": ("[]", "file:"),
    }


BROKEN = changed(a_result().model_dump())


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_by_name(tmp_path, text, message):
    path = records.write(a_result(), tmp_path)
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        records.read(path)
    said = str(caught.value)
    assert str(path) in said and message in said
    assert len(said.splitlines()) == 1 and "http" not in said


def test_no_changed_bit_of_a_result_is_misread(tmp_path):
    """Each is refused in one line, or, as in white space, changes nothing that is read."""
    result = a_result(claims=[an_outcome(outcomes=[True, 0.5, -1])])
    path = records.write(result, tmp_path)
    content, refused = path.read_bytes(), 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            assert records.read(path) == result
        except InputError as error:
            assert str(path) in str(error) and len(str(error).splitlines()) == 1
            refused += 1
    assert refused > 0.8 * len(content)


def test_no_changed_bit_of_arrays_is_misread(tmp_path):
    path = records.write(a_result(), tmp_path, {"x*": np.arange(8, dtype=np.float32)})
    assert records.read(path).arrays
    arrays = path.with_suffix(".npz")
    content = arrays.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        arrays.write_bytes(changed)
        with pytest.raises(InputError, match="table0.npz is damaged: .* Get it back from git"):
            records.read(path)
    arrays.unlink()
    with pytest.raises(InputError, match="table0.npz"):
        records.read(path)


def test_a_result_of_an_earlier_version_has_no_digest(tmp_path):
    path = records.write(a_result(), tmp_path)
    content = json.loads(path.read_text())
    assert content.pop("digest")
    path.write_text(json.dumps(content))
    assert records.read(path) == a_result()


def test_a_file_that_is_no_text_or_not_there_is_refused_by_name(tmp_path):
    path = tmp_path / "smoke" / "table0.json"
    with pytest.raises(InputError, match="smoke/table0.json cannot be read: .*No such file"):
        records.read(path)
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe\x00\x9d")
    with pytest.raises(InputError, match="smoke/table0.json cannot be read"):
        records.read(path)


@pytest.mark.parametrize("place", ["quick/table0.json", "smoke/table1.json"])
def test_a_result_in_the_wrong_place_is_refused(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    records.write(a_result(), tmp_path).rename(path)
    with pytest.raises(InputError, match=f"{place} holds the result of 'table0' .* 'smoke'"):
        records.read(path)


def test_recorded_looks_in_the_folder_of_the_profile(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RECORDED", tmp_path)
    records.write(a_result(), tmp_path)
    assert records.recorded("table0", "smoke") == a_result()
    assert records.recorded("table0", "quick") is None
    assert records.recorded("table1", "smoke") is None


def test_every_recorded_result_is_valid():
    found = list(records.RECORDED.glob("*/*.json"))
    assert found
    for path in found:
        result = records.read(path)
        for network in result.provenance.networks.values():  # untrained ones took no time
            assert (network["training_seconds"] > 0) == (network["epochs"] > 0)
        with open(path.with_suffix(".csv"), newline="") as file:
            assert len(list(csv.DictReader(file))) == len(result.rows)


HEADING = re.compile(r'class="col_heading level0 col(\d+)"[^>]*>([^<]*)<')
CELL = re.compile(r'class="data row\d+ col(\d+)"[^>]*>([^<]*)<')


def columns_of(notebook) -> list[dict[str, list[str]]]:
    """Return the tables in a notebook's outputs: cells by column."""
    tables = []
    for cell in json.loads(notebook.read_text())["cells"]:
        for output in cell.get("outputs", []):
            html = "".join(output.get("data", {}).get("text/html", []))
            headings, table = dict(HEADING.findall(html)), {}
            for column, text in CELL.findall(html):
                table.setdefault(headings.get(column, column), []).append(text)
            tables.append(table)
    return tables


@pytest.mark.parametrize("profile", ["real64", "plain64"])
def test_notebooks_show_what_is_recorded(profile):
    """A place without its number is one that the profile's run did not come to yet, never all."""
    found = list((records.RECORDED / profile).glob("*.json"))
    assert found
    name = f"recorded, {'strong' if profile == 'real64' else 'plain'}"
    for path in found:
        notebook = records.RECORDED.parent / "notebooks" / f"{path.stem}.ipynb"
        cells = [item for table in columns_of(notebook) for item in table.items()]
        recorded = [item for item in cells if "recorded, " in item[0]]
        shown = [column for column, _ in recorded if name in column]
        assert shown or not recorded, f"{notebook} has been run before {name} was"
        for column, texts in recorded:
            lacks = [text == "not recorded" for text in texts]
            assert not (any if "strong" in column else all)(lacks), f"{notebook}, {column}"


def test_no_notebook_shows_a_path_of_the_machine_it_ran_on():
    for path in (records.RECORDED.parent / "notebooks").glob("*.ipynb"):
        outputs = [cell.get("outputs") for cell in json.loads(path.read_text())["cells"]]
        assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|work)/", json.dumps(outputs)), path


def test_the_paper_s_numbers_are_there_and_nothing_is_made_up():
    table = paper.numbers("table1_instability")
    assert len(table["columns"]) == 5
    assert table["different initializations"] == [0.086, 0.116, 0.124, 0.196, 0.776]
    assert table["different training data"] == [0.089, 0.155, 0.121, 0.198, 0.275]
    assert paper.numbers("table2_orders") == {}  # not in the article at hand


def test_what_a_machine_says_of_itself():
    versions, hardware = records.versions(), records.hardware("cpu")
    assert versions.keys() == {"python", "torch", "torchvision", "numpy"}
    assert all(text[0].isdigit() for text in versions.values())
    assert hardware["processor"] and hardware["threads"] >= 1 and hardware["accelerator"] is None
    assert hardware["bfloat16"] is precision.gains_from_bfloat16("cpu")
    assert 0.05 < records.peak_memory() < 100  # GB


def test_where_nothing_can_be_written_the_variable_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(
        StoreError, match="writing is not allowed there.* KC_RESULTS names the folder"
    ):
        records.write(a_result(), tmp_path / "file")


PLAIN = sorted((environment.RECORDED / "plain64").glob("*.json"))


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.stem)
def test_networks_of_the_papers_regime_know_their_training_images(path):
    described = profiles.load("plain64").networks
    for name, had in records.read(path).provenance.networks.items():
        member = Member.parse(name)
        as_trained = member.subset != "none" and not member.pruned
        if as_trained and not described[member.name].unfitted:
            assert had["train_accuracy"] >= profiles.FITTED, name
