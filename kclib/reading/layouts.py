"""Layouts: which axis of an output is the image, the channel, the position; outputs become maps.

Which axis counts images is measured: the network is run on two and on three of them. Where
channels are follows from the modules that ran on the way, a convolution having them second and a
linear layer last; where these do not tell, the user is asked.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from ..errors import InputError, choose

#: Which tokens are read: those of patches, as maps; the class token; or all, in a line.
TOKENS = ("patches", "class", "all")
_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
_LAST = (nn.Linear, nn.Embedding, nn.RNNBase, nn.MultiheadAttention)
_SPECIAL_TOKENS = 9  # at most: a class token, one of distillation, registers
_AGREE = {torch.float32: 1e-2, torch.float64: 1e-2}  # of the norm; coarser numbers: 0.1


@dataclass
class Trail:
    """What was seen on a forward pass: shapes of outputs, and the axis that holds the channels.

    Pass `see` to `kclib.taps.read` as ``watch``.

    Attributes
    ----------
    steps : list of (int, tuple, int)
        Identity of the module, shape of its output, axis of its channels; in order.
    """

    steps: list[tuple[int, tuple[int, ...], int]] = field(default_factory=list)
    _length: dict[int, list[int]] = field(default_factory=dict)

    def begin(self, call: tuple[tuple, dict]) -> None:
        """Note the inputs: images have their channels second, unless only the last can be."""
        for given in [*call[0], *call[1].values()]:
            if isinstance(given, torch.Tensor) and given.dim() == 4:
                last = given.shape[3] <= 4 < given.shape[1]
                self.steps.append((0, tuple(given.shape), 3 if last else 1))

    def see(self, module: nn.Module, inputs: tuple, output) -> None:
        """Note a module's output, if its kind tells where the channels are."""
        tensor = output[0] if isinstance(output, tuple) and output else output
        if isinstance(tensor, torch.Tensor) and tensor.dim() in (3, 4):
            axis = self._axis(module, inputs, tensor)
            if axis is not None:
                self.steps.append((id(module), tuple(tensor.shape), axis))
        self._length.setdefault(id(module), []).append(len(self.steps))

    def until(self, module: nn.Module, use: int) -> list[tuple[int, tuple[int, ...], int]]:
        """Return the steps up to a module's output, of its uses the one with that number."""
        return self.steps[: self._length[id(module)][use - 1]]

    def _axis(self, module: nn.Module, inputs: tuple, output: torch.Tensor) -> int | None:
        last = output.dim() - 1
        if "torch.ao.nn" in type(module).__module__:  # quantised: no subclasses of the others
            name = type(module).__name__
            return 1 if "Conv" in name else last if "Linear" in name else None
        if isinstance(module, _FIRST):
            return 1
        if isinstance(module, _LAST):
            return last
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            if len(module.normalized_shape) > 1:  # over whole maps
                return None
            if type(module) in (nn.LayerNorm, nn.RMSNorm):
                return last
            # Some that put channels second are derived from it.
            fits = [axis for axis in (1, last) if output.shape[axis] == module.normalized_shape[0]]
            return fits[0] if len(fits) == 1 else None
        if type(module).__name__ == "Permute" and hasattr(module, "dims"):  # torchvision's
            before = [s for s in self.steps if s[1] == tuple(inputs[0].shape)]
            return list(module.dims).index(before[-1][2]) if before else None
        return None


@dataclass(frozen=True)
class Layout:
    """How an output becomes maps (N, C, H, W).

    Attributes
    ----------
    axes : str
        What each axis is: N images, C channels, H and W position, T a line of positions.
    grid : (int, int) or None
        Height and width of the map whose positions the last tokens of a line are.
    tokens : str
        One of `TOKENS`.
    shape : tuple
        Of the output for one image, without the axis N.
    """

    axes: str
    grid: tuple[int, int] | None
    tokens: str
    shape: tuple[int, ...]

    def maps(self, output: torch.Tensor, count: int, tap: str) -> torch.Tensor:
        """Return the output for ``count`` images as maps, shape (N, C, H, W).

        Examples
        --------
        >>> tokens = torch.arange(10.0).reshape(1, 5, 2)  # a class token and 2 x 2 patches
        >>> layout = Layout("NTC", (2, 2), "patches", (5, 2))
        >>> layout.maps(tokens, 1, "tap")[0, 0]
        tensor([[2., 4.],
                [6., 8.]])
        """
        images = self.axes.index("N")
        shape = tuple(output.shape)
        if shape != (*self.shape[:images], count, *self.shape[images:]):
            raise InputError(
                f"the output at {tap!r} has shape {shape} for a batch of {count}, and for others "
                f"{self.shape} an image; allowed: the same for all. A network that squeezes a "
                "batch of one takes another batch size; one that cuts off padding takes inputs of "
                "one length, batch=1, or no mask."
            )
        order = "NCHW" if "H" in self.axes else "NCT" if "T" in self.axes else "NC"
        found = output.permute([self.axes.index(axis) for axis in order])
        if order == "NC":
            return found[:, :, None, None]  # (N, C, 1, 1)
        if order == "NCHW":
            return found
        if self.grid is None or self.tokens == "all":
            return found[:, :, :, None]  # (N, C, T, 1)
        special = found.shape[2] - math.prod(self.grid)
        if self.tokens == "class":
            return found[:, :, 0, None, None]  # (N, C, 1, 1)
        return found[:, :, special:].unflatten(2, self.grid)


