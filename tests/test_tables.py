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


def test_shares_are_means_over_networks_on_test_and_on_training_images():
    def row(tap, seed, left, on_training, fit="joint, per image"):
        return {"fit": fit, "tap": tap, "seed": seed, "left": left, "left_train": on_training}

    def whole(tap, fit="joint, per image"):
        return {"fit": fit, "tap": tap, "left": 0.0, "pairs": 2, "low": 0.1, "high": 0.4}

    run = [row("b", 0, 0.2, 0.1), row("b", 1, 0.4, 0.2), row("a", 0, 0.5, 0.5)]
    run += [
        row("b", 0, 0.9, 0.8, "linear"),
        row("a", 0, 0.7, 0.6, "linear"),
        whole("b"),
        whole("a"),
    ]
    run.append({"fit": "joint, per image", "tap": "b", "seed": 0, "paired": "growth", "value": 1.0})
    ways = {"joint": "joint, per image", "linear": "linear"}
    found = tables.shares(run, {"recorded": run[:2]}, ways, ["tap"], "left")
    assert found.to_dict("index") == {
        "b": {
            "recorded, test / training": "0.300 / 0.150",
            "joint, test / training": "0.300 / 0.150",
            "joint, 95 % interval, test": "0.100 to 0.400",
            "joint, spread, test": "0.200 to 0.400",
            "linear, test / training": "0.900 / 0.800",
        },
        "a": {
            "recorded, test / training": "not recorded",
            "joint, test / training": "0.500 / 0.500",
            "joint, 95 % interval, test": "0.100 to 0.400",
            "joint, spread, test": "one pair",
            "linear, test / training": "0.700 / 0.600",
        },
    }
    assert list(found.index) == ["b", "a"]
