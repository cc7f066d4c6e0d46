"""The paper's architectures at any width and image size, and the names of their taps.

Every network is built from torchvision's classes. A narrower network, or one whose stem strides
less for small images, keeps the module names of the full one, so that taps, checkpoints and the
split into head and tail look the same at every width.

torchvision is imported where it is first used: that takes seconds, which a graph with nothing to do
need not wait for.
"""

import copy
import math

import torch
from torch import nn

from .errors import InputError, choose
from .reading.borrowed import borrowed

#: The architectures that `build` knows; "vgg16" is VGG-16 with batch normalisation.
ARCHITECTURES = ("alexnet", "vgg16", "resnet18", "resnet34", "resnet50")
#: Total stride of the stem (convolution and first pooling), the stock one first.
STEM_STRIDES = {
    "alexnet": (8, 4, 2),
    "vgg16": (2, 1),
    "resnet18": (4, 2, 1),
    "resnet34": (4, 2, 1),
    "resnet50": (4, 2, 1),
}
_SMALLEST_FOR_ALEXNET = 63  # pixels: below, the last pooling has nothing left to pool


def build(
    architecture: str,
    *,
    classes: int,
    width: float = 1.0,
    size: int = 224,
    stem_stride: int | None = None,
    dropout: float = 0.5,
    seed: int = 0,
) -> nn.Module:
    """Build a freshly initialised network.

    Parameters
    ----------
    architecture : str
        One of `ARCHITECTURES`.
    classes : int
        Number of outputs, 2 or more.
    width : float
        Factor on every hidden channel count, in (0, 1]; at least 8 channels remain.
    size : int
        Side of the square input in pixels, 32 to 224; 63 or more for AlexNet's stock stem.
    stem_stride : int, optional
        Total stride of the stem, one of ``STEM_STRIDES[architecture]``; torchvision's by default.
    dropout : float
        Share of units that AlexNet's and VGG's classifiers drop in training, 0 to below 1. A
        narrow classifier learns faster without.
    seed : int
        Seed of the initial weights, 0 or more.

    Returns
    -------
    torch.nn.Module
        With ``width=1``, ``size=224`` and the stock stem: torchvision's own network.

    Raises
    ------
    InputError
        If an argument is out of its range.

    Examples
    --------
    >>> network = build("resnet18", classes=10, width=0.125, size=32, stem_stride=2)
    >>> network(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    choose("architecture", architecture, ARCHITECTURES)
    if classes < 2:
        raise InputError(f"classes is {classes}; allowed: 2 or more.")
    if not 0 < width <= 1:
        raise InputError(f"width is {width}; allowed: above 0 and at most 1 (full width).")
    if not 32 <= size <= 224:
        raise InputError(f"size is {size} pixels; allowed: 32 to 224.")
    if seed < 0:
        raise InputError(f"seed is {seed}; allowed: 0 or more.")
    if not 0 <= dropout < 1:
        raise InputError(f"dropout is {dropout}; allowed: 0 to below 1.")
    stock = STEM_STRIDES[architecture][0]
    stride = stock if stem_stride is None else stem_stride
    if stride not in STEM_STRIDES[architecture]:
        raise InputError(
            f"stem_stride is {stem_stride} for {architecture}; "
            f"allowed: {', '.join(map(str, STEM_STRIDES[architecture]))}."
        )
    if architecture == "alexnet" and stride == stock and size < _SMALLEST_FOR_ALEXNET:
        raise InputError(
            f"size is {size} pixels, too few for AlexNet's stock stem, which needs "
            f"{_SMALLEST_FOR_ALEXNET}; give stem_stride 4 or 2."
        )
    from torchvision import models

    construct = models.vgg16_bn if architecture == "vgg16" else getattr(models, architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if width == 1 and size == 224 and stride == stock:
            network = construct(weights=None, num_classes=classes)
        else:
            with torch.device("meta"):  # a plan: its weights are never allocated or drawn
                network = construct(weights=None, num_classes=classes)
                if stride != stock:
                    _ease_stem(network, stride)
            _realise(network, width, classes)
            _fit_classifier(network, size)
            torch.manual_seed(seed)
            _initialise(network)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return network


def taps(network: nn.Module) -> dict[str, str]:
    """Return the paper's names of the layers at which features are taken.

    Features are taken as in the authors' code: at a convolution's output, before batch
    normalisation and ReLU; for ResNets at the end of a stage, after the last block's addition and
    before its ReLU. Table 1's "last conv" of ResNet-34 has no tap in their code; here it is the end
    of ``layer4``, taken the same way.

    Parameters
    ----------
    network : torch.nn.Module
        A network of torchvision's classes AlexNet, VGG or ResNet.

    Returns
    -------
    dict
        From name (``"conv4_3"``, ``"layer3"``, ``"last_conv"``) to module path. Empty for other
        networks, among them ResNets with blocks of another kind, whose stages may end otherwise.

    Examples
    --------
    >>> taps(build("resnet18", classes=2, width=0.05, size=32))["last_conv"]
    'layer4'
    """
    from torchvision import models

    if isinstance(network, models.ResNet):
        if not all(_ends_as_published(network, getattr(network, f"layer{k}")) for k in range(1, 5)):
            return {}
        named = {f"layer{k}": f"layer{k}" for k in range(1, 5)}
    elif isinstance(network, models.VGG):
        named, block, number = {}, 1, 1
        for index, module in enumerate(network.features):
            if isinstance(module, nn.Conv2d):
                named[f"conv{block}_{number}"] = f"features.{index}"
                number += 1
            elif isinstance(module, nn.MaxPool2d | nn.Identity):
                block, number = block + 1, 1
    elif isinstance(network, models.AlexNet):
        paths = [
            f"features.{index}"
            for index, module in enumerate(network.features)
            if isinstance(module, nn.Conv2d)
        ]
        named = {f"conv{k}": path for k, path in enumerate(paths, start=1)}
    else:
        return {}
    return named | {"last_conv": list(named.values())[-1]}


def split(network: nn.Module, tap: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Split a network at a tap into a head and a tail; ``tail(head(x))`` equals ``network(x)``.

    Head and tail share the network's parameters, so training one trains the other.

    Parameters
    ----------
    network : torch.nn.Module
        A network of torchvision's classes AlexNet, VGG or ResNet.
    tap : str
        A name from `taps`, or the path of a module at the top of the network's chain
        (``"features.30"``, ``"layer3"``, ``"avgpool"``).

    Returns
    -------
    head, tail : torch.nn.Sequential

    Raises
    ------
    InputError
        If there is no such tap, or the network is not one that is a chain of modules: of another
        class, with a forward pass of its own, or with hooks on what is taken apart. One image of
        noise is put through head and tail and through the network; they must agree.

    Examples
    --------
    >>> network = build("alexnet", classes=2, width=0.05, size=64).eval()
    >>> head, tail = split(network, "conv4")
    >>> images = torch.zeros(1, 3, 64, 64)
    >>> torch.equal(tail(head(images)), network(images))
    True
    """
    chain = _chain(network)
    names = taps(network)
    path = names.get(tap, tap)
    paths = [name for name, _ in chain]
    if path not in paths:
        choose("tap", tap, [*names, *paths])
    cut = paths.index(path)
    modules = [module for _, module in chain]
    if path.startswith("layer"):  # of a ResNet
        if not _ends_as_published(network, modules[cut]):
            raise InputError(_not_plain(network, f"the last block of {path} is not torchvision's"))
        _check_hooks(network, (path, f"{path}.{len(modules[cut]) - 1}"))
        *blocks, last = modules[cut]
        head = [*modules[:cut], *blocks, _UpToAddition(last)]
        tail = [nn.ReLU(), *modules[cut + 1 :]]
    else:
        head = modules[: cut + 1]
        # An in-place ReLU at the start of the tail would overwrite the tapped features.
        tail = [
            nn.ReLU() if isinstance(m, nn.ReLU) and k == 0 else m
            for k, m in enumerate(modules[cut + 1 :])
        ]
    head, tail = nn.Sequential(*head), nn.Sequential(*tail)
    _check_composition(network, head, tail)
    return head, tail


