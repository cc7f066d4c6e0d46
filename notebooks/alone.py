"""Run a command unless one runs in this folder: ``python notebooks/alone.py snakemake ...``.

The command takes this process's place and holds a lock of the operating system, which is gone when
the command is, whether it ended, was killed or lost its power. Snakemake's own lock is a file that
stays then, so `make` runs it without (``--nolock``).

Jobs that a killed command leaves behind do not hold the lock: they write their files whole or not
at all, and a job that needs the same entry of the store waits for them.
"""

import errno
import fcntl
import os
import shlex
import sys
from pathlib import Path

#: In the current folder; says which process holds it.
LOCK = Path(".snakemake", "run.lock")
#: What a file system answers that has no locks, such as one mounted over a network without them.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def claim(command: list[str]) -> None:
    """Hold the folder's lock until this process ends, also after it has become ``command``.

    Raises
    ------
    BlockingIOError
        If another one holds it; the message says which, and what to do.
    """
    LOCK.parent.mkdir(exist_ok=True)
    file = os.open(LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        number, _, other = os.read(file, 4096).decode().partition(" ")
        raise BlockingIOError(
            f"{other or 'another run'} is running in {Path.cwd()}; wait until it has ended, or "
            f"stop it with: kill {number}"
        ) from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        print(
            f"The file system of {Path.cwd()} has no locks; see yourself that one run at a time "
            "works there.",
            file=sys.stderr,
        )
    os.ftruncate(file, 0)
    os.write(file, f"{os.getpid()} {shlex.join(command)}".encode())
    os.set_inheritable(file, True)


def main(command: list[str]) -> int:
    """Become one command; return the exit status if that cannot be."""
    try:
        if not command:
            raise ValueError("there is no command to run.")
        claim(command)
        os.execvp(command[0], command)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
