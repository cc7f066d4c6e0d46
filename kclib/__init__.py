"""Knowledge consistency between neural networks: the building blocks.

Modules and public names are imported when they are first asked for, because torch takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .compatibility import prepare_torchvision

if TYPE_CHECKING:
    from .disentangler import Disentangler
    from .report.comparison import Comparison, compare
    from .solver import Fit, fit

prepare_torchvision()

__all__ = ["Comparison", "Disentangler", "Fit", "compare", "fit"]
__version__ = "0.1.0"

_ORIGINS = {
    "Comparison": "report.comparison",
    "Disentangler": "disentangler",
    "Fit": "solver",
    "compare": "report.comparison",
    "fit": "solver",
}


def __getattr__(name: str):
    if name in _ORIGINS:
        return getattr(import_module(f"{__name__}.{_ORIGINS[name]}"), name)
    module = f"{__name__}.{name}"
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
