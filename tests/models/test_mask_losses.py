"""Losses of masks and their sums against slow references, against torch's own, and at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pictune.errors import RecipeError
from pictune.models.mask_losses import IGNORED, MASK_LOSSES, combined, parse_sum

# ---------------------------------------------------------------- slow references, one pixel at a time


def softmax(row):
    top = max(row)
    powers = [math.exp(x - top) for x in row]
    return [p / sum(powers) for p in powers]


def listed(logits, target):
    """Probabilities and class of every pixel that is not ignored, image by image, with its place."""
    n, _, h, w = logits.shape
    return [
        [
            (y, x, softmax(logits[i, :, y, x].tolist()), int(target[i, y, x]))
            for y in range(h)
            for x in range(w)
            if target[i, y, x] != IGNORED
        ]
        for i in range(n)
    ]


def pooled(images):
    return [(p, label) for image in images for _, _, p, label in image]


def weighted_mean(pairs):
    """Of pairs of cost and weight."""
    total = sum(weight for _, weight in pairs)
    return sum(cost * weight for cost, weight in pairs) / total if total else 0.0


def slow_cross_entropy(smoothing):
    def of(images, weights):
        pixels = pooled(images)
        total = sum(weights[label] for _, label in pixels)
        if not total:
            return 0.0
        cost = 0.0
        for p, label in pixels:
            for number, weight in enumerate(weights):
                wanted = (1 - smoothing) * (number == label) + smoothing / len(weights)
                cost -= weight * wanted * math.log(p[number])
        return cost / total

    return of


def slow_focal(gamma):
    def of(images, weights):
        return weighted_mean(
            [(-((1 - p[k]) ** gamma) * math.log(p[k]), weights[k]) for p, k in pooled(images)]
        )

    return of


def slow_ohem(keep):
    def of(images, weights):
        costs = sorted(((-math.log(p[k]), weights[k]) for p, k in pooled(images)), reverse=True)
        return weighted_mean(costs[: max(1, round(keep * len(costs)))])

    return of


def of_classes(cost):
    """The weighted mean over the classes that are there of a cost of the pooled pixels."""

    def of(images, weights):
        pixels = pooled(images)
        there = sorted({label for _, label in pixels})
        return weighted_mean([(cost(pixels, k), weights[k]) for k in there])

    return of


def slow_dice(smooth):
    def cost(pixels, k):
        common = sum(p[k] for p, label in pixels if label == k)
        said = sum(p[k] for p, _ in pixels)
        true = sum(label == k for _, label in pixels)
        return 1 - (2 * common + smooth) / (said + true + smooth)

    return of_classes(cost)


def slow_jaccard(smooth):
    def cost(pixels, k):
        common = sum(p[k] for p, label in pixels if label == k)
        said = sum(p[k] for p, _ in pixels)
        true = sum(label == k for _, label in pixels)
        return 1 - (common + smooth) / (said + true - common + smooth)

    return of_classes(cost)


def slow_tversky(alpha, beta, smooth):
    def cost(pixels, k):
        common = sum(p[k] for p, label in pixels if label == k)
        false = sum(p[k] for p, label in pixels if label != k)
        missed = sum(1 - p[k] for p, label in pixels if label == k)
        return 1 - (common + smooth) / (common + alpha * false + beta * missed + smooth)

    return of_classes(cost)


def slow_lovasz(pixels, k):
    """The Lovász extension by its definition: levels of the errors, and the IoU lost at each level."""
    errors = sorted(((1 - p[k] if label == k else p[k], label == k) for p, label in pixels), reverse=True)
    true, total = sum(label == k for _, label in pixels), 0.0
    for count in range(1, len(errors) + 1):
        wrong = [inside for _, inside in errors[:count]]
        lost = 1 - (true - sum(wrong)) / (true + wrong.count(False))
        below = errors[count][0] if count < len(errors) else 0.0
        total += (errors[count - 1][0] - below) * lost
    return total


def slow_boundary(images, weights):
    costs = []
    for image in images:
        for k in sorted({label for *_, label in image}):
            inside = [(y, x) for y, x, _, label in image if label == k]
            outside = [(y, x) for y, x, _, label in image if label != k]
            if outside:
                total = 0.0
                for y, x, p, label in image:
                    others = outside if label == k else inside
                    away = min(math.hypot(y - v, x - u) for v, u in others) - 0.5
                    total += away * (1 - p[k] if label == k else p[k])
                costs.append((total / math.sqrt(len(image)) / len(image), weights[k]))
    return weighted_mean(costs)


CASES = [
    ("cross_entropy", {}, slow_cross_entropy(0)),
    ("cross_entropy", {"label_smoothing": 0.2}, slow_cross_entropy(0.2)),
    ("focal", {}, slow_focal(2)),
    ("focal", {"gamma": 0}, slow_cross_entropy(0)),
    ("focal", {"gamma": 0.5}, slow_focal(0.5)),
    ("ohem", {}, slow_ohem(0.25)),
    ("ohem", {"keep": 0.01}, slow_ohem(0.01)),
    ("ohem", {"keep": 1}, slow_cross_entropy(0)),
    ("dice", {}, slow_dice(1)),
    ("dice", {"smooth": 0}, slow_dice(0)),
    ("jaccard", {}, slow_jaccard(1)),
    ("jaccard", {"smooth": 0}, slow_jaccard(0)),
    ("tversky", {}, slow_tversky(0.3, 0.7, 1)),
    ("tversky", {"alpha": 0, "beta": 0.1, "smooth": 0}, slow_tversky(0, 0.1, 0)),
    ("lovasz", {}, of_classes(slow_lovasz)),
    ("boundary", {}, slow_boundary),
]
NAMES = [f"{name} {given}" for name, given, _ in CASES]
PLAIN = ["cross_entropy", "focal", "dice", "jaccard", "tversky", "lovasz", "boundary"]  # no pixel is left out


def batch(*, seed, images=2, classes=3, height=4, width=5, ignored=0.2, there=None):
    """Logits, target and class weights; ``there`` are the classes that pixels have."""
    random = np.random.default_rng(seed)
    target = random.choice(range(classes) if there is None else there, (images, height, width))
    target[random.uniform(size=target.shape) < ignored] = IGNORED
    logits = random.normal(0, 2, (images, classes, height, width))
    weights = random.uniform(0.1, 3, classes)
    return torch.tensor(logits), torch.tensor(target), torch.tensor(weights)


def expected_of(slow, logits, target, weights):
    return slow(listed(logits, target), weights.tolist())


@pytest.mark.parametrize(("name", "given", "slow"), CASES, ids=NAMES)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), weighted=st.booleans(), ignored=st.sampled_from([0.0, 0.3, 0.9]))
def test_equals_the_slow_reference(name, given, slow, seed, weighted, ignored):
    logits, target, weights = batch(seed=seed, ignored=ignored)
    value = MASK_LOSSES[name].make(**given)(logits, target, class_weights=weights if weighted else None)
    assert value.shape == ()
    assert value.dtype == torch.float64
    expected = expected_of(slow, logits, target, weights if weighted else torch.ones(3))
    assert value.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


EDGES = {
    "one class": {"there": [1]},
    "a class that is absent": {"there": [0, 2]},
    "two classes": {"classes": 2},
    "many classes": {"classes": 9},
    "one pixel": {"images": 1, "height": 1, "width": 1, "ignored": 0},
    "one row": {"height": 1, "width": 9},
    "all ignored": {"ignored": 1.1},
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(("name", "given", "slow"), CASES, ids=NAMES)
def test_equals_the_slow_reference_at_the_edges(name, given, slow, edge):
    logits, target, weights = batch(seed=5, **EDGES[edge])
    value = MASK_LOSSES[name].make(**given)(logits, target, class_weights=weights)
    expected = expected_of(slow, logits, target, weights)
    assert value.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_equals_torch():
    logits, target, weights = batch(seed=1)
    for smoothing in (0.0, 0.1):
        ours = MASK_LOSSES["cross_entropy"].make(label_smoothing=smoothing)
        for w in (None, weights):
            theirs = F.cross_entropy(
                logits, target, weight=w, ignore_index=IGNORED, label_smoothing=smoothing
            )
            torch.testing.assert_close(ours(logits, target, class_weights=w), theirs)


def test_losses_that_are_cases_of_others():
    logits, target, weights = batch(seed=2)

    def value(text, settings):
        return combined(text, settings)(logits, target, class_weights=weights).item()

    dice, iou = value("dice", {"smooth": 2}), value("jaccard", {"smooth": 2})
    assert value("tversky", {"alpha": 0.5, "beta": 0.5, "smooth": 1}) == pytest.approx(dice)
    assert value("tversky", {"alpha": 1, "beta": 1, "smooth": 2}) == pytest.approx(iou)


def sure(target, classes, *, by=60.0):
    """Logits that say a map and nothing else."""
    return by * F.one_hot(target.clamp_max(classes - 1), classes).permute(0, 3, 1, 2).double()


def test_known_values():
    # Left half 0, right half 1; one of the eight pixels of class 0 is said to be 1.
    target = torch.tensor([[[0, 0, 1, 1]] * 4])
    said = target.clone()
    said[0, 0, 0] = 1
    half = math.log(2)
    known = {
        "cross_entropy": 60 / 16,
        "focal": 60 / 16,
        "ohem": 60 / 4,
        "dice": 1 - (14 / 15 + 16 / 17) / 2,
        "jaccard": 1 - (7 / 8 + 8 / 9) / 2,
        "tversky": 1 - (7 / 7.7 + 8 / 8.3) / 2,
        "lovasz": 1 - (7 / 8 + 8 / 9) / 2,
        "boundary": 1.5 / 4 / 16,  # a pixel and a half from the outline, of an image of 4 by 4
    }
    for name, part in MASK_LOSSES.items():
        loss = part.make(smooth=0) if "smooth" in part.settings else part.make()
        assert loss(sure(said, 2), target).item() == pytest.approx(known[name])
        assert loss(sure(target, 2), target).item() == pytest.approx(0, abs=1e-9)
    even = torch.zeros(1, 2, 4, 4)
    assert MASK_LOSSES["cross_entropy"].make()(even, target).item() == pytest.approx(half)
    assert MASK_LOSSES["focal"].make()(even, target).item() == pytest.approx(half / 4)
    assert MASK_LOSSES["dice"].make(smooth=0)(even, target).item() == pytest.approx(0.5)
    assert MASK_LOSSES["jaccard"].make(smooth=0)(even, target).item() == pytest.approx(1 - 4 / 12)
    assert MASK_LOSSES["lovasz"].make()(even, target).item() == pytest.approx(0.5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_lovasz_of_sure_answers_is_one_minus_the_iou(seed):
    _, target, _ = batch(seed=seed, height=6, width=6, ignored=0.1)
    _, said, _ = batch(seed=seed + 1, height=6, width=6, ignored=0)
    value = MASK_LOSSES["lovasz"].make()(sure(said, 3), target)
    assert value.item() == pytest.approx(1 - hard_iou(sure(said, 3), target), abs=1e-9)


def hard_iou(logits, target):
    """Mean over the classes that are there."""
    said, kept = logits.argmax(1), target != IGNORED
    shares = []
    for k in target[kept].unique().tolist():
        found, true = (said == k) & kept, target == k
        shares.append((found & true).sum().item() / (found | true).sum().item())
    return sum(shares) / len(shares)


def soft_iou(logits, target):
    p, shares = logits.double().softmax(1), []
    for k in target.unique().tolist():
        common, said = p[:, k][target == k].sum(), p[:, k].sum()
        shares.append((common / (said + (target == k).sum() - common)).item())
    return sum(shares) / len(shares)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize(("name", "given"), [case[:2] for case in CASES], ids=NAMES)
def test_gradients_are_those_of_the_formula(name, given):
    logits, target, weights = batch(seed=7, height=3, width=3)
    loss = MASK_LOSSES[name].make(**given)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target, class_weights=weights), (logits,))


def toy():
    """Two squares of one class and a bar of another before a background, and an unsure answer."""
    target = torch.zeros(2, 12, 12, dtype=torch.long)
    target[0, 2:6, 2:6] = 1
    target[1, 5:10, 4:9] = 1
    target[:, 10:, :] = 2
    logits = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return logits, target


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_a_step_down_the_gradient_raises_the_iou(name):
    logits, target = toy()
    loss = MASK_LOSSES[name].make()
    logits.requires_grad_()
    loss(logits, target).backward()
    step = logits.grad / logits.grad.abs().max()
    soft = [soft_iou((logits - size * step).detach(), target) for size in (0, 0.01, 0.1, 1)]
    assert soft == sorted(soft)
    assert len(set(soft)) == len(soft)
    hard = [hard_iou((logits - size * step).detach(), target) for size in (0, 2)]
    assert hard[1] > hard[0]


@pytest.mark.parametrize("name", [*MASK_LOSSES, "dice+cross_entropy", "jaccard+0.5*boundary"])
def test_many_steps_find_the_mask(name):
    logits, target = toy()
    loss = combined(name)
    logits.requires_grad_()
    walker = torch.optim.Adam([logits], lr=0.2)
    for _ in range(80):
        walker.zero_grad()
        loss(logits, target).backward()
        walker.step()
    assert hard_iou(logits.detach(), target) == 1


# ---------------------------------------------------------------- what changes nothing


@pytest.mark.parametrize(("name", "given"), [case[:2] for case in CASES], ids=NAMES)
def test_ignored_pixels_change_nothing(name, given):
    logits, target, weights = batch(seed=11, ignored=0.3)
    loss = MASK_LOSSES[name].make(**given)
    changed = torch.where((target == IGNORED)[:, None], 50 * torch.randn_like(logits), logits)
    slopes = []
    for values in (logits, changed):
        values.requires_grad_()
        value = loss(values, target, class_weights=weights)
        value.backward()
        slopes.append((value.detach(), values.grad))
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-12, atol=1e-15)
    assert (slopes[0][1].abs().sum(1)[target == IGNORED] == 0).all()


@pytest.mark.parametrize(("name", "given"), [case[:2] for case in CASES], ids=NAMES)
def test_a_border_and_an_image_of_ignored_pixels_change_nothing(name, given):
    logits, target, weights = batch(seed=12)
    loss = MASK_LOSSES[name].make(**given)
    wider, framed = F.pad(logits, (3, 1, 2, 4), value=9.0), F.pad(target, (3, 1, 2, 4), value=IGNORED)
    more = torch.cat([wider, torch.randn_like(wider[:1])])
    none = torch.cat([framed, torch.full_like(framed[:1], IGNORED)])
    value = loss(logits, target, class_weights=weights)
    torch.testing.assert_close(loss(more, none, class_weights=weights), value)


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_the_order_of_classes_images_rows_and_columns_does_not_matter(name):
    logits, target, weights = batch(seed=13, classes=4)
    loss = MASK_LOSSES[name].make()
    value = loss(logits, target, class_weights=weights)
    order = torch.tensor([2, 0, 3, 1])
    renamed = torch.where(target == IGNORED, IGNORED, order.argsort()[target.clamp_max(3)])
    torch.testing.assert_close(loss(logits[:, order], renamed, class_weights=weights[order]), value)
    for there in (lambda x: x.flip(0), lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.mT):
        torch.testing.assert_close(loss(there(logits), there(target), class_weights=weights), value)


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_a_number_added_to_all_logits_of_a_pixel_changes_nothing(name):
    logits, target, _ = batch(seed=14)
    loss = MASK_LOSSES[name].make()
    torch.testing.assert_close(loss(logits + torch.randn(2, 1, 4, 5) * 5, target), loss(logits, target))


@pytest.mark.parametrize("name", PLAIN)
def test_larger_images_cost_the_same(name):
    logits, target = toy()
    part = MASK_LOSSES[name]
    loss = part.make(smooth=0) if "smooth" in part.settings else part.make()
    larger = [logits.repeat_interleave(4, 2).repeat_interleave(4, 3)]
    larger.append(target.repeat_interleave(4, 1).repeat_interleave(4, 2))
    tolerance = 0.05 if name == "boundary" else 1e-5  # distances to an outline are those of pixels' middles
    assert loss(*larger).item() == pytest.approx(loss(logits, target).item(), rel=tolerance)


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_class_weights_count_as_they_should(name):
    logits, target, weights = batch(seed=15, height=8, width=8)
    loss = MASK_LOSSES[name].make()
    weighted = loss(logits, target, class_weights=weights)
    assert not torch.isclose(weighted, loss(logits, target))
    torch.testing.assert_close(loss(logits, target, class_weights=2 * weights), weighted)
    torch.testing.assert_close(loss(logits, target, class_weights=torch.ones(3)), loss(logits, target))
    assert loss(logits, target, class_weights=torch.zeros(3)).item() == 0


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky", "lovasz"])
def test_an_absent_class_does_not_count(name):
    logits, target = toy()
    silent = torch.full((2, 1, 12, 12), -200.0)
    loss = MASK_LOSSES[name].make()
    torch.testing.assert_close(loss(torch.cat([logits, silent], 1), target), loss(logits, target))
    weights = torch.tensor([1.0, 1, 1, 100])
    value = loss(torch.cat([logits, logits[:, :1]], 1), target)
    torch.testing.assert_close(
        loss(torch.cat([logits, logits[:, :1]], 1), target, class_weights=weights), value
    )


def test_ohem_learns_from_the_hardest_pixels_only():
    logits, target, _ = batch(seed=16, ignored=0.3)
    logits.requires_grad_()
    MASK_LOSSES["ohem"].make(keep=0.3)(logits, target).backward()
    learned = logits.grad.abs().sum(1) > 0
    kept = target != IGNORED
    assert learned.sum() == round(0.3 * kept.sum().item())
    costs = F.cross_entropy(logits.detach(), target, ignore_index=IGNORED, reduction="none")
    assert costs[learned].min() > costs[kept & ~learned].max()


def test_boundary_counts_far_mistakes_more():
    target = torch.zeros(1, 16, 16, dtype=torch.long)
    target[:, :, :4] = 1
    costs = []
    for column in (4, 8, 15):
        said = target.clone()
        said[:, 7, column] = 1
        costs.append(MASK_LOSSES["boundary"].make()(sure(said, 2), target).item())
    # Half a pixel, four and a half, and eleven and a half from the outline; an image side is 16.
    assert costs == pytest.approx([0.5 / 16 / 256, 4.5 / 16 / 256, 11.5 / 16 / 256])


# ---------------------------------------------------------------- contracts of the whole table

EXTREME = torch.tensor([1e4, -1e4, 0.0, 1e4, 1e4, -1e4, -1e4, 0.0, 1e4]).view(1, 3, 1, 3).repeat(2, 1, 3, 1)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("labels", [[0, 1, 2], [1], [0, 2], [IGNORED], [2, IGNORED]])
@pytest.mark.parametrize(("name", "given"), [case[:2] for case in CASES], ids=NAMES)
def test_finite_at_extreme_logits(name, given, labels, kind):
    logits = EXTREME.to(kind, copy=True).requires_grad_()
    target = torch.tensor(labels * 18)[:18].view(2, 3, 3)
    value = MASK_LOSSES[name].make(**given)(logits, target)
    value.backward()
    assert value.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    assert value.isfinite()
    assert value >= -1e-6
    assert logits.grad.isfinite().all()
    if labels == [IGNORED]:
        assert value == 0
        assert (logits.grad == 0).all()


@pytest.mark.parametrize("label", [0, 1, IGNORED])
@pytest.mark.parametrize(("name", "given"), [case[:2] for case in CASES], ids=NAMES)
def test_one_pixel_will_do(name, given, label):
    logits = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).requires_grad_()
    value = MASK_LOSSES[name].make(**given)(logits, torch.full((1, 1, 1), label))
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    if label != 1:
        spread = 2e4 * given.get("label_smoothing", 0) / 2
        assert value.item() == pytest.approx(0 if label == IGNORED else spread)


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_bfloat16_is_computed_in_float32_and_small_targets_will_do(name):
    logits, target, weights = batch(seed=21)
    rounded = logits.bfloat16()
    loss = MASK_LOSSES[name].make()
    value = loss(rounded, target.to(torch.uint8), class_weights=weights)
    torch.testing.assert_close(value, loss(rounded.float(), target, class_weights=weights), rtol=0, atol=0)


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_float32_is_near_float64_on_many_pixels(name):
    logits, target, _ = batch(seed=22, images=1, height=300, width=400, there=[0, 1, 1, 1, 1, 1, 1, 1])
    loss = MASK_LOSSES[name].make()
    assert loss(logits.float(), target).item() == pytest.approx(loss(logits, target).item(), rel=1e-5)


@pytest.mark.parametrize("name", MASK_LOSSES)
def test_a_better_answer_costs_less(name):
    _, target = toy()
    costs = [MASK_LOSSES[name].make()(sure(target, 3, by=by), target).item() for by in (-2, 0, 2, 40)]
    assert costs == sorted(costs, reverse=True)
    assert costs[3] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("logits", "target"),
    [((2, 3, 4, 4), (2, 4, 5)), ((2, 1, 4, 4), (2, 4, 4)), ((3, 4, 4), (4, 4))],
)
def test_shapes_are_checked(logits, target):
    with pytest.raises(AssertionError):
        MASK_LOSSES["dice"].make()(torch.zeros(logits), torch.zeros(target, dtype=torch.long))


# ---------------------------------------------------------------- the table and sums of its parts


def test_the_table_holds_what_recipes_name():
    assert list(MASK_LOSSES) == [
        "cross_entropy",
        "focal",
        "ohem",
        "dice",
        "jaccard",
        "tversky",
        "lovasz",
        "boundary",
    ]
    assert all(part.summary.endswith(".") for part in MASK_LOSSES.values())


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("ohem", {"keep": 0}, "greater than 0"),
        ("ohem", {"keep": 1.2}, "at most 1"),
        ("focal", {"gama": 2}, r"did you mean gamma\?"),
        ("tversky", {"beta": 0}, "at least 0.01"),
        ("dice", {"smooth": -1}, "at least 0"),
        ("lovasz", {"smooth": 1}, "takes none"),
    ],
)
def test_impossible_settings_are_refused(name, given, says):
    with pytest.raises(RecipeError, match=says):
        MASK_LOSSES[name].make(**given)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("dice", [(1, "dice")]),
        ("dice+cross_entropy", [(1, "dice"), (1, "cross_entropy")]),
        ("0.5*dice+cross_entropy", [(0.5, "dice"), (1, "cross_entropy")]),
        (" 2 * focal +  1e-3*boundary ", [(2, "focal"), (0.001, "boundary")]),
        ("1e+1*dice+1.E+2*focal+3*ohem", [(10, "dice"), (100, "focal"), (3, "ohem")]),
    ],
)
def test_sums_are_read(text, terms):
    assert parse_sum(text) == terms


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dise+cross_entropy", ["no mask loss called 'dise' (did you mean dice?)"]),
        ("dice+dice", ["dice is named twice"]),
        ("", ["a name is missing"]),
        ("dice+", ["a name is missing in 'dice+'"]),
        ("2*", ["a name is missing"]),
        ("0*dice", ["the weight in '0*dice': must be greater than 0"]),
        ("-1*dice", ["must be greater than 0, found '-1'"]),
        ("nan*dice", ["must be a finite number"]),
        ("much*dice", ["the weight in 'much*dice'", "number"]),
        ("*dice", ["the weight in '*dice'"]),
        ("dice*0.5", ["no mask loss called '0.5'", "the weight in 'dice*0.5'"]),
        ("dice-focal", ["no mask loss called 'dice-focal'"]),
        ("0*dise+focal+focal", ["greater than 0", "did you mean dice?", "focal is named twice"]),
    ],
)
def test_sums_that_cannot_be_read_say_all_that_is_wrong(text, says):
    for read in (parse_sum, combined):
        with pytest.raises(RecipeError) as caught:
            read(text)
        for phrase in says:
            assert phrase in str(caught.value)
        assert "0.5*dice+cross_entropy" in caught.value.instead


@pytest.mark.parametrize("text", ["0.5*dice+cross_entropy", "2*focal+ohem+lovasz", "jaccard"])
def test_a_sum_is_the_sum(text):
    logits, target, weights = batch(seed=31)
    logits.requires_grad_()
    total, slope = 0.0, torch.zeros_like(logits)
    for weight, name in parse_sum(text):
        part = weight * MASK_LOSSES[name].make()(logits, target, class_weights=weights)
        slope += torch.autograd.grad(part, logits)[0]
        total += part.detach()
    value = combined(text)(logits, target, class_weights=weights)
    torch.testing.assert_close(value.detach(), total)
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0], slope)


@pytest.mark.parametrize(
    "settings",
    [
        {"gamma": 3, "label_smoothing": 0.1, "dice.smooth": 2, "tversky.smooth": 4},
        {"gamma": "3", "cross_entropy.label_smoothing": 0.1, "dice": {"smooth": 2}, "tversky": {"smooth": 4}},
    ],
)
def test_settings_reach_the_part_they_are_meant_for(settings):
    logits, target, _ = batch(seed=32)
    parts = {
        "focal": {"gamma": 3},
        "cross_entropy": {"label_smoothing": 0.1},
        "dice": {"smooth": 2},
        "tversky": {"smooth": 4},
    }
    total = sum(MASK_LOSSES[name].make(**given)(logits, target) for name, given in parts.items())
    torch.testing.assert_close(combined("+".join(parts), settings)(logits, target), total)


@pytest.mark.parametrize(
    ("text", "settings", "says"),
    [
        ("dice+tversky", {"smooth": 1}, ["smooth: dice and tversky have one each", "tversky.smooth"]),
        ("dice+focal", {"gama": 1}, ["gama: no part of this sum has such a setting (did you mean gamma?)"]),
        ("dice", {"gamma": 1}, ["gamma: no part of this sum has such a setting"]),
        ("dice+focal", {"focl.gamma": 1}, ["focl.gamma: no part", "did you mean focal?"]),
        ("dice", {"focal.gamma": 1}, ["focal.gamma: no part of this sum"]),
        ("dice+focal", {"dice.smoth": 1}, ["dice.smoth: dice has no such setting (did you mean smooth?)"]),
        ("dice+focal", {"gamma": 1, "focal.gamma": 2}, ["focal.gamma: focal.gamma is given twice"]),
        ("dice+focal", {"gamma": 1, "focal": {"gamma": 2}}, ["focal.gamma is given twice"]),
        ("focal+ohem", {"gamma": -1, "keep": 2}, ["focal.gamma: must be at least 0", "ohem.keep"]),
        ("dise+focal", {"smooth": 1, "gamma": -1}, ["did you mean dice?", "focal.gamma: must be at least 0"]),
        ("dise+focal", {"smoooth": 1}, ["did you mean dice?", "smoooth: no part of this sum"]),
    ],
)
def test_impossible_settings_of_sums_say_all_that_is_wrong(text, settings, says):
    with pytest.raises(RecipeError) as caught:
        combined(text, settings)
    for phrase in says:
        assert phrase in str(caught.value)
    if text == "dise+focal" and "smooth" in settings:
        assert "smooth: " not in str(caught.value)  # it may well be meant for dice
