"""Distillation: the imitation against a formula written out by hand, and a student that learns from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pictune.models.losses import LOSSES
from pictune.models.preprocess import Preprocess
from pictune.tasks.classification import Classification
from pictune.tasks.distillation import Teacher
from pictune.tasks.task import Tensors

CLASSES, SIDE = ("cat", "dog", "eel"), 8


class Says(nn.Module):
    """Answers what it was told to, picture by picture, and remembers what it saw."""

    def __init__(self, answers: list[list[float]]) -> None:
        super().__init__()
        self.answers = nn.Parameter(torch.tensor(answers))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen = images
        return self.answers[: len(images)]


def teacher_of(network: nn.Module, **changes) -> Teacher:
    given = {"image_size": SIDE, "order": torch.arange(3), "share": 0.5, "temperature": 1.0}
    return Teacher(network, **{**given, **changes})


def pictures(count: int, *, side: int = SIDE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp((value - max(row)) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def slow_divergence(said: list[list[float]], taught: list[list[float]], temperature: float) -> float:
    """Hinton et al. 2015: the mean over pictures of KL(teacher, student), both softened, times T squared."""
    total = 0.0
    for ours, theirs in zip(said, taught, strict=True):
        p, q = softmax(theirs, temperature), softmax(ours, temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(said)


def slow_binary_divergence(said: list[list[float]], taught: list[list[float]], temperature: float) -> float:
    """The same for one question a class, the mean over pictures and classes."""
    terms = []
    for ours, theirs in zip(said, taught, strict=True):
        for our, their in zip(ours, theirs, strict=True):
            p, q = 1 / (1 + math.exp(-their / temperature)), 1 / (1 + math.exp(-our / temperature))
            terms.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    return temperature**2 * sum(terms) / len(terms)


rows = st.lists(st.lists(st.floats(-6, 6, width=32), min_size=3, max_size=3), min_size=1, max_size=4)


# ---------------------------------------------------------------- the formula


@settings(max_examples=40, deadline=None)
@given(taught=rows, seed=st.integers(0, 99), temperature=st.sampled_from([1.0, 2.0, 5.0]), many=st.booleans())
def test_the_imitation_is_the_formula(taught, seed, temperature, many):
    said = (4 * torch.randn(len(taught), 3, generator=torch.Generator().manual_seed(seed))).requires_grad_()
    teacher = teacher_of(Says(taught), temperature=temperature)
    found = teacher.imitation(said, pictures(len(taught)), multilabel=many)
    slow = slow_binary_divergence if many else slow_divergence
    assert float(found.detach()) == pytest.approx(
        slow(said.tolist(), taught, temperature), abs=2e-5, rel=2e-4
    )
    assert float(found.detach()) >= -1e-6


@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_who_says_the_same_is_as_near_as_can_be(many, temperature):
    answers = [[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]]
    teacher = teacher_of(Says(answers), temperature=temperature)
    said = torch.tensor(answers, requires_grad=True)
    imitation = teacher.imitation(said, pictures(2), multilabel=many)
    imitation.backward()
    assert float(imitation.detach()) == pytest.approx(0, abs=1e-6)
    assert said.grad.abs().max() < 1e-6
    other = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 0.0]])
    assert teacher.imitation(other, pictures(2), multilabel=many) > 1e-3


def test_one_class_an_image_knows_no_common_shift_and_many_labels_do():
    answers = [[1.0, -2.0, 0.5]]
    teacher = teacher_of(Says(answers))
    shifted = torch.tensor(answers) + 2
    assert teacher.imitation(shifted, pictures(1), multilabel=False) == pytest.approx(0, abs=1e-6)
    assert teacher.imitation(shifted, pictures(1), multilabel=True) > 0.1


def test_the_temperature_softens_both_and_keeps_the_size_of_the_gradient():
    answers, said = [[8.0, 0.0, -4.0]], [[0.0, 4.0, 0.0]]
    values, sizes = [], []
    for temperature in (1.0, 4.0, 100.0, 200.0):
        ours = torch.tensor(said, requires_grad=True)
        imitation = teacher_of(Says(answers), temperature=temperature).imitation(
            ours, pictures(1), multilabel=False
        )
        imitation.backward()
        values.append(float(imitation.detach()))
        sizes.append(float(ours.grad.norm()))
    assert len({round(value, 3) for value in values}) == 4
    assert sizes[2] == pytest.approx(sizes[3], rel=0.02), "T squared keeps it from vanishing"
    # Very hot, it is half the mean squared distance of centred answers (Hinton et al. 2015, section 2.1).
    far = torch.tensor(said) - torch.tensor(answers)
    assert values[3] == pytest.approx(float((far - far.mean()).square().mean() / 2), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_answers_are_compared_in_full(dtype):
    teacher = teacher_of(Says([[1.0, -2.0, 0.5]]).to(dtype))
    said = torch.tensor([[0.5, 0.25, -1.0]], dtype=dtype)
    found = teacher.imitation(said, pictures(1), multilabel=False)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(slow_divergence(said.tolist(), [[1.0, -2.0, 0.5]], 1.0), rel=1e-4)


# ---------------------------------------------------------------- what the teacher sees and knows


@pytest.mark.parametrize("many", [True, False])
def test_classes_are_matched_by_the_given_order(many):
    """The teacher knows five classes in its own order; ours are its fourth, first and third."""
    taught = [[1.0, 9.0, -1.0, 2.0, 9.0], [0.0, -9.0, 1.0, -3.0, 9.0]]
    teacher = teacher_of(Says(taught), order=torch.tensor([3, 0, 2]))
    ours = [[2.0, 1.0, -1.0], [-3.0, 0.0, 1.0]]
    same = teacher.imitation(torch.tensor(ours), pictures(2), multilabel=many)
    assert float(same) == pytest.approx(0, abs=1e-6)
    mistaken = teacher.imitation(torch.tensor([row[::-1] for row in ours]), pictures(2), multilabel=many)
    assert mistaken > 0.1


def test_a_teacher_of_the_same_size_sees_the_very_pixels():
    network = Says([[0.0] * 3] * 2)
    images = pictures(2)
    teacher_of(network).imitation(torch.zeros(2, 3), images, multilabel=False)
    assert torch.equal(network.seen, images.permute(0, 3, 1, 2))


@pytest.mark.parametrize("size", [4, 5, 16, 19])
def test_a_teacher_of_another_size_sees_resized_pictures(size):
    network = Says([[0.0] * 3] * 2)
    images = pictures(2)
    teacher_of(network, image_size=size).imitation(torch.zeros(2, 3), images, multilabel=False)
    assert tuple(network.seen.shape) == (2, 3, size, size)
    assert network.seen.min() >= -1e-3
    assert network.seen.max() <= 255.001
    torch.testing.assert_close(
        network.seen.mean((2, 3)), images.float().mean((1, 2)), atol=6.0, rtol=0, msg="as bright as before"
    )
    if size == 4:  # Each pixel is made of its own four and their neighbours, not of one of them.
        blocks = images.permute(0, 3, 1, 2).float().unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
        assert float((network.seen - blocks).abs().mean()) < float((images[:, ::2, ::2].permute(0, 3, 1, 2) - blocks).abs().mean()) / 2  # fmt: skip  # noqa: E501


def test_a_real_teacher_reads_both_sizes_alike():
    """A plain picture of any size has the same answers, through the network's own preprocessing."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    network = nn.Sequential(Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3), body)
    colours = torch.tensor([[200, 30, 90], [10, 220, 60]], dtype=torch.uint8)
    answers = network(colours.view(2, 1, 1, 3).expand(2, SIDE, SIDE, 3)).detach()
    for side in (SIDE, 5, 13):
        images = colours.view(2, 1, 1, 3).expand(2, side, side, 3)
        found = teacher_of(network).imitation(answers, images, multilabel=False)
        assert float(found) == pytest.approx(0, abs=1e-6)
    swapped = answers.flip(0)
    assert teacher_of(network).imitation(swapped, images, multilabel=False) > 1e-3


