"""What a person sees who waits: a bar for each stretch of work, and lines between them."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TextIO

from tqdm import tqdm


@contextmanager
def terminal() -> Iterator[TextIO]:
    """Yield what bars are drawn to: standard error, or the file that ``KC_PROGRESS`` names.

    That file is the terminal of a run whose notebooks must not keep bars. What it holds is kept;
    if it cannot be opened, standard error serves: no work stops for want of a bar.

    Examples
    --------
    >>> with terminal() as stream:
    ...     stream.writable()
    True
    """
    with ExitStack() as stack:
        stream = sys.stderr
        if named := os.environ.get("KC_PROGRESS"):
            with suppress(OSError):
                stream = stack.enter_context(open(named, "a"))
        yield stream


@contextmanager
def waiting() -> Iterator[tuple[Callable[[int, int, str], None], Callable[[str], None]]]:
    """Yield `progress` and `tell` as `kclib.compare` takes them.

    They write to the `terminal`. Lines are printed too, so that a notebook keeps those.

    Examples
    --------
    >>> with waiting() as (progress, tell):
    ...     tell("a line")
    a line
    """
    with terminal() as stream:
        bars: dict[str, tqdm] = {}

        def end() -> None:
            for bar in bars.values():
                bar.close()
            bars.clear()

        def progress(done: int, total: int, text: str) -> None:
            if text not in bars:
                end()
                bars[text] = tqdm(
                    desc=text, file=stream, unit="step", mininterval=1, leave=False, disable=None
                )
            bars[text].total = total
            bars[text].update(done - bars[text].n)

        def tell(text: str) -> None:
            end()
            if stream is not sys.stderr:
                tqdm.write(text, file=stream)
            print(text)

        try:
            yield progress, tell
        finally:
            end()
