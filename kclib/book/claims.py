"""The registry of claims: what is claimed, where, and which test was fixed before its outcome.

It stands in ``results/claims.yaml``, whose history says what was fixed when. A notebook computes
outcomes; the verdict follows from them by the rule that the registry names.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InputError, choose
from . import paper
from .environment import RECORDED
from .verdicts import RULES, VERDICTS, verdict

FILE = RECORDED / "claims.yaml"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class PaperNumbers(_Strict):
    """Numbers of the paper that a claim rests on, as places in ``results/paper.json``.

    Attributes
    ----------
    artefact : str
    row : str
    minus : str, optional
        A row that is taken away from it.
    lines : tuple of str
        Where the artefact's numbers stand under several lines, which of them.
    """

    artefact: str
    row: str
    minus: str | None = None
    lines: tuple[str, ...] = ()


class Claim(_Strict):
    """One claim, and how it is tested.

    Attributes
    ----------
    artefact : str
        The notebook that tests it.
    statement, where : str
        What is claimed, and in which table or figure of the paper or of this book.
    test : str
        What is computed, and when the claim holds.
    rule : str
        One of `kclib.book.verdicts.RULES`.
    levels : tuple of float
        Of the rule, if it has any.
    paper : str or PaperNumbers
        What the paper shows.
    """

    artefact: str
    statement: str
    where: str
    test: str
    rule: Literal[tuple(RULES)]
    levels: tuple[float, ...] = ()
    paper: str | PaperNumbers

    @model_validator(mode="after")
    def _levels_of_the_rule(self):
        if len(self.levels) != (2 if self.rule == "reaches" else 0):
            raise ValueError(f"the rule {self.rule} has {len(self.levels)} levels")
        return self

    def said_by_paper(self) -> str:
        """Return what the paper shows, for a reader."""
        if isinstance(self.paper, str):
            return self.paper
        return paper.listed(**self.paper.model_dump())

    def digest(self) -> str:
        """Digest what decides the verdict: a result that was judged otherwise is out of date."""
        fixed = [self.statement, self.test, self.rule, self.levels]
        return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()[:12]


class Outcome(_Strict):
    """What a test found, as it is recorded.

    Attributes
    ----------
    id : str
        The claim's name in the registry, e.g. ``"table1-depth"``.
    outcomes : list of float, bool or None
        What the rule judged; see `kclib.book.verdicts.verdict`.
    found : str
        The numbers, for a reader.
    verdict : str
        What follows by the rule.
    depends : str
        What the verdict depends on, or why there is none.
    fixed : str
        `Claim.digest` of the test as it stood.
    """

    id: str
    outcomes: list[Annotated[bool, Field(strict=True)] | float | None]
    found: str
    verdict: Literal[VERDICTS]
    depends: str = ""
    fixed: str


@cache
def registry() -> dict[str, Claim]:
    """Return all claims by name; none where the package stands outside its repository."""
    return parse(FILE.read_text()) if FILE.exists() else {}


def parse(text: str) -> dict[str, Claim]:
    """Read claims from YAML text.

    Raises
    ------
    InputError
        If the text is no registry: the message names the claim and what is wrong with it.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"the registry of claims is not YAML: {error}.") from None
    found = {}
    for name, fields in (content or {}).items():
        try:
            found[name] = Claim.model_validate(fields)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'claim'}: {e['msg']}" for e in error.errors()
            )
            raise InputError(f"the claim {name!r} is not valid: {problems}.") from None
    return found


def of(artefact: str) -> dict[str, Claim]:
    """Return the claims that a notebook tests."""
    return {name: claim for name, claim in registry().items() if claim.artefact == artefact}


def judged(
    artefact: str,
    name: str,
    outcomes: Sequence[float | bool | None],
    found: str,
    depends: str = "",
) -> Outcome:
    """Return an outcome with the verdict that follows from it.

    Raises
    ------
    InputError
        If the registry has no such claim of the artefact.
    """
    claim = of(artefact)[choose(f"claim of {artefact}", name, of(artefact))]
    plain = [getattr(one, "item", lambda one=one: one)() for one in outcomes]  # Python's own types
    return Outcome(
        id=name,
        outcomes=plain,
        found=found,
        verdict=verdict(claim.rule, plain, claim.levels),
        depends=depends,
        fixed=claim.digest(),
    )


def check(artefact: str, outcomes: Sequence[Outcome], where: str) -> None:
    """Refuse outcomes that are not those of an artefact's claims as they stand now.

    Parameters
    ----------
    artefact : str
    outcomes : sequence of Outcome
    where : str
        What holds them, for the message.

    Raises
    ------
    InputError
        If a claim has no outcome or two, an outcome has no claim, or its test, rule or verdict is
        another one now.
    """
    known = of(artefact)
    names = [outcome.id for outcome in outcomes]
    if sorted(names) != sorted(known):
        missing, unknown = sorted(known.keys() - set(names)), sorted(set(names) - known.keys())
        twice = sorted({name for name in names if names.count(name) > 1})
        said = [
            f"{what}: {', '.join(which)}"
            for what, which in (
                ("claims without an outcome", missing),
                ("outcomes without a claim", unknown),
                ("claims with several outcomes", twice),
            )
            if which
        ]
        raise InputError(f"{where}: {'; '.join(said)}. The registry is results/claims.yaml.")
    for outcome in outcomes:
        claim = known[outcome.id]
        if outcome.fixed != claim.digest():
            raise InputError(
                f"{where}: the statement, test or rule of {outcome.id} was changed after its "
                "outcome was recorded; run the notebook again, or take the change back."
            )
        follows = verdict(claim.rule, outcome.outcomes, claim.levels)
        if outcome.verdict != follows:
            raise InputError(
                f"{where}: {outcome.id} is said to be {outcome.verdict!r}, but {follows!r} follows "
                f"from its outcomes by the rule {claim.rule!r}."
            )
