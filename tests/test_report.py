"""Comparing two networks of one's own: what is computed, read, refused and shown."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kclib
from kclib import features, fit, similarity
from kclib.__main__ import main
from kclib.errors import InputError, StoreError
from kclib.report import findings, items, models, page, pairs, stages
from kclib.report.kept import Kept
from kclib.report.layers import Products
from kclib.report.running import run_notebook

ROOT = Path(__file__).parent.parent
SPOTTED = "<img src=x onerror=alert(1)>.png"


def small(seed: int, *, channels: int = 6) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(),
            nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        )  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    return torch.randint(
        0, 256, (48, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.fixture
def photos(tmp_path, pictures):
    """A folder of photographs of two classes, with what photographs can be."""
    folder = tmp_path / "photos"
    for k, image in enumerate(pictures[:36]):
        place = folder / ("<b>cats" if k % 2 else "dogs & co")
        place.mkdir(parents=True, exist_ok=True)
        name = SPOTTED if k == 1 else f"{k:02d}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / name)
    return folder


@pytest.fixture
def nets(tmp_path):
    """A file of code with functions that return networks."""
    (tmp_path / "nets.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "def one(seed=1):\n    torch.manual_seed(seed)\n"
        "    return nn.Sequential(\n"
        "        nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())\n"
        "\ndef two():\n    return one(2)\n\ndef broken():\n    raise OSError('no disk there')\n"
        "\ndef number():\n    return 3\n\ndef fails():\n    return nn.Sequential(nn.Linear(7, 3))\n"
        "\ndef no_numbers():\n    net = one()\n    net[0].weight.data[0] = float('nan')\n"
        "    return net\n\ndef images():\n    return torch.rand(40, 3, 16, 16)\n"
    )
    return tmp_path / "nets.py"


def takes_grey(kind: str) -> nn.Module:
    first = [nn.Conv2d(1, 4, 3)] if kind == "maps" else [nn.Flatten(), nn.Linear(256, 8)]
    return nn.Sequential(*first, nn.ReLU())


# --- every layer from every other ---


def on_rows(source, target, part) -> float:
    """What is left on held-out rows, by plain least squares over positions."""
    source = features.resample(source, target.shape[2:])

    def rows(maps, chosen):
        return maps[chosen].permute(0, 2, 3, 1).flatten(0, 2).double()

    x, y = rows(source, part != 2), rows(target, part != 2)
    weight = torch.linalg.lstsq(x - x.mean(0), y - y.mean(0)).solution
    left = rows(target, part == 2) - rows(source, part == 2) @ weight
    whole = rows(target, part == 2)
    return float(left.var(0, correction=0).sum() / whole.var(0, correction=0).sum())


@pytest.mark.parametrize("size", [(8, 8), (4, 4), (8, 2), (1, 1), (5, 7)])
def test_cells_are_least_squares_and_linear_cka_at_any_pair_of_sizes(size):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(180, 6, 8, 8, generator=generator)
    x, y = z[:, :5] + 3, features.resample(torch.cat([z[:, :2] * z[:, 1:3], z[:, 3:]], 1), size)
    part = torch.arange(180) % 3
    shapes = {"a": {"x": tuple(x.shape[1:])}, "b": {"y": tuple(y.shape[1:])}}
    products = Products(shapes, [("a", "b"), ("b", "a")])
    for k in range(0, 180, 45):
        products.add({"a": {"x": x[k : k + 45]}, "b": {"y": y[k : k + 45]}}, part[k : k + 45])
    for one, other, source, target in (("a", "b", x, y), ("b", "a", y, x)):
        [cell] = products.cells(one, other).values()
        assert cell.left == pytest.approx(on_rows(source, target, part), rel=0.03)
        ends = (
            (source, target) if target[0, 0].numel() <= source[0, 0].numel() else (target, source)
        )
        rows = similarity.rows_of(*ends, count=10**6, seed=0)
        assert cell.cka == pytest.approx(similarity.linear_cka(*rows), abs=1e-5)
    assert products.floors("a")["x"] < 1e-6


def test_a_cell_is_what_the_solver_finds_at_order_0():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 4, 3, 3, generator=generator)
    y = torch.cat([x[:, :2] + 0.5 * torch.randn(120, 2, 3, 3, generator=generator), x.abs()], 1)
    part = torch.tensor([0, 0, 0, 0, 1, 2, 2, 2]).repeat(15)
    products = Products({"a": {"x": (4, 3, 3)}, "b": {"y": (6, 3, 3)}}, [("a", "b")])
    products.add({"a": {"x": x}, "b": {"y": y}}, part)
    fitted = fit(x[part != 2], y[part != 2], order=0, kernel_size=1, norm="dataset")
    expected = fitted.evaluate(x[part == 2], y[part == 2]).residual
    assert products.cells("a", "b")["x", "y"].left == pytest.approx(expected, rel=0.01)


def test_sums_go_on_where_they_were_left():
    x = torch.randn(40, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    given, part = {"a": {"x": x}, "b": {"y": x.relu()}}, torch.arange(40) % 3
    shapes = {"a": {"x": (3, 2, 2)}, "b": {"y": (3, 2, 2)}}
    whole, half, rest = (Products(shapes, [("a", "b")]) for _ in range(3))
    for products, index in ((whole, range(40)), (half, range(20))):
        for k in (slice(0, 20), slice(20, 40))[: len(index) // 20]:
            products.add({n: {t: v[k] for t, v in g.items()} for n, g in given.items()}, part[k])
    rest.resume(half.state(), json.loads(json.dumps(half.names())))
    rest.add({n: {t: v[20:] for t, v in g.items()} for n, g in given.items()}, part[20:])
    assert rest.cells("a", "b") == whole.cells("a", "b")


# --- comparisons ---


def test_networks_are_as_they_were_and_the_same_comparison_gives_the_same(pictures):
    a, b = small(1).train(), small(2)
    before = {k: v.clone() for k, v in a.state_dict().items()}
    found, again = (kclib.compare(a, b, pictures, order=1, batch=k) for k in (7, 48))
    assert a.training and all(torch.equal(v, before[k]) for k, v in a.state_dict().items())
    assert not any(module._forward_hooks for module in a.modules())
    for key, cells in found.cells.items():
        for place, cell in cells.items():
            assert cell.left == pytest.approx(again.cells[key][place].left, rel=1e-4)
    for one, other in zip(found.pairs, again.pairs, strict=True):
        assert one.left == pytest.approx(other.left, rel=0.05)


def test_a_network_holds_all_of_itself_and_more_than_an_untrained_copy(pictures):
    a = small(1)
    found = kclib.compare(a, a, pictures, order=0)
    assert all(pair.left[0] < 0.01 for pair in found.pairs)
    assert all(pair.ceiling > pair.left[0] for pair in found.pairs)
    said = findings.sentences(found)
    assert said[1].endswith("there is nothing that it lacks.")


class Constant(nn.Module):
    def forward(self, maps):
        return 0 * maps + 3


def test_a_layer_that_no_image_changes_is_refused_by_name(pictures):
    a, b = small(1), small(2)
    b.insert(2, Constant())
    with pytest.raises(
        InputError, match="same for all images held out: B's '2'.*name other layers"
    ):
        kclib.compare(a, b, pictures, taps_a=["0", "2"], taps_b=["0", "2"])
    found = kclib.compare(a, b, pictures, taps_a=["0"], taps_b=["0"], pairs=[("0", "0")])
    assert found.cells


def test_an_untrained_copy_with_a_constant_layer_is_unlike_all(pictures):
    maps = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    shapes = {name: {"one": (3, 4, 4)} for name in ("a untrained", "b")}
    products = Products(shapes, [("a untrained", "b")])
    products.add({"a untrained": {"one": 0 * maps}, "b": {"one": maps}}, torch.arange(40) % 3)
    assert not products.constant()
    assert products.cells("a untrained", "b")["one", "one"].cka == 0


def test_an_untrained_copy_of_a_deep_network_may_vanish(pictures):
    def deep(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        chain = nn.Sequential()
        for k in range(50):
            chain.append(nn.Conv2d(4 if k else 3, 4, 1, bias=False))  # afresh: 0.4 times smaller
            nn.init.dirac_(chain[-1].weight)
        return chain

    found = kclib.compare(deep(1), deep(2), pictures, taps_a=["49"], taps_b=["49"], order=0)
    assert all(pair.left[0] < 0.01 for pair in found.pairs)
    assert all(0 <= pair.ceiling < 1.1 for pair in found.pairs)


def test_a_second_training_run_gives_the_usual_spread_and_the_calibration(pictures):
    a, b = small(1), small(2)
    found = kclib.compare(a, b, pictures, again=small(2), order=0)
    towards_b = [pair for pair in found.pairs if pair.target == "b"]
    assert all(pair.again < 0.01 for pair in towards_b)  # it is the same network
    assert all(pair.again is None for pair in found.pairs if pair.target == "a")
    assert "B trained again: 100 %" in findings.sentences(found)[1]
    found = kclib.compare(a, b, pictures, again_a=a, order=0)
    assert all(pair.again < 0.01 for pair in found.pairs if pair.target == "a")
    assert all(pair.again is None for pair in found.pairs if pair.target == "b")
    assert "A trained again: 100 %" in findings.sentences(found)[3]


def test_an_order_that_fits_noise_is_not_used(pictures, monkeypatch, tmp_path):
    """Beside few items a non-linear step may explode on others; what is linear stays known."""
    plain = kclib.compare(small(1), small(2), pictures, taps_a=["2"], taps_b=["2"], order=0)

    def exploding(*features, order=2, **how):
        made = fit(*features, order=order, **how)
        if order:
            made.disentangler.chains[1].linears[0].weight.data += 1
        return made

    monkeypatch.setattr(pairs, "fit", exploding)
    found = kclib.compare(small(1), small(2), pictures, taps_a=["2"], taps_b=["2"])
    for linear, one in zip(plain.pairs, found.pairs, strict=True):
        assert one.orders == linear.orders and one.left == linear.left
        assert one.unused[0] < -1 and len(one.unused) == 2
        assert torch.equal(one.spots.images, linear.spots.images)
    assert "all of it linearly" in findings.sentences(found)[1]
    assert "Not used" in page.section(found, "pairs")
    found.write(tmp_path)
    assert "order 1, not used" in (tmp_path / "pairs.csv").read_text()


def test_named_layers_and_pairs_are_read(pictures):
    found = kclib.compare(
        small(1), small(2), pictures, taps_a=["0", "4"], taps_b=["2"], pairs=[("0", "2")], order=0
    )
    assert set(found.cells["a", "b"]) == {("0", "2"), ("4", "2")}
    assert [(p.tap, p.target_tap) for p in found.pairs] == [("0", "2"), ("2", "0")]


def test_pruned_networks_have_an_untrained_copy(pictures):
    a = small(1)
    torch.nn.utils.prune.l1_unstructured(a[0], "weight", 0.5)
    a(torch.zeros(1, 3, 16, 16))
    fresh = models.untrained(a)
    assert not torch.nn.utils.prune.is_pruned(fresh) and torch.nn.utils.prune.is_pruned(a)
    assert not (fresh[0].weight == 0).any()


def test_what_stands_out_is_named_and_noise_is_not():
    generator = torch.Generator().manual_seed(0)
    from kclib.report.spots import spots_of, stands_out

    strength = torch.rand(200, 1, 1, 1, generator=generator) * 10 + 0.1  # not blind, but strong
    target = strength * torch.randn(200, 16, 4, 4, generator=generator)
    left = 0.2 * strength * torch.randn(200, 16, 4, 4, generator=generator)
    labels = [k % 5 for k in range(200)]
    none = spots_of(left, target, labels=labels)
    assert stands_out(none.images) == [] and stands_out(list(none.classes.values())) == []
    left[::5] *= 1.4
    some = spots_of(left, target, labels=labels)
    assert stands_out(list(some.classes.values())) == [0]


def test_what_is_held_does_not_grow_with_the_items(monkeypatch, tmp_path):
    """Sums of all layers, and features of some of the items, in mapped files."""
    monkeypatch.setattr(pairs, "MOST", 40)
    sizes, held = [], []
    whole_features = Kept.features
    whole_put = Kept.put

    def features(kept, shapes, batches):
        held.append({name: shape[0] for name, shape in shapes.items()})
        return whole_features(kept, shapes, batches)

    def put(kept, name, tensors, record):
        sizes.append(sum(tensor.numel() for tensor in tensors.values()))
        return whole_put(kept, name, tensors, record)

    monkeypatch.setattr(Kept, "features", features)
    monkeypatch.setattr(Kept, "put", put)
    for count in (60, 240):
        given = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        kclib.compare(small(1), small(2), given, order=0, folder=tmp_path / str(count))
    assert {count for one in held for count in one.values()} == {40}
    assert len(sizes) > 2 and sizes[: len(sizes) // 2] == sizes[len(sizes) // 2 :]


# --- items ---


def test_images_of_every_mode_become_rgb_and_unreadable_ones_are_named(photos, nets, tmp_path):
    odd = photos / "odd"
    odd.mkdir()
    Image.new("RGBA", (20, 30), (255, 0, 0, 0)).save(odd / "clear.png")
    Image.new("L", (20, 30), 90).save(odd / "grey.png")
    Image.new("CMYK", (20, 30), (9, 80, 7, 1)).save(odd / "print.jpg")
    Image.fromarray(np.full((20, 30), 257 * 90, np.uint16)).save(odd / "deep.png")
    whole = (odd / "print.jpg").read_bytes()
    (odd / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (odd / "no image.jpg").write_text("hello")
    found = items.items_of(photos)
    assert len(found) == 42 and found.class_names == ("<b>cats", "dogs & co", "odd")
    by_name = dict(zip(found.names, found.get(range(len(found))), strict=True))
    assert by_name["odd/clear.png"].getpixel((3, 3)) == (255, 255, 255)
    assert by_name["odd/grey.png"].getpixel((3, 3)) == (90, 90, 90)
    assert by_name["odd/deep.png"].getpixel((3, 3)) == (90, 90, 90)
    assert by_name["odd/print.jpg"].mode == "RGB"
    assert by_name["odd/cut.jpg"] is None and by_name["odd/no image.jpg"] is None
    told = []
    compared = kclib.compare(
        f"{nets}:one", f"{nets}:two", photos, size=16, order=0, tell=told.append
    )
    assert set(compared.done["left out"]) == {"odd/cut.jpg", "odd/no image.jpg"}
    assert any("2 files cannot be read" in line and "'odd/cut.jpg'" in line for line in told)


def test_items_come_from_lists_packs_arrays_loaders_and_functions(
    photos, nets, tmp_path, pictures, monkeypatch
):
    names = [str(path.relative_to(tmp_path)) for path in sorted(photos.rglob("*.png"))]
    (tmp_path / "list.txt").write_text(
        "".join(f"{name}\tclass {k % 2}\n" for k, name in enumerate(names))
    )
    listed = items.items_of(tmp_path / "list.txt")
    assert listed.names == tuple(names) and listed.class_names == ("class 0", "class 1")

    jpeg, offsets = b"", [0]
    for path in photos.rglob("*.png"):
        file = tmp_path / "one.jpg"
        Image.open(path).save(file)
        jpeg += file.read_bytes()
        offsets.append(len(jpeg))
    count = len(offsets) - 1
    np.savez(
        tmp_path / "pack.npz", jpeg=np.frombuffer(jpeg, np.uint8), offsets=offsets,
        names=[f"{k}.jpg" for k in range(count)], label=[0] * count, class_names=["crow"],
    )  # fmt: skip
    assert items.items_of(tmp_path / "pack.npz").get([3])[0].size == (16, 16)

    array = np.random.default_rng(0).normal(size=(40, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "array.npy", array)
    save_file({"x": torch.from_numpy(array)}, tmp_path / "alone.safetensors")
    np.savez(tmp_path / "alone.npz", images=array)
    save_file(
        {"x": torch.from_numpy(array), "y": torch.zeros(40, 2)}, tmp_path / "named.safetensors"
    )
    assert items.items_of(tmp_path / "array.npy").get([1, 5]).shape == (2, 3, 16, 16)
    for name in ("alone.safetensors", "alone.npz"):  # the one input, however it is called
        assert items.items_of(tmp_path / name).get([1, 5]).shape == (2, 3, 16, 16)
    assert items.items_of(tmp_path / "named.safetensors").get([1])["x"].shape == (1, 3, 16, 16)
    assert items.items_of(f"{nets}:images").kind == "tensor"
    labels = torch.arange(40)
    for given in (
        TensorDataset(torch.from_numpy(array), labels),
        DataLoader(TensorDataset(torch.from_numpy(array), labels), batch_size=7),
        (torch.from_numpy(array), None),
    ):
        found = items.items_of(given).get([2, 4])
        found = found[0] if isinstance(found, tuple) else found
        assert torch.equal(found, torch.from_numpy(array[[2, 4]]))
    monkeypatch.chdir(tmp_path)
    assert items.items_of("nets:images").kind == "tensor"  # a module of the current folder


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(29, 3, 8, 8), "there are 29 items in a tensor; allowed: 30 or more"),
        (torch.zeros(0, 3), "0 images"),
        ("nowhere", "no folder or file 'nowhere'"),
        ([1, 2], "a list"),
        (DataLoader(TensorDataset(torch.zeros(40, 3)), shuffle=True), "shuffle=False"),
    ],
)
def test_items_that_cannot_be_shown_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        items.items_of(given)


def test_versions_of_the_same_items_belong_together(photos, nets, tmp_path):
    grey = tmp_path / "grey"
    for path in photos.rglob("*.png"):
        there = grey / path.relative_to(photos)
        there.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("L").save(there)
    one = f"{nets}:one"
    found = kclib.compare(one, one, grey, images_b=photos, size=16, order=0)
    assert all(pair.left[0] > 0.05 for pair in found.pairs if pair.target == "b")
    next(grey.rglob("02.png")).rename(grey / "dogs & co" / "03.png")
    with pytest.raises(InputError, match="different items: 'dogs & co/03.png' and .*02.png'"):
        kclib.compare(one, one, grey, images_b=photos)
    with pytest.raises(InputError, match="48 and 40 items"):
        kclib.compare(one, one, torch.zeros(48, 3, 8, 8), images_b=torch.zeros(40, 3, 8, 8))


# --- networks ---


def test_weights_come_from_files_that_hold_nothing_else(nets, tmp_path):
    network = models.model_of(f"{nets}:one").network
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    wrapped = {"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}
    torch.save(wrapped, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        loaded = models.model_of(f"{nets}:two", weights=tmp_path / name).network
        assert torch.equal(loaded[0].weight, network[0].weight)
    torch.save(network, tmp_path / "whole.pt")
    (tmp_path / "text.pt").write_text("hello")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name, message in (
        ("whole.pt", "Nothing but tensors is unpickled"),
        ("text.pt", "cannot be read as weights"),
        ("nowhere.pt", "there is no file of weights"),
        ("other.safetensors", r"4 missing \(such as 0.bias\), 1 unknown \(such as x\)"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            models.model_of(f"{nets}:two", weights=tmp_path / name)
        assert "\n" not in str(refused.value)


def test_torchvision_networks_have_their_own_preprocessing(tmp_path):
    model = models.model_of("torchvision:resnet18", weights="random", size=64)
    given = model.prepare([Image.new("RGB", (100, 80)), Image.new("RGB", (30, 30))])
    assert given.shape == (2, 3, 64, 64) and "64 px" in model.preprocessing
    taps = [p.tap for p in stages.places(model.network, given) if p.chosen]
    assert taps == ["relu", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    from torchvision.models import resnet18

    torch.save(resnet18(num_classes=7).state_dict(), tmp_path / "seven.pt")
    seven = models.model_of("torchvision:resnet18", weights=tmp_path / "seven.pt")
    assert seven.network.fc.out_features == seven.fresh().fc.out_features == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "no network 'resnet18'; allowed: torchvision:NAME"),
        ("torchvision:resnet81", "Did you mean 'resnet18'"),
        ("nets.py:one", "there is no file nets.py"),
        ("no.such.module:one", "ModuleNotFoundError"),
        ("{nets}:ones", "Did you mean 'one'"),
        ("{nets}:broken", "OSError: no disk there"),
        ("{nets}:number", "returned a int; allowed: a torch.nn.Module"),
    ],
)
def test_networks_that_are_not_there_are_refused(nets, name, message):
    with pytest.raises(InputError, match=message) as refused:
        models.model_of(name.format(nets=nets))
    assert "\n" not in str(refused.value)


def test_timm_networks_are_read_with_their_own_data_configuration(pictures):
    pytest.importorskip("timm", reason="timm is not installed")
    options = {"weights_a": "random", "weights_b": "random", "size": 32, "order": 0, "batch": 16}
    found = kclib.compare("timm:resnet10t", "timm:test_vit", pictures[:32], **options)
    assert "timm's data configuration" in found.networks["a"]["preprocessing"]
    assert found.networks["a"]["input"] == "3 × 32 × 32"
    with pytest.raises(InputError, match="no network of timm 'resnet81'"):
        models.model_of("timm:resnet81")


@pytest.fixture
def hugging_face(tmp_path):
    """Folders of an image and of two text networks, with random weights, as they are saved."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    vit = transformers.ViTConfig(image_size=32, patch_size=8, num_hidden_layers=3, **sizes)
    transformers.ViTModel(vit).save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(
        tmp_path / "vit"
    )
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{k}" for k in range(20))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    for name, layers in (("bert", 3), ("larger", 4)):
        config = transformers.BertConfig(vocab_size=25, num_hidden_layers=layers, **sizes)
        transformers.BertModel(config).save_pretrained(tmp_path / name)
        vocabulary = {word: k for k, word in enumerate(words)}
        transformers.BertTokenizer(vocabulary).save_pretrained(tmp_path / name)
    return tmp_path