def recognise(
    two: torch.Tensor,
    three: torch.Tensor,
    tap: str,
    steps: list[tuple[int, tuple[int, ...], int]],
    module: nn.Module,
    *,
    declared: str | None = None,
    maps: bool = False,
    grid: tuple[int, int] | None = None,
    tokens: str = "patches",
) -> Layout:
    """Find out how the output at a tap becomes maps, or say what to declare.

    Parameters
    ----------
    two, three : torch.Tensor
        The output for two images, and for three that begin with the same two.
    tap : str
        For messages.
    steps : list
        Of the `Trail` of the pass with three, until the tap.
    module : torch.nn.Module
        The tapped one.
    declared : str, optional
        The axes as the user says they are, such as ``"NHWC"``.
    maps : bool
        True if the tap is known to be maps (N, C, H, W).
    grid : (int, int), optional
        Height and width of the patches, where no convolution tells it.
    tokens : str
        One of `TOKENS`.

    Raises
    ------
    InputError
        If the output is no feature: no floating-point numbers, not a row an image, other numbers
        of the same image in another batch; or if its axes can be read in several ways.
    """
    choose("tokens", tokens, TOKENS)
    shape, rank = tuple(three.shape), three.dim()
    given = f"the output at {tap!r} is {shape} for N = 3 images"
    if rank not in (2, 3, 4) or not three.is_floating_point():
        raise InputError(
            f"{given}, {str(three.dtype).removeprefix('torch.')}; allowed: floating-point numbers "
            "of shape (N, C), (N, T, C) or (N, C, H, W). Choose a module with such an output."
        )
    grown = [] if two.dim() != rank else [k for k in range(rank) if two.shape[k] != shape[k]]
    if len(grown) != 1 or (two.shape[grown[0]], shape[grown[0]]) != (2, 3):
        raise InputError(
            f"{given} and {tuple(two.shape)} for N = 2; allowed: one axis of N, as in (N, C), "
            "(N, T, C) or (N, C, H, W). Choose a module that puts out one row an image (not one a "
            "window, or one for the whole batch)."
        )
    images = grown[0]
    _check_independence(two, three.narrow(images, 0, 2), tap)
    if declared is not None:
        axes = _checked(declared, rank, images, given)
    elif maps:
        axes = "NCHW"
    else:
        recognised = _axes(three, images, module, steps)
        if recognised is None:
            raise InputError(_question(given, rank, images))
        axes = recognised
    if "T" not in axes:
        patches = None
    else:
        length = shape[axes.index("T")]
        patches = _checked_grid(grid, length, tap) if grid else _grid(length, steps)
    if grid is not None and patches is None:
        raise InputError(f"grid is {grid}, but {given}, no tokens; leave grid out.")
    if tokens == "class" and (patches is None or length == math.prod(patches)):
        raise InputError(
            f"{given}, in which no class token is known; allowed: tokens of which the last ones "
            "are the patches' (say of how many rows and columns with grid=), and others before."
        )
    single = tuple(size for axis, size in enumerate(shape) if axis != images)
    return Layout(axes, patches, tokens, single)


def _check_independence(two: torch.Tensor, of_three: torch.Tensor, tap: str) -> None:
    """Refuse features that change from pass to pass, or with the other images of the batch."""
    apart = (two.double() - of_three.double()).nan_to_num().norm()
    if apart > _AGREE.get(two.dtype, 0.1) * of_three.double().nan_to_num().norm():
        raise InputError(
            f"the output at {tap!r} for the same images is another in another batch, or in a "
            "second pass. Usual causes: dropout that stays on in evaluation mode (F.dropout "
            "without training=self.training), and batch norm without running statistics "
            "(track_running_stats=False). Mend the network, or choose a tap before that layer."
        )


