"""Fitting a disentangler: what any fit must satisfy, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from kclib import Fit, fit
from kclib.disentangler import NORMS
from kclib.errors import InputError
from kclib.features import extract, load_mapped
from kclib.measures import Evaluation, variance
from kclib.networks import build
from kclib.solver import SOLVERS


def normal(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def features() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a feature and a target that holds a linear part, a rectified part and noise."""
    x, mixing = normal(200, 8, 6, 6), normal(2, 8, 8, seed=1)
    linear = torch.einsum("oc,nchw->nohw", mixing[0], x)
    rectified = torch.einsum("oc,nchw->nohw", mixing[1], x).relu()
    return x, linear + rectified + normal(200, 8, 6, 6, seed=2)


def test_what_a_fit_holds(features):
    x, target = features
    fitted = fit(x, target, order=2, epochs=2)
    assert isinstance(fitted, Fit) and not fitted.disentangler.training
    assert len(fitted.explained) == 3 and all(isinstance(s, float) for s in fitted.explained)
    assert isinstance(fitted.residual, float) and 0 < fitted.residual < 1
    assert len(fitted.loss) == 2 and fitted.loss[1] < fitted.loss[0]
    found = fitted.evaluate(x, target)
    assert isinstance(found, Evaluation)
    assert found.residual == fitted.residual and found.explained == fitted.explained


@torch.no_grad()
def test_the_shares_are_those_of_the_parts(features):
    x, target = features
    fitted = fit(x, target, order=1, epochs=2)
    parts = fitted.disentangler.decompose(x)
    whole = variance(target)
    assert fitted.explained == pytest.approx([variance(part) / whole for part in parts], rel=1e-5)
    residual = variance(target - fitted.disentangler(x)) / whole
    assert fitted.residual == pytest.approx(residual, rel=1e-5)


def test_progress_counts_every_step(features):
    seen = []
    fit(*features, order=1, epochs=3, progress=lambda *call: seen.append(call))
    assert [done for done, _, _ in seen] == list(range(1, 13))  # 3 epochs of 4 batches
    assert {total for _, total, _ in seen} == {12}
    assert seen[-1][2] == "epoch 3 of 3"


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("norm", NORMS)
def test_same_seed_same_fit(features, solver, norm):
    x, target = (feature[:70] for feature in features)
    state = torch.random.get_rng_state()

    def run(seed):
        fitted = fit(x, target, order=1, epochs=2, solver=solver, norm=norm, seed=seed)
        return fitted, fitted.disentangler.state_dict()

    (one, first), (two, second), (other, _) = run(3), run(3), run(4)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (one.residual, one.explained, one.loss) == (two.residual, two.explained, two.loss)
    assert one.residual != other.residual
    assert torch.equal(torch.random.get_rng_state(), state)  # no draw from the global generator


# Order 0: least squares


@torch.no_grad()
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_order_0_is_the_least_squares_solution(features, kernel_size, norm):
    x, target = features
    fitted = fit(x, target, order=0, kernel_size=kernel_size, norm=norm)
    wide = x.double()
    deviation = (
        wide.std((2, 3), keepdim=True)
        if norm == "image"
        else wide.std((0, 2, 3), keepdim=True, correction=0)
    )
    patches = F.unfold(wide / (deviation + 1e-5), kernel_size, padding=kernel_size // 2)
    rows = patches.permute(0, 2, 1).flatten(0, 1)  # (N H W, C k k)
    wanted = target.double().permute(0, 2, 3, 1).flatten(0, 2)  # (N H W, C*)
    solution = torch.linalg.lstsq(rows, wanted).solution
    weight = fitted.disentangler.linears[0].weight.flatten(1).T.double()
    torch.testing.assert_close(weight, solution, rtol=1e-3, atol=1e-4)
    rest = (wanted - rows @ solution).unflatten(0, (len(x), -1)).permute(0, 2, 1).unsqueeze(3)
    assert fitted.residual == pytest.approx(variance(rest) / variance(target), rel=1e-5)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_permuted_channels_are_the_same_knowledge(kernel_size):
    strength = torch.rand(100, 6, 1, 1, generator=torch.Generator().manual_seed(3))
    x = (1 + strength) * normal(100, 6, 5, 5)
    target = x[:, [3, 0, 5, 1, 2, 4]]
    fitted = fit(x, target, order=0, kernel_size=kernel_size, norm="dataset")
    assert fitted.residual < 1e-6
    assert fitted.explained == pytest.approx([1.0], abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000), st.sampled_from(NORMS))
