"""Models as they come: what people reported who read features of networks with other tools.

`REPORTS` lists each report, where it stands, what must happen here, and the test that shows it. The
networks are torchvision's, small, or stand-ins that put out what other libraries' networks do.
"""

import ast
import copy
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from kclib import fit, networks, similarity
from kclib.errors import DegenerateFeatures, InputError
from kclib.features import extract, normalised, resample
from kclib.images import creatures

# isort: split
from torchvision import models  # imports only after kclib
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import SqueezeExcitation


class Report(NamedTuple):
    kind: str
    where: str  # below https://github.com/
    must: str  # what has to happen
    test: str  # in this file, or FILE.py::NAME


REPORTS = [
    Report(
        "the output is a tuple",
        "meta-pytorch/captum/pull/195",
        "an element is named by tap[0]; one tensor is taken by itself, of several all are listed",
        "test_an_element_of_a_tuple_is_named_or_is_the_only_one",
    ),
    Report(
        "attention gives (activation, None)",
        "KamitaniLab/bdpy/issues/76",
        "the only tensor is taken",
        "test_attention_without_weights_gives_its_only_tensor",
    ),
    Report(
        "a ModelOutput or a dict",
        "andrewargatkiny/dense-attention/pull/14",
        "tap.last_hidden_state, and .logits of the network's own output",
        "test_elements_of_a_model_output_have_names",
    ),
    Report(
        "channels last: Swin",
        "jacobgil/pytorch-grad-cam/issues/426",
        "recognised from LayerNorm and Linear on the way",
        "test_channels_last_of_swin_are_recognised",
    ),
    Report(
        "channels last inside, first outside: ConvNeXt",
        "jacobgil/pytorch-grad-cam/pull/292",
        "followed through Permute",
        "test_permutations_of_convnext_are_followed",
    ),
    Report(
        "channels last that no module tells",
        "jacobgil/pytorch-grad-cam/pull/292",
        "asked for; a declared layout is checked",
        "test_a_layout_that_no_module_tells_is_asked_for",
    ),
    Report(
        "time first, with as many steps as images",
        "IBM/TabFormer/pull/14",
        "the axis of images is measured",
        "test_time_first_is_seen_even_with_as_many_steps_as_images",
    ),
    Report(
        "tokens of a vision transformer",
        "ViCCo-Group/thingsvision/issues/169",
        "maps of the patches' grid; the class token apart",
        "test_tokens_are_maps_and_the_class_token_is_apart",
    ),
    Report(
        "distillation and register tokens",
        "facebookresearch/dinov2/issues/398",
        "all that precede the patches are left out of the maps; grids need not be square",
        "test_register_tokens_and_grids_that_are_not_square",
    ),
    Report(
        "tokens whose grid no convolution tells",
        "lucidrains/vit-pytorch/issues/38",
        "a line of tokens, or the grid that is given, checked",
        "test_a_grid_can_be_given_and_must_fit",
    ),
    Report(
        "weights of half precision",
        "Nota-NetsPresso/PyNetsPresso/issues/36",
        "inputs follow the weights; features are float32",
        "test_inputs_follow_weights_of_half_precision",
    ),
    Report(
        "half precision that overflows",
        "Comfy-Org/ComfyUI/issues/15262",
        "infinity is not fitted",
        "test_features_that_overflowed_are_not_fitted",
    ),
    Report(
        "two inputs, keyword inputs, a dict",
        "meta-pytorch/captum/issues/665",
        "a tuple is positional, a dict by keyword; only uint8 images are normalised",
        "test_several_inputs_go_in_by_place_or_by_name",
    ),
    Report(
        "DataLoader, Dataset, NumPy array",
        "KamitaniLab/bdpy/issues/69",
        "the same features as of a tensor",
        "test_arrays_data_sets_and_loaders_give_the_same_features",
    ),
    Report(
        "floats in 0..1 where 0..255 is expected",
        "qubvel-org/segmentation_models.pytorch/issues/866",
        "refused with the ways out",
        "test_floats_are_not_taken_for_0_to_255",
    ),
    Report(
        "DataParallel prefixes",
        "moskomule/cca.pytorch/issues/5",
        "plain names, and prefixed ones with the same meaning",
        "test_wrappers_do_not_change_names_or_meanings",
    ),
    Report(
        "a scripted or traced module",
        "pytorch/pytorch/issues/86818",
        "it is said what it is, and what to give instead",
        "test_scripted_modules_are_named_as_such",
    ),
    Report(
        "a subclass of ResNet, an SE block, a hook",
        "pytorch/vision/issues/2200",
        "features are those of the network itself; no split that computes another",
        "test_changed_residual_networks_are_read_as_they_are",
    ),
    Report(
        "a hook, or a forward put in the place of the class's",
        "pytorch/vision/issues/2200",
        "head and tail are refused where they would not be the network",
        "test_head_and_tail_are_refused_where_they_are_not_the_network",
    ),
    Report(
        "one name, two meanings",
        "antoinebrl/torchextractor/issues/1",
        "the paper's names for torchvision's own; else a warning; layer2@1 is the module's output",
        "test_a_stage_by_its_name_has_one_meaning_or_it_is_said",
    ),
    Report(
        "tokens against a map or another patch size",
        "frgfm/torch-cam/pull/412",
        "a line is not resampled; maps of grids are",
        "test_a_line_of_tokens_is_not_resampled",
    ),
    Report(
        "a vision transformer beside a ResNet",
        "numpee/CKA.pytorch/issues/3",
        "maps of both are fitted",
        "test_a_vision_transformer_is_compared_with_a_residual_network",
    ),
    Report(
        ".DS_Store among class folders",
        "pytorch/vision/pull/79",
        "folders only, and the classes are in the key",
        "test_archives.py::test_what_a_file_manager_leaves_is_no_class",
    ),
    Report(
        "hidden folders among class folders",
        "pytorch/vision/issues/2831",
        "no classes",
        "test_archives.py::test_what_a_file_manager_leaves_is_no_class",
    ),
    Report(
        "fewer rows than channels",
        "moskomule/anatome/issues/18",
        "a warning",
        "test_similarity_warns_of_few_rows",
    ),
    Report(
        "several layers in one pass",
        "ViCCo-Group/thingsvision/issues/41",
        "a list of taps, a dict of features",
        "test_several_taps_are_read_in_one_pass",
    ),
    Report(
        "a module under a second name",
        "openai/CLIP/pull/239",
        "both names are taps",
        "test_a_second_name_is_a_tap_too",
    ),
    Report(
        "a module used several times",
        "mlfoundations/open_clip/pull/78",
        "relu@2 is the second use; without a number the first, with a warning",
        "test_each_use_of_a_module_can_be_read",
    ),
    Report(
        "a quantised network",
        "pytorch/pytorch/pull/37233",
        "values are dequantised; a fused layer is named as such",
        "test_quantised_features_are_their_values_and_fused_layers_are_named",
    ),
    Report(
        "the network afterwards",
        "BNUCNL/dnnbrain/pull/72",
        "modes, buffers, flags, hooks as before, also after errors and interrupts",
        "test_the_network_is_afterwards_as_it_was",
    ),
    Report(
        "parameter names as taps",
        "AntixK/PyTorch-Model-Compare/issues/4",
        "refused, with the module's path",
        "test_parameters_are_no_taps",
    ),
    Report(
        "fewer images than channels",
        "moskomule/anatome/issues/18",
        "features do not depend on the number of images",
        "test_few_images_have_the_same_features",
    ),
    Report(
        "an in-place ReLU after the tap",
        "meta-pytorch/captum/issues/156",
        "features are those before it",
        "test_what_works_in_place_after_a_tap_leaves_it_alone",
    ),
    Report(
        "a functional in-place ReLU: DenseNet",
        "pytorch/vision/issues/4164",
        "features are those before it",
        "test_what_works_in_place_after_a_tap_leaves_it_alone",
    ),
    Report(
        "file= a folder, ~ in a path",
        "spcl/dace/pull/1578",
        "checked before the network runs; ~ is the home",
        "test_a_place_for_the_file_is_checked_before_the_network_runs",
    ),
    Report(
        "--output a folder, a clone that is read-only",
        "nteract/papermill/issues/201",
        "checked before the run; one line",
        "test_notebook_runner.py::test_places_that_cannot_be_written_are_refused_before_a_run",
    ),
    Report(
        "~ and an apostrophe in the paths of a run",
        "ARISE-Initiative/robomimic/pull/36",
        "~ is the home, an apostrophe a letter",
        "test_notebook_runner.py::test_home_and_an_apostrophe_in_a_path_do_no_harm",
    ),
    Report(
        "a long TMPDIR",
        "LMCache/LMCache/issues/3529",
        "sockets go where their names have room",
        "test_notebook_runner.py::test_a_long_folder_for_temporary_files_does_no_harm",
    ),
    Report(
        "a killed kernel",
        "nteract/papermill/issues/478",
        "one line that says so",
        "test_notebook_runner.py::test_a_killed_kernel_is_one_line",
    ),
    # Found since
    Report(
        "an order of layers that is not that of the call",
        "KamitaniLab/bdpy/pull/102",
        "features stand under the name of their tap",
        "test_several_taps_are_read_in_one_pass",
    ),
    Report(
        "out_proj of an attention is never called",
        "pytorch/pytorch/issues/78109",
        "refused, saying why and what to tap",
        "test_modules_that_are_not_called_are_named_with_the_reason",
    ),
    Report(
        "forward() called directly",
        "mistralai/mistral-inference/issues/246",
        "refused, saying why",
        "test_modules_that_are_not_called_are_named_with_the_reason",
    ),
    Report(
        "torch.fx leaves out hooks",
        "pytorch/vision/issues/5193",
        "refused, saying why and what to give",
        "test_modules_that_are_not_called_are_named_with_the_reason",
    ),
    Report(
        "the fast path of a transformer layer",
        "pytorch/pytorch/issues/128413",
        "its submodules are read",
        "test_the_fast_path_of_a_transformer_does_not_hide_its_modules",
    ),
    Report(
        "padding cut off by a transformer",
        "pytorch/pytorch/issues/97111",
        "refused: the shape differs between batches",
        "test_features_of_several_shapes_are_refused",
    ),
    Report(
        "squeeze() of a last batch of one",
        "layumi/Person_reID_baseline_pytorch/issues/77",
        "refused, naming the batch",
        "test_features_of_several_shapes_are_refused",
    ),
    Report(
        "dropout that stays on",
        "pytorch/pytorch/issues/26338",
        "refused: two passes differ",
        "test_features_that_depend_on_chance_or_on_the_batch_are_refused",
    ),
    Report(
        "batch norm without running statistics",
        "xu-ji/IIC/issues/49",
        "refused: another batch, other features",
        "test_features_that_depend_on_chance_or_on_the_batch_are_refused",
    ),
    Report(
        "a loader that shuffles",
        "binli123/dsmil-wsi/issues/19",
        "refused",
        "test_loaders_that_mix_or_leave_out_images_are_refused",
    ),
    Report(
        "a distributed sampler pads",
        "pytorch/pytorch/issues/25162",
        "refused",
        "test_loaders_that_mix_or_leave_out_images_are_refused",
    ),
    Report(
        "drop_last",
        "muzairkhattak/PromptSRC/issues/22",
        "refused where it leaves images out",
        "test_loaders_that_mix_or_leave_out_images_are_refused",
    ),
    Report(
        "random augmentation while reading",
        "jindongwang/transferlearning/issues/222",
        "refused: an image differs from itself",
        "test_loaders_that_mix_or_leave_out_images_are_refused",
    ),
    Report(
        "grey images under a normalisation of three channels",
        "pytorch/vision/issues/288",
        "refused, not broadcast",
        "test_images_of_another_shape_are_not_broadcast",
    ),
    Report(
        "images with channels last",
        "bethgelab/foolbox/issues/135",
        "refused, with the permutation",
        "test_images_of_another_shape_are_not_broadcast",
    ),
    Report(
        "hooks after torch.compile has compiled",
        "pytorch/pytorch/issues/117758",
        "read uncompiled",
        "test_compiled_networks_are_read",
    ),
    Report(
        "weights left on the meta device",
        "huggingface/accelerate/issues/1711",
        "refused, saying how to load",
        "test_networks_without_values_are_refused",
    ),
    Report(
        "a blank image divides by nothing",
        "Po-Hsun-Su/pytorch-ssim/issues/8",
        'under norm="image" refused, by image and channel',
        "test_solver.py::test_one_blank_image_is_named",
    ),
    Report(
        "a large mean rules a least-squares fit",
        "p-e-w/heretic/issues/124",
        "what the means leave is fitted, and it is said",
        "test_solver.py::test_a_large_mean_of_the_target_does_not_matter",
    ),
    Report(
        "a tiny target: NaN, or a search without end",
        "Michaelvll/DeepCCA/issues/4",
        "any scale of the target gives the same shares",
        "test_solver.py::test_any_scale_of_the_target_gives_the_same_shares",
    ),
    Report(
        "scales of 1e12 beside 1e-12",
        "AntixK/PyTorch-Model-Compare/issues/2",
        "they disturb nothing",
        "test_solver.py::test_scales_far_apart_disturb_nothing",
    ),
]


