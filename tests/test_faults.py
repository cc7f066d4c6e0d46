"""The faults program finds out what did not survive: tried on works that do, and that do not."""

import fcntl
import random
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "faults")]
import processes  # noqa: E402
from works import Work  # noqa: E402

specification = spec_from_file_location("faults_run", ROOT / "faults" / "run.py")
run = module_from_spec(specification)
specification.loader.exec_module(run)

EXPECTED = {"out": "same\n"}


@pytest.fixture
def work(tmp_path):
    """Return a work that runs a script of the shell."""

    def of(script: str) -> Work:
        made = lambda: {"out": (tmp_path / "out").read_text()}  # noqa: E731
        store = {"KC_STORE": str(tmp_path / "store")}
        return Work("a script", tmp_path, ["sh", "-c", script], made, store, seconds=0.4)

    return of


def killed(work: Work) -> list[str]:
    return list(run.killed(work, EXPECTED, random.Random(0), 4, 1.0))


def test_a_work_that_goes_on_survives_kills(work):
    steps = (
        "for k in 1 2 3; do [ -e store/$k ] || { mkdir -p store; sleep 0.2; touch store/$k; }; done"
    )
    assert killed(work(f"{steps}; echo same > out")) == [run.SAME] * 4


def test_a_work_that_makes_something_else_after_a_kill_is_found_out(work):
    script = "[ -e begun ] && word=other || word=same; touch begun; sleep 0.5; echo $word > out"
    with pytest.raises(run.Broken, match="ended with 0"):
        killed(work(script))


def test_a_work_that_does_not_go_on_after_a_kill_is_found_out(work):
    with pytest.raises(run.Broken, match="ended with 3"):
        killed(work("[ -e begun ] && exit 3; touch begun; sleep 5"))


def test_a_refusal_is_one_line_and_no_traceback(work):
    refused = "[ -e mended ] && echo same > out || { echo 'error: mend it' >&2; exit 2; }"

    def mend():
        (one.folder / "mended").touch()

    one = work(refused)
    assert list(run.refused_or_same(one, EXPECTED, mend)) == ["error: mend it"]
    one = work("echo Traceback; echo 'error: mend it'; exit 1")
    with pytest.raises(run.Broken, match="says no more"):
        list(run.refused_or_same(one, EXPECTED, mend))
    with pytest.raises(run.Broken, match="something else"):
        list(run.refused_or_same(work("echo other > out"), EXPECTED, mend))


PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [{faults!r}]
import works

work = works.Work("a script", Path.cwd(), ["sh", "-c", "sleep 77 & touch begun; wait"], dict)


def again_and_again():
    while True:
        work.run()


with ThreadPoolExecutor() as pool:
    running = pool.submit(again_and_again)
    while not Path("begun").exists():
        pass
    works.end()
print(type(running.exception()).__name__)
"""


def test_works_that_run_are_killed_and_none_begins_any_more(tmp_path):
    program = PROGRAM.format(faults=str(ROOT / "faults"))
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert said.stdout == "Ended\n", said.stderr


TREE = (
    "import subprocess, sys, time\n"
    "subprocess.Popen(['sh', '-c', 'sleep 77 & wait'], start_new_session=True)\n"
    "time.sleep(77)\n"
)


def test_what_a_command_began_is_killed_with_it_in_sessions_of_its_own_too():
    process = subprocess.Popen([sys.executable, "-c", TREE])
    while len(psutil.Process(process.pid).children(recursive=True)) < 2:
        time.sleep(0.05)
    begun = psutil.Process(process.pid).children(recursive=True)
    processes.kill(process)
    assert process.returncode == -9 and not psutil.wait_procs(begun, timeout=10)[1]


HOLDER = """
import fcntl, sys, threading, time
held = open("lock", "w")
fcntl.flock(held, fcntl.LOCK_EX)
def much():
    large = bytearray(20_000_000)
    time.sleep(77)
for _ in range(12):
    threading.Thread(target=much, daemon=True).start()
time.sleep(0.2)
print("locked", flush=True)
time.sleep(77)
"""


@pytest.mark.parametrize("_again", range(4))
def test_what_was_killed_holds_no_lock_any_more(tmp_path, _again):
    """Threads of a process may outlive it for a moment, with its files."""
    (tmp_path / "holder.py").write_text(HOLDER)
    command = ["sh", "-c", f"{sys.executable} holder.py & wait"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"locked\n"
    processes.kill(process)
    with open(tmp_path / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(("deaf", "in_time"), [("", True), ("trap '' TERM; ", False)])
def test_who_does_not_end_in_time_is_killed(tmp_path, deaf, in_time):
    script = f"{deaf}touch begun; while true; do sleep 0.1; done"
    process = subprocess.Popen(["sh", "-c", script], cwd=tmp_path)
    while not (tmp_path / "begun").exists():
        time.sleep(0.05)
    assert processes.end(process, 1) == in_time
    assert process.returncode < 0


def test_a_byte_that_is_changed_is_another_one(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    run.change_a_byte(tmp_path / "file", random.Random(0))
    changed = (tmp_path / "file").read_bytes()
    assert len(changed) == 3 and sum(x != y for x, y in zip(b"abc", changed, strict=True)) == 1
