"""Measurements, printed as they come, and written as a result when all are there."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from before import changes

from kclib.book import records


def printed(rows: Iterable[dict]) -> Iterator[dict]:
    """Yield rows, each printed as it comes, so that a long run shows where it is."""
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        yield row


def recorded(
    rows: list[dict],
    folder: Path,
    profile: str,
    name: str,
    given: dict,
    began: float,
    *,
    unit: str | None = None,
    networks: dict | None = None,
    device: str = "cpu",
) -> Path:
    """Say what changed since the last result, replace it, and return its path.

    Parameters
    ----------
    rows : list of dict
    folder : Path
        It goes to ``PROFILE/NAME.json`` there.
    profile, name : str
    given : dict
        Parameters, beside the profile and the seed, which is 0.
    began : float
        When the run began, by `time.perf_counter`.
    unit : str, optional
        See `before.changes`; without one, nothing is said.
    networks : dict, optional
        See `kclib.book.records.provenance`.
    device : str
    """
    provenance = records.provenance(
        {"profile": profile, "seed": 0} | given,
        seeds=[0],
        networks=networks or {},
        fits={},
        device=device,
        run_seconds=time.perf_counter() - began,
    )
    result = records.Result(
        artefact=name, profile=profile, provenance=provenance, rows=rows, claims=[]
    )
    for line in changes(rows, folder / profile / f"{name}.json", unit) if unit else ():
        print(line, flush=True)
    return records.write(result, folder)
