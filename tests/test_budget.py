"""A time budget: what fits is done, the rest is interrupted cleanly, and a later call goes on."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kclib.book import profiles

SCRIPT = Path(__file__).parent.parent / "notebooks" / "budget.py"
specification = importlib.util.spec_from_file_location("budget", SCRIPT)
budget = importlib.util.module_from_spec(specification)
specification.loader.exec_module(budget)

#: Stands for Snakemake: does two jobs, each in a process of its own, unless they are done already.
#: A job that is interrupted leaves a note. Like Snakemake it prints a table on request.
WORKFLOW = """
import pathlib, signal, subprocess, sys

folder, pace = pathlib.Path(sys.argv[1]), sys.argv[2]
jobs = [("network", folder / "0abc" / "entry.json"), ("notebook", folder / "table9.json")]
if "--summary" in sys.argv:
    print("output_file", "date", "rule", "log-file(s)", "status", "plan", sep="\\t")
    for rule, path in jobs:
        plan = "no update" if path.exists() else "update pending"
        print(path, "-", rule, "-", "", plan, sep="\\t")
    sys.exit()
job = '''
import pathlib, sys, time
path = pathlib.Path(sys.argv[1])
try:
    time.sleep(float(sys.argv[2]))
except KeyboardInterrupt:
    path.with_suffix(".interrupted").touch()
    sys.exit(130)
path.touch()
'''
for rule, path in jobs:
    path.parent.mkdir(exist_ok=True)
    wait = "0" if rule == "network" else pace
    if not path.exists() and subprocess.call([sys.executable, "-c", job, str(path), wait]):
        sys.exit(1)
