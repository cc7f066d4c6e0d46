"""Running a notebook from the command line: refusals, and one run from end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent


def run(tmp_path, *words):
    environment = os.environ | {
        "KC_STORE": str(tmp_path / "store"),
        "KC_RESULTS": str(tmp_path / "results"),
        "KC_PROGRESS": os.devnull,
    }
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table1_instabilty"], "Did you mean 'table1_instability'"),
        (["table1_instability", "-p", "sed", "3"], "Did you mean 'seed'"),
        (["table1_instability", "-p", "channels", "3"], "parameter of table1_instability"),
        (["table1_instability", "-p", "order", "-1"], "from 0 to 5"),
        (["table1_instability", "--profile", "quik"], "Did you mean 'quick'"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(tmp_path, words, message):
    done = run(tmp_path, "notebooks/run.py", *words, "--output", str(tmp_path / "out.ipynb"))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_is_none_is_refused(tmp_path):
    done = run(tmp_path, "-m", "kclib", "network", "--profile", "smoke", "vgg16")
    assert done.returncode == 2
    assert "NAME_PART_SEED" in done.stderr and "Traceback" not in done.stderr


def test_a_notebook_runs_alone_with_own_parameters(tmp_path):
    output = tmp_path / "fig2.ipynb"
    words = ["notebooks/run.py", "fig2_disentangler", "--profile", "smoke", "-p", "seed", "1"]
    done = run(tmp_path, *words, "--output", str(output))
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(output, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert "papermill" not in notebook.metadata
    result = json.loads((tmp_path / "results" / "smoke" / "fig2_disentangler.json").read_text())
    assert result["provenance"]["seeds"] == [1, 6]
    exact = [row for row in result["rows"] if row["example"].startswith("sum of orders")]
    assert exact[0]["residual"] < 1e-5 and exact[1]["residual"] < 1e-13
    shuffled = [row for row in result["rows"] if row["norm"] == "dataset"]
    assert shuffled[0]["residual"] < 1e-6
