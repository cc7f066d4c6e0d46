# The graph: networks that notebooks share, then notebooks, then the book. Networks that take less time
# than starting a job are made by the notebooks.
#
#     snakemake --cores 2 --config profile=quick
#
# A network's place in the store is keyed by all it depends on, code included, so its rule needs no
# inputs: what is there is up to date. A notebook runs again when its code, its networks, the code of
# a module that it imports, or a committed result that it shows has changed. Of jobs that could
# begin, the one with the longest chain of jobs after it begins, so that the whole is soon done; where
# results are recorded, the one that belongs to the artefact named first in the profile, so that a
# time budget goes to what is wanted most.
import hashlib
import json
import os
import time
from contextlib import suppress
from glob import glob
from pathlib import Path

from kclib.atomic import replace_file
from kclib.book import code, environment, graph, parameters, profiles, records
from kclib.report.command import NOTEBOOK

PROFILE = profiles.load(parameters.checked({"profile": config.get("profile")})["profile"])
GRAPH = graph.Graph(PROFILE)
# Where jobs share no folder, Snakemake keeps what they make in a store of objects: names are then
# relative to what STORAGE names, and a job works on the copies that Snakemake brings it.
IN_OBJECTS = workflow.storage_settings.default_storage_provider is not None
STORE = "store" if IN_OBJECTS else str(environment.store_folder())
FOLDER = f"{STORE}/networks"
RESULTS = (
    "book/_build/results" if IN_OBJECTS
    else str((Path("results") if config.get("record") else environment.results_folder()).resolve())
)
RUNS = f"book/_build/notebooks/{PROFILE.name}"
ENTRY = ("entry.json", "tensors.safetensors")
GPU = {"gpu": 1, "gpu_manufacturer": "nvidia"} if PROFILE.gpu else {}


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
    """Return the files in the store of those networks that have a job of their own."""
    keys = [GRAPH.key(member) for member in members if str(member) in GRAPH.jobs]
    return expand(f"{FOLDER}/{{key}}/{{file}}", key=keys, file=ENTRY)


def results(names):
    """Return the files of results."""
    files = [f"{name}.{end}" for name in names for end in ("json", "csv")]
    return files + [f"{name}.npz" for name in names if name in WITH_ARRAYS]


def store(networks):
    """Return the folder of the store in which a job finds, or makes, networks."""
    return Path(networks[0]).parents[2] if networks else Path(STORE)


def job(wildcards):
    """Return how a job is called in the graph."""
    return wildcards.get("name") or str(GRAPH.networks[wildcards.key])


def priority(wildcards):
    """Say how soon a job is wanted."""
    return round((GRAPH.value if config.get("record") else GRAPH.chains)[job(wildcards)])


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


# The results of these have arrays beside their rows.
WITH_ARRAYS = [name for name in PROFILE.artefacts if "arrays=" in "".join(source(name))]

# A clock that was ahead dated files into the future. Whatever is made from them now would be older,
# at which Snakemake stops; so they are of now, and what was made from them is made again.
for pattern in (f"{FOLDER}/*/*", f"{RUNS}/*.ipynb", f"{RESULTS}/{PROFILE.name}/*",
                "book/*.*", "book/_static/*", "results/**/*.json", "_*.yml"):
    for path in glob(pattern, recursive=True):
        with suppress(OSError):  # it is gone, or another one's
            if os.path.getmtime(path) > time.time():
                os.utime(path)


if IN_OBJECTS and config.get("record"):

    rule brought:
        input:
            expand(RUNS + "/{name}.ipynb", name=PROFILE.artefacts),
            results=expand(f"{RESULTS}/{PROFILE.name}/{{file}}", file=results(PROFILE.artefacts)),
        localrule: True
        run:
            for path in map(Path, input.results):
                replace_file(Path("results", PROFILE.name, path.name), path.read_bytes())


rule all:
    input:
        # Results are committed: only a notebook's own file tells that it has run here.
        expand(RUNS + "/{name}.ipynb", name=PROFILE.artefacts) if config.get("record")
        else local("book/_build/html/index.html"),


