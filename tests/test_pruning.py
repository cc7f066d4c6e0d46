"""Pruning: the right weights go, they stay away through training, and nothing else changes."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kclib import networks
from kclib.errors import InputError
from kclib.training import pruning
from kclib.training.classifier import Recipe, train

RECIPE = Recipe(
    epochs=2, batch=8, rate=0.02, final_rate=0.0, schedule="one-cycle", weight_decay=5e-4
)


@pytest.fixture(autouse=True)
def one_thread():
    """Compare bits only where sums are taken in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(before)


def fresh(architecture="vgg16"):
    """Build a small network with batch normalisation."""
    stride = {"vgg16": 1, "resnet18": 2}[architecture]
    return networks.build(
        architecture, classes=4, width=0.0625, size=32, stem_stride=stride, dropout=0, seed=1
    )


def layers(network):
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def photos(count=16):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (count, 3, 32, 32), generator=generator).to(torch.uint8)
    return images, torch.arange(count) % 4


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 0.99), st.integers(0, 100))
def test_every_layer_loses_that_share_and_its_smallest_weights(ratio, seed):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 5, 1), nn.Linear(5, 4))
    before = [layer.weight.detach().clone() for layer in layers(network)]
    pruning.begin(network, ratio)
    for layer, weight in zip(layers(network), before, strict=True):
        gone = layer.weight == 0
        assert int(gone.sum()) == round(ratio * weight.numel())
        assert torch.equal(layer.weight[~gone], weight[~gone])
        if gone.any() and not gone.all():
            assert weight[gone].abs().max() <= weight[~gone].abs().min()


@pytest.mark.parametrize("architecture", ["vgg16", "resnet18"])
def test_biases_and_batch_normalisation_stay_whole(architecture):
    network = fresh(architecture)
    before = copy.deepcopy(network.state_dict())
    pruning.begin(network, 0.9)
    pruning.finish(network)
    weights = {
        f"{name}.weight" for name, m in network.named_modules() if isinstance(m, nn.Conv2d)
    } | {f"{name}.weight" for name, m in network.named_modules() if isinstance(m, nn.Linear)}
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in weights), name


@pytest.mark.parametrize("architecture", ["vgg16", "resnet18"])
@pytest.mark.parametrize("ratio", [0.3, 0.9])
def test_zeros_stay_zero_through_training_and_the_rest_learns(architecture, ratio):
    network = fresh(architecture)
    pruning.begin(network, ratio)
    before = [layer.weight.detach().clone() for layer in layers(network)]
    train(network, *photos(), RECIPE, seed=0)
    pruning.finish(network)
    for layer, weight in zip(layers(network), before, strict=True):
        assert torch.equal(layer.weight == 0, weight == 0)
        assert not torch.equal(layer.weight, weight)


def test_finish_gives_back_the_names_and_keeps_what_the_network_computes():
    network = fresh().eval()
    names = {name: value.shape for name, value in network.state_dict().items()}
    pruning.begin(network, 0.5)
    assert network.state_dict().keys() != names.keys()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(x)
        pruning.finish(network)
        assert {name: value.shape for name, value in network.state_dict().items()} == names
        assert [type(p) for p in network.parameters()] == [nn.Parameter] * len(
            [*fresh().parameters()]
        )
        assert torch.equal(network(x), expected)
        again = fresh()
        again.load_state_dict(network.state_dict())
        assert torch.equal(again.eval()(x), expected)


def test_a_pruned_network_resumed_equals_one_that_was_not_interrupted(tmp_path):
    class Stopped(Exception):
        pass

    def stop(done, total, _text):
        if done > total / 2:
            raise Stopped

    def pruned():
        network = fresh()
        pruning.begin(network, 0.8)
        return network

    whole, resumed, checkpoint = pruned(), pruned(), tmp_path / "checkpoint.safetensors"
    history = train(whole, *photos(), RECIPE, seed=3)
    with pytest.raises(Stopped):
        train(pruned(), *photos(), RECIPE, seed=3, checkpoint=checkpoint, progress=stop)
    assert checkpoint.exists()
    pieces = train(resumed, *photos(), RECIPE, seed=3, checkpoint=checkpoint)
    assert [epoch["loss"] for epoch in pieces] == [epoch["loss"] for epoch in history]
    finished = pruned()  # killed after its last epoch: nothing is left to train, but to finish
    train(finished, *photos(), RECIPE, seed=3, checkpoint=checkpoint)
    for network in (whole, resumed, finished):
        pruning.finish(network)
    assert same(whole, resumed) and same(whole, finished)
    other = pruned()
    train(other, *photos(), replace(RECIPE, rate=0.01), seed=3)
    pruning.finish(other)
    assert not same(whole, other)


@pytest.mark.parametrize("ratio", [0.25, 0.933])
def test_removed_counts_zeros_among_all_parameters_before_and_after_finish(ratio):
    network = fresh()
    assert pruning.removed(network) == 0
    total = sum(p.numel() for p in network.parameters())
    zeros = sum(round(ratio * layer.weight.numel()) for layer in layers(network))
    pruning.begin(network, ratio)
    assert pruning.removed(network) == pytest.approx(zeros / total)
    pruning.finish(network)
    assert pruning.removed(network) == pytest.approx(zeros / total)
    assert pruning.removed(network) < ratio  # biases and batch normalisation are parameters too


@pytest.mark.parametrize("ratio", [-0.1, 0, 0.0, 1, 1.0, 1.5, float("nan")])
def test_a_ratio_out_of_range_is_refused_before_anything_changes(ratio):
    network, untouched = fresh(), fresh()
    with pytest.raises(InputError, match=f"ratio is {ratio}; allowed: above 0 and below 1"):
        pruning.begin(network, ratio)
    assert same(network, untouched)
