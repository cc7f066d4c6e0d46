"""What is disturbed: pieces of work, each in a copy of the repository, and what they make."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import processes
import yaml
from PIL import Image

ROOT = Path(__file__).parent.parent
#: Of the smoke profile, what `make record` makes here.
RECORDED = ("fig2_disentangler", "fig1_fuzziness_levels")
NETWORKS = """\
import torch


def small(seed):
    torch.manual_seed(seed)
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers)


def first():
    return small(1)


def second():
    return small(2)
"""


_begun: list[subprocess.Popen] = []
_ended = threading.Event()
_beginning = threading.Lock()


class Ended(Exception):
    """A work was to begin after `end`."""


def end() -> None:
    """Kill all works that run, and let none begin any more."""
    with _beginning:
        _ended.set()
    for process in _begun:
        processes.kill(process)


@dataclass
class Work:
    """A command in a folder of its own.

    Attributes
    ----------
    name : str
        What it is called in the table.
    folder : Path
        A copy of the repository.
    command : list of str
    made : callable
        Returns what the command made, without times: equal for two runs that went well.
    environment : dict of str to str
        Variables that differ from those of this process.
    log : str
        Name of the file, in the folder, of what a run says.
    seconds : float
        That it takes undisturbed, once that is known.
    """

    name: str
    folder: Path
    command: list[str]
    made: Callable[[], dict]
    environment: dict[str, str] = field(default_factory=dict)
    log: str = "said"
    seconds: float = 0

    @property
    def store(self) -> Path:
        """The folder of the store."""
        return Path(self.environment["KC_STORE"])

    def start(self) -> subprocess.Popen:
        """Begin; what it says is kept for `said`."""
        with _beginning, open(self.folder / self.log, "w") as file:
            if _ended.is_set():
                raise Ended(self.name)
            process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            _begun.append(process)
            return process

    def run(self) -> int:
        """Run to the end, and return the exit status."""
        return self.start().wait()

    def forget(self) -> None:
        """Remove all that it made."""
        for name in ("store", "report", "alone", "book/_build", ".snakemake"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for path in (self.folder / "results" / "smoke").glob("*"):
            path.unlink()

    def said(self) -> str:
        """Return what the last run said."""
        return (self.folder / self.log).read_text(errors="replace")

    def in_words(self) -> str:
        """Return the line by which the last run said what is wrong; empty if it did not."""
        lines = self.said().splitlines()
        told = [line for line in lines if line.startswith("error: ")]
        return told[0] if told and "Traceback" not in self.said() else ""


def repository(folder: Path) -> dict[str, str]:
    """Copy the repository into a new folder, and return the variables with which it works there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(folder / name, (0, 0))  # else make would install anew
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "t").mkdir()
    return {
        "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),  # the copy's kclib, not the one that is installed
        "KC_STORE": str(folder / "store"),
        "KC_DEVICE": "cpu",
        "KC_RESULTS": "",
        "KC_PROGRESS": "/dev/stderr",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder / "t"),
        "MAKEFLAGS": "",
        "MAKELEVEL": "",
    }


def book(folder: Path, cores: int) -> Work:
    """Return the smoke profile's book."""
    variables = repository(folder)
    results = folder / "book" / "_build" / "results" / "smoke"

    def made() -> dict:
        pages = sorted(p.name for p in (folder / "book" / "_build" / "html").rglob("*.html"))
        return found(results) | {"pages": pages}

    command = ["make", "book", "PROFILE=smoke", f"CORES={cores}"]
    return Work("make book PROFILE=smoke", folder, command, made, variables)


def record(folder: Path, artefacts: tuple[str, ...] = RECORDED) -> Work:
    """Return the record of a part of the smoke profile, one job at a time."""
    variables = repository(folder)
    file = folder / "kclib" / "book" / "profiles" / "smoke.yaml"
    profile = yaml.safe_load(file.read_text())
    profile["artefacts"] = {name: profile["artefacts"][name] for name in artefacts}
    file.write_text(yaml.safe_dump(profile))
    results = folder / "results" / "smoke"
    command = ["make", "record", "PROFILE=smoke", "CORES=1"]
    work = Work("make record", folder, command, lambda: found(results), variables)
    work.forget()
    return work


def notebook(of: Work) -> Work:
    """Return one notebook of that record, by itself."""
    command = ["python", "notebooks/run.py", "fig2_disentangler", "--profile", "smoke"]
    variables = of.environment | {"KC_RESULTS": str(of.folder / "alone")}

    def made() -> dict:
        return found(of.folder / "alone" / "smoke")

    return Work("a notebook", of.folder, [*command, "--output", "alone.ipynb"], made, variables)


def network(folder: Path, variables: dict[str, str]) -> Work:
    """Return the training of one network into the store, in a copy that is there."""
    command = ["python", "-m", "kclib", "network", "--profile", "smoke", "vgg16_all_0"]

    def made() -> dict:
        entries = (Path(variables["KC_STORE"]) / "networks").glob("*/entry.json")
        return {entry.parent.name: json.loads(entry.read_text())["sha256"] for entry in entries}

    return Work("kclib network", folder, command, made, variables)


def compare(folder: Path) -> Work:
    """Return a comparison of two networks that are no part of the book."""
    variables = repository(folder)
    (folder / "nets.py").write_text(NETWORKS)
    pack(folder / "images.npz")
    words = ["nets.py:first", "nets.py:second", "--images", "images.npz", "--out", "report/out"]
    words += ["--size", "24"]

    def made() -> dict:
        report = json.loads((folder / "report" / "out" / "report.json").read_text())
        return {key: value for key, value in report.items() if key != "what was done"}

    return Work("kclib compare", folder, ["kclib", "compare", *words], made, variables)


def pack(file: Path, count: int = 200) -> None:
    """Write a pack of coloured noise."""
    noise, jpeg, offsets = np.random.default_rng(0), b"", [0]
    for _ in range(count):
        stream = io.BytesIO()
        small = noise.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(small).resize((24, 24)).save(stream, "JPEG")
        jpeg += stream.getvalue()
        offsets.append(len(jpeg))
    np.savez(
        file,
        jpeg=np.frombuffer(jpeg, np.uint8),
        offsets=offsets,
        names=[f"{k}.jpg" for k in range(count)],
        label=[0] * count,
        class_names=["noise"],
    )


def found(results: Path) -> dict:
    """Return the rows and claims of recorded results, without times, and digests of their maps."""
    seen = {}
    for path in sorted(results.glob("*.json")):
        content = json.loads(path.read_text())
        rows = [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in content["rows"]
        ]
        seen[path.stem] = [rows, content["claims"], content["arrays"]]
    return seen