def test_every_report_has_its_test():
    here = Path(__file__)
    for report in REPORTS:
        file, _, name = report.test.rpartition("::")
        tree = ast.parse((here.with_name(file) if file else here).read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in defined, report
        assert report.where.count("/") == 3 and report.where.rsplit("/")[-1].isdigit(), report
    named = {report.test for report in REPORTS}
    written = [n.name for n in ast.parse(here.read_text()).body if isinstance(n, ast.FunctionDef)]
    unlisted = {n for n in written if n.startswith("test_")} - named
    assert unlisted == {"test_every_report_has_its_test"}


def photos(count=5, size=32, channels=3):
    generator = torch.Generator().manual_seed(1)
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@torch.no_grad()
def hooked(network, module, x=None):
    """Return a module's own output, read by a plain hook."""
    seen = []
    handle = module.register_forward_hook(lambda *given: seen.append(given[2].clone()))
    modes = [(m, m.training) for m in network.modules()]
    network.eval()(normalised(photos()) if x is None else x)
    handle.remove()
    for one, mode in modes:
        one.training = mode
    return seen[0]


def close(one, other):
    return one.shape == other.shape and torch.allclose(one, other, atol=1e-5)


def small_resnet(**options):
    return networks.build("resnet18", classes=4, width=0.1, size=32, **options)


def plain(x):
    """Return a batch as it is: the network takes it so."""
    return x


# --- what comes out -----------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, batch_first=True):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=batch_first)

    def forward(self, x):
        return self.lstm(x)[0]


def test_an_element_of_a_tuple_is_named_or_is_the_only_one():
    network, x = Recurrent(), torch.randn(5, 7, 3)
    with torch.no_grad():
        output, (hidden, _) = network.lstm(x)
    found = extract(network, x, ["lstm[0]", "lstm@1[0]"], preprocess=plain)
    for features in found.values():
        assert close(features, output.transpose(1, 2)[..., None])
    with pytest.raises(InputError, match=r"name one of: lstm\[0\] \(.*lstm\[1\]\[0\] \(1, "):
        extract(network, x, "lstm", preprocess=plain)
    with pytest.raises(InputError, match=r"no element 2 .*name one of: lstm\[0\]"):
        extract(network, x, "lstm[2]", preprocess=plain)
    # its state has a first axis of layers; images come second
    state = extract(network, x, "lstm[1][0]", preprocess=plain, layout="TNC")
    assert close(state, hidden.permute(1, 2, 0)[..., None])


class Attending(nn.Module):
    def __init__(self, width=6, batch_first=True):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=batch_first)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def test_attention_without_weights_gives_its_only_tensor():
    network, x = Attending(), torch.randn(5, 9, 6)
    with torch.no_grad():
        expected = network.eval()(x)
    found = extract(network, x, "attention", preprocess=plain)
    assert close(found, expected.transpose(1, 2)[..., None])