rule network:
    input:
        lambda wildcards: entries(filter(None, [GRAPH.networks[wildcards.key].origin])),
    output:
        update(expand(FOLDER + "/{{key}}/{file}", file=ENTRY)),  # what is there stays, and is found
    params:
        member=lambda wildcards: GRAPH.networks[wildcards.key],
        store=lambda wildcards, output: store(output),
    priority: priority
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: GRAPH.jobs[job(wildcards)].megabytes(attempt),
        runtime=lambda wildcards, attempt: GRAPH.jobs[job(wildcards)].minutes(attempt),
        **GPU,
    shell:
        "KC_STORE={params.store:q} python -m kclib network --profile {PROFILE.name} {params.member}"


ruleorder: comparison > notebook_with_arrays > notebook


rule notebook:
    input:
        networks=lambda wildcards: entries(GRAPH.needed.get(wildcards.name, [])),
        before=lambda wildcards: [f"{RUNS}/{n}.ipynb" for n in graph.AFTER.get(wildcards.name, [])],
    output:
        notebook=RUNS + "/{name}.ipynb",
        result=expand(RESULTS + "/" + PROFILE.name + "/{{name}}.{end}", end=("json", "csv")),
    params:
        store=lambda wildcards, input: store(input.networks),
        results=lambda wildcards, output: Path(output.result[0]).parents[1],
        made_from=lambda wildcards: list(map(GRAPH.key, GRAPH.needed.get(wildcards.name, []))),
        code=lambda wildcards: used_code(wildcards.name),
        source=lambda wildcards: digest(source(wildcards.name)),
        recorded=lambda wildcards: recorded(wildcards.name),
    priority: priority
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: GRAPH.jobs[job(wildcards)].megabytes(attempt),
        runtime=lambda wildcards, attempt: GRAPH.jobs[job(wildcards)].minutes(attempt),
        **GPU,
    shell:
        "KC_STORE={params.store:q} KC_RESULTS={params.results:q} python notebooks/run.py "
        "{wildcards.name} --profile {PROFILE.name} --output {output.notebook:q}"


use rule notebook as notebook_with_arrays with:
    output:
        notebook=RUNS + "/{name}.ipynb",
        result=expand(RESULTS + "/" + PROFILE.name + "/{{name}}.{end}", end=("json", "csv", "npz")),
    wildcard_constraints:
        name="|".join(WITH_ARRAYS) or "-",


rule comparison:
    input:
        networks=entries(GRAPH.needed[NOTEBOOK.stem]),
    output:
        notebook=f"{RUNS}/{NOTEBOOK.name}",
    params:
        made_from=list(map(GRAPH.key, GRAPH.needed[NOTEBOOK.stem])),
        code=used_code(NOTEBOOK.stem),
        source=digest(source(NOTEBOOK.stem)),
    threads: 1
    run:
        from kclib.report.running import run_notebook

        os.environ |= {"KC_PROFILE": PROFILE.name, "KC_STORE": str(store(input.networks))}
        run_notebook(NOTEBOOK, {}, Path(output.notebook), folder=Path(output.notebook).parent)


rule book:
    input:
        notebooks=expand(RUNS + "/{name}.ipynb", name=[*PROFILE.artefacts, NOTEBOOK.stem]),
        results=expand(f"{RESULTS}/{PROFILE.name}/{{file}}", file=results(PROFILE.artefacts)),
        recorded=local(sorted(map(str, Path("results").rglob("*.json")))),
        pages=local(sorted(str(path) for pattern in ("*.*", "exercises/*.md", "reference/*")
            for path in Path("book").glob(pattern) if path.is_file())),
        documented=local(sorted(map(str, Path("kclib").rglob("*.py")))),  # docstrings are shown
        static=local(sorted(map(str, Path("book/_static").glob("*")))),
        configuration=local(["_config.yml", "_toc.yml"]),
    output:
        local("book/_build/html/index.html"),
    params:
        repository=[os.environ.get(name) for name in ("GITHUB_REPOSITORY", "GITHUB_REF_NAME")],
        text=[digest(cells(name)) for name in [*PROFILE.artefacts, NOTEBOOK.stem]],  # pages take it
        runs=lambda wildcards, input: Path(input.notebooks[0]).parent,
        results=lambda wildcards, input: Path(input.results[0]).parents[1],
    threads: 1
    localrule: True  # it reads all that is there, and takes a minute
    shell:
        "python book/build.py {params.runs:q} {params.results:q}"
