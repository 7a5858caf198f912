"""RetinaNet: which anchor is which object, what is learnt from it, and what is read from the outputs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from pictune.models.anchored import (
    BACKGROUND,
    CODER,
    UNDECIDED,
    AnchorOutputs,
    RetinaNet,
    anchors_of,
    decoded,
    match,
    read_anchors,
    retinanet_losses,
)
from pictune.models.box_losses import BOX_LOSSES, SCORE_LOSSES, BoxLoss, ScoreLoss

NOBODY_ROW = [-1.0, 0, 0, 0, 0, 0]
GIOU, FOCAL = BOX_LOSSES["giou"].make(), SCORE_LOSSES["focal"].make()
CHANNELS = (16, 24, 32)


class Encoder(nn.Module):
    """Maps at strides 8, 16 and 32 from a few convolutions."""

    def __init__(self):
        super().__init__()
        sides = [(3, 12), (12, 16), (16, CHANNELS[0]), CHANNELS[:2], CHANNELS[1:]]
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(old, new, 3, 2, 1), nn.BatchNorm2d(new), nn.ReLU()) for old, new in sides
        )

    def forward(self, images):
        maps = []
        for step in self.steps:
            images = step(images)
            maps.append(images)
        return maps[2:]


def drawn():
    """Four pictures [4, 3, 96, 96] of red and green squares on noise, and their targets [4, 2, 6]."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(4, 3, 96, 96, generator=generator) * 0.4
    squares = [
        [(0, 8, 10, 24), (1, 56, 50, 32)],
        [(1, 10, 60, 20), (0, 48, 20, 40)],
        [(0, 60, 60, 28), (0, 20, 8, 18)],
        [(1, 36, 36, 26)],
    ]
    targets = torch.tensor([NOBODY_ROW]).repeat(4, 2, 1)
    for number, each in enumerate(squares):
        for row, (label, x, y, side) in enumerate(each):
            pictures[number, label, y : y + side, x : x + side] += 0.6
            targets[number, row] = torch.tensor([label, x, y, x + side, y + side, 0.0])
    return pictures, targets


def maps_for(width, height, *, images=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, c, math.ceil(height / s), math.ceil(width / s), generator=generator)
        for c, s in zip(CHANNELS, (8, 16, 32), strict=True)
    ]


def outputs_for(anchors, *, images=1, classes=3):
    """Outputs that say the same of every anchor, ready to be learnt."""
    return AnchorOutputs(
        torch.full((images, len(anchors), classes), -1.0, requires_grad=True),
        torch.zeros(images, len(anchors), 4, requires_grad=True),
        torch.tensor(anchors),
    )


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize(("width", "height"), [(320, 256), (100, 72)])
def test_every_place_of_every_level_has_nine_anchors(width, height):
    outputs = RetinaNet(CHANNELS, classes=3, width=16)(maps_for(width, height))
    steps = [(math.ceil(width / s), math.ceil(height / s)) for s in (8, 16, 32)]
    steps.append(tuple(math.ceil(side / 2) for side in steps[-1]))
    count = 9 * sum(across * down for across, down in steps)
    assert outputs.scores.shape == (2, count, 3)
    assert outputs.shifts.shape == outputs.boxes.shape == (2, count, 4)
    assert outputs.anchors.shape == (count, 4)
    middles = (outputs.anchors[:, :2] + outputs.anchors[:, 2:]) / 2
    assert middles[0].tolist() == [4, 4]
    assert middles[9].tolist() == [12, 4], "places go row by row"


def test_anchors_have_three_sizes_and_three_shapes():
    found = anchors_of(2, 3, 16, device=torch.device("cpu"))
    sizes = found[:, 2:] - found[:, :2]
    assert sizes.reshape(6, 9, 2).std(0).max() < 1e-4, "the same at every place"
    sides = sizes[:9].prod(1).sqrt().reshape(3, 3)
    assert torch.allclose(sides, 64 * torch.tensor([2 ** (-1 / 3), 1, 2 ** (1 / 3)])[:, None].expand(3, 3))
    assert torch.allclose((sizes[:9, 1] / sizes[:9, 0]).reshape(3, 3), torch.tensor([0.5, 1, 2]).expand(3, 3))


