"""The parameters that notebooks may have: their types and ranges, checked before anything runs."""

from ..errors import InputError, choose
from . import environment

#: Name: (type, lowest, highest, meaning).
NUMBERS = {
    "seed": (int, 0, 10**6, "seed of the first network; the second follows from it"),
    "order": (int, 0, 5, "highest order K of the disentangler"),
    "penalty": (float, 0.0, 1e3, "weight of the sum of the p_k^2"),
    "resamples": (int, 20, 10**4, "bootstrap resamples of the images"),
    "images": (int, 1, 12, "images shown in a figure"),
    "channel": (int, -1, 10**4, "filter shown; -1 chooses the one that varies most"),
    "channels": (int, 1, 256, "channels of a worked example"),
    "samples": (int, 0, 10**5, "images of planted features; 0: as many as the profile says"),
    "positions": (int, 100, 10**6, "positions of maps that measures of similarity see"),
    "generations": (int, 1, 20, "born-again networks; None: as many as the profile says"),
    "ratios": (float, 0.01, 0.999, "shares of weights pruned away; None: those of the profile"),
    "epochs": (int, 1, 1000, "of fine-tuning a tail; None: as many as the profile says"),
    "rate": (float, 1e-8, 0.1, "Adam's first, of fine-tuning; None: the authors' in proportion"),
}
#: Those without which a recorded number is another quantity than this run's.
OF_QUANTITIES = ("order", "penalty", "norm", "channels", "samples")
#: Those that may be None, for what the profile says.
OPTIONAL = ("generations", "ratios", "epochs", "rate")
#: Those that are a list, also written as numbers with commas between them.
LISTS = ("ratios",)


def checked(given: dict) -> dict:
    """Return parameters as their types, or refuse them.

    Parameters
    ----------
    given : dict
        From name to value; numbers may be given as text. A profile of None is the one that the
        environment variable ``KC_PROFILE`` names, or ``"quick"``.

    Raises
    ------
    InputError
        If a name is unknown, or a value is of another type or out of range.
    """
    return {name: _checked_one(name, value) for name, value in given.items()}


def _checked_one(name: str, value):
    if name == "profile":
        value = value or environment.profile()
        return choose("profile", value, environment.profile_names())
    if name == "norm":
        from ..disentangler import NORMS  # here, because torch takes seconds

        return choose("norm", value, NORMS)
    choose("parameter", name, ["profile", "norm", *NUMBERS])
    if name in OPTIONAL and value in (None, "None"):
        return None
    if name in LISTS:
        values = value.split(",") if isinstance(value, str) else value
        values = values if isinstance(values, list | tuple) else [values]
        return [_number(name, one) for one in values]
    return _number(name, value)


def _number(name: str, value) -> int | float:
    kind, low, high, meaning = NUMBERS[name]
    allowed = f"allowed: {'whole ' if kind is int else ''}numbers from {low} to {high} ({meaning})"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"the parameter {name} is {value!r}; {allowed}.") from None
    if isinstance(value, bool) or not low <= number <= high or number != kind(number):
        raise InputError(f"the parameter {name} is {value!r}; {allowed}.")
    return kind(number)
