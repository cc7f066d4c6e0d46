"""What a person sees who waits: a bar for each stretch of work, and lines between them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from ..book import progress


@contextmanager
def waiting() -> Iterator[tuple[Callable[[int, int, str], None], Callable[[str], None]]]:
    """Yield `progress` and `tell` as `kclib.compare` takes them.

    Lines are printed too, so that a notebook keeps them.

    Examples
    --------
    >>> with waiting() as (progress, tell):
    ...     tell("a line")
    a line
    """
    with ExitStack() as stack:
        now: list = ["", None]

        def move(done: int, total: int, text: str) -> None:
            if text != now[0]:
                stack.close()
                now[:] = text, stack.enter_context(progress.bar(text))
            now[1](done, total)

        def tell(text: str) -> None:
            stack.close()
            now[:] = "", None
            progress.say(text)
            print(text)

        yield move, tell
