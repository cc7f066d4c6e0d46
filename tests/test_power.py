"""What pairs and images could not have shown counts neither for a claim nor against it."""

import pytest
import torch

from kclib import measures
from kclib.book import claims, tables, verdicts

GAIN = 0.02  # what the paper would find at each of the places made up here


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([(0.01, 0.03), (0.005, 0.025)], "holds"),
        ([(0.01, 0.03), (-0.05, 0.06)], "holds"),  # the second could not have been seen
        ([(0.01, 0.03), (-0.01, 0.01)], "partly"),
        ([(-0.01, 0.01), (-0.015, 0.02)], "fails"),
        ([(-0.01, 0.01), (-0.05, 0.06)], "fails"),
        ([(-0.09, -0.01)], "fails"),  # wide, and yet told from 0
        ([(-0.05, 0.06), (-0.03, 0.04)], "not testable"),
    ],
)
def test_places_that_say_nothing_are_left_out(intervals, expected):
    signs = [verdicts.seen(low, high, GAIN) for low, high in intervals]
    assert verdicts.verdict("each", signs) == expected


def test_where_the_paper_prints_no_effect_no_place_is_left_out():
    wide = (-0.5, 0.5)
    assert verdicts.seen(*wide) == verdicts.seen(*wide, float("nan")) == 0
    assert verdicts.seen(*wide, GAIN) is None
    assert verdicts.seen(*wide, -0.6) == 0  # an effect below 0 can be seen as well
    assert verdicts.seen(-0.02, 0.02, GAIN) == 0  # as wide as the effect is not wider


@pytest.mark.parametrize(
    ("rule", "outcomes", "levels", "expected"),
    [
        ("every", [1, None], (), "holds"),
        ("every", [None, 0], (), "fails"),
        ("reaches", [0.9, None], (0.9, 0.5), "holds"),
        ("steps", [1, None], (), "not testable"),  # both parts are needed
        ("steps", [None, 1], (), "not testable"),
    ],
)
def test_each_rule_without_what_could_not_be_seen(rule, outcomes, levels, expected):
    assert verdicts.verdict(rule, outcomes, levels) == expected


def test_what_could_not_be_seen_is_said_and_recorded():
    signs = [1, None, 0, -1, None]
    said = "above 0: 1 of 3, the opposite in 1, 2 more could not have been seen"
    assert tables.counts({"above 0": signs}) == said
    outcome = claims.judged("table3_refinement", "table3-gain", signs, said)
    assert outcome.outcomes == signs and outcome.verdict == "partly"
    assert claims.Outcome.model_validate_json(outcome.model_dump_json()) == outcome


def test_an_interval_over_pairs_covers_networks_and_images():
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(400, generator=draw)
    alike = images.expand(3, 400)
    apart = alike + torch.tensor([[-1.0], [0.0], [1.0]])
    ((mean, *ends, none), (_, low, high, few), (_, wide_low, wide_high, most)) = (
        measures.mean_over_pairs(values, resamples=500) for values in (images[None], alike, apart)
    )
    assert mean == pytest.approx(float(images.double().mean()))
    assert none is None and few == pytest.approx(0) and most > 0.9
    assert [low, high] == pytest.approx(ends)  # pairs that agree say what one says
    assert wide_high - wide_low > 3 * (high - low)
    # the standard error of a mean of three numbers, 1 apart
    assert (wide_high - wide_low) / 2 == pytest.approx(1.96 / 3**0.5, rel=0.15)
