"""The smoke book's numbers are the recorded ones, field by field; `make test` builds it first."""

import pytest
import yaml
from comparison import FILE, differences

from kclib.book import environment, records

RECORDED = sorted((environment.RECORDED / "smoke").glob("*.json"))
TOLERANCES = yaml.safe_load(FILE.read_text())


def test_every_notebook_is_recorded():
    notebooks = environment.RECORDED.parent / "notebooks"
    assert [path.stem for path in RECORDED] == sorted(p.stem for p in notebooks.glob("*.ipynb"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_numbers_and_verdicts_are_the_recorded_ones(path):
    run = environment.results_folder() / "smoke" / path.name
    assert run.exists(), f"{run} is not there: run make book PROFILE=smoke first"
    found = differences(records.read(path), records.read(run), TOLERANCES)
    assert not found, "\n".join(found)
