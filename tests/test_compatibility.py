"""Importing kclib: light, and torchvision works afterwards."""

import subprocess
import sys
from pathlib import Path

import torch

from kclib import compatibility

ROOT = Path(__file__).parent.parent
#: What only the book, its notebooks and the command line need.
HEAVY = """
jupyter jupyter_core jupyter_book IPython ipykernel nbformat nbclient papermill pydantic yaml
matplotlib seaborn pandas scipy tqdm snakemake
""".split()


def python(code):
    """Run code in a fresh interpreter; return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


#: torchvision at work: a model and a transform.
USE = """
import torch
from torchvision import models, transforms
crop = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(32)])
print(tuple(models.resnet18(num_classes=3).eval()(crop(torch.zeros(2, 3, 40, 48))).shape))
"""


def test_importing_kclib_adds_nothing_of_the_book():
    added, shape = python(
        "import sys, torch.hub\n"  # which takes tqdm where it is installed
        "before = set(sys.modules)\n"
        "import kclib\n"
        "kclib.Disentangler, kclib.fit, kclib.compare\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})\n" + USE
    ).splitlines()
    assert "kclib" in added.split()
    assert set(added.split()) & set(HEAVY) == set()
    assert shape == "(2, 3)"


def test_what_takes_torch_is_imported_when_it_is_asked_for():
    before, after, unknown = python(
        "import sys, kclib, kclib.__main__\n"
        "print('torch' in sys.modules, {*kclib.__all__} <= {*dir(kclib)})\n"
        "print(*(getattr(kclib, one).__name__ for one in [*kclib.__all__, 'planted']))\n"
        "print(hasattr(kclib, 'fitt'))\n"
    ).splitlines()
    assert before == "False True"
    assert after == "Comparison Disentangler Fit compare fit kclib.planted"
    assert unknown == "False"


def test_a_module_whose_packages_are_missing_says_so():
    assert (
        python(
            "import sys, kclib\n"
            "sys.modules['torch'] = None\n"
            "try:\n"
            "    kclib.measures\n"
            "except ImportError as error:\n"
            "    print(error.name)\n"
        )
        == "torch\n"
    )


def test_kclib_imports_where_torchvisions_library_does_not_and_nothing_of_the_book_is_there():
    declared, schema, shape = python(
        "import sys, torch\n"
        f"sys.modules |= dict.fromkeys({HEAVY})\n"  # None: their import fails
        "def fail(_):\n"
        "    raise OSError('undefined symbol')\n"
        "torch.ops.load_library = fail\n"
        "import kclib, torchvision\n"
        "print(kclib.compatibility.declare_missing_operators())\n"  # nothing is declared twice
        "print(torch.ops.torchvision.nms.default._schema)\n" + USE
    ).splitlines()
    assert declared == "True"
    assert schema.startswith("torchvision::nms(Tensor dets, Tensor scores, float iou_threshold)")
    assert shape == "(2, 3)"


def test_nothing_is_declared_where_the_library_loads(monkeypatch):
    loaded = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    monkeypatch.setattr(compatibility, "_library", None)

    def declared(*_):
        raise AssertionError("schemas were declared")

    monkeypatch.setattr(torch.library, "Library", declared)
    assert compatibility.declare_missing_operators() is False
    assert compatibility._library is None
    assert [Path(path).name.split(".")[0] for path in loaded] == ["_C"]


def test_nothing_is_declared_without_torchvision(monkeypatch):
    monkeypatch.setattr(compatibility, "_library", None)
    monkeypatch.setattr(compatibility.importlib.util, "find_spec", lambda _: None)
    assert compatibility.declare_missing_operators() is False
    assert compatibility._library is None


def test_without_the_extra_the_command_says_in_one_line_what_to_install():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "sys.modules |= dict.fromkeys(['pydantic', 'tqdm'])\n"  # None: they are not there
            "from kclib.__main__ import main\n"
            "sys.exit(main(['network', 'vgg16_all_0']))\n",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: kclib.book needs pydantic, tqdm, which are not installed; install the extra: "
        'pip install "kclib[book]".\n'
    )


def test_all_but_the_book_is_there_after_a_plain_install():
    files = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "kclib").rglob("*.py")]
    apart = {"book", "report"}  # each has an extra of its own
    modules = [".".join(f.parts) for f in files if not apart & {*f.parts} and "__" not in f.stem]
    python(
        "import importlib, sys\n"
        f"sys.modules |= dict.fromkeys({HEAVY + ['platformdirs']})\n"
        f"[importlib.import_module(name) for name in {modules}]\n"
    )
