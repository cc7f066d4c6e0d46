"""Every block of code on every page works.

Python runs: a page's blocks in order, as a reader would type them, in an empty folder, on small
stand-ins for large networks, many images and published archives. Of commands it is checked that
their targets, options, names and folders exist.
"""

import importlib.util
import io
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from test_archives import annotation, cub, dogs, lines, photo, publish, scipy  # noqa: F401

from kclib import networks
from kclib.images import archives, creatures

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
PAGES = [*sorted(BOOK.glob("*.md")), *sorted(BOOK.glob("exercises/*.md"))]
PAGES += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
sys.path.insert(0, str(ROOT / "book"))
import repository  # noqa: E402

REPOSITORY = repository.Repository("someone/a-book", "main")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS, IPYTHON = {"bash", "console", "sh"}, {"ipython", "ipython3"}
#: Most images that a page is given.
FEW = 16
specification = importlib.util.spec_from_file_location("run", ROOT / "notebooks" / "run.py")
run = importlib.util.module_from_spec(specification)
specification.loader.exec_module(run)


class Block(NamedTuple):
    """Code on a page: its language, the number of the line before it, and its text."""

    language: str
    line: int
    text: str


def blocks(text: str) -> list[Block]:
    """Return the code of a page: fenced, in a directive such as {code-cell}, or indented.

    An indented block has the language "indented". Inside of other directives is more of the page.
    """
    found, open_fences, inside = [], [], None
    rows = text.splitlines()
    for number, row in enumerate(rows, start=1):
        fence = re.match(r"\s*(`{3,}|~{3,}|:{3,})\s*(.*)", row)
        if inside is not None:
            if fence and fence[1].startswith(inside[0]) and not fence[2]:
                code = "\n".join(rows[inside[2] : number - 1])
                found.append(Block(inside[1], inside[2], code))
                inside = None
        elif fence and fence[2]:
            language = re.sub(r"^\{code[\w-]*\}\s*", "", fence[2])
            if language.startswith("{"):
                open_fences.append(fence[1])
            else:
                inside = (fence[1], language, number)
        elif fence:
            assert open_fences and open_fences.pop() == fence[1], f"line {number}: no language"
        elif re.match(r" {4,}\S", row):
            if found and found[-1].language == "indented" and row_of_end(found[-1]) == number - 1:
                found[-1] = found[-1]._replace(text=f"{found[-1].text}\n{row}")
            else:
                found.append(Block("indented", number - 1, row))
    assert not open_fences and inside is None, "a block has no end"
    return found


def row_of_end(block: Block) -> int:
    return block.line + len(block.text.splitlines())


def python_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page.read_text()) if block.language == "python"]


def commands(page: Path) -> list[list[str]]:
    """Return a page's commands as words, without variables that are set before them."""
    return commands_of(page.read_text())


def commands_of(page: str) -> list[list[str]]:
    found = []
    for block in blocks(page):
        text = block.text.replace("\\\n", " ")
        if block.language in IPYTHON:
            text = re.sub(r"^%", "python -m ", re.sub(r"^!", "", text, flags=re.M), flags=re.M)
        elif block.language == "indented":
            text = "\n".join(re.findall(r"^ +((?:make|python|\.venv/)\b.*)", text, re.M))
        elif block.language not in COMMANDS:
            continue
        for line in text.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words = words[1:]
            found += [words] if words else []
    return found


#: What Snakemake's plugin for S3 is given by the environment, so that no command shows it.
SECRETS = {"SNAKEMAKE_STORAGE_S3_ACCESS_KEY", "SNAKEMAKE_STORAGE_S3_SECRET_KEY"}


