"""The study: what a notebook asks for is made once, kept, and recorded with its provenance."""

import sys
import time
from datetime import date
from pathlib import Path

import pytest
import torch
from made_up import a_result

from kclib import __main__ as command_line
from kclib import networks, solver
from kclib.book import code, environment, making, pictures, plans, profiles, records
from kclib.book.members import SUBSETS, Member
from kclib.book.study import Study
from kclib.errors import InputError
from kclib.measures import variance
from kclib.training import classifier, pruning, refinement

OPTIONS = {"order": 1, "norm": "image"}


@pytest.fixture(scope="module", autouse=True)
def folders(tmp_path_factory):
    """Keep the store and the results of these tests apart from the reader's."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("study")
        for name in ("KC_STORE", "KC_RESULTS"):
            patch.setenv(name, str(root / name))
        patch.setenv("KC_DEVICE", "cpu")
        patch.setenv("KC_PROGRESS", str(root / "bars"))
        patch.delenv("KC_PROFILE", raising=False)
        yield root


def begin(**given) -> Study:
    return Study("fig2_disentangler", **{"profile": "smoke", "order": 1, "channels": 4, **given})


@pytest.fixture(scope="module")
def first():
    """A study that made its networks and its fit."""
    made = begin()
    [(_, (a, b))] = made.pairs()
    return made, (a, b), made.compare(a, b, "conv4_3", **OPTIONS)


@pytest.fixture
def nothing_is_made(monkeypatch):
    """Training and fitting fail."""

    def refuse(*_words, **_options):
        raise AssertionError("made again")

    monkeypatch.setattr(classifier, "train", refuse)
    monkeypatch.setattr(solver, "fit", refuse)


# Pairs


def test_a_study_has_the_pairs_that_its_profile_asks_for():
    asked = Study("table1_instability", profile="smoke", seed=7)
    found = [(condition, a.name, a.seed, b.seed) for condition, (a, b) in asked.pairs()]
    assert found == [
        ("initialisations", "alexnet", 7, 12),
        ("initialisations", "vgg16", 7, 12),
        ("initialisations", "resnet34", 7, 12),
        ("halves", "alexnet", 7, 7),
        ("halves", "vgg16", 7, 7),
        ("halves", "resnet34", 7, 7),
    ]


# Refusals


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"profile": "smok"}, "Did you mean 'smoke'"),
        ({"sede": 3}, "no parameter 'sede'. Did you mean 'seed'"),
        ({"order": 6}, "the parameter order is 6; allowed: whole numbers from 0 to 5"),
        ({"seed": -1}, "the parameter seed is -1"),
    ],
)
def test_bad_parameters_are_refused_before_anything_is_made(folders, words, message):
    before = sorted(folders.rglob("*"))
    with pytest.raises(InputError, match=message):
        begin(**words)
    assert sorted(folders.rglob("*")) == before


def test_an_artefact_or_network_or_tap_that_is_none_is_refused(first):
    made, (a, b), _ = first
    with pytest.raises(InputError, match="Did you mean 'fig2_disentangler'"):
        Study("fig2_disentanger", profile="smoke")
    with pytest.raises(InputError, match="no network 'vgg61'. Did you mean 'vgg16'"):
        made.network(Member("vgg61", 0))
    with pytest.raises(InputError, match="no tap 'conv4_4'. Did you mean 'conv4_"):
        made.compare(a, b, "conv4_4")
    with pytest.raises(InputError, match="no split 'tests'. Did you mean 'test'"):
        made.images("tests", "vgg16")


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_none_is_refused(monkeypatch, name):
    monkeypatch.setenv("KC_DEVICE", name)
    with pytest.raises(InputError, match=f"KC_DEVICE names the device '{name}'"):
        begin()


# What is made


def test_a_network_s_record_agrees_with_the_network(first):
    made, (a, _), _ = first
    network, record = made.network(a)
    assert not network.training
    assert record["parameters"] == networks.parameter_count(network)
    assert len(record["history"]) == made.profile.networks[a.name].epochs
    images = made.images("test", "vgg16")
    found = classifier.accuracy(network, images.images, images.labels)
    assert record["test_accuracy"] == found


def test_members_of_a_pair_are_different_networks(first):
    made, members, _ = first
    one, other = (made.network(member)[0].state_dict() for member in members)
    assert not torch.equal(one["features.0.weight"], other["features.0.weight"])


def test_halves_are_disjoint_and_make_the_whole():
    made = begin()
    halves = [made.training_images(Member("vgg16", 0, subset)) for subset in SUBSETS[1:3]]
    whole = made.training_images(Member("vgg16", 0))
    assert sum(map(len, halves)) == len(whole) == 160
    rows = [{image.numpy().tobytes() for image in half.images} for half in halves]
    assert not rows[0] & rows[1]
    assert rows[0] | rows[1] == {image.numpy().tobytes() for image in whole.images}


@torch.no_grad()
def test_a_comparison_is_measured_on_both_splits(first):
    made, members, comparison = first
    assert len(comparison.loss) == made.profile.fit_epochs and comparison.seconds > 0
    assert not comparison.disentangler.training and comparison.disentangler.order == 1
    for split, found in (("train", comparison.train), ("test", comparison.test)):
        x, target = (made.features(member, "conv4_3", split) for member in members)
        assert len(found.target.square) == len(target) == {"train": 160, "test": 64}[split]
        parts = comparison.disentangler.decompose(x)
        whole = variance(target)
        assert found.residual == pytest.approx(variance(target - parts.sum(0)) / whole, rel=1e-4)
        assert found.explained == pytest.approx([variance(p) / whole for p in parts], rel=1e-4)


# What is kept


def test_a_second_study_makes_nothing(first, nothing_is_made):
    made, (a, b), comparison = first
    again = begin()
    for member in (a, b):
        (one, record), (other, kept) = made.network(member), again.network(member)
        state = other.state_dict()
        assert record == kept
        assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())
    kept = again.compare(a, b, "conv4_3", **OPTIONS)
    assert (kept.test.residual, kept.test.explained) == (
        comparison.test.residual,
        comparison.test.explained,
    )
    assert (kept.loss, kept.seconds) == (comparison.loss, comparison.seconds)
    x = torch.randn(2, comparison.disentangler.linears[0].in_channels, 4, 4)
    assert torch.equal(kept.disentangler(x), comparison.disentangler(x))


def test_another_notebook_finds_what_this_one_made(first, nothing_is_made):
    _, (a, b), comparison = first
    other = Study("table2_orders", profile="smoke", order=2)
    assert other.compare(a, b, "conv4_3", **OPTIONS).test.residual == comparison.test.residual


def test_a_fit_is_loaded_with_the_kernel_that_it_was_made_with(first):
    made, (a, b), _ = first
    fits = [begin().compare(a, b, "conv4_3", order=0, kernel_size=1, norm="dataset") for _ in "ab"]
    assert fits[0].disentangler.settings["kernel_size"] == 1
    assert fits[0].test.residual == fits[1].test.residual


@pytest.mark.parametrize("change", [{"order": 0}, {"norm": "dataset"}, {"penalty": 0.2}])
def test_other_options_are_another_fit(first, nothing_is_made, change):
    made, (a, b), _ = first
    with pytest.raises(AssertionError, match="made again"):
        made.compare(a, b, "conv4_3", **OPTIONS | change)


def test_another_direction_tap_seed_or_part_is_another_entry(first, nothing_is_made):
    made, (a, b), _ = first
    for change in ((b, a, "conv4_3"), (a, b, "conv4_2"), (a, a, "conv4_3")):
        with pytest.raises(AssertionError, match="made again"):
            made.compare(*change, **OPTIONS)
    for member in (Member(a.name, 1), Member(a.name, 0, "first-half"), Member("alexnet", 0)):
        with pytest.raises(AssertionError, match="made again"):
            made.network(member)


def test_a_network_s_place_depends_on_its_profile():
    places = {
        plans.network(profiles.load(profile), Member("vgg16", 0)).key
        for profile in ("smoke", "quick")
    }
    assert len(places) == 2


# What is recorded


def recorded(made) -> Path:
    """Record what no notebook computed, with an outcome for each claim of the artefact."""
    made.outcomes.clear()
    made.claim("fig2-exact", [True, True], "0 and 0")
    made.claim("fig2-shuffle", [True, False], "0 and 1")
    return made.record([{"value": 1.5}])


def test_nothing_is_recorded_with_a_claim_left_out(first):
    made, *_ = first
    made.outcomes.clear()
    made.claim("fig2-exact", [True], "0")
    with pytest.raises(InputError, match="claims without an outcome: fig2-shuffle"):
        made.record([{"value": 1.5}])
    with pytest.raises(InputError, match="Did you mean 'fig2-exact'"):
        made.claim("fig2-exakt", [True], "0")


def test_a_record_has_its_whole_provenance(first, folders):
    made, (a, b), _ = first
    path = recorded(made)
    assert path == folders / "KC_RESULTS" / "smoke" / "fig2_disentangler.json"
    result = records.read(path)
    assert result.rows == [{"value": 1.5}]
    assert [(c.id, c.verdict) for c in result.claims] == [
        ("fig2-exact", "holds"),
        ("fig2-shuffle", "partly"),
    ]
    had = result.provenance
    assert had.parameters == {"profile": "smoke", "seed": 0, "order": 1, "channels": 4}
    assert had.seeds == [0, 5]
    assert [(d["name"], d["split"], d["size"], d["count"]) for d in had.data] == [
        ("creatures", "train", 32, 160),
        ("creatures", "test", 32, 64),
    ]
    assert all(d["code"] == code.digest("images.creatures", "render") for d in had.data)
    assert had.networks.keys() == {str(a), str(b)}
    for member in (a, b):
        noted = had.networks[str(member)]
        _, record = made.network(member)
        assert noted["key"] == plans.network(made.profile, member).key
        assert (folders / "KC_STORE" / "networks" / noted["key"]).is_dir()
        assert noted["test_accuracy"] == record["test_accuracy"]
        assert noted["train_accuracy"] == record["train_accuracy"]
        assert noted["epochs"] == 2 and noted["training_seconds"] > 0 and noted["parameters"] > 0
    assert had.versions == records.versions()
    assert had.hardware == records.hardware("cpu")
    assert had.code == plans.code_of_makers()
    assert had.run_seconds > 0 and had.peak_memory > 0
    date.fromisoformat(had.date)


def test_recorded_rows_are_those_of_the_same_parameters(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "RECORDED", tmp_path)
    asking = begin()
    assert asking.recorded("smoke") == []
    result = a_result(artefact="fig2_disentangler")
    result.provenance.parameters |= {"order": 1, "channels": 4}
    records.write(result, tmp_path)
    assert asking.recorded("smoke") == begin(seed=1).recorded("smoke") == result.rows
    assert begin(order=2).recorded("smoke") == begin(channels=5).recorded("smoke") == []
    assert asking.recorded("quick") == []


def test_recorded_regimes_are_those_that_have_a_result(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "RECORDED", tmp_path)
    monkeypatch.setattr(records, "REGIMES", {"one": "quick", "other": "smoke"})
    assert begin().regimes() == {}
    result = a_result(artefact="fig2_disentangler")
    result.provenance.parameters |= {"order": 1, "channels": 4}
    records.write(result, tmp_path)
    assert begin().regimes() == {"other": result.rows}
    assert begin(order=2).regimes() == {}


def test_pictures_are_those_of_the_first_regime_that_has_any(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "RECORDED", tmp_path)
    monkeypatch.setattr(records, "REGIMES", {"one": "quick", "other": "smoke"})
    effort = {"epochs": 2, "training_seconds": 1.0}
    right = effort | {"train_accuracy": 0.99, "test_accuracy": 0.254}
    worse = effort | {"train_accuracy": 0.991, "test_accuracy": 0.203}
    for profile, maps in {"quick": {}, "smoke": {"joint": {"x*": torch.ones(1, 2, 2)}}}.items():
        result = a_result(profile, artefact="fig2_disentangler")
        result.provenance.parameters |= {"order": 1, "channels": 4}
        result.provenance.networks |= {"a": right, "b": worse}
        result.provenance.networks.pop("net_all_0")
        records.write(result, tmp_path, maps and pictures.held(torch.zeros(1, 3, 8, 8), maps))
        found = begin().pictures()
        assert list(found.of("joint")) == [*maps.get("joint", {})]
    said = "other; right answers: train 99 %; test 20 to 25 %"
    assert found.origin == said
    assert begin(order=2).pictures().maps == {}


def test_the_forecast_is_the_recorded_time(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "RECORDED", tmp_path)
    asking = begin()
    assert "Profile smoke: " in asking.forecast() and "no expected time" in asking.forecast()
    records.write(a_result(artefact="fig2_disentangler"), tmp_path)
    said = asking.forecast()
    assert "Expected time: 2 s, as recorded on 2026-01-01" in said
    assert "2 s more to train its 1 networks" in said and "Peak memory: 0.5 GB" in said


def test_the_store_and_the_results_have_their_places_by_default(monkeypatch):
    for name in ("KC_STORE", "KC_RESULTS"):
        monkeypatch.delenv(name)
    root = environment.RECORDED.parent
    assert environment.store_folder() == root / ".kc-store"
    assert environment.results_folder() == root / "book" / "_build" / "results"


# The command line


def command(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["kclib", "network", "--profile", "smoke", *words])
    return command_line.main()


def test_the_command_finds_what_a_study_made(first, nothing_is_made, monkeypatch, capsys):
    made, (a, _), _ = first
    assert command(monkeypatch, str(a)) == 0
    accuracy = made.network(a)[1]["test_accuracy"]
    assert f"{a}: accuracy {accuracy:.1%} on test images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vgg16"], "NAME_SUBSET_SEED"),
        (["vgg16_al_0"], "Did you mean 'all'"),
        (["vgg61_all_0"], "Did you mean 'vgg16'"),
        (["vgg16_all_0", "--profile", "smoek"], "Did you mean 'smoke'"),
    ],
)
def test_the_command_refuses_with_one_line(monkeypatch, capsys, words, message):
    assert command(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and error.startswith("error: ") and message in error


def test_the_command_says_how_to_go_on_after_an_interruption(monkeypatch, capsys):
    def interrupted(*_words, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(classifier, "train", interrupted)
    assert command(monkeypatch, "vgg16_all_77") == 130
    assert "run the same command again" in capsys.readouterr().err


def test_networks_needed_once_stand_beside_pairs_or_alone():
    def members(**needs):
        made = begin(seed=3)
        made.needs = profiles.Artefact(**needs)
        return [str(member) for member in made.members()]

    once = {"alexnet": ("conv5",), "resnet34": ("layer3",)}
    alone = ["alexnet_all_3", "resnet34_all_8"]
    assert members(networks=once) == members(once=once) == alone
    paired = {"networks": {"vgg16": ("conv4_3",)}, "conditions": {"initialisations": 1}}
    assert members(**paired, once=once) == ["vgg16_all_3", "vgg16_all_8", *alone]
    assert members(**paired, once={"vgg16": ("conv5_3",)}) == ["vgg16_all_3", "vgg16_all_8"]


def test_networks_alone_are_repeated_with_further_seeds_the_first_of_all_first():
    made = begin(seed=3, ratios="0.5")
    taps = {"vgg16": ("conv4_3",), "resnet18": ("layer3",)}
    made.needs = profiles.Artefact(networks=taps, repeats=2, once={"alexnet": ("conv5",)})
    repeated = ["vgg16_all_3", "resnet18_all_8", "vgg16_all_4", "resnet18_all_9"]
    first = [*repeated, "alexnet_all_3"]
    assert [str(m) for m in made.members()] == [*first, *(f"{m}_pruned0.5" for m in first)]
    with pytest.raises(ValueError, match="repeats are of networks without conditions"):
        profiles.Artefact(networks=taps, repeats=2, conditions={"halves": 1})


def test_where_a_network_has_more_pairs_they_follow_all_first_ones():
    made = begin(seed=3)
    taps = {"vgg16": ("conv4_3",), "resnet18": ("layer3",)}
    made.needs = profiles.Artefact(
        networks=taps, conditions={"initialisations": 1}, pairs={"vgg16": 2}
    )
    pairs = [(a.name, a.seed, b.seed) for _, (a, b) in made.pairs()]
    assert pairs == [("vgg16", 3, 8), ("resnet18", 3, 8), ("vgg16", 4, 9)]


def test_an_untrained_network_is_as_initialised():
    made = begin()
    model, record = made.network(Member("vgg16", 3, "none"))
    images = made.images("train", "vgg16")
    settings = made.profile.networks["vgg16"]
    fresh = networks.build(
        settings.architecture,
        classes=len(images.class_names),
        width=settings.width,
        size=settings.size,
        stem_stride=settings.stem_stride,
        dropout=settings.dropout,
        seed=3,
    )
    assert record["history"] == []
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_pruned_and_born_again_networks():
    made = begin()
    pruned, record = made.network(Member("vgg16", 0, pruned=0.8))
    assert pruning.removed(pruned) == pytest.approx(0.8, abs=0.02)
    assert len(record["history"]) == made.profile.pruned_epochs
    whole, _ = made.network(Member("vgg16", 0))
    kept = pruned.features[0].weight != 0
    assert not torch.equal(pruned.features[0].weight[kept], whole.features[0].weight[kept])
    born, _ = made.network(Member("vgg16", 0, born=1))
    assert not torch.equal(born.features[0].weight, whole.features[0].weight)


def test_networks_of_different_images_are_not_compared():
    made = begin()
    other = made.profile.data.model_copy(update={"train": 100})
    changed = made.profile.networks["resnet34"].model_copy(update={"data": other})
    networks_now = made.profile.networks | {"resnet34": changed}
    made.profile = made.profile.model_copy(update={"networks": networks_now})
    with pytest.raises(InputError, match="two networks of the same images"):
        made.compare(Member("vgg16", 0), Member("resnet34", 0), "conv4_3", "layer3")


def test_features_of_one_group_and_of_two_taps():
    made = begin()
    a, b = Member("vgg16", 0), Member("resnet34", 5)
    birds = made.features(a, "conv4_3", "test", "bird")
    chosen = made.images("test", "vgg16").group("bird")
    assert torch.equal(birds, made.features(a, "conv4_3", "test")[chosen])
    comparison = made.compare(a, b, "conv4_3", "layer3", group="bird", order=1)
    assert len(comparison.test.target.square) == len(chosen) > 0
    with pytest.raises(InputError, match="group of images"):
        made.features(a, "conv4_3", "test", "cat")


def test_of_a_pair_only_the_first_is_born_again_and_pruned():
    made = begin(ratios="0.5, 0.9", generations=2)
    found = [str(member) for member in made.members()]
    assert found == [
        "vgg16_all_0",
        "vgg16_all_5",
        "vgg16_all_0_pruned0.5",
        "vgg16_all_0_pruned0.9",
        "vgg16_all_0_born1",
        "vgg16_all_0_born2",
    ]
    made.needs = made.needs.model_copy(update={"conditions": {}})
    assert [str(m) for m in made.members()] == [m for m in found if m != "vgg16_all_5"]


def test_a_list_of_parameters_is_recorded_as_text():
    made = begin(ratios=[0.5, 0.9])
    made.network(Member("vgg16", 0))
    result = records.read(recorded(made))
    assert result.provenance.parameters["ratios"] == "0.5, 0.9"


# Refinement


@pytest.fixture(scope="module")
def refining():
    """A study that may fine-tune, its pair, and what it made of orders 0 and 0 to 1."""
    made = begin(epochs=2)
    [(_, (a, b))] = made.pairs()
    return made, (a, b), made.refine(a, b, "conv4_3", upto=(0, 1), **OPTIONS)


def test_refinement_starts_from_the_consistent_part_in_b(refining):
    made, (a, b), found = refining
    g = made.compare(a, b, "conv4_3", **OPTIONS).disentangler
    x = made.features(a, "conv4_3", "test")
    tail = networks.split(made.network(b)[0], "conv4_3")[1]
    labels = made.images("test", b.name).labels
    for k in (0, 1):
        with torch.no_grad():
            part = g.decompose(x)[: k + 1].sum(0)
        assert torch.equal(found[k].hits[0], refinement.predict(tail, part) == labels)
    assert [len(one.history) for one in found] == [2, 2]
    assert found[0].history[0]["loss"] != found[1].history[0]["loss"]


def test_the_control_starts_from_b_itself(refining):
    made, (_, b), _ = refining
    found = made.fine_tune(b, "conv4_3")
    record = made.network(b)[1]
    assert found.before == pytest.approx(record["test_accuracy"])
    assert found.train_accuracy[0] == pytest.approx(record["train_accuracy"])
    assert found.hits.shape == (3, 64)
    with_fresh = made.fine_tune(b, "conv4_3", fresh=1)
    assert with_fresh.history[0]["loss"] != found.history[0]["loss"]


def test_refinements_are_kept(refining, nothing_is_made, monkeypatch):
    _, (a, b), found = refining
    made = begin(epochs=2)

    def refuse(*_words, **_options):
        raise AssertionError("made again")

    monkeypatch.setattr(refinement, "fine_tune", refuse)
    again = made.refine(a, b, "conv4_3", upto=(1, 0), **OPTIONS)
    for one, other in zip(found, reversed(again), strict=True):
        assert one.history == other.history and one.train_accuracy == other.train_accuracy
        assert torch.equal(one.hits, other.hits)
    for change in ({"dropout": 0.5}, {"norm": "dataset"}, {"group": "bird"}, {"order": 2}):
        with pytest.raises(AssertionError, match="made again"):
            made.refine(a, b, "conv4_3", **{"upto": (0,), **OPTIONS, **change})
    with pytest.raises(AssertionError, match="made again"):
        made.refine(b, a, "conv4_3", upto=(0,), **OPTIONS)
    for other in (begin(epochs=1), begin(epochs=2, rate=1e-3), begin(epochs=2, seed=1)):
        with pytest.raises(AssertionError, match="made again"):
            other.fine_tune(b, "conv4_3")


def test_a_group_is_refined_on_its_images_only(refining):
    made, (a, b), _ = refining
    [found] = made.refine(a, b, "conv4_3", upto=(1,), group="bird", **OPTIONS)
    images = made.images("test", b.name)
    assert found.hits.shape[1] == len(images.group("bird")) < len(images)
    whole = made.fine_tune(b, "conv4_3")
    own = made.fine_tune(b, "conv4_3", group="bird")
    assert torch.equal(own.hits[0], whole.hits[0][images.group("bird")])


def test_a_fit_that_was_in_the_store_counts_with_the_time_that_it_took(refining):
    made, (a, b), _ = refining
    took = made.compare(a, b, "conv4_3", **OPTIONS).seconds
    later = begin()
    for _ in range(2):  # a fit counts once
        later.compare(a, b, "conv4_3", **OPTIONS)
    later._began = time.perf_counter()  # so that little else counts
    had = records.read(recorded(later)).provenance
    assert took <= had.run_seconds < took + 1
    assert had.found_seconds == pytest.approx(took, abs=0.06) and took > 0


def test_training_a_network_counts_with_the_network_and_not_with_the_run(monkeypatch):
    usual = classifier.train

    def slow(*words, **options):
        time.sleep(3)
        return usual(*words, **options)

    monkeypatch.setattr(classifier, "train", slow)
    made = begin()
    made.images("train", "vgg16")  # they may have to be drawn first
    made._began = time.perf_counter()
    made.network(Member("vgg16", 12))
    assert (
        records.read(recorded(made)).provenance.run_seconds < 3 < time.perf_counter() - made._began
    )


def test_parts_can_be_hidden_from_network_a_alone():
    made = begin()
    a, b = Member("vgg16", 0), Member("vgg16", 5)
    blind = made.features(a, "conv4_3", "test", hide=("torso",))
    sees = made.features(a, "conv4_3", "test")
    assert blind.shape == sees.shape and not torch.equal(blind, sees)
    comparison = made.compare(a, b, "conv4_3", order=0, hide=("torso",))
    again = made.compare(a, b, "conv4_3", order=0)
    torch.testing.assert_close(comparison.test.target.mean, again.test.target.mean)  # B sees all
    assert comparison.test.residual != again.test.residual
    with pytest.raises(InputError, match="no part 'wing'"):
        made.features(a, "conv4_3", "test", hide=("wing",))


def test_features_that_fits_share_are_read_once(monkeypatch):
    made = begin()
    [(_, (a, _))] = made.pairs()
    first = made.features(a, "conv4_3", "test")
    monkeypatch.setattr(making, "extract", None)
    assert made.features(a, "conv4_3", "test") is first


def test_features_beyond_the_limit_are_let_go_the_oldest_first(monkeypatch):
    made = begin()
    [(_, (a, b))] = made.pairs()
    size = made.features(a, "conv4_3", "test").nbytes
    made.features(b, "conv4_3", "test")
    made.features(a, "conv4_3", "test")
    monkeypatch.setattr(making, "_KEPT_FEATURES", size)
    made.features(a, "conv4_3", "test")
    kept = [key[0] for key in made._workshop._features]
    assert kept == [plans.network(made.profile, a).key]


@pytest.mark.parametrize(("named", "threads"), [(None, 1), ("2", 2)])
def test_one_thread_unless_the_environment_names_a_number(monkeypatch, named, threads):
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if named is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", named)
    torch.set_num_threads(2)
    begin()
    found = torch.get_num_threads()
    torch.set_num_threads(before)
    assert found == threads
