"""The claims of every committed result follow from its rows, by the notebook's own cell.

The cell tagged ``claims`` of each notebook uses what is recorded and nothing else: ``rows``, the
parameters, and the study's name of the profile. So it is run here on each recorded result, of every
profile, without a network or a fit, and must give the claims that stand in the file.
"""

import ast
import json
from functools import cache
from types import SimpleNamespace

import pytest

from kclib.book import claims, environment, records

ROOT = environment.RECORDED.parent
#: Of notebooks that test claims: one that only measures has none to replay.
RESULTS = sorted(path for path in environment.RECORDED.glob("*/*.json") if claims.of(path.stem))


@cache
def cells(artefact: str) -> list[tuple[list[str], str]]:
    content = json.loads((ROOT / "notebooks" / f"{artefact}.ipynb").read_text())["cells"]
    return [
        (cell["metadata"].get("tags", []), "".join(cell["source"]))
        for cell in content
        if cell["cell_type"] == "code"
    ]


def tagged(artefact: str, tag: str) -> str:
    [source] = [source for tags, source in cells(artefact) if tag in tags]
    return source


def imports(artefact: str) -> str:
    nodes = [n for _, source in cells(artefact) for n in ast.parse(source).body]
    return "\n".join(ast.unparse(n) for n in nodes if isinstance(n, ast.Import | ast.ImportFrom))


def replayed(result: records.Result) -> list[claims.Outcome]:
    """Return what the notebook's cell makes of a result's rows."""
    outcomes = []

    def claim(name, found_outcomes, found, depends=""):
        outcomes.append(claims.judged(result.artefact, name, found_outcomes, found, depends))

    rows = [dict(row) for row in result.rows]
    had = result.provenance.parameters
    profile = SimpleNamespace(name=result.profile)
    study = SimpleNamespace(claim=claim, profile=profile, parameters=had)
    names = {"rows": rows, "study": study}
    exec(imports(result.artefact), names)
    exec(tagged(result.artefact, "parameters"), names)
    names |= {name: value for name, value in had.items() if name in names}
    exec(tagged(result.artefact, "claims"), names)
    return outcomes


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_claims_of_a_recorded_result_follow_from_its_rows(path):
    result = records.read(path)
    claims.check(result.artefact, result.claims, str(path))
    assert replayed(result) == result.claims
