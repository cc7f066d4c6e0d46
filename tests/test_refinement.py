"""Refinement: a tail trained on given features, its accuracies, and the parts put in."""

import copy

import pytest
import torch
from torch import nn

from kclib import networks
from kclib.disentangler import Disentangler, StagewiseDisentangler
from kclib.errors import InputError
from kclib.training.refinement import Refinement, consistent_part, fine_tune, predict, rate_for


@pytest.fixture(autouse=True)
def one_thread():
    """Compare bits only where sums are taken in one order, and keep the global generator."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(before)


def tail_of(dropout=0.0, seed=1):
    """Return the layers of a small VGG-16 above conv4_3."""
    network = networks.build(
        "vgg16", classes=3, width=0.02, size=32, stem_stride=1, dropout=dropout, seed=seed
    )
    return networks.split(network, "conv4_3")[1]


def features(count=33, seed=0):
    """Return features of three classes, each with a pattern of its own, and their labels."""
    patterns = torch.randn(3, 10, 8, 8, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(count) % 3
    noise = torch.randn(count, 10, 8, 8, generator=torch.Generator().manual_seed(seed))
    return patterns[labels] + 0.5 * noise, labels


GIVEN = (*features(33, 0), *features(21, 1))
SHORT = {"epochs": 3, "rate": 1e-3, "batch": 8}


def run(tail=None, **options):
    return fine_tune(tail or tail_of(), *GIVEN, **SHORT | options)


def same(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def test_the_given_tail_is_not_changed_and_its_copy_is():
    tail, before = tail_of(), tail_of()
    tuned, _ = run(tail)
    assert same(tail, before) and not same(tuned, before)
    assert not tuned.training


def test_what_is_recorded_is_what_the_tails_do():
    tail = tail_of()
    tuned, found = run(tail)
    x, labels, test, test_labels = GIVEN
    assert found.hits.shape == (4, 21) and len(found.history) == 3
    for at, one in ((0, tail), (-1, tuned)):
        assert torch.equal(found.hits[at], predict(one, test) == test_labels)
        share = float((predict(one, x) == labels).double().mean())
        assert found.train_accuracy[at] == share
    assert found.before == float(found.hits[0].double().mean())
    assert found.accuracy == found.history[-1]["test_accuracy"]
    shares = [epoch["test_accuracy"] for epoch in found.history]
    assert found.best_on_test == max(shares) and shares[found.best_epoch - 1] == max(shares)


def test_a_tail_learns_what_its_features_tell():
    _, found = run(epochs=8, rate=3e-3)
    assert found.history[-1]["loss"] < found.history[0]["loss"] / 2
    assert found.accuracy > 0.9 > found.before


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_seed_decides_all(dropout):
    (one, first), (other, second) = (run(tail_of(dropout), seed=4) for _ in range(2))
    assert same(one, other)
    for row, again in zip(first.history, second.history, strict=True):
        assert row | {"seconds": 0} == again | {"seconds": 0}
    assert not same(one, run(tail_of(dropout), seed=5)[0])


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    run()
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_the_rate_falls_by_equal_factors_to_a_hundredth(epochs):
    rates = [epoch["rate"] for epoch in run(epochs=epochs)[1].history]
    assert rates[0] == pytest.approx(1e-3)
    if epochs > 1:
        assert rates[-1] == pytest.approx(1e-5)
        factors = [b / a for a, b in zip(rates, rates[1:], strict=False)]
        assert factors == pytest.approx([factors[0]] * len(factors))


def test_the_rate_is_the_authors_in_proportion():
    assert rate_for(100) == pytest.approx(1e-5)
    # the same sum of rates, and the same change of an output of half as many inputs
    assert 20 * rate_for(20) == pytest.approx(100 * 1e-5)
    assert rate_for(100, 0.5) * 0.5 == pytest.approx(1e-5)
    for wrong in ((0, 1.0), (5, 0.0), (5, 1.5)):
        with pytest.raises(InputError, match="allowed"):
            rate_for(*wrong)


@pytest.mark.parametrize("count", [2, 3, 9, 17])
def test_no_batch_has_one_image(count):
    sizes = []

    class Watched(nn.Module):
        def forward(self, x):
            if self.training:
                sizes.append(len(x))
            return x

    x, labels, *test = GIVEN
    tail = nn.Sequential(Watched(), tail_of())
    fine_tune(tail, x[:count], labels[:count], *test, epochs=1, rate=1e-4, batch=8)
    # the copy of the watching layer writes to the same list
    assert sum(sizes) == count and min(sizes) >= 2 and max(sizes) <= 9


def test_a_fresh_network_is_trained_too_and_not_changed():
    torch.manual_seed(3)
    fresh = Disentangler(10, 10, order=1)
    before = copy.deepcopy(fresh)
    tail = tail_of()
    tuned, found = run(tail, fresh=fresh)
    assert same(fresh, before)
    assert not torch.equal(tuned[0].linears[1].weight, before.linears[1].weight)
    expected = predict(nn.Sequential(before, tail), GIVEN[2]) == GIVEN[3]
    assert torch.equal(found.hits[0], expected)


def test_progress_is_told_to_its_end():
    told = []
    run(progress=lambda done, total, text: told.append((done, total)))
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))


# Refusals


def spoiled(value):
    x = GIVEN[0].clone()
    x[3, 0, 0, 0] = value
    return x


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (0, GIVEN[0][:20], "20 training features but 33 labels"),
        (3, GIVEN[3][:20], "21 test features but 20 labels"),
        (0, spoiled(float("nan")), "the training features hold NaN or infinity"),
        (0, spoiled(float("inf")), "the training features hold NaN or infinity"),
        (1, GIVEN[1] + 1, "labels reach from 1 to 3 .* gives \\(3,\\) numbers"),
        (3, GIVEN[3] - 1, "the test labels reach from -1 to 1"),
        (0, GIVEN[0][:, :9], "the tail cannot take the training features, maps \\(9, 8, 8\\)"),
        (2, GIVEN[2][:, 0], "the test features have shape \\(21, 8, 8\\)"),
        (2, GIVEN[2][:0], "the test features have shape \\(0, 10, 8, 8\\)"),
    ],
)
def test_bad_features_and_labels_are_refused(place, wrong, message):
    given = list(GIVEN)
    given[place] = wrong
    with pytest.raises(InputError, match=message):
        fine_tune(tail_of(), *given, **SHORT)


def test_one_training_image_is_refused():
    x, labels, *test = GIVEN
    with pytest.raises(InputError, match="1 training images; fine-tuning needs 2 or more"):
        fine_tune(tail_of(), x[:1], labels[:1], *test, **SHORT)


def test_a_tail_that_gives_maps_is_refused():
    with pytest.raises(InputError, match="one number for each class"):
        fine_tune(nn.Conv2d(10, 3, 1), *GIVEN, **SHORT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is 0; allowed: 1 or more"),
        ({"rate": 0.0}, "rate is 0.0; allowed: above 0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"batch": 1}, "batch is 1 images; allowed: 2 or more"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        run(**options)


def test_divergence_is_told():
    with pytest.raises(InputError, match="diverged in epoch 1.* Lower the rate"):
        run(nn.Sequential(nn.Flatten(), nn.Linear(640, 8), nn.Linear(8, 3)), rate=1e30)


# What is put in


@pytest.mark.parametrize("kind", [Disentangler, StagewiseDisentangler])
@torch.no_grad()
def test_the_consistent_part_is_the_sum_of_orders(kind):
    torch.manual_seed(0)
    g, x = kind(4, 6, order=2).eval(), torch.randn(11, 4, 5, 5)
    parts = g.decompose(x)
    for k in range(3):
        found = consistent_part(g, x, (5, 5), upto=k, batch=4)
        assert torch.allclose(found, parts[: k + 1].sum(0), atol=1e-5)
    assert torch.allclose(consistent_part(g, x, (5, 5)), g(x), atol=1e-5)
    assert consistent_part(g, x, (3, 3)).shape == (11, 6, 3, 3)
    with pytest.raises(InputError, match="upto is 3; allowed: 0 to 2"):
        consistent_part(g, x, (5, 5), upto=3)


def test_predictions_among_some_classes_are_of_them():
    tail, x = tail_of(), GIVEN[0]
    among = torch.tensor([2, 0])
    found = predict(tail, x, among=among)
    with torch.no_grad():
        logits = tail.eval()(x)
    assert torch.equal(found, torch.where(logits[:, 2] >= logits[:, 0], 2, 0))
    assert torch.equal(predict(tail, x, among=torch.arange(3)), predict(tail, x, batch=7))


def test_the_best_of_some_looks_lies_between_the_last_epoch_and_the_best():
    hits = torch.rand(21, 50, generator=torch.Generator().manual_seed(0)) < 0.5
    found = Refinement([], hits, (0.0, 0.0))
    assert found.best_of(1) == found.accuracy
    assert found.best_of(10) == max(float(hits[k].double().mean()) for k in range(2, 21, 2))
    assert found.best_of(20) == found.best_of(99) == found.best_on_test
    with pytest.raises(InputError, match="looks is 0; allowed: 1 or more"):
        found.best_of(0)