def test_no_gradient_reaches_the_teacher():
    network = Says([[1.0, 0.0, 0.0]])
    said = torch.zeros(1, 3, requires_grad=True)
    teacher_of(network).imitation(said, pictures(1), multilabel=False).backward()
    assert said.grad.abs().max() > 0.01
    assert network.answers.requires_grad
    assert network.answers.grad is None


# ---------------------------------------------------------------- in the task


def task_of(teacher: Teacher | None, *, many: bool = False) -> Classification:
    loss = LOSSES["binary_cross_entropy" if many else "cross_entropy"].make()
    return Classification(CLASSES, multilabel=many, loss=loss, teacher=teacher)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_share_divides_the_loss_between_truth_and_teacher(share):
    images, targets = pictures(2), torch.eye(3)[[0, 2]]
    student = Says([[0.5, 1.0, -1.0], [2.0, 0.0, 0.0]])
    teacher = teacher_of(Says([[1.0, 0.0, -2.0], [0.0, 0.0, 3.0]]), share=share, temperature=2.0)
    found = task_of(teacher).losses(student, Tensors(images, targets))
    plain = task_of(None).losses(student, Tensors(images, targets))
    assert plain.keys() == {"loss"}
    assert found.keys() == {"loss", "imitation"}
    imitation = teacher.imitation(student.answers, images, multilabel=False)
    assert imitation.detach() > 0.1
    torch.testing.assert_close(found["loss"], (1 - share) * plain["loss"])
    torch.testing.assert_close(found["imitation"], share * imitation)