def test_networks_of_transformers_are_read_from_folders(hugging_face, pictures, nets):
    found = kclib.compare(
        f"hf:{hugging_face / 'vit'}", f"{nets}:one", pictures[:32], size=32, order=0
    )
    assert "ViTImageProcessor" in found.networks["a"]["preprocessing"]
    assert all(shape == [16, 4, 4] for shape in found.networks["a"]["taps"].values())
    texts = hugging_face / "texts"
    texts.mkdir()
    for k in range(32):
        (texts / f"{k}.txt").write_text(" ".join(f"w{(k * j) % 20}" for j in range(1, 3 + k % 5)))
    both = [f"hf:{hugging_face / name}" for name in ("bert", "larger")]
    found = kclib.compare(*both, texts, order=0)
    assert found.items.kind == "text" and "8 tokens" in found.networks["a"]["preprocessing"]
    assert all(shape == [16, 1, 1] for shape in found.networks["b"]["taps"].values())
    with pytest.raises(InputError, match="hf:.*nowhere could not be loaded"):
        models.model_of(f"hf:{hugging_face / 'nowhere'}")


def test_a_missing_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="python -m pip install timm"):
        models.model_of("timm:resnet18")


# --- bad input, from the command line ---


def call(capsys, *words) -> tuple[int, str]:
    status = main(["compare", *map(str, words)])
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{nets}:one", "{nets}:two"], "--images FOLDER"),
        (["{nets}:one", "{nets}:two", "--images", "nowhere"], "no folder or file"),
        (["{nets}:one", "{nets}:two", "--images", "{photos}", "--out", "{nets}/x"], "not a folder"),
    ],
)
def test_a_bad_request_is_one_line(words, message, nets, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KC_PROGRESS", os.devnull)
    before = sorted(path.name for path in tmp_path.iterdir())
    status, said = call(capsys, *(word.format(nets=nets, photos=photos) for word in words))
    assert status == 2 and said.startswith("error: ") and message in said
    assert len(said.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("one", {"taps_a": ["layer9"]}, "no tap 'layer9'.*Allowed: 0, 1, 2, 3"),
        ("one", {"pairs": [("0", "9")]}, "a layer that is not read; allowed, of B: "),
        ("fails", {}, r"A \(.*nets.py:fails\) fails on inputs of shape \(3, 3, 16, 16\): Runtime"),
        ("no_numbers", {}, "A's '0' for 48 of 48 items"),
        ("one", {"pairs": ("0", "2")}, "a pair is '0'; allowed: a list of pairs"),
        ("one", {"order": 9}, "order is 9"),
        ("one", {"size": 3}, "size is 3 pixels"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(nets, pictures, name, options, message):
    options = {"size": 16, "order": 0} | options
    with pytest.raises(InputError, match=message) as refused:
        kclib.compare(f"{nets}:{name}", f"{nets}:two", pictures, **options)
    assert len(str(refused.value).splitlines()) == 1


def test_where_no_layer_can_be_read_the_reason_is_said():
    volumes = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU())
    with pytest.raises(
        InputError, match="no layer of A .* can be read: .*3, 4, 6, 6, 6"
    ) as refused:
        kclib.compare(volumes, volumes, torch.rand(40, 1, 8, 8, 8))
    assert len(str(refused.value).splitlines()) == 1


def test_what_a_network_takes_of_pictures_is_told_where_it_fails_on_them(pictures):
    four = nn.Sequential(nn.Conv2d(4, 4, 3))
    with pytest.raises(InputError, match="to have 4 channels.*Images were normalised.*--size"):
        kclib.compare(four, four, pictures, order=0)


@pytest.mark.parametrize("kind", ["maps", "rows"])
def test_a_network_of_one_channel_sees_the_mean_of_three(kind, pictures, tmp_path):
    net = takes_grey(kind)
    found = kclib.compare(net, net, pictures, order=0)
    assert found.networks["a"]["input"] == "1 × 16 × 16"
    assert found.networks["a"]["preprocessing"].endswith("the mean of its channels")
    expected = features.normalised(pictures).mean(1, keepdim=True)
    shown = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pictures]
    assert torch.equal(models.model_of(net, sized=True).prepare(shown), expected)
    assert torch.equal(models.model_of(net, kind="tensor").prepare(pictures), expected)
    as_it_is = expected.contiguous()
    assert models.model_of(net, kind="tensor").prepare(as_it_is) is as_it_is


@pytest.mark.parametrize("first", [3, 1])
def test_of_several_layers_that_could_be_the_first_one_of_three_channels_counts(first, pictures):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(4, 2)  # a square
            self.gate, self.conv = nn.Conv2d(first, 1, 1), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.last(self.conv(x).mean((2, 3)))

    assert kclib.compare(Odd(), Odd(), pictures, order=0).networks["a"]["input"] == "3 × 16 × 16"


def test_pictures_in_arrays_may_have_their_channels_anywhere(pictures):
    grey = pictures[:, :1]
    for whole, others in {
        pictures: [pictures.permute(0, 2, 3, 1)],
        grey.expand(-1, 3, -1, -1): [grey, grey[:, 0], grey.permute(0, 2, 3, 1)],
    }.items():
        expected = items.items_of(whole).get([5])[0]
        for given in others:
            shown = items.items_of(given.numpy())
            assert shown.kind == "image" and shown.sized
            assert np.array_equal(shown.get([5])[0], expected)


def test_one_layer_is_one_in_words():
    net = nn.Sequential(nn.Linear(5, 4))
    sentence = findings.sentences(kclib.compare(net, net, torch.rand(40, 5), order=0))[0]
    assert sentence.startswith("Of the one layer of B that was read, ")


def test_a_comparison_that_was_interrupted_goes_on(pictures, tmp_path, monkeypatch):
    a, b = small(1), small(2)
    whole = kclib.compare(a, b, pictures, order=1)
    made = []

    def stopping(*words, **options):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(fit(*words, **options))
        return made[-1]

    monkeypatch.setattr(pairs, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        kclib.compare(a, b, pictures, order=1, folder=tmp_path)
    assert not any(module._forward_hooks for module in a.modules())
    again = []
    monkeypatch.setattr(pairs, "fit", lambda *w, **o: again.append(fit(*w, **o)) or again[-1])
    monkeypatch.setattr(Products, "add", lambda *_: pytest.fail("the pass is made again"))
    found = kclib.compare(a, b, pictures, order=1, folder=tmp_path)
    assert findings.record(found)["pairs"] == findings.record(whole)["pairs"]
    fits = 3 * len(found.pairs)
    assert len(again) == fits - 2
    found.write(tmp_path)
    assert not (tmp_path / ".unfinished").exists()


def test_a_full_disk_is_one_line(pictures, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full"):
        kclib.compare(small(1), small(2), pictures, order=0, folder=tmp_path)


def test_parts_of_another_comparison_are_not_found(tmp_path):
    Kept(tmp_path, "one").put("part", {"x": torch.ones(1)}, {})
    assert Kept(tmp_path, "two").get("part") is None
    [file] = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    assert Kept(tmp_path, "one").get("part") is None  # damaged: made again


# --- the page ---


class Tags(HTMLParser):
    """All tags of a page with their attributes, and its addresses."""

    def __init__(self, text: str):
        super().__init__()
        self.found, self.addresses = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.addresses += [value for key, value in attrs if key in ("src", "href")]


def test_the_page_is_whole_in_itself_and_shows_names_as_text(photos, nets, tmp_path):
    found = kclib.compare(f"{nets}:one", f"{nets}:two", photos, size=16, order=1)
    written = found.write(tmp_path / "report", command="kclib compare 'a<script>' b")
    text = written.read_text()
    tags = Tags(text)
    assert all(address.startswith("data:") for address in tags.addresses)
    assert not any("onerror" in attributes for _, attributes in tags.found)
    assert sum(tag == "script" for tag, _ in tags.found) == 1
    assert "<b>cats" not in text and "&lt;b&gt;cats" in text
    assert "kclib compare &#39;a&lt;script&gt;" in text
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())
    assert any(SPOTTED in i["item"] for i in numbers["pairs"][0]["items"]) or all(
        SPOTTED not in found.items.names[k] for k in found.shown
    )
    for one in numbers["pairs"]:
        assert one["floor"] is not None and one["ceiling"] is not None
        shares = [order["share"] for order in one["orders"]]
        assert sum(shares) + one["left"]["share"] == pytest.approx(1)
    for row in numbers["layer by layer"]:
        assert row["floor"] is not None and row["ceiling"] is not None
    sections = "".join(page.section(found, name) for name in page.SECTIONS)
    assert all(sentence.split("’")[0] in sections for sentence in numbers["at a glance"])


def test_numbers_in_cells_can_be_read():
    """Contrast as the Web Content Accessibility Guidelines have it: 4.5 or more."""

    def luminance(colour):
        parts = (c / 255 for c in colour)
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for share in np.linspace(0, 1, 200):
        style = page._painted(share)
        ground = luminance(map(int, style.split("rgb(")[1].split(")")[0].split(",")))
        ink = {"#000": 0, "#fff": 1}[style.split("color:")[-1]]
        assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) >= 4.5


def test_the_command_writes_a_report(nets, photos, tmp_path, monkeypatch):
    """In an empty folder, as someone would who has installed the package."""
    folder = tmp_path / "empty"
    folder.mkdir()
    words = [sys.executable, "-m", "kclib", "compare", f"{nets}:one", f"{nets}:two"]
    words += ["--images", str(photos), "--size", "16", "--order", "1", "--out", "out/report"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KC_DEVICE": "cpu"}
    run = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "accounts for" in run.stdout and "open out/report/index.html" in run.stdout
    assert "36 items" in run.stderr  # the forecast
    names = {path.name for path in (folder / "out" / "report").iterdir()}
    tables = {"channels.csv", "items.csv", "layers.csv", "pairs.csv"}
    assert names == tables | {"index.html", "report.json", "own_networks.ipynb"}
    listed = subprocess.run(
        [*words[:6], "--size", "16", "--list-taps"],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert listed.returncode == 0 and "* 1 " in listed.stdout and "6 x 7 x 7" in listed.stdout


def test_help_fits_a_screen(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 90


def test_the_package_holds_the_page_and_the_notebook(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 is not installed")
    source = tmp_path / "source"  # building leaves a folder, whose name would mislead make lint
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kclib", source / "kclib", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-text"):
        shutil.copy(ROOT / name, source)
    words = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "."]
    built = subprocess.run([*words, "-w", tmp_path], cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"kclib/report/page.html", "kclib/report/own_networks.ipynb"} <= set(names)


def test_the_notebook_runs_with_its_defaults(tmp_path, monkeypatch):
    """A network of the book and a pruned copy of it, on drawn images."""
    places = {"KC_STORE": "store", "KC_PROGRESS": "progress"}
    for name, value in {name: str(tmp_path / place) for name, place in places.items()}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KC_PROFILE", "smoke")
    monkeypatch.setenv("KC_DEVICE", "cpu")
    notebook = Path(page.__file__).with_name("own_networks.ipynb")
    run_notebook(notebook, {}, tmp_path / "run.ipynb", folder=tmp_path)
    cells = json.loads((tmp_path / "run.ipynb").read_text())["cells"]
    drawn = [c["outputs"] for c in cells if "page.section" in "".join(c["source"])]
    assert len(drawn) > 5
    assert all("text/html" in outputs[-1]["data"] for outputs in drawn)


def test_the_page_trusts_its_rankings_as_far_as_their_check_found_them():
    # The sentence on the page, and what the recorded runs of the check must have found for it.
    text = (ROOT / "kclib" / "report" / "page.html").read_text()
    assert "the items concerned higher than chance would, but far from always on top" in text
    assert "so the channels on photographs, but hardly on drawn animals" in text
    assert "never taught came hardly higher than others; such classes as a whole came near" in text
    assert "in deep layers on drawn animals, and not on photographs" in text
    assert "Where nothing was missing, nothing stood out" in text
    runs = [p for p in (ROOT / "results").glob("*/check_comparison.json") if "smoke" not in str(p)]
    assert runs
    for path in runs:
        result = json.loads(path.read_text())
        rows = [row for row in result["rows"] if row.get("ranking") == "z, B again"]

        def area(rows=rows, **wanted) -> float:
            found = [r["area"] for r in rows if wanted.items() <= r.items()]
            return sum(found) / len(found)

        drawn = result["profile"] == "quick"
        for ranked in ("images", "channels"):
            asked = {"question": "not shown", "ranked": ranked}
            found = area(a="altered", **asked)
            assert found > area(a="ordinary", **asked) + 0.05
            hardly = drawn and ranked == "channels"
            assert 0.45 < found < 0.65 if hardly else 0.55 < found < 0.9
        taught = {"question": "not taught", "ranked": "images"}
        assert 0.4 < area(a="altered", **taught) < 0.65
        of_classes = [r for r in result["rows"] if r.get("ranked") == "classes"]
        deepest = {"tap": of_classes[-1]["tap"], "direction": "A gives B"}
        altered, ordinary = (
            [r["area_of_classes"] for r in of_classes if (deepest | {"a": a}).items() <= r.items()]
            for a in ("altered", "ordinary")
        )
        altered, ordinary = sum(altered) / len(altered), sum(ordinary) / len(ordinary)
        assert altered > max(0.8, ordinary + 0.1) if drawn else altered < ordinary + 0.1
        copies = [row for row in result["rows"] if row["question"] == "nothing"]
        assert copies and not any(row["images"] + row["channels"] for row in copies)
