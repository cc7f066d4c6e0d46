"""The book's tables: which lines they have, and what stands where there is no number."""

import pandas as pd

from kclib.book import tables


def test_a_share_stands_beside_the_recorded_and_the_printed_one():
    def row(network, tap, accuracy):
        return {"network": network, "tap": tap, "accuracy": accuracy}

    run = [row("b", "x", 0.5), row("a", "y", 0.25), {"network": "a", "effect": "none"}]
    recorded = [row("c", "z", 0.75), row("a", "y", 0.125)]
    printed = {("b", "x"): 40.0, ("c", "z"): 70.0}
    strong = [row("c", "z", 0.5), row("c", "z", 0.75)]  # two pairs: their mean
    found = tables.compared(
        run,
        {"plain": recorded, "strong": strong},
        ["network", "tap"],
        "accuracy",
        lambda *at: printed.get(at),
    )
    assert list(found.index) == [("b", "x"), ("a", "y"), ("c", "z")]  # the recorded one's own last
    assert found.fillna(-1).to_dict("list") == {
        "paper": [40, -1, 70],
        "plain": [-1, 12.5, 75],
        "strong": [-1, -1, 62.5],
        "this run": [50, 25, -1],
    }
    alone = tables.compared(run, {}, ["network", "tap"], "accuracy", lambda *_: None)
    assert alone["this run"].tolist() == [50, 25]
    assert list(alone) == ["paper", "this run"] and alone["paper"].isna().all()


def test_gains_are_blank_where_there_are_none():
    lines = pd.DataFrame({"gain": [-0.01, None], "low": [-0.02, None], "high": [0.0, None]})
    assert tables.gains(lines, "gain").tolist() == ["-1.0 (-2.0 to +0.0)", ""]
