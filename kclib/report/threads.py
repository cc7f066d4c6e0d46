"""As many threads as cores are free."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch

_MOMENT = 0.5  # seconds in which other processes are watched


@contextmanager
def on_free_cores(tell: Callable[[str], None]) -> Iterator[None]:
    """Compute with no more threads than cores are free, unless ``OMP_NUM_THREADS`` says how many.

    Threads wait for each other after every operation. One that finds its core taken comes late each
    time, and what is small takes many times longer on two threads than on one.

    Parameters
    ----------
    tell : callable
        Called with a line of text where threads are left out.

    Examples
    --------
    >>> before = torch.get_num_threads()
    >>> with on_free_cores(lambda _: None):
    ...     1 <= torch.get_num_threads() <= before
    True
    """
    before = threads = torch.get_num_threads()
    if before > 1 and "OMP_NUM_THREADS" not in os.environ:
        cores = psutil.cpu_count()
        taken = round(cores * psutil.cpu_percent(_MOMENT) / 100)
        threads = max(1, min(before, cores - taken))
    if threads < before:
        torch.set_num_threads(threads)
        tell(
            f"Other processes use {taken} of {cores} cores, so this one computes with {threads} "
            f"{'thread' if threads == 1 else 'threads'} (OMP_NUM_THREADS sets how many)."
        )
    try:
        yield
    finally:
        torch.set_num_threads(before)
