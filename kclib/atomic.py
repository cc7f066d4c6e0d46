"""Files that are written whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import StoreError


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_synced(Path(folder) / "a.txt", b"whole")
    ...     (Path(folder) / "a.txt").read_bytes()
    b'whole'
    """
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path``; a kill at any moment leaves the old file or the new one.

    Raises
    ------
    StoreError
        If the disk is full or writing is not allowed; the old file is kept.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     replace_file(Path(folder) / "new" / "a.txt", b"first")
    ...     replace_file(Path(folder) / "new" / "a.txt", b"second")
    ...     (Path(folder) / "new" / "a.txt").read_bytes()
    b'second'
    """
    with whole_file(path) as file:
        file.write(content)


def writable(path: Path) -> Path:
    """Return a path, ``~`` replaced, at which a file can be written, before any work for it.

    Raises
    ------
    StoreError
        If a folder is there, or the folder above cannot be made or written to.

    Examples
    --------
    >>> writable(Path("~/features.bin")) == Path.home() / "features.bin"
    True
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise StoreError(f"{path} is a folder; name a file in it.")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise StoreError(
            f"cannot write {path}: {above} is "
            + ("not writable" if above.is_dir() else "a file, not a folder")
            + "; name another place."
        )
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that comes to stand at ``path`` when the block ends without an error.

    Raises
    ------
    StoreError
        As `replace_file`.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with whole_file(Path(folder) / "a.txt") as file:
    ...         size = file.write(b"in parts, ")
    ...         (Path(folder) / "a.txt").exists()
    ...     (Path(folder) / "a.txt").exists()
    False
    True
    """
    with readable_failure(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with open(fresh, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)


@contextmanager
def readable_failure(place: Path):
    """Turn the operating system's refusals to write into a `StoreError`.

    Examples
    --------
    >>> with readable_failure(Path("/results")):
    ...     raise OSError(errno.ENOSPC, "No space left on device")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    kclib.errors.StoreError: cannot write under /results: the disk is full; free some space...
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; free some space"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            reason = f"writing is not allowed there ({error.strerror}); change the permission"
        else:
            raise
        raise StoreError(
            f"cannot write under {place}: {reason}, or choose another folder. What was finished "
            "before is kept."
        ) from None
