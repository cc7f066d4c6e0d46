"""Properties of the disentangling network: an exact split, whatever its order, kernel and norm."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from kclib import Disentangler
from kclib.disentangler import NORMS
from kclib.errors import InputError


def drawn(order=2, kernel_size=3, norm="image", *, channels=(4, 6), seed=0) -> Disentangler:
    """Return a disentangler in evaluation mode whose shares and scales are not the first ones."""
    torch.manual_seed(seed)
    g = Disentangler(*channels, order, kernel_size, norm)
    with torch.no_grad():
        g.p_logits.normal_()
        g.scales.uniform_(0.3, 3)
    return g.eval()


def relative(difference: torch.Tensor, whole: torch.Tensor) -> float:
    return float(difference.abs().max() / whole.abs().max())


shapes = st.fixed_dictionaries(
    {
        "order": st.integers(0, 5),
        "kernel_size": st.sampled_from([1, 3]),
        "norm": st.sampled_from(NORMS),
        "channels": st.tuples(st.integers(1, 7), st.integers(1, 7)),
        "seed": st.integers(0, 1000),
    }
)


@torch.no_grad()
@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(1, 4), st.integers(1, 6), st.integers(2, 6), st.floats(-3, 3))
def test_components_sum_to_the_output(shape, count, height, width, exponent):
    g = drawn(**shape)
    x = torch.randn(count, shape["channels"][0], height, width) * 10**exponent
    output, parts = g(x), g.decompose(x)
    assert output.shape == (count, shape["channels"][1], height, width)
    assert parts.shape == (shape["order"] + 1, *output.shape)
    # Parts may cancel in the sum: float32 can hold no more than its share of the largest.
    assert relative(parts.sum(0) - output, parts) < 1e-5
    double, wide = g.double(), x.double()
    parts = double.decompose(wide)
    assert relative(parts.sum(0) - double(wide), parts) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("norm", NORMS)
def test_the_parts_are_those_of_the_definition(norm):
    """x^(k) = W_0 p_1 L_1 N_1 W_1 ... p_k L_k N_k W_k x^, with gates from the forward recursion."""
    g = drawn(order=2, norm=norm).double()
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)

    def divided(h, k):
        scale = h.std((2, 3), keepdim=True) if norm == "image" else g.scales[k].view(1, -1, 1, 1)
        return h / (scale + 1e-5)

    def convolve(k, h):
        return F.conv2d(h, g.linears[k].weight, padding=1)

    p1, p2 = g.p
    x = divided(given_x := x, 0)
    h2 = convolve(2, x)
    h1 = convolve(1, x + p2 * divided(h2, 2).relu())
    scale1, scale2 = (h / divided(h, k) for h, k in ((h1, 1), (h2, 2)))
    gate1, gate2 = (h1 > 0) / scale1, (h2 > 0) / scale2
    expected = torch.stack(
        [
            convolve(0, x),
            convolve(0, p1 * gate1 * convolve(1, x)),
            convolve(0, p1 * gate1 * convolve(1, p2 * gate2 * convolve(2, x))),
        ]
    )
    assert relative(g.decompose(given_x) - expected, expected) < 1e-12


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_layers(order, kernel_size):
    g = Disentangler(5, 3, order, kernel_size)
    assert len(g.linears) == order + 1
    for k, linear in enumerate(g.linears):
        assert linear.weight.shape == (3 if k == 0 else 5, 5, kernel_size, kernel_size)
        assert linear.bias is None
    assert g.p_logits.shape == (order,)
    assert g.p.tolist() == [0.5] * order
    assert g.penalty().item() == pytest.approx(order / 4)


@torch.no_grad()
def test_norm_image_ignores_each_image_s_scale():
    g = drawn(norm="image")
    x = torch.randn(6, 4, 5, 5)
    scale = torch.rand(6, 4, 1, 1) + 0.5
    torch.testing.assert_close(g(x * scale), g(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_norm_dataset_keeps_each_image_s_scale():
    """ReLU networks without biases are homogeneous: twice the image, twice every part."""
    g = drawn(norm="dataset")
    x = torch.randn(6, 4, 5, 5)
    torch.testing.assert_close(g.decompose(2 * x), 2 * g.decompose(x))


@torch.no_grad()
@pytest.mark.parametrize("norm", NORMS)
def test_an_image_s_output_does_not_depend_on_its_batch(norm):
    g = drawn(norm=norm)
    x = torch.randn(7, 4, 5, 5)
    together, alone = g.decompose(x), torch.cat([g.decompose(one) for one in x.split(1)], 1)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_norm_dataset_runs_in_training_mode_and_is_frozen_at_evaluation():
    g = Disentangler(4, 6, order=2, norm="dataset")
    x = torch.randn(64, 4, 5, 5) * torch.tensor([1.0, 2.0, 5.0, 10.0]).view(1, 4, 1, 1)
    g.train()(x)
    learned = g.scales.clone()
    # After one batch the scales are that batch's own, from the input to the inner units.
    torch.testing.assert_close(learned[0], x.std((0, 2, 3), correction=0))
    h2 = g.linears[2](x / (learned[0].view(1, -1, 1, 1) + 1e-5))
    torch.testing.assert_close(learned[2], h2.std((0, 2, 3), correction=0))
    g.eval()(100 * x)
    assert torch.equal(g.scales, learned)
    g.train().decompose(100 * x)  # looks, and learns nothing
    assert torch.equal(g.scales, learned)


@torch.no_grad()
def test_running_scales_average_the_batches_and_forget_the_start():
    g = Disentangler(3, 2, order=1, norm="dataset").train()
    batches = [torch.randn(32, 3, 4, 4) * scale for scale in (1, 2, 3, 4, 5)]
    for batch in batches:
        g(batch)
    expected = torch.stack([b.std((0, 2, 3), correction=0) for b in batches]).mean(0)
    torch.testing.assert_close(g.scales[0], expected)
    for _ in range(100):
        g(batches[0])
    torch.testing.assert_close(
        g.scales[0], batches[0].std((0, 2, 3), correction=0), rtol=1e-3, atol=0
    )


@torch.no_grad()
def test_norm_dataset_leaves_a_channel_that_never_varies_finite():
    g = Disentangler(3, 2, order=2, norm="dataset").train()
    x = torch.randn(32, 3, 4, 4)
    x[:, 1], x[:, 2] = 7, 0  # always the same, and dead
    output = g(x)
    assert g.scales[0, 1] == 7 and g.scales[0, 2] == 0
    assert torch.isfinite(output).all() and float(output.abs().max()) < 100


@torch.no_grad()
def test_dead_channels_of_an_image_pass_as_zero():
    g = drawn(norm="image")
    x = torch.randn(5, 4, 5, 5)
    x[0], x[1, 2] = 0, 0
    parts = g.decompose(x)
    assert torch.isfinite(parts).all() and parts[:, 0].abs().max() == 0


@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_flows_through_the_divisor(norm):
    """With it, scaling a hidden layer's weights would change nothing and have no gradient."""
    g = drawn(order=1, norm=norm).double()
    if norm == "dataset":
        g.train()  # where the divisor is computed from the batch itself
    x = torch.randn(4, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, 6, 5, 5, dtype=torch.float64)
    (g(x) * target).sum().backward()
    found = [x.grad, g.linears[1].weight.grad]
    # The same with every divisor a constant, taken from the pass above.
    with torch.no_grad():
        if norm == "image":
            d0 = x.std((2, 3), keepdim=True) + 1e-5
            h = g.linears[1](x / d0)
            d1 = h.std((2, 3), keepdim=True) + 1e-5
        else:
            d0, d1 = (s.double().view(1, -1, 1, 1) + 1e-5 for s in g.scales)
    scaled = x / d0
    h1 = g.linears[1](scaled) / d1
    output = g.linears[0](scaled + g.p[0] * h1.relu())
    expected = torch.autograd.grad((output * target).sum(), [x, g.linears[1].weight])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_state_round_trip():
    g = drawn(order=3, norm="dataset")
    other = Disentangler(4, 6, 3, norm="dataset").eval()
    other.load_state_dict(g.state_dict())
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(g(x), other(x))


