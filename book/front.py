"""The front of the book and of the repository: ``python book/front.py`` renews what is committed.

The picture that explains the idea (``book/idea.svg``) and the findings and times of the README are
files of the repository, so that they can be seen there; a test says whether they are up to date.
"""

import re
from html import escape
from pathlib import Path

import explorer
import findings
import numpy as np
import pages

from kclib.atomic import replace_file
from kclib.book import environment, graph, profiles
from kclib.book.records import Result

ROOT = Path(__file__).parent.parent
PICTURE, README = ROOT / "book" / "idea.svg", ROOT / "README.md"
#: Where the README has what is written here.
MARKS = {
    "findings": ("<!-- findings: written by book/front.py -->", "<!-- end of the findings -->"),
    "times": ("<!-- times: written by book/front.py -->", "<!-- end of the times -->"),
}
#: ColorBrewer's RdBu, its ends and its middle, as in the book's figures.
BLUE, WHITE, RED = (np.array(c, float) for c in ((33, 102, 172), (247, 247, 247), (178, 24, 43)))
FONT = "font-family='system-ui, sans-serif'"


def coloured(plane: np.ndarray, limit: float) -> np.ndarray:
    """Return a map (H, W) as a picture, uint8 (H, W, 3): negative blue, positive red."""
    share = np.clip(plane / limit, -1, 1)[..., None]
    mixed = np.where(share < 0, WHITE + (WHITE - BLUE) * share, WHITE + (RED - WHITE) * share)
    return mixed.round().astype(np.uint8)


def shown(panel: explorer.Panel) -> tuple[int, int]:
    """Return the image and filter of a panel whose map varies most."""
    spread = panel.target.var((2, 3))
    return tuple(int(k) for k in np.unravel_index(spread.argmax(), spread.shape))


def idea(panel: explorer.Panel) -> str:
    """Return the picture that explains the idea: an image, what B sees, what A gives, what is left.

    Parameters
    ----------
    panel : explorer.Panel

    Returns
    -------
    str
        SVG.
    """
    way = next(iter(panel.parts))
    image, one = shown(panel)
    target, parts = panel.target[image, one], panel.parts[way][:, image, one]
    limit = max(np.abs(target).max(), np.abs(parts).max(), np.abs(target - parts.sum(0)).max())
    tiles = []
    if (picture := panel.pictures[image]) is not None:
        tiles.append(("", "an image", f"({panel.source})", explorer.png(picture)))
    steps = ("directly", "in one step more", "in two steps more", "in three steps more")
    named = [("", "what network B", "makes of it", target)]
    for k, part in enumerate(parts):
        named.append(("=" if k == 0 else "+", "what A gives of it", steps[min(k, 3)], part))
    named.append(("+", "what", "is left", target - parts.sum(0)))
    tiles += [(s, a, b, explorer.png(coloured(m, limit))) for s, a, b, m in named]
    side, gap = 128, 38
    width, height = len(tiles) * (side + gap) - gap + 20, side + 62
    drawn = []
    for k, (sign, first, second, address) in enumerate(tiles):
        x = 10 + k * (side + gap)
        middle = x + side / 2
        drawn.append(
            f"<image x='{x}' y='10' width='{side}' height='{side}' href='{address}' "
            "style='image-rendering: pixelated'/>"
            f"<rect x='{x}' y='10' width='{side}' height='{side}' fill='none' stroke='#888'/>"
        )
        if sign:
            drawn.append(
                f"<text x='{x - gap / 2}' y='{18 + side / 2}' font-size='26'>{sign}</text>"
            )
        for line, text in enumerate((first, second)):
            drawn.append(f"<text x='{middle}' y='{side + 29 + 17 * line}'>{escape(text)}</text>")
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' "
        f"width='{width}' height='{height}' {FONT} font-size='15' text-anchor='middle' "
        f"role='img' aria-label='{escape(ALTERNATIVE, quote=True)}'>"
        f"<rect width='{width}' height='{height}' fill='white'/>{''.join(drawn)}</svg>\n"
    )


ALTERNATIVE = (
    "What network B makes of an image, as a map, is a sum of maps: what network A gives of it "
    "directly, in one step more, in two steps more, and what is left."
)

#: By verdict: a mark that is told apart without colour, and its colour.
VERDICTS = {
    "holds": ("holds", "#0072B2"),
    "partly": ("holds partly", "#E69F00"),
    "fails": ("fails", "#D55E00"),
    "not testable": ("not testable", "#767676"),
}


def mark(verdict: str, x: float, y: float, size: float = 6) -> str:
    """Return the mark of a verdict: a disc, half a disc, a cross, or an empty ring."""
    colour, s = VERDICTS[verdict][1], size * 0.8
    ring = (
        f"<circle cx='{x}' cy='{y}' r='{size}' fill='none' stroke='{colour}' stroke-width='1.5'/>"
    )
    return {
        "holds": f"<circle cx='{x}' cy='{y}' r='{size}' fill='{colour}'/>",
        "partly": ring + f"<path d='M{x} {y - size}a{size} {size} 0 0 1 0 {2 * size}z' "
        f"fill='{colour}'/>",
        "fails": f"<path d='M{x - s} {y - s}L{x + s} {y + s}M{x - s} {y + s}L{x + s} {y - s}' "
        f"stroke='{colour}' stroke-width='3'/>",
        "not testable": ring.replace("r='6'", "r='4'"),
    }[verdict]


