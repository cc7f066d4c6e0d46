"""The errors that a user is meant to read."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: the message says what was given, what is allowed and what to do.

    IPython asks an exception for its own traceback through ``_render_traceback_``; showing the
    message alone keeps a misspelt parameter from filling a notebook with frames of the library.

    Examples
    --------
    >>> raise InputError("size is 8 pixels; allowed: 16 to 512.")
    Traceback (most recent call last):
        ...
    kclib.errors.InputError: size is 8 pixels; allowed: 16 to 512.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class StoreError(InputError):
    """The store cannot be read or written: full disk, no permission, damaged file.

    Examples
    --------
    >>> try:
    ...     raise StoreError("the disk is full; free some space.")
    ... except InputError as error:
    ...     print(error)
    the disk is full; free some space.
    """


class DegenerateFeatures(UserWarning):
    """Features from which the answer is not unique, or is not about what one would think.

    Examples
    --------
    To stop instead:

    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", DegenerateFeatures)
    ...     warnings.warn("a ridge chooses among the weights", DegenerateFeatures)
    Traceback (most recent call last):
        ...
    kclib.errors.DegenerateFeatures: a ridge chooses among the weights
    """


class LargeFit(UserWarning):
    """A fit that will take much memory or time.

    Examples
    --------
    >>> issubclass(LargeFit, UserWarning)
    True
    """


def choose(what: str, given: str, allowed: Iterable[str]) -> str:
    """Return ``given`` if it is one of ``allowed``; otherwise raise with the nearest spelling.

    Parameters
    ----------
    what : str
        What is being chosen, as the user would call it ("profile", "tap").
    given : str
        The user's choice.
    allowed : iterable of str
        The choices there are.

    Raises
    ------
    InputError
        If ``given`` is not among ``allowed``.

    Examples
    --------
    >>> choose("norm", "image", ["image", "dataset"])
    'image'
    >>> choose("norm", "imgae", ["image", "dataset"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    kclib.errors.InputError: there is no norm 'imgae'. Did you mean 'image'? Allowed: image, ...
    """
    allowed = list(allowed)
    if given in allowed:
        return given
    raise unknown(what, given, allowed)


def unknown(what: str, given, allowed) -> InputError:
    """Return the error that `choose` raises.

    Examples
    --------
    >>> unknown("profile", "quik", ["quick", "smoke"])
    InputError("there is no profile 'quik'. Did you mean 'quick'? Allowed: quick, smoke.")
    """
    allowed = list(map(str, allowed))
    near = difflib.get_close_matches(str(given), allowed, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(
        f"there is no {what} {given!r}.{hint} Allowed: {', '.join(allowed) or 'none'}."
    )
