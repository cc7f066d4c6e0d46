"""Where the book's things are, and what the environment variables say: all of them stand here.

=============== ==================================================== ==========================
variable        names                                                by default
=============== ==================================================== ==========================
``KC_STORE``    the folder of trained networks and fits              ``.kc-store`` in a clone,
                                                                     else in the user's cache
``KC_RESULTS``  the folder that results are written to               ``book/_build/results``
``KC_DATA``     the folder of the packs and archives of photographs
``KC_PROFILE``  the profile                                          ``quick``
``KC_DEVICE``   what computes, ``cpu`` or ``cuda:1``                 a GPU if there is one
``KC_PROGRESS`` the file that progress bars are drawn to             standard error
=============== ==================================================== ==========================
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

from ..atomic import writable
from ..errors import InputError, StoreError

_CLONE = Path(__file__).parents[2]
_IN_CLONE = (_CLONE / "results" / "paper.json").exists()
#: Recorded results, which are committed; they are there in a clone of the repository only.
RECORDED = _CLONE / "results"
#: The files of the profiles.
PROFILES = Path(__file__).parent / "profiles"

#: Folders that variables name, and the errors that are about them.
_FOLDERS = {
    "KC_STORE": ("of the store", StoreError),
    "KC_RESULTS": ("of results", StoreError),
    "KC_DATA": ("of packs and archives", InputError),
}


@contextmanager
def hint(variable: str) -> Iterator[None]:
    """Add to an error about a folder which environment variable names it; also as a decorator.

    Parameters
    ----------
    variable : {"KC_STORE", "KC_RESULTS", "KC_DATA"}

    Examples
    --------
    >>> with hint("KC_STORE"):
    ...     raise StoreError("the disk is full.")
    Traceback (most recent call last):
        ...
    kclib.errors.StoreError: the disk is full. KC_STORE names the folder of the store.
    """
    of_what, kind = _FOLDERS[variable]
    try:
        yield
    except kind as error:
        said = f"{error} {variable} names the folder {of_what}."
        raise error if variable in str(error) else type(error)(said) from None


def _named(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable) or default).expanduser()


def store_folder() -> Path:
    """Return the folder of the store."""
    return _named("KC_STORE", _CLONE / ".kc-store" if _IN_CLONE else user_cache_path("kclib"))


def results_folder(default: Path | None = None) -> Path:
    """Return the folder that results are written to, where none is named the given one."""
    base = _CLONE if _IN_CLONE else Path()
    return _named("KC_RESULTS", default or base / "book" / "_build" / "results")


def data_folder(*, make: bool = False) -> Path:
    """Return the folder of packs and archives.

    Parameters
    ----------
    make : bool
        Make it if it is not there.

    Raises
    ------
    InputError
        If none is named, or it is not there.
    """
    named = os.environ.get("KC_DATA")
    if not named:
        raise InputError(
            "the environment variable KC_DATA is not set; it must name the folder that holds the "
            "packs (such as cub200_train_112.npz) or the original archives. Set it, or use a "
            "profile on the embedded Creatures."
        )
    if make:
        writable(Path(named) / "any").parent.mkdir(parents=True, exist_ok=True)
    if not Path(named).is_dir():
        raise InputError(f"KC_DATA names {named!r}, not a folder; name the one with the data.")
    return Path(named)


def profile() -> str:
    """Return the name of the profile to use where none is given."""
    return os.environ.get("KC_PROFILE") or "quick"


def profile_names() -> list[str]:
    """Return the names of all profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def device() -> str:
    """Return the device to compute on.

    Raises
    ------
    InputError
        If there is no such device.
    """
    import torch  # here, because it takes seconds, and paths need none

    named = os.environ.get("KC_DEVICE")
    if not named:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=named)
    except (RuntimeError, AssertionError):
        raise InputError(
            f"KC_DEVICE names the device {named!r}, which this machine or this build of torch does "
            'not have; name another, such as "cpu" or "cuda:0".'
        ) from None
    return named


def use_one_thread() -> None:
    """Compute with one thread, unless ``OMP_NUM_THREADS`` says how many.

    The book's numbers are those of one thread. With several, torch 2.13 corrupts memory in the
    gradient of a ResNet's strided 1 x 1 convolutions, channels last.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(1)
