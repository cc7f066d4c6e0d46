"""The computed pages: claims, summary, run times and so on, written from results."""

from pathlib import Path

import performance

from kclib import records
from kclib.atomic import replace_file
from kclib.records import Claim, Result

#: The book's profiles, the one that tells most first; a reader's own come after them.
_MEANING = {
    "real64": "CUB-200-2011 and Stanford Dogs at 64 or 112 px, narrow networks",
    "paper": "CUB-200-2011 and Stanford Dogs at 224 px, full networks",
    "quick": "embedded Creatures, narrow networks",
    "smoke": "a test of the code; its numbers mean nothing",
}


def collect(folders: list[Path]) -> dict[str, dict[str, Result]]:
    """Return results by profile and artefact; those of a later folder replace an earlier one's."""
    found: dict[str, dict[str, Result]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            result = records.read(path)
            found.setdefault(result.profile, {})[result.artefact] = result
    names = [name for name in _MEANING if name in found] + sorted(found.keys() - _MEANING)
    return {name: found[name] for name in names}


def claims_by_id(results: dict[str, dict[str, Result]]) -> dict[str, dict[str, Claim]]:
    """Return each claim's outcomes by profile, in the order of the book."""
    claims: dict[str, dict[str, Claim]] = {}
    for profile, artefacts in results.items():
        for artefact in sorted(artefacts):
            for claim in artefacts[artefact].claims:
                claims.setdefault(claim.id, {})[profile] = claim
    return dict(sorted(claims.items()))


def summary(results: dict[str, dict[str, Result]]) -> str:
    """Return the home page's table: claims and verdicts, one column a profile."""
    profiles = list(results)
    lines = [
        f"| Claim | {' | '.join(profiles)} |",
        f"| --- |{' --- |' * len(profiles)}",
    ]
    for outcomes in claims_by_id(results).values():
        any_claim = next(iter(outcomes.values()))
        cells = [outcomes[p].verdict if p in outcomes else "not run" for p in profiles]
        lines.append(f"| {_cell(any_claim.statement)} | {' | '.join(cells)} |")
    meanings = "; ".join(f"`{name}`: {_MEANING.get(name, 'your own')}" for name in profiles)
    return "\n".join([*lines, "", f"Columns are profiles. {meanings}.", ""])


def claims(results: dict[str, dict[str, Result]]) -> str:
    """Return the claims page: each claim with its test and its outcome under every profile."""
    blocks = []
    for outcomes in claims_by_id(results).values():
        claim = next(iter(outcomes.values()))
        rows = "\n".join(
            f"| {profile} | {_cell(c.found)} | **{c.verdict}** | {_cell(c.depends)} |"
            for profile, c in outcomes.items()
        )
        blocks.append(
            f"## {claim.statement}\n\n"
            f"*Where*: {claim.where}. *Test*: {claim.test}. *Paper*: {claim.paper}.\n\n"
            f"| profile | found | verdict | it depends on |\n| --- | --- | --- | --- |\n{rows}\n"
        )
    return "\n".join(blocks)


def runtimes(results: dict[str, dict[str, Result]]) -> str:
    """Return the table of what each notebook took, networks apart."""
    lines = [
        "| profile | notebook | seconds | networks | seconds to train them | GB | machine | date |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for profile, artefacts in results.items():
        for name, result in sorted(artefacts.items()):
            had = result.provenance
            training = sum(network["seconds"] for network in had.networks.values())
            machine = f"{had.hardware['processor']}, {had.hardware['threads']} thread"
            lines.append(
                f"| {profile} | {name} | {had.seconds:.0f} | {len(had.networks)} | {training:.0f} "
                f"| {had.peak_memory:.1f} | {had.hardware['accelerator'] or machine} | {had.date} |"
            )
    return "\n".join([*lines, ""])


def normalisations(results: dict[str, dict[str, Result]]) -> str:
    """Return the table of what each normalisation leaves, of a copy and of another network."""
    lines = [
        '| profile | feature | `norm="image"` | `norm="dataset"` |',
        "| --- | --- | --- | --- |",
    ]
    for profile, artefacts in results.items():
        rows = artefacts["fig2_disentangler"].rows if "fig2_disentangler" in artefacts else []
        copies = {r["norm"]: r["residual"] for r in rows if r["example"].startswith("shuffled")}
        if copies:
            cells = f"{copies['image']:.3f} | {copies['dataset']:.1e}"
            lines.append(f"| {profile} | a copy of itself, channels shuffled, order 0 | {cells} |")
        rows = artefacts["table1_instability"].rows if "table1_instability" in artefacts else []
        shares: dict[str, dict[str, float]] = {}
        for row in rows:
            place = f"{row['network']} {row['tap']}, {row['condition']}, seed {row.get('seed')}"
            shares.setdefault(place, {})[row.get("fit")] = row["instability"]
        for place, found in shares.items():
            if {"joint, per image", "joint, data set"} <= found.keys():
                cells = f"{found['joint, per image']:.3f} | {found['joint, data set']:.3f}"
                lines.append(f"| {profile} | {place}, joint fit, test images | {cells} |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    """Return text that a cell of a Markdown table can hold."""
    return " ".join(text.split()).replace("|", "\\|")


def write(
    folder: Path,
    results: dict[str, dict[str, Result]],
    benches: dict[str, dict[str, Result]] | None = None,
) -> None:
    """Write all computed pages into a folder; ``benches`` are the results of ``make bench``."""
    for page in (summary, claims, runtimes, normalisations):
        replace_file(folder / f"{page.__name__}.md", page(results).encode())
    benches = benches or {}
    performance.write(folder, {name: found["solver"] for name, found in benches.items()})