def test_linear_maps_of_the_normalised_feature_leave_nothing(channels, outputs, seed, norm):
    x = normal(60, channels, 4, 4, seed=seed)
    axes = (2, 3) if norm == "image" else (0, 2, 3)
    scaled = x / x.std(axes, keepdim=True)
    target = F.conv2d(scaled, normal(outputs, channels, 3, 3, seed=seed + 1), padding=1)
    assert fit(x, target, order=0, norm=norm).residual < 1e-6


@settings(max_examples=15, deadline=None)
@given(st.floats(-8, 8), st.floats(-25, 25))
def test_units_do_not_matter_at_order_0(of_x, of_target):
    x = normal(40, 3, 4, 4)
    target = x[:, :2] + normal(40, 2, 4, 4, seed=1)
    plain = fit(x, target, order=0, norm="dataset").residual
    scaled = fit(x * 10**of_x, target * 10**of_target, order=0, norm="dataset").residual
    assert scaled == pytest.approx(plain, rel=1e-4)


def test_a_channel_that_never_varies_disturbs_nothing():
    """What norm="image" refuses, its message sends here."""
    x = normal(100, 4, 5, 5)
    target = x[:, [2, 0, 3, 1]]
    for value in (0.0, 1.0, -300.0):
        with_constant = torch.cat([x, torch.full((100, 1, 5, 5), value)], 1)
        assert fit(with_constant, target, order=0, norm="dataset").residual < 1e-6


def test_a_channel_with_a_large_mean_disturbs_nothing():
    x = normal(100, 5, 5, 5)
    target = x[:, [2, 0, 3, 1]]
    x[:, 4] = 1000 + x[:, 4]
    assert fit(x, target, order=0, norm="dataset").residual < 1e-6


def test_copied_channels_disturb_nothing():
    x = normal(100, 3, 5, 5)
    doubled = torch.cat([x, x, torch.zeros(100, 1, 5, 5)], 1)
    assert fit(doubled, x, order=0, norm="dataset").residual < 1e-6


# Any order


@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("norm", NORMS)
def test_noise_is_not_explained(order, norm):
    x, target = normal(300, 3, 6, 6), normal(300, 4, 6, 6, seed=1)
    fitted = fit(x, target, order=order, norm=norm, epochs=3)
    # A share of about (weights of W_0 per channel) / (rows) = 27 / 10,800 is explained by chance.
    assert fitted.residual == pytest.approx(1, abs=0.005)
    held_out = fitted.evaluate(normal(300, 3, 6, 6, seed=2), normal(300, 4, 6, 6, seed=3))
    assert held_out.residual == pytest.approx(1, abs=0.01)


