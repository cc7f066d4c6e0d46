"""Seeds of single epochs."""

_APART = 100_003  # a prime beyond any number of epochs: no two pairs of seed and epoch share one


def of_epoch(seed: int, epoch: int) -> int:
    """Return the seed of one epoch's randomness, so that a run may be resumed at any epoch.

    Parameters
    ----------
    seed : int
        Of the run, 0 or more.
    epoch : int
        From 0.

    Examples
    --------
    >>> of_epoch(0, 7), of_epoch(5, 7)
    (7, 500022)
    """
    return seed * _APART + epoch
