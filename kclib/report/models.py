"""Networks by name: of torchvision, timm and transformers, or made by a function that is named."""

import copy
import importlib
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrize, prune

from ..errors import InputError, choose
from ..features import normalised
from ..reading.taps import unwrapped
from .naming import called, is_function

#: Where a name is looked up.
HUBS = ("torchvision", "timm", "hf")
_SIZE = 224  # pixels, for networks that do not say
_FORMS = (
    "torchvision:NAME, timm:NAME, hf:NAME_OR_FOLDER, package.module:function or file.py:function"
)
_TOKENS = 128  # of a text, at most


@dataclass(frozen=True)
class Model:
    """A network, how items become what it is given, and how another is made untrained.

    Attributes
    ----------
    name : str
        As the user named it.
    network : torch.nn.Module
    prepare : callable
        Makes a batch (a list of images or texts, or tensors) what the network is given.
    preprocessing : str
        What that does, in words.
    fresh : callable
        Returns an untrained network of the same kind; called with torch's generator seeded.
    texts : bool
        Whether it takes texts: then features are averaged over the tokens of each.

    Examples
    --------
    >>> model = model_of(nn.Conv2d(3, 4, 3), kind="tensor")
    >>> model.prepare(torch.zeros(2, 5)).shape
    torch.Size([2, 5])
    """

    name: str
    network: nn.Module
    prepare: Callable = field(repr=False)
    preprocessing: str
    fresh: Callable[[], nn.Module] = field(repr=False)
    texts: bool = False


def model_of(
    given,
    *,
    weights: str | Path | None = None,
    size: int | None = None,
    kind: str = "image",
    sized: bool = False,
    texts: list[str] | None = None,
    seed: int = 0,
) -> Model:
    """Return a network from its name, or one that is there already.

    Parameters
    ----------
    given : str or torch.nn.Module or Model
        ``torchvision:NAME``, ``timm:NAME``, ``hf:NAME_OR_FOLDER``, or a function,
        ``package.module:function`` or ``file.py:function``, that returns a module, or a module and
        the transform that turns a PIL image into what it takes.
    weights : str or Path, optional
        A file, ``.safetensors`` or a state dict that `torch.load` reads with ``weights_only=True``;
        or ``"random"``. By default those that the name stands for, or that the function made.
    size : int, optional
        Side of images in pixels, by default the network's own, else 224.
    kind : {"image", "text", "tensor"}
        Of what it is shown.
    sized : bool
        Whether all images have one size, which they keep if neither the network nor `size` says.
    texts : list of str, optional
        All texts that it will be shown; the longest says how many tokens it is given.
    seed : int
        Of random weights.

    Raises
    ------
    InputError
        If there is no such network, its library is not installed, or the weights do not fit.

    Examples
    --------
    >>> model = model_of("torchvision:resnet18", weights="random", size=64)
    >>> model.name, type(model.network).__name__
    ('torchvision:resnet18', 'ResNet')
    """
    if isinstance(given, Model):
        return given
    if size is not None and not 8 <= size <= 4096:
        raise InputError(f"size is {size} pixels; allowed: 8 to 4096.")
    if isinstance(given, nn.Module) or not isinstance(given, str):
        network, _ = unwrapped(given)  # which refuses what is no network
        prepare, said = _usual(size, kind, sized=sized, grey=_takes_grey(network))
        return Model(type(network).__name__, given, prepare, said, lambda: untrained(given))
    hub, _, name = given.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hub in HUBS and name:
            make = {"torchvision": _torchvision, "timm": _timm, "hf": _hugging_face}[hub]
            return make(given, name, weights, size, kind, texts)
        if not is_function(given):
            raise InputError(f"there is no network {given!r}; allowed: {_FORMS}.")
        return _of_function(given, weights, size, kind, sized)


