"""Features: the same from memory or disk, from any module, in any batch; and maps made alike."""

import os

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from kclib import networks
from kclib.errors import InputError, StoreError
from kclib.features import extract, load_mapped, normalised, resample

# isort: split
from torchvision.models import VisionTransformer  # imports only after kclib


class Small(nn.Module):
    """A network that is no chain, with outputs of every kind."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.twice = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout()
        self.classifier = nn.Linear(4, 5)
        self.unused = nn.Linear(1, 1)

    def forward(self, x):
        maps = self.stem(x) - 0.1
        maps = self.twice(maps) + self.twice(maps - 0.2)
        return self.classifier(self.dropout(self.flatten(self.pool(maps))))


class Odd(nn.Module):
    """A network whose modules give outputs that are no features."""

    def __init__(self):
        super().__init__()
        self.single = nn.Identity()
        self.many = nn.Identity()
        self.volume = nn.Identity()
        self.shared = nn.Identity()
        self.lstm = nn.LSTM(3, 4)

    def forward(self, x):
        self.single(x.sum())
        self.many(x.flatten(0, 1))
        self.volume(x[:, None])
        self.shared(x[:1])
        self.lstm(x.mean((2, 3)))


class Broken(nn.Module):
    """A network that fails before, or in, the tapped module."""

    def __init__(self):
        super().__init__()
        self.before = nn.Identity()
        self.after = nn.Identity()

    def forward(self, x):
        self.before(x)
        raise RuntimeError("no such luck")


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small()


def photos(count=7, size=32):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def hooks(network):
    return sum(len(module._forward_hooks) for module in network.modules())


# --- which output -----------------------------------------------------------------------------


def test_a_module_path_reads_that_modules_output(network):
    images = photos()
    network.eval()
    with torch.no_grad():
        x = normalised(images)
        expected = {
            "stem": network.stem(x),
            "stem.0": network.stem[0](x),
            "stem.1": network.stem[1](network.stem[0](x)),
            "classifier": network(x)[:, :, None, None],
        }
    for path, features in expected.items():
        found = extract(network, images, path)
        assert torch.allclose(found, features, atol=1e-5), path
        assert found.dtype == torch.float32 and found.is_contiguous() and not found.requires_grad


def test_the_first_use_of_a_module_counts(network):
    network.eval()
    with torch.no_grad():
        expected = (network.stem(normalised(photos())) - 0.1).relu()
    with pytest.warns(UserWarning, match="'twice' is used 2 times"):
        found = extract(network, photos(), "twice")
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "architecture, tap", [("alexnet", "conv5"), ("vgg16", "conv4_3"), ("resnet18", "layer3")]
)
def test_a_named_tap_reads_the_head_of_the_split(architecture, tap):
    network = networks.build(
        architecture, classes=4, width=0.05, size=32, stem_stride=2 if "a" in architecture else None
    ).train()
    features = extract(network, photos(), tap)
    with torch.no_grad():
        expected = networks.split(network.eval(), tap)[0](normalised(photos()))
    assert torch.allclose(features, expected, atol=1e-5)
    assert (features < 0).any()


def test_a_path_inside_a_chain_reads_as_its_name_does():
    network = networks.build("vgg16", classes=4, width=0.05, size=32)
    assert torch.equal(
        extract(network, photos(), "features.30"), extract(network, photos(), "conv4_3")
    )


def test_a_network_in_training_mode_is_read_in_evaluation_mode(network):
    mean = network.stem[1].running_mean.clone()
    features = [extract(network.train(), photos(), "dropout") for _ in range(2)]
    assert torch.equal(*features)  # no dropout
    assert torch.equal(network.stem[1].running_mean, mean)  # and batch norm learnt nothing
    assert network.training


def test_vectors_and_tokens_become_maps(network):
    assert extract(network, photos(), "flatten").shape == (7, 4, 1, 1)
    vit = VisionTransformer(
        image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=6, mlp_dim=8
    )
    kept = []
    vit.encoder.layers.register_forward_hook(lambda *given: kept.append(given[2]))
    with torch.no_grad():
        vit.eval()(normalised(photos()))
    features = extract(vit, photos(), "encoder.layers", batch=7, tokens="all")
    assert features.shape == (7, 6, 17, 1)  # 16 patches and the class token
    for token in range(17):
        assert torch.allclose(features[:, :, token, 0], kept[0][:, token], atol=1e-5)
    grid = extract(vit, photos(), "encoder.layers", batch=7)
    assert torch.equal(grid, features[:, :, 1:, 0].unflatten(2, (4, 4)))
    token = extract(vit, photos(), "encoder.layers", batch=7, tokens="class")
    assert torch.equal(token, features[:, :, :1])


def test_preprocessing_can_be_changed(network):
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    features = extract(network, x, "stem.0", preprocess=lambda batch: 2 * batch)
    with torch.no_grad():
        assert torch.allclose(features, network.stem[0](2 * x), atol=1e-5)


# --- how it is read ---------------------------------------------------------------------------


@pytest.mark.parametrize("tap", ["stem.1", "classifier"])
def test_features_do_not_depend_on_the_batch(network, tap):
    whole = extract(network, photos(), tap, batch=7)
    for batch in (1, 2, 3, 6, 100):
        assert torch.allclose(extract(network, photos(), tap, batch=batch), whole, atol=1e-5)


def test_a_memory_mapped_file_holds_the_same_features(network, tmp_path):
    file = tmp_path / "features.bin"
    expected = extract(network, photos(), "stem", batch=3)
    mapped = extract(network, photos(), "stem", batch=3, file=file)
    assert torch.equal(mapped, expected)
    assert torch.equal(load_mapped(file, expected.shape), expected)
    assert file.stat().st_size == 4 * expected.numel()
    assert list(tmp_path.iterdir()) == [file]


def test_changing_mapped_features_leaves_the_file_as_it_is(network, tmp_path):
    file = tmp_path / "features.bin"
    mapped = extract(network, photos(), "stem", file=file)
    before = mapped.clone()
    mapped.zero_()
    assert torch.equal(load_mapped(file, before.shape), before)


@pytest.mark.parametrize("old", [b"", b"older features"])
def test_a_file_whose_extraction_fails_stays_as_it_was(network, tmp_path, old):
    file = tmp_path / "features.bin"
    if old:
        file.write_bytes(old)

    def stop(done, _total, _text):
        if done > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(network, photos(), "stem", batch=2, file=file, progress=stop)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([old] if old else [])


def test_a_full_disk_is_reported_as_such(network, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full"):
        extract(network, photos(), "stem", file=tmp_path / "features.bin")
    assert not list(tmp_path.iterdir())


def test_progress_counts_images(network):
    calls = []
    extract(network, photos(), "stem", batch=3, progress=lambda *call: calls.append(call))
    assert calls == [(3, 7, "stem"), (6, 7, "stem"), (7, 7, "stem")]


@pytest.mark.parametrize("tap", ["stem.1", "classifier", "stem"])
def test_hooks_are_removed(network, tap):
    extract(network, photos(), tap, batch=2)
    assert hooks(network) == 0


def test_hooks_are_removed_when_the_forward_pass_raises():
    network = Broken()
    with pytest.raises(RuntimeError, match="no such luck"):
        extract(network, photos(), "after")
    assert hooks(network) == 0


def test_hooks_of_the_user_stay(network):
    network.stem.register_forward_hook(lambda *_: None)
    extract(network, photos(), "stem")
    assert hooks(network) == 1


def test_what_lies_above_the_tap_is_not_run():
    assert extract(Broken(), photos(), "before").shape == (7, 3, 32, 32)


# --- refusals ---------------------------------------------------------------------------------


def test_an_unknown_path_gets_a_list_of_those_there_are(network):
    with pytest.raises(InputError) as caught:
        extract(network, photos(), "stem.7")
    message = str(caught.value)
    assert "no tap 'stem.7'" in message
    for path, _ in network.named_modules():
        assert path in message


def test_an_unknown_tap_gets_the_names_and_the_paths():
    network = networks.build("alexnet", classes=4, width=0.05, size=32, stem_stride=2)
    with pytest.raises(InputError, match="'conv_5'. Did you mean 'conv5'.*conv1.*features.8"):
        extract(network, photos(), "conv_5")


def test_a_module_that_is_never_used_is_named(network):
    with pytest.raises(InputError, match="never reached 'unused'"):
        extract(network, photos(), "unused")
    assert hooks(network) == 0


@pytest.mark.parametrize(
    "tap, given",
    [
        ("single", r"\(\)"),
        ("many", r"\(9, 32, 32\)"),
        ("volume", r"\(3, 1, 3, 32, 32\)"),
        ("shared", r"\(1, 3, 32, 32\)"),  # would spread over all images
        ("lstm", "a tuple"),
    ],
)
def test_an_output_that_is_no_feature_is_refused(tap, given):
    network = Odd()
    with pytest.raises(InputError, match=f"'{tap}' is {given}.* allowed: "):
        extract(network, photos(), tap)
    assert hooks(network) == 0


@pytest.mark.parametrize(
    "count, batch, message", [(0, 8, "0 images"), (3, 0, "batches of 0"), (3, -1, "batches of -1")]
)
def test_nothing_to_read_is_refused(network, count, batch, message):
    with pytest.raises(InputError, match=f"{message}; allowed: 1 or more"):
        extract(network, photos(count), "stem", batch=batch)


def test_a_file_of_another_size_is_no_features(tmp_path):
    file = tmp_path / "features.bin"
    for content in (None, b"", bytes(4 * 2 * 3 - 1), bytes(4 * 2 * 3 + 4)):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(InputError, match=r"features.bin is missing or .* 24 bytes .*\(2, 3, 1"):
            load_mapped(file, (2, 3, 1, 1))


# --- maps of another size ---------------------------------------------------------------------

sides = st.integers(1, 9)


def assume_maps(*sizes):
    """Leave out lines of tokens, which are refused."""
    assume(not any(width == 1 and height > 1 for height, width in sizes))


def maps(height, width, seed=0):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


@given(sides, sides)
def test_equal_size_changes_nothing(height, width):
    feature = maps(height, width)
    assert torch.equal(resample(feature, (height, width)), feature)


@given(sides, sides, sides, sides)
def test_constants_stay_constant(height, width, new_height, new_width):
    assume_maps((height, width), (new_height, new_width))
    feature = torch.full((1, 2, height, width), 3.5)
    resampled = resample(feature, (new_height, new_width))
    assert resampled.shape == (1, 2, new_height, new_width)
    assert torch.allclose(resampled, torch.tensor(3.5))


@given(sides, sides, sides, sides)
def test_resampling_is_linear_and_stays_within_the_range(height, width, new_height, new_width):
    assume_maps((height, width), (new_height, new_width))
    x, y = maps(height, width, 0), maps(height, width, 1)
    size = (new_height, new_width)
    together = resample(2 * x - y, size)
    assert torch.allclose(together, 2 * resample(x, size) - resample(y, size), atol=1e-5)
    assert resample(x, size).amax() <= x.amax() + 1e-6
    assert resample(x, size).amin() >= x.amin() - 1e-6


@given(sides, sides)
def test_shrinking_by_two_averages_blocks(height, width):
    assume_maps((height, width))
    feature = maps(2 * height, 2 * width)
    shrunk = resample(feature, (height, width))
    assert torch.allclose(shrunk, F.avg_pool2d(feature, 2), atol=1e-6)
    assert torch.allclose(shrunk.mean((2, 3)), feature.mean((2, 3)), atol=1e-5)


@given(sides, sides, st.integers(2, 4))
def test_growing_is_bilinear(height, width, factor):
    assume_maps((height, width))
    feature = maps(height, width)
    size = (factor * height, factor * width)
    grown = resample(feature, size)
    expected = F.interpolate(feature, size=size, mode="bilinear", align_corners=False)
    assert torch.equal(grown, expected)
    if factor == 3:  # then every old position is the centre of a new one
        assert torch.allclose(grown[:, :, 1::3, 1::3], feature, atol=1e-6)


def test_one_side_may_grow_while_the_other_shrinks():
    feature = maps(8, 3)
    expected = F.interpolate(
        F.avg_pool2d(feature, (2, 1)), size=(4, 9), mode="bilinear", align_corners=False
    )
    assert torch.allclose(resample(feature, (4, 9)), expected, atol=1e-6)
