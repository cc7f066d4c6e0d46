"""A lock of the operating system: others wait for it, and a process that ends gives it back."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..atomic import readable_failure

#: What a file system answers that has no locks, such as one mounted over a network without them.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file while the block runs; the file stays.

    Where the file system has no locks the block runs at once, so what it does must bear company.

    Raises
    ------
    StoreError
        If the file cannot be made.
    """
    with readable_failure(path.parent):
        file = open(path, "a")  # some network file systems lock only what may be written
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        yield
