"""Parts of a comparison that are finished, kept until the whole is, so that it can go on."""

import hashlib
import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..atomic import replace_file, whole_file
from ..features import load_mapped


class Kept:
    """Finished parts in a folder, of one comparison; without a folder nothing is kept.

    Parameters
    ----------
    folder : Path or None
    key : str
        What the comparison is, in full: parts of another are not found.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     kept = Kept(Path(folder), "a and b")
    ...     kept.put("part", {"x": torch.ones(2)}, {"seconds": 3})
    ...     kept.get("part"), Kept(Path(folder), "a and c").get("part")
    (({'x': tensor([1., 1.])}, {'seconds': 3}), None)
    """

    def __init__(self, folder: Path | None, key: str):
        mark = hashlib.sha256(key.encode()).hexdigest()[:16]
        self.folder = folder / mark if folder else None

    def get(self, name: str) -> tuple[dict[str, torch.Tensor], dict] | None:
        """Return the tensors and the record of a part, or None."""
        file = self._file(name)
        if file is None or not file.is_file():
            return None
        try:
            with safe_open(file, framework="pt") as opened:
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
                return tensors, json.loads(opened.metadata()["record"])
        except (SafetensorError, KeyError, ValueError):
            return None

    def put(self, name: str, tensors: dict[str, torch.Tensor], record: dict) -> None:
        """Keep a part."""
        if (file := self._file(name)) is not None:
            plain = {key: value.contiguous() for key, value in tensors.items()}
            replace_file(file, save(plain, {"record": json.dumps(record)}))

    def features(self, shapes: dict[str, tuple], batches: Iterable[dict]) -> dict:
        """Return features by name, each (N, C, H, W): mapped files where there is a folder.

        They are taken from batches of all of them, unless they are there already.
        """
        if self.folder is None:
            parts = list(batches)
            return {n: torch.cat([part[n].contiguous() for part in parts]) for n in shapes}
        files = {
            name: self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.features"
            for name in shapes
        }
        if not all(file.is_file() for file in files.values()):
            with ExitStack() as stack:
                opened = {n: stack.enter_context(whole_file(file)) for n, file in files.items()}
                for part in batches:
                    for name, file in opened.items():
                        file.write(part[name].contiguous().numpy())
        return {name: load_mapped(files[name], shape) for name, shape in shapes.items()}

    def _file(self, name: str) -> Path | None:
        return self.folder / f"{name}.safetensors" if self.folder else None