@dataclass
class ModelOutput(OrderedDict):
    """As in the library transformers: a dict whose values are attributes too."""

    last_hidden_state: torch.Tensor = None
    pooler_output: torch.Tensor = None

    def __post_init__(self):
        for name, value in vars(self).copy().items():
            if isinstance(value, torch.Tensor):
                self[name] = value


class Described(nn.Module):
    """A network as of the library transformers: tokens in, named outputs."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 6)
        self.encoder = Encoder()

    def forward(self, input_ids, attention_mask=None, return_dict=True):
        x = self.embedding(input_ids)
        if attention_mask is not None:
            x = x * attention_mask[..., None]
        found = self.encoder(x)
        return {"logits": found.pooler_output, "encoder": found}


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        x = self.linear(x)
        return ModelOutput(last_hidden_state=x, pooler_output=x.mean(1))


def test_elements_of_a_model_output_have_names():
    network = Described()
    words = {"input_ids": torch.randint(0, 50, (5, 8)), "attention_mask": torch.ones(5, 8)}
    with torch.no_grad():
        expected = network(**words)["encoder"]
    found = extract(
        network,
        words,
        ["encoder.last_hidden_state", "encoder[0]", "encoder.pooler_output", ".logits"],
    )
    for tap in ("encoder.last_hidden_state", "encoder[0]"):
        assert close(found[tap], expected.last_hidden_state.transpose(1, 2)[..., None])
    for tap in ("encoder.pooler_output", ".logits"):
        assert close(found[tap], expected.pooler_output[:, :, None, None])
    with pytest.raises(InputError, match=r"name one of: encoder\.last_hidden_state \("):
        extract(network, words, "encoder")
    with pytest.raises(InputError, match="no element 'hidden'.*encoder.pooler_output"):
        extract(network, words, "encoder.hidden")


# --- layouts ------------------------------------------------------------------------------------


def test_channels_last_of_swin_are_recognised():
    network = models.swin_t(weights=None, num_classes=3)
    taps = {
        "features.0": (96, 8, 8),  # convolution, permutation, norm
        "features.1": (96, 8, 8),
        "features.1.0": (96, 8, 8),
        "features.1.1.mlp": (96, 8, 8),
        "features.2": (192, 4, 4),  # a merging of patches
        "features.3.1.attn": (192, 4, 4),
        "norm": (768, 1, 1),
        "permute": (768, 1, 1),
    }
    found = extract(network, photos(), list(taps))
    for tap, shape in taps.items():
        assert found[tap].shape == (5, *shape), tap
        output = hooked(network, network.get_submodule(tap))
        expected = output if tap == "permute" else output.permute(0, 3, 1, 2)
        assert close(found[tap], expected), tap


def test_permutations_of_convnext_are_followed():
    network = models.convnext_tiny(weights=None, num_classes=3)
    first = ["features.0", "features.1.0", "features.1", "features.2", "features.3.0.block"]
    last = ["features.1.0.block.2", "features.1.0.block.5"]
    found = extract(network, photos(), first + last)
    for tap in first:
        assert close(found[tap], hooked(network, network.get_submodule(tap))), tap
    for tap in last:
        output = hooked(network, network.get_submodule(tap))
        assert close(found[tap], output.permute(0, 3, 1, 2)), tap


class Turned(nn.Module):
    """A convolution whose output is put channels last, as other libraries have it."""

    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.turn = Turn()
        self.last = nn.Linear(width, width)

    def forward(self, x):
        return self.last(self.turn(self.first(x)))


class Turn(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class Scrambled(nn.Module):
    """A network in which no module is of a kind that tells its layout."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6))
        self.inside = nn.Identity()

    def forward(self, x):
        return self.inside(torch.einsum("nchw,cd->nhwd", x[:, :, :6, :6], self.weight))


