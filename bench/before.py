"""What a bench takes now, beside the last one recorded: ratios, in units of each run's own."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median

from kclib.book import records
from kclib.errors import InputError

#: What machines and moments change without a cause in the code.
NOISE = 0.1
#: What a run finds, or repeats; the other fields say what was timed.
_FOUND = {"seconds", "residual", "seed", "round"}


def changes(rows: Iterable[dict], path: Path, unit: str) -> Iterator[str]:
    """Say what got slower or faster than in the result that a path holds.

    Parameters
    ----------
    rows : iterable of dict
        Each with its ``method`` and ``seconds``; of several alike the median counts.
    path : Path
        Of the result that these rows are to replace, if there is one.
    unit : str
        The method whose seconds, in the same run, are the unit: so neither the machine nor how busy
        it is enters.

    Yields
    ------
    str
        A line for each method that takes over a tenth more or less, and one on all others.
    """
    if not path.exists():
        return
    try:
        had = records.read(path)
    except InputError as error:
        yield f"not compared with the bench before: {error}"
        return
    now, before = _in_units(rows, unit), _in_units(had.rows, unit)
    both = [key for key in now if key in before]
    ratios = {key: now[key] / before[key] for key in both}
    changed = {key: ratio for key, ratio in ratios.items() if abs(ratio - 1) > NOISE}
    for key, ratio in sorted(changed.items(), key=lambda one: -one[1]):
        yield (
            f"{'slower' if ratio > 1 else 'faster'}: {key}, {ratio:.2f} times the bench of "
            f"{had.provenance.date} ({now[key]:.3g} of {unit}, was {before[key]:.3g})"
        )
    yield (
        f"{len(both) - len(changed)} of {len(both)} measurements take as long as on "
        f"{had.provenance.date}, give or take a tenth, in units of {unit}"
    )


def _in_units(rows: Iterable[dict], unit: str) -> dict[str, float]:
    """Return seconds by what was timed, in units of all that a method took."""
    times: dict[str, list[float]] = {}
    whole = 0.0
    for row in rows:
        # How many passes the default fit makes is what it found out.
        found = _FOUND | ({"epochs"} if row["method"].startswith("fast, ") else set())
        named = (
            str(value) if isinstance(value, str) else f"{value} {name}"
            for name, value in row.items()
            if name not in found
        )
        times.setdefault(", ".join(named), []).append(row["seconds"])
        whole += row["seconds"] if row["method"] == unit else 0.0
    return {key: median(seconds) / whole for key, seconds in times.items()} if whole else {}
