"""The book's findings as sentences whose numbers are computed from results, in two languages.

Each sentence is written so that it is true whatever its numbers are: what they show is said by the
numbers. Those of photographs come first, networks trained as the paper's before others.
"""

from typing import NamedTuple

from kclib.book.records import Result

#: Profiles by what a finding is best taken from.
PROFILES = ("plain64", "real64", "quick")
NAMES = {"alexnet": "AlexNet", "vgg16": "VGG-16", "resnet18": "ResNet-18", "resnet34": "ResNet-34"}
NAMES |= {"resnet50": "ResNet-50"}
LANGUAGES = ("en", "zh")


class Finding(NamedTuple):
    """A sentence in each language, and the notebook that its numbers are of."""

    artefact: str
    profile: str
    en: str
    zh: str


def rows(results: dict[str, dict[str, Result]], artefact: str) -> tuple[str, list[dict]]:
    """Return the profile that a finding is best taken from, and an artefact's rows in it."""
    for profile in PROFILES:
        if artefact in results.get(profile, {}):
            return profile, results[profile][artefact].rows
    return "", []


def percent(share: float) -> str:
    r"""Write a share.

    Examples
    --------
    >>> percent(0.1234)
    '12\xa0%'
    """
    return f"{100 * share:.0f}\xa0%"  # with a space at which no line breaks


def place(row: dict) -> str:
    """Name the layer of a row."""
    network = NAMES.get(row["network"], row["network"])
    return f"{network} {row['tap'].replace('_', '-')}"


def trained_twice(results, artefact: str) -> tuple[str, list[dict]]:
    """Return the rows of pairs that differ in their initialisation, fitted lowest order first."""
    profile, found = rows(results, artefact)
    return profile, [
        row
        for row in found
        if row["condition"] == "initialisations"
        and row.get("fit") == "lowest first"
        and row.get("seed") is not None
    ]


def shared(results) -> Finding | None:
    """Return how much of a feature two trainings of one network do not have in common."""
    profile, found = trained_twice(results, "table1_instability")
    if not found:
        return None
    least, most = (pick(found, key=lambda row: row["instability"]) for pick in (min, max))
    low, high = (percent(row["instability"]) for row in (least, most))
    return Finding(
        "table1_instability",
        profile,
        "Train one network twice, from different starting weights: of what the first training's "
        f"layer says about an image, **{low}** ({place(least)}) to **{high}** ({place(most)}) "
        "cannot be reconstructed from the second's.",
        "同一个网络从不同的初始值训练两次：第一次训练得到的特征中，"
        f"有 **{low}**（{place(least)}）到 **{high}**（{place(most)}）"
        "是第二次训练的特征无法重建的。",
    )


def linear(results) -> Finding | None:
    """Return how much of what two networks share is linear."""
    profile, found = trained_twice(results, "table2_orders")
    if not found:
        return None
    shares = [row["x(0)"] for row in found]
    low, high = percent(min(shares)), percent(max(shares))
    more = percent(max(row["x(1)"] + row["x(2)"] for row in found))
    return Finding(
        "table2_orders",
        profile,
        f"How much of it is linear? A linear map alone reconstructs **{low}** to **{high}** of a "
        f"layer, and two non-linear steps add at most **{more}**.",
        f"两者共有的知识大多是线性的：仅用一个线性变换就能重建 **{low}** 到 **{high}**，"
        f"再加两层非线性最多只多出 **{more}**。",
    )


def directed(results) -> Finding | None:
    """Return what a weak and a strong network lack of each other."""
    profile, found = rows(results, "fig3_blind_spots")
    left = {
        row["direction"]: row["share"]
        for row in found
        if row.get("fit") == "lowest first" and row.get("part") == "x_delta"
    }
    if not left:
        return None
    blind, unreliable = percent(left["blind spots"]), percent(left["unreliable features"])
    return Finding(
        "fig3_blind_spots",
        profile,
        f"Of a strong network's feature (ResNet-34), **{blind}** cannot be reconstructed from a "
        f"weak one's (AlexNet): its blind spots. The other way round it is **{unreliable}**: "
        "unreliable features.",
        f"强网络（ResNet-34）的特征中有 **{blind}** 是弱网络（AlexNet）无法重建的，"
        "即弱网络的知识盲点；"
        f"反过来，弱网络的特征中有 **{unreliable}** 是强网络无法重建的，即不可靠特征。",
    )


def refined(results) -> Finding | None:
    """Return in how many places shared knowledge made a network better than training it further."""
    profile, found = rows(results, "table3_refinement")
    found = [row for row in found if row.get("input") == "x(0)+x(1)+x(2)" and "pairs" in row]
    if not found:
        return None
    better = sum(row["beyond_low"] > 0 for row in found)
    worse = sum(row["beyond_high"] < 0 for row in found)
    return Finding(
        "table3_refinement",
        profile,
        "Does a network become more accurate with the shared part in the place of its own feature? "
        "Against training it further without another network, it was more accurate in "
        f"**{better}** of {len(found)} places and less accurate in **{worse}**, beyond doubt.",
        f"用共有的部分替换网络自身的特征，准确率会提高吗？与不借助另一个网络、只继续训练的对照相比，"
        f"{len(found)} 处中有 **{better}** 处显著提高，**{worse}** 处显著降低。",
    )


def depending(results) -> Finding | None:
    """Return which change of how networks are trained or measured moves what is left most."""
    profile, found = rows(results, "check_dependencies")
    found = [row for row in found if row["quantity"] == "share left"]
    usual = {(r["network"], r["tap"]): r["value"] for r in found if r["change"] == "nothing"}
    changed = [
        (usual[row["network"], row["tap"]], row) for row in found if row["change"] != "nothing"
    ]
    if not changed:
        return None
    before, row = max(changed, key=lambda one: abs(one[1]["value"] - one[0]))
    was, is_now = percent(before), percent(row["value"])
    return Finding(
        "check_dependencies",
        profile,
        "How much depends on how networks are trained and measured? Of all that was changed, "
        f"*{row['change']}* moves most: what cannot be reconstructed of {place(row)} goes from "
        f"**{was}** to **{is_now}**.",
        "结论在多大程度上取决于网络如何训练、如何测量？在所有改变中，"
        f"*{row['change']}* 影响最大：{place(row)} 中无法重建的部分从 **{was}** "
        f"变为 **{is_now}**。",
    )


def findings(results: dict[str, dict[str, Result]]) -> list[Finding]:
    """Return the findings that results hold, the first one first."""
    all_of_them = (shared, linear, directed, refined, depending)
    return [found for of in all_of_them if (found := of(results)) is not None]


def listed(found: list[Finding], language: str, link: str = "../notebooks/{}.ipynb") -> str:
    """Return findings as a list in Markdown, each with a link to its page."""
    words = {"en": "- {} [More]({}) (`{}`)\n", "zh": "- {}[详见]({})（`{}`）\n"}[language]
    return "".join(
        words.format(getattr(one, language), link.format(one.artefact), one.profile)
        for one in found
    )
