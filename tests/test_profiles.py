"""A profile for a GPU is planned whole here, and run on what is cut down to a few photographs."""

import pytest
from test_sources import packs  # noqa: F401

from kclib.book import members, plans, profiles
from kclib.book.study import Study
from kclib.training.classifier import RECIPES

GPU = profiles.load("real112")


@pytest.mark.parametrize("artefact", GPU.artefacts)
def test_every_network_and_fit_of_an_artefact_can_be_planned(artefact):
    needs = GPU.artefacts[artefact]
    made = {plans.network(GPU, member).key for member in members.members(needs, seed=0)}
    assert len(made) == len(members.members(needs, seed=0))
    for _, (a, b) in members.pairs(needs, seed=0):
        for tap in needs.networks[a.name]:
            fitted = plans.fit(GPU, a, b, tap)
            assert plans.tail(GPU, b, tap, fitted=fitted, upto=2, epochs=needs.epochs).key
    assert made or needs.samples


def test_networks_are_as_wide_as_the_paper_s_and_fit_the_packs():
    for name, network in GPU.networks.items():
        recipe = network.training()
        assert (network.width, network.size) == (1, 112) and GPU.mixed
        assert recipe.augment == name.endswith("_augmented")
    assert GPU.networks["vgg16_authors"].training() == RECIPES["authors"]


@pytest.fixture
def cut(monkeypatch, tmp_path):
    """Run the profile on seven photographs a data set, narrow networks and one epoch."""
    monkeypatch.setenv("KC_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("KC_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("KC_PROGRESS", str(tmp_path / "bars"))
    monkeypatch.setenv("KC_DEVICE", "cpu")
    few = {"width": 0.0625, "size": 32, "stem_stride": 2, "epochs": 1, "batch": 4}
    networks = {}
    for name, network in GPU.networks.items():
        stem = {"stem_stride": 1} if network.architecture == "vgg16" else {}
        networks[name] = network.model_copy(update=few | stem)
    small = GPU.model_copy(update={"networks": networks, "fit_epochs": 1, "pruned_epochs": 1})
    monkeypatch.setattr(profiles, "load", lambda _: small)


@pytest.mark.parametrize(
    "artefact", ["table1_instability", "table3_refinement", "table4_redundancy"]
)
def test_pairs_of_its_networks_are_compared_and_refined(cut, artefact):
    study = Study(artefact, profile="real112", epochs=1)
    first = {}
    for _, pair in study.pairs():
        first.setdefault(pair[0].name, pair)
    assert first.keys() == study.needs.networks.keys()
    for a, b in first.values():
        for tap in study.needs.networks[a.name]:
            assert 0 <= study.compare(a, b, tap).train.residual
            [refined] = study.refine(a, b, tap)
            assert 0 <= refined.accuracy <= 1
