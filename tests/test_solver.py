"""Fitting a disentangler: what any fit must satisfy, and what is refused."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from kclib import Fit, fit
from kclib.disentangler import NORMS, StagewiseDisentangler
from kclib.errors import DegenerateFeatures, InputError, LargeFit
from kclib.features import extract, load_mapped
from kclib.measures import Evaluation, variance
from kclib.networks import build
from kclib.normal_equations import RIDGES, NormalEquations
from kclib.solver import PASSES, SOLVERS, cost


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
    fit(*features, order=1, epochs=3, batch=64, progress=lambda *call: seen.append(call))
    assert [done for done, _, _ in seen] == list(range(10))  # 3 passes over 175 images in 3 batches
    assert {total for _, total, _ in seen} == {9}
    assert seen[-1][2] == "pass 3 of 3"


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
def test_order_0_is_a_least_squares_solution_with_a_ridge(features, kernel_size, norm):
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
    weight = fitted.disentangler.linears[0].weight.flatten(1).T.double()
    products, size = rows.T @ rows, rows.square().sum(0)
    size = size.clamp_min(size.median())
    solutions = [
        torch.linalg.solve(products + (ridge * size).diag(), rows.T @ wanted) for ridge in RIDGES
    ]
    distances = [(weight - solution).abs().max() for solution in solutions]
    assert min(distances) < 2e-5 and max(distances) > 1e-2
    solution = solutions[distances.index(min(distances))]
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
        with pytest.warns(DegenerateFeatures):
            assert fit(with_constant, target, order=0, norm="dataset").residual < 1e-6


def test_a_channel_with_a_large_mean_disturbs_nothing():
    x = normal(100, 5, 5, 5)
    target = x[:, [2, 0, 3, 1]]
    x[:, 4] = 1000 + x[:, 4]
    assert fit(x, target, order=0, norm="dataset").residual < 1e-6


def test_copied_channels_disturb_nothing():
    x = normal(100, 3, 5, 5)
    doubled = torch.cat([x, x, torch.zeros(100, 1, 5, 5)], 1)
    with pytest.warns(DegenerateFeatures):
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
    """On training images: the default epochs against 200, with 1 % of slack.

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


# When a fit is done


def test_a_fit_stops_when_images_held_out_gain_no_more(features):
    fitted = fit(*features, order=1, norm="dataset")
    assert fitted.converged and PASSES[0] <= fitted.passes[0] < PASSES[1]
    assert len(fitted.loss) == fitted.passes[0]
    stages = fit(*features, order=2, norm="dataset", solver="lowest_first")
    assert len(stages.passes) == 2 and sum(stages.passes) == len(stages.loss)
    assert fit(*features, order=0).passes == []


def test_a_number_of_passes_is_kept_to_and_is_no_convergence(features):
    fitted = fit(*features, order=1, epochs=2)
    assert fitted.passes == [2] and not fitted.converged
    assert fit(*features, order=1, solver="authors", epochs=2).passes == [2]


def test_a_fit_that_may_not_go_on_says_so(features, monkeypatch):
    monkeypatch.setattr("kclib.solver.PASSES", (1, 2))
    monkeypatch.setattr("kclib.descent.TOLERANCE", 0.0)
    fitted = fit(*features, order=1, norm="dataset")
    assert fitted.passes == [2] and not fitted.converged


def test_more_passes_than_help_do_not_harm(features):
    """The best weights on images held out are kept: noise that is fitted late is not."""
    x, target = normal(60, 8, 4, 4), normal(60, 8, 4, 4, seed=1)
    short, long = (fit(x, target, order=2, norm="dataset", epochs=n) for n in (1, 40))
    other = normal(200, 8, 4, 4, seed=2), normal(200, 8, 4, 4, seed=3)
    assert long.evaluate(*other).residual < short.evaluate(*other).residual + 0.01


def test_progress_is_told_before_anything_heavy(features, monkeypatch):
    told = []
    monkeypatch.setattr(
        "kclib.descent.NormalEquations",
        lambda *_: pytest.fail() if not told else NormalEquations(3),
    )
    fit(*features, order=1, epochs=1, progress=lambda *call: told.append(call))
    assert told[0][0] == 0


# What a fit costs


def test_a_line_of_tokens_takes_a_kernel_of_1():
    x, target = normal(40, 6, 9, 1), normal(40, 5, 9, 1, seed=1)
    fitted = fit(x, target, order=1, epochs=1)
    assert fitted.disentangler.linears[0].kernel_size == (1, 1)
    maps = normal(40, 6, 3, 3), normal(40, 5, 3, 3, seed=1)
    assert fit(*maps, order=0).disentangler.linears[0].kernel_size == (3, 3)
    with pytest.warns(DegenerateFeatures, match="see only padding on maps of 9 x 1"):
        fit(x, target, order=1, epochs=1, kernel_size=3)


