"""Functions that a user names: ``package.module:function`` and ``file.py:function``."""

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path

from ..errors import InputError, choose

_FORM = re.compile(r"(?P<place>.+):(?P<name>[A-Za-z_]\w*)")


def is_function(text: str) -> bool:
    """Say whether a text has the form of a function's name.

    Examples
    --------
    >>> is_function("nets.py:small"), is_function("photos/")
    (True, False)
    """
    return _FORM.fullmatch(text) is not None


def called(text: str, what: str):
    """Run the code that a user named, and return what the function returns.

    Parameters
    ----------
    text : str
        ``package.module:function``, found as Python finds modules, the current folder first; or
        ``file.py:function``.
    what : str
        What the function is to return, for messages.

    Raises
    ------
    InputError
        If there is no such function, or its code fails.

    Examples
    --------
    >>> called("collections:OrderedDict", "images")
    OrderedDict()
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise InputError(
            f"{what} named {text!r}; allowed: file.py:function or package.module:function."
        )
    place, name = form["place"], form["name"]
    try:
        if place.endswith(".py"):
            module = _from_file(Path(place).expanduser())
        else:
            with _first_on_the_path(Path()):
                module = importlib.import_module(place)
        offered = [key for key, value in vars(module).items() if callable(value)]
        function = getattr(module, choose(f"function in {place}", name, offered))
        return function()
    except InputError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"{text} ({what}) could not be run: {type(error).__name__}: {first}. Its code runs "
            "only because it was named; check it by itself."
        ) from error


def _from_file(file: Path):
    if not file.is_file():
        raise InputError(f"there is no file {file}; name one that holds the function.")
    loader = SourceFileLoader(f"_named_{file.stem}", str(file.resolve()))
    specification = ModuleSpec(loader.name, loader, origin=loader.path)
    specification.has_location = True  # the module's __file__
    module = importlib.util.module_from_spec(specification)
    sys.modules[loader.name] = module  # dataclasses and the like look there
    with _first_on_the_path(file.parent):
        loader.exec_module(module)
    return module


@contextmanager
def _first_on_the_path(folder: Path) -> Iterator[None]:
    """Let imports look in a folder first, as Python does for a script in it."""
    there = str(folder.resolve())
    sys.path.insert(0, there)
    try:
        yield
    finally:
        sys.path.remove(there)