def test_a_layout_that_no_module_tells_is_asked_for():
    network = Turned()
    output = hooked(network, network.turn).permute(0, 3, 1, 2)
    assert close(extract(network, photos(), "turn"), output)  # channels moved to the end: seen
    network = Scrambled()
    expected = hooked(network, network.inside)
    for layout, turned in (("NHWC", (0, 3, 1, 2)), ("NCHW", (0, 1, 2, 3)), ("NWCH", (0, 2, 3, 1))):
        found = extract(network, photos(), "inside", layout=layout)
        assert close(found, expected.permute(turned)), layout
    with pytest.raises(InputError, match=r"do not tell.*layout=\"NCHW\" .* or \"NHWC\""):
        extract(network, photos(), "inside")
    normed = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), Turn(), nn.LayerNorm(32))
    output = hooked(normed, normed[2]).permute(0, 3, 1, 2)
    assert close(extract(normed, photos(), "2"), output)  # by the norm alone, of 32 x 32 x 32
    whole = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm((4, 30, 30)))  # over maps
    assert close(extract(whole, photos(), "1"), hooked(whole, whole))
    square = Square()  # as many channels as rows and columns
    for tap in ("out", "turned.turn"):
        with pytest.raises(InputError, match="do not tell"):
            extract(square, photos(), tap)
    assert close(extract(square, photos(), "again"), hooked(square, square.again))
    with pytest.raises(InputError, match=r"layout=\"NTC\" .* or \"NCT\""):
        extract(Lines(), photos(), "inside")
    for wrong, message in (
        ("NCH", "a letter an axis"),
        ("NHCC", "a letter an axis"),
        ("CNHW", "axis 0 .* counts the images"),
    ):
        with pytest.raises(InputError, match=message):
            extract(network, photos(), "inside", layout=wrong)
    with pytest.raises(InputError, match="layout is given for 'other'; allowed: the taps 'inside'"):
        extract(network, photos(), "inside", layout={"other": "NCHW"})


class Square(nn.Module):
    """Channels second, then last, then unknown, and as many of them as rows and columns."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.again = BasicBlock(3, 32, downsample=nn.Conv2d(3, 32, 1))
        self.turned = Turned(width=32)
        self.out = Turn()

    def forward(self, x):
        x = self.first(x)
        return self.again(x), self.out(self.turned(x))


class Lines(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = nn.Identity()

    def forward(self, x):
        return self.inside(x.flatten(1).unflatten(1, (48, 64)))


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_time_first_is_seen_even_with_as_many_steps_as_images(count):
    x = torch.randn(count, 5, 6)
    for network, tap in ((Attending(batch_first=False), "attention"), (TimeFirst(), "lstm[0]")):
        with torch.no_grad():
            expected = network.eval()(x.transpose(0, 1)).permute(1, 2, 0)[..., None]
        found = extract(network, x, tap, preprocess=lambda batch: batch.transpose(0, 1))
        assert close(found, expected), tap


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 4)

    def forward(self, x):
        return self.lstm(x)[0]


def vit(**options):
    sizes = dict(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=6, mlp_dim=8)
    return models.VisionTransformer(**sizes | options)


def test_tokens_are_maps_and_the_class_token_is_apart():
    network = vit()
    tap = "encoder.layers.encoder_layer_0"
    tokens = hooked(network, network.get_submodule(tap))
    assert tokens.shape == (5, 17, 6)
    maps = extract(network, photos(), tap)
    assert close(maps, tokens[:, 1:].reshape(5, 4, 4, 6).permute(0, 3, 1, 2))
    token = extract(network, photos(), tap, tokens="class")
    assert close(token, tokens[:, 0, :, None, None])
    line = extract(network, photos(), tap, tokens="all")
    assert close(line, tokens.transpose(1, 2)[..., None])
    with pytest.raises(InputError, match="no tokens 'cls'. .*Allowed: patches, class, all"):
        extract(network, photos(), tap, tokens="cls")
    with pytest.raises(InputError, match="no class token is known"):
        extract(network, photos(), "conv_proj", tokens="class")


class Registers(nn.Module):
    """A vision transformer with a class token and four registers before its patches."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 8, 8)
        self.special = nn.Parameter(torch.randn(1, 5, 6))
        self.block = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.block(torch.cat([self.special.expand(len(x), -1, -1), x], dim=1))


def test_register_tokens_and_grids_that_are_not_square():
    network, images = Registers(), photos()[:, :, :, :24]
    tokens = hooked(network, network.block, normalised(images))
    assert tokens.shape == (5, 5 + 4 * 3, 6)
    found = extract(network, images, "block")
    assert close(found, tokens[:, 5:].reshape(5, 4, 3, 6).permute(0, 3, 1, 2))