def test_scores_and_shifts_belong_to_the_anchor_of_their_row():
    """A head that sees one bright cell answers loudest at that cell's anchors."""
    torch.manual_seed(0)
    network = RetinaNet(CHANNELS, classes=2, width=16, depth=1).eval()
    maps = [found[:1] * 0 for found in maps_for(96, 64)]
    dark = network(maps)
    maps[0][0, :, 5, 9] = 50.0  # at x 76, y 44
    bright = network(maps)
    for before, after in ((dark.scores, bright.scores), (dark.shifts, bright.shifts)):
        change = (after - before).abs().sum(-1)[0]
        loudest = bright.anchors[change[: 9 * 8 * 12].reshape(-1, 9).sum(1).argmax() * 9]
        middle = (loudest[:2] + loudest[2:]) / 2
        assert (middle - torch.tensor([76.0, 44.0])).abs().max() <= 16, "within the reach of the convolutions"


def test_decoding_undoes_encoding():
    boxes = torch.tensor([[10.0, 20, 50, 90], [0, 0, 8, 8]])
    objects = torch.tensor([[15.0, 10, 40, 120], [3, -4, 30, 5]])
    assert torch.allclose(decoded(CODER.encode_single(objects, boxes), boxes), objects, atol=1e-4)
    assert torch.allclose(decoded(torch.zeros(2, 4), boxes), boxes)
    assert decoded(torch.zeros(1, 2, 4), boxes[None]).shape == (1, 2, 4)


# ---------------------------------------------------------------- which box is which object

OBJECT = [2.0, 0, 0, 100, 100, 0]
BOXES = [  # of 100 x 100; the IoU with OBJECT is what is left of 100 rows by 200 less that
    ([0.0, 0, 100, 100], 0),
    ([0.0, 30, 100, 130], 0),  # 70 / 130 = 0.54
    ([0.0, 40, 100, 140], UNDECIDED),  # 60 / 140 = 0.43
    ([0.0, 50, 100, 150], BACKGROUND),  # 50 / 150 = 0.33
    ([300.0, 300, 400, 400], BACKGROUND),
]


@pytest.mark.parametrize("before", [0, 1, 3])
def test_boxes_are_objects_undecided_or_background_by_iou(before):
    rows = torch.tensor([NOBODY_ROW] * before + [OBJECT] + [NOBODY_ROW])
    found = match(torch.tensor([box for box, _ in BOXES]), rows, low=0.4, high=0.5, forced=True)
    assert found.objects.tolist() == [before if want == 0 else want for _, want in BOXES]
    near = [before if want in (0, UNDECIDED) else BACKGROUND for _, want in BOXES]
    assert found.nearest.tolist() == near


def test_a_box_is_the_object_it_overlaps_most():
    rows = torch.tensor([[0.0, 0, 0, 100, 100, 0], [1.0, 0, 10, 100, 110, 0]])
    boxes = torch.tensor([[0.0, 2, 100, 102], [0, 9, 100, 109]])
    assert match(boxes, rows, low=0.4, high=0.5, forced=False).objects.tolist() == [0, 1]


def test_the_best_box_is_an_object_however_little_it_overlaps_only_where_that_is_forced():
    rows = torch.tensor([OBJECT, [0.0, 500, 500, 510, 510, 0]])  # nothing overlaps the second
    boxes = torch.tensor([[0.0, 70, 100, 170], [0, 60, 100, 160], [0, 65, 100, 165]])
    assert match(boxes, rows, low=0.4, high=0.5, forced=True).objects.tolist() == [BACKGROUND, 0, BACKGROUND]
    assert match(boxes, rows, low=0.4, high=0.5, forced=False).objects.tolist() == [BACKGROUND] * 3


