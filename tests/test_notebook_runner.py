"""Running a notebook from the command line: refusals, and one run from end to end."""

import csv
import importlib.util
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import nbformat
import nbval.kernel
import papermill
import pytest
import torch
from jupyter_client.connect import LocalPortCache
from jupyter_client.manager import KernelManager

from kclib.book import pictures, profiles
from kclib.book.environment import profile_names
from kclib.errors import InputError

ROOT = Path(__file__).parent.parent
specification = importlib.util.spec_from_file_location("run", ROOT / "notebooks" / "run.py")
run = importlib.util.module_from_spec(specification)
specification.loader.exec_module(run)


def environment(folder: Path) -> dict[str, str]:
    """Return variables that keep all that a run writes in one folder."""
    return {
        "KC_STORE": str(folder / "store"),
        "KC_RESULTS": str(folder / "results"),
        "KC_PROGRESS": os.devnull,
        "KC_DEVICE": "cpu",
    }


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Keep variables that `run` sets, and what it writes, inside the test."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KC_DATA", str(tmp_path))
    monkeypatch.setenv("KC_PROFILE", "smoke")


def call(monkeypatch, *words) -> int:
    """Run the command in this process."""
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
    return run.main()


@pytest.fixture
def kernels(monkeypatch):
    """The calls that would have started a kernel."""
    started = []
    monkeypatch.setattr(papermill, "execute_notebook", lambda *words, **_: started.append(words))
    return started