class Cut(nn.Module):
    """Patches cut out without a convolution, as some transformers and mixers do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 64, 6)

    def forward(self, x):
        return self.linear(F.unfold(x, 8, stride=8).transpose(1, 2))


def test_a_grid_can_be_given_and_must_fit():
    network = Cut()
    tokens = hooked(network, network.linear)
    assert extract(network, photos(), "linear").shape == (5, 6, 16, 1)
    found = extract(network, photos(), "linear", grid=(4, 4))
    assert close(found, tokens.reshape(5, 4, 4, 6).permute(0, 3, 1, 2))
    with pytest.raises(InputError, match=r"grid is \(5, 4\), but there are 16 tokens"):
        extract(network, photos(), "linear", grid=(5, 4))
    with pytest.raises(InputError, match=r"grid is \(4, 4\), but .* no tokens"):
        extract(small_resnet(), photos(), "conv1", grid=(4, 4))


def test_a_line_of_tokens_is_not_resampled():
    line, grid = torch.randn(3, 4, 16, 1), torch.randn(3, 4, 4, 4)
    for feature, size in ((line, (4, 4)), (line, (9, 1)), (grid, (16, 1))):
        with pytest.raises(InputError, match="line of 16 tokens.*grid="):
            resample(feature, size)
    assert torch.equal(resample(line, (16, 1)), line)
    assert close(resample(line, (1, 1)), line.mean((2, 3), keepdim=True))
    with pytest.raises(InputError, match="line of 16 tokens"):
        fit(line, grid, order=0, kernel_size=1)
    with pytest.raises(InputError, match="line of 16 tokens"):
        similarity.rows_of(line, grid, count=5, seed=0)


def test_a_vision_transformer_is_compared_with_a_residual_network():
    images = creatures.render(60, size=32, split="test").images
    x = extract(vit(), images, "encoder.layers.encoder_layer_1")
    target = extract(small_resnet(), images, "layer1")
    assert x.shape[2:] == (4, 4) and target.shape[2:] == (8, 8)
    mixed = x.flatten(2)[:, :, torch.randperm(16)].unflatten(2, (4, 4))
    rows, wrong = (similarity.rows_of(part, target, count=4000, seed=0) for part in (x, mixed))
    assert similarity.stitching(*rows) > 1.5 * similarity.stitching(*wrong)  # places correspond
    assert fit(x, target, order=0, kernel_size=1, norm="dataset").residual > 0


# --- what goes in -------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_follow_weights_of_half_precision(precision):
    network = small_resnet()
    expected = extract(network, photos(), ["layer2", "fc"])
    found = extract(copy.deepcopy(network).to(precision), photos(), ["layer2", "fc"])
    for tap, features in found.items():
        assert features.dtype == torch.float32
        apart = (features - expected[tap]).norm() / expected[tap].norm()
        assert apart < 0.02 and (precision == torch.float64 or apart > 0)


def test_features_that_overflowed_are_not_fitted():
    network = nn.Sequential(nn.Conv2d(3, 4, 3)).half()
    with torch.no_grad():
        network[0].weight.fill_(6e4)
    x = extract(network, photos(), "0")
    with pytest.raises(InputError, match="NaN or infinity"):
        fit(x, x, order=0, kernel_size=1)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(2, 4)

    def forward(self, pixels, place, *, scale=None):
        x = self.convolution(pixels) + self.linear(place)[:, :, None, None]
        return x if scale is None else x * scale


def test_several_inputs_go_in_by_place_or_by_name():
    network, place = Two(), torch.randn(5, 2)
    with torch.no_grad():
        expected = network(normalised(photos()), place)
    given = (
        (photos(), place),
        {"place": place, "pixels": photos(), "scale": None},
        {"place": place.numpy(), "pixels": photos().numpy()},
        DataLoader(Named(photos(), place), batch_size=2),
    )
    for images in given:
        assert close(extract(network, images, "", batch=2), expected)
    prepared = {"place": place, "pixels": normalised(photos())}  # as a processor of images gives
    assert close(extract(network, prepared, ""), expected)
    with pytest.raises(InputError, match=r"shapes \(5, 3, 32, 32\), \(4, 2\); allowed: one row an"):
        extract(network, (photos(), place[:4]), "")
    with pytest.raises(InputError, match="images are a list; allowed: .*torch.stack"):
        extract(network, [*photos()], "")


class Named(Dataset):
    def __init__(self, pixels, place):
        self.pixels, self.place = pixels, place

    def __len__(self):
        return len(self.place)

    def __getitem__(self, index):
        return {"pixels": self.pixels[index], "place": self.place[index]}


def test_arrays_data_sets_and_loaders_give_the_same_features(tmp_path):
    network, images = small_resnet(), photos(7)
    labels = torch.arange(7)
    expected = extract(network, images, "layer3")
    state = torch.get_rng_state()
    for given in (
        images.numpy(),
        TensorDataset(images),
        TensorDataset(images, labels),
        DataLoader(TensorDataset(images, labels), batch_size=3),
        DataLoader(TensorDataset(images), batch_size=1),
        DataLoader(images, batch_size=4),
        DataLoader(Stream(images), batch_size=3),
    ):
        assert close(extract(network, given, "layer3", batch=3), expected)
    assert torch.equal(torch.get_rng_state(), state)
    calls = []
    mapped = extract(
        network,
        DataLoader(Stream(images), batch_size=3),
        "layer3",
        file=tmp_path / "features",
        progress=lambda *call: calls.append(call),
    )
    assert close(mapped, expected) and calls[-1] == (7, None, "layer3")
    fewer = DataLoader(images, batch_size=3, collate_fn=lambda items: torch.stack(items[:2]))
    with pytest.raises(InputError, match="gave 5 of its 7 images"):
        extract(network, fewer, "layer3")
    frozen = images.numpy().copy()
    frozen.flags.writeable = False  # as of a file that is mapped to be read
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert close(extract(network, frozen, "layer3"), expected)
    with pytest.raises(InputError, match="gives 3 values an image"):
        extract(network, TensorDataset(images, labels, labels), "layer3")
    with pytest.raises(InputError, match=r"gives 2 values an image \(in a batch: .*\(7, 4\)\)"):
        extract(network, TensorDataset(images, torch.zeros(7, 4)), "layer3")
    with pytest.raises(InputError, match="0 images; allowed"):
        extract(network, TensorDataset(images[:0]), "layer3")


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, images):
        self.images = images

    def __iter__(self):
        return iter(self.images)


def test_floats_are_not_taken_for_0_to_255():
    network, images = small_resnet(), photos()
    expected = extract(network, images, "layer2")
    for given in (images.float() / 255, normalised(images), images.float(), images.long()):
        with pytest.raises(
            InputError, match=r"allowed|takes uint8 images .* 0 to 255.*preprocess="
        ):
            extract(network, given, "layer2")
    scaled = extract(
        network, images.float() / 255, "layer2", preprocess=lambda x: normalised(255 * x)
    )
    assert close(scaled, expected)
    assert close(extract(network, normalised(images), "layer2", preprocess=plain), expected)


def test_images_of_another_shape_are_not_broadcast():
    network = small_resnet()
    with pytest.raises(InputError, match=r"channels last: images.permute\(0, 3, 1, 2\)"):
        extract(network, photos().permute(0, 2, 3, 1).numpy(), "layer2")
    with pytest.raises(InputError, match=r"shape \(N, 1, 32, 32\).*grey images"):
        extract(network, photos(channels=1), "layer2")
    with pytest.raises(InputError, match=r"shape \(N, 4, 32, 32\)"):
        extract(network, photos(channels=4), "layer2")


class Varied(Dataset):
    """A data set with a random transform."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        flipped = torch.rand(()) < 0.5
        image = photos(6)[index].roll(int(torch.randint(0, 32, ())), dims=2)
        return (image.flip(2) if flipped else image), index


def test_loaders_that_mix_or_leave_out_images_are_refused():
    network, data = small_resnet(), TensorDataset(photos(7))
    refused = {
        "takes its images from a RandomSampler": DataLoader(data, shuffle=True),
        "takes its images from a DistributedSampler": DataLoader(
            data, sampler=DistributedSampler(data, num_replicas=2, rank=0, shuffle=False)
        ),
        "drop_last leaves out 1 of the 7": DataLoader(data, batch_size=3, drop_last=True),
        "its transform is random": DataLoader(Varied()),
        "takes its images from a Pairs": DataLoader(data, batch_sampler=Pairs()),
    }
    for message, loader in refused.items():
        with pytest.raises(InputError, match=message):
            extract(network, loader, "layer2")
    whole = DataLoader(data, batch_size=7, drop_last=True)  # which leaves none out
    assert len(extract(network, whole, "layer2")) == 7


