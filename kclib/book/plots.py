"""How the book draws: one style, maps of features, and shares with intervals."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..disentangler import Disentangler
from .pictures import Pictures
from .records import REGIMES
from .tables import written

#: Colours that colour-blind readers can tell apart (Okabe and Ito): paper, recorded, this run.
PAPER, RECORDED, RUN = "#000000", "#E69F00", "#0072B2"
#: One colour an order, then one for x^Δ.
ORDERS = ("#0072B2", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00")
RESIDUAL = "#999999"


def style() -> None:
    """Set the book's style: light opaque background (also in dark mode), sober axes."""
    plt.rcParams.update(
        {
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 100,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
        }
    )


def shares(
    labels: list[str],
    series: dict[str, tuple[list[float | None], list[tuple[float, float]] | None, str]],
    *,
    xlabel: str,
    signed: bool = False,
) -> Figure:
    """Draw numbers with intervals, one row a label and one mark a series.

    Parameters
    ----------
    labels : list of str
        Rows, from the top.
    series : dict
        From name to values (None or NaN: no mark), intervals or None, and colour.
    xlabel : str
        What the numbers are, with their unit.
    signed : bool
        They may be negative: the axis reaches as far as they do, with a line at 0.
    """
    height = 0.12 * (len(series) + 1) * len(labels) + 1.2
    figure, axes = plt.subplots(figsize=(7.5, height), layout="constrained")
    marks = ("D", "s", "o", "^", "v")
    for number, (name, (values, intervals, colour)) in enumerate(series.items()):
        shift = 0.8 / (len(series) + 1) * (number - (len(series) - 1) / 2)
        rows = [k for k, value in enumerate(values) if not pd.isna(value)]
        axes.plot(
            [values[k] for k in rows],
            [k + shift for k in rows],
            marks[number % len(marks)],
            color=colour,
            label=name,
            markersize=5,
        )
        for k in rows if intervals else ():
            axes.plot(intervals[k], [k + shift] * 2, "-", color=colour, linewidth=2)
    axes.set_yticks(range(len(labels)), list(map(written, labels)))
    axes.invert_yaxis()
    if signed:
        axes.axvline(0, color="black", linewidth=0.8)
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def maps(images: torch.Tensor, columns: dict[str, torch.Tensor], title: str = "") -> Figure:
    """Draw images beside signed feature maps, one row an image, one scale a row.

    Parameters
    ----------
    images : torch.Tensor
        uint8, shape (n, 3, S, S). Rows after the n-th say that their image was not recorded.
    columns : dict
        From name to maps of shape (N, H, W); a name goes on below its first comma.
    title : str
        Of the figure.
    """
    count, wide = len(next(iter(columns.values()))), 1 + len(columns)
    figure, grid = plt.subplots(
        count, wide, figsize=(1.5 * wide + 0.9, 1.5 * count + 0.5), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for row, axes in enumerate(grid):
        limit = max(float(part[row].abs().max()) for part in columns.values()) or 1.0
        if row < len(images):
            axes[0].imshow(images[row].permute(1, 2, 0))  # (S, S, 3)
        else:
            axes[0].text(0.5, 0.5, "not\nrecorded", ha="center", va="center", color=RESIDUAL)
        for place, part in zip(axes[1:], columns.values(), strict=True):
            drawn = place.imshow(part[row], cmap="RdBu_r", vmin=-limit, vmax=limit)
        figure.colorbar(drawn, ax=axes[-1], shrink=0.8, label="activation")
    _without_axes(grid, ["image", *(name.replace(", ", "\n", 1) for name in columns)])
    figure.suptitle(title, fontsize="medium")
    return figure


def recorded(found: Pictures, group: str, most: int | None = None) -> Figure:
    """Draw recorded maps as `maps` does, under a title that says whose they are.

    Parameters
    ----------
    found : kclib.book.pictures.Pictures
        Without maps of the group, the figure says that there are none.
    group : str
    most : int, optional
        Rows, by default as many as are recorded.

    Examples
    --------
    >>> figure = recorded(Pictures("", torch.empty(0), {}), "blind spots")
    >>> figure.texts[0].get_text()
    'Nothing is recorded on photographs for these parameters.'
    >>> plt.close()
    """
    columns = {name: part[:most] for name, part in found.of(group).items()}
    if columns:
        return maps(found.images, columns, found.origin)
    figure = plt.figure(figsize=(7.5, 0.6))
    words = "Nothing is recorded on photographs for these parameters."
    figure.text(0.5, 0.5, words, ha="center", va="center")
    return figure


def _without_axes(grid, titles: list[str]) -> None:
    """Title the columns of a grid of images, which have no axes."""
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(written(title))
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)


