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
    with terminal() as stream:
        how = {"unit": unit, "unit_scale": unit == "B", "mininterval": 1.0}
        line = tqdm(desc=title, file=stream, leave=False, disable=None, **how)

        def progress(done: int, total: int, text: str = "") -> None:
            line.total = total
            line.set_postfix_str(text, refresh=False)
            line.update(done - line.n)

        try:
            yield progress
        finally:
            line.close()