class Pairs:
    def __iter__(self):
        return iter([[0, 1], [1, 0]])


# --- which place --------------------------------------------------------------------------------


def test_wrappers_do_not_change_names_or_meanings():
    network = small_resnet()
    expected = extract(network, photos(), ["layer2", "layer2.0.conv1"])
    for wrapped, prefix in (
        (nn.DataParallel(network), "module."),
        (torch.compile(network, backend="eager"), "_orig_mod."),
        (nn.DataParallel(torch.compile(network, backend="eager")), "module._orig_mod."),
    ):
        for tap, features in expected.items():
            both = extract(wrapped, photos(), [tap, prefix + tap])  # one place by two names
            assert close(both[prefix + tap], features) and close(both[tap], features)
    inside = copy.deepcopy(network)
    inside.layer2[0] = torch.compile(inside.layer2[0], backend="eager")
    found = extract(inside, photos(), ["layer2.0.conv1", "layer2.0._orig_mod.conv1"])
    for features in found.values():
        assert close(features, expected["layer2.0.conv1"])
    wrapped = nn.DataParallel(network)
    wrapped.register_forward_pre_hook(lambda _, given: (given[0] * 2,))
    with pytest.raises(InputError, match="DataParallel around the network has hooks"):
        extract(wrapped, photos(), "layer2")


#: Before, torch could not be told to leave compiled code, or a layer's fast path, for once.
since_2_6 = pytest.mark.skipif(
    not hasattr(torch.compiler, "set_stance"), reason="torch can do so from 2.6 on"
)


@since_2_6
def test_compiled_networks_are_read():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    expected = extract(network, photos(), ["0", "2"])
    made = []

    def backend(graph, _inputs):
        made.append(graph)
        return graph.forward

    compiled = torch.compile(network, backend=backend)
    compiled(torch.randn(2, 3, 32, 32))
    inside = nn.Sequential(compiled)
    inside(torch.randn(2, 3, 32, 32))
    before = len(made)
    for one, path in ((compiled, ""), (inside, "0.")):
        for tap, features in expected.items():
            assert close(extract(one, photos(), path + tap), features)
    assert len(made) == before > 0  # nothing was compiled to read it


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_modules_are_named_as_such():
    network = small_resnet().eval()
    x = normalised(photos(2)).contiguous()
    for scripted in (torch.jit.script(network), torch.jit.trace(network, x)):
        with pytest.raises(
            InputError, match=r"scripted or traced \(torch.jit\).*Give the torch.nn"
        ):
            extract(scripted, photos(), "layer2")
    with pytest.raises(InputError, match="is a function; allowed: a torch.nn.Module"):
        extract(plain, photos(), "layer2")
    expected = extract(network, photos(), "layer2")
    network.layer2[0] = torch.jit.script(network.layer2[0])
    assert close(extract(network, photos(), "layer2"), expected)
    for tap in ("layer2.0", "layer2.0.conv1"):
        with pytest.raises(InputError, match=f"'{tap}' is, or lies in, 'layer2.0', .*scripted"):
            extract(network, photos(), tap)


class Attentive(models.ResNet):
    """A subclass with layers of its own between the stages."""

    def __init__(self):
        super().__init__(BasicBlock, [1, 1, 1, 1], num_classes=4)
        self.gate = SqueezeExcitation(128, 8)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(2 * x))))
        x = self.gate(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(self.layer4(self.layer3(x))).flatten(1))


