"""Progress bars with the time left, where a person can see them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TextIO

from tqdm import tqdm

from . import environment


@contextmanager
def bar(title: str, unit: str = "step") -> Iterator[Callable[[int, int, str], None]]:
    """Show one progress bar; yields the callback ``progress(done, total, text)`` that moves it.

    Of bytes, ``"B"``, their number is written in kB, MB or GB.
    """
    how = {"unit": unit, "unit_scale": unit == "B", "mininterval": 1.0}
    with (
        _stream() as stream,
        tqdm(desc=title, file=stream, leave=False, disable=None, **how) as drawn,
    ):

        def progress(done: int, total: int, text: str = "") -> None:
            drawn.total = total
            drawn.set_postfix_str(text, refresh=False)
            drawn.update(done - drawn.n)

        yield progress


def line(text: str) -> None:
    """Write a line where bars are drawn, above those that are."""
    with _stream() as stream:
        tqdm.write(text, file=stream)


@contextmanager
def _stream() -> Iterator[TextIO]:
    """Yield where bars go: standard error, or the file that ``KC_PROGRESS`` names.

    That file is the terminal of a run whose notebooks must not keep them. What it holds is kept;
    if it cannot be opened, standard error serves: no work stops for want of a bar.
    """
    with ExitStack() as stack:
        stream = sys.stderr
        if named := environment.progress_file():
            with suppress(OSError):
                stream = stack.enter_context(open(named, "a"))
        yield stream
