"""Naming the networks that are compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kclib.book.members import SUBSETS, Member, pair
from kclib.errors import InputError

names = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)


@given(names, st.sampled_from(SUBSETS), st.integers(0, 10**6))
def test_a_member_is_read_from_its_text(name, subset, seed):
    member = Member(name, seed, subset)
    assert Member.parse(str(member)) == member


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vgg16", "'vgg16' names no network; write NAME_SUBSET_SEED, e.g. vgg16_all_0"),
        ("", "names no network"),
        ("vgg16_all", "names no network"),
        ("vgg16_all_x", "names no network"),
        ("vgg16_all_-1", "names no network"),
        ("vgg16_all_1.5", "names no network"),
        ("vgg16_al_0", "no subset of the training images 'al'. Did you mean 'all'"),
        ("vgg16_firsthalf_0", "Did you mean 'first-half'"),
    ],
)
def test_a_text_that_is_no_member_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        Member.parse(text)


def test_pairs_differ_in_what_they_should():
    assert pair("net", "initialisations", 3) == (Member("net", 3), Member("net", 8))
    assert pair("net", "halves", 3) == (
        Member("net", 3, "first-half"),
        Member("net", 3, "second-half"),
    )
    with pytest.raises(InputError, match="no condition 'halfs'. Did you mean 'halves'"):
        pair("net", "halfs", 0)


def test_members_are_read_from_what_they_are_written_as():
    for member in (
        Member("vgg16_maps", 3, "first-half"),
        Member("vgg16", 0, pruned=0.933),
        Member("vgg16", 5, born=2),
    ):
        assert Member.parse(str(member)) == member
    assert Member("vgg16", 0, pruned=0.9).origin == Member("vgg16", 0)
    assert Member("vgg16", 0, born=2).origin == Member("vgg16", 0, born=1)
    assert Member("vgg16", 0).origin is None
    for wrong in (
        {"seed": 10**20},
        {"pruned": 1.2},
        {"born": -1},
        {"born": 10**6},
        {"born": 1, "pruned": 0.5},
    ):
        with pytest.raises(InputError, match="allowed"):
            Member("vgg16", **{"seed": 0} | wrong)