def test_cost_grows_with_what_it_is_made_of():
    least = cost((64, 64), 100, (6, 6), order=1, kernel_size=1)
    for other in (
        cost((128, 64), 100, (6, 6), order=1, kernel_size=1),
        cost((64, 64), 100, (6, 6), order=1, kernel_size=3),
        cost((64, 64), 100, (12, 12), order=1, kernel_size=1),
    ):
        assert other.seconds > least.seconds and other.memory > least.memory
    assert cost((64, 64), 1000, (6, 6)).seconds > cost((64, 64), 100, (6, 6)).seconds


def test_a_large_fit_is_announced(features, monkeypatch):
    monkeypatch.setattr("kclib.solver._LARGE", (1, 1e9))
    with pytest.warns(LargeFit, match="will take about 0 GiB"):
        fit(*features, order=0)


# Degenerate scales, means and kinds


@pytest.mark.parametrize("solver", ["joint", "lowest_first"])
@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_any_scale_of_the_target_gives_the_same_shares(features, solver, scale):
    x, target = features
    options = {"order": 1, "solver": solver, "penalty": 0.0, "epochs": 2}
    plain, scaled = (fit(x, target * s, **options) for s in (1.0, scale))
    assert scaled.residual == pytest.approx(plain.residual, rel=0.01)


def test_a_penalty_beside_a_tiny_target_shuts_the_paths(features):
    x, target = features
    free, held = (fit(x, target * 1e-20, order=1, epochs=20, penalty=p) for p in (0.0, 0.1))
    assert held.disentangler.p.item() < free.disentangler.p.item() - 0.05 and held.residual < 1


@pytest.mark.parametrize("scale", [1e-20, 1e20, 1e-40])
def test_a_scale_of_x_whose_squares_do_not_fit_is_refused(features, scale):
    x, target = features
    with pytest.raises(InputError, match="root mean square of x is .*; allowed: 1e-15 to 1e"):
        fit(x * scale, target)


def test_a_subnormal_target_is_refused(features):
    with pytest.raises(InputError, match="root mean square of target is .*; allowed"):
        fit(features[0], features[1] * 1e-40)


def test_scales_far_apart_disturb_nothing():
    x = normal(100, 4, 5, 5)
    target = x[:, [1, 0, 3]]
    plain = fit(x, target, order=0, norm="dataset").residual
    x = x * torch.tensor([1e12, 1.0, 1e-12, 1e12]).view(-1, 1, 1)
    assert plain < 1e-6
    assert fit(x, target, order=0, norm="dataset").residual < 1e-6


def test_fewer_images_than_channels():
    x, target = normal(6, 16, 5, 5), normal(6, 12, 5, 5, seed=1)
    with pytest.warns(DegenerateFeatures, match="not unique"):
        fitted = fit(x, target, order=2, norm="dataset")
    other = fitted.evaluate(normal(50, 16, 5, 5, seed=2), normal(50, 12, 5, 5, seed=3))
    assert other.residual < 1.3  # what is fitted of noise is held down


@pytest.mark.parametrize("solver", ["joint", "lowest_first"])
@pytest.mark.filterwarnings("ignore::kclib.errors.DegenerateFeatures")
def test_two_images_suffice(solver):
    fitted = fit(normal(2, 3, 6, 6), normal(2, 3, 6, 6, seed=1), order=2, solver=solver)
    assert all(math.isfinite(share) for share in (*fitted.explained, fitted.residual))


def test_a_large_mean_of_the_target_does_not_matter(features):
    x, target = features
    for norm in NORMS:
        options = {"order": 1, "norm": norm, "epochs": 3}
        plain = fit(x, target - target.mean((0, 2, 3), keepdim=True), **options)
        with pytest.warns(DegenerateFeatures, match=r"means hold 9\d.\d% of its mean square"):
            shifted = fit(x, target + 20, **options)
        assert shifted.residual == pytest.approx(plain.residual, rel=0.02)
        options |= {"solver": "lowest_first"}
        plain, shifted = fit(x, target, **options), fit(x, target + 20, **options)
        assert shifted.residual == pytest.approx(plain.residual, rel=0.02)
        rest = target + 20 - shifted.disentangler(x).detach()
        assert rest.mean().abs() < 0.05


