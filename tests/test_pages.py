"""The computed pages hold every result and claim, and a build stops at a result that is wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from made_up import a_claim, a_result, an_outcome

from kclib.book import claims, environment, records, verdicts
from kclib.errors import InputError

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "book"))
import build  # noqa: E402
import front  # noqa: E402
import pages  # noqa: E402
import reference  # noqa: E402
import repository  # noqa: E402


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


FIRST = a_claim(statement="First", where="Table 0, left", test="0.1 or more", paper="0.25")
SECOND = a_claim(artefact="table9", statement="Second", test="0.7 or more", rule="every")
THIRD = a_claim(artefact="table9", statement="Third", test="0.8 or more")


@pytest.fixture
def registered(monkeypatch):
    """A registry of three claims of two notebooks, and a book that has the notebooks."""
    known = {"a": FIRST, "b": SECOND, "c": THIRD}
    for module in (claims, pages):
        monkeypatch.setattr(module, "registry", lambda: known)
    monkeypatch.setattr(pages, "titles", lambda: {"table0": "Table | 0", "table9": "Table 9"})
    return known


@pytest.fixture
def results(registered):
    """Two notebooks under two profiles; one claim was tested under one only, one not at all."""
    first = an_outcome(FIRST, id="a", outcomes=[1], verdict="holds", found="0.1", depends="seed")
    other = first | {"found": "0.3", "outcomes": [1, -1], "verdict": "partly"}
    second = an_outcome(SECOND, id="b", found="0.7", outcomes=[], verdict="not testable")
    return {
        "quick": {
            "table0": a_result("quick", claims=[first]),
            "table9": a_result("quick", artefact="table9", claims=[second]),
        },
        "smoke": {"table0": a_result("smoke", claims=[other])},
    }


def test_the_claims_page_has_every_claim_with_every_outcome(results, registered):
    text = pages.claims(results)
    for found in results.values():
        for result in found.values():
            for outcome in result.claims:
                claim = registered[outcome.id]
                for field in (claim.statement, claim.where, claim.test, claim.paper, outcome.found):
                    assert field in text
                [row] = [
                    r
                    for r in lines(text, f"| {pages.regime(result.profile, result)} ")
                    if outcome.found in r
                ]
                assert f"**{outcome.verdict}**" in row and outcome.depends in row
    assert lines(text, "## ") == ["## Table | 0", "## Table 9"]
    assert lines(text, "### ") == ["### First", "### Second", "### Third"]
    assert text.count("*Rule*: each.") == 2 and text.count("*Rule*: every.") == 1
    assert text.split("### Third")[1].endswith("It was not tested yet.\n")


def test_the_claims_page_explains_each_rule_once(registered):
    text = pages.rules()
    assert [line for line in text.splitlines()[::3]] == list(verdicts.RULES)
    for rule in verdicts.RULES.values():
        assert text.count(f": {rule.explained}\n") == 1
    assert not any(rule.explained in pages.claims({}) for rule in verdicts.RULES.values())


def test_a_claim_of_no_page_is_refused(registered):
    registered["d"] = a_claim(artefact="table8")
    said = "results/claims.yaml has claims of table8, which is no notebook in _toc.yml"
    for page in (pages.claims, pages.summary):
        with pytest.raises(InputError, match=said):
            page({})


def test_the_claims_page_counts_verdicts_page_by_page(results):
    text = pages.summary(results)
    assert lines(text, "| Page") == ["| Page | quick | smoke |"]
    assert lines(text, "| [") == [
        r"| [Table \| 0](../notebooks/table0.ipynb) | 1 hold | 1 partly |",
        "| [Table 9](../notebooks/table9.ipynb) | 1 not testable | not run |",
    ]
    assert lines(text, "| **all") == ["| **all claims** | 1 hold, 1 not testable | 1 partly |"]
    assert "`quick`" in text and "its numbers mean nothing" in text


def test_pages_come_in_the_order_of_the_book_with_their_titles():
    found = [row.split("](../notebooks/")[1] for row in lines(pages.summary({}), "| [")]
    names = [name for name in pages.titles() if claims.of(name)]
    assert [cell.split(".ipynb")[0] for cell in found] == names and len(names) > 10
    link = "[Check: planted orders](../notebooks/check_planted_orders.ipynb)"
    assert link in pages.summary({})


def test_the_page_of_run_times_has_every_run(results):
    rows = [line.split(" | ") for line in lines(pages.runtimes(results), "| ")[2:]]
    assert [(row[0], row[1]) for row in rows] == [
        ("| quick", "table0"),
        ("| quick", "table9"),
        ("| smoke", "table0"),
    ]
    assert all(row[2:6] == ["2", "1", "2", "0.5"] for row in rows)


def trained_anew(artefact, accuracy, rows, key="0f"):
    found = a_result("plain64", artefact=artefact, rows=rows)
    network = {"key": key, "test_accuracy": accuracy, "train_accuracy": 1.0}
    found.provenance.networks["net_all_0"] |= network
    return found


def test_what_came_out_of_the_same_networks_trained_once_more():
    at = {"network": "vgg16", "tap": "conv4_3", "condition": "initialisations"}
    fitted = {"fit": "joint, per image", "seed": 0, "instability": 0.2}
    once = [at | fitted | {"seed": 1, "instability": 0.4}, at | fitted]
    again = [at | {"quantity": "share left", "change": "nothing", "value": 0.3}]
    one, other = "table1_instability", "check_dependencies"
    found = {one: trained_anew(one, 0.5, once), other: trained_anew(other, 0.25, again)}
    assert lines(pages.once_more({"plain64": found}), "| plain64") == [
        "| plain64 | `net_all_0`, test images right | 50.0 % | 25.0 % |",
        "| plain64 | VGG-16 conv4-3, share left | 0.200 | 0.300 |",
    ]


@pytest.mark.parametrize(("accuracy", "key"), [(0.5, "0f"), (0.25, "1e")])
def test_networks_that_were_trained_once_are_not_said_to_differ(accuracy, key):
    one = trained_anew("table0", 0.5, [{"value": 1.0}])
    other = trained_anew("table9", accuracy, [{"value": 1.0}], key)
    said = "No recorded results have trained the same networks more than once.\n"
    assert pages.once_more({"plain64": {"a": one, "b": other}}) == said


@pytest.mark.parametrize("page", [pages.claims, pages.summary, pages.runtimes])
def test_every_table_has_as_many_cells_in_each_row_as_columns(results, page):
    spoiled = an_outcome(THIRD, id="c", found="a|b", depends="c\n|d")
    results["smoke"]["table9"] = a_result("smoke", artefact="table9", claims=[spoiled])
    columns = None
    for line in page(results).splitlines():
        if not line.startswith("|"):
            columns = None
            continue
        cells = line.replace(r"\|", "").count("|")
        columns = columns or cells
        assert cells == columns


def test_collect_puts_the_profile_first_that_tells_most(tmp_path, registered):
    names = [*reversed(environment.profile_names()), "a-reader-s-own"]
    for name in names:
        records.write(a_result(name, claims=[an_outcome(FIRST, id="a")]), tmp_path)
    found = pages.collect([tmp_path / name for name in names])
    assert list(found) == [
        "plain64",
        "real64",
        "real112",
        "paper",
        "quick",
        "smoke",
        "a-reader-s-own",
    ]
    for page in (pages.claims, pages.summary, pages.runtimes):
        assert "a-reader-s-own" in page(found)


def test_every_shipped_profile_is_explained():
    found = {name: {"table0": a_result(name)} for name in environment.profile_names()}
    assert "your own" not in pages.summary(found)


def test_a_later_folder_replaces_an_earlier_one(tmp_path):
    records.write(a_result(), tmp_path / "recorded")
    records.write(a_result(rows=[{"value": 7}]), tmp_path / "run")
    records.write(a_result(artefact="table1"), tmp_path / "recorded")
    found = pages.collect([tmp_path / "recorded" / "smoke", tmp_path / "run" / "smoke"])
    assert found["smoke"]["table0"].rows == [{"value": 7}]
    assert found["smoke"].keys() == {"table0", "table1"}


def test_the_committed_results_make_pages(tmp_path):
    found = pages.collect(sorted(environment.RECORDED.iterdir()))
    pages.write(tmp_path, found)
    text = (tmp_path / "claims.md").read_text()
    for claim in claims.registry().values():
        assert f"### {claim.statement}\n" in text and claim.said_by_paper() in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "claims.md",
        "cluster.md",
        "exercises.md",
        "faults.md",
        "normalisations.md",
        "once_more.md",
        "parameters.md",
        "performance.md",
        "performance_growth.md",
        "performance_layers.md",
        "rules.md",
        "runtimes.md",
        "summary.md",
    ]


def test_cells_of_claims_speak_of_networks_as_readers_do():
    found = pages.collect([path for path in environment.RECORDED.iterdir() if path.is_dir()])
    rows = [line for line in pages.claims(found).splitlines() if line.startswith("| ")]
    rows = [row for row in rows if "**" in row]
    assert len(rows) > 60
    for row in rows:
        assert not re.search(r"\w_(all|maps|mix|voc|\d)|x_delta|profile (quick|real64)[,:]", row), (
            row
        )
    said = "profile quick, vgg16_maps_all_5 at conv4_3: x_delta 0.1; see profile quick"
    told = "VGG-16 of seed 5 at conv4-3: what is left 0.1; see profile quick"
    assert pages.in_words(said, "quick") == told


def test_the_claims_page_leads_to_what_was_fixed_when():
    settings = yaml.safe_load((ROOT / "_config.yml").read_text())
    where = repository.Repository("someone/a-book", "main")
    settings = repository.configured(settings, where)
    history = settings["parse"]["myst_substitutions"]["claims_history"]
    path = claims.FILE.relative_to(ROOT).as_posix()
    assert history.endswith(f"]({where.address}/commits/main/{path})")
    assert "{{ claims_history }}" in (ROOT / "book" / "claims.md").read_text()


def test_every_parameter_that_a_notebook_has_is_explained():
    table = pages.parameter_table()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        [cell] = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
        names = {line.split(" = ")[0] for line in "".join(cell["source"]).splitlines()}
        for name in names - {"profile", "norm"}:
            assert f"| `{name}` | " in table


def test_the_pages_that_the_book_includes_are_written(tmp_path):
    pages.write(tmp_path, {})
    front.write(tmp_path, {})
    reference.write(tmp_path)
    written = {path.name for path in tmp_path.iterdir()}
    written |= {f"{name}.md" for name in repository.instructions(None)}
    included = {
        line.split("_generated/")[1].rstrip()
        for page in [*(ROOT / "book").glob("*.md"), *reference.PAGES.glob("*.md")]
        for line in page.read_text().splitlines()
        if line.startswith("```{include}") and "_generated/" in line
    }
    assert included == written


def test_collect_refuses_a_result_that_is_wrong(tmp_path, registered):
    path = records.write(a_result(claims=[an_outcome(FIRST, id="a")]), tmp_path)
    pages.collect([path.parent])
    path.write_text(path.read_text().replace('"verdict": "fails"', '"verdict": "unclear"'))
    with pytest.raises(InputError, match=f"{path} .*claims.0.verdict"):
        pages.collect([path.parent])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([], "claims without an outcome: a"),
        ([{}, {"id": "b"}], "outcomes without a claim: b"),
        ([{"verdict": "holds"}], "a is said to be 'holds', but 'fails' follows"),
        ([{"fixed": "0123"}], "the statement, test or rule of a was changed"),
    ],
)
def test_collect_refuses_claims_that_do_not_follow(tmp_path, registered, changes, said):
    outcomes = [an_outcome(FIRST, id="a") | change for change in changes]
    path = records.write(a_result(claims=outcomes), tmp_path)
    with pytest.raises(InputError) as caught:
        pages.collect([path.parent])
    error = str(caught.value)
    assert error.startswith(f"{path}: ") and said in error and len(error.splitlines()) == 1


# The build, in a small copy of the repository


@pytest.fixture
def copy(tmp_path):
    """What ``book/build.py`` reads, with a run of profile smoke."""
    for folder in ("book", "kclib", "results"):
        shutil.copytree(
            ROOT / folder,
            tmp_path / folder,
            ignore=shutil.ignore_patterns("_build", "_generated", "__pycache__"),
        )
    records.write(a_result(), tmp_path / "run")
    (tmp_path / "notebooks" / "smoke").mkdir(parents=True)
    return tmp_path


def assert_refused(status: int, error: str, copy: Path, said: str) -> None:
    """Check for one line of error, and that nothing was written."""
    assert status == 2
    assert len(error.splitlines()) == 1 and error.startswith("error: ") and said in error
    assert not (copy / "book" / "_generated").exists() and not (copy / "book" / "_build").exists()


def test_the_build_stops_at_a_recorded_result_that_does_not_match(copy):
    path = records.write(a_result("quick"), copy / "results")
    path.write_text(path.read_text().replace('"profile": "quick"', '"profile": "real64"', 1))
    done = subprocess.run(
        [sys.executable, "book/build.py", "notebooks/smoke", "run"],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert_refused(done.returncode, done.stderr, copy, "results/quick/table0.json")


def test_the_build_stops_at_a_test_that_was_changed_after_its_outcome(copy):
    registry = copy / "results" / "claims.yaml"
    [(name, claim), *_] = claims.of("table1_instability").items()
    assert registry.read_text().count(claim.statement) == 1
    registry.write_text(registry.read_text().replace(claim.statement, "Something else."))
    done = subprocess.run(
        [sys.executable, "book/build.py", "notebooks/smoke", "run"],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    said = f"table1_instability.json: the statement, test or rule of {name} was changed"
    assert_refused(done.returncode, done.stderr, copy, said)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["notebooks/smoke", "run"], "run/smoke/table0.json"),
        (["notebooks/quick", "run"], "no folder notebooks/quick; make book makes it"),
        (["notebooks/smoke"], "python book/build.py EXECUTED_NOTEBOOKS RESULTS"),
    ],
)
def test_the_build_stops_at_bad_input(copy, words, message, monkeypatch, capsys):
    path = copy / "run" / "smoke" / "table0.json"
    content = json.loads(path.read_text())
    content["provenance"]["parameters"]["profile"] = "real64"
    path.write_text(json.dumps(content))
    monkeypatch.chdir(copy)
    monkeypatch.setattr(sys, "argv", ["build.py", *words])
    monkeypatch.setattr(build, "ROOT", copy)
    monkeypatch.setattr(build, "STAGE", copy / "book" / "_build" / "src")
    assert_refused(build.main(), capsys.readouterr().err, copy, message)


@pytest.mark.parametrize(
    ("name", "networks", "said"),
    [
        ("cub200", True, "photographs, plain"),
        ("creatures", True, "drawn animals, plain"),
        (None, False, "made-up features, plain64"),
    ],
)
def test_a_result_is_called_after_its_own_images(name, networks, said):
    result = a_result("plain64")
    result.provenance.data[:] = [{"name": name, "split": "test"}] if name else []
    if not networks:
        result.provenance.networks.clear()
    assert pages.called("plain64", result) == said
    assert pages.called("mine", result) == "mine"


def test_a_verdict_says_how_well_its_networks_know_their_images():
    result = a_result("plain64")
    networks = result.provenance.networks
    had = next(iter(networks.values()))
    networks.clear()
    networks["a"] = had | {"epochs": 2, "train_accuracy": 1.0, "test_accuracy": 0.236}
    assert pages.regime("plain64", result) == "drawn animals, plain; train 100 %; test 24 %"
    networks["b"] = had | {"epochs": 2, "train_accuracy": 0.98, "test_accuracy": 0.33}
    networks["as it began"] = had | {"epochs": 0, "train_accuracy": 0.0, "test_accuracy": 0.0}
    said = "a-reader-s-own; train 98 to 100 %; test 24 to 33 %"
    assert pages.regime("a-reader-s-own", result) == said


def test_the_table_of_faults_is_what_was_recorded(tmp_path):
    row = {"fault": "kill -9", "work": "make | record", "times": 3, "example": "error: full | disk"}
    row |= {"same results": 2, "a line says what to do": 1, "seconds": 4.5}
    records.write(a_result(rows=[row]), tmp_path)
    page = pages.faults(pages.collect([tmp_path / "smoke"]))
    assert "| kill -9 | make \\| record | 3 | 2 | 1 | `error: full \\| disk` |" in page
    assert "No run" in pages.faults({})


def test_a_cluster_of_more_nodes_takes_less_time():
    header, _, *rows = pages.cluster().splitlines()
    assert rows and all(row.count("|") == header.count("|") for row in rows)
    for row in rows:
        total, longest, one, eight, many = (
            float(cell.strip().removesuffix(" h")) for cell in row.split("|")[3:8]
        )
        assert total == one >= eight >= many >= longest
