"""Let torchvision import where its compiled operators do not fit torch, and without the compiler.

A CPU-only torch beside the package index's torchvision cannot load torchvision's compiled library;
its import then fails on ``operator torchvision::nms does not exist`` (pytorch/vision issues 9077
and 9085). Models and transforms need none of those operators: it is enough that their schemas
exist when torchvision registers its Python-side implementations.

torchvision 0.28 also imports torch's compiler, for one function that ``roi_align`` may call; that
would be a third of the time that ``import kclib`` takes.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library = None  # a torch Library withdraws its definitions when it is collected


def declare_missing_operators() -> bool:
    """Declare torchvision's ``nms`` schemas if, and only if, its library cannot be loaded.

    Returns
    -------
    bool
        True if schemas had to be declared.
    """
    global _library
    spec = importlib.util.find_spec("torchvision")
    if _library is not None or spec is None or spec.origin is None:
        return _library is not None
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


def import_torchvision() -> None:
    """Import torchvision; ``torch._dynamo`` is imported once something of it is used."""
    name = "torch._dynamo.utils"

    def real(attribute: str):
        if attribute.startswith("__"):  # ``inspect`` asks all modules for their file
            raise AttributeError(attribute)
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    stand_in = ModuleType(name)
    stand_in.is_compile_supported = lambda device: real("is_compile_supported")(device)
    stand_in.__getattr__ = real  # for whatever else a torchvision takes from there
    sys.modules.setdefault(name, stand_in)
    try:
        importlib.import_module("torchvision")
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
