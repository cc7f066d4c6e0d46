"""Build the book: ``python book/build.py EXECUTED_NOTEBOOKS RESULTS``.

Sphinx reads a staged copy that mirrors the repository, so that launch, edit and download buttons
point to files that exist there. Executed notebooks stand in it in the place of the committed ones,
each with its result first, and pages end with their exercises: `composing`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import composing
import drawings
import explorer
import front
import pages
import reference
import repository
import yaml

from kclib.atomic import replace_file
from kclib.book import environment
from kclib.errors import InputError

#: What `kclib compare` runs.
NOTEBOOK = Path("kclib", "report", "own_networks.ipynb")
ROOT = Path(__file__).parent.parent
STAGE = ROOT / "book" / "_build" / "src"


def stage(notebooks: Path, results: Path) -> None:
    """Lay out the sources of the book, from the recorded results and one profile's run."""
    for folder in (notebooks, results):
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; make book makes it.")
    where = repository.named(os.environ)
    generated = ROOT / "book" / "_generated"
    # What is recorded of the smoke profile is for a test: its numbers mean nothing.
    recorded = [path for path in environment.RECORDED.glob("*") if path.name != "smoke"]
    found = pages.collect([*recorded, results / notebooks.name])
    measured = (
        pages.collect([*(environment.RECORDED / name).glob("*")]) for name in ("bench", "faults")
    )
    pages.write(generated, found, *measured)
    front.write(generated, found)
    drawings.write(generated)
    reference.write(generated)
    for name, text in repository.instructions(where).items():
        replace_file(generated / f"{name}.md", text.encode())
    shutil.rmtree(STAGE, ignore_errors=True)
    (STAGE / "book").mkdir(parents=True)
    shutil.copy(ROOT / "_toc.yml", STAGE)
    settings = repository.configured(yaml.safe_load((ROOT / "_config.yml").read_text()), where)
    (STAGE / "_config.yml").write_text(yaml.safe_dump(settings, allow_unicode=True))
    for source in [*(ROOT / "book").glob("*.bib"), front.PICTURE]:
        shutil.copy(source, STAGE / "book")
    told = {name: of for name, of in found.items() if name != "smoke"}
    composing.write(notebooks, ROOT / "book", STAGE, told)
    shutil.copytree(reference.PAGES, STAGE / "book" / reference.PAGES.name)
    shutil.copytree(ROOT / "book" / "_static", STAGE / "_static")
    shutil.copytree(ROOT / "book" / "_extra", STAGE / "_extra")
    maps = explorer.script(explorer.panels()).encode()
    replace_file(STAGE / "_extra" / "explorer" / "recorded.js", maps)
    shutil.copytree(generated, STAGE / "book" / "_generated")
    compared = STAGE / NOTEBOOK
    compared.parent.mkdir(parents=True)
    (STAGE / "notebooks" / NOTEBOOK.name).rename(compared)


def main() -> int:
    """Stage and build; warnings are errors."""
    if len(sys.argv) != 3:
        print(f"error: {__doc__.splitlines()[0]}", file=sys.stderr)
        return 2
    notebooks, results = map(Path, sys.argv[1:])
    try:
        stage(notebooks, results)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(STAGE)]
    command += ["--path-output", str(ROOT / "book"), "-W", "--keep-going", "-n", "-q"]
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
