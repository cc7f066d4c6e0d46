"""What the project says about itself agrees: dependencies, versions, commands, citation."""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Where conda-forge's name differs from pip's.
CONDA_NAMES = {"pytorch": "torch"}
#: The command line, and modules whose examples are still to be written.
#: Modules whose names are called by kclib itself, not by those who use it.
NO_EXAMPLES = {
    "__main__",
    "descent",
    "normal_equations",
    "reading.borrowed",
    "reading.inputs",
    "reading.layouts",
    "reading.taps",
    "report.command",
    "report.reader",
    "report.running",
    "training.epochs",
}
TARGETS = {
    "help",
    "book",
    "data",
    "compare",
    "notebook",
    "record",
    "test",
    "test-oldest",
    "bench",
    "faults",
    "cluster-test",
    "course",
    "lint",
    "clean",
    "clean-store",
}


def ranges(lines) -> dict[str, SpecifierSet]:
    """Return the allowed versions by name."""
    requirements = map(Requirement, lines)
    return {canonicalize_name(r.name): r.specifier for r in requirements}


def direct() -> dict[str, SpecifierSet]:
    """Return the direct dependencies, those of the groups included."""
    groups = PROJECT["optional-dependencies"].values()
    return ranges([*PROJECT["dependencies"], *(line for group in groups for line in group)])


def pins() -> dict[str, str]:
    """Return the version text of each line of constraints.txt by name."""
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").open())
    pairs = [line.split("==") for line in lines if line]
    return {canonicalize_name(name): version for name, version in pairs}


def closure(names) -> set[str]:
    """Return the given distributions and everything that they need here, directly or not."""
    found, waiting = set(), [(name, "") for name in names]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        try:
            needs = map(Requirement, metadata.requires(name) or [])
        except metadata.PackageNotFoundError:
            continue  # itself found missing from constraints.txt, if it is
        for need in needs:
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                child = canonicalize_name(need.name)
                waiting += [(child, "")] + [(child, extra) for extra in need.extras]
    return {name for name, _ in found}


