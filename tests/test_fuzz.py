"""Whatever a user gives is taken or refused in words: never a traceback for what can be put right.

Examples are drawn by hypothesis, the same in every run (KC_FUZZ=1000 draws that many others). What
would be computed from what is taken is left out.
"""

import copy
import hashlib
import importlib.util
import json
import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import papermill
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import a_result, an_outcome
from test_datasets import write_pack

from kclib.__main__ import main
from kclib.book import environment, members, plans, profiles, records
from kclib.errors import InputError
from kclib.images.datasets import load_pack
from kclib.report import comparison, items, running

ROOT = Path(__file__).parent.parent
SMOKE = (ROOT / "kclib" / "book" / "profiles" / "smoke.yaml").read_text()


def fuzzed(examples: int):
    """Draw the same examples in every run, on every machine."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=int(os.environ.get("KC_FUZZ", examples)),
        derandomize="KC_FUZZ" not in os.environ,
        database=None,
        deadline=None,
        suppress_health_check=quiet,
    )


#: What may stand where a value belongs.
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 300),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["", " ", "0", "-1", "1e400", "nan", "inf", "true", "null", "é", "../..", "~"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
#: A word of a command line.
word = st.one_of(
    st.text(st.characters(exclude_characters="\0/.~", exclude_categories=("Cs",)), max_size=8),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["", "-", "--", ".", "/dev/null", "None", "-p", "a,b", ":", "x.py:f", "1" * 99]
    ),
)


def leaves(value, path=()):
    """Yield the places of all that is in a nested value, itself included."""
    yield path
    inner = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    for key, one in inner:
        yield from leaves(one, (*path, key))


@st.composite
def altered(draw, value):
    """Return a nested value of which up to three parts were replaced, renamed or left out."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from([p for p in leaves(value) if p] or [(None,)]))
        place = value
        for key in above:
            place = place[key]
        if last is None:
            continue
        how = draw(st.sampled_from(["other", "gone", "renamed"]))
        if how == "other" or isinstance(place, list):
            place[last] = draw(odd)
        else:
            had = place.pop(last)
            if how == "renamed":
                place[draw(st.text(max_size=8))] = had
    return value


def flipped(content: bytes):
    """Draw content of which a few bytes are others, or the end is missing."""
    places = st.lists(
        st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255)),
        min_size=1,
        max_size=3,
        unique_by=lambda drawn: drawn[0],
    )

    def change(drawn):
        changed = bytearray(content)
        for place, by in drawn:
            changed[place] ^= by
        return bytes(changed)

    cut = st.integers(0, len(content) - 1).map(lambda length: content[:length])
    return places.map(change) | cut


def refused_in_words(error: InputError) -> None:
    """Check that a message can be read."""
    said = str(error)
    assert said.strip() and "Traceback" not in said and len(said.splitlines()) <= 3, said


# --- profiles ---------------------------------------------------------------------------------


def planned(text: str) -> None:
    """Read a profile, and plan all that it asks for, as the Snakefile does."""
    try:
        profile = profiles.parse(text, "mine")
        for needs in profile.artefacts.values():
            if sum(needs.conditions.values()) + needs.repeats + needs.generations > 100:
                return  # much is allowed; here it only takes time
            for member in members.members(needs, seed=0)[:2]:
                assert plans.network(profile, member).key
    except InputError as error:
        refused_in_words(error)


@fuzzed(150)
@given(altered(yaml.safe_load(SMOKE)))
def test_a_profile_with_other_values_is_planned_or_refused(content):
    planned(yaml.safe_dump(content, allow_unicode=True))


@fuzzed(100)
@given(flipped(SMOKE.encode()) | st.binary(max_size=60))
def test_a_damaged_profile_is_planned_or_refused(content):
    planned(content.decode("latin-1"))


# --- results ----------------------------------------------------------------------------------


@fuzzed(150)
@given(altered(a_result(claims=[an_outcome()]).model_dump(mode="json")))
def test_a_result_with_other_values_is_read_or_refused(tmp_path, content):
    path = tmp_path / "smoke" / "table0.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    try:
        result = records.read(path)
        assert result.right_answers() is not None
    except InputError as error:
        refused_in_words(error)


# --- packs and arrays -------------------------------------------------------------------------


