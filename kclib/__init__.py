"""Knowledge consistency between neural networks: the building blocks."""

from .compatibility import declare_missing_operators
from .disentangler import Disentangler
from .report.comparison import Comparison, compare
from .solver import Fit, fit

declare_missing_operators()  # before anything imports torchvision, as `kclib.networks` does late

__all__ = ["Comparison", "Disentangler", "Fit", "compare", "fit"]
__version__ = "0.1.0"
