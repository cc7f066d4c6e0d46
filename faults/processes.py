"""A command with all that it began, ended at once as a fault does."""

import signal
import subprocess
import time
from contextlib import suppress

import psutil


def begun_by(process: subprocess.Popen) -> set[psutil.Process]:
    """Return a process and all that it began, kernels in sessions of their own too, stopped.

    What is stopped begins nothing, so that none is missed.
    """
    found: set[psutil.Process] = set()
    if process.poll() is not None:  # its number may be another's by now
        return found
    with suppress(psutil.NoSuchProcess):
        waiting = {psutil.Process(process.pid)}
        while waiting:
            for one in waiting:
                with suppress(psutil.NoSuchProcess):
                    one.suspend()
            found |= waiting
            waiting = set()
            for one in found:
                with suppress(psutil.NoSuchProcess):
                    waiting |= set(one.children()) - found
    return found


def kill(process: subprocess.Popen) -> None:
    """Kill a process and all that it began, and wait until they are gone with their locks."""
    found = begun_by(process)
    for one in found:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    wait(found, 60)


def wait(found: set[psutil.Process], seconds: float) -> bool:
    """Wait until none of some processes runs; return whether that came in time."""
    late = time.monotonic() + seconds
    while (runs := any(map(alive, found))) and time.monotonic() < late:
        time.sleep(0.05)
    return not runs


def end(process: subprocess.Popen, grace: float) -> bool:
    """Ask all to end, as a cluster does with SIGTERM, and kill what is left after the grace.

    Returns
    -------
    bool
        Whether all ended in time.
    """
    found = begun_by(process)
    for one in found:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGTERM)
            one.resume()
    in_time = wait(found, grace)
    for one in found:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    wait(found, 60)
    return in_time


def alive(process: psutil.Process) -> bool:
    """Return whether a process still runs, or holds files.

    One that has ended, but was not yet asked for its status, holds them while it has threads.
    """
    with suppress(psutil.NoSuchProcess):
        ended = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() < 2
        return process.is_running() and not ended
    return False


def kernel_of(process: subprocess.Popen) -> psutil.Process | None:
    """Return the kernel of a notebook that a process runs, if it has begun."""
    with suppress(psutil.NoSuchProcess):
        for one in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "ipykernel_launcher" in one.cmdline():
                    return one
    return None
