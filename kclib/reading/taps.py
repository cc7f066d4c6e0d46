"""Taps: the names of places inside a network, and what the forward pass puts out there."""

import dataclasses
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from .. import networks
from ..errors import InputError, choose, unknown

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_FORM = re.compile(r"(?P<path>[^@\[]*)(?:@(?P<use>[1-9]\d*))?(?P<rest>(?:\[[^\]]*\]|\.\w+)*)")
_ELEMENT = re.compile(r"\[(?P<key>[^\]]*)\]|\.(?P<name>\w+)")


class _AllReached(BaseException):
    """Ends a forward pass at its last tap; no `except Exception` of a network may catch it."""


@dataclass(frozen=True)
class Place:
    """Where a tap is: in the output, or before the input, of one use of one module.

    Attributes
    ----------
    tap : str
        As the user named it.
    path : str
        Of the module.
    module : torch.nn.Module
    use : int or None
        Which of its uses in a forward pass, from 1; None if the user did not say: the first.
    element : tuple
        Keys and names that lead from the output to the feature.
    before : bool
        True if the module's input is read, not its output.
    """

    tap: str
    path: str
    module: nn.Module
    use: int | None = None
    element: tuple = ()
    before: bool = False


def unwrapped(network: nn.Module) -> tuple[nn.Module, str]:
    """Return the network inside `DataParallel`, its like and `torch.compile`, and its path there.

    Raises
    ------
    InputError
        If it is no module that can be read, or a wrapper has hooks, which would be passed by.

    Examples
    --------
    >>> inner, prefix = unwrapped(nn.DataParallel(nn.ReLU()))
    >>> inner, prefix
    (ReLU(), 'module.')
    """
    prefix = ""
    while inner := _inside(network):
        if network._forward_hooks or network._forward_pre_hooks:
            raise InputError(
                f"the {type(network).__name__} around the network has hooks, which reading the "
                "network inside would pass by; register them on the network itself."
            )
        network, prefix = getattr(network, inner), f"{prefix}{inner}."
    if isinstance(network, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise InputError(
            "the network is scripted or traced (torch.jit): what happens inside cannot be read. "
            "Give the torch.nn.Module that it was made from, with its state_dict loaded."
        )
    if not isinstance(network, nn.Module):
        raise InputError(
            f"the network is a {type(network).__name__}; allowed: a torch.nn.Module. Of an "
            "exported program, give the module that was exported."
        )
    return network, prefix


def locate(network: nn.Module, tap: str, prefix: str = "") -> Place:
    """Return the place that a tap names; see `kclib.features.extract` for the forms it may have.

    Parameters
    ----------
    network : torch.nn.Module
    tap : str
    prefix : str
        What `unwrapped` returned, which may precede a path.

    Raises
    ------
    InputError
        If there is no such tap; the message lists those there are.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> locate(network, "1@2").use
    2
    >>> locate(network, "0[1].hidden").element
    (1, 'hidden')
    """
    inside = tap.removeprefix(prefix)
    names, modules = networks.taps(network), _modules(network)
    if inside in names:
        return _named(tap, names[inside], modules)
    form = _FORM.fullmatch(inside)
    path, rest = (form["path"], form["rest"]) if form else (inside, "")
    inner: list[str] = []
    while path not in modules and "." in path and not (form and form["use"]):
        path, _, last = path.rpartition(".")
        inner.insert(0, last)
    if form is None or path not in modules:
        raise unknown("tap", tap, [*names, *filter(None, modules)])
    weights = {name for name, _ in [*network.named_parameters(), *network.named_buffers()]}
    if inner and ".".join([path, *inner]).removeprefix(".") in weights:
        raise InputError(
            f"{tap!r} is a parameter or buffer of the module {path!r}, not an output; allowed: the "
            f"path of a module. {path!r} reads what the module makes of its input."
        )
    found = [one["name"] or _key(one["key"]) for one in _ELEMENT.finditer(rest)]
    use = int(form["use"]) if form["use"] else None
    place = Place(tap, path, modules[path], use, (*inner, *found))
    _say_what_is_read(network, place, modules)
    return place


def read(
    network: nn.Module,
    places: list[Place],
    call: tuple[tuple, dict],
    *,
    watch: Callable | None = None,
) -> dict[str, torch.Tensor]:
    """Run a network and return what it puts out at each place, by tap.

    Parameters
    ----------
    network : torch.nn.Module
    places : list of Place
    call : (tuple, dict)
        Positional and keyword arguments of the network.
    watch : callable, optional
        Called as ``watch(module, inputs, output)`` after each module; the pass then goes on to
        its end, and how often a tap's module is used is checked. Without it the pass ends at the
        last tap.

    Raises
    ------
    InputError
        If a tap is not reached, or what it names in the output is no tensor.
    """
    kept, uses, handles = {}, dict.fromkeys((place.tap for place in places), 0), []

    def keep(place: Place) -> Callable:
        def at(_module, inputs, output=None):
            uses[place.tap] += 1
            if uses[place.tap] != (place.use or 1):
                return
            found = inputs[0] if place.before else output
            # A copy: what comes next may work in place.
            kept[place.tap] = _tensor(network, place, found).clone()
            if watch is None and len(kept) == len(places):
                raise _AllReached

        return at

    try:
        if watch is not None:
            modules = dict.fromkeys(network.modules())
            handles += [m.register_forward_hook(watch) for m in modules if not _scripted(m)]
        for place in places:
            register = place.module.register_forward_hook
            if place.before:
                register = place.module.register_forward_pre_hook
            handles.append(register(keep(place)))
        try:
            network(*call[0], **call[1])
        except _AllReached:
            pass
        except Exception:
            if watch is None or len(kept) < len(places):  # above the last tap nothing matters
                raise
    finally:
        for handle in handles:
            handle.remove()
    for place in places:
        if place.tap not in kept:
            raise InputError(_why_never(network, place, uses[place.tap]))
        if watch is not None and place.use is None and uses[place.tap] > 1:
            warnings.warn(
                f"the module {place.path!r} is used {uses[place.tap]} times in a forward pass, and "
                f"the first use is read. Say which with '{place.path}@1', '{place.path}@2' and so "
                "on.",
                stacklevel=3,
            )
    return kept


def _inside(network) -> str:
    """Return the name of what a wrapper wraps, or nothing."""
    if isinstance(network, _WRAPPERS):
        return "module"
    return "_orig_mod" if type(network).__name__ == "OptimizedModule" else ""


def _modules(network: nn.Module) -> dict[str, nn.Module]:
    """Return modules by path, under all their names; wrappers inside need not be named."""
    by_path = dict(network.named_modules(remove_duplicate=False))
    found = dict(by_path)
    for path, module in by_path.items():
        parts, plain = path.split(".") if path else [], []
        for depth, part in enumerate(parts):
            if part != _inside(by_path[".".join(parts[:depth])]):
                plain.append(part)
        found[".".join(plain)] = module  # the innermost comes last
    return found


def _named(tap: str, path: str, modules: dict[str, nn.Module]) -> Place:
    """Return the place of one of the paper's taps."""
    stage = modules[path]
    if not path.startswith("layer"):
        return Place(tap, path, stage, use=1)
    # A ResNet's stage, before the ReLU that ends its last block: the last use of that module.
    last = f"{path}.{len(stage) - 1}.relu"
    return Place(tap, last, modules[last], 3 if hasattr(stage[-1], "conv3") else 2, before=True)


def _key(text: str):
    text = text.strip().strip("'\"")
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def _say_what_is_read(network: nn.Module, place: Place, modules: dict[str, nn.Module]) -> None:
    """Warn of outputs that are not what their name says, and refuse those that cannot be read."""
    parts = place.path.split(".")
    way = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    scripted = [path for path in way if _scripted(modules.get(path))]
    if scripted:
        raise InputError(
            f"{place.tap!r} is, or lies in, {scripted[0]!r}, which is scripted or traced "
            "(torch.jit) and cannot be read. Put the torch.nn.Module that it was made from in its "
            "place, or tap the module around it, or a neighbour."
        )
    module = place.module
    if re.fullmatch(r"layer[1-4]", parts[-1]) and isinstance(module, nn.Sequential):
        if place.use is None:
            warnings.warn(
                f"{place.tap!r} of this {type(network).__name__} is the output of that module, "
                "after the ReLU that ends it. Of torchvision's own ResNets the same name is the "
                "paper's tap, before that ReLU. To compare like with like, and without this "
                f"warning, read both networks at '{place.path}@1', the modules' own outputs.",
                stacklevel=4,
            )
    if "torch.ao.nn.intrinsic" in type(module).__module__:
        warnings.warn(
            f"{place.tap!r} was fused for quantisation ({type(module).__name__}): its output is "
            "that of all the layers fused into it. Before fusing, the tap of the last of them is "
            "the same place.",
            stacklevel=4,
        )


def _scripted(module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _tensor(network: nn.Module, place: Place, output) -> torch.Tensor:
    """Return what a tap names in a module's output: the only tensor in it, if it names nothing."""
    for number, key in enumerate(place.element):
        if isinstance(output, torch.Tensor) and number == 0 and isinstance(key, str):
            choose("tap", place.tap, [*networks.taps(network), *filter(None, _modules(network))])
        try:
            output = _part(output, key)
        except (KeyError, IndexError, AttributeError, TypeError):
            raise InputError(
                f"the output of {place.path!r} has no element {key!r} for {place.tap!r}; "
                f"{_listed(dataclasses.replace(place, element=place.element[:number]), output)}"
            ) from None
    if isinstance(output, torch.Tensor):
        return output.dequantize() if output.is_quantized else output
    tensors = _tensors(output, "")
    if len(tensors) != 1:
        raise InputError(
            f"the output at {place.tap!r} is a {type(output).__name__}; allowed: one tensor. "
            f"{_listed(place, output)}"
        )
    return _tensor(network, dataclasses.replace(place, element=()), *tensors.values())


def _part(output, key):
    if isinstance(output, torch.Tensor):
        raise TypeError
    if isinstance(key, str):
        return output[key] if isinstance(output, Mapping) else getattr(output, key)
    return list(output.values())[key] if isinstance(output, Mapping) else output[key]


def _tensors(output, name: str) -> dict[str, torch.Tensor]:
    """Return the tensors in an output, by what leads to them."""
    if isinstance(output, torch.Tensor):
        return {name: output}
    if isinstance(output, Mapping):
        parts = {f"{name}.{key}": value for key, value in output.items()}
    elif isinstance(output, tuple) and hasattr(output, "_fields"):
        parts = {f"{name}.{key}": getattr(output, key) for key in output._fields}
    elif isinstance(output, list | tuple):
        parts = {f"{name}[{key}]": value for key, value in enumerate(output)}
    elif dataclasses.is_dataclass(output):
        parts = {f"{name}.{key}": value for key, value in vars(output).items()}
    else:
        parts = {}
    found = [_tensors(value, key) for key, value in parts.items()]
    return {key: tensor for part in found for key, tensor in part.items()}


def _listed(place: Place, output) -> str:
    """Say which elements of an output can be named."""
    use = f"@{place.use}" if place.use else ""
    keys = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place.element)
    start = f"{place.path}{use}{keys}"
    named = [f"{start}{key} {tuple(t.shape)}" for key, t in _tensors(output, "").items() if key]
    return f"name one of: {', '.join(named)}." if named else "it holds no tensors to choose from."


def _why_never(network: nn.Module, place: Place, uses: int) -> str:
    """Say why a tap was not reached."""
    if uses:
        return (
            f"the module {place.path!r} is used {uses} times in a forward pass; {place.tap!r} asks "
            f"for use {place.use}. Allowed: 1 to {uses}."
        )
    above = _modules(network)[place.path.rpartition(".")[0]]
    if isinstance(above, nn.MultiheadAttention):
        reason = (
            "an nn.MultiheadAttention uses its weights without calling it. Tap the attention "
            f"itself, '{place.path.rpartition('.')[0]}[0]', which is what it puts out."
        )
    elif "GraphModule" in [kind.__name__ for kind in type(network).__mro__]:
        reason = (
            "torch.fx (create_feature_extractor) has rewritten the network, which now calls only "
            "its innermost modules. Give the network that it was made from."
        )
    else:
        reason = (
            "in evaluation mode it is not called, or only its weights or its forward() are used. "
            "Choose a module it uses, such as the one around it."
        )
    return f"the forward pass never reached {place.tap!r}: {reason}"
