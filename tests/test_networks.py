"""The paper's architectures: torchvision's own at full width, alike at all others, cut anywhere."""

import pytest
import torch
from torch import nn

from kclib.errors import InputError
from kclib.networks import ARCHITECTURES, STEM_STRIDES, build, parameter_count, split, taps

# isort: split
from torchvision import models  # imports only after kclib

#: The constructors that the paper's networks come from.
STOCK = {
    "alexnet": models.alexnet,
    "vgg16": models.vgg16_bn,
    "resnet18": models.resnet18,
    "resnet34": models.resnet34,
    "resnet50": models.resnet50,
}
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
every_stem = pytest.mark.parametrize(
    "architecture, stride", [(name, s) for name, strides in STEM_STRIDES.items() for s in strides]
)


def narrow(architecture, **changes):
    """Build a network that is quick on small images, ready to be read."""
    options = {"classes": 5, "width": 0.05, "size": 64, "dropout": 0.0} | changes
    return build(architecture, **options).eval()


def noise(count=2, size=64):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def chain(architecture, network):
    """Return the paths of the modules that are applied one after the other."""
    if architecture.startswith("resnet"):
        stages = [f"layer{k}" for k in range(1, 5)]
        return ["conv1", "bn1", "relu", "maxpool", *stages, "avgpool", "flatten", "fc"]
    body = [f"features.{k}" for k in range(len(network.features))]
    top = [f"classifier.{k}" for k in range(len(network.classifier))]
    return [*body, "avgpool", "flatten", *top]


@torch.no_grad()
def check_split(network, tap, x):
    """Check that head and tail compose to the network, and that the tail spares the features."""
    head, tail = split(network, tap)
    features = head(x)
    before = features.clone()
    assert torch.equal(tail(features), network(x)), tap
    assert torch.equal(features, before), f"the tail changed the features at {tap}"


# --- torchvision's own ------------------------------------------------------------------------


@every_architecture
def test_full_width_is_torchvisions_own_network(architecture):
    ours = build(architecture, classes=7).eval()
    with torch.device("meta"):
        theirs = STOCK[architecture](num_classes=7).eval()
    state = ours.state_dict()
    assert list(state) == list(theirs.state_dict())
    theirs.load_state_dict(state, assign=True)
    with torch.no_grad():
        x = noise(1, 224)
        assert torch.equal(ours(x), theirs(x))


def test_full_width_starts_from_torchvisions_own_weights():
    ours = build("resnet18", classes=7, seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = models.resnet18(num_classes=7)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize("architecture, tap", [("alexnet", "conv4"), ("resnet18", "layer3")])
def test_full_width_splits_at_a_tap(architecture, tap):
    check_split(build(architecture, classes=7).eval(), tap, noise(1, 224))


# --- any width, size and stem -----------------------------------------------------------------


@every_architecture
def test_names_of_layers_are_those_of_the_full_network(architecture):
    with torch.device("meta"):
        full = STOCK[architecture]()
    for stride, width in zip(STEM_STRIDES[architecture], (0.11, 0.03, 0.06), strict=False):
        network = narrow(architecture, width=width, stem_stride=stride)
        assert list(network.state_dict()) == list(full.state_dict())
        assert taps(network) == taps(full)


@every_stem
@pytest.mark.parametrize("beyond", [0, 25])
def test_every_stem_takes_every_size(architecture, stride, beyond):
    smallest = 63 if (architecture, stride) == ("alexnet", 8) else 32
    size = smallest + beyond
    network = narrow(architecture, size=size, stem_stride=stride)
    with torch.no_grad():
        assert network(noise(2, size)).shape == (2, 5)


@every_architecture
def test_a_stem_of_half_the_stride_doubles_the_maps(architecture):
    tap = "conv4_3" if architecture == "vgg16" else "layer3" if "res" in architecture else "conv4"
    sides = []
    for stride in STEM_STRIDES[architecture]:
        head, _ = split(narrow(architecture, size=64, stem_stride=stride), tap)
        with torch.no_grad():
            sides.append(head(noise(1, 64)).shape[2])
    for side, finer in zip(sides, sides[1:], strict=False):
        assert abs(finer - 2 * side) <= 1, sides


@every_architecture
def test_width_scales_the_channels(architecture):
    with torch.device("meta"):
        full = STOCK[architecture](num_classes=5)
    slim = narrow(architecture, width=0.3)
    for (name, wide), thin in zip(full.named_modules(), slim.modules(), strict=True):
        if isinstance(wide, nn.Conv2d):
            assert thin.out_channels == max(8, int(0.3 * wide.out_channels)), name
    (last,) = [m for m in slim.modules() if isinstance(m, nn.Linear)][-1:]
    assert last.out_features == 5


@pytest.mark.parametrize("architecture", ["alexnet", "vgg16"])
@pytest.mark.parametrize("size", [64, 96])
def test_classifier_sees_each_position_once(architecture, size):
    network = narrow(architecture, size=size)
    with torch.no_grad():
        last = network.features(noise(1, size))
        assert network.avgpool(last).shape[2] <= last.shape[2]
        pooled = network.avgpool(last).flatten(1)
    assert network.classifier(pooled).shape == (1, 5)


@pytest.mark.parametrize("width, size", [(1.0, 224), (0.05, 64)])
def test_dropout_is_the_one_that_was_asked_for(width, size):
    network = build("alexnet", classes=5, width=width, size=size, dropout=0.25)
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25]


