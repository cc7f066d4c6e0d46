"""Born-again networks: what the loss is made of, and that the teacher stays as it is."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from kclib import networks
from kclib.errors import InputError
from kclib.training import classifier
from kclib.training.classifier import Recipe, train
from kclib.training.distillation import born_again_loss

RECIPE = Recipe(epochs=2, batch=8, rate=0.02, final_rate=0.0, schedule="one-cycle", augment=True)
seeds = st.integers(0, 10**6)


@pytest.fixture(autouse=True)
def one_thread():
    """Compare bits only where sums are taken in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(before)


class Answers(nn.Module):
    """A teacher that gives the same logits (N, C) whatever it sees."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, _batch):
        return self.logits.clone()


def drawn(seed, classes=5, count=7):
    """Return a batch, a network's outputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    return torch.zeros(count, 3, 8, 8), logits, labels


def certain(labels, classes=5):
    return Answers(1e4 * F.one_hot(labels, classes).float())


@given(seeds, st.floats(0, 3))
def test_a_teacher_certain_of_the_labels_repeats_them(seed, weight):
    batch, logits, labels = drawn(seed)
    loss = born_again_loss(certain(labels), weight=weight)(batch, logits, labels)
    torch.testing.assert_close(loss, (1 + weight) * F.cross_entropy(logits, labels))
    default = born_again_loss(certain(labels))(batch, logits, labels)
    torch.testing.assert_close(default, 1.5 * F.cross_entropy(logits, labels))


@given(seeds)
def test_without_weight_the_teacher_does_not_count(seed):
    batch, logits, labels = drawn(seed)
    teacher = Answers(torch.randn(7, 5))
    loss = born_again_loss(teacher, weight=0)(batch, logits, labels)
    assert torch.equal(loss, F.cross_entropy(logits, labels))


@given(seeds, st.floats(0.2, 5))
def test_temperature_divides_both_sides_and_leaves_the_labels_alone(seed, temperature):
    batch, logits, labels = drawn(seed)
    answers = torch.randn(7, 5)
    found = born_again_loss(Answers(answers), temperature=temperature)(batch, logits, labels)
    wanted = (answers / temperature).softmax(1)
    soft = -(wanted * (logits / temperature).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(found, F.cross_entropy(logits, labels) + 0.5 * soft)


@given(seeds)
def test_of_all_students_the_teacher_s_own_answers_cost_least(seed):
    batch, logits, labels = drawn(seed)
    answers = torch.randn(7, 5)
    loss_of = born_again_loss(Answers(answers))
    soft = [loss_of(batch, z, labels) - F.cross_entropy(z, labels) for z in (answers, logits)]
    assert soft[0] <= soft[1]
    logits.requires_grad_()
    teacher = Answers(answers)
    born_again_loss(teacher)(batch, logits, labels).backward()
    assert logits.grad.abs().max() > 0 and teacher.logits.grad is None


def fresh(seed, classes=4):
    """Build a small network with dropout and batch normalisation, whose mode matters."""
    return networks.build(
        "vgg16", classes=classes, width=0.0625, size=32, stem_stride=1, dropout=0.5, seed=seed
    )


def photos(count=16):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (count, 3, 32, 32), generator=generator).to(torch.uint8)
    return images, torch.arange(count) % 4


def trained(**options):
    network = fresh(2)
    history = train(network, *photos(), RECIPE, seed=0, **options)
    return network.state_dict(), [epoch["loss"] for epoch in history]


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_training_leaves_the_teacher_as_it_is():
    teacher = fresh(1).train()
    before = copy.deepcopy(teacher.state_dict())
    born, _ = trained(loss_of=born_again_loss(teacher))
    assert same(before, teacher.state_dict())  # its running means too
    assert not any(module.training for module in teacher.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not same(born, trained()[0])


def test_a_weight_of_zero_trains_as_without_a_teacher():
    plain, losses = trained()
    born, others = trained(loss_of=born_again_loss(fresh(1), weight=0.0))
    assert same(plain, born) and losses == others


def test_the_teacher_sees_the_images_that_the_student_sees():
    seen = []

    class Watching(nn.Module):
        def forward(self, batch):
            seen.append(batch)
            return torch.zeros(len(batch), 4)

    student = fresh(2)
    shown = []
    student.register_forward_pre_hook(lambda _module, inputs: shown.append(inputs[0]))
    train(student, *photos(), RECIPE, seed=0, loss_of=born_again_loss(Watching()))
    assert len(seen) == len(shown) == 4  # two epochs of two batches
    assert all(torch.equal(one, other) for one, other in zip(seen, shown, strict=True))
    images = classifier.normalised(photos()[0])
    assert not any(torch.equal(seen[0][0], image) for image in images)  # augmented


def test_a_teacher_of_other_classes_is_refused():
    with pytest.raises(InputError, match="the teacher knows 6 classes and the network 4"):
        trained(loss_of=born_again_loss(fresh(1, classes=6)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -0.5}, "weight is -0.5; allowed: 0 or more"),
        ({"temperature": 0}, "temperature is 0; allowed: above 0"),
        ({"temperature": -1.0}, "temperature is -1.0; allowed: above 0"),
    ],
)
def test_weight_and_temperature_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        born_again_loss(fresh(1), **options)
