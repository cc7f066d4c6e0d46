"""How the book writes numbers: shares, gains, intervals, and the tables that hold them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

import pandas as pd
import torch
from pandas.io.formats.style import Styler

from .. import measures
from .claims import Outcome, of
from .verdicts import seen


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


def written(name):
    """Write the name of a part of a feature; what is no text stays as it is.

    Examples
    --------
    >>> written("x_delta train")
    'x^Δ train'
    """
    return name.replace("x_delta", "x^Δ") if isinstance(name, str) else name


def spread(line) -> str:
    """Say how far the pairs of networks of a line (min, max, count) lie apart."""
    if not line.count > 0:
        return ""
    return interval(line.min, line.max) if line.count > 1 else "one pair"


def counts(signs: Mapping[str, Sequence[float | None]]) -> str:
    """Say for each of several ways how often a test is met, and how often its opposite is found.

    None stands where neither could have been seen; see `kclib.book.verdicts.seen`.

    Examples
    --------
    >>> counts({"above 0": [1, 0, None]})
    'above 0: 1 of 2, 1 more could not have been seen'
    >>> counts({"joint": [1, 0, -1], "linear": [True, True]})
    'joint: 1 of 3, the opposite in 1; linear: 2 of 2'
    """
    said = []
    for way, found in signs.items():
        told = [sign for sign in found if sign is not None]
        text = f"{way}: {sum(sign > 0 for sign in told)} of {len(told)}"
        if against := sum(sign < 0 for sign in told):
            text += f", the opposite in {against}"
        if unseen := len(found) - len(told):
            text += f", {unseen} more could not have been seen"
        said.append(text)
    return "; ".join(said)


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
    frame = pd.DataFrame(rows).map(written).rename(columns=written)
    table = frame.style.hide().format(na_rep="")
    for column, form in digits.items():
        form = f"{{:.{form}f}}" if isinstance(form, int) else form
        none = (missing or {}).get(column, "")
        table = table.format(form, subset=[written(column)], na_rep=none)
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


def sum_of_orders(upto: int) -> str:
    """Name the sum of the orders 0 to ``upto``, as the paper's tables do.

    Examples
    --------
    >>> sum_of_orders(2)
    'x(0)+x(1)+x(2)'
    """
    return "+".join(f"x({k})" for k in range(upto + 1))


def compared(
    run: Iterable[Mapping],
    recorded: Mapping[str, Iterable[Mapping]],
    at: Sequence[str],
    share: str,
    printed: Callable[..., float | None],
) -> pd.DataFrame:
    """Set a share beside the recorded ones and the paper's, line by line, in percent.

    Parameters
    ----------
    run : iterable of mapping
        Rows; those without the share are left out, of several of one line the mean is taken.
    recorded : mapping
        From what a recorded run is called, e.g. by `Study.regimes`, to its rows.
    at : sequence of str
        The fields that name a line. Lines that only a recorded run has come last.
    share : str
        The field that is compared, 0 to 1.
    printed : callable
        Gives the paper's number in percent, or None, from what ``at`` names, in that order.

    Returns
    -------
    DataFrame
        Indexed by ``at``, with the columns "paper", one a recorded run, and "this run".

    Examples
    --------
    >>> run, had = {"tap": "conv4", "accuracy": 0.5}, {"tap": "conv5", "accuracy": 0.25}
    >>> found = compared([run], {"recorded": [had]}, ["tap"], "accuracy", {"conv4": 45.0}.get)
    >>> found.loc["conv4"].to_dict()
    {'paper': 45.0, 'recorded': nan, 'this run': 50.0}
    """

    def shares(rows):
        frame = pd.DataFrame([row for row in rows if share in row], columns=[*at, share])
        return frame.groupby([*at], sort=False)[share].mean()

    found = {title: shares(rows) for title, rows in (recorded | {"this run": run}).items()}
    lines = found["this run"].index
    for one in found.values():
        lines = lines.append(one.index.difference(lines, sort=False))
    names = lines if len(at) > 1 else ((name,) for name in lines)
    numbers = pd.Series([printed(*line) for line in names], lines, dtype=float)
    percent = {title: 100 * one.reindex(lines) for title, one in found.items()}
    return pd.DataFrame({"paper": numbers} | percent)


def gains(lines: pd.DataFrame, name: str, prefix: str = "") -> pd.Series:
    """Write a difference of shares with its interval, line by line; see `points`.

    Parameters
    ----------
    lines : DataFrame
    name, prefix : str
        As `mean_over_pairs` took them.

    Examples
    --------
    >>> lines = pd.DataFrame({"gain": [0.013], "low": [0.002], "high": [0.023]}, index=["vgg16"])
    >>> gains(lines, "gain").to_dict()
    {'vgg16': '+1.3 (+0.2 to +2.3)'}
    """
    columns = zip(lines[name], lines[f"{prefix}low"], lines[f"{prefix}high"], strict=True)
    return pd.Series([points(*line) for line in columns], lines.index, dtype=object)


def listed(lines: pd.DataFrame, *columns: str, names: Sequence[str] = ("network", "tap")) -> str:
    """List a difference of shares in points, of each line's names.

    Parameters
    ----------
    lines : DataFrame
    columns : str
        The difference and, if wanted, the lower and upper end of its interval.
    names : sequence of str
        What names a line.

    Examples
    --------
    >>> line = {"network": "vgg16", "tap": "conv4_3", "gain": 0.013, "low": 0.002, "high": 0.023}
    >>> listed(pd.DataFrame([line]), "gain")
    'vgg16 conv4_3 +1.3'
    >>> listed(pd.DataFrame([line]), "gain", "low", "high", names=["tap"])
    'conv4_3 +1.3 (+0.2 to +2.3)'
    """
    return "; ".join(
        " ".join([*(line[name] for name in names), points(*(line[c] for c in columns))])
        for line in lines.to_dict("records")
    )


def resolution(low: Iterable[float], high: Iterable[float]) -> str:
    """Say which gains intervals of such widths tell from 0.

    Examples
    --------
    >>> resolution([0.01, -0.02], [0.03, 0.02])
    'these pairs and images tell gains of 1.0 to 2.0 points from 0, not smaller ones'
    """
    half = [50 * (end - start) for start, end in zip(low, high, strict=True)]
    least, most = f"{min(half):.1f}", f"{max(half):.1f}"
    span = least if least == most else f"{least} to {most}"
    return f"these pairs and images tell gains of {span} points from 0, not smaller ones"


def estimate(value: float, low: float, high: float, digits: int = 3) -> str:
    """Write a number with its interval.

    Examples
    --------
    >>> estimate(0.15, 0.1234, 0.2)
    '0.150 (0.123 to 0.200)'
    """
    return "" if pd.isna(value) else f"{value:.{digits}f} ({interval(low, high, digits)})"


def ends(resampled: torch.Tensor, level: float = 0.95, of: str = "") -> dict[str, float]:
    """Return the interval of resampled numbers (R,) as the fields of a recorded row.

    Where a row has several, ``of`` names the number.

    Examples
    --------
    >>> ends(torch.linspace(0, 1, 101), 0.5)
    {'low': 0.25, 'high': 0.75}
    >>> ends(torch.linspace(0, 1, 101), 0.5, of="accuracy")
    {'accuracy_low': 0.25, 'accuracy_high': 0.75}
    """
    low, high = measures.quantiles(resampled.double(), level)
    return {f"{of}_low": low, f"{of}_high": high} if of else {"low": low, "high": high}


def over_pairs(draws: Sequence[torch.Tensor], seed: int) -> dict[str, float | None]:
    """Return what a recorded row over pairs of networks says of their mean, as its fields.

    Parameters
    ----------
    draws : sequence of torch.Tensor
        Of each pair, float64 (R,): its number on the same R resamples of the images.
    seed : int
        Of the resampling of networks.

    Returns
    -------
    dict
        How many ``pairs``; ``low`` and ``high``, the 95 % interval over networks and images (of one
        pair, over images); ``of_networks``, the share of its spread that comes from networks.

    Examples
    --------
    >>> draws = torch.linspace(0, 1, 201, dtype=torch.float64)
    >>> one = over_pairs([draws], seed=0)
    >>> one["pairs"], round(one["low"], 3), round(one["high"], 3), one["of_networks"]
    (1, 0.025, 0.975, None)
    >>> two = over_pairs([draws, draws + 2], seed=0)  # pairs lie 2 apart, images spread over 1
    >>> two["pairs"], two["low"] < 0.5, two["high"] > 2.5, round(two["of_networks"], 1)
    (2, True, True, 0.9)
    """
    every = torch.stack([*draws]).double()  # (pairs, resamples)
    share = measures.share_of_networks(every, seed) if len(every) > 1 else None
    both = measures.over_networks(every, seed)
    return {"pairs": len(every), **ends(both), "of_networks": share}


def mean_over_pairs(
    values: torch.Tensor, name: str, prefix: str = "", *, resamples: int, seed: int
) -> dict[str, float | None]:
    """Return a mean over pairs of networks and images as the fields of a recorded row.

    Parameters
    ----------
    values : torch.Tensor
        Shape (P, N): of P pairs on the same N images.
    name, prefix : str
        The mean's field, and what stands before the other ones: ``low``, ``high`` (the 95 %
        interval, see `kclib.measures.mean_over_pairs`) and ``of_networks``.
    resamples, seed : int

    Examples
    --------
    >>> mean_over_pairs(torch.zeros(2, 50), "beyond", "beyond_", resamples=20, seed=0)
    {'beyond': 0.0, 'beyond_low': 0.0, 'beyond_high': 0.0, 'beyond_of_networks': 0.0}
    """
    names = (name, *(f"{prefix}{end}" for end in ("low", "high", "of_networks")))
    found = measures.mean_over_pairs(values, resamples=resamples, seed=seed)
    return dict(zip(names, found, strict=True))


def over_b(
    each: pd.DataFrame, over: pd.DataFrame, at: Sequence[str], control: tuple[str, str]
) -> pd.DataFrame:
    """Return the columns of Tables 3 and 4 that say what is gained over B, line by line.

    Parameters
    ----------
    each, over : DataFrame
        Recorded rows of each pair of networks, and of the mean over them.
    at : sequence of str
        The fields that name a line.
    control : (str, str)
        Name and prefix of the gain over the control, as `mean_over_pairs` took them.

    Examples
    --------
    >>> ends = {"low": 0.0, "high": 0.02, "more": 0.0, "more_low": 0.0, "more_high": 0.0}
    >>> each = pd.DataFrame([{"tap": "conv4", "gain": 0.0}, {"tap": "conv4", "gain": 0.02}])
    >>> over = pd.DataFrame([{"tap": "conv4", "gain": 0.01, "of_networks": 0.5} | ends])
    >>> found = over_b(each, over, ["tap"], ("more", "more_")).loc["conv4"]
    >>> found["over B"], found["pair by pair"]
    ('+1.0 (+0.0 to +2.0)', '+0.0, +2.0')
    """
    single, lines = each.groupby([*at], sort=False), over.set_index([*at])
    columns = {
        "over B": gains(lines, "gain"),
        "over the control": gains(lines, *control),
        "pairs": single.size(),
        "pair by pair": single.gain.agg(lambda found: ", ".join(map(points, found.dropna()))),
        "owed to networks": lines.of_networks.astype(float),
    }
    return pd.DataFrame(columns, single.size().index)


def shown_beside(
    frame: pd.DataFrame, names: Sequence[str], digits: Mapping[str, int | str]
) -> Styler:
    """Return the table that `compared` began, in percent, as the book shows it.

    Parameters
    ----------
    frame : DataFrame
        With columns further right.
    names : sequence of str
        What the fields that name a line are called.
    digits : mapping
        Of those columns, see `shown`.

    Examples
    --------
    >>> run, had = {"tap": "conv4", "accuracy": 0.5}, {"tap": "conv5", "accuracy": 0.25}
    >>> found = compared([run], {"recorded": [had]}, ["tap"], "accuracy", {"conv4": 45.0}.get)
    >>> shown_beside(found, ["layer"], {}).to_string(delimiter=", ").splitlines()[:2]
    ['layer, paper, recorded, this run', 'conv4, 45.00, not recorded, 50.0']
    """
    columns = list(frame)
    recorded = columns[columns.index("paper") + 1 : columns.index("this run")]
    digits = {"paper": 2, "this run": 1} | dict.fromkeys(recorded, 1) | digits
    missing = dict.fromkeys(recorded, "not recorded")
    return shown(frame.reset_index(names=[*names]), digits, missing)


def gaining(
    lines: pd.DataFrame,
    name: str,
    prefix: str = "",
    *,
    names: Sequence[str] = ("network", "tap"),
    with_ends: bool = True,
    effect: Sequence[float] | None = None,
) -> tuple[list[int | None], str, str]:
    """Say line by line if a gain lies above 0 beyond doubt, as `kclib.book.study.Study.claim` asks.

    Parameters
    ----------
    lines : DataFrame
    name, prefix : str
        Of the gain, as `mean_over_pairs` took them.
    names : sequence of str
        What names a line.
    with_ends : bool
        Whether the intervals are written out.
    effect : sequence of float, optional
        Of each line, what is to be seen; see `kclib.book.verdicts.seen`.

    Returns
    -------
    outcomes : list of int or None
    found, depends : str
        The numbers, and which gains could have been told from 0.

    Examples
    --------
    >>> line = {"network": "vgg16", "tap": "conv4_3", "gain": 0.013, "low": 0.002, "high": 0.023}
    >>> outcomes, found, depends = gaining(pd.DataFrame([line]), "gain")
    >>> outcomes, found
    ([1], 'above 0: 1 of 1; points: vgg16 conv4_3 +1.3 (+0.2 to +2.3)')
    """
    ends = f"{prefix}low", f"{prefix}high"
    low, high = (lines[end] for end in ends)
    effects = [None] * len(lines) if effect is None else effect
    outcomes = [seen(*line) for line in zip(low, high, effects, strict=True)]
    said = listed(lines, name, *(ends if with_ends else ()), names=names)
    return outcomes, f"{counts({'above 0': outcomes})}; points: {said}", resolution(low, high)


def told(low: Iterable[float], high: Iterable[float]) -> str:
    """Say which differences of shares intervals of such widths tell from 0.

    Examples
    --------
    >>> told([0.01, -0.02], [0.03, 0.02])
    'differences of 0.020 or more could have been told from 0'
    """
    widest = max(end - start for start, end in zip(low, high, strict=True))
    return f"differences of {widest / 2:.3f} or more could have been told from 0"


def mean(rows: Iterable[Mapping], place: Mapping, numbers: Sequence[str]) -> dict:
    """Return what a recorded row over networks says of their means, as its fields.

    Parameters
    ----------
    rows : iterable of mapping
        Of single networks, among others.
    place : mapping
        The fields, with their values, that name a line.
    numbers : sequence of str
        The fields whose means over the rows of that line are taken.

    Examples
    --------
    >>> rows = [{"tap": "conv4", "left": 0.5}, {"tap": "conv4", "left": 1.0}, {"tap": "conv5"}]
    >>> mean(rows, {"tap": "conv4"}, ["left"])
    {'tap': 'conv4', 'left': 0.75}
    """
    lines = [row for row in rows if place.items() <= row.items()]
    return {**place, **{name: fmean(row[name] for row in lines) for name in numbers}}


def over(rows: Iterable[Mapping], way: str, at: Sequence[str], share: str) -> pd.DataFrame:
    """Return the rows over networks that have a share by one way of fitting, by line.

    Parameters
    ----------
    rows : iterable of mapping
    way : str
        The rows' ``fit``.
    at : sequence of str
        The fields that name a line.
    share : str

    Examples
    --------
    >>> one = {"fit": "linear", "tap": "conv4", "left": 0.5, "seed": 0}
    >>> both = {"fit": "linear", "tap": "conv4", "left": 0.6, "pairs": 2}
    >>> over([one, both], "linear", ["tap"], "left").left.to_dict()
    {'conv4': 0.6}
    """
    table = pd.DataFrame(rows)
    return table[(table.fit == way) & table[share].notna() & table.pairs.notna()].set_index([*at])


def everywhere(
    run: Iterable[Mapping],
    regimes: Mapping[str, Iterable[Mapping]],
    ways: Mapping[str, str],
    at: Sequence[str],
    share: str,
) -> dict[str, pd.DataFrame]:
    """Return the rows over networks of recorded runs, by the first way, and of this run, by all.

    Parameters are those of `shares`.

    Examples
    --------
    >>> rows = [{"fit": "joint, per image", "tap": "conv4", "left": 0.6, "pairs": 2}]
    >>> ways = {"joint": "joint, per image"}
    >>> list(everywhere(rows, {"recorded, plain": rows}, ways, ["tap"], "left"))
    ['recorded, plain', 'joint, this run']
    """
    main, *_ = ways.values()
    found = {title: over(rows, main, at, share) for title, rows in regimes.items()}
    return found | {f"{name}, this run": over(run, way, at, share) for name, way in ways.items()}


def shares(
    run: Iterable[Mapping],
    regimes: Mapping[str, Iterable[Mapping]],
    ways: Mapping[str, str],
    at: Sequence[str],
    share: str,
) -> pd.DataFrame:
    """Set a share beside the recorded ones, line by line, on test and on training images.

    Parameters
    ----------
    run : iterable of mapping
        Rows: of single networks, with a ``seed``, the ``share`` on test images and with ``_train``
        at its name's end that on training images; and over networks, as `over` returns them.
    regimes : mapping
        From what a recorded run is called to its rows; see `kclib.book.study.Study.regimes`.
    ways : mapping
        From what a way of fitting is called to the rows' ``fit``. Of the first, the recorded runs'
        shares are shown too, and this run's interval and spread.
    at : sequence of str
        The fields that name a line.
    share : str
        The field that is shown.

    Returns
    -------
    DataFrame
        Of text, indexed by ``at``.

    Examples
    --------
    >>> one = {"fit": "joint, per image", "tap": "conv4", "left": 0.5}
    >>> whole = {**one, "pairs": 1, "low": 0.4, "high": 0.6}
    >>> rows = [{**one, "seed": 0, "left_train": 0.25}, whole]
    >>> ways = {"joint": "joint, per image"}
    >>> shares(rows, {"recorded": rows}, ways, ["tap"], "left").loc["conv4"].to_dict()
    ... # doctest: +NORMALIZE_WHITESPACE
    {'recorded, test / training': '0.500 / 0.250', 'joint, test / training': '0.500 / 0.250',
     'joint, 95 % interval, test': '0.400 to 0.600', 'joint, spread, test': 'one pair'}
    """
    (name, main), *others = ways.items()
    means = over(run, main, at, share)

    def each(rows, way):
        table = pd.DataFrame(rows)
        table = table[(table.fit == way) & table[share].notna() & table.seed.notna()]
        return table[[*at, share, f"{share}_train"]].groupby([*at])

    def both(rows, way):
        lines = each(rows, way).mean().reindex(means.index).itertuples(index=False)
        return [
            "not recorded" if pd.isna(test) else f"{test:.3f} / {train:.3f}"
            for test, train in lines
        ]

    spreads = each(run, main).agg(["min", "max", "count"])[share].loc[means.index]
    columns = {f"{title}, test / training": both(had, main) for title, had in regimes.items()}
    columns |= {
        f"{name}, test / training": both(run, main),
        f"{name}, 95 % interval, test": [interval(r.low, r.high) for r in means.itertuples()],
        f"{name}, spread, test": [spread(line) for line in spreads.itertuples()],
    }
    columns |= {f"{other}, test / training": both(run, way) for other, way in others}
    return pd.DataFrame(columns, index=means.index)


def beside(
    lines: pd.DataFrame,
    regimes: Mapping[str, Iterable[Mapping]],
    at: Sequence[str],
    fields: Mapping[str, str],
) -> pd.DataFrame:
    """Return what recorded runs have of some lines, a column each run and field.

    Parameters
    ----------
    lines : DataFrame
        With the columns ``at``.
    regimes : mapping
        From what a recorded run is called to its rows; see `kclib.book.study.Study.regimes`.
    at : sequence of str
        The fields that name a line.
    fields : mapping
        From field to what it is called.

    Examples
    --------
    >>> lines = pd.DataFrame({"part": ["x(0)", "x(1)"]})
    >>> had = {"recorded, strong": [{"part": "x(0)", "share": 0.5}]}
    >>> beside(lines, had, ["part"], {"share": "share"})
       share (recorded, strong)
    0                       0.5
    1                       NaN
    """
    columns = {}
    for title, rows in regimes.items():
        had = lines[[*at]].merge(pd.DataFrame(rows), on=[*at], how="left")
        columns |= {f"{name} ({title})": had.get(field) for field, name in fields.items()}
    return pd.DataFrame(columns, index=lines.index)
