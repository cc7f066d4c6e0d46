"""The disentangling network g and its exact split into orders (Section 3 and Fig. 2)."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .errors import InputError, choose

#: What N_k divides by: each image's own scale (the authors' code), or the data set's (the paper).
NORMS = ("image", "dataset")
_EPSILON = 1e-5


class _Orders(nn.Module):
    """Layers W_0 to W_K and the divisors N_k, which all networks here have."""

    def __init__(self, in_channels, out_channels, order, kernel_size, norm, *, outputs_see=1):
        super().__init__()
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if value < 1:
                raise InputError(f"{name} is {value}; allowed: 1 or more.")
        self.order = _checked_order(order)
        if kernel_size not in (1, 3):
            raise InputError(f"kernel_size is {kernel_size}; allowed: 1 or 3.")
        self.norm = choose("norm", norm, NORMS)
        self.settings = _settings(in_channels, out_channels, self.order, kernel_size, norm)
        self.linears = nn.ModuleList(
            nn.Conv2d(
                in_channels if k else in_channels * outputs_see,
                in_channels if k else out_channels,
                kernel_size,
                padding=kernel_size // 2,
                bias=False,
            )
            for k in range(order + 1)
        )
        self.register_buffer("scales", torch.ones(order + 1, in_channels))
        self.register_buffer("batches_seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return g(x), shape (N, out_channels, H, W), of a feature x (N, in_channels, H, W)."""
        return self.linears[0](self.inner(x))

    @torch.no_grad()
    def _divisor(self, h: torch.Tensor, k: int, learns: bool = False) -> torch.Tensor:
        """Return what N_k divides h (N, C, H, W) by, broadcastable to it; k = 0 is for x itself."""
        if self.norm == "image":
            if h.shape[2] * h.shape[3] < 2:
                raise InputError(
                    'norm="image" divides by the standard deviation over positions, and these maps '
                    f'are {h.shape[2]} x {h.shape[3]}; use norm="dataset" for 1 x 1 maps.'
                )
            wide = h.to(torch.promote_types(h.dtype, torch.float32))  # more than bfloat16
            wide = wide - wide.mean((2, 3), keepdim=True)
            # torch.std over two dimensions takes eight times as long on a processor.
            length = torch.linalg.vector_norm(wide.flatten(2), dim=2)  # (N, C)
            deviation = length / math.sqrt(h.shape[2] * h.shape[3] - 1)
            return deviation[:, :, None, None].to(h.dtype) + _EPSILON
        if learns:
            wide = h.double()
            scale = channel_scale(wide.mean((0, 2, 3)), wide.square().mean((0, 2, 3)))
            # A mean over the first ten batches, then an exponential one.
            weight = (1 / (1 + self.batches_seen)).clamp_min(0.1)
            self.scales[k] += weight * (scale - self.scales[k])
        return self.scales[k].to(h.dtype).view(1, -1, 1, 1) + _EPSILON


class Disentangler(_Orders):
    """The network g that reconstructs a feature x* from a feature x, order by order.

    With x^ the normalised input,

        h_K = W_K x^,    h_k = W_k (x^ + p_{k+1} ReLU(N_{k+1} h_{k+1})),    g(x) = h_0.

    The paper's text divides hidden units by their standard deviation over the data set
    (``norm="dataset"``). The authors' code (``norm="image"``) divides per image and channel by the
    unbiased standard deviation over positions plus 1e-5, and divides ``x`` itself in the same way.
    Neither removes the mean, and no gradient flows through the divisor.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of x and of x*.
    order : int
        Highest order K, 0 to 5.
    kernel_size : int
        3 for feature maps; 1 for fully connected or token features as 1 x 1 maps.
    norm : str
        ``"image"`` or ``"dataset"``.

    Attributes
    ----------
    linears : torch.nn.ModuleList
        ``linears[k]`` is W_k, a convolution without bias; k = 0 is the output layer.
    p_logits : torch.nn.Parameter
        Shape (order,); entry k - 1 is the logit of p_k. p starts at 0.5.
    scales : torch.Tensor
        Buffer (order + 1, in_channels): the data set's standard deviations that divide x (row 0)
        and h_k (row k); used with ``norm="dataset"``, running in training mode, frozen otherwise.
    settings : dict
        What it was made with, by the parameters' names.

    Examples
    --------
    >>> g, x = Disentangler(4, 6, order=2), torch.randn(5, 4, 7, 7)
    >>> parts = g.eval().decompose(x)
    >>> parts.shape, torch.allclose(parts.sum(0), g(x), atol=1e-5)
    (torch.Size([3, 5, 6, 7, 7]), True)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        order: int = 2,
        kernel_size: int = 3,
        norm: str = "image",
    ):
        super().__init__(in_channels, out_channels, order, kernel_size, norm)
        self.p_logits = nn.Parameter(torch.zeros(order))

    @property
    def p(self) -> torch.Tensor:
        """The p_k, shape (order,), each between 0 and 1."""
        return self.p_logits.sigmoid()

    def penalty(self) -> torch.Tensor:
        """Return the sum of the p_k^2, which pushes explanation to low orders."""
        return self.p.square().sum()

    def inner(self, x: torch.Tensor, k: int = 0) -> torch.Tensor:
        """Return what W_k is applied to, (N, in_channels, H, W); by default the output layer's."""
        learns = self.training and self.norm == "dataset"
        x = x / self._divisor(x, 0, learns)
        hidden = torch.zeros((), dtype=x.dtype, device=x.device)
        for j in range(self.order, k, -1):
            h = self.linears[j](x + hidden)
            hidden = self.p[j - 1] * F.relu(h / self._divisor(h, j, learns))
        if learns:
            self.batches_seen += 1
        return x + hidden

    def decompose(self, x: torch.Tensor) -> torch.Tensor:
        """Split g(x) exactly into its orders.

        With the gates of the ReLUs and the divisors held at their values for this x, g is linear:
        x^(0) = W_0 x^ and x^(k) = W_0 p_1 L_1 N_1 W_1 ... p_k L_k N_k W_k x^ (the paper's Eq. for
        x^(k); L_k is the diagonal matrix of the gates). The scales of ``norm="dataset"`` are used
        as they are, in training mode too.

        Returns
        -------
        torch.Tensor
            Shape (order + 1, N, out_channels, H, W), lowest order first; its sum over the first
            dimension is ``forward(x)`` up to rounding.
        """
        x = x / self._divisor(x, 0)
        parts = [x]  # what W_k is applied to, by the number of gates passed
        for k in range(self.order, 0, -1):
            maps = [self.linears[k](part) for part in parts]
            h = sum(maps)
            gain = self.p[k - 1] * (h > 0) / self._divisor(h, k)
            parts = [x, *(gain * part for part in maps)]
        return torch.stack([self.linears[0](part) for part in parts])  # (K + 1, N, C*, H, W)