def _checked(declared: str, rank: int, images: int, given: str) -> str:
    """Return the axes that the user declared, if they can be those of the output."""
    allowed = {"NC", "NCT", "NTC", "NCHW", "NHWC"}  # in any order of the letters
    if sorted(declared) not in [sorted(axes) for axes in allowed] or len(declared) != rank:
        raise InputError(
            f"layout is {declared!r}, but {given}; allowed: a letter an axis, N images, C "
            'channels, H and W position or T tokens: "NCHW", "NHWC", "NTC", "TNC", "NCT", "NC".'
        )
    if declared.index("N") != images:
        raise InputError(
            f"layout is {declared!r}, but {given}: axis {images} (from 0) counts the images; put "
            "N there."
        )
    return declared


def _axes(output: torch.Tensor, images: int, module: nn.Module, steps) -> str | None:
    """Return what the axes are, or None if the modules that ran do not tell."""
    rank = output.dim()
    if rank == 2:
        return "NC" if images == 0 else None
    if images != 0 and (rank, images) != (3, 1):
        return None
    channels = _channel_axis(tuple(output.shape), output.stride(), images, module, steps)
    if channels is None:
        return None
    rest = iter("HW" if rank == 4 else "T")
    named = {images: "N", channels: "C"}
    return "".join(named.get(axis) or next(rest) for axis in range(rank))


def _channel_axis(shape, strides, images: int, module: nn.Module, steps) -> int | None:
    rank = len(shape)
    candidates = [axis for axis in (1, 2, 0) if axis != images][:2] if rank == 3 else [1, 3]
    alike = [step for step in steps if len(step[1]) == rank]
    if alike and alike[-1][0] == id(_end(module)) and alike[-1][1] == tuple(shape):
        return alike[-1][2]  # the tapped module itself is of a kind that tells

    def positions(sizes, axis):
        return [size for k, size in enumerate(sizes) if k not in (0 if rank == 4 else images, axis)]

    if alike:
        _, sizes, axis = alike[-1]
        fits = [
            candidate
            for candidate in candidates
            if shape[candidate] == sizes[axis]
            or positions(shape, candidate) == positions(sizes, axis)
        ]
        if len(fits) == 1:
            return fits[0]
        # As many channels as rows: only where all that ran has its channels on that axis, and they
        # lie side by side in memory, as convolutions here leave them; what is transposed does not.
        pure = {step[2] for step in alike} == {axis}
        return axis if fits and pure and strides[axis] == 1 else None
    maps = [step for step in steps if len(step[1]) == 4]
    if rank == 3 and images == 0 and maps:  # maps with their positions in a line
        _, sizes, axis = maps[-1]
        area = math.prod(sizes) // sizes[axis] // sizes[0]
        fits = [
            candidate
            for candidate in candidates
            if shape[candidate] == sizes[axis]
            and 0 <= shape[3 - candidate] - area <= _SPECIAL_TOKENS
        ]
        return fits[0] if len(fits) == 1 else None
    return None


def _end(module: nn.Module) -> nn.Module:
    """Return the module whose output is that of a chain."""
    while type(module) is nn.Sequential and len(module):
        module = module[-1]
    return module


def _grid(length: int, steps) -> tuple[int, int] | None:
    """Return the size of the last map on the way, if a line can be its positions."""
    maps = [sizes for _, sizes, axis in steps if len(sizes) == 4 and axis == 1]
    found = maps[-1][2:] if maps else (0, 0)
    fits = math.prod(found) > 1 and 0 <= length - math.prod(found) <= _SPECIAL_TOKENS
    return found if fits else None


def _checked_grid(grid, length: int, tap: str) -> tuple[int, int]:
    if len(grid) != 2 or min(grid) < 1 or math.prod(grid) > length:
        raise InputError(
            f"grid is {tuple(grid)}, but there are {length} tokens at {tap!r}; allowed: rows and "
            "columns of patches, together as many as there are tokens, or fewer by the class token "
            "and its like, which come first."
        )
    return tuple(grid)


def _question(given: str, rank: int, images: int) -> str:
    """Ask for a layout: what can be read in several ways."""
    choices = {
        (2, 1): '"CN"',
        (3, 0): '"NTC" (tokens, channels last) or "NCT" (channels second)',
        (3, 1): '"TNC" (time first) or "CNT"',
        (4, 0): '"NCHW" (channels second) or "NHWC" (channels last)',
    }.get((rank, images), "a letter an axis, N C H W")
    return (
        f"{given}, and the modules on the way do not tell which axis is what. Declare it: "
        f"layout={choices}."
    )
