# The graph: networks that notebooks share, then notebooks, then the book.
#
#     snakemake --cores 2 --config profile=quick
#
# A network's place in the store is keyed by all it depends on, code included, so its rule needs no
# inputs: what is there is up to date. A notebook runs again when its text, its networks, the code of
# a module that it imports, or a committed result that it shows has changed. Of jobs that could
# begin, the one begins that belongs to the artefact named first in the profile, so that a time
# budget goes to what is wanted most.
import hashlib
import json
from pathlib import Path

from kclib import parameters, profiles, store
from kclib.study import Study, results_folder

PROFILE = parameters.checked({"profile": config.get("profile")})["profile"]
STUDIES = {name: Study(name, profile=PROFILE) for name in profiles.load(PROFILE).artefacts}
NETWORKS, VALUE = {}, {}  # by key in the store; how soon each job is wanted, most wanted first
for name, study in STUDIES.items():
    for member in study.members():
        key = study.network_path(member).name
        NETWORKS.setdefault(key, (member, name))
        VALUE.setdefault(key, -len(VALUE))
    VALUE[name] = -len(VALUE)
FOLDER = str(next(iter(STUDIES.values())).store.root / "networks")
RESULTS = str((Path("results") if config.get("record") else results_folder()).resolve())
RUNS = f"book/_build/notebooks/{PROFILE}"
# These read fits that others make too; side by side they would wait for each other.
AFTER = {
    "table2_orders": ["table1_instability"],
    "table3_refinement": ["table1_instability"],
    "appendix_fairness": ["table3_refinement"],
    "compare_similarity": ["table1_instability"],
    "check_blind_spots": ["fig1_fuzziness_levels", "fig3_blind_spots"],
}


def entry(study):
    return [
        f"{FOLDER}/{study.network_path(member).name}/entry.json" for member in study.members()
    ]


def origin(member, artefact):
    """Return what a pruned or born-again network is made from."""
    made_from = member.origin
    found = STUDIES[artefact].network_path(made_from).name if made_from else None
    return [f"{FOLDER}/{found}/entry.json"] if made_from else []


def code(name):
    """Digest the modules of kclib that a notebook imports."""
    cells = json.loads(Path(f"notebooks/{name}.ipynb").read_text())["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    modules = set().union(*map(store.direct_imports, sources))
    return [store.code_digest(module) for module in sorted(modules)]


def text(name):
    """Digest a notebook's cells without outputs: refreshing those changes nothing."""
    cells = json.loads(Path(f"notebooks/{name}.ipynb").read_text())["cells"]
    return hashlib.sha256("".join("".join(c["source"]) for c in cells).encode()).hexdigest()


def recorded(name):
    """Digest the committed results that a notebook shows beside its own."""
    if config.get("record"):  # they are what this run writes
        return []
    paths = [Path(f"results/{profile}/{name}.json") for profile in ("real64", PROFILE)]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.exists()]


rule all:
    input:
        # Results are committed: only a notebook's own file tells that it has run here.
        expand(RUNS + "/{name}.ipynb", name=STUDIES) if config.get("record")
        else "book/_build/html/index.html",


rule network:
    input:
        lambda wildcards: origin(*NETWORKS[wildcards.key]),
    output:
        update(FOLDER + "/{key}/entry.json"),  # what is there stays, and is found there
    params:
        member=lambda wildcards: NETWORKS[wildcards.key][0],
        artefact=lambda wildcards: NETWORKS[wildcards.key][1],
    priority: lambda wildcards: VALUE[wildcards.key]
    threads: 1
    shell:
        "python -m kclib network --profile {PROFILE} --artefact {params.artefact} {params.member}"


rule notebook:
    input:
        networks=lambda wildcards: entry(STUDIES[wildcards.name]),
        before=lambda wildcards: [f"{RUNS}/{n}.ipynb" for n in AFTER.get(wildcards.name, [])],
    output:
        notebook=RUNS + "/{name}.ipynb",
        result=RESULTS + "/" + PROFILE + "/{name}.json",
    params:
        code=lambda wildcards: code(wildcards.name),
        text=lambda wildcards: text(wildcards.name),
        recorded=lambda wildcards: recorded(wildcards.name),
    priority: lambda wildcards: VALUE[wildcards.name]
    threads: 1
    shell:
        "KC_RESULTS={RESULTS:q} python notebooks/run.py {wildcards.name} --profile {PROFILE} "
        "--output {output.notebook}"


rule book:
    input:
        notebooks=expand(RUNS + "/{name}.ipynb", name=STUDIES),
        results=expand(RESULTS + "/" + PROFILE + "/{name}.json", name=STUDIES),
        recorded=sorted(map(str, Path("results").rglob("*.json"))),
        pages=sorted(str(path) for path in Path("book").glob("*.*")
            if path.is_file()),
        style="book/_static/book.css",
        configuration=["_config.yml", "_toc.yml"],
    output:
        "book/_build/html/index.html",
    threads: 1
    shell:
        "python book/build.py {RUNS} {RESULTS:q}"