def chart(results: dict[str, dict[str, Result]]) -> str:
    """Return all verdicts as a picture: a line a page, a column a profile, a mark a claim.

    Each mark links to its claim on the claims page.
    """
    profiles, named = list(results), pages.in_order()
    most = {
        p: max((len(r.claims) for a, r in results[p].items() if a in named), default=1)
        for p in profiles
    }
    label, step, line = 160, 20, 20
    starts, x = {}, label
    heads = {p: pages.CALLED.get(p, p).split(", ") for p in profiles}  # in lines
    for profile in profiles:
        starts[profile] = x
        x += max(step * most[profile], 8 * max(map(len, heads[profile]))) + 12
    drawn = [
        f"<text x='{starts[p]}' y='{14 + 16 * k}' font-weight='bold'>{escape(word)}</text>"
        for p in profiles
        for k, word in enumerate(heads[p])
    ]
    y = 14 + 16 * (max(map(len, heads.values()), default=1) - 1)
    for artefact, title in named.items():
        y += line
        paper = re.match(r"(Fig|Table|Appendi)[^:]*(?=:)", title)
        short = paper[0] if paper else artefact.replace("_", " ").capitalize()
        text = f"<text x='0' y='{y + 4}'>{escape(short)}</text>"
        drawn.append(f"<a href='../notebooks/{artefact}.html'>{text}</a>")
        for profile in profiles:
            result = results[profile].get(artefact)
            for k, outcome in enumerate(result.claims if result else ()):
                said = escape(
                    f"{pages.registry()[outcome.id].statement} "
                    f"{pages.called(profile, result)}: {outcome.verdict}",
                    quote=True,
                )
                centre = starts[profile] + 8 + step * k
                drawn.append(
                    f"<a href='claims.html#claim-{outcome.id}' aria-label='{said}'>"
                    f"<title>{said}</title>"
                    f"<rect x='{centre - 10}' y='{y - 10}' width='20' height='20' "
                    f"fill='transparent'/>{mark(outcome.verdict, centre, y)}</a>"
                )
    y += line + 8
    x_mark = 6
    for verdict, (name, _) in VERDICTS.items():
        drawn.append(
            mark(verdict, x_mark, y) + f"<text x='{x_mark + 12}' y='{y + 4}'>{name}</text>"
        )
        x_mark += 30 + 7.2 * len(name)
    width = max(x, x_mark)
    return (
        f"<svg class='verdicts' xmlns='http://www.w3.org/2000/svg' "
        f"viewBox='0 0 {width:.0f} {y + 12}' "
        f"role='group' aria-label='Verdicts of all claims, page by page' "
        f"fill='currentColor' {FONT} font-size='13'>{''.join(drawn)}</svg>"
    )


def times(results: dict[str, Result]) -> str:
    """Return what ``make book`` takes on a few cores, through its graph, from recorded times."""
    found = graph.Graph(profiles.load("quick"))
    had = [result.provenance for result in results.values()]
    cores = (2, 4, 8)
    minutes = [f"{found.simulated(count, found.chains) / 60:.0f} min" for count in cores]
    dates = " to ".join(sorted({min(one.date for one in had), max(one.date for one in had)}))
    processors = ", ".join(sorted({one.hardware["processor"] for one in had}))
    arithmetic = {one.hardware.get("bfloat16") for one in had}
    if len(arithmetic) == 1 and None not in arithmetic:
        processors += " with bfloat16" if arithmetic.pop() else " without bfloat16"
    memory = max(one.peak_memory for one in had)
    return "\n".join(
        [
            f"| | {' | '.join(f'{count} cores' for count in cores)} |",
            f"| --- |{' --- |' * len(cores)}",
            f"| `make book`, from an empty store | {' | '.join(minutes)} |",
            "",
            f"Simulated from the recorded times of its jobs ({processors}, {dates}),",
            f"each of one thread and at most {memory:.1f} GB. Installing the packages and building",
            "the pages come on top.",
            "",
        ]
    )


def readme(text: str, results: dict[str, dict[str, Result]]) -> str:
    """Return the README with the sentences and times that results have now."""
    found = findings.listed(findings.findings(results), "en", "notebooks/{}.ipynb")
    fresh = {
        "findings": f"![{ALTERNATIVE}](book/idea.svg)\n\n{found}",
        "times": times(results["quick"]),
    }
    for name, (start, end) in MARKS.items():
        before, rest = text.split(start)
        text = f"{before}{start}\n{fresh[name]}{end}{rest.split(end)[1]}"
    return text


def recorded() -> dict[str, dict[str, Result]]:
    """Return all recorded results whose numbers mean something."""
    folders = [path for path in environment.RECORDED.glob("*") if path.name != "smoke"]
    return pages.collect(folders)


def write(folder: Path, results: dict[str, dict[str, Result]]) -> None:
    """Write what the front pages include."""
    found = findings.findings(results)
    for language in findings.LANGUAGES:
        replace_file(folder / f"findings_{language}.md", findings.listed(found, language).encode())
    replace_file(folder / "verdicts.md", f"```{{raw}} html\n{chart(results)}\n```\n".encode())


def main() -> None:
    """Renew the committed picture and the README."""
    replace_file(PICTURE, idea(explorer.panels()[0]).encode())
    replace_file(README, readme(README.read_text(), recorded()).encode())


if __name__ == "__main__":
    main()
