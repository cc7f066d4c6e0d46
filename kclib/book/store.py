"""Content-keyed artefacts on disk: made once, whole or not at all.

An entry is a folder ``<root>/<kind>/<key>/`` with ``tensors.safetensors`` and ``entry.json``. The
key is a digest of everything that the entry depends on: its settings, what it is made from, and the
code that makes it (`kclib.book.code`). An entry is written beside its place
and renamed into it, so a kill at any moment leaves either nothing or all of it. A lock a key makes
a second process wait for, and then read, what the first one makes; where the file system has no
locks, both make the entry, and one of the two stays. An entry that was damaged since it was written
is moved into the folder ``damaged``, and made again.
"""

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import safetensors.torch
import torch
from safetensors import SafetensorError

from ..atomic import readable_failure, write_synced
from ..errors import StoreError
from . import progress
from .environment import hint
from .locks import locked

_FIELDS = {"sha256", "bytes", "record"}
_GONE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
#: What another process does to who writes the same entry beside it: it removes and puts folders.
_COMPANY = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)
_TRIES = 10


class Damaged(StoreError):
    """An entry is not as it was written."""


def content_key(content: dict) -> str:
    """Return the name of an entry: a digest of what it depends on, given as JSON's types."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


class Store:
    """A folder of entries.

    Parameters
    ----------
    root : Path
        Made when the first entry is.
    """

    def __init__(self, root: Path):
        self.root = Path(root)

    def path(self, kind: str, key: str) -> Path:
        """Return the place of an entry, whether or not it is there.

        Parameters
        ----------
        kind : str
            Name of the folder, e.g. ``"networks"``.
        key : str
            From `content_key`.
        """
        return self.root / kind / key

    def load(self, path: Path) -> tuple[dict[str, torch.Tensor], dict]:
        """Read an entry.

        Returns
        -------
        tensors : dict of str to torch.Tensor
        record : dict
            What `make` was given to remember.

        Raises
        ------
        Damaged
            If a file is missing or differs from the digests that were noted of it.
        StoreError
            If the system does not let it be read.
        """
        what = f"the stored {path.parent.name} entry {path}"
        try:
            entry = json.loads((path / "entry.json").read_bytes())
            content = (path / "tensors.safetensors").read_bytes()
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                raise ValueError(f"{len(content):,} bytes, not the {entry['bytes']:,} written")
            noted = entry.pop("digest", None)  # entries of earlier versions have none
            if entry.keys() - _FIELDS or noted not in (None, content_key(entry)):
                raise ValueError("entry.json differs from its digest")
            return safetensors.torch.load(content), entry["record"]
        except (*_GONE, ValueError, TypeError, KeyError, SafetensorError) as error:
            raise Damaged(f"{what} is damaged ({error})") from None
        except OSError as error:
            raise StoreError(
                f"{what} cannot be read ({error.strerror}); change its permission, or look after "
                "the disk."
            ) from None

    def make(
        self,
        path: Path,
        build: Callable[[Path], tuple[dict[str, torch.Tensor], dict]],
    ) -> tuple[dict[str, torch.Tensor], dict]:
        """Read the entry at ``path``, making it first if it is not there or damaged.

        A damaged one is kept in the folder ``damaged`` of the store, and a line says so.

        Parameters
        ----------
        path : Path
            From `path`.
        build : callable
            Called with a folder that lasts until the entry is finished, also over a kill, for
            checkpoints; returns tensors and a record of JSON's types.

        Raises
        ------
        StoreError
            On a full disk or missing permission. Nothing half-made remains.
        """
        if (path / "entry.json").exists():
            with suppress(Damaged):  # whoever holds the lock looks again
                return self.load(path)
        self._make(path, build)
        return self.load(path)

    @hint("KC_STORE")
    def _make(self, path: Path, build) -> None:
        unfinished = self.root / "unfinished" / f"{path.parent.name}-{path.name}"
        with readable_failure(self.root):
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
        with locked(unfinished.with_name(f"{unfinished.name}.lock")):
            if not self._sound(path):  # another process may have made it meanwhile
                with readable_failure(self.root):
                    unfinished.mkdir(exist_ok=True)
                tensors, record = build(unfinished)
                with readable_failure(self.root):
                    self._put(path, unfinished, tensors, record)
            shutil.rmtree(unfinished, ignore_errors=True)

    def _sound(self, path: Path) -> bool:
        """Return whether an entry is there and sound; a damaged one is moved out of the way."""
        if not (path / "entry.json").exists():
            return False
        try:
            self.load(path)
        except Damaged as error:
            aside = self.root / "damaged"
            progress.line(f"{error}; it is moved to {aside} and made again.")
            with readable_failure(self.root), suppress(FileNotFoundError):
                aside.mkdir(exist_ok=True)
                path.rename(tempfile.mkdtemp("", f"{path.parent.name}-{path.name}-", aside))
            return False
        return True

    def _put(self, path: Path, unfinished: Path, tensors, record: dict) -> None:
        """Write an entry, or leave the one that another process puts there meanwhile."""
        for left in reversed(range(_TRIES)):
            try:
                return _write(path, unfinished / f"writing-{uuid4()}", tensors, record)
            except OSError as error:
                if self._sound(path):
                    return None
                if error.errno not in _COMPANY or not left:
                    raise


def _write(path: Path, fresh: Path, tensors: dict[str, torch.Tensor], record: dict) -> None:
    """Write an entry as the folder ``fresh`` and rename it to ``path``.

    Names are all that changes at ``path``, so that it is whole or not there at any moment.
    """
    content = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()})
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "record": record}
    entry["digest"] = content_key(entry)
    fresh.mkdir(parents=True)
    try:
        write_synced(fresh / "tensors.safetensors", content)
        write_synced(fresh / "entry.json", json.dumps(entry, indent=1).encode())
        if path.exists() and not (path / "entry.json").exists():  # then it is no entry
            path.rename(fresh.with_name(f"{fresh.name}-before"))
        fresh.rename(path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
