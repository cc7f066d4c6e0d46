"""Verdicts follow from outcomes by the rules, and from nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kclib.book.verdicts import RULES, VERDICTS, apart, sign, verdict
from kclib.errors import InputError

HIGH, LOW = (0.9, 0.5), (-0.9, -0.5)  # levels where large and where small numbers are meant


@pytest.mark.parametrize(
    ("rule", "outcomes", "levels", "expected"),
    [
        ("each", [1, 1], (), "holds"),
        ("each", [True, False], (), "partly"),
        ("each", [1, -1], (), "partly"),  # the opposite is found as well
        ("each", [0, 0], (), "fails"),
        ("each", [-1], (), "fails"),
        ("every", [1, True], (), "holds"),
        ("every", [1, 0], (), "fails"),
        ("every", [1, -1], (), "fails"),
        ("steps", [1, 1], (), "holds"),
        ("steps", [1, 0], (), "partly"),
        ("steps", [1, -1], (), "partly"),
        ("steps", [0, 1], (), "fails"),
        ("steps", [-1, 1], (), "fails"),
        ("reaches", [0.9, 1.0], HIGH, "holds"),
        ("reaches", [1.0, 0.89], HIGH, "partly"),
        ("reaches", [0.5], HIGH, "partly"),
        ("reaches", [1.0, 0.49], HIGH, "fails"),
        ("reaches", [-1.0], HIGH, "fails"),
        ("reaches", [-0.9], LOW, "holds"),
        ("reaches", [-0.95, -0.7], LOW, "partly"),
        ("reaches", [-1.0, 0.3], LOW, "fails"),
    ],
)
def test_each_rule_on_outcomes_made_up(rule, outcomes, levels, expected):
    assert verdict(rule, outcomes, levels) == expected


@pytest.mark.parametrize("rule", RULES)
def test_without_an_outcome_nothing_can_be_tested(rule):
    assert verdict(rule, [], HIGH if rule == "reaches" else ()) == "not testable"


signs = st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=6)


@given(signs)
def test_rules_agree_where_they_must(outcomes):
    each, every, steps = (verdict(rule, outcomes) for rule in ("each", "every", "steps"))
    assert (each == "holds") == (every == "holds") == (steps == "holds")
    if each == "fails":
        assert every == steps == "fails"
    assert "not testable" not in (each, every, steps) and {each, every, steps} <= set(VERDICTS)


@given(signs)
def test_an_outcome_that_is_met_after_all_makes_no_verdict_worse(outcomes):
    for rule in ("each", "every", "steps"):
        better = verdict(rule, [1, *outcomes[1:]])
        assert VERDICTS.index(better) <= VERDICTS.index(verdict(rule, outcomes))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6))
def test_levels_for_small_numbers_mirror_those_for_large_ones(values):
    assert verdict("reaches", values, HIGH) == verdict("reaches", [-v for v in values], LOW)


def test_a_rule_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(InputError, match="rule.*'most'.*each.*every.*steps.*reaches"):
        verdict("most", [1])


def test_every_rule_is_explained_in_the_verdicts_own_words():
    for rule in RULES.values():
        assert "*holds*" in rule.explained and "*fails*" in rule.explained
        assert ("*partly*" in rule.explained) == (rule is not RULES["every"])


def test_an_interval_lies_above_a_level_only_as_a_whole():
    assert [sign(0.1, 0.2), sign(-0.2, -0.1), sign(-0.1, 0.1)] == [1, -1, 0]
    assert [sign(0, 0.2), sign(-0.2, 0)] == [0, 0]  # an end on the level is not beyond it
    assert [sign(0.1, 0.2, level=0.15), sign(0.1, 0.2, level=0.3)] == [0, -1]


def test_intervals_are_apart_only_if_they_do_not_touch():
    assert [apart((0, 1), (2, 3)), apart((2, 3), (0, 1))] == [1, -1]
    assert [apart((0, 1), (1, 2)), apart((1, 2), (0, 1)), apart((0, 3), (1, 2))] == [0, 0, 0]
