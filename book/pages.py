"""The computed pages: claims, summary, run times and so on, written from results."""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import exercise
import findings
import performance
import yaml

from kclib.atomic import replace_file
from kclib.book import environment, parameters, profiles, records
from kclib.book.claims import Claim, Outcome, check, of, registry
from kclib.book.graph import Graph
from kclib.book.records import Result
from kclib.book.verdicts import RULES
from kclib.errors import InputError

ROOT = Path(__file__).parent.parent
#: From profile to what it is called where results stand beside each other.
CALLED = {
    "plain64": "photographs, plain",
    "real64": "photographs, strong",
    "paper": "photographs of the paper's size",
    "real112": "photographs of 112 px, plain",
    "quick": "drawn animals",
}
#: The book's profiles, the one that tells most first; a reader's own come after them.
_MEANING = {
    "plain64": "CUB-200-2011, Stanford Dogs and VOC's animals at 64 or 112 px, networks trained as "
    "the paper's, without augmentation, until they fit their training images",
    "real64": "CUB-200-2011 and Stanford Dogs at 64 or 112 px, narrow networks, trained by a "
    "stronger recipe",
    "real112": "the same at 112 px, full networks, trained as the paper's, without augmentation",
    "paper": "CUB-200-2011 and Stanford Dogs at 224 px, full networks",
    "quick": "embedded Creatures, narrow networks",
    "smoke": "a test of the code; its numbers mean nothing",
}


def collect(folders: list[Path]) -> dict[str, dict[str, Result]]:
    """Return results by profile and artefact; those of a later folder replace an earlier one's.

    Raises
    ------
    InputError
        If a file is not a result, or its claims are not those of the registry as they stand now.
    """
    found: dict[str, dict[str, Result]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            result = records.read(path)
            check(result.artefact, result.claims, str(path))
            found.setdefault(result.profile, {})[result.artefact] = result
    names = [name for name in _MEANING if name in found] + sorted(found.keys() - _MEANING)
    return {name: found[name] for name in names}


@cache
def titles(folder: str = "notebooks") -> dict[str, str]:
    """Return the book's pages of a folder in its order, each with its heading."""
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    pages = [Path(chapter["file"]) for part in parts for chapter in part["chapters"]]
    found = {}
    for page in pages:
        if page.parent.name != folder:
            continue
        if folder == "notebooks":
            first = json.loads((ROOT / page).with_suffix(".ipynb").read_text())["cells"][0]
            heading = "".join(first["source"]).splitlines()[0]
        else:
            heading = (ROOT / page).with_suffix(".md").read_text().splitlines()[0]
        found[page.name] = heading.removeprefix("# ")
    return found


def in_order() -> dict[str, str]:
    """Return the artefacts that have claims, in the book's order, each with its title.

    Raises
    ------
    InputError
        If a claim belongs to none of the book's notebooks: nobody would see it.
    """
    claimed = {claim.artefact for claim in registry().values()}
    if unknown := sorted(claimed - titles().keys()):
        raise InputError(
            f"results/claims.yaml has claims of {', '.join(unknown)}, which is no notebook in "
            f"_toc.yml; allowed: {', '.join(titles())}."
        )
    return {name: title for name, title in titles().items() if name in claimed}


def summary(results: dict[str, dict[str, Result]]) -> str:
    """Return the table of the claims page: verdicts of each page's claims, one column a profile."""
    profiles = list(results)
    lines = [f"| Page | {' | '.join(profiles)} |", f"| --- |{' --- |' * len(profiles)}"]
    for name, title in in_order().items():
        cells = [
            counted(results[p][name].claims) if name in results[p] else "not run" for p in profiles
        ]
        link = f"[{_cell(title)}](../notebooks/{name}.ipynb)"
        lines.append(f"| {link} | {' | '.join(cells)} |")
    totals = [counted([c for r in results[p].values() for c in r.claims]) for p in profiles]
    lines.append(f"| **all claims** | {' | '.join(totals)} |")
    meanings = "; ".join(f"`{name}`: {_MEANING.get(name, 'your own')}" for name in profiles)
    return "\n".join([*lines, "", f"Columns are profiles. {meanings}.", ""])


def counted(outcomes: list[Outcome]) -> str:
    """Say how many claims had which verdict."""
    number = Counter(outcome.verdict for outcome in outcomes)
    words = {"holds": "hold", "partly": "partly", "fails": "fail", "not testable": "not testable"}
    return ", ".join(f"{number[v]} {word}" for v, word in words.items() if number[v])


def claims(results: dict[str, dict[str, Result]]) -> str:
    """Return the claims page: each claim with its test and its outcome under every profile."""
    blocks = []
    for artefact, title in in_order().items():
        blocks.append(f"## {title}\n")
        outcomes: dict[str, dict[str, Outcome]] = {}
        for profile, found in results.items():
            for outcome in found[artefact].claims if artefact in found else ():
                words = {
                    "found": in_words(outcome.found, profile),
                    "depends": in_words(outcome.depends, profile),
                }
                told = outcome.model_copy(update=words)
                outcomes.setdefault(outcome.id, {})[regime(profile, found[artefact])] = told
        blocks += [_claim(name, claim, outcomes) for name, claim in of(artefact).items()]
    return "\n".join(blocks)


def called(profile: str, result: Result) -> str:
    """Say what a result is of: under a profile of photographs a page may use other things."""
    words, had = CALLED.get(profile, profile), result.provenance
    if profile in CALLED and not had.data and not had.networks:
        return f"made-up features, {profile}"
    if had.data and all(part["name"] == "creatures" for part in had.data):
        return words.replace("photographs", CALLED["quick"])
    return words


def regime(profile: str, result: Result) -> str:
    """Say what a result is of, and how well its trained networks know their images."""
    return "; ".join(filter(None, [called(profile, result), result.right_answers()]))


def in_words(text: str, profile: str) -> str:
    """Return what an outcome says in a reader's words, beside a cell that names its profile.

    Examples
    --------
    >>> in_words("profile quick, alexnet_maps_all_0 at conv5, order 2", "quick")
    'AlexNet of seed 0 at conv5, order 2'
    >>> in_words("share of x_delta 0.32; vgg16_mix conv4_3 bird +4.1", "quick")
    'share of what is left 0.32; VGG-16 conv4-3 bird +4.1'
    """
    text = re.sub(rf"^profile {re.escape(profile)}(: |, |$)", "", text)
    network = rf"\b({'|'.join(findings.NAMES)})(?:_(?:maps|mix|voc))?(?:_[a-z-]+_(\d+))?\b"

    def named(found: re.Match) -> str:
        return findings.NAMES[found[1]] + (f" of seed {found[2]}" if found[2] else "")

    text = re.sub(network, named, text)
    text = re.sub(r"\bconv(\d)_(\d)\b", r"conv\1-\2", text)
    return text.replace("x_delta", "what is left")


def _claim(name: str, claim: Claim, found: dict[str, dict[str, Outcome]]) -> str:
    """Return one claim with its outcomes, by `regime`, at a place that can be linked to."""
    outcomes = found.get(name, {})
    rows = "\n".join(
        f"| {_cell(title)} | {_cell(o.found)} | **{o.verdict}** | {_cell(o.depends)} |"
        for title, o in outcomes.items()
    )
    heads = ("images; right answers", "found", "verdict", "it depends on")
    table = f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}\n{rows}"
    return (
        f"(claim-{name})=\n### {claim.statement}\n\n"
        f"*Where*: {claim.where}. *Test*: {claim.test}. *Rule*: {claim.rule}. "
        f"*Paper*: {claim.said_by_paper()}.\n\n"
        f"{table if outcomes else 'It was not tested yet.'}\n"
    )