@fuzzed(150)
@given(st.data())
def test_a_damaged_pack_is_refused(tmp_path, data):
    whole = tmp_path / "whole.npz"
    if not whole.exists():
        write_pack(whole)
    path = tmp_path / "birds.npz"
    path.write_bytes(data.draw(flipped(whole.read_bytes())))
    digest = hashlib.sha256(whole.read_bytes()).hexdigest()
    with pytest.raises(InputError) as caught:
        load_pack(path.name, 16, tmp_path, checksum=digest)
    refused_in_words(caught.value)
    shown(path)


def shown(path: Path) -> None:
    """Take what is given to `kclib.compare` as what networks are shown."""
    try:
        found = items.items_of(str(path), fewest=1)
        found.get(range(min(3, len(found))))
    except InputError as error:
        refused_in_words(error)


array = st.one_of(
    st.integers(0, 9).map(lambda n: np.arange(n)),
    st.integers(0, 9).map(lambda n: np.zeros((n, 3, 8, 8), np.uint8)),
    st.integers(0, 9).map(lambda n: np.full((n, 4), np.nan)),
    st.just(np.array(3)),
    st.lists(st.text(max_size=3), max_size=9).map(np.array),
    st.just(np.zeros((4, 3, 0, 0), np.uint8)),
    st.just(np.array([2**40, -1])),
    st.just(np.zeros(3, np.complex64)),
)


@fuzzed(150)
@given(
    st.dictionaries(
        st.sampled_from(["jpeg", "offsets", "names", "label", "class_names", "part_xyv", "x"]),
        array,
        max_size=7,
    )
)
def test_arrays_of_any_kind_are_shown_or_refused(tmp_path, arrays):
    path = tmp_path / "arrays.npz"
    np.savez(path, **arrays)
    shown(path)


# --- make -------------------------------------------------------------------------------------


@fuzzed(60)
@given(
    st.sampled_from(["book", "record", "notebook", "bench", "compare"]),
    st.dictionaries(
        st.sampled_from(
            "PROFILE BUDGET CORES CAP SEEDS NAME PARAMS PAIRS A B IMAGES OUT PYTHON".split()
        ),
        # make itself takes $ and #; a value of several lines is no word.
        st.text(
            st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="$#\\"),
            max_size=8,
        )
        | st.sampled_from(["smoke", "20m", "0", "3", "table1_instability", "seed=3", "it's"]),
        max_size=4,
    ),
)
def test_make_plans_or_refuses_whatever_its_variables_are(target, variables):
    """What it would run is never misread by the shell: quotes end where they should."""
    words = [f"{name}={value}" for name, value in variables.items()]
    planned = subprocess.run(
        ["make", "-n", target, *words], cwd=ROOT, capture_output=True, text=True
    )
    if planned.returncode:
        assert planned.returncode == 2 and "***" in planned.stderr
        assert len(planned.stderr.splitlines()) == 1
        return
    assert planned.stderr == ""
    run = shlex.split(planned.stdout.replace("\\\n", " "))
    if target == "compare" and "OPTIONS" not in variables:
        given = run[run.index("compare") + 1 :]
        wanted = [variables[name] for name in ("A", "B") if variables.get(name, "").strip()]
        assert given[: len(wanted)] == wanted


# --- the command line -------------------------------------------------------------------------

NETWORKS = """
import torch
def small():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU())
def none():
    return None
def fails():
    raise RuntimeError("no such weights")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with networks and images, in which commands run; comparing itself is left out."""

    class Began(InputError):
        pass

    def run_notebook(_notebook, parameters, _output, *, folder):
        given = {k: v for k, v in parameters.items() if k not in ("out", "command")}
        given["device"] = given["device"] or "cpu"
        comparison.compare(**given)

    def forecast(*_, **__):
        raise Began("the comparison began")

    monkeypatch.setattr(running, "run_notebook", run_notebook)
    monkeypatch.setattr(comparison, "forecast", forecast)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETWORKS)
    torch.manual_seed(0)
    np.save(tmp_path / "images.npy", np.zeros((40, 3, 12, 12), np.uint8))
    np.save(tmp_path / "few.npy", np.zeros((3, 3, 12, 12), np.uint8))
    (tmp_path / "list.txt").write_text("nowhere.jpg\n")
    (tmp_path / "broken.safetensors").write_bytes(b"12345678abc")
    return tmp_path