def test_norm_image_refuses_maps_of_one_position():
    g = Disentangler(4, 4, kernel_size=1)
    for use in (g, g.decompose):
        with pytest.raises(InputError, match='1 x 1; use norm="dataset"'):
            use(torch.randn(3, 4, 1, 1))


@torch.no_grad()
def test_norm_dataset_takes_maps_of_one_position():
    g = drawn(kernel_size=1, norm="dataset")
    x = torch.randn(9, 4, 1, 1)
    torch.testing.assert_close(g.decompose(x).sum(0), g(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": -1}, "order is -1; allowed: whole numbers from 0 to 5"),
        ({"order": 6}, "order is 6; allowed: whole numbers from 0 to 5"),
        ({"order": 2.5}, "order is 2.5; allowed: whole numbers"),
        ({"kernel_size": 2}, "kernel_size is 2; allowed: 1 or 3"),
        ({"norm": "x"}, "no norm 'x'.* Allowed: image, dataset"),
        ({"norm": "imge"}, "Did you mean 'image'"),
        ({"in_channels": 0}, "in_channels is 0; allowed: 1 or more"),
        ({"out_channels": 0}, "out_channels is 0; allowed: 1 or more"),
    ],
)
def test_refused(change, message):
    with pytest.raises(InputError, match=message):
        Disentangler(**{"in_channels": 4, "out_channels": 4, **change})