@pytest.fixture(scope="module")
def two_layers() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a feature, and a target that a disentangler of order 1 can write, plus noise."""
    x, kernels = normal(200, 8, 6, 6), normal(2, 8, 8, 3, 3, seed=1) / 8
    inner = F.conv2d(x, kernels[1], padding=1).relu()
    target = F.conv2d(x + inner, kernels[0], padding=1)
    return x, target + 0.3 * normal(200, 8, 6, 6, seed=2)


def test_a_rectified_part_needs_an_order_above_0(two_layers):
    linear, more = fit(*two_layers, order=0), fit(*two_layers, order=1, epochs=60)
    assert more.residual < 0.9 * linear.residual
    assert more.explained[1] > 0.03


def test_joint_reaches_what_the_authors_schedule_reaches(two_layers):
    """On training images: 20 epochs against 200, with 1 % of slack.

    At 4 steps an epoch, 200 epochs are few for the authors' low learning rate, and the margin here
    is wide; the statement is that the short schedule costs nothing.
    """
    joint = fit(*two_layers, order=2, solver="joint")
    authors = fit(*two_layers, order=2, solver="authors", epochs=200)
    assert joint.residual <= 1.01 * authors.residual


def test_the_authors_schedule_descends(features):
    fitted = fit(*features, order=2, solver="authors", epochs=20)
    assert len(fitted.loss) == 20
    assert all(
        later < earlier for earlier, later in zip(fitted.loss, fitted.loss[1:], strict=False)
    )


def test_the_penalty_pushes_the_shares_down(features):
    free, pushed = (fit(*features, order=2, penalty=p, epochs=10) for p in (0.0, 1000.0))
    assert (pushed.disentangler.p < free.disentangler.p).all()


@pytest.mark.parametrize("norm", NORMS)
def test_evaluation_does_not_depend_on_the_batch_size(features, norm):
    fitted = fit(*features, order=2, epochs=1, norm=norm)
    whole = fitted.evaluate(*features, batch=200)
    for batch in (1, 7, 64):
        found = fitted.evaluate(*features, batch=batch)
        assert found.residual == pytest.approx(whole.residual, rel=1e-5)
        assert found.explained == pytest.approx(whole.explained, rel=1e-5)


def test_evaluation_is_image_by_image(features):
    """The images of the evaluation may come in any order."""
    x, target = features
    fitted = fit(x, target, order=1, epochs=1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert fitted.evaluate(x[order], target[order]).residual == pytest.approx(fitted.residual)


# Shapes and kinds of features


@pytest.mark.parametrize(
    ("of_x", "of_target"), [((8, 8), (4, 4)), ((3, 5), (6, 4)), ((1, 7), (7, 7))]
)
def test_maps_of_different_size(of_x, of_target):
    x, target = normal(50, 3, *of_x), normal(50, 5, *of_target, seed=1)
    fitted = fit(x, target, order=1, epochs=1)
    assert fitted.disentangler.decompose(target[:, :3]).shape == (2, 50, 5, *of_target)
    assert fitted.evaluate(x, target).residual == fitted.residual


@pytest.mark.parametrize("order", [0, 2])
def test_vectors(order):
    x = normal(300, 6, 1, 1)
    target = x[:, [4, 2, 0, 5, 3, 1]]
    fitted = fit(x, target, order=order, kernel_size=1, norm="dataset")
    assert fitted.residual < (1e-6 if order == 0 else 0.2)
    assert [linear.weight.shape[2:] for linear in fitted.disentangler.linears] == [(1, 1)] * (
        order + 1
    )


def test_memory_mapped_features_give_the_same(tmp_path):
    network = build("vgg16", classes=3, width=0.0625, size=32)
    images = torch.randint(256, (40, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    kept = [extract(network, images.byte(), f"conv{k}_1") for k in (2, 3)]
    for k, feature in enumerate(kept):
        extract(network, images.byte(), f"conv{k + 2}_1", file=tmp_path / str(k))
        assert (tmp_path / str(k)).stat().st_size == 4 * feature.numel()
    mapped = [load_mapped(tmp_path / str(k), feature.shape) for k, feature in enumerate(kept)]
    from_memory, from_disk = (fit(*pair, order=1, epochs=1) for pair in (kept, mapped))
    assert from_disk.residual == from_memory.residual
    assert from_disk.explained == from_memory.explained


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_features_of_other_precision(features, kind):
    x, target = (feature[:60] for feature in features)
    plain = fit(x, target, order=1, epochs=1)
    other = fit(x.to(kind), target.to(kind), order=1, epochs=1)
    assert other.residual == pytest.approx(plain.residual, rel=0.02)


def test_fitting_where_gradients_are_switched_off(features):
    x, target = (feature[:60] for feature in features)
    with torch.no_grad():
        quiet = fit(x, target, epochs=1)
    assert quiet.residual == fit(x, target, epochs=1).residual


def test_features_that_still_hang_on_their_network(features):
    x, target = (feature[:60] for feature in features)
    attached = fit(x.clone().requires_grad_() * 1, target.clone().requires_grad_() * 1, epochs=1)
    assert attached.residual == fit(x, target, epochs=1).residual


def test_the_features_are_left_as_they_were(features):
    copies = [feature.clone() for feature in features]
    fit(*features, order=2, norm="dataset", epochs=1)
    assert all(torch.equal(*pair) for pair in zip(features, copies, strict=True))


# What is refused


def spoiled(value: float, *, channel: int | None = None) -> torch.Tensor:
    """Return a feature with one bad entry, or with one channel of one value."""
    x = normal(20, 3, 4, 4)
    if channel is None:
        x[13, 1, 2, 2] = value
    else:
        x[:, channel] = value
    return x


GOOD = normal(20, 3, 4, 4, seed=9)
REFUSED = {
    "counts differ": ((GOOD, GOOD[:19]), {}, "x has 20 images and target 19"),
    "NaN in x": ((spoiled(math.nan), GOOD), {}, "x holds NaN or infinity"),
    "infinity in target": ((GOOD, spoiled(math.inf)), {}, "target holds NaN or infinity"),
    "one image": ((GOOD[:1], GOOD[:1]), {}, "the number of images is 1; .* need 2"),
    "no image": ((GOOD[:0], GOOD[:0]), {}, "the number of images is 0; .* need 2"),
    "1 x 1 maps": ((GOOD[..., :1, :1],) * 2, {}, '1 x 1; use norm="dataset"'),
    "1 x 1 maps of x": ((GOOD[..., :1, :1], GOOD), {}, 'maps of x are 1 x 1; use norm="dataset"'),
    "constant target": ((GOOD, torch.full_like(GOOD, 2)), {}, "every channel of target is const"),
    "constant channel": ((spoiled(3.0, channel=1), GOOD), {}, r"channels \[1\] of x are constant"),
    "vectors": ((GOOD[..., 0], GOOD), {}, r"x has shape \(20, 3, 4\); allowed: \(N, C, H, W\)"),
    "flat target": ((GOOD, GOOD[..., 0]), {}, r"target has shape \(20, 3, 4\)"),
    "no channel": ((GOOD[:, :0], GOOD), {}, "none of them 0"),
    "penalty below 0": ((GOOD, GOOD), {"penalty": -0.1}, "penalty is -0.1; allowed: 0 or more"),
    "penalty NaN": ((GOOD, GOOD), {"penalty": math.nan}, "penalty is nan"),
    "unknown solver": ((GOOD, GOOD), {"solver": "autors"}, "Did you mean 'authors'"),
    "unknown norm": ((GOOD, GOOD), {"norm": "images"}, "Did you mean 'image'"),
    "order": ((GOOD, GOOD), {"order": 6}, "order is 6; allowed: whole numbers from 0 to 5"),
    "kernel": ((GOOD, GOOD), {"kernel_size": 5}, "kernel_size is 5; allowed: 1 or 3"),
    "epochs": ((GOOD, GOOD), {"epochs": -1}, "epochs is -1"),
    "batch": ((GOOD, GOOD), {"batch": 1}, "batch 1"),
}


@pytest.mark.parametrize(("pair", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(pair, options, message):
    steps = []
    with pytest.raises(InputError, match=message):
        fit(*pair, progress=lambda *call: steps.append(call), **options)
    assert not steps  # before any work


def test_a_dead_channel_is_not_refused():
    """A channel that is always 0 is common in trained networks, and is divided by 1e-5."""
    assert fit(spoiled(0.0, channel=1), GOOD, order=1, epochs=1).residual < 1.01


def test_evaluation_refuses_features_of_other_networks():
    fitted = fit(GOOD, GOOD, order=0)
    with pytest.raises(InputError, match="x has 2 channels .* made for 3 and 3"):
        fitted.evaluate(GOOD[:, :2], GOOD)
    with pytest.raises(InputError, match="target holds NaN"):
        fitted.evaluate(GOOD, spoiled(math.nan))
