"""Drawings for the definitions of the method chapter, made by code, as SVG.

Orders have one colour each in all of them, and a line's pattern tells them apart without colour.
"""

from html import escape
from pathlib import Path

from kclib.atomic import replace_file

#: Orders 0, 1, 2 and what is left: colours that colour-blind readers can tell apart, and dashes.
ORDERS = [("#0072B2", "none"), ("#B86E00", "9 3"), ("#8E3B7A", "3 3")]
REST = "#555555"
FONT = "font-family='system-ui, sans-serif' font-size='15'"


def canvas(width: int, height: int, alternative: str, drawn: list[str]) -> str:
    """Return a drawing on a white ground, with its text alternative."""
    heads = "".join(
        f"<marker id='head-{colour[1:]}' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' "
        f"markerHeight='7' orient='auto'><path d='M0 0L8 4L0 8z' fill='{colour}'/></marker>"
        for colour in ["#222222", REST, *(colour for colour, _ in ORDERS)]
    )
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' "
        f"height='{height}' {FONT} text-anchor='middle' role='img' "
        f"aria-label='{escape(alternative, quote=True)}'><defs>{heads}</defs>"
        f"<rect width='{width}' height='{height}' fill='white'/>{''.join(drawn)}</svg>\n"
    )


def box(x: float, y: float, text: str, width: float = 66, fill: str = "#EEF3F8") -> str:
    """Return a box around a middle, with text in it, lines parted by a vertical bar."""
    lines = text.split("|")
    height = 22 + 16 * len(lines)
    said = "".join(
        f"<text x='{x}' y='{y + 5 + 17 * (k - (len(lines) - 1) / 2)}'>{escape(line)}</text>"
        for k, line in enumerate(lines)
    )
    return (
        f"<rect x='{x - width / 2}' y='{y - height / 2}' width='{width}' height='{height}' rx='6' "
        f"fill='{fill}' stroke='#222222'/>{said}"
    )


def arrow(*points: tuple[float, float], colour: str = "#222222", dash: str = "none") -> str:
    """Return a line through points with a head at its end."""
    path = "M" + "L".join(f"{x} {y}" for x, y in points)
    return (
        f"<path d='{path}' fill='none' stroke='{colour}' stroke-width='2.5' "
        f"stroke-dasharray='{dash}' marker-end='url(#head-{colour[1:]})'/>"
    )


def text(x: float, y: float, said: str, colour: str = "#222222", anchor: str = "middle") -> str:
    """Return a line of text."""
    return f"<text x='{x}' y='{y}' fill='{colour}' text-anchor='{anchor}'>{escape(said)}</text>"


def network() -> str:
    """Return the disentangler for K = 2, its paths coloured by order."""
    drawn, middle = [], 150
    places = {"x": 35, "x̂": 115, "W₂": 215, "ReLU|× p₂": 315, "+₁": 400, "W₁": 475}
    places |= {"ReLU|× p₁": 575, "+₀": 660, "W₀": 735, "g(x)": 830}
    (zero, d0), (one, d1), (two, d2) = ORDERS
    drawn.append(arrow((60, middle), (81, middle)))
    # Order 0 runs above to the last sum, order 1 to the first one, order 2 through everything.
    drawn.append(arrow((115, 128), (115, 40), (660, 40), (660, 138), colour=zero, dash=d0))
    drawn.append(arrow((122, 128), (122, 85), (400, 85), (400, 138), colour=one, dash=d1))
    for start, end in ((148, 182), (248, 279), (351, 388)):
        drawn.append(arrow((start, middle), (end, middle), colour=two, dash=d2))
    rows = [(0, zero, d0), (1, one, d1), (2, two, d2)]
    for start, end in ((412, 442), (508, 539), (611, 648)):
        for k, colour, dash in rows[1:]:
            y = middle + 8 * (k - 1.5)
            drawn.append(arrow((start, y), (end, y), colour=colour, dash=dash))
    for start, end in ((672, 702), (768, 797)):
        for k, colour, dash in rows:
            y = middle + 10 * (k - 1)
            drawn.append(arrow((start, y), (end, y), colour=colour, dash=dash))
    for name, x in places.items():
        if name.startswith("+"):
            drawn.append(f"<circle cx='{x}' cy='{middle}' r='12' fill='white' stroke='#222222'/>")
            drawn.append(text(x, middle + 6, "+"))
        else:
            drawn.append(box(x, middle, name, 50 if name == "x" else 66))
    for k, (colour, dash) in enumerate(ORDERS):
        x = 150 + 240 * k
        drawn.append(arrow((x, 225), (x + 50, 225), colour=colour, dash=dash))
        words = ("no rectifier", "one rectifier", "two rectifiers")[k]
        drawn.append(text(x + 60, 230, f"order {k}: {words}", colour, "start"))
    said = (
        "The disentangler for K = 2. Three paths lead from the normalised input to the output. "
        "Order 0 goes straight to the last convolution, order 1 through one rectifier, order 2 "
        "through two."
    )
    return canvas(870, 250, said, drawn)


