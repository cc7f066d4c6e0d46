"""A result that nothing computed, for tests of what is done with results."""

from kclib.book import records


def a_claim(**changes) -> dict:
    """Return the fields of a claim."""
    claim = {
        "id": "made-up",
        "statement": "A | B.",
        "where": "Table 0",
        "test": "none",
        "paper": "1",
        "found": "2",
        "verdict": "fails",
    }
    return claim | changes


def a_result(profile: str = "smoke", **changes) -> records.Result:
    """Return a valid result of a profile, but for what is changed."""
    provenance = {
        "parameters": {"profile": profile, "seed": 0},
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
    content = {
        "artefact": "table0",
        "profile": profile,
        "provenance": provenance,
        "rows": [{"tap": "conv1", "value": 0.25}, {"tap": "conv2", "value": None}],
        "claims": [a_claim()],
    }
    return records.Result.model_validate(content | changes)