def untrained(network: nn.Module) -> nn.Module:
    """Return a copy whose layers are initialised anew, pruned or not, in float32.

    Examples
    --------
    >>> linear = nn.Linear(2, 2)
    >>> torch.equal(untrained(linear).weight, linear.weight)
    False
    """
    inner, _ = unwrapped(network)
    made = {  # which copy.deepcopy refuses: a pruned weight, computed from another
        id(value): value.detach().clone()
        for module in inner.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    fresh = copy.deepcopy(inner, made)
    for module in fresh.modules():
        for name in [n.removesuffix("_orig") for n in module._parameters if n.endswith("_orig")]:
            if prune.is_pruned(module):
                prune.remove(module, name)
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
    fresh.float()
    done = False
    for module in fresh.modules():
        for name in ("reset_parameters", "_reset_parameters"):
            if callable(reset := getattr(module, name, None)):
                reset()
                done = True
                break
    if not done:
        raise InputError(
            f"no layer of this {type(network).__name__} can be initialised anew (none has "
            "reset_parameters), so there is no untrained copy of it."
        )
    return fresh.requires_grad_(False)


def _takes_grey(network: nn.Module) -> bool:
    """Say whether a network takes images of one channel, by its first layer that has weights."""
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if channels := [layer.in_channels for layer in layers if isinstance(layer, nn.Conv2d)]:
        return channels[0] == 1 and 3 not in channels
    # Of flattened images; three channels of S x S are never a square.
    return bool(layers) and math.isqrt(layers[0].in_features) ** 2 == layers[0].in_features


def _usual(
    size: int | None, kind: str, transform=None, sized: bool = False, grey: bool = False
) -> tuple[Callable, str]:
    """Return how items become inputs where a network does not say, and that in words."""
    if kind == "tensor":
        said = "as given, images of uint8 normalised as ImageNet's"
        return _as_given_in_grey if grey else _as_given, said
    if transform is not None:
        said, grey = "the transform that came with it", False
    elif sized and size is None:
        transform, said = _normalised, "normalised as ImageNet's images"
    else:
        transform = _imagenet_transform(size or _SIZE)
        said = f"resized, cropped to {size or _SIZE} px, normalised as ImageNet's images"

    def prepare(images: list) -> torch.Tensor:
        return torch.stack([transform(image) for image in images])

    if grey:
        return lambda images: _in_grey(prepare(images)), f"{said}, the mean of its channels"
    return prepare, said


def _normalised(image) -> torch.Tensor:
    return normalised(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])[0]


def _in_grey(images: torch.Tensor) -> torch.Tensor:
    return images.mean(1, keepdim=True)


def _as_given(batch):
    """Return tensors as they are, uint8 images normalised."""
    if isinstance(batch, torch.Tensor) and batch.dtype == torch.uint8:
        if batch.dim() == 4 and batch.shape[1] in (1, 3):
            return normalised(batch)
    return batch


def _as_given_in_grey(batch):
    """Return tensors as they are, uint8 images normalised, of one channel."""
    made = _as_given(batch)
    return made if made is batch else _in_grey(made)


def _imagenet_transform(size: int):
    from torchvision.transforms import v2 as transforms  # here: it takes seconds

    return transforms.Compose(
        [
            transforms.Resize(size, antialias=True),
            transforms.CenterCrop(size),
            _normalised,
        ]
    )


def _library(name: str, given: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{given} needs the package {name}, which cannot be imported ({error}); install it: "
            f"python -m pip install {name}."
        ) from None


def _fetched(given: str, get: Callable):
    """Return what a library makes or downloads, its failure in one line."""
    try:
        return get()
    except InputError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise InputError(
            f"{given} could not be loaded: {type(error).__name__}: {first}. If its hub is out of "
            "reach, give a file of weights (--weights-a, --weights-b), or random ones."
        ) from error


def _torchvision(given, name, weights, size, kind, texts) -> Model:
    from torchvision import models

    choose("network of torchvision", name, models.list_models())
    entries = models.get_model_weights(name)
    default = entries.DEFAULT if len(entries) else None

    def build(**options) -> nn.Module:
        return models.get_model(name, weights=None, **options)

    options: dict = {}
    if weights is None and default is not None:
        network = _fetched(given, lambda: models.get_model(name, weights=default))
    else:
        network, options = _with_weights(given, build, weights)
    if kind == "tensor" or default is None:
        prepare, said = _usual(size, kind)
    else:
        sizes = {} if size is None else {"crop_size": size, "resize_size": size}
        transform = default.transforms(**sizes)
        prepare, said = _usual(size, kind, transform)
        crop = transform.crop_size[0]
        said = f"torchvision's for these weights: cropped to {crop} px, normalised"
    return Model(given, network, prepare, said, lambda: build(**options))


def _timm(given, name, weights, size, kind, texts) -> Model:
    timm = _library("timm", given)

    def build(**options) -> nn.Module:
        return timm.create_model(name, pretrained=False, **sizes, **options)

    plain = name.partition(".")[0]
    choose("network of timm", plain, timm.list_models())
    sizes: dict = {}
    options: dict = {}
    if size is not None and "img_size" in _fetched(given, lambda: timm.create_model(name)).__dict__:
        sizes = {"img_size": size}
    if weights is None:
        network = _fetched(given, lambda: timm.create_model(name, pretrained=True, **sizes))
    else:
        network, options = _with_weights(given, build, weights)
    if kind == "tensor":
        prepare, said = _usual(size, kind)
    else:
        asked = {} if size is None else {"input_size": (3, size, size)}
        settings = timm.data.resolve_data_config(asked, model=network)
        transform = timm.data.create_transform(**settings, is_training=False)
        prepare, _ = _usual(size, kind, transform)
        side, crop = settings["input_size"][1], settings["crop_pct"]
        said = f"timm's data configuration: {side} px, crop {crop}"
    return Model(given, network, prepare, said, lambda: build(**options))


