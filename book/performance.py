"""What the performance page shows: tables and figures of the measurements of ``make bench``."""

import math
import statistics
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from kclib.atomic import replace_file
from kclib.book import plots
from kclib.book.records import Result

FAST, AUTHORS, SQUEEZED = "#0072B2", "#D55E00", "#E69F00"  # Okabe and Ito's, as in kclib.book.plots
# What the figures show, for who does not see them.
_CURVES = (
    "Share left against the time of the fit on a log axis, a panel a pair of features. "
    "The fast fit is a short curve at the lower left; the curve of the authors' recipe comes down "
    "to the right of it. Where it was stopped, a dashed line marks the end of the full recipe."
)
_COSTS = (
    "Time against the number of images, the number of channels, the kernel size and the order, on "
    "log axes, for the whole fast fit, one normal matrix over patches and the same as the fast "
    "solver sums it."
)
PATCHES, FOURIER = "normal matrix, patches", "normal matrix, Fourier"
SCALING = "scaling"  # the result of synthetic features
LAYERS = "layers"  # that of every layer of one network by every layer of another
GROWTH = "growth"  # that of fits and comparisons of growing size
#: How the algorithms grow with a quantity, in the end: exponents of time and of memory.
OWN = {"images": (1, 0), "channels": (3, 2), "side": (2, 2), "layers": (2, 2)}
#: A fit returns the moments of each image, from which its intervals come.
OWN_OF_FITS = OWN | {"images": (1, 1)}
_GROWTH = (
    "Time, above, and memory, below, against the number of images, of channels, the side of maps "
    "and the number of layers, on log axes: fits with 3 x 3 and with 1 x 1 kernels, comparisons. "
    "Dashed lines have the slope of the algorithm; the table has all slopes."
)
NOTHING = "Nothing is recorded yet: `make bench` measures it, and writes `results/bench`.\n"
DEFAULT = "fast, default"  # it stops by itself; "fast": after given numbers of epochs
OTHERS = ", other seeds"  # rows of a method with other seeds than the first


def comparisons(benches: dict[str, dict[str, Result]]) -> Iterator[tuple[str, Result, dict]]:
    """Yield the name of each pair of features, its result, and the result's rows by method."""
    for profile, found in benches.items():
        for name, result in found.items():
            if name not in (SCALING, LAYERS, GROWTH):
                methods: dict[str, list[dict]] = {}
                for row in result.rows:
                    methods.setdefault(row["method"], []).append(row)
                yield f"{profile}, {result.rows[0]['features']}", result, methods


def fast(methods: dict[str, list[dict]]) -> dict:
    """Return the default fit, of the first seed."""
    return methods[DEFAULT][0]


def full_recipe(result: Result, methods: dict[str, list[dict]]) -> float:
    """Return the seconds of the authors' full recipe, at the rate of the epochs that were run."""
    last = methods["authors"][-1]
    return last["seconds"] / last["epochs"] * result.provenance.parameters["authors_epochs"]


def whole(result: Result, methods: dict[str, list[dict]]) -> bool:
    """Return whether the authors' recipe ran to its end: its time is measured, then."""
    return methods["authors"][-1]["epochs"] == result.provenance.parameters["authors_epochs"]


