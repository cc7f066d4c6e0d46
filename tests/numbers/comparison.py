"""Two runs of one profile: where their results differ by more than rounding explains.

``python tests/numbers/comparison.py REFERENCE VARIANT ...`` chooses the tolerances: it takes
folders of results of the same code, the variants computed on another processor or by other
kernels, e.g. with ``ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=COMPATIBLE`` in the
environment, and writes into ``tolerances.yaml``, for each field, twice the largest deviation from
the reference, and the claims whose verdicts such a change may turn. What stands there, called for
by other machines, stays if it is more. bfloat16 needs no variant: the profile computes in float32
throughout.
"""

import math
import sys
from pathlib import Path

import yaml

from kclib.book import records

FILE = Path(__file__).with_name("tolerances.yaml")
#: What a machine's speed decides.
IGNORED = {"seconds"}
#: Rounding alone: sums of float32 in another order.
LEAST = 1e-4


def numbers(result: records.Result):
    """Yield ((field, row number), value) of every cell.

    Where rows of one table hold different quantities, the field is called after its row's too: a
    rank correlation of few generations jumps from -1 to 1, a share does not.
    """
    for number, row in enumerate(result.rows):
        for field, value in row.items():
            if field not in IGNORED:
                own = f"{field}, {row['paired']}" if row.get("paired") else field
                yield (own if is_measured(value) else field, number), value


def is_measured(value) -> bool:
    return isinstance(value, float) and not isinstance(value, bool)


def deviations(reference: records.Result, other: records.Result) -> dict[str, float]:
    """Return the largest deviation of each measured field; infinite where one has no number."""
    found = {}
    theirs = dict(numbers(other))
    for (field, number), value in numbers(reference):
        counterpart = theirs.get((field, number))
        if is_measured(value) or is_measured(counterpart):
            both = value is not None and counterpart is not None
            deviation = abs(value - counterpart) if both else math.inf
            found[field] = max(found.get(field, 0.0), deviation)
    return found


def differences(reference: records.Result, other: records.Result, tolerances: dict) -> list[str]:
    """Say where a result differs from the reference by more than the tolerances allow."""
    said = []
    allowed = tolerances["fields"].get(reference.artefact, {})
    choices = tolerances["choices"].get(reference.artefact, [])
    theirs = dict(numbers(other))
    if dict.fromkeys(theirs) != dict.fromkeys(dict(numbers(reference))):
        said.append(f"{len(other.rows)} rows of other fields; {len(reference.rows)} are recorded")
    for (field, number), value in numbers(reference):
        counterpart = theirs.get((field, number))
        if is_measured(value) and is_measured(counterpart):
            limit = allowed.get(field, LEAST)
            if not abs(value - counterpart) <= limit:
                said.append(
                    f"row {number}, {field}: {counterpart:.6g}, recorded {value:.6g}, tolerance "
                    f"{limit:g}"
                )
        elif value != counterpart and field not in choices:
            said.append(f"row {number}, {field}: {counterpart!r}, recorded {value!r}")
    open_claims = tolerances["claims"]
    outcomes = {outcome.id: outcome for outcome in other.claims}
    for outcome in reference.claims:
        if outcome.id not in outcomes:
            said.append(f"no outcome of {outcome.id}")
        elif outcome.id not in open_claims and outcomes[outcome.id].verdict != outcome.verdict:
            found = outcomes[outcome.id]
            said.append(
                f"{outcome.id}: {found.verdict} ({found.found}), recorded {outcome.verdict} "
                f"({outcome.found})"
            )
    return said


def chosen(reference: Path, variants: list[Path], had: dict) -> dict:
    """Return the tolerances that the variants call for, on top of those that there are."""
    fields, choices, claims = (dict(had.get(name, {})) for name in ("fields", "choices", "claims"))
    for path in sorted(reference.glob("*.json")):
        own = records.read(path)
        for variant in variants:
            other = records.read(variant / path.name)
            for field, deviation in deviations(own, other).items():
                limit = float(f"{2 * deviation:.1g}")
                if limit > fields.get(own.artefact, {}).get(field, LEAST):
                    fields.setdefault(own.artefact, {})[field] = limit
            theirs = dict(numbers(other))
            turned = {
                place[0]
                for place, value in numbers(own)
                if not is_measured(value) and value != theirs.get(place)
            }
            if turned:
                known = set(choices.get(own.artefact, []))
                choices[own.artefact] = sorted(known | turned)
            for one, two in zip(own.claims, other.claims, strict=True):
                if one.verdict != two.verdict:
                    known = set(claims.get(one.id, []))
                    claims[one.id] = sorted(known | {one.verdict, two.verdict})
    return {"fields": fields, "choices": choices, "claims": claims}


if __name__ == "__main__":
    first, *others = map(Path, sys.argv[1:])
    had = yaml.safe_load(FILE.read_text()) if FILE.exists() else {}
    FILE.write_text(
        "# Written by comparison.py from runs of the smoke profile on other processors or by\n"
        "# other kernels: twice the largest deviation of each field; fields that a measured\n"
        "# number chooses (the best epoch); claims whose verdicts such a change turns.\n"
        + yaml.safe_dump(chosen(first, others, had), sort_keys=True)
    )
