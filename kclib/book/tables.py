"""How the book writes numbers: shares, gains, intervals, and the tables that hold them."""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
import torch
from pandas.io.formats.style import Styler

from .. import measures
from .claims import Outcome, of


def interval(low: float, high: float, digits: int = 3) -> str:
    """Write an interval of shares.

    Examples
    --------
    >>> interval(0.1234, 0.2)
    '0.123 to 0.200'
    """
    return "" if pd.isna(low) else f"{low:.{digits}f} to {high:.{digits}f}"


def points(value: float, low: float | None = None, high: float | None = None) -> str:
    """Write a difference of shares in points of percent, with its interval if there is one.

    Examples
    --------
    >>> points(0.013, 0.002, 0.023), points(-0.01)
    ('+1.3 (+0.2 to +2.3)', '-1.0')
    """
    if pd.isna(value):
        return ""
    if low is None or pd.isna(low):
        return f"{100 * value:+.1f}"
    return f"{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def spread(line) -> str:
    """Say how far the pairs of networks of a line (min, max, count) lie apart."""
    if not line.count > 0:
        return ""
    return interval(line.min, line.max) if line.count > 1 else "one pair"


def counts(signs: Mapping[str, Sequence[float]]) -> str:
    """Say for each of several ways how often a test is met, and how often its opposite is found.

    Examples
    --------
    >>> counts({"joint": [1, 0, -1], "linear": [True, True]})
    'joint: 1 of 3, the opposite in 1; linear: 2 of 2'
    """
    return "; ".join(
        f"{way}: {sum(s > 0 for s in found)} of {len(found)}"
        + (f", the opposite in {against}" if (against := sum(s < 0 for s in found)) else "")
        for way, found in signs.items()
    )


def numbers(values: Mapping[str, Sequence[float]], digits: int) -> str:
    """List the numbers that each of several ways gives.

    Examples
    --------
    >>> numbers({"joint": [0.911, 1]}, 2)
    'joint: 0.91, 1.00'
    """
    return "; ".join(
        f"{way}: " + ", ".join(f"{value:.{digits}f}" for value in found)
        for way, found in values.items()
    )


def networks(accuracies: Iterable[Mapping]) -> Styler:
    """Return the table of trained networks, from `kclib.book.study.Study.accuracies`."""
    frame = pd.DataFrame(accuracies)
    return shown(frame, {name: "{:.1%}" for name in frame if name.startswith("accuracy")})


def shown(
    rows: pd.DataFrame | Iterable[Mapping],
    digits: Mapping[str, int | str],
    missing: Mapping[str, str] | None = None,
) -> Styler:
    """Return a table as the book shows it: no index, numbers rounded, blanks where none is.

    Parameters
    ----------
    rows : DataFrame or iterable of mapping
    digits : mapping
        From column to its digits after the point, or to a format such as ``"{:.1%}"``.
    missing : mapping, optional
        From column to what stands where there is no number, by default nothing.
    """
    frame = pd.DataFrame(rows)
    table = frame.style.hide().format(na_rep="")
    for column, form in digits.items():
        form = f"{{:.{form}f}}" if isinstance(form, int) else form
        table = table.format(form, subset=[column], na_rep=(missing or {}).get(column, ""))
    return table


def verdicts(artefact: str, outcomes: Iterable[Outcome]) -> Styler:
    """Return the table of an artefact's claims with what was found."""
    known = of(artefact)
    return shown(
        [
            {"claim": known[o.id].statement, "found": o.found, "verdict": o.verdict}
            for o in outcomes
        ],
        {},
    )


def ends(resampled: torch.Tensor, level: float = 0.95) -> dict[str, float]:
    """Return the interval of resampled numbers (R,) as the fields of a recorded row.

    Examples
    --------
    >>> ends(torch.linspace(0, 1, 101), 0.5)
    {'low': 0.25, 'high': 0.75}
    """
    return dict(zip(("low", "high"), measures.quantiles(resampled.double(), level), strict=True))