def residuals(benches: dict[str, dict[str, Result]]) -> str:
    """Return the table of what each way leaves on test images."""
    lines = [
        "| profile, features | order 0 | fast (epochs) | authors, at their end or when stopped "
        "(epochs) | authors, squeezed (epochs) | full recipe / ours to what it leaves (epochs) "
        "| ours in plain normal matrices |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for features, result, methods in comparisons(benches):
        squeezed = methods.get("authors, squeezed")  # none where the full recipe was run
        cells = [
            features,
            f"{methods['order 0'][0]['residual']:.4f}",
            _residual(fast(methods)) + _spread(fast(methods), methods, "fast"),
            _residual(methods["authors"][-1]) + _spread(methods["authors"][-1], methods, "authors"),
            _residual(squeezed[0]) if squeezed else "not needed",
            to_their_residual(methods) if whole(result, methods) else "their end is not known",
            f"{fast(methods)['seconds'] / methods[PATCHES][0]['seconds']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def ratios(benches: dict[str, dict[str, Result]]) -> str:
    """Return the table of two ratios of times, each over that of the fast fit."""
    lines = [
        "| profile, features | time to what ours leaves / ours | full recipe / ours |",
        "| --- | --- | --- |",
    ]
    for features, result, methods in comparisons(benches):
        ours = fast(methods)
        cells = [
            features,
            to_our_residual(ours, methods["authors"]),
            f"{full_recipe(result, methods) / ours['seconds']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def to_our_residual(ours: dict, authors: list[dict]) -> str:
    """Return how many times as long the recipe took to the fast fit's residual, or a bound."""
    for row in authors:
        if row["residual"] <= ours["residual"]:
            return f"{row['seconds'] / ours['seconds']:.0f}"
    return f"more than {authors[-1]['seconds'] / ours['seconds']:.0f}"


def to_their_residual(methods: dict[str, list[dict]]) -> str:
    """Return how many times as long the whole recipe took as the fast fit that ended no higher.

    Of the fast fits of several numbers of epochs, the shortest one counts.
    """
    end = methods["authors"][-1]
    for row in methods["fast"]:
        if row["residual"] <= end["residual"]:
            return f"{end['seconds'] / row['seconds']:.0f} ({row['epochs']})"
    return f"not reached in {methods['fast'][-1]['epochs']} epochs"


def _residual(row: dict) -> str:
    return f"{row['residual']:.4f} ({row['epochs']})"


def _spread(first: dict, methods: dict[str, list[dict]], method: str) -> str:
    """Return what a method leaves with all seeds that it was run with, if they are several."""
    left = [first["residual"]] + [row["residual"] for row in methods.get(method + OTHERS, [])]
    return f"; {len(left)} seeds: {min(left):.4f} to {max(left):.4f}" if len(left) > 1 else ""


def seconds(benches: dict[str, dict[str, Result]]) -> str:
    """Return the table of absolute times, with the machine and the date."""
    lines = [
        "| profile, features | images x channels x map | fast: epochs, s "
        "| authors, an epoch (s) | full recipe (s) "
        "| a normal matrix: patches, ours (s) | machine | date |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for features, result, methods in comparisons(benches):
        had = result.provenance
        threads = had.hardware["threads"]
        machine = f"{had.hardware['processor']}, {threads} thread{'s' if threads > 1 else ''}"
        full, last = full_recipe(result, methods), methods["authors"][-1]
        measured = "measured" if whole(result, methods) else "extrapolated"
        cells = [
            features,
            f"{last['images']:,} x {last['channels']} x {last['side']} x {last['side']}",
            ", ".join(f"{row['epochs']}: {row['seconds']:.1f}" for row in methods["fast"]),
            f"{last['seconds'] / last['epochs']:.2f}",
            f"{full:,.0f} ({measured})",
            f"{methods[PATCHES][0]['seconds']:.2f}, {methods[FOURIER][0]['seconds']:.2f}",
            had.hardware["accelerator"] or machine,
            had.date,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def outcome(benches: dict[str, dict[str, Result]]) -> str:
    """Say in how many comparisons the authors' recipe left as little as the fast fit."""
    reached, ran, cost = [], [], []
    for _, result, methods in comparisons(benches):
        ours = fast(methods)
        theirs = methods["authors"] + methods.get("authors, squeezed", [])
        reached.append(min(row["residual"] for row in theirs) <= ours["residual"])
        ran.append(whole(result, methods))
        cost.append(full_recipe(result, methods) / ours["seconds"])
    span = f"{min(cost):.0f}" if len(cost) == 1 else f"{min(cost):.0f} to {max(cost):.0f}"
    ended = sum(map(all, zip(reached, ran, strict=True)))
    found = [f"left as little of held-out images as the fast fit in {ended} of the {sum(ran)} "
             "comparisons in which it ran to its end"] if any(ran) else []  # fmt: skip
    if not all(ran):
        found.append(
            f"did so when it was stopped in {sum(reached) - ended} of the "
            f"{len(ran) - sum(ran)} in which time was short"
        )
    return (
        f"The authors' recipe {', and '.join(found)}. At the rate measured, the full recipe takes "
        f"{span} times as long as the fast fit.\n"
    )


def saved(benches: dict[str, dict[str, Result]], results: dict[str, dict[str, Result]]) -> str:
    """Say what the recorded joint fits took, and would take by the authors' recipe."""
    lines = []
    for profile, artefacts in results.items():
        ours = comparisons({profile: benches.get(profile, {})})
        cost = [full_recipe(f, methods) / fast(methods)["seconds"] for _, f, methods in ours]
        made = sum(result.provenance.joint_fits for result in artefacts.values())
        took = sum(result.provenance.joint_fit_seconds for result in artefacts.values())
        if cost and made:
            hours = [f"{took * ratio / 3600:.0f}" for ratio in sorted({min(cost), max(cost)})]
            lines.append(
                f"The {made} joint fits made when the notebooks were recorded in profile {profile} "
                f"took {took / 60:.1f} minutes. At the ratio of the full recipe to ours in the "
                f"table above, they would take {' to '.join(hours)} hours by the authors' recipe. "
                "That is rough: other layers, other settings of the solver in earlier records, and "
                "a machine that did other work beside a fit have other ratios.\n"
            )
    return "\n".join(lines)


def layers(benches: dict[str, dict[str, Result]]) -> str:
    """Return the table of what the matrices of all layers took, with what was compared."""
    found = [results[LAYERS] for results in benches.values() if LAYERS in results]
    if not found:
        return NOTHING
    had, times = found[0].provenance, {}
    for row in found[0].rows:
        times.setdefault(row["method"], []).append(row["seconds"])
    theirs, given = statistics.median(times["torch_cka"]), had.parameters
    lines = [
        "| | seconds, median | lowest to highest | times torch_cka |",
        "| --- | --- | --- | --- |",
    ]
    for method, seconds in times.items():
        usual = statistics.median(seconds)
        span = f"{min(seconds):.1f} to {max(seconds):.1f}"
        lines.append(f"| {method} | {usual:.1f} | {span} | {usual / theirs:.2f} |")
    said = (
        f"Networks: {given['networks']}; blocks: {given['layers']}; {given['images']} images of "
        f"{given['side']} px, {given['batch']} at a time. Seconds of the processor "
        f"({had.hardware['processor']}, {had.hardware['threads']} threads), in "
        f"{len(times['torch_cka'])} rounds in turns, {had.date}."
    )
    return "\n".join([*lines, "", said.replace(" 1 threads", " 1 thread"), ""])


def series(result: Result) -> Iterator[tuple[str, str, list, dict[str, list[float]]]]:
    """Yield work, quantity, its values, and what each took: seconds and megabytes."""
    found: dict[tuple[str, str], list[dict]] = {}
    for row in result.rows:
        found.setdefault((row["method"], row["quantity"]), []).append(row)
    for (work, quantity), rows in found.items():
        took = {name: [row[name] for row in rows] for name in ("seconds", "megabytes")}
        yield work, quantity, [row[quantity] for row in rows], took


def own(work: str, quantity: str) -> tuple[int, int]:
    """Return the exponents of time and of memory that a work's algorithm has in the end."""
    return (OWN_OF_FITS if work.startswith("fit") else OWN)[quantity]


def exponent(values: list[float], took: list[float]) -> float:
    """Return the slope on log axes of the last three values, where the start counts little."""
    at, of = ([math.log(number) for number in numbers[-3:]] for numbers in (values, took))
    return statistics.linear_regression(at, of).slope


def growth(benches: dict[str, dict[str, Result]]) -> str:
    """Return the figure and the table of how time and memory grow."""
    if not (found := _growths(benches)):
        return NOTHING.replace("make bench", "make bench GROWTH=1")
    lines = [
        "| | from, to | time: exponent (the algorithm's) | memory: exponent (the algorithm's) |",
        "| --- | --- | --- | --- |",
    ]
    above = []
    for work, quantity, values, took in series(found[0]):
        cells = [f"{work}: {quantity}", f"{values[0]:,} to {values[-1]:,}"]
        for name, least in zip(took, own(work, quantity), strict=True):
            slope = exponent(values, took[name])
            cells.append(f"{slope:.2f} ({least})")
            above.append((slope - least, f"{name} of {work} with {quantity}"))
        lines.append(f"| {' | '.join(cells)} |")
    most, where = max(above)
    had, held = found[0].provenance, found[0].provenance.parameters
    size = ", ".join(f"{name} {held[name]:,}" for name in OWN)
    said = (
        f"Held, while one changes: {size}. Largest excess over the algorithm's own exponent: "
        f"{most:+.2f}, {where}. Seconds of the processor ({had.hardware['processor']}, one "
        f"thread), megabytes beyond those before and beyond files that are mapped; {had.date}."
    )
    caption = "What fits and comparisons take as one quantity grows."
    return "\n".join([_figure(GROWTH, _GROWTH, caption), *lines, "", said, ""])


def _growths(benches: dict[str, dict[str, Result]]) -> list[Result]:
    return [found[GROWTH] for found in benches.values() if GROWTH in found][:1]


def growing(result: Result) -> Figure:
    """Draw time and memory against each quantity, on log axes, beside the algorithm's slope."""
    figure, grid = plt.subplots(
        2, len(OWN), figsize=(2.5 * len(OWN), 5.4), sharex="col", sharey="row", layout="constrained"
    )
    marks = ((FAST, "o-"), (AUTHORS, "s-"), ("#009E73", "^-"))
    works = dict.fromkeys(work for work, *_ in series(result))
    looks = dict(zip(works, marks, strict=False))
    for work, quantity, values, took in series(result):
        colour, mark = looks[work]
        for row, slope in enumerate(own(work, quantity)):
            axes, numbers = grid[row][[*OWN].index(quantity)], [*took.values()][row]
            axes.plot(values, numbers, mark, color=colour, label=work, markersize=4)
            line = [numbers[-1] * (value / values[-1]) ** slope for value in values[-3:]]
            axes.plot(values[-3:], line, "--", color=colour, linewidth=0.8)
            axes.set(xscale="log", yscale="log")
            axes.set_xticks(values, [f"{value:,}" for value in values], rotation=40, fontsize=8)
            axes.minorticks_off()
            axes.grid(alpha=0.3)
    for axes, quantity in zip(grid[1], OWN, strict=True):
        name = "side of maps (positions)" if quantity == "side" else f"number of {quantity}"
        axes.set_xlabel(name)
    grid[0][0].set_ylabel("time (s)")
    grid[1][0].set_ylabel("memory (MB)")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def curves(benches: dict[str, dict[str, Result]]) -> Figure:
    """Draw the share left against time, one panel a pair of features, one scale."""
    panels = list(comparisons(benches))
    wide = min(2, len(panels))
    high = math.ceil(len(panels) / wide)
    figure, grid = plt.subplots(
        high, wide, figsize=(max(6.4, 4.4 * wide), 2.6 * high + 1.0), sharex=True, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    named = {}
    for axes, (features, result, methods) in zip(grid.flat, panels, strict=False):
        zero = methods["order 0"][0]["residual"]
        axes.axhline(zero, color="black", linestyle=":", linewidth=1, label="order 0 alone")
        for method, colour, style, name in (
            ("authors", AUTHORS, "s-", "authors' recipe"),
            ("authors, squeezed", SQUEEZED, "D", "their schedule squeezed into the cap"),
            ("fast", FAST, "o-", "fast fit, by epochs"),
        ):
            if rows := methods.get(method):
                times, left = ([row[key] for row in rows] for key in ("seconds", "residual"))
                axes.plot(times, left, style, color=colour, label=name, markersize=4.5)
        if not whole(result, methods):
            axes.axvline(
                full_recipe(result, methods), color=AUTHORS, linestyle="--", linewidth=1,
                label="end of their full recipe, extrapolated",
            )  # fmt: skip
        axes.set(xscale="log", title=features, ylim=(0, 1.05))
        axes.grid(alpha=0.3)
        named |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("time of the fit (s)")
    for axes in grid[:, 0]:
        axes.set_ylabel("left of held-out images\n(share of Var(x*))")
    figure.legend(named.values(), named, loc="outside lower center", ncols=2, fontsize=9)
    return figure


def costs(result: Result) -> Figure:
    """Draw seconds against images, channels, kernel size and order, on synthetic features."""
    quantities = list(dict.fromkeys(row["quantity"] for row in result.rows))
    figure, grid = plt.subplots(
        1, len(quantities), figsize=(2.4 * len(quantities), 3.2), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axes, quantity in zip(grid[0], quantities, strict=True):
        for method, colour, style, name in (
            ("fast", FAST, "o-", "whole fast fit"),
            (PATCHES, AUTHORS, "s--", "one normal matrix over patches"),
            (FOURIER, "#009E73", "^:", "the same, as the fast solver sums it"),
        ):
            chosen = [r for r in result.rows if r["quantity"] == quantity and r["method"] == method]
            # Order 0 has no place on a log axis: orders are shown as the layers that they take.
            at = [row[quantity] + (quantity == "order") for row in chosen]
            axes.plot(at, [row["seconds"] for row in chosen], style, color=colour, label=name)
        ticks = sorted(set(at))
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel(
            {
                "order": "layers (order + 1)",
                "kernel_size": "kernel size (positions)",
            }.get(quantity, f"number of {quantity}")
        )
        axes.grid(alpha=0.3)
    grid[0][0].set_ylabel("time (s)")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def page(benches: dict[str, dict[str, Result]], results: dict[str, dict[str, Result]]) -> str:
    """Return the computed part of the page; without measurements, how to make them."""
    parts = []
    if any(True for _ in comparisons(benches)):
        parts += [
            _figure(
                "curves",
                _CURVES,
                "Share left of held-out images against the time of the fit. The dotted line is "
                "what a linear map leaves.",
            ),
            outcome(benches),
            ratios(benches),
            "## What each way leaves\n",
            residuals(benches),
            saved(benches, results),
        ]
    for found in _scalings(benches):
        held = found.provenance.parameters
        size = f"{held['channels']} channels on {held['side']} x {held['side']} positions"
        caption = (
            "What a fit of two epochs and its normal matrices cost on synthetic features: one "
            f"quantity changes, the others stay. In the first panel there are {size}."
        )
        parts.append(_figure("costs", _COSTS, caption))
    if not parts:
        return NOTHING
    return "\n".join([*parts, "## In seconds\n", seconds(benches)])


def _figure(name: str, description: str, caption: str) -> str:
    return f"""```{{figure}} _generated/performance_{name}.png
:alt: {description}

{caption}
```
"""


def _scalings(benches: dict[str, dict[str, Result]]) -> list[Result]:
    """Return the first result of synthetic features, if any: they are the same in all profiles."""
    return [found[SCALING] for found in benches.values() if SCALING in found][:1]


def write(
    folder: Path,
    benches: dict[str, dict[str, Result]],
    results: dict[str, dict[str, Result]],
) -> None:
    """Write the computed part of the page and its figures into a folder.

    Parameters
    ----------
    folder : Path
    benches : dict
        The results of ``make bench``, by profile and name.
    results : dict
        Those of the notebooks, by profile and artefact.
    """
    replace_file(folder / "performance.md", page(benches, results).encode())
    replace_file(folder / "performance_layers.md", layers(benches).encode())
    replace_file(folder / "performance_growth.md", growth(benches).encode())
    with plt.rc_context():
        plots.style()
        drawn = [("costs", costs(result)) for result in _scalings(benches)]
        drawn += [(GROWTH, growing(result)) for result in _growths(benches)]
        if any(True for _ in comparisons(benches)):
            drawn.append(("curves", curves(benches)))
        for name, figure in drawn:
            figure.savefig(folder / f"performance_{name}.png", dpi=150)
            plt.close(figure)
