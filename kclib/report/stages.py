"""Which places a network has to be read at, and a handful of them at the ends of its stages."""

import re
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import nn

from ..errors import InputError
from ..reading import inputs, layouts, taps
from ..reading.borrowed import borrowed
from ..solver import cost

#: As many are read where none are named.
HANDFUL = 6
_CHAINS = (nn.Sequential, nn.ModuleList)


@dataclass(frozen=True)
class Place:
    """A module that can be read.

    Attributes
    ----------
    tap : str
        Its path.
    kind : str
        Its class.
    shape : (int, int, int)
        C, H and W of its feature.
    parameters : int
    chosen : bool
        Whether it is read where none are named.

    Examples
    --------
    >>> Place("layer1.1", "BasicBlock", (64, 16, 16), 74_000, True).seconds > 0
    True
    """

    tap: str
    kind: str
    shape: tuple[int, int, int]
    parameters: int
    chosen: bool

    @property
    def memory(self) -> float:
        """Megabytes that its features of 1,000 images take."""
        channels, height, width = self.shape
        return 4e-3 * channels * height * width

    @property
    def seconds(self) -> float:
        """What a fit of order 2 with 1 x 1 kernels to it takes on 1,000 images, on one core."""
        channels, height, width = self.shape
        return cost((channels, channels), 1000, (height, width), kernel_size=1).seconds


def places(network: nn.Module, first, *, device="cpu") -> list[Place]:
    """List the places of a network whose features can be read, in the order of the forward pass.

    Parameters
    ----------
    network : torch.nn.Module
    first
        A batch as the network is to be given it.
    device : torch.device or str

    Raises
    ------
    InputError
        If there is none; the message says why the last one that was tried is none.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU())
    >>> found = places(network, torch.zeros(3, 3, 16, 16))
    >>> [(place.tap, place.shape) for place in found]
    [('0', (4, 14, 14)), ('1', (4, 14, 14)), ('2', (8, 6, 6)), ('3', (8, 6, 6))]
    """
    inner, _ = taps.unwrapped(network)
    seen: dict[str, tuple[nn.Module, list[torch.Tensor]]] = {}
    handles, trail, passing = [], layouts.Trail(), "two"
    dtype = next((p.dtype for p in inner.parameters() if p.is_floating_point()), None)
    two, three = (
        inputs.as_call(
            inputs.take(first, torch.arange(k) % inputs.rows(first)), lambda b: b, dtype, device
        )
        for k in (2, 3)
    )
    with borrowed(inner, device):
        try:
            for path, module in inner.named_modules():
                if path and not isinstance(module, torch.jit.ScriptModule):

                    def keep(module, _inputs, output, path=path):
                        tensor = _only_tensor(output)
                        if tensor is not None:
                            seen.setdefault(path, (module, []))[1].append(tensor.clone())
                        if passing == "three":
                            trail.see(module, _inputs, output)

                    handles.append(module.register_forward_hook(keep))
            trail.begin(three)
            inner(*two[0], **two[1])
            passing = "three"
            inner(*three[0], **three[1])
        finally:
            for handle in handles:
                handle.remove()
    shapes, refused = {}, "no module in it puts out floating-point numbers."
    for path, (module, found) in seen.items():
        uses = len(found) // 2
        if len(found) % 2 or not path:
            continue
        try:
            steps = trail.until(module, 1)
            layout = layouts.recognise(found[0], found[uses], path, steps, module)
            shapes[path] = tuple(layout.maps(found[0], 2, path).shape[1:])
        except InputError as error:
            refused = str(error)
        except (KeyError, IndexError):
            continue
    if not shapes:
        raise InputError(refused)
    chosen = _handful(inner, shapes)
    return [
        Place(
            path,
            type(seen[path][0]).__name__,
            shape,
            sum(p.numel() for p in seen[path][0].parameters()),
            path in chosen,
        )
        for path, shape in shapes.items()
    ]


def _only_tensor(output) -> torch.Tensor | None:
    if isinstance(output, list | tuple) and len(output) == 1:
        output = output[0]
    plain = isinstance(output, torch.Tensor) and output.is_floating_point()
    return output if plain and not output.is_quantized else None


def _handful(network: nn.Module, shapes: dict[str, tuple]) -> list[str]:
    """Choose the last block before each change of map size; where there is none, blocks evenly."""
    blocks = [path for path in _blocks(network) if path in shapes]
    order = {path: number for number, path in enumerate(shapes)}
    blocks.sort(key=order.__getitem__)
    blocks = blocks or list(shapes)
    maps = [path for path in blocks if shapes[path][1] * shapes[path][2] > 1]
    blocks = maps or blocks
    ends = [
        path
        for path, after in zip_longest(blocks, blocks[1:])
        if after is None or shapes[after][1:] != shapes[path][1:]
    ]
    if len(ends) < 3:
        kinds = [type(network.get_submodule(path)) for path in blocks]
        usual = max(kinds, key=kinds.count)
        ends = [path for path, kind in zip(blocks, kinds, strict=True) if kind is usual]
        if len(ends) < 3:
            ends = blocks
    return _evenly(ends, HANDFUL)


def _evenly(entries: list, count: int) -> list:
    if len(entries) <= count:
        return entries
    return [entries[round((k + 1) * len(entries) / count) - 1] for k in range(count)]


def _blocks(module: nn.Module, path: str = "") -> list[str]:
    """Return the parts that a network is a chain of: opened are containers, and its trunk.

    The trunk is the largest part that holds a repeated block.
    """
    found: list[str] = []
    children = dict(module.named_children())
    holds = {
        name: sum(p.numel() for p in child.parameters())
        for name, child in children.items()
        if any(_repeats(part) for part in child.children())
    }
    trunk = max(holds, key=holds.__getitem__, default=None) if type(module) not in _CHAINS else None
    for name, child in children.items():
        inside = f"{path}.{name}" if path else name
        if (type(child) in _CHAINS and len(child) > 1) or name == trunk:
            found += _blocks(child, inside)
        elif not re.search("Norm|Pool|Drop|Flatten|Identity", type(child).__name__):
            found.append(inside)
    return found


def _repeats(part: nn.Module) -> bool:
    """Say whether a part is a chain in which a block of several layers stands repeatedly."""
    if type(part) not in _CHAINS:
        return False
    kinds = [type(block) for block in part if any(True for _ in block.children())]
    return len(set(kinds)) < len(kinds)
