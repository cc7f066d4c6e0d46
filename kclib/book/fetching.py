"""Getting the archives that a profile's images are cut from, from those who publish them."""

import shutil
from pathlib import Path

from ..errors import InputError
from ..images import archives
from ..images.archives import Archive
from . import environment, progress, sources
from .locks import locked
from .profiles import Profile


def missing(profile: Profile) -> list[Archive]:
    """Return the archives that a profile's images need and that are not unpacked in ``KC_DATA``.

    Examples
    --------
    >>> from kclib.book import profiles
    >>> missing(profiles.load("quick"))  # its images are drawn
    []
    """
    found: dict[Archive, None] = {}
    for name, network in profile.networks.items():
        for split in sources.SPLITS:
            found |= dict.fromkeys(sources.archives_of(profile.data_of(name), split, network.size))
    return [one for one in found if not one.extracted(environment.data_folder()).is_dir()]


def announced(needed: list[Archive], folder: Path) -> str:
    """Say what is to be fetched, how large it is and where it goes, and refuse a full disk.

    Parameters
    ----------
    needed : list of Archive
    folder : Path

    Raises
    ------
    InputError
        If the archives and what is unpacked from them have no room there.

    Examples
    --------
    >>> from tempfile import gettempdir
    >>> print(announced([Archive("http://example.org/birds.tar", "0123", 2_500_000)], gettempdir()))
    0.0025 GB to fetch, 0.005 GB when unpacked:
      birds.tar, 0.0025 GB, from http://example.org/birds.tar
    """
    lines, rest, room = [], 0, 0
    for archive in needed:
        had = sum(
            path.stat().st_size
            for path in (Path(folder) / archive.name, Path(folder) / f"{archive.name}.part")
            if path.is_file()
        )
        lacks = max(archive.size - had, 0)
        rest += lacks
        room += lacks + archive.size  # unpacked photographs take about what the archive does
        part = f" ({gigabytes(had)} of it are there)" if had else ""
        lines.append(f"  {archive.name}, {gigabytes(archive.size)}{part}, from {archive.url}")
    free = shutil.disk_usage(folder).free
    if room > free:
        raise InputError(
            f"the archives and what is unpacked from them need {gigabytes(room)} in {folder}, "
            f"which has {gigabytes(free)} left; make space, or name another folder in KC_DATA."
        )
    return "\n".join([f"{gigabytes(rest)} to fetch, {gigabytes(room)} when unpacked:", *lines])


def gigabytes(count: int) -> str:
    """Write a number of bytes in GB (10^9 bytes).

    Examples
    --------
    >>> gigabytes(1_150_585_339), gigabytes(481_280)
    ('1.15 GB', '0.00048 GB')
    """
    number = count / 1e9
    return f"{number:.2f} GB" if number >= 0.1 else f"{number:.2g} GB"


def fetch(needed: list[Archive], folder: Path) -> None:
    """Fetch archives, check them and unpack them; one that fails does not keep others from coming.

    Parameters
    ----------
    needed : list of Archive
    folder : Path

    Raises
    ------
    InputError
        If one cannot be fetched: the message says of each why, and where it can be put by hand.
    """
    failed = []
    with locked(Path(folder) / ".fetching.lock"):
        for archive in needed:
            with progress.bar(archive.name, unit="B") as show:
                try:
                    archives.fetch(archive, folder, download=True, progress=show)
                except InputError as error:
                    failed.append(f"{archive.name}: {error}")
    if failed:
        raise InputError("\n".join(["not all archives are there.", *failed]))