def _hugging_face(given, name, weights, size, kind, texts) -> Model:
    transformers = _library("transformers", given)
    folder = Path(name).expanduser()
    place = str(folder) if folder.is_dir() else name

    def get(kind_of_thing, **options):
        loader = getattr(transformers, kind_of_thing)
        return _fetched(given, lambda: loader.from_pretrained(place, **options))

    settings = get("AutoConfig", trust_remote_code=False)

    def build() -> nn.Module:
        return transformers.AutoModel.from_config(settings)

    if weights is None:
        network = get("AutoModel", trust_remote_code=False)
    else:
        network, _ = _with_weights(given, build, weights)
    if kind == "text":
        tokenizer = get("AutoTokenizer", trust_remote_code=False)
        prepare, tokens = _tokenised(tokenizer, texts or [])
        said = f"its tokenizer, up to {tokens} tokens a text; features averaged over them"
        return Model(given, network, prepare, said, build, texts=True)
    if kind == "tensor":
        prepare, said = _usual(size, kind)
    else:
        processor = get("AutoImageProcessor", trust_remote_code=False)
        asked = {} if size is None else {"size": {"height": size, "width": size}}

        def prepare(images: list) -> dict:
            found = processor(images=images, return_tensors="pt", **asked)
            return {"pixel_values": found["pixel_values"]}

        said = f"its image processor, {type(processor).__name__}"
    return Model(given, network, prepare, said, build)


def _tokenised(tokenizer, texts: list[str]) -> tuple[Callable, int]:
    """Return how texts become tokens, as many for each as the longest has."""
    most = min(_TOKENS, tokenizer.model_max_length)
    found = tokenizer(texts, truncation=True, max_length=most)["input_ids"] if texts else []
    length = max(map(len, found), default=most)

    def prepare(batch: list[str]) -> dict:
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        made = tokenizer(
            batch, truncation=True, max_length=length, padding="max_length", return_tensors="pt"
        )
        return {key: made[key] for key in ("input_ids", "attention_mask")}

    return prepare, length


def _of_function(given, weights, size, kind, sized) -> Model:
    made = called(given, "a network")
    network, transform = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(network, nn.Module):
        raise InputError(
            f"{given} returned a {type(network).__name__}; allowed: a torch.nn.Module, or one and "
            "the transform of PIL images that it needs."
        )
    if weights == "random":
        network = untrained(network)
    elif weights is not None:
        _put_into(network, _state(weights), weights)
    prepare, said = _usual(size, kind, transform, sized, _takes_grey(network))
    return Model(given, network, prepare, said, lambda: untrained(network))


def _with_weights(given, build: Callable, weights) -> tuple[nn.Module, dict]:
    """Return a network with weights, and what it was built with to have as many classes."""
    network = _fetched(given, build)
    if weights is None or str(weights) == "random":
        return network, {}
    state = _state(weights)
    options = {}
    own = network.state_dict()
    other = [k for k in state if k in own and state[k].shape != own[k].shape and state[k].ndim < 3]
    classes = {len(state[key]) for key in other}
    if len(classes) == 1:
        options = {"num_classes": classes.pop()}
        try:
            network = build(**options)
        except TypeError:
            options = {}
    _put_into(network, state, weights)
    return network, options


def _state(weights: str | Path) -> dict[str, torch.Tensor]:
    """Return a state dict from a file, without unpickling anything else."""
    file = Path(weights).expanduser()
    if not file.is_file():
        raise InputError(
            f"there is no file of weights {str(weights)!r}; allowed: a .safetensors file, a state "
            'dict saved by torch.save, or "random".'
        )
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"{file} cannot be read as weights: {first.split(' (1)')[0][:200]} Nothing but tensors "
            "is unpickled: save network.state_dict() by torch.save, or by safetensors."
        ) from None
    except Exception as error:  # safetensors has its own
        raise InputError(f"{file} cannot be read as weights: {error}") from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise InputError(
            f"{file} holds a {type(found).__name__} that is no state dict; save "
            "network.state_dict()."
        )
    return found


def _put_into(network: nn.Module, state: dict, weights) -> None:
    prefixes = ("module.", "_orig_mod.")
    for prefix in prefixes:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    own = network.state_dict()
    missing, more = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if own[key].shape != state[key].shape
    ]
    if missing or more or shapes:
        said = [
            f"{len(found)} {what} (such as {found[0]})"
            for what, found in (("missing", missing), ("unknown", more), ("of other shape", shapes))
            if found
        ]
        raise InputError(
            f"the weights in {weights} are not those of this network: {', '.join(said)}; give the "
            "file that was saved from this architecture."
        )
    network.load_state_dict(state)


def parameters(network: nn.Module) -> int:
    """Return how many weights a network has.

    Examples
    --------
    >>> parameters(nn.Linear(2, 3))
    9
    """
    return sum(math.prod(p.shape) for p in network.parameters())
