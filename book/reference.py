"""The reference of kclib's public names, drawn from its docstrings, by what one wants to do."""

import ast
import importlib
from pathlib import Path

import kclib
from kclib.atomic import replace_file

PAGES = Path(__file__).parent / "reference"
TABLE = ("| Name | What it is |", "| --- | --- |")
#: What one wants to do, each with a page of that name, and the modules that hold it.
GROUPS = {
    "compare": ("report.comparison", "report.pairs", "report.layers", "report.spots"),
    "found": ("report.findings", "report.page"),
    "given": ("report.models", "report.items", "report.stages"),
    "features": ("features", "imagenet"),
    "fit": ("solver", "disentangler", "planted"),
    "measure": ("measures",),
    "similarity": ("similarity",),
    "images": ("images.creatures", "images.datasets", "images.archives")
    + ("images.parts", "images.alterations"),
    "networks": ("networks", "training.classifier", "training.pruning")
    + ("training.distillation", "training.refinement"),
    "errors": ("errors",),
}


def names(module: str) -> list[str]:
    """Return a module's public functions and classes as one imports them, in its order."""
    loaded = importlib.import_module(f"kclib.{module}")
    defined = [
        node.name
        for node in ast.parse(Path(loaded.__file__).read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    return [f"kclib.{n}" if n in kclib.__all__ else f"kclib.{module}.{n}" for n in defined]


def found(name: str):
    """Return what a name of the reference stands for."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def group(name: str) -> list[str]:
    """Return the names of a group, those first that need no module."""
    listed = [one for module in GROUPS[name] for one in names(module)]
    return sorted(listed, key=lambda one: one.count(".") > 1)


def overview() -> str:
    """Return the tables of all groups: what each name is for, in its docstring's first words."""
    lines = []
    for name in GROUPS:
        title = (PAGES / f"{name}.md").read_text().splitlines()[0].removeprefix("# ")
        lines += [f"## [{title}](reference/{name}.md)", "", *TABLE]
        for one in group(name):
            first = found(one).__doc__.strip().split("\n\n")[0]
            said = " ".join(first.split()).replace("|", "\\|").replace("*", "\\*")
            lines.append(f"| {{py:obj}}`{one.removeprefix('kclib.')} <{one}>` | {said} |")
        lines.append("")
    return "\n".join(lines)


def details(name: str) -> str:
    """Return what the docstrings of a group's names say, in full."""
    lines = ["```{eval-rst}"]
    for one in group(name):
        kind = "class" if isinstance(found(one), type) else "function"
        lines += [f".. auto{kind}:: {one}", ""]
    return "\n".join([*lines, "```", ""])


def write(folder: Path) -> None:
    """Write what the pages of the reference include into a folder."""
    replace_file(folder / "reference.md", overview().encode())
    for name in GROUPS:
        replace_file(folder / f"reference_{name}.md", details(name).encode())