def _ends_as_published(network: nn.Module, stage: nn.Module) -> bool:
    """Say whether a ResNet's stage ends in a block of torchvision's, and in its own ReLU."""
    from torchvision.models import resnet

    block = stage[-1]
    plain = type(block).forward in (resnet.BasicBlock.forward, resnet.Bottleneck.forward)
    own = sum(module is block.relu for module in _every_use(network)) == 1 if plain else False
    return plain and own and type(stage) is nn.Sequential and "forward" not in vars(block)


def _every_use(network: nn.Module):
    return (module for _, module in network.named_modules(remove_duplicate=False))


def _not_plain(network: nn.Module, reason: str) -> str:
    return (
        f"cannot split a {type(network).__name__} into head and tail: {reason}. Allowed: "
        "torchvision's AlexNet, VGG and ResNet, their forward passes as published and without "
        "hooks. To read features of another network, use kclib.features.extract with a module path."
    )


def _check_hooks(network: nn.Module, paths: tuple[str, ...]) -> None:
    """Refuse hooks on modules that are taken apart, for they would not run."""
    for path in paths:
        module = network.get_submodule(path)
        if module._forward_hooks or module._forward_pre_hooks:
            raise InputError(_not_plain(network, f"there is a hook on {path or 'the network'}"))


def _check_composition(network: nn.Module, head: nn.Module, tail: nn.Module) -> None:
    """Refuse a head and a tail that together are another network."""
    weight = next(network.parameters())
    image = torch.randn(
        1, weight.shape[1], 64, 64, generator=torch.Generator().manual_seed(0)
    )  # of a size that every network of these takes
    with borrowed(network, weight.device):
        image = image.to(weight)
        expected = network(image)
        found = tail(head(image))
        scale = float(expected.abs().max().nan_to_num())
        if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * scale, equal_nan=True):
            raise InputError(_not_plain(network, "its forward pass is not that of its modules"))