def rules() -> str:
    """Return the rules by which verdicts follow from outcomes, each with its sentence."""
    return "\n".join(f"{name}\n: {rule.explained}\n" for name, rule in RULES.items())


def runtimes(results: dict[str, dict[str, Result]]) -> str:
    """Return the table of what each notebook took, networks apart."""
    lines = [
        "| profile | notebook | seconds | networks | seconds to train them | GB | machine | date "
        "| code |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for profile, artefacts in results.items():
        for name, result in sorted(artefacts.items()):
            had = result.provenance
            training = sum(network["training_seconds"] for network in had.networks.values())
            machine = f"{had.hardware['processor']}, {had.hardware['threads']} thread"
            machine += ", bfloat16" if had.hardware.get("bfloat16") else ""
            cells = [profile, name, f"{had.run_seconds:.0f}", len(had.networks), f"{training:.0f}"]
            cells += [f"{had.peak_memory:.1f}", had.hardware["accelerator"] or machine, had.date]
            lines.append(f"| {' | '.join(map(str, cells))} | `{had.code[:7]}` |")
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
            if row.get("seed") is None:  # the mean over pairs
                continue
            where = f"{findings.place(row)}, {row['condition']}"
            place = f"{where}, seed {row['seed']}"
            shares.setdefault(place, {})[row.get("fit")] = row["instability"]
        for place, found in shares.items():
            if {"joint, per image", "joint, data set"} <= found.keys():
                cells = f"{found['joint, per image']:.3f} | {found['joint, data set']:.3f}"
                lines.append(f"| {profile} | {place}, joint fit, test images | {cells} |")
    return "\n".join([*lines, ""])


#: Where two notebooks record one number: the field, and the values of others in its row.
_SAME_SHARES = (
    (
        "table1_instability",
        "instability",
        {"condition": "initialisations", "fit": "joint, per image", "seed": 0},
    ),
    ("check_dependencies", "value", {"quantity": "share left", "change": "nothing"}),
)


def _shares_left(result: Result | None, field: str, others: dict) -> dict[str, float]:
    """Return the shares that a result has at each layer."""
    rows = result.rows if result else []
    return {findings.place(row): row[field] for row in rows if others.items() <= row.items()}


def once_more(results: dict[str, dict[str, Result]]) -> str:
    """Return the table of what came out where recorded results trained the same networks anew.

    Entries of one key have the same settings, seeds and data; where results that name one differ in
    its accuracy, it was trained more than once, on different machines.
    """
    lines = ["| profile | number | once | once more |", "| --- | --- | --- | --- |"]
    for profile, artefacts in results.items():
        accuracies: dict[tuple, dict[float, None]] = {}
        for result in artefacts.values():
            for name, had in result.provenance.networks.items():
                accuracies.setdefault((name, had.get("key")), {})[had["test_accuracy"]] = None
        twice = {name: [*had] for (name, _), had in accuracies.items() if len(had) > 1}
        for name, (once, *_, again) in twice.items():
            cells = f"{100 * once:.1f} % | {100 * again:.1f} %"
            lines.append(f"| {profile} | `{name}`, test images right | {cells} |")
        if not twice:
            continue
        shares = [_shares_left(artefacts.get(name), *at) for name, *at in _SAME_SHARES]
        for place in [place for place in shares[0] if place in shares[1]]:
            cells = " | ".join(f"{found[place]:.3f}" for found in shares)
            lines.append(f"| {profile} | {place}, share left | {cells} |")
    if len(lines) == 2:
        return "No recorded results have trained the same networks more than once.\n"
    return "\n".join([*lines, ""])


def parameter_table() -> str:
    """Return the table of the numbers that notebooks take, with their ranges."""
    lines = ["| Parameter | Meaning | Allowed |", "| --- | --- | --- |"]
    for name, (kind, low, high, meaning) in parameters.NUMBERS.items():
        whole = "whole numbers" if kind is int else "numbers"
        several = ", with commas between them" if name in parameters.LISTS else ""
        lines.append(
            f"| `{name}` | {meaning} | {whole} from {low:,.10g} to {high:,.10g}{several} |"
        )
    return "\n".join([*lines, ""])


def cluster(nodes: tuple[int, ...] = (1, 8, 64)) -> str:
    """Return the table of what each profile takes on a cluster, simulated from recorded times.

    Each node does one job at a time; jobs begin in Snakemake's order, and take what they took when
    they were recorded. Starting a job and waiting in a queue are left out, and profiles of which
    less than half of the jobs were recorded.
    """
    heads = ["profile", "jobs recorded", "one after the other", "longest chain"]
    heads += [f"nodes: {count}" for count in nodes] + ["most memory of a job"]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for name in environment.profile_names():
        found = Graph(profiles.load(name))
        if len(recorded := found.recorded()) > len(found.jobs) / 2:
            hours = [found.total(), found.critical(), *map(found.simulated, nodes)]
            memory = max(job.memory for job in recorded)
            cells = [
                name,
                f"{len(recorded)} of {len(found.jobs)}",
                *(f"{h / 3600:.2f} h" for h in hours),
            ]
            lines.append(f"| {' | '.join([*cells, f'{memory:.1f} GB'])} |")
    return "\n".join([*lines, ""])


def faults(found: dict[str, dict[str, Result]]) -> str:
    """Return the table of what was done to runs and what came out; ``found`` as `collect` gives."""
    results = [one for artefacts in found.values() for one in artefacts.values()]
    if not results:
        return "No run of `make faults` is recorded.\n"
    heads = ("fault", "work", "times", "same results", "a line says what to do", "for example")
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for row in results[0].rows:
        cells = [_cell(str(row[name])) for name in heads[:-1]]
        example = f"`{_cell(row['example'])}`" if row["example"] else ""
        lines.append(f"| {' | '.join([*cells, example])} |")
    had = results[0].provenance
    said = f"Recorded on {had.date}, in {had.run_seconds / 60:.0f} minutes, on "
    return "\n".join([*lines, "", f"{said}{had.hardware['processor']}.", ""])


def _cell(text: str) -> str:
    """Return text that a cell of a Markdown table can hold."""
    return " ".join(text.split()).replace("|", "\\|")


def write(
    folder: Path,
    results: dict[str, dict[str, Result]],
    benches: dict[str, dict[str, Result]] | None = None,
    disturbed: dict[str, dict[str, Result]] | None = None,
) -> None:
    """Write all computed pages into a folder.

    ``benches`` are the results of ``make bench``, ``disturbed`` is that of ``make faults``.
    """
    for page in (summary, claims, runtimes, normalisations, once_more):
        replace_file(folder / f"{page.__name__}.md", page(results).encode())
    replace_file(folder / "parameters.md", parameter_table().encode())
    replace_file(folder / "rules.md", rules().encode())
    listed = exercise.catalogue(titles("book") | titles())
    replace_file(folder / "exercises.md", listed.encode())
    replace_file(folder / "cluster.md", cluster().encode())
    replace_file(folder / "faults.md", faults(disturbed or {}).encode())
    performance.write(folder, benches or {}, results)
