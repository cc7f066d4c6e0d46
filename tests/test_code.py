"""A digest of code sees what a definition reaches, and nothing else."""

import pytest

from kclib.book import code

SOURCES = {
    "__init__": "from .solver import solve\n\n__version__ = '1'\n",
    "errors": "class Error(Exception):\n    pass\n",
    "measures": (
        "SCALE = 2\n\n\n"
        "class Moments:\n    pass\n\n\n"
        "def variance(x):\n    return x.var() * SCALE\n\n\n"
        "def median(x: Moments):\n    return x.median()\n"
    ),
    "plots": "def draw():\n    pass\n",
    "solver": (
        '"""Solve."""\n'
        "from .errors import Error\n"
        "from .measures import variance\n\n"
        "RATES = {}\n\n\n"
        "class Solver:\n"
        '    """A solver."""\n\n'
        "    rate = 0.1\n\n\n"
        "def solve(x, order=2):\n"
        '    """Solve it."""\n'
        '    name = "joint"\n'
        "    return Solver().rate * variance(x) * order, name\n\n\n"
        "def other(x):\n"
        "    return x\n"
    ),
    "book/__init__": "",
    "book/making": "from ..solver import solve\n\n\ndef make(x):\n    return solve(x)\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package like kclib in which sources can be changed; returns the digest of a definition."""
    monkeypatch.setattr(code, "_PACKAGE", tmp_path)
    (tmp_path / "book").mkdir()

    def forget():
        for remembers in (code.digest, code._read, code._definitions, code._known, code._tree):
            remembers.cache_clear()

    def write(changes):
        for name, source in (SOURCES | changes).items():
            (tmp_path / f"{name}.py").write_text(source)
        forget()

    def digest(module="book.making", name="make", **changes):
        write(changes)
        return code.digest(module, name)

    digest.write = write
    yield digest
    forget()


def changed(old, new, name="solver"):
    assert SOURCES[name].count(old) == 1
    return {name: SOURCES[name].replace(old, new)}


@pytest.mark.parametrize(
    "changes",
    [
        changed('"""Solve."""', '"""Solve anything.\n\nAt length.\n"""'),
        changed('"""A solver."""', '"""The solver."""'),
        changed('"""Solve it."""', '"""Do."""'),
        changed("    rate = 0.1", "    # Found by trying.\n    rate = 0.1  # a second"),
        changed("solve(x, order=2):", "solve(\n    x,\n    order=2,\n):"),
        changed('"joint"', "'joint'"),
        changed("Solver().rate * variance(x) * order", "(Solver().rate * variance(x)) * order"),
        changed("pass", "raise SystemExit", "plots"),  # not imported
        changed("pass", "code = 3", "errors"),  # cannot change a number
        changed("    return x\n", "    return -x\n"),  # not called
        changed("x.median()", "x.mean()", "measures"),  # nor this
        changed("SCALE = 2", "SCALE = 2\n\n\ndef helper():\n    pass", "measures"),
    ],
    ids=str,
)
def test_the_digest_does_not_see_what_is_not_reached(package, changes):
    assert package() == package(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        changed("0.1", "0.2"),
        changed("order=2", "order=3"),
        changed('"joint"', '"Joint"'),
        changed("variance(x) *", "variance(x) +"),
        changed("    rate = 0.1\n", "    pass\n"),
        changed("x.var()", "x.var(0)", "measures"),
        changed("SCALE = 2", "SCALE = 3", "measures"),
    ],
    ids=str,
)
def test_the_digest_sees_what_is_reached(package, changes):
    assert package() != package(**changes)


@pytest.mark.parametrize(
    "source",
    [
        "from kclib.measures import variance\nvariance(1)",
        "from kclib.measures import variance as v\nv(1)",
        "from kclib import plots, measures as m\nm.variance(1)",
        "from kclib import measures\nuse(measures)",  # handed on as a whole
        "import kclib.measures\nkclib.measures.variance(1)",
        "import numpy, kclib.measures as m\nm.variance(1)",
        "def f():\n    from kclib.measures import variance\n    return variance",
        "from kclib.solver import solve\nsolve(1)",  # which uses it
        "from kclib import solve\nsolve(1)",  # which the package takes from there
        "import kclib\nkclib.solve(1)",
        "from kclib.book.making import make\nmake(1)",
    ],
)
def test_every_way_to_use_a_definition_counts(package, source):
    package.write({})
    before = code.digest_of_source(source)
    package.write(changed("x.var()", "2 * x.var()", "measures"))
    assert code.digest_of_source(source) != before
    package.write(changed("pass", "raise SystemExit", "errors"))
    assert code.digest_of_source(source) == before


def test_an_annotation_names_a_class_whose_methods_are_used(package):
    before = package("measures", "median")
    moments = changed("class Moments:\n    pass", "class Moments:\n    a = 1", "measures")
    assert package("measures", "median", **moments) != before


def test_definitions_may_use_each_other(package):
    circle = {
        "measures": "from .solver import solve\n" + SOURCES["measures"] + "    solve(x)\n",
        "solver": SOURCES["solver"].replace("variance", "median"),
    }
    assert package(**circle) != package()


def test_what_is_of_other_packages_is_none_of_ours(package):
    package.write({})
    source = "import numpy\nfrom torch import solver\nfrom os.path import join\nsolver.solve(join)"
    assert code.digest_of_source(source) == code.digest_of_source("")
