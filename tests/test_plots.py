"""Drawings hold what they are given."""

import matplotlib.pyplot as plt
import pytest

from kclib.book import plots


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize(("signed", "expected"), [(True, True), (False, False)])
def test_a_signed_axis_reaches_to_negative_numbers(signed, expected):
    series = {"run": ([-2.0, 1.0], [(-3.0, -1.0), (0.0, 2.0)], plots.RUN)}
    figure = plots.shares(["one", "other"], series, xlabel="points", signed=signed)
    low, high = figure.axes[0].get_xlim()
    assert high > 2.0
    assert (low < -3.0) == expected and (low == 0) == (not expected)