def split() -> str:
    """Return the split as a sum of parts."""
    drawn, x = [box(70, 50, "x*|B's feature", 120)], 70
    parts = [("x⁽⁰⁾|linear", ORDERS[0][0]), ("x⁽¹⁾|one ReLU", ORDERS[1][0])]
    parts += [("x⁽²⁾|two ReLU", ORDERS[2][0]), ("x^Δ|what is left", REST)]
    for k, (said, colour) in enumerate(parts):
        drawn.append(text(x + 80, 56, "=" if k == 0 else "+"))
        x += 160
        drawn.append(box(x, 50, said, 118, "white").replace("#222222", colour))
    drawn.append(
        f"<path d='M171 90v8H609v-8' fill='none' stroke='#222222'/>{text(390, 116, 'g(x)')}"
    )
    said = "B's feature is the sum of a linear part, parts with one and with two rectifiers, which "
    return canvas(770, 130, f"{said}together are g(x), and what is left.", drawn)


def directions() -> str:
    """Return the two directions as two arrows."""
    drawn = [
        box(110, 90, "weak network|feature x", 150),
        box(590, 90, "strong network|feature x*", 170),
    ]
    drawn.append(arrow((190, 70), (500, 70), colour=ORDERS[0][0]))
    drawn.append(arrow((505, 110), (190, 110), colour=ORDERS[1][0], dash=ORDERS[1][1]))
    drawn.append(text(347, 40, "what the weak one cannot reconstruct:"))
    drawn.append(text(347, 60, "its blind spots", ORDERS[0][0]))
    drawn.append(text(347, 135, "what the strong one cannot reconstruct:"))
    drawn.append(text(347, 155, "unreliable features of the weak one", ORDERS[1][0]))
    said = (
        "Two arrows. From the weak network to the strong one, what cannot be reconstructed are "
        "blind spots of the weak one. From the strong one to the weak one, its unreliable features."
    )
    return canvas(700, 170, said, drawn)


def fits() -> str:
    """Return a joint fit beside one that goes from the lowest order upwards."""
    drawn = [text(150, 25, "joint"), text(560, 25, "lowest first")]
    colours = [colour for colour, _ in ORDERS]
    for k, colour in enumerate(colours):
        y = 65 + 55 * k
        drawn.append(box(75, y, f"x⁽{'⁰¹²'[k]}⁾", 70, "white").replace("#222222", colour))
        drawn.append(arrow((112, y), (190, 120 + 12 * (k - 1)), colour=colour))
    drawn.append(box(235, 120, "one W₀|for all", 84))
    for k, colour in enumerate(colours):
        x = 430 + 130 * k
        drawn.append(box(x, 90, f"r{'₀₁₂'[k]}", 50))
        drawn.append(box(x, 165, f"x⁽{'⁰¹²'[k]}⁾", 70, "white").replace("#222222", colour))
        drawn.append(arrow((x, 110), (x, 144), colour=colour))
        drawn.append(arrow((x + 28, 90), (x + 100, 90), colour=REST))
        drawn.append(text(x + 64, 80, "− part"))
    drawn.append(box(820, 90, "x^Δ", 50))
    said = (
        "In a joint fit all orders end in one output layer, so that they can take from each other. "
        "Lowest first, each order is fitted to what the lower ones left."
    )
    return canvas(870, 200, said, drawn)


def write(folder: Path) -> None:
    """Write all drawings into a folder."""
    for drawing in (network, split, directions, fits):
        replace_file(folder / f"{drawing.__name__}.svg", drawing().encode())
