"""One run a folder: a second is refused in one line, and a killed one is in nobody's way."""

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Stands for the book's graph: three jobs, each after the other. A job says that it has begun, and
#: does not end while it is held.
GRAPH = """
rule all:
    input: "3.txt"

rule job:
    input: lambda w: [f"{int(w.number) - 1}.txt"] if w.number != "1" else []
    output: "{number}.txt"
    shell:
        "touch begun-{wildcards.number}; "
        "while [ -e hold-{wildcards.number} ]; do sleep 0.05; done; touch {output}"
"""


def planned(target: str) -> list[str]:
    """Return the words by which make would run Snakemake."""
    shown = subprocess.run(["make", "-n", "-C", ROOT, *target.split()], capture_output=True)
    assert shown.returncode == 0, shown.stderr
    [line] = [line for line in shown.stdout.decode().splitlines() if " snakemake " in line]
    return [word for word in shlex.split(line) if not word.startswith("PATH=")]


def test_on_a_cluster_the_graph_is_run_by_the_profile_for_it():
    words = planned("record PROFILE=smoke CLUSTER=slurm PARTITION=cpu ACCOUNT=mine")
    given = dict(zip(words, words[1:], strict=False))
    for option in ("--profile", "--workflow-profile"):
        assert (ROOT / given[option] / "config.yaml").exists()
    assert given["--slurm-status-command"] in ("sacct", "squeue")
    at = words.index("--default-resources")
    assert words[at + 1 : at + 3] == ["slurm_account=mine", "slurm_partition=cpu"]
    assert "--cores" not in words and "--slurm-no-account" not in words
    assert "--slurm-no-account" in planned("book CLUSTER=slurm")


def test_on_kubernetes_jobs_find_their_image_and_their_objects():
    words = planned(
        "record PROFILE=plain64 CLUSTER=kubernetes IMAGE=it STORAGE=s3://book/of/all "
        "NAMESPACE=mine VOLUMES=packs:/data"
    )
    given = dict(zip(words, words[1:], strict=False))
    assert (ROOT / given["--profile"] / "config.yaml").exists()
    assert given["--default-storage-provider"] == "s3"
    assert given["--default-storage-prefix"] == "s3://book/of/all"
    assert given["--container-image"] == "it"
    assert given["--kubernetes-namespace"] == "mine"
    assert given["--kubernetes-persistent-volumes"] == "packs:/data"


@pytest.mark.parametrize(
    "asked, said",
    [
        ("book CLUSTER=loaf", "CLUSTER may be: slurm, kubernetes"),
        ("book CLUSTER=kubernetes IMAGE=it", "STORAGE=s3://bucket/prefix"),
        ("book CLUSTER=kubernetes STORAGE=s3://a/b", "IMAGE="),
        ("book STORAGE=here", "write s3://bucket/prefix"),
        ("test STORAGE=s3://a/b", "are for make book and make record"),
    ],
)
def test_what_a_cluster_lacks_is_said_before_anything_is_done(asked, said):
    tried = subprocess.run(["make", "-n", "-C", ROOT, *asked.split()], capture_output=True)
    assert tried.returncode and said in tried.stderr.decode()


@pytest.fixture
def folder(tmp_path):
    """A folder with the stand-in and with what make runs it by."""
    (tmp_path / "Snakefile").write_text(GRAPH)
    (tmp_path / "notebooks").mkdir()
    for name in ("alone.py", "budget.py"):
        shutil.copy(ROOT / "notebooks" / name, tmp_path / "notebooks")
    return tmp_path


@contextmanager
def started(folder: Path, words: list[str]) -> Iterator[subprocess.Popen]:
    """Begin a run in the folder; at the end nothing of it is left."""
    tools = Path(sys.executable).parent
    with subprocess.Popen(
        words,
        cwd=folder,
        env=os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Wait until a job of a run has written a file."""
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def assert_done(folder: Path) -> None:
    """Check that a run gets to its end."""
    with started(folder, planned("book")) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert (folder / "3.txt").exists()


def assert_refused(folder: Path, target: str, other: int) -> None:
    """Check that a run gets one line that says which one is in the way, and what to do."""
    with started(folder, planned(target)) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    [line] = errors.splitlines()
    assert line.startswith("error: snakemake --nolock ")
    assert f" is running in {folder}; wait until it has ended" in line
    assert line.endswith(f" kill {other}")


def test_every_run_of_the_graph_is_alone_and_without_snakemake_s_own_lock():
    for target in ("book", "record", "record BUDGET=20m", "test"):
        words = planned(target)
        at = words.index("notebooks/alone.py")
        assert words[at - 1 : at + 3] == ["python", "notebooks/alone.py", "snakemake", "--nolock"]
        assert words[: at - 1] == (
            ["python", "notebooks/budget.py", "20m"] if "=" in target else []
        )


def test_a_second_run_is_refused_and_the_first_goes_on(folder):
    (folder / "hold-1").touch()
    with started(folder, planned("book")) as first:
        wait_for(folder / "begun-1", first)
        assert_refused(folder, "book", first.pid)
        assert_refused(folder, "record BUDGET=1m", first.pid)
        (folder / "hold-1").unlink()
        _, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert (folder / "3.txt").exists()


def test_a_run_that_is_killed_with_its_jobs_is_in_nobody_s_way(folder):
    """Killed while its second job runs, at a moment that differs from test to test."""
    (folder / "hold-2").touch()
    with started(folder, planned("book")) as process:
        wait_for(folder / "begun-2", process)
        time.sleep(random.uniform(0, 0.2))
    assert (folder / "1.txt").exists() and not (folder / "2.txt").exists()
    (folder / "hold-2").unlink()
    assert_done(folder)


def test_jobs_that_a_killed_run_leaves_are_in_nobody_s_way(folder):
    (folder / "hold-2").touch()
    with started(folder, planned("book")) as process:
        wait_for(folder / "begun-2", process)
        process.kill()
        process.wait()
        assert not (folder / "2.txt").exists()  # its job still runs
        (folder / "begun-2").unlink()
        with started(folder, planned("book")) as again:
            wait_for(folder / "begun-2", again)
            (folder / "hold-2").unlink()
            _, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert (folder / "3.txt").exists()


def test_a_folder_that_cannot_be_written_is_said_in_one_line(tmp_path):
    (tmp_path / ".snakemake").touch()  # a file where the folder belongs
    done = subprocess.run(
        [sys.executable, ROOT / "notebooks" / "alone.py", "true"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and ".snakemake" in done.stderr


def test_where_there_are_no_locks_a_line_says_so_and_the_run_begins(tmp_path):
    script = (
        "import errno, fcntl, os, runpy, sys\n"
        "def flock(*_): raise OSError(errno.ENOLCK, 'No locks available')\n"
        "fcntl.flock = flock\n"
        f"sys.argv = ['alone.py', 'echo', 'begun']\n"
        f"runpy.run_path({str(ROOT / 'notebooks' / 'alone.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "begun\n")
    [line] = done.stderr.splitlines()
    assert f"file system of {tmp_path} has no locks" in line