def make_accepts(words: list[str]) -> None:
    """Check a call of make: its target, profile, notebook, parameters and variables."""
    shown = subprocess.run(["make", "-n", "-C", ROOT, *words], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    given = dict(word.split("=", 1) for word in words if "=" in word)
    for name in given:
        assert re.search(rf"\b{name}\b", (ROOT / "Makefile").read_text()), f"no variable {name}"
    if "PARAMS" in given:
        run.check(given["NAME"], dict(pair.split("=") for pair in given["PARAMS"].split()))


def kclib_accepts(words: list[str]) -> None:
    """Check a call of ``python -m kclib``: its command, its options and its profile."""
    shown, call = io.StringIO(), ["kclib", words[0], "--help"]
    with patch.object(sys, "argv", call), redirect_stdout(shown), redirect_stderr(shown):
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("kclib", run_name="__main__")
    assert not ended.value.code, shown.getvalue()
    for option, value in zip(words, [*words[1:], ""], strict=True):
        assert not option.startswith("-") or f"{option} " in shown.getvalue(), f"no {option}"
        assert option != "--profile" or list(ROOT.glob(f"kclib/**/{value}.yaml"))


def pip_accepts(words: list[str]) -> None:
    """Check what is installed: this project, with groups that it has, or another one."""
    for word in words:
        if match := re.fullmatch(r"\.(?:/(.+?))?(?:\[(.+)\])?", word):
            assert match[1] in (None, REPOSITORY.name)
            assert (
                set((match[2] or "").split(",")) - {""} <= PROJECT["optional-dependencies"].keys()
            )
        elif "://" in word:
            group = re.match(r"kclib\[(.+)\] @ ", word)
            assert not group or group[1] in PROJECT["optional-dependencies"]
            assert word.removeprefix(group[0] if group else "") == f"git+{REPOSITORY.address}"
        else:
            assert word in {"-e", "--quiet", "jupyterlab"}


def check(words: list[str]) -> None:
    """Check one command as far as that goes without running it."""
    match words:
        case ["make", *rest]:
            make_accepts(rest)
        case [("python" | ".venv/bin/python"), "-m", "kclib", *rest]:
            kclib_accepts(rest)
        case ["kclib", *rest]:
            kclib_accepts(rest)
        case [("python" | ".venv/bin/python"), "-m", "pip", "install", *rest]:
            pip_accepts(rest)
        case [("python" | ".venv/bin/python"), "notebooks/run.py", name, *rest]:
            assert f"{name}.ipynb" in {path.name for path in (ROOT / "notebooks").iterdir()}
            assert {word for word in rest if word.startswith("-")} <= {"--profile", "--output"}
        case ["git", "clone", *rest]:
            assert rest[-1] == REPOSITORY.address
        case ["docker", "build", "-f", file, "-t", _, "."]:
            assert (ROOT / file).is_file()
        case ["docker", "push", _]:
            pass
        case ["export", *pairs]:
            assert {pair.split("=")[0] for pair in pairs} <= SECRETS
        case ["cd", folder]:
            assert folder == REPOSITORY.name
        case [".venv/bin/jupyter", "lab", folder]:
            assert (ROOT / folder).is_dir()
        case [".venv/bin/pytest", *files]:
            assert all(list(ROOT.glob(file.replace("<module>", "*"))) for file in files)
        case _:
            pytest.fail(f"no test knows the command {shlex.join(words)!r}")


@pytest.fixture
def published(request, tmp_path, monkeypatch):
    """Tiny archives in the place of the published ones, at addresses that are files."""
    birds, breeds, _ = map(request.getfixturevalue, ("cub", "dogs", "scipy"))
    box = (16, 24, 56, 40)
    voc = {
        "ImageSets/Main/train.txt": lines("2008_000002"),
        "ImageSets/Main/val.txt": lines("2008_000002"),
        "Annotations/2008_000002.xml": annotation(("bird", box, "")),
        "JPEGImages/2008_000002.jpg": photo((box, (40, 40, 250))),
    }
    voc = {f"VOCdevkit/VOC2012/{name}": content for name, content in voc.items()}
    voc = publish(tmp_path / "site" / "VOCtrainval_11-May-2012.tar", voc)
    monkeypatch.setitem(archives.cub200.__kwdefaults__, "archive", birds)
    monkeypatch.setitem(archives.dogs120.__kwdefaults__, "archives", breeds)
    monkeypatch.setitem(archives.voc_animals.__kwdefaults__, "archive", voc)


@pytest.fixture
def small(monkeypatch):
    """Few images, and a narrow network in the place of torchvision's."""
    from torchvision import models  # once kclib is there

    render, stock = creatures.render, models.resnet18

    def few(count, **options):
        return render(min(count, FEW), **options)

    def narrow(*, num_classes=1000):
        with monkeypatch.context() as again:
            again.setattr(models, "resnet18", stock)
            seed = torch.initial_seed()
            return networks.build("resnet18", classes=num_classes, width=0.25, seed=seed)

    monkeypatch.setattr(creatures, "render", few)
    monkeypatch.setattr(models, "resnet18", narrow)


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [*filter(python_blocks, PAGES)], ids=named)
def test_python_runs(page, published, small, tmp_path, monkeypatch):
    folder = tmp_path / "reader"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("KC_DATA", raising=False)
    names = {"__name__": "__main__"}
    with torch.random.fork_rng():
        for block in python_blocks(page):
            lines_before = "\n" * block.line  # so that an error names the page's own line
            exec(compile(lines_before + block.text, page, "exec"), names)


