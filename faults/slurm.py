"""A Slurm of one node, on the loopback address and in a folder of its own, and its disturbances."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "scontrol", "squeue", "scancel", "sbatch")
PREFIX = "slurm-"  # of the folder of its files
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
        """End what is left of jobs, and all three programs."""
        for how in (["--state=PENDING"], ["--signal=KILL", "--full"]):
            self.ask("scancel", "--user=root", *how)
        with suppress(TimeoutError):
            self.wait_until(lambda: not self.ask("squeue", "-h"), "no job is left", 30)
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
        """Wait until something is so, and return by what.

        Raises
        ------
        TimeoutError
            If it is not so after some seconds.
        """
        late = time.monotonic() + seconds
        while not (found := true()):
            if time.monotonic() > late:
                logs = [self.folder / f"{name}.log" for name in ("munge", "slurmctld", "slurmd")]
                said = "".join(log.read_text()[-800:] for log in logs if log.exists())
                raise TimeoutError(f"after {seconds:.0f} s it is not so that {what}:\n{said}")
            time.sleep(0.5)
        return found

    def _start(self, *words: str) -> None:
        with open(self.folder / f"{words[0]}.out", "a") as file:
            # In a session of its own: Ctrl-C would end it before its jobs are.
            self._running[words[0]] = subprocess.Popen(
                words, stdout=file, stderr=file, start_new_session=True
            )


@contextmanager
def running_slurm() -> Iterator[Slurm]:
    """Run a Slurm while the block does."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        slurm = Slurm(Path(folder))
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()


def cancelled(slurm: Slurm, job: str) -> None:
    """Cancel a job."""
    slurm.ask("scancel", job)


def node_lost(slurm: Slurm, _job: str) -> None:
    """Kill Slurm's daemon under a job, and start it again."""
    slurm.kill_node()
    time.sleep(5)
    slurm.start_node()


def drained(slurm: Slurm, _job: str) -> None:
    """Take the node away from new jobs for a while."""
    host = socket.gethostname().split(".")[0]
    slurm.ask("scontrol", "update", f"nodename={host}", "state=drain", "reason=test")
    time.sleep(20)
    slurm.ask("scontrol", "update", f"nodename={host}", "state=resume")


def needed() -> str:
    """Return what this machine lacks for the test, or nothing."""
    left = PLACE.is_symlink() and PLACE.readlink().parent.name.startswith(PREFIX)
    if left and not any(process.name() == "slurmctld" for process in psutil.process_iter()):
        PLACE.unlink()  # a test that was killed left it
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(missing)} (apt-get install munge slurm-wlm)"
    if os.getuid():
        return "root"
    return f"a machine without {PLACE}" if PLACE.exists() else ""
