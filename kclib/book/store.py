"""Content-keyed artefacts on disk: made once, whole or not at all.

An entry is a folder ``<root>/<kind>/<key>/`` with ``tensors.safetensors`` and ``entry.json``. The
key is a digest of everything that the entry depends on: its settings, what it is made from, and the
code that makes it (`kclib.book.code`). An entry is written beside its place
and renamed into it, so a kill at any moment leaves either nothing or all of it. A lock a key makes
a second process wait for, and then read, what the first one makes.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from filelock import FileLock
from safetensors import SafetensorError

from ..atomic import readable_failure, write_synced
from ..errors import StoreError
from .environment import hint


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
        StoreError
            If the entry is damaged: a size or checksum differs from the one noted.
        """
        try:
            entry = json.loads((path / "entry.json").read_text())
            content = (path / "tensors.safetensors").read_bytes()
            if hashlib.sha256(content).hexdigest() != entry["sha256"]:
                raise ValueError(f"{len(content):,} bytes, {entry['bytes']:,} were written")
            return safetensors.torch.load(content), entry["record"]
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            raise StoreError(
                f"the stored {path.parent.name} entry {path} is damaged ({error}); "
                "delete that folder, and the next run makes it again."
            ) from None

    def make(
        self,
        path: Path,
        build: Callable[[Path], tuple[dict[str, torch.Tensor], dict]],
    ) -> tuple[dict[str, torch.Tensor], dict]:
        """Read the entry at ``path``, making it first if it is not there.

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
            On a full disk, missing permission or a damaged entry. Nothing half-made remains.
        """
        if not (path / "entry.json").exists():
            self._make(path, build)
        return self.load(path)

    @hint("KC_STORE")
    def _make(self, path: Path, build) -> None:
        unfinished = self.root / "unfinished" / f"{path.parent.name}-{path.name}"
        with readable_failure(self.root):
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{unfinished}.lock").acquire()
        with lock:  # another process may have made it meanwhile
            if not (path / "entry.json").exists():
                with readable_failure(self.root):
                    unfinished.mkdir(exist_ok=True)
                tensors, record = build(unfinished)
                with readable_failure(self.root):
                    _write(path, unfinished / "writing", tensors, record)
                    shutil.rmtree(unfinished)


def _write(path: Path, fresh: Path, tensors: dict[str, torch.Tensor], record: dict) -> None:
    """Write an entry as the folder ``fresh`` and rename it to ``path``."""
    content = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()})
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "record": record}
    shutil.rmtree(fresh, ignore_errors=True)  # what a kill left
    fresh.mkdir()
    try:
        write_synced(fresh / "tensors.safetensors", content)
        write_synced(fresh / "entry.json", json.dumps(entry, indent=1).encode())
        shutil.rmtree(path, ignore_errors=True)  # without entry.json it is no entry
        os.rename(fresh, path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