def test_a_forced_box_leaves_the_object_it_overlaps_more():
    rows = torch.tensor([[0.0, 0, 0, 100, 100, 0], [1.0, 0, 70, 100, 170, 0]])
    boxes = torch.tensor([[0.0, 0, 100, 100], [0, 20, 100, 120]])  # the second overlaps the first object more
    assert match(boxes, rows, low=0.4, high=0.5, forced=False).objects.tolist() == [0, 0]
    assert match(boxes, rows, low=0.4, high=0.5, forced=True).objects.tolist() == [0, 1]


def test_of_two_objects_that_want_one_box_the_nearer_one_gets_it():
    rows = torch.tensor([[0.0, 0, 0, 100, 60, 0], [1.0, 0, 0, 100, 90, 0]])
    assert match(
        torch.tensor([[0.0, 0, 100, 100]]), rows, low=0.4, high=0.5, forced=True
    ).objects.tolist() == [1]


def test_a_crowd_hides_background_and_is_no_object():
    crowd = [1.0, 100, 100, 200, 200, 1]
    boxes = torch.tensor(
        [
            [100.0, 100, 200, 200],  # the crowd itself
            [60, 60, 280, 280],  # larger, its middle lies in the crowd
            [70, 120, 128, 180],  # its middle just outside
            [95, 110, 106, 120],  # its middle just inside
            [180, 120, 230, 180],  # its middle just outside on the other side
            [120, 180, 180, 230],  # and below
            [300, 300, 340, 340],
        ]
    )
    inside = [UNDECIDED, UNDECIDED, BACKGROUND, UNDECIDED, *[BACKGROUND] * 3]
    assert match(boxes, torch.tensor([crowd]), low=0.4, high=0.5, forced=True).objects.tolist() == inside
    found = match(
        boxes, torch.tensor([crowd, [0.0, 100, 100, 200, 200, 0]]), low=0.4, high=0.5, forced=True
    ).objects
    assert found[0] == 1, "an object in a crowd is one"
    assert (match(boxes, torch.tensor([crowd]), low=0.4, high=0.5, forced=True).nearest == BACKGROUND).all()
    unreal = torch.tensor([[-1.0, 100, 100, 200, 200, 1]])
    assert (match(boxes, unreal, low=0.4, high=0.5, forced=True).objects == BACKGROUND).all(), (
        "it only fills up"
    )


def test_objects_without_area_are_nobodys():
    rows = torch.tensor([[0.0, 50, 50, 50, 50, 0]])
    boxes = torch.tensor([[0.0, 0, 100, 100], [50, 50, 50, 50]])
    assert match(boxes, rows, low=0.4, high=0.5, forced=True).objects.tolist() == [BACKGROUND] * 2


# ---------------------------------------------------------------- losses

ANCHORS = [[0.0, 0, 100, 100], [0, 20, 100, 120], [0, 40, 100, 140], [300, 300, 400, 400]]


def spy(*, wants_iou):
    """A score loss that keeps the targets it is asked about; the loss is 1 everywhere."""
    seen = []
    return seen, ScoreLoss(wants_iou, lambda logits, targets: (seen.append(targets), logits * 0 + 1)[1])


@pytest.mark.parametrize(
    ("wants_iou", "second"), [(False, 1.0), (True, 80 / 120)], ids=["one", "iou of the predicted box"]
)
def test_scores_are_to_be_one_or_the_iou(wants_iou, second):
    seen, score = spy(wants_iou=wants_iou)
    targets = torch.tensor([[NOBODY_ROW, OBJECT]])
    found = retinanet_losses(outputs_for(ANCHORS), targets, GIOU, score, 1.0)
    want = torch.zeros(4, 3)
    want[0, 2], want[1, 2] = 1.0, second
    assert torch.allclose(seen[0][[0, 1, 3]], want[[0, 1, 3]])
    # Two anchors are the object, one is undecided, one background: three of three classes each, by two.
    assert found["classes"].item() == pytest.approx(9 / 2)