class _UpToAddition(nn.Module):
    """A residual block without its last ReLU."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        block = self.block
        shortcut = x if block.downsample is None else block.downsample(x)
        y = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
        if hasattr(block, "conv3"):  # a bottleneck
            y = block.bn3(block.conv3(block.relu(y)))
        return y + shortcut


def _chain(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules that are applied one after the other, with their paths."""
    from torchvision import models

    published = (models.ResNet, models.VGG, models.AlexNet)
    kinds = [kind for kind in published if isinstance(network, kind)]
    if kinds:
        if type(network).forward is not kinds[0].forward or "forward" in vars(network):
            raise InputError(_not_plain(network, "it has a forward pass of its own"))
    if kinds:
        _check_hooks(
            network, ("",) if kinds[0] is models.ResNet else ("", "features", "classifier")
        )
    if isinstance(network, models.ResNet):
        names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        stages = [(name, getattr(network, name)) for name in names]
        classifier = [("fc", network.fc)]
    elif isinstance(network, models.VGG | models.AlexNet):
        stages = [(f"features.{k}", module) for k, module in enumerate(network.features)]
        classifier = [(f"classifier.{k}", module) for k, module in enumerate(network.classifier)]
    else:
        raise InputError(_not_plain(network, "it is no chain of modules"))
    return [*stages, ("avgpool", network.avgpool), ("flatten", nn.Flatten()), *classifier]


def _ease_stem(network: nn.Module, stride: int) -> None:
    """Replace the stem's convolution or first pooling by one that strides less."""
    from torchvision import models

    if isinstance(network, models.AlexNet):
        kernel = {4: 5, 2: 3}[stride]
        network.features[0] = nn.Conv2d(3, 64, kernel, stride // 2, padding=kernel // 2)
    elif isinstance(network, models.VGG):
        first_pool = next(k for k, m in enumerate(network.features) if isinstance(m, nn.MaxPool2d))
        network.features[first_pool] = nn.Identity()
    else:
        network.conv1 = nn.Conv2d(3, 64, 3, stride, padding=1, bias=False)
        network.maxpool = nn.Identity()


def _realise(network: nn.Module, width: float, classes: int) -> None:
    """Replace each planned layer by a real one with ``width`` times the channels.

    Images keep their 3 channels and the last layer its classes.
    """

    def scaled(channels: int) -> int:
        return max(8, int(channels * width))

    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d):
                inputs = 3 if layer.in_channels == 3 else scaled(layer.in_channels)
                new = nn.Conv2d(
                    inputs,
                    scaled(layer.out_channels),
                    layer.kernel_size,
                    layer.stride,
                    layer.padding,
                    bias=layer.bias is not None,
                )
            elif isinstance(layer, nn.BatchNorm2d):
                new = nn.BatchNorm2d(scaled(layer.num_features))
            elif isinstance(layer, nn.Linear):
                outputs = classes if layer is last else scaled(layer.out_features)
                new = nn.Linear(scaled(layer.in_features), outputs)
            else:
                continue
            setattr(parent, name, new)


def _fit_classifier(network: nn.Module, size: int) -> None:
    """Pool the last map to no more positions than it has, and fit the first linear layer to it.

    torchvision pools to 7 x 7 (6 x 6 for AlexNet), which copies positions where the map is smaller.
    """
    if not hasattr(network, "features"):
        return  # a ResNet: one position, whatever the size
    with torch.no_grad():
        last = copy.deepcopy(network.features).eval()(torch.zeros(1, 3, size, size))
    channels, side = last.shape[1], last.shape[2]
    network.avgpool = nn.AdaptiveAvgPool2d(min(side, network.avgpool.output_size[0]))
    inputs = channels * network.avgpool.output_size**2
    index = next(k for k, m in enumerate(network.classifier) if isinstance(m, nn.Linear))
    network.classifier[index] = nn.Linear(inputs, network.classifier[index].out_features)


def _initialise(network: nn.Module) -> None:
    """Draw the weights of a rebuilt network as He et al. do, for layers followed by a ReLU.

    torchvision draws VGG's linear layers with a fixed deviation of 0.01, too small for narrow ones.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def parameter_count(network: nn.Module) -> int:
    """Return the number of trainable parameters.

    Examples
    --------
    >>> parameter_count(nn.Linear(4, 2))
    10
    """
    return sum(math.prod(p.shape) for p in network.parameters() if p.requires_grad)
