"""Disturb runs of this repository, and see whether the next run mends it: ``python faults/run.py``.

Each fault befalls a piece of work in a copy of the repository (`works`). Afterwards the work is run
again. It must come to its end with what an undisturbed run makes, or say in one line what is wrong
and what to do; when that is done, it must come to its end. Moments and bytes are drawn from a seed.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import processes
import works
from works import Work

from kclib.book import environment, records

#: How often the work is killed, and when at the latest after it began or went on, as a share of the
#: time that it takes undisturbed.
SHORT = {"make record": (3, 0.3), "kclib compare": (2, 0.5)}
WHOLE = {"make record": (30, 0.2), "kclib compare": (60, 0.5), "make book PROFILE=smoke": (10, 0.1)}
GRACE = 30  # seconds that a cluster leaves between SIGTERM and SIGKILL
SAME, IN_WORDS = "same results", "a line says what to do"


class Broken(Exception):
    """A fault that was not survived."""


def again(work: Work, expected: dict) -> str:
    """Run a disturbed work to its end; it must make what an undisturbed run does."""
    status = work.run()
    if status or work.made() != expected:
        raise Broken(f"{work.name} ended with {status}:\n{work.said()[-3000:]}")
    return SAME


def stopped_in_words(work: Work) -> str:
    """Check that the last run of a work said in one line what is wrong; return the line."""
    if not (said := work.in_words()):
        raise Broken(f"{work.name} says no more than:\n{work.said()[-3000:]}")
    return said


def refused_or_same(work: Work, expected: dict, mend: Callable[[], object]) -> Iterator[str]:
    """Run a work that may be refused; then do what it says, and run it again."""
    if work.run() == 0:
        if work.made() != expected:
            raise Broken(f"{work.name} makes something else:\n{work.said()[-3000:]}")
        yield SAME
    else:
        yield stopped_in_words(work)
        mend()
        again(work, expected)


# Faults: each yields, for each time, how it came out: the same results, or the line by which a run
# stopped; then the cause was removed, and the work came to its end with the same results.


def killed(work: Work, expected: dict, drawn: random.Random, times: int, share: float):
    """Kill a work with all that it began, again and again, and let it go on in between."""
    while times:
        process = work.start()
        try:
            process.wait(drawn.uniform(0, share * work.seconds))
        except subprocess.TimeoutExpired:
            processes.kill(process)
            times -= 1
            yield SAME  # which the last run shows, that goes on from all of them
        else:
            again(work, expected)
            work.forget()
    again(work, expected)


def asked_to_end(work: Work, expected: dict, drawn: random.Random, times: int):
    """Send SIGTERM to all processes of a work, as a cluster does."""
    for _ in range(times):
        work.forget()
        process = work.start()
        time.sleep(drawn.uniform(0, 0.5 * work.seconds))
        processes.end(process, GRACE)
        yield again(work, expected)


def kernel_killed(work: Work, expected: dict, drawn: random.Random, times: int):
    """Kill the kernel of a notebook, as Linux does when memory is out."""
    for _ in range(times):
        process = work.start()
        while (kernel := processes.kernel_of(process)) is None:
            if process.poll() is not None:
                raise Broken(f"{work.name} has no kernel:\n{work.said()[-3000:]}")
            time.sleep(0.05)
        time.sleep(drawn.uniform(0, 0.2 * work.seconds))
        kernel.kill()
        if process.wait():
            yield stopped_in_words(work)
        again(work, expected)


def full_disk(work: Work, expected: dict, drawn: random.Random, times: int):
    """Let the disk of the store be full at some write, and larger afterwards."""
    for _ in range(times):
        with small_disk(work, drawn.randint(200, 2400)) as (on_it, enlarge):
            yield from refused_or_same(on_it, expected, enlarge)


def read_only(work: Work, expected: dict, _drawn: random.Random):
    """Forbid to write to the store, empty and whole."""
    with small_disk(work, 10_000) as (on_it, writable):
        writable("ro")
        yield from refused_or_same(on_it, expected, lambda: writable("rw"))
        writable("ro")
        yield from refused_or_same(on_it, expected, lambda: writable("rw"))


def flipped(work: Work, expected: dict, drawn: random.Random, times: int):
    """Change a byte of an entry of the store."""
    for _ in range(times):
        change_a_byte(drawn.choice(sorted(work.store.glob("[!ud]*/*/*"))), drawn)
        yield again(work, expected)


def flipped_file(work: Work, expected: dict, drawn: random.Random, times: int, file: Path):
    """Change a byte of a file that the work reads."""
    whole = file.read_bytes()
    for _ in range(times):
        change_a_byte(file, drawn)
        yield from refused_or_same(work, expected, lambda: file.write_bytes(whole))
        file.write_bytes(whole)


def dated_ahead(work: Work, expected: dict, drawn: random.Random):
    """Date files into the future, one after the other and all, with work left to be done."""
    made = [
        *work.store.glob("*/*/*"),
        *work.folder.glob("book/_build/notebooks/smoke/*"),
        *work.folder.glob("results/smoke/*"),
        *work.folder.glob("notebooks/*"),
    ]
    for chosen in (drawn.sample(made, len(made) // 2), made):
        for file in chosen:
            later = time.time() + 24 * 3600
            os.utime(file, (later, later))
        (work.folder / "book/_build/notebooks/smoke/fig2_disentangler.ipynb").unlink()
        yield again(work, expected)


def twice_in_a_clone(work: Work, expected: dict, _drawn: random.Random):
    """Begin a second run beside the first."""
    work.forget()
    first = work.start()
    lock = work.folder / ".snakemake" / "run.lock"
    while first.poll() is None and not (lock.exists() and lock.stat().st_size):
        time.sleep(0.1)
    second = replace(work, log="second")
    if second.run() == 0:
        raise Broken("a second run was let in")
    yield stopped_in_words(second)
    if first.wait() or work.made() != expected:
        raise Broken(f"{work.name} was disturbed:\n{work.said()[-3000:]}")


def twice_on_a_store(work: Work, expected: dict, _drawn: random.Random, other: Work):
    """Let two clones with one empty store run at once."""
    work.forget()
    beside = replace(other, environment=other.environment | {"KC_STORE": str(work.store)})
    running = [(one, one.start()) for one in (work, beside)]
    for one, process in running:
        if process.wait() or one.made() != expected:
            raise Broken(f"{one.name} on a shared store:\n{one.said()[-3000:]}")
        yield SAME


def change_a_byte(file: Path, drawn: random.Random) -> None:
    """Make one byte of a file another one."""
    content = bytearray(file.read_bytes())
    content[drawn.randrange(len(content))] ^= drawn.randint(1, 255)
    file.write_bytes(content)


@contextmanager
def small_disk(work: Work, kilobytes: int):
    """Give a work a store on a disk of its own; yields the work and what changes the disk."""
    place = Path(tempfile.mkdtemp(dir=work.folder))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", place], check=True)

    def change(options: str = "size=100m") -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)

    try:
        variables = work.environment | {"KC_STORE": str(place / "store")}
        yield works.network(work.folder, variables), change
    finally:
        subprocess.run(["umount", place], check=True)


def can_mount() -> bool:
    """Return whether this process may mount disks."""
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(["mount", "-t", "tmpfs", "none", place], capture_output=True)
        if done.returncode == 0:
            subprocess.run(["umount", place], check=True)
        return done.returncode == 0


class Table:
    """What came out, a row for each fault and work."""

    def __init__(self, folder: Path, seed: int):
        self.rows: list[dict] = []
        self.broken: list[str] = []
        self._folder, self._seed = folder, seed

    def add(self, fault: str, how, work: Work, expected: dict, *given) -> None:
        """Let a fault befall a work, and note what came out."""
        began = time.perf_counter()
        drawn = random.Random(f"{self._seed} {fault} {work.name}")
        found: list[str] = []
        try:
            found.extend(how(work, expected, drawn, *given))
        except (Broken, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
            self.broken.append(f"{fault}, {work.name}: {error}")
        lines = [line for line in found if line != SAME]
        row = {
            "fault": fault,
            "work": work.name,
            "times": len(found),
            SAME: len(found) - len(lines),
            IN_WORDS: len(lines),
            "example": (lines or [""])[0].replace(str(work.folder), "...")[:300],
            "seconds": round(time.perf_counter() - began, 1),
        }
        self.rows.append(row)
        print(f"{row['seconds']:6.1f} s  {row['times']:3} x {fault}: {work.name}", flush=True)


def undisturbed(work: Work) -> dict:
    """Return what a work makes, and forget that it did; note how long it takes."""
    began = time.perf_counter()
    if status := work.run():
        raise Broken(f"{work.name}, undisturbed, ended with {status}:\n{work.said()[-3000:]}")
    made, work.seconds = work.made(), time.perf_counter() - began
    work.forget()
    return made


def of_records(table: Table, folder: Path, kills: dict, *, short: bool) -> None:
    """Disturb `make record` and one of its notebooks."""
    work = works.record(folder / "record", works.RECORDED[: 1 if short else None])
    expected = undisturbed(work)
    table.add("kill -9 at random moments", killed, work, expected, *kills[work.name])
    if short:
        return
    table.add("files dated tomorrow", dated_ahead, work, expected)
    notebook = works.notebook(work)
    alone = undisturbed(notebook)
    table.add("its kernel killed, as when memory is out", kernel_killed, notebook, alone, 2)
    entry = "a changed byte in an entry of the store"
    table.add(entry, flipped, notebook, alone, 4)
    again(work, expected)
    result = work.folder / "results" / "smoke" / "fig2_disentangler.json"
    table.add("a changed byte in a recorded result", flipped_file, notebook, alone, 2, result)
    table.add("a second run in one clone", twice_in_a_clone, work, expected)
    table.add(f"SIGTERM, {GRACE} s of grace", asked_to_end, work, expected, 1)
    other = works.record(folder / "other")
    table.add("two clones at once on one store", twice_on_a_store, work, expected, other)


def of_compare(table: Table, folder: Path, kills: dict, *, short: bool) -> None:
    """Disturb `kclib compare`, and training one network."""
    work = works.compare(folder / "compare")
    expected = undisturbed(work)
    table.add("kill -9 at random moments", killed, work, expected, *kills[work.name])
    if short:
        return
    pack = work.folder / "images.npz"
    table.add("a changed byte in a pack", flipped_file, work, expected, 2, pack)
    network = works.network(work.folder, work.environment)
    weights = undisturbed(network)
    again(network, weights)
    table.add("a changed byte in an entry of the store", flipped, network, weights, 6)
    if can_mount():
        table.add("a disk that is full at some write", full_disk, network, weights, 6)
        table.add("a store made read-only", read_only, network, weights)
    else:
        print("Full and read-only disks are left out: they need Linux, and its administrator.")


def of_book(table: Table, folder: Path, kills: dict, *, short: bool, cores: int) -> None:
    """Disturb the whole smoke book."""
    if short:
        return
    work = works.book(folder / "book", cores)
    expected = undisturbed(work)
    table.add("kill -9 at random moments", killed, work, expected, *kills[work.name])


def record(rows: list[dict], seed: int, began: float) -> Path:
    """Write the table under results/faults."""
    provenance = records.provenance(
        {"profile": "smoke", "seed": seed},
        seeds=[seed],
        networks={},
        fits={},
        device="cpu",
        run_seconds=time.perf_counter() - began,
    )
    result = records.Result(
        artefact="faults", profile="smoke", provenance=provenance, rows=rows, claims=[]
    )
    return records.write(result, environment.results_folder(environment.RECORDED / "faults"))


def main() -> int:
    """Run all faults, or a few of them; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="five kills; nothing is recorded")
    parser.add_argument("--cores", type=int, default=2, help="of the book (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and bytes (default: 0)")
    given = parser.parse_args()
    began, folder = time.perf_counter(), Path(tempfile.mkdtemp(prefix="kc-"))
    table = Table(folder, given.seed)
    try:
        kills = SHORT if given.short else WHOLE
        with ThreadPoolExecutor() as pool:  # at once, for each leaves cores idle
            running = [
                pool.submit(one, table, folder, kills, short=given.short)
                for one in (partial(of_book, cores=given.cores), of_records, of_compare)
            ]
            try:
                wait(running)
            except KeyboardInterrupt:
                works.end()  # else its threads would go on
                raise
        for one in running:
            one.result()
    except Broken as error:
        table.broken.append(str(error))
    except KeyboardInterrupt:
        print("interrupted: nothing is recorded.", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for what in table.broken:
        print(f"error: not survived: {what}", file=sys.stderr)
    if not table.broken and not given.short:
        print(f"written: {os.path.relpath(record(table.rows, given.seed, began))}")
    return 1 if table.broken else 0


if __name__ == "__main__":
    sys.exit(main())