@pytest.mark.parametrize("name", list(BOX_LOSSES))
def test_boxes_are_judged_decoded_by_every_loss(name):
    loss = BOX_LOSSES[name].make()
    targets = torch.tensor([[OBJECT], [[0.0, 310, 290, 420, 410, 0]]])
    outputs = outputs_for(ANCHORS, images=2)
    off = retinanet_losses(outputs, targets, loss, FOCAL, 1.0)["boxes"]
    (slope,) = torch.autograd.grad(off, outputs.shifts)
    assert (slope.abs().sum(-1) > 0).tolist() == [[False, True, True, False], [False, False, False, True]]
    objects = targets[:, :, 1:5].expand(2, 4, 4).reshape(-1, 4)
    right = CODER.encode_single(objects, outputs.anchors.repeat(2, 1)).reshape(2, 4, 4)
    on = retinanet_losses(outputs._replace(shifts=right), targets, loss, FOCAL, 1.0)["boxes"]
    assert off > 0.05
    assert on.abs() < 1e-4


def test_the_box_loss_sees_each_anchors_own_object_and_is_divided_by_their_number():
    pairs = []
    loss = BoxLoss(lambda said, truth: (pairs.append((said, truth)), said.sum(1) * 0 + 6)[1])
    targets = torch.tensor([[OBJECT, NOBODY_ROW], [[0.0, 310, 290, 420, 410, 0], OBJECT]])
    found = retinanet_losses(outputs_for(ANCHORS, images=2), targets, loss, FOCAL, 2.0)
    said, truth = pairs[0]
    assert said.tolist() == [ANCHORS[i] for i in (0, 1, 2, 0, 1, 2, 3)], "undecided ones, too"
    assert truth[:6].tolist() == [OBJECT[1:5]] * 6
    assert truth[6].tolist() == [310, 290, 420, 410]
    assert found["boxes"].item() == 12


def test_the_weight_is_of_the_boxes_alone():
    targets = torch.tensor([[OBJECT]])
    one, five = (retinanet_losses(outputs_for(ANCHORS), targets, GIOU, FOCAL, w) for w in (1.0, 5.0))
    assert torch.allclose(five["boxes"], 5 * one["boxes"])
    assert torch.equal(five["classes"], one["classes"])


def test_scores_in_a_crowd_learn_nothing():
    crowd = [0.0, 290, 290, 410, 410, 1]
    for rows, learns in (([NOBODY_ROW], [True] * 4), ([crowd], [True, True, True, False])):
        outputs = outputs_for(ANCHORS)
        found = retinanet_losses(outputs, torch.tensor([rows]), GIOU, FOCAL, 1.0)
        (slope,) = torch.autograd.grad(found["classes"], outputs.scores)
        assert (slope.abs().sum(-1) > 0)[0].tolist() == learns
        assert found["boxes"] == 0


@pytest.mark.parametrize("name", list(SCORE_LOSSES))
@pytest.mark.parametrize("rows", [0, 2])
def test_pictures_without_objects_teach_that_there_are_none(name, rows):
    targets = torch.tensor([NOBODY_ROW]).repeat(2, rows, 1)
    outputs = outputs_for(ANCHORS, images=2)
    found = retinanet_losses(outputs, targets, GIOU, SCORE_LOSSES[name].make(), 2.0)
    sum(found.values()).backward()
    assert found["classes"] > 0
    assert found["boxes"] == 0
    slope = outputs.scores.grad
    assert (slope >= 0).all(), "downhill no score rises"
    # A loss of the hardest examples alone lets the easy ones be.
    assert (slope > 0).any() if name == "hard_cross_entropy" else (slope > 0).all()
    assert (outputs.shifts.grad == 0).all()