class SEBlock(BasicBlock):
    """A block whose last ReLU comes before the attention."""

    def __init__(self, *words, **options):
        super().__init__(*words, **options)
        self.se = SqueezeExcitation(self.conv2.out_channels, 8)

    def forward(self, x):
        y = self.se(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


@torch.no_grad()
def before_relu(network, stage):
    """Return what goes into the ReLU that ends a stage: its last use."""
    seen = []
    block = stage[-1]
    handle = block.relu.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    network.eval()(normalised(photos()))
    handle.remove()
    return seen[-1]


def test_changed_residual_networks_are_read_as_they_are():
    network = Attentive()
    assert close(extract(network, photos(), "layer3"), before_relu(network, network.layer3))
    with pytest.warns(UserWarning, match="'layer2' .*ResNet is the output of that module"):
        se = models.ResNet(SEBlock, [1, 1, 1, 1], num_classes=4)
        found = extract(se, photos(), "layer2")
    assert close(found, hooked(se, se.layer2)) and networks.taps(se) == {}
    hooked_network = small_resnet()
    before = extract(hooked_network, photos(), "layer3")
    hooked_network.layer2.register_forward_hook(lambda _m, _i, output: output * 3)
    hooked_network.register_forward_pre_hook(lambda _, given: (given[0] + 1,))
    found = extract(hooked_network, photos(), "layer3")
    assert close(found, before_relu(hooked_network, hooked_network.layer3))
    assert not close(found, before)


def test_head_and_tail_are_refused_where_they_are_not_the_network():
    x = normalised(photos())
    shared = small_resnet()
    shared.forward = lambda x: models.ResNet.forward(shared, x) * 2
    hooks = [small_resnet() for _ in range(3)]
    hooks[0].register_forward_pre_hook(lambda _, given: None)
    hooks[1].layer3.register_forward_hook(lambda *_: None)
    hooks[2].layer3[-1].register_forward_hook(lambda *_: None)
    vgg = networks.build("vgg16", classes=4, width=0.05, size=32)
    vgg.features.register_forward_pre_hook(lambda _, given: None)
    for network, tap, message in (
        (Attentive(), "layer3", "a forward pass of its own"),
        (shared, "layer3", "a forward pass of its own"),
        (models.ResNet(SEBlock, [1] * 4, num_classes=4), "layer3", "last block of layer3 is not"),
        (hooks[0], "layer3", "a hook on the network"),
        (hooks[1], "layer3", "a hook on layer3"),
        (hooks[2], "layer3", "a hook on layer3.1"),
        (vgg, "conv4_3", "a hook on features"),
    ):
        with pytest.raises(InputError, match=f"cannot split a .*{message}"):
            networks.split(network, tap)
    # What is not taken apart may have hooks, and blocks of any kind.
    network = models.ResNet(SEBlock, [1] * 4, num_classes=4).train()
    network.layer1.register_forward_hook(lambda _m, _i, output: output * 3)
    mean = network.bn1.running_mean.clone()
    head, tail = networks.split(network, "maxpool")
    assert network.training and torch.equal(network.bn1.running_mean, mean)
    with torch.no_grad():
        assert close(tail.eval()(head.eval()(x)), network.eval()(x))
    # A forward pass that is the class's in name only
    odd = Inner(BasicBlock, [1, 1, 1, 1], num_classes=4)
    with pytest.raises(InputError, match="forward pass is not that of its modules"):
        networks.split(odd, "layer3")


class Inner(models.ResNet):
    """A subclass that changes what the published forward pass calls."""

    def _forward_impl(self, x):
        return super()._forward_impl(x.flip(1))


class Wrapper(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.backbone = network

    def forward(self, x):
        return self.backbone(x)


def test_a_stage_by_its_name_has_one_meaning_or_it_is_said():
    network = small_resnet()
    own = hooked(network, network.layer2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paper = extract(network, photos(), "layer2")
        after = extract(network, photos(), "layer2@1")
        inside = extract(Wrapper(network), photos(), "backbone.layer2@1")
    assert (paper < 0).any() and close(paper.relu(), own)
    assert close(after, own) and close(inside, own)
    with pytest.warns(
        UserWarning, match="'backbone.layer2' of this Wrapper is .*after the ReLU.*@1"
    ):
        found = extract(Wrapper(network), photos(), "backbone.layer2")
    assert close(found, own)
    deep = models.ResNet(Bottleneck, [1, 1, 1, 1], num_classes=4, width_per_group=8)
    assert close(extract(deep, photos(), "layer2").relu(), hooked(deep, deep.layer2))


def test_several_taps_are_read_in_one_pass():
    network = small_resnet()
    taps = ["fc", "layer3", "conv1", "last_conv", "layer1.0.conv1"]  # not in the order of the pass
    passes = []
    handle = network.conv1.register_forward_hook(lambda *given: passes.append(len(given[2])))
    found = extract(network, photos(6), taps, batch=3)
    handle.remove()
    assert passes == [2, 3, 3, 3]  # two to find out, two batches
    assert list(found) == taps
    for tap in taps:
        assert close(found[tap], extract(network, photos(6), tap)), tap
    for wrong in ([], ["fc", "fc"], ["fc", 3]):
        with pytest.raises(InputError, match="allowed: one name, or a list of different ones"):
            extract(network, photos(), wrong)


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.activation = self.relu

    def forward(self, x):
        x = self.relu(self.convolution(x))
        return self.activation(x - 1)


def test_a_second_name_is_a_tap_too():
    network = Reused()
    found = extract(network, photos(), ["relu@1", "activation@1", "activation@2"])
    assert close(found["relu@1"], found["activation@1"])
    assert close(found["activation@2"], hooked(network, network))


def test_each_use_of_a_module_can_be_read():
    network = Reused()
    with torch.no_grad():
        first = network.convolution(normalised(photos())).relu()
    found = extract(network, photos(), ["relu@1", "relu@2"])
    assert close(found["relu@1"], first)
    assert close(found["relu@2"], (first - 1).relu())
    with pytest.warns(UserWarning, match="'relu' is used 2 times.*first use.*'relu@2'"):
        assert close(extract(network, photos(), "relu"), first)
    with pytest.raises(InputError, match="'relu' is used 2 times .*'relu@3' asks for use 3"):
        extract(network, photos(), "relu@3")
    with pytest.raises(InputError, match="no tap 'relu@0'"):
        extract(network, photos(), "relu@0")


def test_parameters_are_no_taps():
    network = small_resnet()
    for name, module in (("layer2.0.conv1.weight", "layer2.0.conv1"), ("bn1.running_mean", "bn1")):
        with pytest.raises(InputError, match=f"'{name}' is a parameter or buffer .*'{module}'"):
            extract(network, photos(), name)


class Careful(nn.Module):
    """A network that goes another way if anything in it fails."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Conv2d(3, 4, 3)
        self.other = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        try:
            return self.inside(x)
        except Exception:
            return self.other(x)


class Direct(nn.Module):
    """A network that calls forward() of a module, and not the module."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.inside.forward(x)


def test_modules_that_are_not_called_are_named_with_the_reason():
    with pytest.raises(InputError, match=r"never reached 'attention.out_proj'.*'attention\[0\]'"):
        extract(Attending(), torch.randn(5, 9, 6), "attention.out_proj", preprocess=plain)
    with pytest.raises(InputError, match=r"never reached 'inside'.*its forward\(\) are used"):
        extract(Direct(), photos(), "inside")
    with pytest.raises(InputError, match="never reached 'other'"):
        extract(Careful(), photos(), ["inside", "other"])  # nothing in it fails
    extract(Careful(), photos(), "inside")
    rewritten = create_feature_extractor(small_resnet(), ["layer3"])
    with pytest.raises(InputError, match="never reached 'layer2@1'.*torch.fx"):
        extract(rewritten, photos(), "layer2@1")
    assert extract(rewritten, photos(), "layer2.0.conv1").shape[0] == 5
    net = models.googlenet(weights=None, num_classes=4, init_weights=False)
    with pytest.raises(InputError, match="never reached 'aux1'.*in evaluation mode"):
        extract(net, photos(), "aux1")
    found = extract(net, photos(), ["inception3a", "inception4a"])
    assert close(found["inception3a"], hooked(net, net.inception3a))


@since_2_6
def test_the_fast_path_of_a_transformer_does_not_hide_its_modules():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network, x = nn.TransformerEncoder(layer, 2), torch.randn(5, 7, 8)
    found = extract(network, x, ["layers.0.linear1", "layers.1", ""], preprocess=plain)
    assert found["layers.0.linear1"].shape == (5, 16, 7, 1)
    with torch.no_grad():
        expected = network.eval()(x)
    assert close(found[""], expected.transpose(1, 2)[..., None])
    assert close(found["layers.1"], found[""])


# --- features that mean something ---------------------------------------------------------------


class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.pool = Squeeze()

    def forward(self, x):
        return self.pool(self.convolution(x).mean((2, 3), keepdim=True))


class Squeeze(nn.Module):
    def forward(self, x):
        return x.squeeze()


class Trimmed(nn.Module):
    """A network that cuts off what is padding in the whole batch."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x, mask):
        return self.linear(x[:, : int(mask.sum(1).max())])


def test_features_of_several_shapes_are_refused():
    network = Squeezed()
    assert extract(network, photos(4), "pool", batch=2).shape == (4, 4, 1, 1)
    with pytest.raises(InputError, match=r"shape \(4,\) for a batch of 1.*another batch size"):
        extract(network, photos(5), "pool", batch=2)
    lengths = torch.tensor([4, 4, 6, 6])
    words = (torch.randn(4, 8, 3), (torch.arange(8) < lengths[:, None]).float())
    with pytest.raises(InputError, match="cuts off padding"):
        extract(Trimmed(), words, "linear", batch=2)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.after = nn.ReLU()

    def forward(self, x):
        return self.after(F.dropout(self.convolution(x), 0.1))


def test_features_that_depend_on_chance_or_on_the_batch_are_refused():
    network = Noisy()
    extract(network, photos(), "convolution")  # before the dropout
    with pytest.raises(InputError, match="another batch, or in a second pass.*F.dropout"):
        extract(network, photos(), "after")
    batch_norm = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()
    )
    with pytest.raises(InputError, match="track_running_stats=False"):
        extract(batch_norm, photos(), "1")
    extract(batch_norm, photos(), "0")


def test_few_images_have_the_same_features():
    network = small_resnet()
    whole = extract(network, photos(5), ["layer2", "layer4.0.conv1"])
    for count in (1, 2, 3):
        for tap, features in whole.items():
            assert count < features.shape[1]
            assert close(extract(network, photos(5)[:count], tap), features[:count])


def test_what_works_in_place_after_a_tap_leaves_it_alone():
    chain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)
    )
    with torch.no_grad():
        expected = chain[0](normalised(photos()))
    for taps in (["0"], ["0", "3"]):
        found = extract(chain, photos(), taps)["0"]
        assert close(found, expected) and (found < 0).any()
    network = models.DenseNet(4, (1, 1), 8, num_classes=3)
    found = extract(network, photos(), ["features", "classifier"])["features"]
    with torch.no_grad():
        assert close(found, network.eval().features(normalised(photos())))
    assert (found < 0).any()


def test_quantised_features_are_their_values_and_fused_layers_are_named():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, that these functions move
        from torch.ao import quantization

        network = nn.Sequential(
            quantization.QuantStub(), nn.Conv2d(3, 4, 3), nn.ReLU(), quantization.DeQuantStub()
        ).eval()
        expected = extract(network, photos(), "2")
        fused = quantization.fuse_modules(network, [["1", "2"]])
        fused.qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)
        prepared = quantization.prepare(fused)
        prepared(normalised(photos()))
        quantised = quantization.convert(prepared)
    with pytest.warns(UserWarning, match="'1' was fused for quantisation"):
        found = extract(quantised, photos(), "1")
    assert found.dtype == torch.float32
    assert (found - expected).norm() / expected.norm() < 0.03


def test_networks_without_values_are_refused():
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(InputError, match="weights lie on meta; .*Load the whole network"):
        extract(network, photos(), "0")
    part = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, device="meta"))
    with pytest.raises(InputError, match="lie on cpu, meta"):
        extract(part, photos(), "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that lazy layers are new
        lazy = nn.Sequential(nn.LazyConv2d(4, 3))
    with pytest.raises(InputError, match="lazy layers without weights"):
        extract(lazy, photos(), "0")


@pytest.mark.filterwarnings("error::kclib.errors.DegenerateFeatures")
def test_similarity_warns_of_few_rows():
    x, y = torch.randn(20, 64), torch.randn(20, 64)  # unrelated
    many = torch.randn(128, 64), torch.randn(128, 64)
    for measure in (
        similarity.linear_cka,
        similarity.svcca,
        similarity.pwcca,
        similarity.procrustes,
        similarity.stitching,
    ):
        with pytest.warns(DegenerateFeatures, match="20 rows for 64 and 64 channels"):
            assert measure(x, y) > 0.5
        measure(*many)  # says nothing


# --- what is left behind ------------------------------------------------------------------------


class Counting(nn.Module):
    """A network that keeps state in buffers, as caches and observers do."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("cache", torch.zeros(()))
        self.fails = False

    def forward(self, x):
        self.calls += 1
        self.cache = x.mean()
        if self.fails:
            raise RuntimeError("no such luck")
        return self.body(x)


def state_of(network):
    return (
        [
            (name, module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in network.named_modules()
        ],
        [
            (name, id(p), p.data_ptr(), p.requires_grad, p.device, id(p.grad))
            for name, p in network.named_parameters()
        ],
        [(name, id(b), b.tolist()) for name, b in network.named_buffers()],
        torch.get_rng_state().tolist(),
    )


def test_the_network_is_afterwards_as_it_was():
    network = Counting().train()
    network.body[1].eval()
    network.body[0].weight.requires_grad_(False)
    network.body(torch.randn(2, 3, 8, 8)).sum().backward()
    before = state_of(network)
    extract(network, photos(), ["body.0", "body"])
    assert state_of(network) == before

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(network, photos(), "body", batch=2, progress=interrupted)
    assert state_of(network) == before
    handle = network.body[2].register_forward_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(network, photos(), "body")
    handle.remove()
    assert state_of(network) == before
    with pytest.raises(InputError):
        extract(network, photos(), "body", layout="CNHW")
    assert state_of(network) == before
    network.fails = True
    with pytest.raises(RuntimeError, match="no such luck"):
        extract(network, photos(), "body.0")
    assert state_of(network) == before
    network.fails = False
    with torch.autocast("cpu", torch.bfloat16):  # of the caller, which reading does not share
        found = extract(network, photos(), "body.0")
    assert close(found, extract(network, photos(), "body.0"))
    try:
        extract(network, photos(), "body.0", device="cuda")
    except (RuntimeError, AssertionError):
        pass  # there is none here
    assert state_of(network)[:3] == before[:3]


def test_a_place_for_the_file_is_checked_before_the_network_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    network = small_resnet()
    expected = extract(network, photos(), ["layer2", "fc"])
    assert torch.equal(extract(network, photos(), "layer2", file="~/f"), expected["layer2"])
    files = {"layer2": tmp_path / "a", "fc": tmp_path / "new" / "b"}
    for tap, features in extract(network, photos(), ["layer2", "fc"], file=files).items():
        assert torch.equal(features, expected[tap])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "f", "new"]
    network.forward = lambda _: pytest.fail("the network ran")
    with pytest.raises(InputError, match="is a folder; name a file in it"):
        extract(network, photos(), "layer2", file=tmp_path)
    with pytest.raises(InputError, match="a is a file, not a folder"):
        extract(network, photos(), "layer2", file=tmp_path / "a" / "b")
    with pytest.raises(InputError, match="2 taps but one file"):
        extract(network, photos(), ["layer2", "fc"], file=tmp_path / "one")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match="is not writable"):
        extract(network, photos(), "layer2", file=tmp_path / "one")
