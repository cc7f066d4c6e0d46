"""Let torchvision import where its compiled operators do not fit the installed torch.

A CPU-only torch beside the package index's torchvision cannot load torchvision's compiled library;
its import then fails on ``operator torchvision::nms does not exist`` (pytorch/vision issues 9077
and 9085). Models and transforms need none of those operators: it is enough that their schemas
exist when torchvision registers its Python-side implementations.
"""

import importlib.util
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: Any = None  # a torch Library withdraws its definitions when it is collected


class _BeforeTorchvision:
    """A finder of modules that finds none, and acts when torchvision is looked for."""

    @classmethod
    def find_spec(cls, name: str, _path=None, _target=None) -> None:
        if name == "torchvision":
            declare_missing_operators()


def prepare_torchvision() -> None:
    """Have the missing operators declared when torchvision is imported, if it is not yet.

    Examples
    --------
    `import kclib` does it:

    >>> prepare_torchvision()
    """
    if "torchvision" not in sys.modules and _BeforeTorchvision not in sys.meta_path:
        sys.meta_path.insert(0, _BeforeTorchvision)


def declare_missing_operators() -> bool:
    """Declare torchvision's ``nms`` schemas if, and only if, its library cannot be loaded.

    Returns
    -------
    bool
        True if schemas had to be declared.

    Examples
    --------
    Once is enough, and after `import kclib` the import of torchvision does it:

    >>> declare_missing_operators() == declare_missing_operators()
    True
    """
    global _library
    with suppress(ValueError):  # it is not there, or no more
        sys.meta_path.remove(_BeforeTorchvision)
    spec = importlib.util.find_spec("torchvision")
    if _library is not None or spec is None or spec.origin is None:
        return _library is not None
    import torch

    for compiled in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(compiled))
        except (OSError, RuntimeError):
            continue
        return False
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        _library.define(schema)
    return True