@pytest.mark.parametrize("solver", ["joint", "lowest_first"])
def test_a_target_of_which_one_channel_varies(features, solver):
    x, target = features
    flat = torch.zeros_like(target)
    flat[:, 2] = target[:, 2]
    fitted = fit(x, flat, order=1, solver=solver, epochs=3)
    assert 0 < fitted.residual < 1


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.int64])
def test_whole_numbers_are_read_as_such(kind):
    x = (10 * normal(60, 3, 5, 5)).round().clamp(0, 100)
    target = (3 * x[:, :2]).clamp(0, 255)
    plain = fit(x, target, order=1, norm="dataset", epochs=1)
    assert fit(x.to(kind), target.to(kind), order=1, norm="dataset", epochs=1).residual == (
        pytest.approx(plain.residual, rel=1e-6)
    )


def test_one_blank_image_is_named():
    x = normal(400, 4, 5, 5)
    x[17, 2] = 3.0
    with pytest.raises(InputError, match="channel 2 of image 17 of x is constant and not 0, and"):
        fit(x, normal(400, 4, 5, 5, seed=1))
    x[301] = 1.0
    with pytest.raises(InputError, match="image 17 of x is constant and not 0, and 4 more like it"):
        fit(x, normal(400, 4, 5, 5, seed=1))
    x[17, 2] = x[301] = 0.0  # a dead channel is nothing special
    fit(x, normal(400, 4, 5, 5, seed=1), order=0)


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
    "rate": ((GOOD, GOOD), {"rate": 0.0}, "rate is 0.0; allowed: above 0"),
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


# Orders told apart


@pytest.fixture(scope="module")
def stagewise(features):
    return fit(*features, order=2, solver="lowest_first", norm="dataset", epochs=3)


@torch.no_grad()
def test_drops_and_residual_are_one(features, stagewise):
    x, target = features
    assert isinstance(stagewise.disentangler, StagewiseDisentangler)
    assert all(share > 0 for share in stagewise.explained)
    assert sum(stagewise.explained) + stagewise.residual == pytest.approx(1, abs=1e-9)
    parts = stagewise.disentangler.decompose(x)
    assert parts.shape == (3, *target.shape)
    torch.testing.assert_close(parts.sum(0), stagewise.disentangler(x))
    whole = variance(target)
    left = target - parts.cumsum(0)
    for k, drop in enumerate(stagewise.explained):
        before = left[k - 1] if k else target
        assert drop == pytest.approx((variance(before) - variance(left[k])) / whole, abs=1e-5)
    held_out = stagewise.evaluate(normal(80, 8, 6, 6, seed=7), normal(80, 8, 6, 6, seed=8))
    assert sum(held_out.explained) + held_out.residual == pytest.approx(1, abs=1e-9)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(["noise", "linear", "rectified", "copied channel"]),
    st.sampled_from(NORMS),
    st.integers(0, 1000),
)
@pytest.mark.filterwarnings("ignore::kclib.errors.DegenerateFeatures")
def test_an_order_more_leaves_no_more_and_the_lower_ones_as_they_were(kind, norm, seed):
    x, kernels = normal(60, 4, 6, 6, seed=seed), normal(2, 4, 4, 3, 3, seed=seed + 1) / 6
    target = 0.3 * normal(60, 4, 6, 6, seed=seed + 2)
    if kind == "copied channel":
        x[:, 3] = x[:, 0]
    if kind != "noise":
        inner = x if kind == "linear" else x + F.conv2d(x, kernels[1], padding=1).relu()
        target = target + F.conv2d(inner, kernels[0], padding=1)
    options = {"solver": "lowest_first", "norm": norm, "seed": seed, "epochs": 2}
    before = fit(x, target, order=0, **options)
    for order in (1, 2, 3):
        fitted = fit(x, target, order=order, **options)
        assert fitted.residual <= before.residual + 1e-9
        assert fitted.explained[:order] == pytest.approx(before.explained, abs=1e-9)
        before = fitted


def test_an_order_0_fit_is_the_best_linear_map_with_a_constant(features):
    x, target = features
    shifted = fit(x, target + 5, order=0, solver="lowest_first", norm="dataset")
    plain = fit(x, target, order=0, solver="lowest_first", norm="dataset")
    assert shifted.residual == pytest.approx(plain.residual, rel=1e-5)
    assert plain.residual <= fit(x, target, order=0, norm="dataset").residual
    rest = target + 5 - shifted.disentangler(x).detach()
    assert rest.mean((0, 2, 3)).abs().max() < 1e-4


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(["joint", "lowest_first"]), st.floats(-3, 3))
def test_the_scale_of_the_target_scales_the_parts_and_leaves_the_shares(solver, exponent):
    x, target = normal(60, 4, 5, 5), normal(60, 4, 5, 5, seed=1)
    target = target + x.relu()
    options = {"order": 1, "solver": solver, "epochs": 2, "penalty": 0.0}
    plain, scaled = (fit(x, target * s, **options) for s in (1.0, 10.0**exponent))
    assert scaled.residual == pytest.approx(plain.residual, rel=0.01)
    assert scaled.explained == pytest.approx(plain.explained, rel=0.02, abs=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["permuted", "rotated", "mixed"]), st.integers(0, 1000))