@pytest.mark.parametrize("page", [*filter(commands, PAGES)], ids=named)
def test_commands_are_accepted(page):
    for words in commands(page):
        check(words)


@pytest.mark.parametrize("where, count", [(None, 3), (REPOSITORY, 7)])
def test_instructions_with_and_without_a_repository_are_accepted(where, count):
    found = [w for text in repository.instructions(where).values() for w in commands_of(text)]
    assert len(found) == count
    for words in found:
        check(words)


def test_every_block_is_run_checked_or_no_code():
    """Without a language that no test knows, or a page that no test sees."""
    known = {"python", "indented", "text"} | COMMANDS | IPYTHON
    found = {page: [block.language for block in blocks(page.read_text())] for page in PAGES}
    for page, languages in found.items():
        assert set(languages) <= known, page
        assert languages.count("python") == len(re.findall("```python", page.read_text()))
    assert sum(languages.count("python") for languages in found.values()) > 10


def test_targets_of_make_in_running_text_exist():
    targets = re.findall(r"^([a-z][a-z-]*):(?!=)", (ROOT / "Makefile").read_text(), re.M)
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z][a-z-]*)", page.read_text()))
        assert named <= set(targets), page


def test_blocks_are_found_wherever_they_stand():
    text = """
````{solution} x
```python
a = 1

b = "```{not}"
```
````
```{code-cell} python
c
```
    make x
    make y

   ```bash
   make z
   ```
"""
    assert blocks(text) == [
        Block("python", 3, 'a = 1\n\nb = "```{not}"'),
        Block("python", 9, "c"),
        Block("indented", 11, "    make x\n    make y"),
        Block("bash", 15, "   make z"),
    ]
    with pytest.raises(AssertionError, match="no language"):
        blocks("```\nmake x\n```")
    with pytest.raises(AssertionError, match="no end"):
        blocks("```python\nx")


@pytest.mark.parametrize(
    "command",
    [
        "make boook",
        "make book PROFILE=quik",
        "make book PROFIL=quick",
        "make notebook NAME=table1_instability PARAMS='sead=1'",
        "make notebook NAME=table1_instability PARAMS='seed=one'",
        "python -m kclib netwerk",
        "python -m kclib network --profil quick x",
        "python -m kclib network --profile quik x",
        "python -m pip install ./a-book[buk]",
        "sl",
    ],
)
def test_a_wrong_command_is_found(command):
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        check(shlex.split(command))