BAD = {
    "notebook": (["table1_instabilty"], "Did you mean 'table1_instability'"),
    "parameter": (["table1_instability", "-p", "sed", "3"], "Did you mean 'seed'"),
    "another's parameter": (
        ["table1_instability", "-p", "channels", "3"],
        "no parameter of table1_instability 'channels'",
    ),
    "range": (["table1_instability", "-p", "order", "-1"], "the parameter order is '-1'; allowed"),
    "fraction": (["table1_instability", "-p", "order", "2.5"], "whole numbers from 0 to 5"),
    "seed": (["fig2_disentangler", "-p", "seed", "-1"], "from 0 to 1000000"),
    "resamples": (["table2_orders", "-p", "resamples", "3"], "from 20"),
    "word": (["fig1_fuzziness_levels", "-p", "norm", "imge"], "Did you mean 'image'"),
    "profile": (["table1_instability", "--profile", "quik"], "Did you mean 'quick'"),
    "second of two": (
        ["table1_instability", "-p", "seed", "3", "-p", "order", "9"],
        "the parameter order is '9'",
    ),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_before_a_kernel_starts(
    monkeypatch, tmp_path, capsys, kernels, words, message
):
    assert call(monkeypatch, *words, "--output", tmp_path / "new" / "out.ipynb") == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and len(error.splitlines()) == 1
    assert not kernels and list(tmp_path.iterdir()) == []


def test_a_refusal_in_a_terminal_is_one_line_and_exit_status_2(tmp_path):
    words = ["notebooks/run.py", "table1_instability", "-p", "ordre", "1"]
    done = subprocess.run(
        [sys.executable, *words, "--output", str(tmp_path / "out.ipynb")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: there is no parameter of table1_instability 'ordre'.")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_waits_for_a_kernel_needs_no_torch():
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # its import fails
        "import run\n"
        "print(run.check('table1_instability', {'profile': 'smoke', 'seed': '3'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'notebooks'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "{'profile': 'smoke', 'seed': 3}\n"


@pytest.mark.parametrize(
    ("words", "module"),
    [
        ("-m kclib network x", "kclib.book.profiles"),
        ("notebooks/run.py x", "papermill"),
        ("notebooks/run.py x", "kclib.book.parameters"),
    ],
)
def test_ctrl_c_during_the_imports_is_one_line_and_exit_status_130(tmp_path, words, module):
    # A process that gets the signal when it comes to import the module.
    (tmp_path / "sitecustomize.py").write_text(
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupted:\n"
        "    @staticmethod\n"
        "    def find_spec(name, *_):\n"
        f"        if name == {module!r}:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupted)\n"
    )
    done = subprocess.run(
        [sys.executable, *words.split()],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130 and done.stdout == ""
    assert done.stderr.startswith("interrupted: ") and len(done.stderr.splitlines()) == 1


def test_a_notebook_is_refreshed_in_place_with_its_own_parameters_only(
    monkeypatch, capsys, kernels
):
    assert call(monkeypatch, "table1_instability", "-p", "order", "1") == 2
    assert "order cannot be given without --output" in capsys.readouterr().err
    assert not kernels
    given = {"profile": "quick"}
    assert run.in_place("table1_instability", given) == (
        ROOT / "notebooks" / "table1_instability.ipynb"
    )
    assert given == {} and os.environ["KC_PROFILE"] == "quick"


# A notebook that takes no time


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Return a function that makes the only notebook there is, from the code of its last cell."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(run, "FOLDER", folder)

    def write(code: str) -> Path:
        notebook = nbformat.v4.new_notebook(
            cells=[
                nbformat.v4.new_markdown_cell("# A title\n\nand text"),
                nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]}),
                nbformat.v4.new_code_cell(code),
            ],
            metadata={"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}},
        )
        nbformat.write(notebook, folder / "small.ipynb")
        return folder / "small.ipynb"

    return write


def test_what_a_notebook_refuses_is_one_line_and_nothing_is_written(
    small, monkeypatch, tmp_path, capsys
):
    small(
        "class InputError(ValueError):\n    'As kclib has it.'\n\n"
        "raise InputError(f'seed is {seed}; say another')"
    )
    output = tmp_path / "out.ipynb"
    assert call(monkeypatch, "small", "-p", "seed", "4", "--output", output) == 2
    assert capsys.readouterr().err == "error: seed is 4; say another\n"
    assert [path.name for path in tmp_path.iterdir()] == ["notebooks"]


def test_a_mistake_in_a_notebook_shows_its_traceback_and_keeps_the_old_output(
    small, monkeypatch, tmp_path
):
    small("1 / 0")
    output = tmp_path / "out.ipynb"
    output.write_text("old")
    with pytest.raises(papermill.PapermillExecutionError, match="ZeroDivisionError"):
        call(monkeypatch, "small", "--output", output)
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notebooks", "out.ipynb"]


def test_folders_named_relatively_are_those_of_the_caller(small, monkeypatch, tmp_path):
    """The kernel works in the folder of notebooks, not where the command was given."""
    names = ("KC_STORE", "KC_RESULTS", "KC_DATA")
    monkeypatch.chdir(tmp_path)
    for name in names:
        monkeypatch.setenv(name, f"mine/{name}")
    small(f"import os\nprint(*(os.environ[name] for name in {names}))")
    assert call(monkeypatch, "small", "--output", "out.ipynb") == 0
    printed = nbformat.read(tmp_path / "out.ipynb", 4).cells[-1].outputs[0].text.split()
    assert printed == [str(tmp_path / "mine" / name) for name in names]


def test_refreshing_in_place_changes_outputs_only(small, monkeypatch):
    path = small("print('done')")
    before = nbformat.read(path, 4)
    assert call(monkeypatch, "small", "--profile", "smoke") == 2  # it has no such parameter
    assert call(monkeypatch, "small") == 0
    first = path.read_text()
    after = nbformat.read(path, 4)
    assert [cell.source for cell in after.cells] == [cell.source for cell in before.cells]
    assert [cell.id for cell in after.cells] == [cell.id for cell in before.cells]
    assert [cell.metadata for cell in after.cells] == [cell.metadata for cell in before.cells]
    assert after.cells[-1].outputs[0].text == "done\n"
    assert call(monkeypatch, "small") == 0
    assert path.read_text() == first
    # Lines of text are lines of the file, so that a difference shows which changed.
    assert '"# A title\\n",\n' in first and first.endswith("}\n")


def test_places_that_cannot_be_written_are_refused_before_a_run(
    small, kernels, monkeypatch, tmp_path, capsys
):
    small("print()")
    (tmp_path / "file").write_text("")
    for output, message in (
        (tmp_path, f"{tmp_path} is a folder; name a file in it"),
        (tmp_path / "file" / "out.ipynb", "file is a file, not a folder"),
    ):
        assert call(monkeypatch, "small", "--output", output) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(os, "access", lambda *_: False)  # as in a clone that is read-only
    for words in ([], ["--output", tmp_path / "out.ipynb"]):
        assert call(monkeypatch, "small", *words) == 2
        error = capsys.readouterr().err
        assert "is not writable; name another place" in error and len(error.splitlines()) == 1
    assert not kernels and sorted(p.name for p in tmp_path.iterdir()) == ["file", "notebooks"]


def test_home_and_an_apostrophe_in_a_path_do_no_harm(small, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KC_STORE", "~/store")
    folder = tmp_path / "it's here"
    path = small("import os\nprint(os.environ['KC_STORE'])")
    folder.mkdir()
    path.rename(folder / path.name)
    monkeypatch.setattr(run, "FOLDER", folder)
    assert call(monkeypatch, "small", "--output=~/out's.ipynb") == 0
    [output] = nbformat.read(tmp_path / "out's.ipynb", 4).cells[-1].outputs
    assert output.text == f"{tmp_path}/store\n"


def test_a_long_folder_for_temporary_files_does_no_harm(small, monkeypatch, tmp_path):
    folder = tmp_path / ("t" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    small("print('done')")
    assert call(monkeypatch, "small", "--output", tmp_path / "out.ipynb") == 0
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="TMPDIR names .*at most 70 characters"):
        run.place_for_sockets()


def test_a_killed_kernel_is_one_line(small, monkeypatch, tmp_path, capfd):
    small("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert call(monkeypatch, "small", "--output", tmp_path / "out.ipynb") == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert "ended from outside, usually because memory ran out" in line
    assert [path.name for path in tmp_path.iterdir()] == ["notebooks"]


def test_styled_tables_are_the_same_at_every_run(small, monkeypatch, tmp_path):
    small("import pandas\nfor k in range(2):\n    display(pandas.DataFrame([{'a': k}]).style)")
    for name in ("one.ipynb", "two.ipynb"):
        assert call(monkeypatch, "small", "--output", tmp_path / name) == 0
    text = (tmp_path / "one.ipynb").read_text()
    assert text == (tmp_path / "two.ipynb").read_text()
    for number in (1, 2):
        assert f'<table id=\\"T_{number}\\">' in text and f"T_{number}_row0_col0" in text
    assert "<pandas.io.formats.style.Styler>" in text and " at 0x" not in text


@pytest.fixture
def port_taken(monkeypatch):
    """Another process took, in the meantime, the port that was found free for a kernel."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(LocalPortCache, "find_available_port", lambda *_: port)
        yield


def test_a_run_does_not_depend_on_free_ports(small, port_taken, monkeypatch, tmp_path):
    small("print('done')")
    assert call(monkeypatch, "small", "--output", tmp_path / "out.ipynb") == 0
    assert nbformat.read(tmp_path / "out.ipynb", 4).cells[-1].outputs[0].text == "done\n"


def test_nbval_does_not_depend_on_free_ports(port_taken, monkeypatch):
    monkeypatch.setattr(nbval.kernel, "KernelManager", KernelManager)  # put back after the test
    variables = runpy.run_path(str(ROOT / "notebooks" / "conftest.py"))
    with variables["sockets"]:
        kernel = nbval.kernel.RunningKernel("python3")
        kernel.stop()


def test_unfinished_runs_are_no_notebooks(small):
    path = small("print()")
    path.with_name(".123-small.ipynb").write_text("{}")
    assert run.names() == ["small"]


# Fig. 1


@pytest.fixture
def fig1():
    """The cells of Fig. 1's notebook, by id."""
    notebook = nbformat.read(ROOT / "notebooks" / "fig1_fuzziness_levels.ipynb", as_version=4)
    return {cell.id: cell for cell in notebook.cells}


@pytest.mark.parametrize("channel", [1, 3, 4, 99])
def test_fig1_refuses_a_filter_that_is_dead_or_not_there_before_the_fit(fig1, channel):
    target = torch.randn(5, 4, 3, 3)
    target[:, [1, 3]] = 0.1  # as from a filter whose inputs are all zero

    class Study:
        needs = SimpleNamespace(networks={"a": ["tap"]})
        pairs = staticmethod(lambda: [("", (SimpleNamespace(name="a"),) * 2)])
        network = staticmethod(lambda _: (None, {"test_accuracy": 1.0}))
        features = staticmethod(lambda *_: target)
        compare = staticmethod(lambda *_, **__: pytest.fail("the fit began"))

    given = {"study": Study, "channel": channel, "pictures": pictures}
    with pytest.raises(InputError) as caught:
        exec(fig1["cell-05"].source, given)
    assert str(caught.value) == (
        f"channel is {channel}; allowed are the filters 0 to 3 of tap, except those that give one "
        "value everywhere (1, 3); -1 chooses the one that varies most."
    )


def test_fig1_says_whose_photographs_it_shows(fig1):
    figure = fig1["cell-07"].metadata.mystnb
    called = {"creatures": "Creatures", "cub200": "CUB-200-2011"}
    caption = figure.figure.caption.split("Images: ")[1]
    for part in caption.split("; "):
        [name] = [name for name in called if called[name] in part]
        for profile in profile_names():
            assert (profiles.load(profile).data.name == name) == (profile in part)
    assert "CUB-200-2011" in figure.image.alt


# The real thing


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One notebook, run in a new process with a parameter that is not the default."""
    folder = tmp_path_factory.mktemp("run")
    words = ["notebooks/run.py", "fig2_disentangler", "--profile", "smoke", "-p", "seed", "1"]
    finished = subprocess.run(
        [sys.executable, *words, "--output", str(folder / "new" / "fig2.ipynb")],
        cwd=ROOT,
        env=os.environ | environment(folder),
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    return folder


def test_the_notebook_is_written_whole(done):
    assert [path.name for path in (done / "new").iterdir()] == ["fig2.ipynb"]
    notebook = nbformat.read(done / "new" / "fig2.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)


def test_the_notebook_keeps_no_trace_of_papermill_or_of_time(done):
    text = (done / "new" / "fig2.ipynb").read_text()
    notebook = nbformat.reads(text, as_version=4)
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    assert "version" not in notebook.metadata.language_info
    for cell in notebook.cells:
        assert not cell.metadata.keys() & {"papermill", "execution"}
    assert "step/s" not in text  # no progress bar
    assert str(done) not in text  # no path of this machine


def test_the_given_parameters_stand_in_a_cell_that_the_book_leaves_out(done):
    notebook = nbformat.read(done / "new" / "fig2.ipynb", as_version=4)
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    [place] = [k for k, tag in enumerate(tags) if "injected-parameters" in tag]
    assert "remove-cell" in tags[place] and "parameters" in tags[place - 1]
    assert "seed = 1" in notebook.cells[place].source
    assert 'profile = "smoke"' in notebook.cells[place].source


def test_the_result_is_written_with_what_it_came_from(done):
    folder = done / "results" / "smoke"
    result = json.loads((folder / "fig2_disentangler.json").read_text())
    had = result["provenance"]
    assert had["seeds"] == [1, 6]
    assert had["parameters"]["seed"] == 1 and had["parameters"]["profile"] == "smoke"
    assert had["networks"].keys() == {"vgg16_all_1", "vgg16_all_6"}
    exact = [row for row in result["rows"] if row["example"].startswith("sum of orders")]
    assert exact[0]["residual"] < 1e-5 and exact[1]["residual"] < 1e-13
    [shuffled] = [row for row in result["rows"] if row["norm"] == "dataset"]
    assert shuffled["residual"] < 1e-6
    with open(folder / "fig2_disentangler.csv") as file:
        assert len(list(csv.DictReader(file))) == len(result["rows"])


def test_refusals_by_the_library_reach_the_caller(monkeypatch, tmp_path):
    """`execute` turns what a kernel refused into the error of this process."""
    error = papermill.PapermillExecutionError(1, 1, "", "StoreError", "the disk is full", [])

    def full(*_words, **_options):
        raise error

    monkeypatch.setattr(papermill, "execute_notebook", full)
    with pytest.raises(InputError, match="^the disk is full$"):
        run.execute("fig2_disentangler", {}, tmp_path / "out.ipynb")


WRITING = """
import os, sys
with open(os.environ["KC_PROGRESS"], "a") as bars:
    print("for who waits", bars.isatty(), file=bars)
print("for who reads")
print("of interest to both", file=sys.stderr)
"""


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_go_where_the_run_s_errors_go_and_not_into_the_notebook(tmp_path, terminal):
    """Also to a terminal, which a bar wants to know of: a kernel in between does not hide it."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(WRITING)])
    nbformat.write(notebook, tmp_path / "given.ipynb")
    script = (
        "from pathlib import Path\n"
        "from kclib.report.running import run_notebook\n"
        "run_notebook(Path('given.ipynb'), {}, Path('done.ipynb'), folder=Path.cwd())\n"
    )
    reading, writing = os.openpty() if terminal else os.pipe()
    without = {name: value for name, value in os.environ.items() if name != "KC_PROGRESS"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=without, stderr=writing, timeout=120
    )
    said = os.read(reading, 10_000).decode()
    os.close(reading), os.close(writing)
    assert done.returncode == 0, said
    assert f"for who waits {terminal}" in said and "for who reads" not in said
    [cell] = nbformat.read(tmp_path / "done.ipynb", as_version=4).cells
    assert "".join(output.text for output in cell.outputs) == (
        "for who reads\nof interest to both\n"
    )