def test_the_same_features_in_other_coordinates_are_the_same_knowledge(kind, seed):
    x = normal(80, 6, 5, 5, seed=seed) * (1 + torch.arange(6).view(-1, 1, 1))
    rotation = torch.linalg.qr(normal(6, 6, seed=seed + 1))[0]
    stretch = torch.linspace(0.5, 2, 6).diag()
    mixing = {
        "permuted": torch.eye(6)[torch.randperm(6, generator=torch.Generator().manual_seed(seed))],
        "rotated": rotation,
        "mixed": rotation @ stretch @ torch.linalg.qr(normal(6, 6, seed=seed + 2))[0],
    }[kind]
    target = torch.einsum("oc,nchw->nohw", mixing, x)
    for solver in ("joint", "lowest_first"):
        assert fit(x, target, order=0, norm="dataset", solver=solver).residual < 1e-6


@pytest.mark.parametrize("solver", ["joint", "lowest_first"])
def test_sums_do_not_depend_on_how_images_are_grouped(features, monkeypatch, solver):
    whole = fit(*features, order=0, solver=solver)
    monkeypatch.setattr("kclib.descent.CHUNK", 7)
    assert fit(*features, order=0, solver=solver).residual == pytest.approx(whole.residual)


@pytest.mark.parametrize("solver", ["joint", "lowest_first"])
@pytest.mark.parametrize(("order", "tolerance"), [(0, 1e-5), (2, 0.01)])
def test_threads_change_rounding_only(features, solver, order, tolerance):
    """Descent in bfloat16 amplifies rounding: 1 % of a residual, where closed forms agree."""
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(fit(*features, order=order, solver=solver, epochs=3).residual)
    torch.set_num_threads(before)
    assert found[1] == pytest.approx(found[0], rel=tolerance)


@pytest.mark.parametrize("solver", ["joint", "lowest_first"])
def test_double_precision_shows_rounding_only(features, solver):
    x, target = features
    single = fit(x, target, order=0, solver=solver, norm="dataset")
    double = fit(x.double(), target.double(), order=0, solver=solver, norm="dataset")
    assert next(double.disentangler.parameters()).dtype == torch.float64
    assert single.residual == pytest.approx(double.residual, rel=1e-5)


DEGENERATE = {
    "constant channel": normal(60, 3, 5, 5) * torch.tensor([1.0, 0, 1]).view(-1, 1, 1) + 2,
    "duplicated channel": normal(60, 3, 5, 5)[:, [0, 1, 1]],
    "fewer positions than weights": normal(4, 3, 2, 2),
    "rank-deficient": torch.einsum("oc,nchw->nohw", normal(3, 2), normal(60, 2, 5, 5, seed=5)),
}


@pytest.mark.parametrize("solver", ["joint", "lowest_first"])
@pytest.mark.parametrize("order", [0, 2])
@pytest.mark.parametrize("x", DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_features_give_a_finite_answer_and_a_warning(x, order, solver):
    target = normal(len(x), 2, *x.shape[2:], seed=3)
    with pytest.warns(DegenerateFeatures, match="not unique"):
        fitted = fit(x, target, order=order, solver=solver, norm="dataset", epochs=2)
    assert all(math.isfinite(share) for share in (*fitted.explained, fitted.residual))
    assert all(p.isfinite().all() for p in fitted.disentangler.parameters())


STREAMING = """
import resource, sys
import numpy as np, torch
torch.set_num_threads(1)
from kclib import fit
def mapped(path):
    return torch.from_numpy(np.memmap(path, np.float32, "r", shape=(16384, 16, 16, 16)))
fit(torch.randn(300, 16, 16, 16), torch.randn(300, 16, 16, 16), order=0)  # buffers of all kinds
[held] = [int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmData")]
limit = held * 1024 + 2**27
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
print(fit(mapped(sys.argv[1]), mapped(sys.argv[2]), order=0, norm="dataset").residual)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_features_larger_than_memory_are_streamed(tmp_path):
    """512 MiB of features on disk, and 128 MiB more memory than a small fit takes."""
    block = normal(1024, 16, 16, 16).numpy()
    files = [tmp_path / "x", tmp_path / "target"]
    for path in files:
        with open(path, "wb") as file:
            for _ in range(16):
                file.write(block)
    command = [sys.executable, "-W", "ignore", "-c", STREAMING, *map(str, files)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 1e-6
