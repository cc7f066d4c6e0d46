"""Run the smoke book through clusters of its own, and disturb it.

Through a Slurm (`slurm`): meanwhile a job is cancelled, Slurm's daemon is killed under another, and
the node is drained. At the same time through a Kubernetes whose jobs share nothing but an S3
(`pods`): meanwhile a pod is evicted. The short form (``--short``) runs a part of ``make record``
through each, and disturbs it once. What is made must equal what a run on this machine alone makes,
bit by bit.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path

import pods
import processes
import slurm
import works
from works import Work

#: Seconds until another job begins: a group of networks takes minutes, beside other jobs.
PATIENCE = 1200


class Failed(Exception):
    """A run through a cluster did not do what it should."""


def through(name: str, cluster, work: Work, expected: dict, disturb: Sequence[Callable]) -> None:
    """Run a work through a cluster, and disturb one after the other of its jobs."""
    began, process, seen, left = time.monotonic(), work.start(), set(), [*disturb]
    late = began + PATIENCE
    try:
        while process.poll() is None and left:
            if fresh := cluster.running() - seen:
                seen.update(fresh)
                time.sleep(10)  # half-way: it starts a Snakemake and a Python first
                left[0](cluster, min(fresh))
                say(began, f"{name}: {left.pop(0).__doc__}")
                late = time.monotonic() + PATIENCE
            elif time.monotonic() > late:
                raise Failed(f"{name}: no job began for {PATIENCE} s:\n{work.said()[-4000:]}")
            time.sleep(0.5)
        status = process.wait()
    finally:
        processes.kill(process)
    if status or left or work.made() != expected:
        said = work.said()[-4000:]
        raise Failed(f"{name}: ended with {status}, undisturbed by {left}:\n{said}")
    say(began, f"{name}: the same results as on this machine.")


def say(began: float, what: str) -> None:
    """Print what happened, and how long after a beginning."""
    print(f"{time.monotonic() - began:5.0f} s  {what}", flush=True)


def work_in(folder: Path, short: bool) -> Work:
    """Return what is run, in a new copy of the repository."""
    work = works.record(folder) if short else works.book(folder, os.cpu_count())
    work.forget()  # recorded times too: without them every network has a job of its own
    return work


def through_slurm(folder: Path, expected: dict, short: bool) -> None:
    """Run a work through Slurm."""
    work = work_in(folder, short)
    work.command += ["CLUSTER=slurm"]
    disturbances = (slurm.cancelled, slurm.node_lost, slurm.drained)
    with slurm.running_slurm() as cluster:
        through("Slurm", cluster, work, expected, disturbances[: 1 if short else None])


def through_kubernetes(folder: Path, expected: dict, short: bool) -> None:
    """Run a work through Kubernetes, which takes the code from git."""
    work = work_in(folder, short)
    for words in (["init", "-q"], ["add", "--all", "--", ":!.venv", ":!t"]):
        subprocess.run(["git", *words], cwd=work.folder, check=True)
    work.command += ["CLUSTER=kubernetes", "IMAGE=none", "STORAGE=s3://book/of/smoke"]
    results = work.folder / "book" / "_build" / "results" / "smoke"
    with pods.running_kubernetes(work.folder / "pods") as cluster:
        work.environment |= cluster.variables()
        made = work.made
        if not short:  # results of a book stay with the objects
            work.made = lambda: (cluster.bring("of/smoke/book/_build/results", results), made())[1]
        through("Kubernetes", cluster, work, expected, (pods.evicted,))


def main() -> int:
    """Run the test; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a part of it, disturbed once")
    given = parser.parse_args()
    folder, began, parts = Path(tempfile.mkdtemp(prefix="kc-")), time.monotonic(), []
    try:
        work = work_in(folder / "alone", given.short)
        if work.run():
            raise Failed(f"without a cluster:\n{work.said()[-3000:]}")
        expected = work.made()
        say(began, "Without a cluster.")
        clusters = {"slurm": through_slurm, "kubernetes": through_kubernetes}
        if lacks := slurm.needed():
            print(f"The test of Slurm is left out: it needs {lacks}.")
            del clusters["slurm"]
        with ProcessPoolExecutor() as pool:  # at once, for jobs of both wait more than they compute
            parts = [
                pool.submit(run, folder / name, expected, given.short)
                for name, run in clusters.items()
            ]
            wait(parts)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # which the parts, of the same terminal, end by too
        works.end()
        print("interrupted.", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    status = 0
    for part in parts:
        try:
            part.result()
        except (Failed, TimeoutError) as error:
            print(f"error: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
