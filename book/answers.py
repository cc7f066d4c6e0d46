"""What each artefact's page answers, as a sentence whose numbers are computed from results.

Each sentence is true whatever its numbers are; those of photographs come first. Four of them stand
on the first page too, in both languages: `findings`.
"""

from collections.abc import Callable

import findings
from findings import percent, place

from kclib.book.records import Result

MAIN = "joint, per image"  # as the paper's numbers were made


def _where(rows: list[dict], **wanted) -> list[dict]:
    """Return the rows that have all of some values."""
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def _span(shares: list[float]) -> str:
    low, high = percent(min(shares)), percent(max(shares))
    return f"**{low}**" if low == high else f"**{low}** to **{high}**"


def _points(gain: float) -> str:
    return f"{100 * gain:+.1f}".replace("-", "−")


def fig1_fuzziness_levels(rows: list[dict]) -> str:
    """Say how much the linear part holds, and whether what is left looks like noise."""
    zeroth, left = (_where(rows, fit=MAIN, part=part)[0] for part in ("x(0)", "x_delta"))
    return (
        f"The linear part $x^{{(0)}}$ has **{percent(zeroth['share'])}** of the feature's "
        f"variance, what is left **{percent(left['share'])}**. Noise would have a correlation of 0 "
        f"between neighbouring positions; what is left has **{left['correlation']:.2f}**, "
        f"$x^{{(0)}}$ {zeroth['correlation']:.2f}."
    )


def fig2_disentangler(rows: list[dict]) -> str:
    """Say how exact the split is, and what it leaves of a shuffled copy."""
    double = max(row["residual"] for row in rows if row["example"].endswith("float64"))
    copies = {r["norm"]: r["residual"] for r in rows if r["example"].startswith("shuffled")}
    return (
        f"The parts add up to $g(x)$: in double precision they differ by at most **{double:.0e}** "
        "of the largest value. Of a copy with shuffled channels a linear map leaves "
        f"**{percent(copies['dataset'])}** with the divisors of the paper's text, and "
        f"**{percent(copies['image'])}** with those of the authors' code."
    )


def table4_redundancy(rows: list[dict]) -> str:
    """Say in how many places refinement gains, over B and over the control."""
    found = [row for row in _where(rows, input="x(0)+x(1)+x(2)") if row.get("pairs")]
    over_b = sum(row["low"] > 0 for row in found)
    better, worse = (
        sum(row["beyond_control_low"] > 0 for row in found),
        sum(row["beyond_control_high"] < 0 for row in found),
    )
    return (
        f"Beyond doubt, refinement gains over network B as it is in **{over_b}** of {len(found)} "
        "places. Against fine-tuning B on the same classes without another network, it is more "
        f"accurate in **{better}** and less accurate in **{worse}**."
    )


def fig4_compression(rows: list[dict]) -> str:
    """Say what the least and the most pruned network discarded."""
    found = [r for r in _where(rows, fit=MAIN) if r.get("pairs") and "discarded" in r]
    found = sorted(found, key=lambda row: row["ratio"])
    least, most = found[1], found[-1]
    return (
        f"Of the original's feature a network without {percent(least['removed'])} of its "
        f"parameters discarded **{percent(least['discarded'])}**, and one without "
        f"{percent(most['removed'])} **{percent(most['discarded'])}**. Their accuracies are "
        f"{percent(least['accuracy'])} and {percent(most['accuracy'])}; the original's is "
        f"{percent(found[0]['accuracy'])}."
    )


def fig4_distillation(rows: list[dict]) -> str:
    """Say how blind spots change over generations, as a stranger sees them."""
    found = [r for r in _where(rows, fit=MAIN, seen_by="the stranger") if r.get("pairs")]
    blind = {row["generation"]: row["blind"] for row in found if "blind" in row}
    first, last = min(blind), max(blind)
    least = min(blind, key=blind.get)
    return (
        f"Of a stranger's feature, generation {first} leaves **{percent(blind[first])}** and "
        f"generation {last} **{percent(blind[last])}**. The least is left by generation {least}: "
        f"{percent(blind[least])}."
    )


def fig5_tasks(rows: list[dict]) -> str:
    """Say what is left in both directions, at each layer that the claim is about."""
    found = [r for r in _where(rows, fit=MAIN) if r.get("pairs") and "left" in r]
    said = []
    for tap in ("conv4_3", "conv5_3"):
        left = {row["direction"]: percent(row["left"]) for row in _where(found, tap=tap)}
        if left:
            said.append(
                f"**{left['fine to binary']}** of the binary network's feature is left when the "
                f"fine-grained one's reconstructs it, and **{left['binary to fine']}** the other "
                f"way round (VGG-16 {tap.replace('_', '-')})"
            )
    return "; ".join(said) + "."


def appendix_fairness(rows: list[dict]) -> str:
    """Say how much better a refined network is than one with as many parameters and no A."""
    lines = [row for row in _where(rows, way="fresh g") if row.get("pairs")]
    gained = ", ".join(
        f"**{_points(row['refined_over_it'])}** points ({place(row)}; {_points(row['refined_low'])}"
        f" to {_points(row['refined_high'])})"
        for row in lines
    )
    return (
        "A refined network differs in accuracy from one with as many parameters, trained on "
        f"labels without network A, by {gained}."
    )


