"""Parameters and profiles: what is unknown or out of range is refused, with what is allowed."""

import pytest
import torch

from kclib import networks, parameters, profiles
from kclib.errors import InputError
from kclib.study import pair


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


def test_the_default_profile_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("KC_PROFILE", raising=False)
    assert parameters.checked({"profile": None}) == {"profile": "quick"}
    monkeypatch.setenv("KC_PROFILE", "smoke")
    assert parameters.checked({"profile": None}) == {"profile": "smoke"}


_TEXT = """
description: a test
data: {name: creatures, train: 10, test: 10}
networks:
  net: {architecture: alexnet, width: 0.5, size: 32, recipe: strong}
fit_epochs: 1
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
    ],
)
def test_bad_profiles_are_refused(old, new, message):
    assert profiles.parse(_TEXT, "made-up").networks["net"].width == 0.5
    with pytest.raises(InputError, match=message):
        profiles.parse(_TEXT.replace(old, new), "made-up")


@pytest.mark.parametrize("name", profiles.names())
def test_every_tap_of_every_profile_exists(name):
    profile = profiles.load(name)
    for artefact in profile.artefacts.values():
        for network, taps in artefact.networks.items():
            settings = profile.networks[network]
            size = min(settings.size, 64)
            built = networks.build(
                settings.architecture,
                classes=2,
                width=min(settings.width, 0.125),
                size=size,
                stem_stride=settings.stem_stride,
            ).eval()
            for tap in taps:
                head, _ = networks.split(built, tap)
                with torch.no_grad():
                    assert head(torch.zeros(1, 3, size, size)).dim() == 4


def test_pairs_differ_in_what_they_should():
    a, b = pair("net", "initialisations", 3)
    assert (a.part, b.part, a.seed, b.seed) == ("all", "all", 3, 8)
    a, b = pair("net", "halves", 3)
    assert (a.part, b.part, a.seed, b.seed) == ("first-half", "second-half", 3, 3)
    with pytest.raises(InputError, match="Did you mean 'halves'"):
        pair("net", "halfs", 0)
