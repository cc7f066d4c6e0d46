"""A lock that others wait for, and that a process which ends gives back."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from ..atomic import readable_failure

#: What a file system answers that has no locks, such as one mounted over a network without them.
WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file while the block runs; the file stays.

    Where the file system has no locks the block runs at once, so what it does must bear company.

    Raises
    ------
    StoreError
        If the file cannot be made.
    """
    lock = FileLock(path)
    with readable_failure(path.parent):
        try:
            lock.acquire()
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
    try:
        yield
    finally:
        lock.release()