def test_arithmetic_of_boxes_is_precise_under_autocast():
    torch.manual_seed(0)
    network = RetinaNet(CHANNELS, classes=2, width=16, depth=1)
    targets = torch.tensor([[[1.0, 30, 40, 90, 120, 0]], [NOBODY_ROW]])
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(maps_for(320, 256))
        found = retinanet_losses(outputs, targets, GIOU, FOCAL, 1.0)
        exact = outputs.boxes
    assert {part.dtype for part in (*outputs, exact, *found.values())} == {torch.float32}
    assert torch.equal(exact, outputs.boxes)
    sum(found.values()).backward()
    assert all(part.grad.isfinite().all() for part in network.parameters())


# ---------------------------------------------------------------- reading


def test_reading_sorts_cuts_off_and_drops_doubles_of_one_class():
    anchors = [
        [-20.0, 10, 30, 60],  # over the left edge
        [-20.0, 12, 30, 62],  # nearly the same
        [60, 60, 150, 150],  # over the right and lower edge
        [200, 200, 240, 240],  # beyond the canvas
    ]
    chances = torch.tensor([[[0.6, 0.3], [0.8, 0.02], [0.7, 0.001], [0.9, 0.9]]])
    outputs = AnchorOutputs(chances.logit(), torch.zeros(1, 4, 4), torch.tensor(anchors))
    (found,) = read_anchors(outputs, width=120, height=100)
    want = [[0, 0.8, 0, 12, 30, 62], [0, 0.7, 60, 60, 120, 100], [1, 0.3, 0, 10, 30, 60]]
    assert torch.allclose(found, torch.tensor(want), atol=1e-4)


def test_reading_gives_at_most_a_hundred_of_each_picture():
    torch.manual_seed(0)
    outputs = RetinaNet(CHANNELS, classes=3, width=16).eval()(maps_for(320, 256))
    outputs = outputs._replace(
        scores=torch.randn_like(outputs.scores), shifts=torch.randn_like(outputs.shifts)
    )
    for found in read_anchors(outputs, width=320, height=256):
        assert found.shape == (100, 6)
        assert (found[:-1, 1] >= found[1:, 1]).all()
        assert (found[:, 2:4] >= 0).all()
        assert (found[:, 4:] <= torch.tensor([320, 256])).all()
        assert (found[:, 4:] > found[:, 2:4]).all()
        for label in range(3):
            boxes = found[found[:, 0] == label, 2:]
            assert len(boxes) > 5
            assert box_iou(boxes, boxes).fill_diagonal_(0).max() <= 0.6


# ---------------------------------------------------------------- learning


def trained(steps, *, seed=0):
    torch.manual_seed(seed)
    pictures, targets = drawn()
    network = nn.Sequential(Encoder(), RetinaNet(CHANNELS, classes=2, width=16, depth=1))
    optimizer = torch.optim.Adam(network.parameters())
    course = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=80)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(retinanet_losses(network(pictures), targets, GIOU, FOCAL, 2.0).values()).backward()
        optimizer.step()
        course.step()
    return network


def finds_everything(answers, targets):
    """Every object is answered by one of its class that overlaps it by over half; nothing else is said."""
    for found, rows in zip(answers, targets, strict=True):
        said, objects = found[found[:, 1] > 0.5], rows[rows[:, 0] >= 0]
        hits = (box_iou(objects[:, 1:5], said[:, 2:]) > 0.5) & (objects[:, :1] == said[:, 0])
        assert len(said) == len(objects), f"{said} for {objects}"
        assert (hits.sum(0) == 1).all(), f"{said} for {objects}"
        assert (hits.sum(1) == 1).all(), f"{said} for {objects}"


def test_learns_four_pictures_by_heart():
    pictures, targets = drawn()
    network = trained(80).eval()
    with torch.no_grad():
        finds_everything(read_anchors(network(pictures), width=96, height=96), targets)
        blank = read_anchors(network(0.4 * torch.rand(4, 3, 96, 96)), width=96, height=96)
    assert all((found[:, 1] < 0.5).all() for found in blank), "nothing is found where nothing is"


def test_one_seed_makes_one_network():
    first, second, other = (trained(3, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