def top_level_imports(source: str) -> set[str]:
    """Return the names of the packages that Python source, or a notebook's cell, imports."""
    python = re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE)
    modules = []
    for node in ast.walk(ast.parse(python)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.append(node.module)
    return {module.split(".")[0] for module in modules}


def make(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Run the Makefile in ``folder``."""
    return subprocess.run(["make", "-C", folder, *words], capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path):
    """A folder with the Makefile, one notebook, one profile and no environment."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("notebooks/table.ipynb", "kclib/book/profiles/quick.yaml"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    return tmp_path


def test_conda_environment_has_the_ranges_of_pyproject():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip_lines = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    found = ranges(
        [entry for entry in listed if isinstance(entry, str)]
        + [line for line in pip_lines if not line.startswith("-")]
    )
    found = {CONDA_NAMES.get(name, name): allowed for name, allowed in found.items()}
    del found["pip"]
    assert found == direct() | {"python": SpecifierSet(PROJECT["requires-python"])}
    assert "-e ." in pip_lines


def test_constraints_fit_every_direct_dependency():
    exact = pins()
    for name, allowed in direct().items():
        assert name in exact, f"{name} has no line in constraints.txt"
        assert exact[name] in allowed, f"{name} {exact[name]} is not in {allowed}"


def test_constraints_cover_dependencies_of_dependencies():
    """But for what torch's build for GPUs brings: that follows from torch's own version."""
    needed = {name for name in closure(direct()) if not re.match(r"nvidia-|cuda-|triton$", name)}
    assert needed - pins().keys() == set()


def test_constraints_are_plain_versions():
    for name, version in pins().items():
        assert Version(version).local is None, f"{name} {version} holds on one kind of machine"


def test_torchvision_is_pinned_to_the_release_made_for_the_pinned_torch():
    (needed,) = (
        need.specifier
        for need in map(Requirement, metadata.requires("torchvision"))
        if need.name == "torch"
    )
    assert pins()["torchvision"] == Version(metadata.version("torchvision")).public
    assert pins()["torch"] in needed


def test_every_import_is_a_declared_dependency():
    folders = ("kclib", "notebooks", "book", "bench", "faults", "course", "tests")
    files = [file for folder in folders for file in (ROOT / folder).glob("*.py")]
    sources = [file.read_text() for file in files]
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(notebook.read_text())["cells"]
        sources += ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    imported = set().union(*map(top_level_imports, sources))
    ours = {file.stem for file in files} | {"kclib"}
    providers = metadata.packages_distributions()
    for module in imported - sys.stdlib_module_names - ours:
        names = {canonicalize_name(name) for name in providers.get(module, [module])}
        assert names & direct().keys(), f"{module} is imported, but not in pyproject.toml"


def test_packages_hold_their_data_files():
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {file.parent for file in (ROOT / "kclib").rglob("__init__.py")}
    assert {ROOT / name.replace(".", "/") for name in configured["packages"]} == folders
    packaged = {
        file
        for package, patterns in configured["package-data"].items()
        for pattern in patterns
        for file in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    present = {
        file
        for file in (ROOT / "kclib").rglob("*")
        if file.is_file() and file.suffix not in {".py", ".pyc"}
    }
    assert present == packaged and ROOT / "kclib" / "py.typed" in present
    packages = {
        ".".join(p.parent.relative_to(ROOT).parts) for p in ROOT.glob("kclib/**/__init__.py")
    }
    assert set(configured["packages"]) == packages


def test_version_is_the_same_everywhere():
    module = ast.parse((ROOT / "kclib" / "__init__.py").read_text())
    (version,) = (
        node.value.value
        for node in module.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
    )
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    assert configured["dynamic"] == {"version": {"attr": "kclib.__version__"}}
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    releases = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert [name for name in releases if name != "Unreleased"][0] == version


def test_continuous_integration_runs_both_systems_with_the_oldest_python_and_a_newer_one():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["os"] == ["ubuntu-latest", "macos-latest"]
    oldest, *others = sorted(map(Version, matrix["python"]))
    needed = PROJECT["requires-python"].removeprefix(">=")
    assert str(oldest) == needed.rsplit(".", 1)[0] and others


def test_what_runs_before_a_commit_are_targets_of_make():
    configured = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repo in configured["repos"] for hook in repo["hooks"]]
    assert entries == ["make lint"]


def test_citation_names_the_book_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["authors"] == [{"name": "The kclib contributors"}]
    (paper,) = citation["references"]
    assert paper["title"] == "Knowledge Consistency between Neural Networks and Beyond"
    assert [a["family-names"] for a in paper["authors"]] == ["Liang", "Li", "Li", "Wang", "Zhang"]


def test_help_names_every_target():
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):(?!=)", (ROOT / "Makefile").read_text(), re.M))
    listed = make(ROOT)
    assert listed.returncode == 0, listed.stderr
    assert targets == TARGETS == set(re.findall(r"^  ([a-z][a-z0-9-]*)  ", listed.stdout, re.M))


@pytest.mark.parametrize(
    "words, message",
    [
        (["book", "PROFILE=quik"], 'no profile "quik"; PROFILE may be one of: quick'),
        (["bench", "course", "PROFILE=quik"], 'no profile "quik"; PROFILE may be one of: quick'),
        (["notebook"], "one of: table"),
        (["notebook", "NAME=tabel"], 'no notebook "tabel"; NAME may be one of: table'),
        (["notebook", "NAME=table", "PARAMS=seed"], '"seed" gives no value'),
        (["book", "CORES=two"], 'CORES is "two"; write a whole number above 0'),
        (["bench", "SEEDS=0"], 'SEEDS is "0"; write a whole number above 0'),
        (["book", "PYTHON=./old"], "Python 3.9.1; Python 3.11.4 or newer is needed"),
    ],
)
def test_bad_request_is_refused_before_any_work(copy, words, message):
    old = copy / "old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 || exit 1\n')
    old.chmod(0o755)
    refused = make(copy, *words)
    assert refused.returncode == 2
    assert message in " ".join(refused.stderr.split())
    assert not (copy / ".venv").exists() and not (copy / "book").exists()


def test_notebook_parameters_reach_the_runner(copy):
    shown = make(copy, "-n", "notebook", "NAME=table", "PARAMS=seed=3 order=1")
    assert shown.returncode == 0, shown.stderr
    words = shown.stdout.replace("\\\n", " ").replace("'", "").split()
    start = words.index("notebooks/run.py")
    assert (
        words[start:][:12]
        == (
            "notebooks/run.py table --profile quick --output book/_build/runs/table.ipynb "
            "-p seed 3 -p order 1"
        ).split()
    )


def test_clean_keeps_the_store(copy):
    kept = copy / ".kc-store" / "networks" / "__pycache__"
    built = copy / "book" / "_build" / "html"
    for folder in (kept, built):
        folder.mkdir(parents=True)
    cleaned = make(copy, "clean")
    assert cleaned.returncode == 0, cleaned.stderr
    assert kept.exists() and not built.exists()
    assert ".kc-store" in cleaned.stdout and "clean-store" in cleaned.stdout


def test_guide_for_contributors_lists_every_module():
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    modules = guide.split("### Modules of kclib")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `([\w.]+)` \|", modules, re.M)
    files = [p.relative_to(ROOT / "kclib") for p in (ROOT / "kclib").rglob("*.py")]
    present = {".".join(file.with_suffix("").parts) for file in files if "__" not in file.stem}
    assert sorted(listed) == sorted(present)


def test_public_names_have_an_example():
    """Of what is offered to others; the tests run it."""
    without = set()
    for file in (ROOT / "kclib").rglob("*.py"):
        module = ".".join(file.relative_to(ROOT / "kclib").with_suffix("").parts)
        if module.startswith("book.") or module in NO_EXAMPLES:
            continue
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                if ">>> " not in (ast.get_docstring(node) or ""):
                    without.add(f"{module}.{node.name}")
    assert not without
