"""Parameters and profiles: what is unknown or out of range is refused, with what is allowed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kclib import networks
from kclib.book import environment, parameters, profiles
from kclib.errors import InputError
from kclib.training.classifier import RECIPES

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("[!.]*.ipynb"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ordre": 2}, "Did you mean 'order'"),
        ({"profile": "quik"}, "Did you mean 'quick'"),
        ({"norm": "images"}, "Did you mean 'image'"),
        ({"order": -1}, "from 0 to 5"),
        ({"order": 2.5}, "whole numbers"),
        ({"order": "two"}, "from 0 to 5"),
        ({"order": True}, "from 0 to 5"),
        ({"seed": -1}, "from 0"),
        ({"resamples": 3}, "from 20"),
        ({"penalty": float("nan")}, "from 0"),
        ({"images": 13}, "from 1 to 12"),
    ],
)
def test_bad_parameters_are_refused(given, message):
    with pytest.raises(InputError, match=message) as caught:
        parameters.checked(given)
    assert str(next(iter(given.values()))) in str(caught.value) or "ordre" in str(caught.value)


def test_text_becomes_a_number():
    assert parameters.checked({"order": "1", "penalty": "0.5"}) == {"order": 1, "penalty": 0.5}
    assert type(parameters.checked({"order": 1.0})["order"]) is int


@pytest.mark.parametrize("name", sorted(parameters.NUMBERS.keys() - parameters.OPTIONAL))
def test_ranges_reach_to_their_ends_and_no_further(name):
    kind, low, high, meaning = parameters.NUMBERS[name]
    for value in (low, high):
        found = parameters.checked({name: str(value)})[name]
        assert found == value and type(found) is kind
    for value in (low - 1, high + 1, "", None, [1], "1e999"):
        with pytest.raises(InputError) as caught:
            parameters.checked({name: value})
        said = str(caught.value)
        assert said.startswith(f"the parameter {name} is {value!r}; allowed: ")
        assert f"from {low} to {high} ({meaning})" in said


def test_a_bad_profile_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("KC_PROFILE", "smok")
    with pytest.raises(InputError, match="Did you mean 'smoke'"):
        parameters.checked({"profile": None})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_defaults_of_every_notebook_are_allowed(path):
    cells = json.loads(path.read_text())["cells"]
    [cell] = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    defaults: dict = {}
    exec("".join(cell["source"]), defaults)
    del defaults["__builtins__"]
    checked = parameters.checked(defaults)
    assert {n: v for n, v in checked.items() if n != "profile"} == {
        n: v for n, v in defaults.items() if n != "profile"
    }


def test_the_default_profile_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("KC_PROFILE", raising=False)
    assert parameters.checked({"profile": None}) == {"profile": "quick"}
    monkeypatch.setenv("KC_PROFILE", "smoke")
    assert parameters.checked({"profile": None}) == {"profile": "smoke"}


def test_optional_parameters_and_lists():
    assert parameters.checked({"generations": None, "ratios": None}) == {
        "generations": None,
        "ratios": None,
    }
    assert parameters.checked({"ratios": "0.5, 0.9"}) == {"ratios": [0.5, 0.9]}
    for name, value in (("ratios", "0.5,1.2"), ("ratios", ""), ("generations", 0), ("epochs", 0)):
        with pytest.raises(InputError, match=f"parameter {name} is"):
            parameters.checked({name: value})


_TEXT = """
description: a test
data: {name: creatures, train: 10, test: 10}
networks:
  net: {architecture: alexnet, width: 0.5, size: 32, recipe: strong}
fit_epochs: 1
pruned_epochs: 1
artefacts: {}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width: 0.5", "widht: 0.5", "widht"),
        ("width: 0.5", "width: 0", "networks.net.width"),
        ("width: 0.5", "width: 1.5", "networks.net.width"),
        ("alexnet", "alexnett", "architecture"),
        ("train: 10", "train: -1", "data.train"),
        ("fit_epochs: 1", "fit_epochs: 0", "fit_epochs"),
        ("artefacts: {}", "artefacts: {fig: {networks: {nett: [conv4]}}}", "Did you mean 'net'"),
        ("description: a test", "description: [", "YAML"),
        ("width: 0.5", "width: wide", "networks.net.width"),
        ("recipe: strong", "recipe: strog", "networks.net.recipe"),
        ("recipe: strong", "recipe: strong, epochs: 0", "networks.net.epochs"),
        ("size: 32", "size: 31", "networks.net.size"),
        ("size: 32, ", "", "networks.net.size"),
        ("creatures", "cub201", "data.name"),
        ("artefacts: {}", "artefacts: {fig: {conditions: [halfs]}}", "artefacts.fig.conditions"),
        (
            "artefacts: {}",
            "artefacts: {fig: {networks: {net: [a]}, pairs: {nett: 2}}}",
            "whose pairs",
        ),
        ("artefacts: {}", "artefacts: {fig: {}}\nfit_epoch: 3", "fit_epoch"),
        ("artefacts: {}", "artefacts: {fig: {ratios: [0.5, 1.2]}}", "artefacts.fig.ratios"),
        ("{architecture", "{hidden_parts: [wing], architecture", "networks.net.hidden_parts"),
        ("size: 32", "size: 32, data: {name: cub200}, labels: coarse", "no coarse labels"),
        ("size: 32", "size: 32, data: {name: cub200}, hidden_parts: [head]", "Creatures only"),
    ],
)
def test_bad_profiles_are_refused(old, new, message):
    assert profiles.parse(_TEXT, "made-up").networks["net"].width == 0.5
    with pytest.raises(InputError, match=message):
        profiles.parse(_TEXT.replace(old, new), "made-up")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_profile_that_is_no_mapping_is_refused(text):
    with pytest.raises(InputError, match="'made-up' is not a mapping"):
        profiles.parse(text, "made-up")


def test_a_profile_is_called_what_its_file_is_called():
    assert profiles.parse(_TEXT + "name: another\n", "made-up").name == "made-up"
    with pytest.raises(InputError, match="no profile 'quikc'.* Did you mean 'quick'"):
        profiles.load("quikc")


def test_a_network_changes_single_fields_of_its_recipe():
    plain = profiles.parse(_TEXT, "made-up").networks["net"].training()
    assert plain == RECIPES["strong"]
    text = _TEXT.replace("recipe: strong", "recipe: strong, epochs: 3, augment: false")
    changed = profiles.parse(text, "made-up").networks["net"].training()
    assert changed == replace(plain, epochs=3, augment=False)


@pytest.mark.parametrize("name", environment.profile_names())
def test_every_artefact_of_every_profile_is_a_notebook(name):
    assert profiles.load(name).name == name
    assert profiles.load(name).artefacts.keys() == {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("name", environment.profile_names())
def test_every_tap_of_every_profile_exists(name):
    profile = profiles.load(name)
    wanted = set()
    for artefact in profile.artefacts.values():
        for network, taps in artefact.networks.items():
            given = profile.networks[network]
            size, width = min(given.size, 64), min(given.width, 0.125)
            wanted |= {(given.architecture, width, size, given.stem_stride, tap) for tap in taps}
    for architecture, width, size, stride, tap in wanted:
        built = networks.build(
            architecture, classes=2, width=width, size=size, stem_stride=stride
        ).eval()
        head, _ = networks.split(built, tap)
        with torch.no_grad():
            assert head(torch.zeros(1, 3, size, size)).dim() == 4
