"""Drawings for the definitions of the method chapter, made by code, as SVG.

Orders have one colour each in all of them, and a line's pattern tells them apart without colour.
"""

import xml.etree.ElementTree as ElementTree
from html import escape
from pathlib import Path

from kclib.atomic import replace_file
from kclib.normal_equations import RIDGES, NormalEquations
from kclib.planted import planted

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


def box(
    x: float,
    y: float,
    text: str,
    width: float = 66,
    fill: str = "#EEF3F8",
    colour: str = "#222222",
) -> str:
    """Return a box around a middle, with text in it, lines parted by a vertical bar."""
    lines = text.split("|")
    height = 22 + 16 * len(lines)
    said = "".join(
        f"<text x='{x}' y='{y + 5 + 17 * (k - (len(lines) - 1) / 2)}'>{escape(line)}</text>"
        for k, line in enumerate(lines)
    )
    return (
        f"<rect x='{x - width / 2}' y='{y - height / 2}' width='{width}' height='{height}' rx='6' "
        f"fill='{fill}' stroke='{colour}'/>{said}"
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
        drawn.append(box(x, 50, said, 118, "white", colour))
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
        drawn.append(box(75, y, f"x⁽{'⁰¹²'[k]}⁾", 70, "white", colour))
        drawn.append(arrow((112, y), (190, 120 + 12 * (k - 1)), colour=colour))
    drawn.append(box(235, 120, "one W₀|for all", 84))
    for k, colour in enumerate(colours):
        x = 430 + 130 * k
        drawn.append(box(x, 90, f"r{'₀₁₂'[k]}", 50))
        drawn.append(box(x, 165, f"x⁽{'⁰¹²'[k]}⁾", 70, "white", colour))
        drawn.append(arrow((x, 110), (x, 144), colour=colour))
        drawn.append(arrow((x + 28, 90), (x + 100, 90), colour=REST))
        drawn.append(text(x + 64, 80, "− part"))
    drawn.append(box(820, 90, "x^Δ", 50))
    said = (
        "In a joint fit all orders end in one output layer, so that they can take from each other. "
        "Lowest first, each order is fitted to what the lower ones left."
    )
    return canvas(870, 200, said, drawn)


def chains() -> str:
    """Return the chains of a fit lowest first, K = 2, each with layers of its own."""
    drawn = [text(60, 25, "input"), text(642, 25, "order"), text(790, 25, "left so far")]
    rows = [[], ["W₁,₁", "ReLU"], ["W₂,₁", "ReLU", "W₂,₂", "ReLU"]]
    drawn.append(box(790, 60, "x*", 70))
    for k, inner in enumerate(rows):
        (colour, dash), y = ORDERS[k], 95 + 85 * k
        drawn.append(box(60, y, "x̂", 50))
        x = 60
        for name in [*inner, f"V{'₀₁₂'[k]}"]:
            end = 545 if name.startswith("V") else x + 92
            drawn.append(
                arrow((x + 34 - 9 * (x == 60), y), (end - 35, y), colour=colour, dash=dash)
            )
            drawn.append(box(end, y, name, 60))
            x = end
        if inner:  # the output layer sees the input as well
            drawn.append(
                arrow((60, y + 19), (60, y + 38), (545, y + 38), (545, y + 22), colour=REST)
            )
        drawn.append(arrow((575, y), (609, y), colour=colour, dash=dash))
        drawn.append(box(642, y, f"x⁽{'⁰¹²'[k]}⁾", 60, "white", colour))
        drawn.append(arrow((673, y), (751, y + 24), colour=colour, dash=dash))
        drawn.append(text(710, y + 2, "−", colour))
        above = 60 if k == 0 else 120 + 85 * (k - 1)
        drawn.append(arrow((790, above + 20), (790, y + 6), colour=REST))
        drawn.append(box(790, y + 25, ("r₁", "r₂", "r₃ = x^Δ")[k], 76))
    said = (
        "Lowest first for K = 2. Each order is a chain with layers of its own: order 0 a linear "
        "map, order 1 one rectifier, order 2 two; each is taken from what the lower orders left."
    )
    return canvas(845, 320, said, drawn)


def reconstruction() -> str:
    """Return how one network's feature reconstructs another's."""
    drawn = [box(65, 110, "the same|images", 100)]
    for y, name, feature in ((55, "A", "x"), (165, "B", "x*")):
        drawn.append(arrow((116, 110 + (y - 110) / 3), (158, y)))
        drawn.append(box(225, y, f"network {name},|up to a layer", 130))
        drawn.append(arrow((291, y), (333, y)))
        drawn.append(box(370, y, feature, 66))
    colour = ORDERS[0][0]
    drawn.append(arrow((404, 55), (446, 55), colour=colour))
    drawn.append(box(480, 55, "g", 60, "white", colour))
    drawn.append(arrow((511, 55), (553, 55), colour=colour))
    drawn.append(box(590, 55, "g(x)", 66, "white", colour))
    drawn.append(arrow((404, 165), (725, 165), (725, 133)))
    drawn.append(arrow((624, 55), (725, 55), (725, 87), colour=colour))
    drawn.append(text(700, 48, "−", colour))
    drawn.append(box(725, 110, "x^Δ, what is left", 136))
    said = (
        "Networks A and B see the same images. At one layer A has the feature x, B the feature x*. "
        "The disentangler g reconstructs x* from x; x* less g(x) is what is left."
    )
    return canvas(810, 215, said, drawn)


def refinement() -> str:
    """Return a refined network as blocks, beside its control."""
    blue, orange = ORDERS[0][0], ORDERS[1][0]
    drawn = []
    for x, title, colour, blocks in (
        (200, "refined", blue, ["A below the tap", "g, fitted, then kept", "B above the tap"]),
        (560, "the control", orange, ["B below the tap", "", "B above the tap"]),
    ):
        drawn.append(text(x, 24, title, colour))
        heights = [270, 190, 110]
        for y, name in zip(heights, blocks, strict=True):
            if name:
                fill = "#FFF3D6" if y == 110 else "#EEF3F8"
                drawn.append(box(x, y, name, 180, fill))
        drawn.append(box(x, 335, "image", 90, "white"))
        drawn.append(box(x, 48, "answer", 90, "white"))
        drawn.append(arrow((x, 316), (x, 291), colour=colour))
        if blocks[1]:
            drawn.append(arrow((x, 250), (x, 211), colour=colour))
            drawn.append(arrow((x, 170), (x, 131), colour=colour))
            drawn.append(text(x + 12, 236, "x", colour, "start"))
            drawn.append(text(x + 12, 156, "x⁽⁰⁾ + x⁽¹⁾ + ...", colour, "start"))
        else:
            drawn.append(arrow((x, 250), (x, 131), colour=colour, dash=ORDERS[1][1]))
            drawn.append(text(x + 12, 196, "x*, B's own", colour, "start"))
        drawn.append(arrow((x, 90), (x, 69), colour=colour))
    drawn.append(text(380, 103, "trained further,"))
    drawn.append(text(380, 121, "in both alike"))
    said = (
        "Two networks as blocks, from the image upwards. Refined: A below the tap, then g, then B "
        "above the tap. The control: B below the tap, then B above it. The layers of B above the "
        "tap are trained further, in both alike."
    )
    return canvas(760, 362, said, drawn)


#: A fit that is too small for its images: their number, channels and positions; half is noise.
FEW, CHANNELS, SIDE = 8, 16, 6


def errors_by_ridge() -> tuple[tuple[float, ...], list[float], list[float]]:
    """Return ridges, and the share that each leaves of the images of a fit and of others."""
    made = planted(2 * FEW, CHANNELS, SIDE, rank=4, shares=(0.5,), seed=0)
    fitted, validation = (NormalEquations(kernel_size=3) for _ in range(2))
    halves = (slice(FEW), slice(FEW, None))
    for equations, half in zip((fitted, validation), halves, strict=True):
        equations.add(made.x[half], made.target[half])
    solved = [fitted.solve(ridge=ridge) for ridge in RIDGES]
    sizes = [float(made.target[half].square().sum()) for half in halves]
    left = [
        [equations.left(*one) / size for one in solved]
        for equations, size in zip((fitted, validation), sizes, strict=True)
    ]
    return RIDGES, *left


def ridge() -> str:
    """Return the share left against the ridge, on the images of a fit and on validation images."""
    ridges, on_fit, on_others = errors_by_ridge()
    left, top, width, height = 70, 20, 440, 220
    high = max(on_others) * 1.08

    def place(k: float, share: float) -> tuple[float, float]:
        return left + width * k / (len(ridges) - 1), top + height * (1 - share / high)

    drawn = [
        f"<path d='M{left} {top}V{top + height}H{left + width}' fill='none' stroke='#222222'/>"
    ]
    for share in (0, 0.5, 1):
        y = place(0, share)[1]
        drawn.append(f"<path d='M{left - 5} {y:.1f}h5' stroke='#222222'/>")
        drawn.append(text(left - 9, y + 5, f"{share:g}", anchor="end"))
    for k, one in enumerate(ridges):
        x = place(k, 0)[0]
        drawn.append(f"<path d='M{x:.1f} {top + height}v5' stroke='#222222'/>")
        if k % 2 == 0:
            drawn.append(text(round(x, 1), top + height + 22, f"{one:g}".replace("1e-06", "10⁻⁶")))
    drawn.append(
        text(left + width / 2, top + height + 46, "ridge, share of an input's mean square")
    )
    drawn.append(
        f"<text transform='translate(22 {top + height / 2}) rotate(-90)' "
        "fill='#222222'>share left</text>"
    )
    best = on_others.index(min(on_others))
    for (colour, dash), shares, name in (
        (ORDERS[0], on_fit, "images of the fit"),
        (ORDERS[1], on_others, "validation images"),
    ):
        points = [place(k, share) for k, share in enumerate(shares)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        drawn.append(
            f"<path d='{path}' fill='none' stroke='{colour}' stroke-width='2.5' "
            f"stroke-dasharray='{dash}'/>"
        )
        drawn += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>" for x, y in points]
        x, y = points[-1]
        drawn.append(text(x + 12, y + (18 if shares is on_fit else -4), name, colour, "start"))
    x, y = place(best, on_others[best])
    drawn.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='8' fill='none' stroke='#222222'/>")
    drawn.append(text(round(x, 1), y - 14, "taken"))
    said = (
        "Share left against the ridge, for few images whose target is half noise. On the images of "
        "the fit it grows with the ridge. On validation images it first falls, then grows; the "
        "ridge at its lowest point is taken."
    )
    return canvas(660, 300, said, drawn)


#: All drawings, by the name of their file.
DRAWINGS = {
    drawing.__name__: drawing
    for drawing in (
        network,
        split,
        directions,
        fits,
        chains,
        reconstruction,
        refinement,
        ridge,
    )
}


def alternative(name: str) -> str:
    """Return what a drawing says to who does not see it."""
    return ElementTree.fromstring(DRAWINGS[name]()).get("aria-label")


def write(folder: Path) -> None:
    """Write all drawings into a folder."""
    for name, drawing in DRAWINGS.items():
        replace_file(folder / f"{name}.svg", drawing().encode())
