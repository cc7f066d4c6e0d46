"""Progress bars with the time left, where a person can see them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from ..report.waiting import terminal


@contextmanager
def bar(title: str, unit: str = "step") -> Iterator[Callable[[int, int, str], None]]:
    """Show one progress bar; yields the callback ``progress(done, total, text)`` that moves it.

    Of bytes, ``"B"``, their number is written in kB, MB or GB.
    """
    how = {"unit": unit, "unit_scale": unit == "B", "mininterval": 1.0}
    with (
        terminal() as stream,
        tqdm(desc=title, file=stream, leave=False, disable=None, **how) as drawn,
    ):

        def progress(done: int, total: int, text: str = "") -> None:
            drawn.total = total
            drawn.set_postfix_str(text, refresh=False)
            drawn.update(done - drawn.n)

        yield progress


def line(text: str) -> None:
    """Write a line where bars are drawn, above those that are."""
    with terminal() as stream:
        tqdm.write(text, file=stream)
