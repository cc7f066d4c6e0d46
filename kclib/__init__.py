"""Knowledge consistency between neural networks: the building blocks."""

import sys

try:
    from .compatibility import declare_missing_operators

    declare_missing_operators()  # before anything imports torchvision

    from .disentangler import Disentangler
    from .solver import Fit, fit
except KeyboardInterrupt:
    if sys.argv[:1] != ["-m"]:  # which it is while ``python -m kclib`` loads this package
        raise
    print("interrupted: nothing was begun.", file=sys.stderr)
    sys.exit(130)

__all__ = ["Disentangler", "Fit", "fit"]
__version__ = "0.1.0"