def check_planted_orders(rows: list[dict]) -> str:
    """Say how far found shares are from planted ones, and what a learning rate moves."""
    parts = ("x(0)", "x(1)", "x(2)", "x_delta")
    first = _where(rows, fit="lowest first")
    error = max(abs(row[f"held out {p}"] - row[f"true {p}"]) for row in first for p in parts)
    joint: dict[tuple, list[dict]] = {}
    for row in _where(rows, fit="joint, data set"):
        joint.setdefault((row["case"], row["seed"]), []).append(row)
    moved = [
        max(r[f"held out {p}"] for r in lines) - min(r[f"held out {p}"] for r in lines)
        for lines in joint.values()
        for p in parts[:-1]
    ]
    return (
        f"Fitted lowest first, all shares are found again within **{100 * error:.1f}** points of "
        "percent where images are many. Fitted jointly, a change of the learning rate alone moves "
        f"the share of an order by up to **{100 * max(moved):.0f}** points."
    )


def check_blind_spots(rows: list[dict]) -> str:
    """Say whether energy lies where it must, and whether AlexNet misses the torso."""
    planted = _where(rows, question="planted", score="energy", against="other parts")
    areas = {kind: _where(planted, kind=kind) for kind in ("out of sight", "control")}
    said = []
    if all(areas.values()):
        shown = {kind: [row["value"] for row in found] for kind, found in areas.items()}
        said.append(
            "On drawn animals, with the torso out of network A's sight, the energy of what is left "
            "tells the torso from the other parts with an area under the curve of "
            f"**{min(shown['out of sight']):.2f}** to {max(shown['out of sight']):.2f}; where "
            f"nothing is hidden it is {min(shown['control']):.2f} to {max(shown['control']):.2f}."
        )
    for row in _where(rows, question="parts", score="energy", against="head", fit=MAIN):
        said.append(
            "“Sees the head and misses the torso” would give AlexNet an area of more than 0.5; it "
            f"is **{row['value']:.2f}** ({row['low']:.2f} to {row['high']:.2f})."
        )
    return " ".join(said)


def check_comparison(rows: list[dict]) -> str:
    """Say how well the report's scores find what A was not shown, and what it was not taught."""

    def areas(question: str, ranked: str) -> str:
        """Return the mean area with an altered A, and that with an ordinary one."""
        lines = _where(rows, question=question, ranked=ranked, ranking="z, B again")
        altered, ordinary = (
            [row["area"] for row in _where(lines, a=kind)] for kind in ("altered", "ordinary")
        )
        usual = sum(ordinary) / len(ordinary)
        return f"**{sum(altered) / len(altered):.2f}** (an ordinary A: {usual:.2f})"

    classes = _where(rows, ranked="classes", direction="A gives B")
    deepest = _where(classes, tap=classes[-1]["tap"])
    altered, ordinary = (
        [row["area_of_classes"] for row in _where(deepest, a=kind)]
        for kind in ("altered", "ordinary")
    )
    return (
        "Network A was not shown colour, detail or half of the picture. The report's scores tell "
        "the images that need it from others with an area under the curve of "
        f"{areas('not shown', 'images')}, and the channels with {areas('not shown', 'channels')}. "
        f"Images of classes that A was not taught they tell with {areas('not taught', 'images')}, "
        f"such classes as a whole, at the deepest layer, with "
        f"**{sum(altered) / len(altered):.2f}** ({sum(ordinary) / len(ordinary):.2f})."
    )


def check_groups(rows: list[dict]) -> str:
    """Say how well consistency and linear CKA tell apart networks that were made to differ."""
    score = {(r["test"], r["measure"]): r for r in _where(rows, question="score")}

    def told(test: str) -> str:
        own, other = (
            score[test, name]["value"] for name in ("consistency, lowest first", "linear CKA")
        )
        by_chance = score[test, "linear CKA"]["chance"]
        return f"**{own:.2f}** (linear CKA: {other:.2f}, by chance {by_chance:.2f})"

    return (
        "Pairs of networks that learned the same should be more alike than others. Knowledge "
        f"consistency ranks them first with an area of {told('labels')} where the others learned "
        f"labels drawn by lot, {told('shortcut')} where they learned a shortcut, and "
        f"{told('augmentation')} where they learned from shifted and mirrored pictures."
    )


def compare_similarity(rows: list[dict]) -> str:
    """Say what each measure makes of a feature that a linear map changed."""
    changed = {r["measure"]: r["value"] for r in _where(rows, tap="mixed by an invertible matrix")}
    return (
        "A feature and its copy, mixed by a matrix that the next layer could undo: "
        + ", ".join(f"{name} **{value:.2f}**" for name, value in changed.items())
        + ". A measure that says 1 takes them for the same."
    )


SENTENCES: dict[str, Callable[[list[dict]], str]] = {
    sentence.__name__: sentence
    for sentence in (
        fig1_fuzziness_levels,
        fig2_disentangler,
        table4_redundancy,
        fig4_compression,
        fig4_distillation,
        fig5_tasks,
        appendix_fairness,
        check_planted_orders,
        check_blind_spots,
        check_comparison,
        check_groups,
        compare_similarity,
    )
}


def answer(artefact: str, results: dict[str, dict[str, Result]]) -> tuple[str, str]:
    """Return what an artefact's page answers and the profile of its numbers; "" without results.

    Parameters
    ----------
    artefact : str
    results : dict
        By profile and artefact.
    """
    for found in findings.findings(results):
        if found.artefact == artefact:
            return found.en, found.profile
    profile, rows = findings.rows(results, artefact)
    if profile != "quick" and artefact in results.get("quick", {}):
        # Blind spots can be planted in drawn animals only.
        rows = rows + _where(results["quick"][artefact].rows, question="planted")
    if not rows or artefact not in SENTENCES:
        return "", ""
    return SENTENCES[artefact](rows), profile