def strengths(
    images: torch.Tensor, columns: dict[str, torch.Tensor], regions: dict[str, torch.Tensor]
) -> Figure:
    """Draw images beside maps of strength, 0 or more, one row an image, one scale a row.

    Parameters
    ----------
    images : torch.Tensor
        uint8, shape (N, 3, S, S).
    columns : dict
        From title to maps of shape (N, H, W).
    regions : dict
        From name to bool maps (N, H, W): their outlines are drawn into everything, in one colour
        each, at most three of them.
    """
    count, wide = len(images), 1 + len(columns)
    figure, grid = plt.subplots(
        count, wide, figsize=(1.5 * wide + 0.9, 1.5 * count + 0.9), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    whole = (0, 1, 1, 0)  # every image and map fills a square with sides of 1
    colours = (RECORDED, ORDERS[1], ORDERS[4])
    for row, axes in enumerate(grid):
        limit = max(float(part[row].max()) for part in columns.values()) or 1.0
        axes[0].imshow(images[row].permute(1, 2, 0), extent=whole)  # (S, S, 3)
        for place, part in zip(axes[1:], columns.values(), strict=True):
            drawn = place.imshow(part[row], cmap="gray", vmin=0, vmax=limit, extent=whole)
        figure.colorbar(drawn, ax=axes[-1], shrink=0.8, label="mean square")
        for (_, region), colour in zip(regions.items(), colours, strict=False):
            height, width = region.shape[1:]
            x, y = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
            for place in axes if region[row].any() and not region[row].all() else ():
                place.contour(x, y, region[row].float(), [0.5], colors=colour, linewidths=1.5)
    _without_axes(grid, ["image", *columns])
    lines = [plt.Line2D([], [], color=colour) for colour in colours[: len(regions)]]
    figure.legend(lines, list(regions), loc="outside lower center", ncols=len(regions))
    return figure


def diagram(disentangler: Disentangler) -> Figure:
    """Draw a disentangler as it is: its layers, their sizes, and its p_k (the paper's Fig. 2)."""
    top = disentangler.order
    figure, axes = plt.subplots(figsize=(0.75 * (3.1 * top + 5.4), 2.2), layout="constrained")
    axes.set(xlim=(-0.4, 3.1 * (top + 1) + 2.3), ylim=(-1.1, 1.1))
    axes.axis("off")

    def box(x, y, text, colour):
        style = {"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": "black"}
        axes.text(x, y, text, ha="center", va="center", bbox=style, fontsize=9)

    def arrow(start, end, **style):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", **style})

    box(0.2, 0, "x", "#FFFFFF")
    x = 0.2
    for k in range(top, -1, -1):
        linear = disentangler.linears[k]
        size = (
            f"{linear.in_channels}→{linear.out_channels}\n{'×'.join(map(str, linear.kernel_size))}"
        )
        arrow((x + 0.25, 0), (x + 0.85, 0))
        x += 1.3
        box(x, 0, f"$W_{k}$\n{size}", "#CDE5F5")
        if k:
            arrow((x + 0.45, 0), (x + 0.75, 0))
            box(
                x + 1.15,
                0,
                f"$N_{k}$, ReLU\n× $p_{k}$ = {float(disentangler.p[k - 1].detach()):.2f}",
                "#FBE3B5",
            )
            arrow((x + 1.6, 0), (x + 1.7, 0))
            x += 1.85
            axes.text(x, 0, "+", ha="center", va="center", fontsize=14)
            axes.plot([0.2, 0.2, x], [0.3, 0.85, 0.85], color="black", linewidth=1)
            arrow((x, 0.85), (x, 0.18))
    arrow((x + 0.45, 0), (x + 1.0, 0))
    box(x + 1.3, 0, "g(x)", "#FFFFFF")
    names = " + ".join(f"$x^{{({k})}}$" for k in range(top + 1))
    axes.text(x + 1.3, -0.75, f"= {names}", ha="center", va="center", fontsize=9)
    return figure


def curves(
    axes: Axes,
    series: dict[str, tuple[pd.DataFrame, str, str]],
    x: str,
    y: str,
    *,
    across: tuple[str, str] = ("", ""),
    along: tuple[str, str] = ("", ""),
) -> None:
    """Draw lines of marks, with bars where a table has the ends of intervals.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    series : dict
        From label to table, colour and mark; of an empty table nothing is drawn.
    x, y : str
        Columns of the numbers.
    across, along : tuple of str
        Columns of the ends of the intervals of x and of y.

    Examples
    --------
    >>> table = pd.DataFrame({"kept": [0.5, 0.9], "right": [0.7, 0.8], "low": 0.6, "high": 0.9})
    >>> axes = plt.figure().add_subplot()
    >>> curves(axes, {"run": (table, RUN, "o")}, "kept", "right", along=("low", "high"))
    >>> len(axes.lines), len(axes.collections)  # the marks, and their bars
    (1, 1)
    >>> plt.close()
    """
    for label, (table, colour, mark) in series.items():
        if table.empty:
            continue
        axes.plot(table[x], table[y], mark + "-", color=colour, label=label, markersize=5)
        if set(across) <= set(table):
            axes.hlines(table[y], *(table[end] for end in across), color=colour)
        if set(along) <= set(table):
            axes.vlines(table[x], *(table[end] for end in along), color=colour)
    axes.grid(alpha=0.3)


def panels(
    titles: Sequence[str], *, columns: int = 3, size: tuple[float, float] = (2.8, 2.6)
) -> tuple[Figure, list[Axes]]:
    """Return a figure of small panels, row by row, with room for a legend beside them.

    Parameters
    ----------
    titles : sequence of str
        One a panel.
    columns : int
        Panels side by side at most.
    size : (float, float)
        Width and height of a panel in inches.

    Examples
    --------
    >>> figure, axes = panels(["vgg16", "resnet18", "resnet34", "resnet50"])
    >>> len(axes), axes[-1].get_title()
    (4, 'resnet50')
    >>> plt.close(figure)
    """
    wide = min(columns, len(titles))
    deep = -(-len(titles) // wide)
    figure = plt.figure(figsize=(size[0] * wide + 1.4, size[1] * deep), layout="constrained")
    found = [figure.add_subplot(deep, wide, place) for place in range(1, len(titles) + 1)]
    for axes, title in zip(found, titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    return figure, found


def legend_beside(figure: Figure) -> None:
    """Explain the marks of a figure's panels to the right of them, each label once.

    Examples
    --------
    >>> figure, (axes,) = panels(["vgg16"])
    >>> line = axes.plot([0, 1], label="control")
    >>> legend_beside(figure)
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['control']
    >>> plt.close(figure)
    """
    marks = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        marks |= dict(zip(labels, handles, strict=True))
    figure.legend(marks.values(), marks.keys(), loc="outside right upper")


def marked(tables: Mapping[str, pd.DataFrame]) -> dict[str, tuple[pd.DataFrame, str, str]]:
    """Give recorded tables, and at most two of this run, the colours and marks of their kinds.

    Parameters
    ----------
    tables : mapping
        From label to table; recorded runs have the names of `kclib.book.records.REGIMES`.

    Returns
    -------
    dict
        From label to table, colour and mark, for `curves`.

    Examples
    --------
    >>> found = marked(dict.fromkeys(["recorded, strong", "joint, this run"], pd.DataFrame()))
    >>> {label: mark for label, (_, _, mark) in found.items()}
    {'recorded, strong': 'D', 'joint, this run': 'o'}
    """
    known = dict(zip(REGIMES, ((RECORDED, "s"), (ORDERS[4], "D")), strict=True))
    own = iter(((RUN, "o"), (ORDERS[2], "^")))
    return {
        label: (table, *(known[label] if label in known else next(own)))
        for label, table in tables.items()
    }
