# The graph: networks that notebooks share, then notebooks, then the book.
#
#     snakemake --cores 2 --config profile=quick
#
# A network's place in the store is keyed by all it depends on, code included, so its rule needs no
# inputs: what is there is up to date. A notebook runs again when its code, its networks, the code of
# a module that it imports, or a committed result that it shows has changed. Of jobs that could
# begin, the one begins that belongs to the artefact named first in the profile, so that a time
# budget goes to what is wanted most.
import hashlib
import json
import os
import time
from contextlib import suppress
from glob import glob
from pathlib import Path

from kclib.book import code, environment, graph, parameters, profiles, records
from kclib.report.command import NOTEBOOK

PROFILE = profiles.load(parameters.checked({"profile": config.get("profile")})["profile"])
GRAPH = graph.Graph(PROFILE)
FOLDER = str(environment.store_folder() / "networks")
RESULTS = str(
    (Path("results") if config.get("record") else environment.results_folder()).resolve()
)
RUNS = f"book/_build/notebooks/{PROFILE.name}"


def cells(name):
    """Return a notebook's cells without outputs: refreshing those changes nothing."""
    path = NOTEBOOK if name == NOTEBOOK.stem else Path(f"notebooks/{name}.ipynb")
    return [
        (cell["cell_type"], "".join(cell["source"]), cell["metadata"])
        for cell in json.loads(path.read_text())["cells"]
    ]


def source(name):
    """Return a notebook's code, cell by cell."""
    return [text for kind, text, _ in cells(name) if kind == "code"]


def entries(members):
    """Return the files that tell that networks are in the store."""
    return [f"{FOLDER}/{GRAPH.key(member)}/entry.json" for member in members]


def job(wildcards):
    """Return how a job is called in the graph."""
    return wildcards.get("name") or str(GRAPH.networks[wildcards.key])


def used_code(name):
    """Digest the code of kclib that a notebook uses."""
    return code.digest_of_source("\n".join(source(name)))


def digest(content):
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def recorded(name):
    """Digest the committed results that a notebook shows beside its own."""
    if config.get("record"):  # they are what this run writes
        return []
    regimes = {*records.REGIMES.values(), PROFILE.name}
    paths = [Path(f"results/{p}/{name}.{end}") for p in sorted(regimes) for end in ("json", "npz")]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.exists()]


# A clock that was ahead dated files into the future. Whatever is made from them now would be older,
# at which Snakemake stops; so they are of now, and what was made from them is made again.
for pattern in (f"{FOLDER}/*/entry.json", f"{RUNS}/*.ipynb", f"{RESULTS}/{PROFILE.name}/*",
                "book/*.*", "book/_static/*", "results/**/*.json", "_*.yml"):
    for path in glob(pattern, recursive=True):
        with suppress(OSError):  # it is gone, or another one's
            if os.path.getmtime(path) > time.time():
                os.utime(path)


rule all:
    input:
        # Results are committed: only a notebook's own file tells that it has run here.
        expand(RUNS + "/{name}.ipynb", name=PROFILE.artefacts) if config.get("record")
        else "book/_build/html/index.html",


rule network:
    input:
        lambda wildcards: entries(filter(None, [GRAPH.networks[wildcards.key].origin])),
    output:
        update(FOLDER + "/{key}/entry.json"),  # what is there stays, and is found there
    params:
        member=lambda wildcards: GRAPH.networks[wildcards.key],
    priority: lambda wildcards: GRAPH.value[job(wildcards)]
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: GRAPH.jobs[job(wildcards)].megabytes(attempt),
        runtime=lambda wildcards, attempt: GRAPH.jobs[job(wildcards)].minutes(attempt),
        gpu=int(PROFILE.gpu),
    shell:
        "python -m kclib network --profile {PROFILE.name} {params.member}"


ruleorder: comparison > notebook


rule notebook:
    input:
        networks=lambda wildcards: entries(GRAPH.needed.get(wildcards.name, [])),
        before=lambda wildcards: [f"{RUNS}/{n}.ipynb" for n in graph.AFTER.get(wildcards.name, [])],
    output:
        notebook=RUNS + "/{name}.ipynb",
        result=RESULTS + "/" + PROFILE.name + "/{name}.json",
    params:
        code=lambda wildcards: used_code(wildcards.name),
        source=lambda wildcards: digest(source(wildcards.name)),
        recorded=lambda wildcards: recorded(wildcards.name),
    priority: lambda wildcards: GRAPH.value[job(wildcards)]
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: GRAPH.jobs[job(wildcards)].megabytes(attempt),
        runtime=lambda wildcards, attempt: GRAPH.jobs[job(wildcards)].minutes(attempt),
        gpu=int(PROFILE.gpu),
    shell:
        "KC_RESULTS={RESULTS:q} python notebooks/run.py {wildcards.name} --profile {PROFILE.name} "
        "--output {output.notebook}"


rule comparison:
    input:
        networks=entries(GRAPH.needed[NOTEBOOK.stem]),
    output:
        notebook=f"{RUNS}/{NOTEBOOK.name}",
    params:
        code=used_code(NOTEBOOK.stem),
        source=digest(source(NOTEBOOK.stem)),
    threads: 1
    run:
        from kclib.report.running import run_notebook

        os.environ["KC_PROFILE"] = PROFILE.name
        run_notebook(NOTEBOOK, {}, Path(output.notebook), folder=Path(RUNS))


rule book:
    input:
        notebooks=expand(RUNS + "/{name}.ipynb", name=[*PROFILE.artefacts, NOTEBOOK.stem]),
        results=expand(RESULTS + "/" + PROFILE.name + "/{name}.json", name=PROFILE.artefacts),
        recorded=sorted(map(str, Path("results").rglob("*.json"))),
        pages=sorted(str(path) for pattern in ("*.*", "exercises/*.md", "reference/*")
            for path in Path("book").glob(pattern) if path.is_file()),
        documented=sorted(map(str, Path("kclib").rglob("*.py"))),  # the reference shows docstrings
        static=sorted(map(str, Path("book/_static").glob("*"))),
        configuration=["_config.yml", "_toc.yml"],
    output:
        "book/_build/html/index.html",
    params:
        repository=[os.environ.get(name) for name in ("GITHUB_REPOSITORY", "GITHUB_REF_NAME")],
        text=[digest(cells(name)) for name in [*PROFILE.artefacts, NOTEBOOK.stem]],  # pages take it
    threads: 1
    localrule: True  # it reads all that is there, and takes a minute
    shell:
        "python book/build.py {RUNS} {RESULTS:q}"