@pytest.mark.parametrize("many", [True, False])
def test_a_student_learns_from_a_teacher_what_no_label_says(many):
    """With a share of 1 labels that are all wrong teach nothing, and the student answers as the teacher."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (60, 1, 1, 3), dtype=torch.uint8, generator=generator)
    images = colours.expand(60, SIDE, SIDE, 3)

    class Judge(nn.Module):
        """The brightest channel; as numbers, so that many labels have an answer, too."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            means = images.float().mean((2, 3)) if images.shape[1] == 3 else images.float().mean((1, 2))
            return (means - 127.5) / 20

    wrong = F.one_hot((Judge()(images.permute(0, 3, 1, 2)).argmax(1) + 1) % 3, 3).float()
    agreed = {}
    for share in (1.0, 0.0001):
        torch.manual_seed(0)
        student = nn.Sequential(Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3), nn.Flatten(), nn.Linear(192, 3))
        task = task_of(teacher_of(Judge(), share=share, temperature=2.0), many=many)
        optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
        for _ in range(150):
            optimizer.zero_grad()
            torch.stack(list(task.losses(student, Tensors(images, wrong)).values())).sum().backward()
            optimizer.step()
        with torch.no_grad():
            said, taught = student(images), Judge()(images.permute(0, 3, 1, 2))
        agreed[share] = float((said.argmax(1) == taught.argmax(1)).float().mean())
        if share == 1.0:
            activate = task.activate
            assert float((activate(said) - activate(taught)).abs().mean()) < 0.05
    assert agreed[1.0] > 0.9
    assert agreed[0.0001] < 0.3


def test_distillation_moves_the_students_answers_towards_the_teachers():
    """One step down the imitation's gradient is a step nearer, in expectation of both kinds."""
    for many in (True, False):
        student = Says(np.random.default_rng(0).normal(size=(4, 3)).tolist())
        teacher = teacher_of(Says(np.random.default_rng(1).normal(size=(4, 3)).tolist()), temperature=2.0)
        before = teacher.imitation(student(pictures(4)), pictures(4), multilabel=many)
        before.backward()
        with torch.no_grad():
            student.answers -= 0.5 * student.answers.grad
        after = teacher.imitation(student(pictures(4)), pictures(4), multilabel=many)
        assert after < before