def test_parameters_that_are_trained_are_counted():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    assert parameter_count(network) == 3 * 4 + 4 + 4 * 2
    network[0].bias.requires_grad = False
    assert parameter_count(network) == 3 * 4 + 4 * 2


# --- seeds ------------------------------------------------------------------------------------


@every_architecture
def test_a_seed_gives_the_same_weights_again_and_another_one_others(architecture):
    first, again, other = (narrow(architecture, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name, value in first.items() if name.endswith("weight") and value.dim() > 1]
    assert drawn and not any(torch.equal(first[name], other[name]) for name in drawn)


@pytest.mark.parametrize("width, size", [(1.0, 224), (0.05, 64)])
def test_building_leaves_the_global_generator_alone(width, size):
    before = torch.get_rng_state()
    build("resnet18", classes=5, width=width, size=size, seed=4)
    assert torch.equal(torch.get_rng_state(), before)


@every_architecture
def test_a_narrow_network_starts_with_signals_of_ordinary_size(architecture):
    network = narrow(architecture, width=0.125).train()
    with torch.no_grad():
        spread = network(noise(8)).std()
    assert 0.05 < spread < 20


# --- taps -------------------------------------------------------------------------------------


def test_taps_are_the_authors():
    vgg, alexnet, resnet = (taps(narrow(name)) for name in ("vgg16", "alexnet", "resnet34"))
    assert vgg["conv4_3"] == "features.30"
    assert vgg["conv5_2"] == "features.37"
    assert vgg["conv5_3"] == vgg["last_conv"] == "features.40"
    assert alexnet["conv4"] == "features.8"
    assert alexnet["conv5"] == alexnet["last_conv"] == "features.10"
    assert resnet["layer3"] == "layer3"
    assert resnet["last_conv"] == "layer4"


@pytest.mark.parametrize(
    "architecture, convolutions",
    [
        ("alexnet", [f"conv{k}" for k in range(1, 6)]),
        ("vgg16", [f"conv{b}_{k}" for b in range(1, 6) for k in range(1, 3 if b < 3 else 4)]),
    ],
)
def test_taps_are_convolutions_named_as_in_the_papers(architecture, convolutions):
    network = narrow(architecture)
    named = taps(network)
    assert all(isinstance(network.get_submodule(path), nn.Conv2d) for path in named.values())
    *names, last = named
    assert last == "last_conv" and names == convolutions


@pytest.mark.parametrize("architecture, tap", [("alexnet", "conv4"), ("vgg16", "conv4_3")])
def test_features_are_the_output_of_the_convolution(architecture, tap):
    network = narrow(architecture)
    seen = []
    module = network.get_submodule(taps(network)[tap])
    # The ReLU behind works in place: keep a copy.
    handle = module.register_forward_hook(lambda *given: seen.append(given[2].clone()))
    with torch.no_grad():
        network(noise())
        handle.remove()
        assert torch.equal(split(network, tap)[0](noise()), seen[0])
    assert (seen[0] < 0).any() and (seen[0] > 0).any()


@pytest.mark.parametrize("architecture", ["resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize("stage", ["layer1", "layer2", "layer3", "layer4"])
def test_features_of_a_residual_stage_are_those_before_its_last_relu(architecture, stage):
    network = narrow(architecture)
    seen = []
    handle = getattr(network, stage).register_forward_hook(lambda *given: seen.append(given[2]))
    with torch.no_grad():
        network(noise())
        handle.remove()
        features = split(network, stage)[0](noise())
    assert (features < 0).any()
    assert torch.equal(features.relu(), seen[0])


def test_a_network_of_another_kind_has_no_taps():
    assert taps(nn.Sequential(nn.Conv2d(3, 4, 3))) == {}


# --- splitting --------------------------------------------------------------------------------


@every_stem
def test_head_and_tail_compose_to_the_network_everywhere(architecture, stride):
    size = 64 if architecture == "alexnet" else 32
    network = narrow(architecture, stem_stride=stride, size=size)
    for tap in [*taps(network), *chain(architecture, network)]:
        check_split(network, tap, noise(1, size))


def test_head_and_tail_share_the_parameters_of_the_network():
    network = narrow("resnet18")
    head, tail = split(network, "layer3")
    shared = {id(p) for part in (head, tail) for p in part.parameters()}
    assert shared == {id(p) for p in network.parameters()}


def test_gradients_through_head_and_tail_are_those_of_the_network():
    network = narrow("vgg16")
    gradients = []
    head, tail = split(network, "conv3_2")
    for whole in (network, nn.Sequential(head, tail)):
        network.zero_grad()
        whole(noise()).square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


@every_architecture
def test_an_unknown_tap_gets_a_list_of_those_there_are(architecture):
    network = narrow(architecture)
    with pytest.raises(InputError) as caught:
        split(network, "conv9_9")
    message = str(caught.value)
    assert "'conv9_9'" in message
    for tap in [*taps(network), *chain(architecture, network)]:
        assert tap in message


def test_a_misspelt_tap_gets_the_nearest_one():
    with pytest.raises(InputError, match="Did you mean 'conv4_3'"):
        split(narrow("vgg16"), "conv4-3")


def test_a_module_inside_a_stage_is_no_place_to_split():
    with pytest.raises(InputError, match="no tap 'layer3.0'"):
        split(narrow("resnet18"), "layer3.0")


def test_a_network_that_is_no_chain_is_refused_with_a_way_out():
    with pytest.raises(InputError, match="cannot split a Sequential .*kclib.features.extract"):
        split(nn.Sequential(nn.Conv2d(3, 4, 3)), "0")


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(architecture="vgg61"), "no architecture 'vgg61'. Did you mean 'vgg16'?"),
        (dict(classes=1), "classes is 1; allowed: 2 or more"),
        (dict(classes=0), "classes is 0"),
        (dict(width=0), "width is 0; allowed: above 0 and at most 1"),
        (dict(width=-0.5), "width is -0.5"),
        (dict(width=1.01), "width is 1.01"),
        (dict(width=float("nan")), "width is nan"),
        (dict(size=20), "size is 20 pixels; allowed: 32 to 224"),
        (dict(size=225), "size is 225"),
        (dict(stem_stride=3), "stem_stride is 3 for alexnet; allowed: 8, 4, 2."),
        (dict(architecture="vgg16", stem_stride=4), "for vgg16; allowed: 2, 1."),
        (dict(architecture="resnet50", stem_stride=8), "for resnet50; allowed: 4, 2, 1."),
        (dict(dropout=1.5), "dropout is 1.5; allowed: 0 to below 1"),
        (dict(dropout=1), "dropout is 1"),
        (dict(dropout=-0.1), "dropout is -0.1"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_built(monkeypatch, change, message):
    def construct(**_):
        raise AssertionError("a network was built")

    for name in (*ARCHITECTURES, "vgg16_bn"):
        monkeypatch.setattr(models, name, construct)
    good = {"architecture": "alexnet", "classes": 5, "width": 0.05, "size": 64}
    with pytest.raises(InputError) as caught:
        build(**good | change)
    assert message in str(caught.value)
