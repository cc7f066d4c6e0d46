"""The errors that a user is meant to read."""

import difflib


class InputError(ValueError):
    """Bad input: the message says what was given, what is allowed and what to do.

    IPython asks an exception for its own traceback through ``_render_traceback_``; showing the
    message alone keeps a misspelt parameter from filling a notebook with frames of the library.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class StoreError(InputError):
    """The store cannot be read or written: full disk, no permission, damaged file."""


class DegenerateFeatures(UserWarning):
    """Features from which the answer is not unique, or is not about what one would think."""


class LargeFit(UserWarning):
    """A fit that will take much memory or time."""


def choose(what: str, given, allowed):
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
    """
    allowed = list(allowed)
    if given in allowed:
        return given
    near = difflib.get_close_matches(str(given), allowed, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"there is no {what} {given!r}.{hint} Allowed: {', '.join(map(str, allowed)) or 'none'}."
    )
