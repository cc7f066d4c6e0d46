"""The registry of claims is read strictly, and results that differ from it are refused."""

import json

import pytest
import yaml
from made_up import a_claim, an_outcome

from kclib.book import claims, environment, paper, verdicts
from kclib.book.claims import Outcome, check, judged, parse
from kclib.errors import InputError

ROOT = environment.RECORDED.parent


# The registry


def written(**changes) -> str:
    """Return a registry of one claim as text; a field that is None is left out."""
    fields = a_claim().model_dump(exclude_defaults=True) | changes
    return yaml.safe_dump({"made-up": {k: v for k, v in fields.items() if v is not None}})


def test_what_is_written_is_read():
    assert parse(written()) == {"made-up": a_claim()}
    assert parse(written(rule="reaches", levels=[0.9, 0.5]))["made-up"].levels == (0.9, 0.5)
    assert parse("") == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rule": "most"}, "rule: .*'each', 'every', 'steps' or 'reaches'"),
        ({"rule": "reaches"}, "the rule reaches has 0 levels"),
        ({"rule": "reaches", "levels": [0.9]}, "the rule reaches has 1 levels"),
        ({"levels": [0.9, 0.5]}, "the rule each has 2 levels"),
        ({"rule": "reaches", "levels": [0.9, float("nan")]}, "levels.1"),
        ({"test": None}, "test: Field required"),
        ({"artefact": None}, "artefact: Field required"),
        ({"verdict": "holds"}, "verdict: Extra inputs"),
        ({"paper": {"row": "x"}}, "paper.PaperNumbers.artefact: Field required"),
    ],
)
def test_a_claim_that_is_not_valid_is_refused_by_name(changes, said):
    with pytest.raises(InputError, match=f"^the claim 'made-up' is not valid: .*{said}") as caught:
        parse(written(**changes))
    assert len(str(caught.value).splitlines()) == 1


def test_text_that_is_no_yaml_is_refused():
    with pytest.raises(InputError, match="is not YAML"):
        parse("a: [1")


def test_notebooks_that_test_claims_are_those_that_claims_belong_to():
    testing = {
        path.stem
        for path in (ROOT / "notebooks").glob("[!.]*.ipynb")
        for cell in json.loads(path.read_text())["cells"]
        if "claims" in cell["metadata"].get("tags", [])
    }
    assert {claim.artefact for claim in claims.registry().values()} == testing


def test_every_rule_is_used():
    assert {claim.rule for claim in claims.registry().values()} == set(verdicts.RULES)


def test_numbers_that_claims_rest_on_are_the_paper_s():
    printed = [c for c in claims.registry().values() if not isinstance(c.paper, str)]
    assert printed
    for claim in printed:
        assert paper.numbers(claim.paper.artefact), claim.statement
        assert any(character.isdigit() for character in claim.said_by_paper())
    assert a_claim(paper="maps only").said_by_paper() == "maps only"


@pytest.mark.parametrize(
    "changes",
    [
        {"test": "the difference lies above 0.0"},
        {"statement": "A or B."},
        {"rule": "every"},
        {"rule": "reaches", "levels": (0.9, 0.5)},
    ],
)
def test_the_digest_changes_with_what_decides_the_verdict(changes):
    assert a_claim(**changes).digest() != a_claim().digest()


def test_other_levels_are_another_test():
    one, other = (a_claim(rule="reaches", levels=(full, 0.5)) for full in (0.9, 0.8))
    assert one.digest() != other.digest()


def test_the_digest_stays_where_only_the_reader_is_told_more():
    for changes in ({"where": "Table 0, left"}, {"paper": "2"}, {"artefact": "table1"}):
        assert a_claim(**changes).digest() == a_claim().digest()


# Outcomes


@pytest.fixture
def registered(monkeypatch):
    """A registry of two claims of one notebook, and one of another."""
    known = {
        "one": a_claim(statement="One."),
        "two": a_claim(statement="Two.", rule="reaches", levels=(0.9, 0.5)),
        "far": a_claim(statement="Far.", artefact="table9"),
    }
    monkeypatch.setattr(claims, "registry", lambda: known)
    return known


@pytest.fixture
def found(registered):
    """Return outcomes that match the registry."""
    return [judged("table0", "one", [1, 0], "1 of 2"), judged("table0", "two", [0.95], "0.95")]


def test_a_verdict_follows_from_the_outcomes(registered):
    outcome = judged("table0", "one", [1, -1], "1 of 2", "the seed")
    assert outcome == Outcome.model_validate(
        an_outcome(
            registered["one"],
            id="one",
            outcomes=[1, -1],
            found="1 of 2",
            verdict="partly",
            depends="the seed",
        )
    )
    assert judged("table0", "two", [], "").verdict == "not testable"


def test_numbers_of_numpy_are_recorded_as_python_s(registered):
    np = pytest.importorskip("numpy")
    outcome = judged("table0", "one", np.array([0.5, 0.6]) > 0.55, "")
    assert outcome.outcomes == [False, True] and type(outcome.outcomes[1]) is bool
    assert judged("table0", "two", np.array([0.5]), "").outcomes == [0.5]


@pytest.mark.parametrize("name", ["three", "far"])
def test_a_claim_that_the_notebook_does_not_have_is_refused(registered, name):
    with pytest.raises(InputError, match=f"claim of table0.*'{name}'.*one.*two"):
        judged("table0", name, [1], "")


def test_outcomes_that_match_the_registry_pass(found):
    check("table0", found, "here")
    check("table0", found[::-1], "here")
    check("a notebook without claims", [], "here")


def refused(outcomes: list[Outcome]) -> str:
    """Return what is said of outcomes, in one line."""
    with pytest.raises(InputError) as caught:
        check("table0", outcomes, "here")
    said = str(caught.value)
    assert said.startswith("here: ") and len(said.splitlines()) == 1
    return said


def test_a_claim_without_an_outcome_is_named(found):
    assert "claims without an outcome: two." in refused(found[:1])
    assert "claims without an outcome: one, two." in refused([])


def test_an_outcome_without_a_claim_is_named(found, registered):
    assert "outcomes without a claim: far" in refused([*found, judged("table9", "far", [1], "")])
    del registered["two"]
    assert "outcomes without a claim: two" in refused(found)


def test_a_claim_with_two_outcomes_is_named(found):
    assert "claims with several outcomes: one" in refused([found[0], *found])


@pytest.mark.parametrize("change", [{"test": "another"}, {"rule": "every"}, {"statement": "1."}])
def test_a_test_that_was_changed_after_the_outcome_is_named(found, registered, change):
    registered["one"] = registered["one"].model_copy(update=change)
    said = refused(found)
    assert "test or rule of one was changed" in said and "run the notebook again" in said


def test_a_verdict_that_does_not_follow_is_named(found):
    better = found[0].model_copy(update={"verdict": "holds"})
    assert "one is said to be 'holds', but 'partly' follows" in refused([better, found[1]])