class Chain(_Orders):
    """One order k of a `StagewiseDisentangler`: k non-linear steps, and an output layer.

        h_k = W_k x^,    h_j = W_j ReLU(N_{j+1} h_{j+1}),    output = W_0 [ReLU(N_1 h_1), x^] + b

    W_0 sees x^ as well: what the last ReLU's units hold of a linear map can be cancelled, so that
    an order is what its non-linear steps add and not a better linear map. Of order 0 it is
    W_0 x^ + b alone.

    Examples
    --------
    >>> Chain(4, 6, order=1, kernel_size=3, norm="dataset")(torch.randn(5, 4, 7, 7)).shape
    torch.Size([5, 6, 7, 7])
    """

    def __init__(self, in_channels, out_channels, order, kernel_size, norm):
        seen = 2 if order else 1
        super().__init__(in_channels, out_channels, order, kernel_size, norm, outputs_see=seen)
        self.linears[0].bias = nn.Parameter(torch.zeros(out_channels))

    def inner(self, x: torch.Tensor, k: int = 0) -> torch.Tensor:
        """Return what W_k is applied to, (N, C, H, W); C is twice in_channels for an output."""
        learns = self.training and self.norm == "dataset"
        x = state = x / self._divisor(x, 0, learns)
        for j in range(self.order, k, -1):
            h = self.linears[j](state)
            state = F.relu(h / self._divisor(h, j, learns))
        if learns:
            self.batches_seen += 1
        return state if k or not self.order else torch.cat([state, x], 1)


class StagewiseDisentangler(nn.Module):
    """Orders that are told apart: each is a network of its own (ours, not the paper's).

    The paper's network passes all orders through one output layer W_0, so that the same g has many
    splits. Here x^(k) is what a `Chain` of k non-linear steps adds to the orders below it:
    ``kclib.fit(..., solver="lowest_first")`` fits x^(0), then x^(1) to what is left, and so on.

    Parameters
    ----------
    in_channels, out_channels, order, kernel_size, norm
        As for `Disentangler`.

    Attributes
    ----------
    chains : torch.nn.ModuleList
        ``chains[k]`` computes x^(k).
    settings : dict
        What it was made with, by the parameters' names.

    Examples
    --------
    >>> g, x = StagewiseDisentangler(4, 6, order=1, norm="dataset").eval(), torch.randn(5, 4, 7, 7)
    >>> torch.equal(g.decompose(x)[1], g.chains[1](x))
    True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        order: int = 2,
        kernel_size: int = 3,
        norm: str = "image",
    ):
        super().__init__()
        self.order = _checked_order(order)
        # Lowest first, so that a seed gives an order the same weights whatever the highest order.
        self.chains = nn.ModuleList(
            Chain(in_channels, out_channels, k, kernel_size, norm) for k in range(self.order + 1)
        )
        self.norm = self.chains[0].norm
        self.settings = _settings(in_channels, out_channels, self.order, kernel_size, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the reconstruction, shape (N, out_channels, H, W), of x (N, in_channels, H, W)."""
        return self.decompose(x).sum(0)

    def decompose(self, x: torch.Tensor) -> torch.Tensor:
        """Return its orders, shape (order + 1, N, out_channels, H, W), lowest first."""
        return torch.stack([chain(x) for chain in self.chains])


def _settings(in_channels, out_channels, order, kernel_size, norm) -> dict:
    """Return, of JSON's types, what a disentangler of the same form is made with."""
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "order": order,
        "kernel_size": kernel_size,
        "norm": norm,
    }


def _checked_order(order) -> int:
    if order not in range(6):
        raise InputError(f"order is {order}; allowed: whole numbers from 0 to 5.")
    return int(order)


def channel_scale(mean: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
    """Return what ``norm="dataset"`` divides channels by, from their first two moments.

    Parameters
    ----------
    mean, square : torch.Tensor
        float64, shape (C,): mean and mean square over images and positions.

    Returns
    -------
    torch.Tensor
        float32, shape (C,): the standard deviation (the paper's Sigma); the magnitude of a channel
        that never varies, which a deviation of 0 would blow up.

    Examples
    --------
    >>> channel_scale(torch.tensor([1.0, 3.0]).double(), torch.tensor([5.0, 9.0]).double())
    tensor([2., 3.])
    """
    variance = square - mean.square()
    varies = variance > 1e-12 * square  # above float64's rounding
    return torch.where(varies, variance, square).sqrt().float()
