"""From outcomes to verdicts: every rule by which a claim is judged, once.

A rule takes what a test found and says ``"holds"``, ``"partly"`` or ``"fails"``. Where a test found
nothing, because this book lacks what it needs or could not have seen it, every claim is
``"not testable"``.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import choose

VERDICTS = ("holds", "partly", "fails", "not testable")


def sign(low: float, high: float, level: float = 0.0) -> int:
    """Say if an interval lies above a level (1), below it (-1) or across it (0).

    Examples
    --------
    >>> sign(0.2, 0.5), sign(-0.1, 0.5), sign(-0.3, -0.1)
    (1, 0, -1)
    """
    return 1 if low > level else -1 if high < level else 0


def apart(lower: Sequence[float], higher: Sequence[float]) -> int:
    """Say if the second interval (low, high) lies above the first (1), below (-1) or neither (0).

    Examples
    --------
    >>> apart((0.1, 0.2), (0.3, 0.4)), apart((0.1, 0.3), (0.2, 0.4))
    (1, 0)
    """
    return 1 if higher[0] > lower[1] else -1 if higher[1] < lower[0] else 0


def seen(low: float, high: float, effect: float | None = None) -> int | None:
    """Say if an interval lies above 0 (1), below it (-1) or across it (0), if that says anything.

    An interval that holds both 0 and the effect in question, and whose half-width exceeds that
    effect, is too wide to have told the two apart: nothing was found, neither the effect nor that
    there is none.

    Parameters
    ----------
    low, high : float
        Of the interval.
    effect : float, optional
        What is to be seen, e.g. the paper's own gain at that place; without one (or NaN) each
        interval says something.

    Returns
    -------
    int or None
        None where the effect could not have been seen.

    Examples
    --------
    >>> seen(0.01, 0.09, effect=0.02), seen(-0.01, 0.02, effect=0.02)
    (1, 0)
    >>> print(seen(-0.03, 0.04, effect=0.02))
    None
    >>> seen(-0.05, 0.01, effect=0.02)
    0
    """
    found = sign(low, high)
    too_wide = effect is not None and (high - low) / 2 > abs(effect) and low <= effect <= high
    return None if found == 0 and too_wide else found


class Rule(NamedTuple):
    """A rule, and the sentence that explains it to a reader."""

    judge: Callable[[Sequence[float], Sequence[float]], str]
    explained: str


def _each(outcomes, _levels) -> str:
    met = [outcome > 0 for outcome in outcomes]
    return "holds" if all(met) else "partly" if any(met) else "fails"


def _every(outcomes, _levels) -> str:
    return "holds" if all(outcome > 0 for outcome in outcomes) else "fails"


def _steps(outcomes, _levels) -> str:
    needed, *further = outcomes
    return "fails" if needed <= 0 else "holds" if all(o > 0 for o in further) else "partly"


def _reaches(outcomes, levels) -> str:
    full, half = levels
    if full > half:
        worst = min(outcomes)
        return "holds" if worst >= full else "partly" if worst >= half else "fails"
    worst = max(outcomes)
    return "holds" if worst <= full else "partly" if worst <= half else "fails"


RULES = {
    "each": Rule(
        _each,
        "The test is made several times, for layers, networks or conditions. The claim *holds* if "
        "it is met each time, *fails* if it is never met, and is found *partly* if it is met "
        "sometimes, also where the opposite is found at other times.",
    ),
    "every": Rule(
        _every,
        "The claim *holds* if the test is met each time that it is made, and *fails* otherwise.",
    ),
    "steps": Rule(
        _steps,
        "The test has a first part and a further one. The claim *fails* if the first is not met, "
        "is found *partly* if only the first is, and *holds* if both are.",
    ),
    "reaches": Rule(
        _reaches,
        "The test gives a number, of several the least favourable. The claim *holds* if it reaches "
        "the level that the test states, is found *partly* if it reaches the second one, and "
        "*fails* otherwise.",
    ),
}


def verdict(
    rule: str, outcomes: Sequence[float | bool | None], levels: Sequence[float] = ()
) -> str:
    """Judge what a test found.

    Parameters
    ----------
    rule : str
        One of `RULES`.
    outcomes : sequence of float, bool or None
        By ``"each"``, ``"every"`` and ``"steps"``, above 0 where the test is met; below 0 where the
        opposite is found. By ``"reaches"``, the numbers. None where the test could not have been
        met or failed, see `seen`: it does not count, and of ``"steps"`` both parts are needed.
        Where nothing is left, or nothing was there, nothing could be tested.
    levels : sequence of float
        For ``"reaches"``: the level that holds, and the one that holds partly; if the first is
        the smaller one, small numbers are meant.

    Returns
    -------
    str
        One of `VERDICTS`.

    Examples
    --------
    >>> verdict("each", [1, 0, -1]), verdict("every", [True, False]), verdict("steps", [1, 0])
    ('partly', 'fails', 'partly')
    >>> verdict("reaches", [0.95, 0.7], [0.9, 0.5]), verdict("reaches", [-0.95], [-0.9, -0.5])
    ('partly', 'holds')
    >>> verdict("each", [1, None]), verdict("each", [None]), verdict("each", [])
    ('holds', 'not testable', 'not testable')
    """
    judge = RULES[choose("rule", rule, RULES)].judge
    left = [outcome for outcome in outcomes if outcome is not None]
    undecided = not left or (rule == "steps" and len(left) < len(outcomes))
    return "not testable" if undecided else judge(left, levels)
