"""Run the smoke book through a Slurm of its own, and disturb it.

Starts munged, slurmctld and slurmd on the loopback address, in a folder of their own, and runs
``make book PROFILE=smoke CLUSTER=slurm`` in a copy of the repository. Meanwhile a job is cancelled,
slurmd is killed under another, and the node is drained. The short form (``--short``) runs a part
of ``make record`` instead, and cancels a job. What is made must equal what a run without Slurm
makes, bit by bit.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import processes
import psutil
import works
from works import Work

PROGRAMS = ("munged", "slurmctld", "slurmd", "scontrol", "squeue", "scancel", "sbatch")
#: Where all of Slurm's programs look, also those that its jobs call.
PLACE = Path("/etc/slurm/slurm.conf")
SETTINGS = """\
ClusterName=alone
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=30
SlurmdTimeout=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Failed(Exception):
    """Slurm or the run through it did not do what it should."""


class Slurm:
    """A cluster of one node, which is this machine."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._running: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        """Write the settings and start all three programs."""
        self.folder.chmod(0o755)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0)), other.bind(("127.0.0.1", 0))
            ports = [one.getsockname()[1], other.getsockname()[1]]
        host, cores = socket.gethostname().split(".")[0], os.cpu_count()
        memory = int(0.95 * psutil.virtual_memory().total / 2**20)
        given = {"host": host, "ports": ports, "cores": cores, "memory": memory}
        settings = SETTINGS.format(folder=self.folder, **given)
        (self.folder / "slurm.conf").write_text(settings)
        PLACE.parent.mkdir(exist_ok=True)
        PLACE.symlink_to(self.folder / "slurm.conf")
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        words = [f"--{name}={self.folder}/munge.{end}" for name, end in files.items()]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", *words)
        self._start("slurmctld", "-D")
        self.start_node()
        self.wait_until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"), "its node is idle")

    def start_node(self) -> None:
        """Start slurmd, or start it again."""
        self._start("slurmd", "-D")

    def kill_node(self) -> None:
        """Kill slurmd at once."""
        self._running["slurmd"].kill()
        self._running["slurmd"].wait()

    def stop(self) -> None:
        """End all three programs."""
        for process in reversed(self._running.values()):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        if PLACE.is_symlink() and PLACE.readlink() == self.folder / "slurm.conf":
            PLACE.unlink()

    def running(self) -> set[str]:
        """Return the numbers of the jobs that run."""
        return set(self.ask("squeue", "-h", "-t", "R", "-o", "%A").split())

    def ask(self, *words: str) -> str:
        """Run one of Slurm's commands, and return what it says."""
        return subprocess.run(words, capture_output=True, text=True).stdout

    def wait_until(self, true: Callable[[], object], what: str, seconds: float = 120) -> object:
        """Wait until something is so, and return by what."""
        late = time.monotonic() + seconds
        while not (found := true()):
            if time.monotonic() > late:
                logs = [self.folder / f"{name}.log" for name in ("munge", "slurmctld", "slurmd")]
                said = "".join(log.read_text()[-800:] for log in logs if log.exists())
                raise Failed(f"after {seconds:.0f} s it is not so that {what}:\n{said}")
            time.sleep(0.5)
        return found

    def _start(self, *words: str) -> None:
        with open(self.folder / f"{words[0]}.out", "a") as file:
            self._running[words[0]] = subprocess.Popen(words, stdout=file, stderr=file)


@contextmanager
def running_slurm() -> Iterator[Slurm]:
    """Run a Slurm while the block does."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        slurm = Slurm(Path(folder))
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()


def cancelled(slurm: Slurm, job: str) -> None:
    """Cancel a job that runs."""
    slurm.ask("scancel", job)


def node_lost(slurm: Slurm, _job: str) -> None:
    """Kill slurmd under a job, and start it again."""
    slurm.kill_node()
    time.sleep(5)
    slurm.start_node()


def drained(slurm: Slurm, _job: str) -> None:
    """Take the node away from new jobs for a while."""
    host = socket.gethostname().split(".")[0]
    slurm.ask("scontrol", "update", f"nodename={host}", "state=drain", "reason=test")
    time.sleep(20)
    slurm.ask("scontrol", "update", f"nodename={host}", "state=resume")


def through(slurm: Slurm, work: Work, expected: dict, disturbances: Sequence[Callable]) -> None:
    """Run a work through Slurm, and disturb one after the other of its jobs."""
    began, process, seen, left = time.monotonic(), work.start(), set(), [*disturbances]
    try:
        while left:
            fresh = slurm.wait_until(
                lambda: process.poll() is not None or slurm.running() - seen, "a job runs", 300
            )
            if fresh is True:  # the run ended
                break
            job = min(fresh, key=int)
            seen.update(fresh)
            time.sleep(10)  # half-way: it starts a Snakemake and a Python first
            left[0](slurm, job)
            print(f"{time.monotonic() - began:5.0f} s  {left.pop(0).__doc__}", flush=True)
        status = process.wait()
    finally:
        processes.kill(process)
    if status or left or work.made() != expected:
        raise Failed(f"ended with {status}, undisturbed by {left}:\n{work.said()[-4000:]}")
    print(f"{time.monotonic() - began:5.0f} s  The same results as without Slurm.", flush=True)


def needed() -> str:
    """Return what this machine lacks for the test, or nothing."""
    if PLACE.is_symlink() and not PLACE.exists():
        PLACE.unlink()  # a test that was killed left it
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(missing)} (apt-get install munge slurm-wlm)"
    if os.getuid():
        return "root"
    return f"a machine without {PLACE}" if PLACE.exists() else ""


def main() -> int:
    """Run the test; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a part of it, disturbed once")
    given = parser.parse_args()
    if lacks := needed():
        print(f"The test of a cluster is left out: it needs {lacks}.")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="kc-"))
    try:
        cores = os.cpu_count()
        work = works.record(folder) if given.short else works.book(folder, cores)
        began = time.monotonic()
        if work.run():
            raise Failed(f"without Slurm:\n{work.said()[-3000:]}")
        expected = work.made()
        print(f"{time.monotonic() - began:5.0f} s  Without Slurm.", flush=True)
        work.forget()
        work.command.append("CLUSTER=slurm")
        with running_slurm() as slurm:
            disturbances = (cancelled,) if given.short else (cancelled, node_lost, drained)
            through(slurm, work, expected, disturbances)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
