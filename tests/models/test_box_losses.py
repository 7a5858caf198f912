"""Losses of boxes and scores against slow references, against torchvision's, and at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops

from pictune.errors import RecipeError
from pictune.models.box_losses import BOX_LOSSES, SCORE_LOSSES, paired_iou

FAMILY = ["iou", "giou", "diou", "ciou", "siou"]  # what is built on the IoU
DISTANT = ["giou", "diou", "ciou", "siou"]  # what pulls boxes together that do not overlap

# ---------------------------------------------------------------- slow references, one pair at a time


def sizes(box):
    return max(box[2] - box[0], 0), max(box[3] - box[1], 0)


def middle(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def ratio(above, below):
    return above / below if below > 0 else 0.0


def slow_overlap(a, b):
    """Intersection and union."""
    across = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    down = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    (wide, high), (true_wide, true_high) = sizes(a), sizes(b)
    return across * down, wide * high + true_wide * true_high - across * down


def slow_around(a, b):
    return max(max(a[2], b[2]) - min(a[0], b[0]), 0), max(max(a[3], b[3]) - min(a[1], b[1]), 0)


def slow_iou(a, b):
    return 1 - ratio(*slow_overlap(a, b))


def slow_giou(a, b):
    wide, high = slow_around(a, b)
    _, union = slow_overlap(a, b)
    return slow_iou(a, b) + ratio(wide * high - union, wide * high)


def slow_diou(a, b):
    wide, high = slow_around(a, b)
    (x, y), (true_x, true_y) = middle(a), middle(b)
    return slow_iou(a, b) + ratio((x - true_x) ** 2 + (y - true_y) ** 2, wide**2 + high**2)


def shape_angle(box):
    wide, high = (max(side, 1e-3) for side in sizes(box))
    return math.atan(wide / high)


def slow_ciou(a, b, *, balance=None):
    v = (2 / math.pi * (shape_angle(b) - shape_angle(a))) ** 2
    if balance is None:
        balance = ratio(v, slow_iou(a, b) + v)
    return slow_diou(a, b) + balance * v


def slow_siou(theta):
    def of(a, b):
        (wide, high), (true_wide, true_high) = sizes(a), sizes(b)
        (x, y), (true_x, true_y) = middle(a), middle(b)
        apart = math.hypot(x - true_x, y - true_y)
        sine = ratio(abs(y - true_y), apart)
        angle = 1 - 2 * math.sin(math.asin(min(sine, 1)) - math.pi / 4) ** 2 if apart else 0
        around = slow_around(a, b)
        shares = (ratio(x - true_x, around[0]) ** 2, ratio(y - true_y, around[1]) ** 2)
        distance = sum(1 - math.exp(-(2 - angle) * share) for share in shares)
        unlike = [ratio(abs(m - n), max(m, n)) for m, n in ((wide, true_wide), (high, true_high))]
        shape = sum((1 - math.exp(-share)) ** theta for share in unlike)
        return slow_iou(a, b) + (distance + shape) / 2

    return of


def slow_smooth_l1(beta):
    def of(a, b):
        wide, high = sizes(b)
        scales = [max(wide, 1), max(high, 1)] * 2
        total = 0.0
        for side, true_side, scale in zip(a, b, scales, strict=True):
            d = abs(side - true_side) / scale
            total += d * d / (2 * beta) if d < beta else d - beta / 2
        return total

    return of


BOX_CASES = [
    ("smooth_l1", {}, slow_smooth_l1(0.1)),
    ("smooth_l1", {"beta": 1}, slow_smooth_l1(1)),
    ("smooth_l1", {"beta": 0}, slow_smooth_l1(0)),
    ("iou", {}, slow_iou),
    ("giou", {}, slow_giou),
    ("diou", {}, slow_diou),
    ("ciou", {}, slow_ciou),
    ("siou", {}, slow_siou(4)),
    ("siou", {"theta": 2.5}, slow_siou(2.5)),
]
BOX_NAMES = [f"{name} {given}" for name, given, _ in BOX_CASES]


def boxes(count, *, seed, near=None, canvas=100.0):
    """Random boxes of 5 to 40 pixels a side, of a canvas or near given ones."""
    random = np.random.default_rng(seed)
    if near is None:
        middles, size = random.uniform(0, canvas, (count, 2)), random.uniform(5, 40, (count, 2))
    else:
        size = (near[:, 2:] - near[:, :2]).numpy()
        middles = (near[:, 2:] + near[:, :2]).numpy() / 2 + random.uniform(-0.3, 0.3, size.shape) * size
        size = size * random.uniform(0.7, 1.4, size.shape)
    return torch.tensor(np.concatenate([middles - size / 2, middles + size / 2], 1))


def pairs(count, *, seed):
    """Half of them near each other, half of them anywhere."""
    truth = boxes(count, seed=seed)
    half = count // 2
    near, far = boxes(half, seed=seed + 1, near=truth[:half]), boxes(count - half, seed=seed + 2)
    return torch.cat([near, far]), truth


EDGES = {
    "identical": ([10, 20, 30, 50], [10, 20, 30, 50]),
    "one in the other": ([12, 22, 20, 30], [10, 20, 30, 50]),
    "touching sides": ([30, 20, 40, 50], [10, 20, 30, 50]),
    "touching corners": ([30, 50, 40, 60], [10, 20, 30, 50]),
    "the same middle": ([15, 15, 25, 55], [10, 20, 30, 50]),
    "beside each other": ([60, 20, 80, 50], [10, 20, 30, 50]),
    "a point": ([10, 20, 10, 20], [10, 20, 30, 50]),
    "a true point": ([10, 20, 30, 50], [15, 25, 15, 25]),
    "the same point": ([10, 20, 10, 20], [10, 20, 10, 20]),
    "two points": ([10, 20, 10, 20], [13, 24, 13, 24]),
    "the same line": ([10, 20, 10, 50], [10, 20, 10, 50]),
    "two lines in a row": ([10, 20, 10, 50], [10, 70, 10, 90]),
    "two lines side by side": ([10, 20, 10, 50], [40, 20, 40, 50]),
    "swapped sides": ([25, 45, 15, 25], [10, 20, 30, 50]),
}


@pytest.mark.parametrize(("name", "given", "slow"), BOX_CASES, ids=BOX_NAMES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_equals_the_slow_reference(name, given, slow, seed):
    predicted, truth = pairs(8, seed=seed)
    found = BOX_LOSSES[name].make(**given)(predicted, truth)
    assert found.shape == (8,)
    assert found.dtype == torch.float64
    expected = [slow(a, b) for a, b in zip(predicted.tolist(), truth.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(("name", "given", "slow"), BOX_CASES, ids=BOX_NAMES)
def test_equals_the_slow_reference_at_the_edges(name, given, slow, edge):
    predicted, truth = EDGES[edge]
    found = BOX_LOSSES[name].make(**given)(torch.tensor([predicted]), torch.tensor([truth]))
    assert found.item() == pytest.approx(slow(predicted, truth), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("giou", ops.generalized_box_iou_loss),
        ("diou", ops.distance_box_iou_loss),
        ("ciou", ops.complete_box_iou_loss),
    ],
)
def test_equals_torchvision_in_value_and_gradient(name, theirs):
    predicted, truth = pairs(200, seed=3)
    slopes = []
    for loss in (BOX_LOSSES[name].make(), theirs):
        given = predicted.clone().requires_grad_()
        values = loss(given, truth)
        values.sum().backward()
        slopes.append((values.detach(), given.grad))
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-6, atol=1e-7)


def test_paired_iou_equals_torchvision():
    predicted, truth = pairs(50, seed=4)
    torch.testing.assert_close(paired_iou(predicted, truth), ops.box_iou(predicted, truth).diagonal())
    assert paired_iou(predicted.half(), truth).dtype == torch.float32
    assert paired_iou(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


def test_known_values():
    predicted, truth = torch.tensor([[1.0, 1, 3, 3]]), torch.tensor([[0.0, 0, 2, 2]])
    known = {
        "smooth_l1": 4 * 0.45,  # each side is off by half the size
        "iou": 6 / 7,
        "giou": 6 / 7 + 2 / 9,
        "diou": 6 / 7 + 2 / 18,
        "ciou": 6 / 7 + 2 / 18,
        "siou": 6 / 7 + 1 - math.exp(-1 / 9),  # the line between the middles runs at 45 degrees
    }
    assert {name: part.make()(predicted, truth).item() for name, part in BOX_LOSSES.items()} == (
        pytest.approx(known)
    )
    lying, standing = torch.tensor([[0.0, 0, 2, 1]]), torch.tensor([[0.0, 0, 1, 2]])
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(1 / 2)) ** 2
    expected = 2 / 3 + 0.5 / 8 + v * v / (2 / 3 + v)
    assert BOX_LOSSES["ciou"].make()(lying, standing).item() == pytest.approx(expected)


# ---------------------------------------------------------------- gradients


# One of CIoU's factors is a number by definition: a test of its own is about it.
SMOOTH = [(name, given) for name, given, _ in BOX_CASES if name != "ciou"]


@pytest.mark.parametrize(("name", "given"), SMOOTH, ids=[f"{name} {given}" for name, given in SMOOTH])
def test_gradients_are_those_of_the_formula(name, given):
    predicted, truth = pairs(12, seed=7)
    loss = BOX_LOSSES[name].make(**given)
    assert torch.autograd.gradcheck(loss, (predicted.requires_grad_(), truth.requires_grad_()))


def test_no_gradient_flows_through_the_balance_of_ciou():
    predicted, truth = pairs(12, seed=8)
    BOX_LOSSES["ciou"].make()(predicted.requires_grad_(), truth).sum().backward()
    step = 1e-6
    for row, (a, b) in enumerate(zip(predicted.tolist(), truth.tolist(), strict=True)):
        v = (2 / math.pi * (shape_angle(b) - shape_angle(a))) ** 2
        balance = v / (slow_iou(a, b) + v)
        for side in range(4):
            ahead, behind = list(a), list(a)
            ahead[side] += step
            behind[side] -= step
            rise = slow_ciou(ahead, b, balance=balance) - slow_ciou(behind, b, balance=balance)
            slope = rise / (2 * step)
            assert predicted.grad[row, side].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


def descend(name, predicted, truth, *, steps):
    """Walks down the gradient of middle and logarithm of the size, as networks do, ever more slowly."""
    loss = BOX_LOSSES[name].make()
    middles = ((predicted[:, 2:] + predicted[:, :2]) / 2).requires_grad_()
    size = (predicted[:, 2:] - predicted[:, :2]).log().requires_grad_()
    walker = torch.optim.Adam([{"params": [middles], "lr": 1.0}, {"params": [size], "lr": 0.03}])
    slower = torch.optim.lr_scheduler.LinearLR(walker, 1.0, 0.01, total_iters=steps)
    for _ in range(steps):
        found = torch.cat([middles - size.exp() / 2, middles + size.exp() / 2], 1)
        walker.zero_grad()
        loss(found, truth).sum().backward()
        walker.step()
        slower.step()
    return found.detach()


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_one_short_step_down_the_gradient_raises_the_iou(name):
    truth = boxes(64, seed=11).float()
    predicted = boxes(64, seed=12, near=truth).float()
    before = paired_iou(predicted, truth)
    predicted.requires_grad_()
    (slope,) = torch.autograd.grad(BOX_LOSSES[name].make()(predicted, truth).sum(), predicted)
    after = paired_iou(predicted - 0.02 * slope / slope.norm(dim=1, keepdim=True), truth)
    if name == "iou":
        assert (after > before).all()
    # The others may pay for the middle or the shape with a little overlap, in few pairs.
    assert (after > before).float().mean() > 0.9


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_many_steps_bring_overlapping_boxes_together(name):
    truth = boxes(32, seed=13).float()
    predicted = boxes(32, seed=14, near=truth).float()
    after = paired_iou(descend(name, predicted, truth, steps=200), truth)
    assert (after > paired_iou(predicted, truth)).all()
    assert after.min() > 0.95


@pytest.mark.parametrize("name", DISTANT)
def test_many_steps_bring_boxes_together_that_do_not_overlap(name):
    truth, predicted = boxes(48, seed=15).float(), boxes(48, seed=16).float()
    apart = paired_iou(predicted, truth) == 0
    assert apart.sum() > 20
    truth, predicted = truth[apart], predicted[apart]
    after = paired_iou(descend(name, predicted, truth, steps=600), truth)
    assert after.min() > 0.95


def test_iou_alone_does_not_move_boxes_that_do_not_overlap():
    predicted = torch.tensor([[60.0, 20, 80, 50]], requires_grad=True)
    BOX_LOSSES["iou"].make()(predicted, torch.tensor([[10.0, 20, 30, 50]])).sum().backward()
    assert (predicted.grad == 0).all()


# ---------------------------------------------------------------- what changes nothing


@pytest.mark.parametrize("name", BOX_LOSSES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.3, 50), shift=st.floats(-500, 500))
def test_scale_place_and_orientation_do_not_matter(name, seed, scale, shift):
    predicted, truth = pairs(6, seed=seed)
    loss = BOX_LOSSES[name].make()
    value = loss(predicted, truth)
    for change in (
        lambda boxes: boxes * scale,
        lambda boxes: boxes + shift,
        lambda boxes: boxes[:, [1, 0, 3, 2]],
        lambda boxes: -boxes[:, [2, 3, 0, 1]],
    ):
        moved = loss(change(predicted), change(truth))
        torch.testing.assert_close(moved, value, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", FAMILY)
def test_the_iou_family_is_symmetric(name):
    predicted, truth = pairs(40, seed=21)
    loss = BOX_LOSSES[name].make()
    torch.testing.assert_close(loss(predicted, truth), loss(truth, predicted))


def test_smooth_l1_is_measured_by_the_true_box():
    small, large = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 100, 100]])
    loss = BOX_LOSSES["smooth_l1"].make()
    assert loss(large, small).item() > 5 * loss(small, large).item()
    tiny = torch.tensor([[5.0, 5, 5.01, 5.01]])  # counts as one pixel a side
    assert loss(tiny + 1, tiny).item() == pytest.approx(4 * 0.95, rel=1e-5)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_equal_boxes_cost_nothing_and_worse_ones_more(name):
    truth = torch.tensor([[10.0, 10, 50, 40]]).repeat(5, 1)
    costs = BOX_LOSSES[name].make()(truth + torch.arange(5.0)[:, None] * 4, truth).tolist()
    assert costs[0] == pytest.approx(0, abs=1e-6)
    assert costs == sorted(costs)
    assert len(set(costs)) == 5


# ---------------------------------------------------------------- contracts of the whole table

EXTREME = [
    *EDGES.values(),
    ([0, 0, 1e6, 1e6], [0, 0, 1e-6, 1e-6]),
    ([0, 0, 1e-6, 1e-6], [0, 0, 1e-6, 1e-6]),
    ([1e-8, 0, 2e-8, 1e4], [1e-8, 0, 2e-8, 1e4]),
    ([-1e6, -1e6, -1e6, 1e6], [1e6, -1e6, 1e6, 1e6]),
    ([1e6, 1e6, -1e6, -1e6], [0, 0, 10, 10]),
    ([0, 0, 1e6, 1e-6], [0, 0, 1e-6, 1e6]),
]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", BOX_LOSSES)
def test_finite_for_extreme_boxes(name, kind):
    predicted = torch.tensor([pair[0] for pair in EXTREME], dtype=kind, requires_grad=True)
    truth = torch.tensor([pair[1] for pair in EXTREME], dtype=kind)
    values = BOX_LOSSES[name].make()(predicted, truth)
    values.sum().backward()
    assert values.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    assert values.isfinite().all()
    assert values.min() > -1e-5
    assert predicted.grad.isfinite().all()


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_boxes_without_area_are_not_pushed_hard(name):
    without = ("a point", "the same point", "two points", "the same line", "two lines in a row")
    predicted = torch.tensor([EDGES[edge][0] for edge in without], dtype=torch.float32, requires_grad=True)
    truth = torch.tensor([EDGES[edge][1] for edge in without], dtype=torch.float32)
    BOX_LOSSES[name].make()(predicted, truth).sum().backward()
    assert predicted.grad.abs().max() < 20


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_no_boxes_cost_nothing(name):
    predicted = torch.zeros(0, 4, requires_grad=True)
    values = BOX_LOSSES[name].make()(predicted, torch.zeros(0, 4))
    values.sum().backward()
    assert values.shape == (0,)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_float32_is_near_float64(name):
    predicted, truth = (rows.float() for rows in pairs(60, seed=31))
    loss = BOX_LOSSES[name].make()
    single, double = loss(predicted, truth), loss(predicted.double(), truth.double())
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


def test_boxes_must_be_paired():
    with pytest.raises(AssertionError, match="predicted"):
        BOX_LOSSES["iou"].make()(torch.zeros(3, 4), torch.zeros(2, 4))


# ---------------------------------------------------------------- scores


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def slow_focal(gamma, alpha):
    def of(x, target):
        p = sigmoid(x)
        yes = -alpha * (1 - p) ** gamma * math.log(p)
        no = -(1 - alpha) * p**gamma * math.log(1 - p)
        return target * yes + (1 - target) * no

    return of


def slow_cross_entropy(x, target):
    p = sigmoid(x)
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


def slow_varifocal(gamma, alpha):
    def of(x, target):
        p = sigmoid(x)
        if target > 0:
            return target * slow_cross_entropy(x, target)
        return -alpha * p**gamma * math.log(1 - p)

    return of


SCORE_CASES = [
    ("focal", {}, slow_focal(2, 0.25)),
    ("focal", {"gamma": 0, "alpha": 0.5}, slow_focal(0, 0.5)),
    ("focal", {"gamma": 0.5, "alpha": 0.9}, slow_focal(0.5, 0.9)),
    ("cross_entropy", {}, slow_cross_entropy),
    ("varifocal", {}, slow_varifocal(2, 0.75)),
    ("varifocal", {"gamma": 0, "alpha": 1}, slow_varifocal(0, 1)),
    ("varifocal", {"gamma": 0.5, "alpha": 0.3}, slow_varifocal(0.5, 0.3)),
]
SCORE_NAMES = [f"{name} {given}" for name, given, _ in SCORE_CASES]


def scores(*, seed, rows=6, classes=3):
    """Logits, and targets of which a third is 0, a third 1 and a third between."""
    random = np.random.default_rng(seed)
    targets = random.choice([0.0, 1.0, -1.0], (rows, classes))
    targets = np.where(targets < 0, random.uniform(0, 1, (rows, classes)), targets)
    return torch.tensor(random.normal(0, 3, (rows, classes))), torch.tensor(targets)


@pytest.mark.parametrize(("name", "given", "slow"), SCORE_CASES, ids=SCORE_NAMES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_scores_equal_the_slow_reference(name, given, slow, seed):
    logits, targets = scores(seed=seed)
    found = SCORE_LOSSES[name].make(**given)(logits, targets)
    assert found.shape == logits.shape
    expected = [
        slow(x, t) for x, t in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True)
    ]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_focal_equals_torchvision():
    logits, targets = scores(seed=1)
    targets = targets.round()
    found = SCORE_LOSSES["focal"].make()(logits, targets)
    torch.testing.assert_close(found, ops.sigmoid_focal_loss(logits, targets))


def test_known_values_of_scores():
    even, quarter = torch.zeros(1, 2), torch.tensor([[0.5, 0.0]])
    half = math.log(2)
    assert SCORE_LOSSES["cross_entropy"].make()(even, quarter)[0].tolist() == pytest.approx([half, half])
    assert SCORE_LOSSES["varifocal"].make()(even, quarter)[0].tolist() == (
        pytest.approx([0.5 * half, 0.75 * 0.25 * half])
    )
    assert SCORE_LOSSES["focal"].make()(even, quarter.ceil())[0].tolist() == (
        pytest.approx([0.25 * 0.25 * half, 0.75 * 0.25 * half])
    )


@pytest.mark.parametrize(("name", "given"), [case[:2] for case in SCORE_CASES], ids=SCORE_NAMES)
def test_gradients_of_scores_are_those_of_the_formula(name, given):
    logits, targets = scores(seed=2)
    loss = SCORE_LOSSES[name].make(**given)
    assert torch.autograd.gradcheck(lambda x: loss(x, targets), (logits.requires_grad_(),))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("name", "given"), [case[:2] for case in SCORE_CASES], ids=SCORE_NAMES)
def test_finite_at_extreme_logits(name, given, kind):
    logits = torch.tensor([[1e4, -1e4, 0.0, 1e4, -1e4]] * 3, dtype=kind, requires_grad=True)
    targets = torch.tensor([[0.0] * 5, [1.0] * 5, [0.0, 0.3, 0.5, 0.7, 1.0]])
    values = SCORE_LOSSES[name].make(**given)(logits, targets)
    values.sum().backward()
    assert values.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    assert values.isfinite().all()
    assert (values >= 0).all()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", SCORE_LOSSES)
def test_targets_get_no_gradient(name):
    logits, targets = scores(seed=3)
    targets.requires_grad_()
    SCORE_LOSSES[name].make()(logits.requires_grad_(), targets).sum().backward()
    assert targets.grad is None
    assert logits.grad[targets > 0].abs().min() > 0


@pytest.mark.parametrize("name", SCORE_LOSSES)
def test_a_better_score_costs_less(name):
    logits = torch.tensor([[-30.0, -2, 0, 2, 30]])
    loss = SCORE_LOSSES[name].make()
    # One answer at a time, so that a loss of the hardest cannot leave any out.
    yes, no = (
        [loss(x.view(1, 1), torch.full((1, 1), target)).item() for x in logits[0]] for target in (1.0, 0.0)
    )
    assert yes == sorted(yes, reverse=True)
    assert no == sorted(no)
    assert yes[-1] < 1e-9 > no[0]


def slow_hard(logits, targets, ratio):
    """Costs of every yes, and of the hardest answers of no in the order of their costs."""
    flat = list(zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True))
    costs = [slow_cross_entropy(x, t) for x, t in flat]
    no = sorted((i for i, (_, t) in enumerate(flat) if t == 0), key=lambda i: -costs[i])
    yes = [i for i, (_, t) in enumerate(flat) if t > 0]
    kept = {*yes, *no[: max(int(ratio * len(yes)), math.ceil(ratio))]}
    return [cost if i in kept else 0.0 for i, cost in enumerate(costs)]


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_hard_examples_equal_the_slow_reference(ratio, seed):
    logits, targets = scores(seed=seed, rows=12)
    targets = targets * (torch.rand(12, 3, generator=torch.Generator().manual_seed(seed)) < 0.3)
    found = SCORE_LOSSES["hard_cross_entropy"].make(ratio=ratio)(logits, targets)
    assert found.flatten().tolist() == pytest.approx(slow_hard(logits, targets, ratio), rel=1e-6, abs=1e-9)


def test_hard_examples_leave_easy_ones_out():
    logits = torch.tensor([[5.0, -1, -2, -3, -4, -5]]).double().requires_grad_()
    targets = torch.tensor([[1.0, 0, 0, 0, 0, 0]]).double()
    loss = SCORE_LOSSES["hard_cross_entropy"].make(ratio=2)
    loss(logits, targets).sum().backward()
    assert (logits.grad != 0)[0].tolist() == [True, True, True, False, False, False]
    assert torch.autograd.gradcheck(lambda x: loss(x, targets), (logits,))
    nothing = loss(logits.detach(), torch.zeros(1, 6).double())
    assert (nothing > 0)[0].tolist() == [True, True, False, False, False, False]


def test_varifocal_asks_for_the_iou():
    assert {name: part.make().wants_iou for name, part in SCORE_LOSSES.items()} == {
        "focal": False,
        "cross_entropy": False,
        "varifocal": True,
        "hard_cross_entropy": False,
    }
    wanted = torch.tensor([[0.2, 0.6, 0.9]])
    logits = wanted.logit().requires_grad_()
    SCORE_LOSSES["varifocal"].make()(logits, wanted).sum().backward()
    assert logits.grad.abs().max() < 1e-6  # a score that says the IoU is where it should be


# ---------------------------------------------------------------- the tables


def test_the_tables_hold_what_recipes_name():
    assert list(BOX_LOSSES) == ["smooth_l1", "iou", "giou", "diou", "ciou", "siou"]
    assert list(SCORE_LOSSES) == ["focal", "cross_entropy", "varifocal", "hard_cross_entropy"]
    for table in (BOX_LOSSES, SCORE_LOSSES):
        assert all(part.summary.endswith(".") for part in table.values())


@pytest.mark.parametrize(
    ("table", "name", "given", "says"),
    [
        (BOX_LOSSES, "smooth_l1", {"beta": -0.1}, "at least 0"),
        (BOX_LOSSES, "smooth_l1", {"betta": 1}, r"did you mean beta\?"),
        (BOX_LOSSES, "siou", {"theta": 7}, "at most 6"),
        (BOX_LOSSES, "giou", {"theta": 4}, "takes none"),
        (SCORE_LOSSES, "focal", {"alpha": 1.5}, "at most 1"),
        (SCORE_LOSSES, "varifocal", {"alpha": 0}, "greater than 0"),
        (SCORE_LOSSES, "focal", {"gamma": float("inf")}, "finite"),
    ],
)
def test_impossible_settings_are_refused(table, name, given, says):
    with pytest.raises(RecipeError, match=says):
        table[name].make(**given)


def test_a_misspelt_loss_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match=r"no box loss called 'gious' \(did you mean giou\?\)"):
        BOX_LOSSES["gious"]
    with pytest.raises(RecipeError, match=r"did you mean varifocal\?"):
        SCORE_LOSSES["varyfocal"]
