"""Progress bars with the time left, where a person can see them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tqdm import tqdm

from . import environment


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show one progress bar; yields the callback ``progress(done, total, text)`` that moves it.

    Bars go to standard error, or to the file named by the environment variable ``KC_PROGRESS``:
    the terminal of a run whose notebooks must not keep them. What that file holds is kept; if it
    cannot be opened, standard error serves: no work stops for want of a bar.
    """
    stream = sys.stderr
    if named := environment.progress_file():
        with suppress(OSError):
            stream = open(named, "a")
    line = tqdm(desc=title, file=stream, unit="step", mininterval=1.0, leave=False, disable=None)

    def progress(done: int, total: int, text: str = "") -> None:
        line.total = total
        line.set_postfix_str(text, refresh=False)
        line.update(done - line.n)

    try:
        yield progress
    finally:
        line.close()
        if stream is not sys.stderr:
            stream.close()