def ends_in_words(capsys, words: list[str]) -> None:
    """Check that a command ends without a traceback, and says in words why it stopped if it did."""
    try:
        status = main(words)
    except SystemExit as stopped:  # of argparse
        status = stopped.code
    said = capsys.readouterr()
    assert status in (0, 2), words
    assert status == 0 or said.err.strip(), words


network = st.sampled_from(
    ["nets.py:small", "nets.py:none", "nets.py:fails", "nets.py:gone", "torchvision:resnt18"]
)
files = st.sampled_from(["images.npy", "few.npy", "list.txt", "broken.safetensors", "nets.py", "."])
option = st.one_of(
    st.tuples(st.sampled_from(["--order", "--kernel-size", "--batch", "--seed", "--size"]), word),
    st.tuples(
        st.sampled_from(["--order", "--kernel-size", "--batch", "--seed", "--size"]),
        st.integers(-2, 40).map(str),
    ),
    st.tuples(st.sampled_from(["--taps-a", "--taps-b"]), word | st.sampled_from(["0", "1,0", ","])),
    st.tuples(st.sampled_from(["--weights-a", "--weights-b"]), word | files | st.just("random")),
    st.tuples(st.just("--device"), word | st.sampled_from(["cpu", "cuda:7", "meta", "mps", "xla"])),
    st.tuples(st.just("--again"), network | word),
    st.tuples(st.just("--images-b"), files | word),
    st.tuples(st.just("--list-taps")),
)
comparing = st.tuples(
    st.just(["compare"]),
    st.tuples(network | word, network | word).map(list),
    st.tuples(st.just("--images"), files | word).map(list),
    st.lists(option, max_size=3).map(lambda drawn: [one for words in drawn for one in words]),
).map(lambda parts: [one for words in parts for one in words])


@fuzzed(150)
@given(comparing | st.lists(word, max_size=5))
def test_kclib_ends_in_words(folder, capsys, words):
    ends_in_words(capsys, words)


@fuzzed(100)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["vgg16_all_0", "vgg16_all_99999999999999999999_pruned0.5"]),
            st.tuples(word, word, word).map("_".join),
            st.just("--profile"),
            word,
        ),
        max_size=4,
    )
)
def test_kclib_network_ends_in_words(tmp_path, capsys, monkeypatch, words):
    from kclib.book.making import Workshop

    monkeypatch.setattr(
        Workshop,
        "record",
        lambda *_: dict.fromkeys(("test_accuracy", "train_accuracy"), 0.5),
    )
    ends_in_words(capsys, ["network", *words])


specification = importlib.util.spec_from_file_location("run", ROOT / "notebooks" / "run.py")
run = importlib.util.module_from_spec(specification)
specification.loader.exec_module(run)


@fuzzed(150)
@given(
    st.sampled_from(run.names()) | word,
    st.lists(
        st.tuples(
            st.sampled_from(["seed", "order", "norm", "ratios", "profile", "epochs", "rate"])
            | word,
            word | odd.map(str),
        ),
        max_size=3,
    ),
    st.sampled_from([[], ["--output", "out.ipynb"], ["--output", "."], ["--profile", "smok"]]),
)
def test_a_notebook_s_command_ends_in_words(folder, capsys, monkeypatch, name, given, more):
    monkeypatch.setattr(papermill, "inspect_notebook", run_inspect)
    monkeypatch.setattr(run, "run_notebook", lambda *_, **__: None)
    words = [one for pair in given for one in ("-p", *pair)]
    monkeypatch.setattr("sys.argv", ["run.py", name, *words, *more])
    try:
        status = run.main()
    except SystemExit as stopped:
        status = stopped.code
    said = capsys.readouterr()
    assert status == 0 or (status == 2 and said.err.strip())


inspected = {}
inspect_notebook = papermill.inspect_notebook


def run_inspect(path):
    """Read a notebook's parameters once."""
    if path not in inspected:
        inspected[path] = inspect_notebook(path)
    return inspected[path]


@fuzzed(60)
@given(st.sampled_from(["KC_DEVICE", "KC_PROFILE", "KC_DATA", "KC_STORE"]), word)
def test_environment_variables_are_taken_or_refused(tmp_path, name, value):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv(name, value)
        try:
            environment.device(), environment.store_folder(), environment.data_folder()
        except InputError as error:
            refused_in_words(error)