"""


def call(folder, limit, pace=30, **options):
    """Run the stand-in within a budget; return what is known of that run."""
    command = [sys.executable, "-c", WORKFLOW, str(folder), str(pace)]
    return subprocess.run(
        [sys.executable, str(SCRIPT), limit, *command], capture_output=True, text=True, **options
    )


def test_what_fits_is_done_and_a_later_call_goes_on(tmp_path):
    began = time.monotonic()
    first = call(tmp_path, "1.5s")
    assert first.returncode == 0, first.stderr
    assert time.monotonic() - began < 15
    assert (tmp_path / "0abc" / "entry.json").exists()
    assert (tmp_path / "table9.interrupted").exists()  # the job itself was told, not killed
    assert not (tmp_path / "table9.json").exists()
    assert first.stdout.splitlines()[-4:] == [
        "The budget of 1.5s is used up; jobs that were running were interrupted.",
        "Done: 1 network; no notebook.",
        "Left: 0 networks; table9.",
        "Run the same command again to go on.",
    ]
    second = call(tmp_path, "1m", pace=0)
    assert second.returncode == 0 and second.stdout == ""
    assert (tmp_path / "table9.json").exists()


def test_a_command_that_fails_in_time_keeps_its_status():
    words = [sys.executable, str(SCRIPT), "1m", sys.executable, "-c", "raise SystemExit(3)"]
    assert subprocess.run(words).returncode == 3


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_the_end_of_the_process_reach_the_jobs(tmp_path, sent):
    command = [sys.executable, "-c", WORKFLOW, str(tmp_path), "30"]
    words = [sys.executable, str(SCRIPT), "1h", *command]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "0abc" / "entry.json").exists():
            time.sleep(0.05)
        time.sleep(1)  # until the next job sleeps
        process.send_signal(sent)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted: run the same command again to go on."
    assert (tmp_path / "table9.interrupted").exists()


def test_jobs_that_do_not_stop_are_killed():
    stubborn = (
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "print(1, flush=True); time.sleep(60)"
    )
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    began = time.monotonic()
    try:
        assert budget.run([sys.executable, "-c", stubborn], 1, patience=0.5) is None
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)
    assert time.monotonic() - began < 10


def test_a_shell_s_background_does_not_switch_the_budget_off(tmp_path):
    done = call(tmp_path, "1.5s", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert done.returncode == 0 and (tmp_path / "table9.interrupted").exists()


@given(st.integers(1, 10**4), st.sampled_from(["s", "m", "h"]))
def test_a_budget_is_a_number_with_a_unit(number, unit):
    factor = {"s": 1, "m": 60, "h": 3600}[unit]
    assert budget.seconds(f"{number}{unit}") == number * factor
    assert budget.seconds(f" {number}.5 {unit} ") == (number + 0.5) * factor
    assert budget.seconds(str(number)) == number * 60


@pytest.mark.parametrize("text", ["", "m", "20 minutes", "0", "0s", "-5m", "1e3s", "nan", "1m30s"])
def test_a_budget_that_is_none_is_refused_before_anything_runs(tmp_path, text):
    done = call(tmp_path, text)
    assert done.returncode == 2 and os.listdir(tmp_path) == []
    assert done.stderr.startswith(f"error: the budget is {text!r}; allowed: a number with s, m")


def test_without_a_command_the_usage_is_told():
    done = subprocess.run([sys.executable, str(SCRIPT), "5m"], capture_output=True, text=True)
    assert done.returncode == 2 and "there is no command after the budget" in done.stderr


def test_the_state_names_each_job_once():
    table = (
        "output_file\tdate\trule\tlog-file(s)\tstatus\tplan\n"
        "runs/fig1.ipynb\t-\tnotebook\t-\tok\tno update\n"
        "/results/fig1.json\t-\tnotebook\t-\tok\tno update\n"
        "runs/fig2.ipynb\t-\tnotebook\t-\tmissing\tupdate pending\n"
        "/results/fig2.json\t-\tnotebook\t-\tmissing\tupdate pending\n"
        "/store/networks/12ab/entry.json\t-\tnetwork\t-\tok\tno update\n"
        "/store/networks/34cd/entry.json\t-\tnetwork\t-\tmissing\tupdate pending\n"
    )
    done, left = budget.state(table)
    assert done == {"notebook": ["fig1"], "network": ["12ab"]}
    assert left == {"notebook": ["fig2"], "network": ["34cd"]}
    assert budget.report(done, {}) == "Everything is done."


def planned(profile: str, folder: Path, store: Path) -> dict[str, int]:
    """Return the jobs of ``make record`` in a folder by name, with their priorities."""
    words = f"snakemake --dry-run --cores 1 --config profile={profile} record=true".split()
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=os.environ | {"KC_STORE": str(store), "KC_DEVICE": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = {}
    for job in (done.stdout + done.stderr).split("\nrule ")[1:]:
        lines = dict(part.strip().split(": ", 1) for part in job.splitlines() if ": " in part)
        if "wildcards" in lines and job.startswith("n"):
            name = lines["wildcards"].split("=")[1]
            found[name] = int(lines.get("priority", 0))  # 0 is not printed
    return found


@pytest.fixture
def clone(tmp_path):
    """What the graph of a new clone depends on: nothing has run there."""
    root = SCRIPT.parent.parent
    shutil.copy(root / "Snakefile", tmp_path)
    for name in ("notebooks", "results"):
        shutil.copytree(root / name, tmp_path / name)
    return tmp_path


def test_what_the_profile_names_first_comes_first(clone):
    """The Snakefile gives earlier artefacts, and networks before their notebook, more priority."""
    found = planned("quick", clone, clone)
    artefacts = list(profiles.load("quick").artefacts)
    priorities = [found[name] for name in artefacts]
    assert priorities == sorted(priorities, reverse=True) and len(set(priorities)) == len(artefacts)
    assert max(found.values()) not in priorities  # networks come first


def test_a_new_clone_records_everything_though_results_are_committed(clone):
    assert set(profiles.load("quick").artefacts) <= set(planned("quick", clone, clone))
