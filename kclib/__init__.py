"""Knowledge consistency between neural networks: the building blocks."""

from .compatibility import declare_missing_operators

declare_missing_operators()  # before anything imports torchvision

from .disentangler import Disentangler  # noqa: E402
from .solver import Fit, fit  # noqa: E402

__all__ = ["Disentangler", "Fit", "fit"]
__version__ = "0.1.0"
