"""A claim and a result that nobody made, for tests of what is done with them."""

from kclib.book import claims, records


def a_claim(**changes) -> claims.Claim:
    """Return a claim of the artefact table0, but for what is changed."""
    fields = {
        "artefact": "table0",
        "statement": "A | B.",
        "where": "Table 0",
        "test": "the difference lies above 0",
        "rule": "each",
        "paper": "1",
    }
    return claims.Claim.model_validate(fields | changes)


def an_outcome(claim: claims.Claim | None = None, **changes) -> dict:
    """Return the fields of an outcome of a claim."""
    outcome = {
        "id": "made-up",
        "outcomes": [0],
        "found": "2",
        "verdict": "fails",
        "fixed": (claim or a_claim()).digest(),
    }
    return outcome | changes


def a_result(profile: str = "smoke", **changes) -> records.Result:
    """Return a valid result of a profile, but for what is changed."""
    provenance = {
        "parameters": {"profile": profile, "seed": 0},
        "seeds": [0, 5],
        "data": [{"name": "creatures"}],
        "networks": {
            "net_all_0": {
                "training_seconds": 1.5,
                "epochs": 2,
                "train_accuracy": 0.75,
                "test_accuracy": 0.5,
            }
        },
        "versions": records.versions(),
        "hardware": records.hardware("cpu"),
        "code": "0123",
        "run_seconds": 2.0,
        "peak_memory": 0.5,
        "date": "2026-01-01",
    }
    content = {
        "artefact": "table0",
        "profile": profile,
        "provenance": provenance,
        "rows": [{"tap": "conv1", "value": 0.25}, {"tap": "conv2", "value": None}],
        "claims": [],
    }
    return records.Result.model_validate(content | changes)
