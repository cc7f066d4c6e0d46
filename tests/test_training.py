"""Training: the same for a seed, whether or not it was stopped, killed or interrupted."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import nn

from kclib import __main__ as command
from kclib import networks
from kclib.book import plans, profiles
from kclib.book.members import Member
from kclib.book.store import Store
from kclib.errors import InputError
from kclib.training import classifier
from kclib.training.classifier import RECIPES, Recipe, learning_rate, train

# isort: split
from torchvision.transforms import v2  # imports only after kclib

SHORT = Recipe(epochs=3, batch=8, rate=0.02, final_rate=0.0, schedule="one-cycle", augment=True)
#: Recipes that differ in everything that a resumed run has to restore.
SHORT_RECIPES = {
    "augmented": replace(SHORT, nesterov=True, weight_decay=5e-4),
    "plain": replace(SHORT, schedule="log", final_rate=1e-3, augment=False),
    "without momentum": replace(SHORT, momentum=0.0),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Compare bits only where sums are taken in one order: another process may have more threads.

    What a test does to the global generator is undone after it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(before)


def photos(count=25, size=32):
    """Return noisy images of four classes that differ in brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 4
    images = torch.randint(0, 100, (count, 3, size, size), generator=generator)
    return (images + 50 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels


def fresh(architecture="alexnet", **changes):
    """Build a small network with dropout, batch norm, or both."""
    options = {"classes": 4, "width": 0.05, "size": 32, "seed": 1} | changes
    stride = {"alexnet": 2}.get(architecture)
    return networks.build(architecture, stem_stride=stride, **options)


def weights(network):
    state = network.state_dict()
    assert all(value.isfinite().all() for value in state.values())
    return state


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


class Stopped(Exception):
    pass


def stop_in_epoch(number):
    """Return a progress callback that raises in the middle of an epoch."""

    def progress(done, total, text):
        if text.startswith(f"epoch {number} ") and done * SHORT.epochs > (number - 0.5) * total:
            raise Stopped

    return progress


# --- the same for a seed ----------------------------------------------------------------------


def test_a_seed_gives_the_same_weights_again_and_another_one_others():
    results = []
    for seed in (3, 3, 4):
        network = fresh()
        torch.manual_seed(len(results))  # the global generator does not matter
        history = train(network, *photos(), SHORT, seed=seed)
        results.append((weights(network), [epoch["loss"] for epoch in history]))
    assert same(results[0][0], results[1][0]) and results[0][1] == results[1][1]
    assert not same(results[0][0], results[2][0])


def test_training_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    train(fresh(), *photos(), SHORT, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_history_and_progress_tell_what_happened():
    calls = []
    network = fresh()
    recipe = replace(SHORT, epochs=6, augment=False)
    history = train(network, *photos(), recipe, seed=0, progress=lambda *call: calls.append(call))
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(0 <= epoch["accuracy"] <= 1 and epoch["seconds"] >= 0 for epoch in history)
    steps = 6 * 4  # 25 images in four batches of at most 8
    assert [done for done, _, _ in calls] == list(range(1, steps + 1))
    assert {total for _, total, _ in calls} == {steps}
    assert calls[-1][2] == "epoch 6 of 6"
    assert not network.training


class Recorder(nn.Module):
    """A linear classifier that notes how many images it is given."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.counts = []

    def forward(self, x):
        self.counts.append(len(x))
        return self.linear(x.mean((2, 3)))


@pytest.mark.parametrize("count, batch", [(25, 8), (24, 8), (9, 8), (2, 64), (65, 64), (9, 2)])
def test_batches_are_even_and_never_of_one_image(count, batch):
    network = Recorder()
    train(network, *photos(count), replace(SHORT, batch=batch, epochs=1), seed=0)
    assert sum(network.counts) == count
    assert max(network.counts) <= max(batch, 3) and min(network.counts) >= 2
    assert max(network.counts) - min(network.counts) <= 1


# --- stopped, killed, resumed -----------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["alexnet", "resnet18"])
@pytest.mark.parametrize("kind", SHORT_RECIPES)
def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(tmp_path, architecture, kind):
    recipe, checkpoint = SHORT_RECIPES[kind], tmp_path / "checkpoint.safetensors"
    whole = fresh(architecture)
    history = train(whole, *photos(), recipe, seed=3)
    for epoch in (1, 2, 3):  # stopped again and again
        with pytest.raises(Stopped):
            stop = stop_in_epoch(epoch)
            train(
                fresh(architecture), *photos(), recipe, seed=3, checkpoint=checkpoint, progress=stop
            )
        assert checkpoint.exists() == (epoch > 1)
    resumed = fresh(architecture, seed=9)  # its own weights do not matter any more,
    torch.manual_seed(77)  # and the state of the global generator never did
    calls = []
    pieces = train(
        resumed,
        *photos(),
        recipe,
        seed=3,
        checkpoint=checkpoint,
        progress=lambda *call: calls.append(call),
    )
    assert same(weights(whole), weights(resumed))
    for name in ("epoch", "loss", "accuracy"):
        assert [epoch[name] for epoch in pieces] == [epoch[name] for epoch in history]
    assert {text for _, _, text in calls} == {"epoch 3 of 3"}  # two epochs were not done again
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_finished_checkpoint_is_not_trained_again(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    network, again = fresh(), fresh(seed=9)
    history = train(network, *photos(), SHORT, seed=3, checkpoint=checkpoint)

    def progress(*_):
        raise AssertionError("trained again")

    assert history == train(
        again, *photos(), SHORT, seed=3, checkpoint=checkpoint, progress=progress
    )
    assert same(weights(network), weights(again))


MOMENTS = ("training", "before the second checkpoint is renamed", "after the first one is renamed")


def train_until_killed(checkpoint, moment):
    """Train, and send this process SIGKILL at one of the moments."""
    torch.set_num_threads(1)
    replaced = os.replace

    def kill():
        os.kill(os.getpid(), signal.SIGKILL)

    def progress(done, total, _text):
        if moment == MOMENTS[0] and done > total / 2:
            kill()

    def replace_or_die(*paths):
        if moment == MOMENTS[1] and checkpoint.exists():
            kill()
        replaced(*paths)
        if moment == MOMENTS[2]:
            kill()

    os.replace = replace_or_die
    train(fresh(), *photos(), SHORT, seed=3, checkpoint=checkpoint, progress=progress)


def test_a_run_that_was_killed_and_resumed_equals_one_that_was_not(tmp_path):
    whole = fresh()
    train(whole, *photos(), SHORT, seed=3)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["kclib.book.study", "pytest"])
    for moment in MOMENTS:
        checkpoint = tmp_path / moment / "checkpoint.safetensors"
        process = processes.Process(target=train_until_killed, args=(checkpoint, moment))
        process.start()
        process.join(100)
        assert process.exitcode == -signal.SIGKILL
        assert len(saved_history(checkpoint)) == 1
        resumed = fresh()
        train(resumed, *photos(), SHORT, seed=3, checkpoint=checkpoint)
        assert same(weights(whole), weights(resumed)), moment


def saved_history(checkpoint):
    with safe_open(checkpoint, "pt") as file:
        return json.loads(file.metadata()["history"])


@pytest.mark.parametrize("share", [0, 0.0001, 0.05, 0.5, 0.999])
def test_a_truncated_checkpoint_means_to_start_afresh(tmp_path, share):
    checkpoint = tmp_path / "checkpoint.safetensors"
    network, again = fresh(), fresh()
    history = train(network, *photos(), SHORT, seed=3, checkpoint=checkpoint)
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    repeated = train(again, *photos(), SHORT, seed=3, checkpoint=checkpoint)
    assert [epoch["loss"] for epoch in repeated] == [epoch["loss"] for epoch in history]
    assert same(weights(network), weights(again))
    assert len(checkpoint.read_bytes()) >= len(content) - 100  # a whole one again


INTERRUPTED = """
import runpy, signal, sys, time
from kclib.training import classifier

save = classifier._save

def save_and_wait(*given):
    save(*given)
    print("saved", flush=True)
    time.sleep(100)

# Where a shell started the tests in the background, Ctrl-C is switched off.
signal.signal(signal.SIGINT, signal.default_int_handler)
classifier._save = save_and_wait
sys.argv[0] = "kclib"
runpy.run_module("kclib", run_name="__main__", alter_sys=True)
"""
REQUEST = "network --profile smoke alexnet_all_0".split()


def test_ctrl_c_keeps_the_finished_epochs_and_the_next_run_goes_on(tmp_path, monkeypatch, capsys):
    for name, value in {
        "KC_STORE": str(tmp_path),
        "KC_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }.items():
        monkeypatch.setenv(name, value)
    # The command itself, made to pause after its first epoch so that the signal comes in time.
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *REQUEST],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "saved\n", process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == (
        "interrupted: what was finished is saved; run the same command again to go on."
    )
    assert "Traceback" not in errors and "KeyboardInterrupt" not in errors
    (checkpoint,) = tmp_path.rglob("checkpoint.safetensors")
    (first,) = saved_history(checkpoint)

    monkeypatch.setattr(sys, "argv", ["kclib", *REQUEST])
    assert command.main() == 0
    assert capsys.readouterr().out.startswith("alexnet_all_0: accuracy ")
    member = Member.parse("alexnet_all_0")
    plan = plans.network(profiles.load("smoke"), member)
    _, record = Store(tmp_path).load(Store(tmp_path).path(plan.kind, plan.key))
    assert len(record["history"]) == 2
    assert record["history"][0] == first  # even its seconds: that epoch was not trained again
    assert not checkpoint.parent.exists()


# --- learning rates ---------------------------------------------------------------------------


def test_the_authors_rate_falls_on_a_log_scale_from_epoch_to_epoch():
    recipe, per_epoch = RECIPES["authors"], 47
    steps = per_epoch * recipe.epochs
    rates = torch.tensor(
        [learning_rate(recipe, step, steps) for step in range(steps)], dtype=torch.float64
    ).view(recipe.epochs, per_epoch)
    assert (rates == rates[:, :1]).all()  # one rate an epoch
    assert torch.allclose(rates[:, 0], torch.logspace(-2, -4, 300, dtype=torch.float64))
    assert rates[0, 0] == 1e-2


@pytest.mark.parametrize("steps", [3, 8, 1000])
def test_one_cycle_rises_for_a_quarter_then_falls(steps):
    recipe = replace(SHORT, rate=0.05, final_rate=0.001)
    rates = [learning_rate(recipe, step, steps) for step in range(steps)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.05)
    assert abs(top - steps / 4) <= 1
    assert all(a < b for a, b in zip(rates[:top], rates[1 : top + 1], strict=True))
    rest = rates[top:]
    assert all(a >= b for a, b in zip(rest[:-1], rest[1:], strict=True))
    assert all(0.001 <= rate for rate in rates[top:])
    if steps == 1000:
        assert rates[-1] == pytest.approx(0.001, abs=1e-5)
        rise = [b - a for a, b in zip(rates[:top], rates[1:top], strict=False)]
        assert max(rise) == pytest.approx(min(rise))  # on a straight line


@pytest.mark.parametrize("schedule", ["log", "one-cycle"])
def test_a_run_of_a_single_step_has_the_highest_rate(schedule):
    recipe = replace(SHORT, epochs=1, schedule=schedule, final_rate=1e-4)
    assert learning_rate(recipe, 0, 1) == recipe.rate


def test_the_recipes_are_those_of_the_paper_and_of_the_book():
    authors = RECIPES["authors"]
    assert (authors.epochs, authors.batch, authors.momentum) == (300, 128, 0.9)
    assert (authors.weight_decay, authors.nesterov, authors.augment) == (1e-4, False, False)


# --- images -----------------------------------------------------------------------------------


def test_normalisation_is_that_of_imagenet():
    images, _ = photos(4)
    expected = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )(images)
    assert torch.allclose(classifier.normalised(images), expected, atol=1e-5)


def test_augmentation_mirrors_and_shifts_by_up_to_an_eighth():
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    padded = nn.functional.pad(image[None], (2,) * 4, mode="replicate")[0]
    allowed = [padded[:, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
    allowed += [crop.flip(2) for crop in allowed]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        batch = classifier._augmented(image.expand(400, 3, 16, 16))
    found = {[torch.equal(one, other) for other in allowed].index(True) for one in batch.unbind()}
    assert len(found) == len(allowed)  # all of them occur, and no other


def test_predictions_do_not_depend_on_the_batch():
    images, labels = photos()
    network = fresh("resnet18", seed=5).train()
    predicted = classifier.predict(network, images, batch=25)
    assert not network.training and predicted.dtype == torch.int64
    assert torch.equal(classifier.predict(network, images, batch=4), predicted)
    assert classifier.accuracy(network, images, labels) == pytest.approx(
        (predicted == labels).float().mean()
    )
    assert classifier.accuracy(network, images, predicted) == 1


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "images, labels, message",
    [(5, 4, "5 images but 4 labels"), (0, 0, "0 images; "), (1, 1, "1 images; training needs 2")],
)
def test_wrong_counts_are_refused(images, labels, message):
    before = fresh()
    with pytest.raises(InputError, match=message):
        train(before, photos(images)[0], photos(labels)[1], SHORT, seed=0)
    assert same(weights(before), weights(fresh()))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(epochs=0), "epochs is 0; allowed: 1 or more"),
        (dict(batch=1), "batch is 1 images; allowed: 2 or more"),
        (dict(schedule="onecycle"), "no schedule 'onecycle'. Did you mean 'one-cycle'"),
        (dict(rate=-0.1), "rate is -0.1; allowed: above 0"),
        (dict(final_rate=0.1), "final_rate is 0.1; allowed: 0 or more up to the rate, 0.02"),
        (dict(schedule="log"), "final_rate is 0.0; allowed: above 0, with schedule log"),
        (dict(momentum=1.0), "momentum is 1.0; allowed: 0 to below 1"),
        (dict(momentum=0.0, nesterov=True), "above 0 with nesterov"),
        (dict(weight_decay=-1.0), "weight_decay is -1.0; allowed: 0 or more"),
    ],
)
def test_bad_recipes_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        replace(SHORT, **change)


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 1, 4, 2], "from 0 to 4; allowed: 0 to 3"),
        ([0, -1, 3, 2], "from -1 to 3; allowed: 0 to 3"),
    ],
)
def test_labels_that_the_network_does_not_have_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        train(fresh(), photos(4)[0], torch.tensor(labels), SHORT, seed=0)


def test_a_negative_seed_is_refused():
    with pytest.raises(InputError, match="seed is -1; allowed: 0 or more"):
        train(fresh(), *photos(), SHORT, seed=-1)


def test_a_run_that_diverges_says_so_and_keeps_no_broken_state(tmp_path):
    checkpoint = tmp_path / "checkpoint.safetensors"
    wild = replace(SHORT, rate=1e30)
    with pytest.raises(InputError, match="diverged in epoch 1: the loss is .* Lower the rate"):
        train(fresh(), *photos(), wild, seed=0, checkpoint=checkpoint)
    assert not checkpoint.exists()


@pytest.mark.parametrize("change", [dict(seed=1), dict(recipe=replace(SHORT, rate=0.01))])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change):
    checkpoint = tmp_path / "checkpoint.safetensors"
    train(fresh(), *photos(), SHORT, seed=0, checkpoint=checkpoint)
    other = {"recipe": SHORT, "seed": 0} | change
    with pytest.raises(InputError, match="is of another run"):
        train(fresh(), *photos(), other["recipe"], seed=other["seed"], checkpoint=checkpoint)
