"""RT-DETRv2 and D-FINE over an encoder's maps: answers, losses, and what happens at the edges."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pictune.errors import RecipeError
from pictune.models import query_detectors
from pictune.models.box_losses import focal, giou, paired_iou
from pictune.models.query_detectors import Kind, QueryDetector, QueryOutputs, query_losses, read_queries

pytest.importorskip("transformers", reason="the optional library of RT-DETRv2 and D-FINE is not installed")

CHANNELS = (8, 12, 16)
CANVAS = (96, 64)
both = pytest.mark.parametrize("kind", ["rt_detr_v2", "d_fine"])
BOX, SCORE = giou(), focal()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer queries than in use, so that a step takes a moment."""
    monkeypatch.setattr(query_detectors, "QUERIES", 30)
    monkeypatch.setattr(query_detectors, "DENOISING", 10)
    monkeypatch.setattr(query_detectors, "DECODER_LAYERS", 2)
    torch.manual_seed(0)


def detector(kind: Kind, *, canvas: tuple[int, int] = CANVAS, classes: int = 3) -> QueryDetector:
    return QueryDetector(CHANNELS, classes=classes, canvas=canvas, kind=kind)


def drawn_maps(n: int, *, canvas: tuple[int, int] = CANVAS) -> list[Tensor]:
    """The maps an encoder would give, random."""
    width, height = canvas
    return [
        torch.randn(n, channels, -(-height // stride), -(-width // stride), requires_grad=True)
        for channels, stride in zip(CHANNELS, query_detectors.STRIDES, strict=True)
    ]


def targets_of(*images: Sequence[tuple[float, ...]], most: int = 3) -> Tensor:
    """[n, most, 6], filled up with nobody."""
    found = torch.zeros(len(images), most, 6)
    found[..., 0] = -1
    for rows, image in zip(found, images, strict=True):
        for number, row in enumerate(image):
            rows[number] = torch.tensor(row)
    return found


TWO = targets_of([(0, 8, 8, 40, 30, 0), (2, 50, 20, 90, 60, 0)], [(1, 4, 30, 28, 54, 0)])


def summed(outputs: QueryOutputs, targets: Tensor) -> Tensor:
    return torch.stack(list(query_losses(outputs, targets, BOX, SCORE).values())).sum()


@both
@pytest.mark.parametrize(
    ("canvas", "queries"), [((320, 256), 30), ((96, 96), 30), ((64, 160), 30), ((32, 32), 21)]
)
def test_answers_lie_on_the_canvas_surest_first(kind: Kind, canvas: tuple[int, int], queries: int) -> None:
    network = detector(kind, canvas=canvas).eval()
    with torch.no_grad():
        outputs = network(drawn_maps(2, canvas=canvas), TWO)
    assert outputs.logits.shape == (2, queries, 3)  # no more queries than places
    assert outputs.boxes.shape == (2, queries, 4)
    assert not outputs.classes_loss.numel()  # true boxes are not looked at in evaluation mode
    answers = read_queries(outputs, width=canvas[0], height=canvas[1])
    assert len(answers) == 2
    for found in answers:
        assert found.shape[1] == 6
        assert 0 < len(found) <= query_detectors.MOST
        assert (found[:, 1].diff() <= 0).all()
        assert ((found[:, 0] >= 0) & (found[:, 0] < 3)).all()
        assert (found[:, 2:] >= 0).all()
        assert (found[:, 2:] <= torch.tensor(canvas).repeat(2)).all()
        assert (found[:, 2:4] <= found[:, 4:]).all()


def test_a_canvas_that_the_coarsest_map_does_not_divide_is_refused() -> None:
    with pytest.raises(RecipeError, match="96 x 70"):
        detector("d_fine", canvas=(96, 70))


def test_unsure_answers_are_dropped_and_boxes_are_cut_off() -> None:
    sure = torch.tensor([[[2.0, -9.0], [-9.0, 3.0], [-9.0, -9.0]]])
    boxes = torch.tensor([[[-5.0, 2, 30, 20], [10, 10, 120, 90], [0, 0, 5, 5]]])
    none = torch.zeros(0)
    (found,) = read_queries(QueryOutputs(sure, boxes, none, none, none, none), width=96, height=64)
    assert found[:, 0].tolist() == [1, 0]
    assert found[:, 1].tolist() == pytest.approx([0.9526, 0.8808], abs=1e-3)
    assert found[:, 2:].tolist() == [[10, 10, 96, 64], [0, 2, 30, 20]]


@both
def test_losses_are_finite_and_reach_every_map_and_weight(kind: Kind) -> None:
    network, maps = detector(kind), drawn_maps(2)
    outputs = network(maps, TWO)
    losses = query_losses(outputs, TWO, BOX, SCORE)
    assert list(losses) == ["classes", "boxes", "overlap", *(["edges"] if kind == "d_fine" else [])]
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    summed(outputs, TWO).backward()
    assert all(found.grad is not None and found.grad.abs().sum() > 0 for found in maps)
    assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]


@both
@pytest.mark.parametrize("targets", [torch.zeros(2, 0, 6), targets_of([], [])], ids=["no rows", "nobody"])
def test_pictures_without_objects_still_teach_every_weight(kind: Kind, targets: Tensor) -> None:
    network, maps = detector(kind), drawn_maps(2)
    loss = summed(network(maps, targets), targets)
    loss.backward()
    assert loss.isfinite()
    assert all(found.grad is not None and found.grad.isfinite().all() for found in maps)
    assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]


@both
def test_crowds_and_objects_off_the_canvas_are_not_taught(kind: Kind) -> None:
    more = TWO.clone()
    more[0, 2] = torch.tensor([1, 10, 10, 60, 60, 1])  # a crowd
    more[1, 1] = torch.tensor([1, -30, 10, -2, 60, 0])
    more[1, 2] = torch.tensor([1, 10, 10, 10, 60, 0])  # without an area
    network, maps = detector(kind), drawn_maps(2)
    losses = []
    for targets in (TWO, more):
        torch.manual_seed(1)
        losses.append(summed(network(maps, targets), targets).detach())
    assert torch.equal(*losses)


@both
def test_more_objects_than_queries(kind: Kind) -> None:
    left = torch.arange(40.0)
    rows = torch.stack([left % 3, left, left / 2, left + 20, left / 2 + 15, left * 0], dim=1)
    assert summed(detector(kind)(drawn_maps(1), rows[None]), rows[None]).isfinite()


@both
def test_training_without_true_boxes_gives_answers_only(kind: Kind) -> None:
    outputs = detector(kind)(drawn_maps(2))
    assert outputs.logits.requires_grad
    with pytest.raises(AssertionError, match="training mode"):
        query_losses(outputs, TWO, BOX, SCORE)


def test_boxes_count_as_much_as_is_wished() -> None:
    outputs = detector("d_fine")(drawn_maps(2), TWO)
    usual, more = (query_losses(outputs, TWO, BOX, SCORE, weight) for weight in (2.0, 6.0))
    assert torch.equal(usual["classes"], more["classes"])
    for name in ("boxes", "overlap", "edges"):
        assert torch.allclose(usual[name] * 3, more[name])


@both
def test_the_same_seed_gives_the_same_losses_under_autocast_too(kind: Kind) -> None:
    torch.manual_seed(3)
    one, other = detector(kind), copy.deepcopy(detector(kind))
    other.load_state_dict(one.state_dict())
    maps, losses = [found.detach().bfloat16() for found in drawn_maps(2)], []
    for network in (one, other):
        torch.manual_seed(4)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network(maps, TWO)
            losses.append(summed(outputs, TWO))
        assert outputs.boxes.dtype == outputs.logits.dtype == torch.float32
    assert torch.equal(losses[0], losses[1])


@both
def test_saved_and_loaded_it_answers_alike(kind: Kind, tmp_path: Path) -> None:
    one, other = detector(kind).eval(), detector(kind).eval()
    maps = drawn_maps(2)
    save_file(one.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(one(maps), other(maps), strict=True))
    # What was worked out without gradients is kept by the library, and must not be in training's way.
    summed(other.train()(maps, TWO), TWO).backward()


@both
def test_weights_that_are_no_numbers_make_a_loss_that_is_none(kind: Kind) -> None:
    network = detector(kind)
    with torch.no_grad():
        for weights in network.detector.model.enc_bbox_head.parameters():
            weights.fill_(torch.nan)
    assert summed(network(drawn_maps(2), TWO), TWO).isnan()


def test_a_fault_of_the_library_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    network = detector("rt_detr_v2")

    def broken(*_: object, **__: object) -> None:
        raise ValueError("something else")

    monkeypatch.setattr(type(network.detector), "loss_function", property(lambda _: broken))
    with pytest.raises(ValueError, match="something else"):
        network(drawn_maps(2), TWO)


def test_without_the_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RecipeError, match=r"pip install 'pictune\[detr\]'"):
        detector("d_fine")


def test_an_older_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # The library takes its own place in this list once more when first used.
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "5.9.1")
    with pytest.raises(RecipeError, match=r"5\.9\.1 is installed"):
        detector("rt_detr_v2")


ALONE = """
import socket, sys
def refuse(*_, **__):
    raise AssertionError("a request")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
import pictune
from pictune.models.query_detectors import QueryDetector
assert "transformers" not in sys.modules, "it is imported by those who want it only"
for kind in ("rt_detr_v2", "d_fine"):
    QueryDetector([8, 8, 8], classes=2, canvas=(64, 64), kind=kind)
"""


def test_building_asks_no_network_and_importing_pictune_does_not_import_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


class Stages(nn.Module):
    """A small encoder."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [3, 8, 8, *CHANNELS]
        layers = [
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(sizes)
        ]
        self.stages = nn.ModuleList([nn.Sequential(*layers[:3]), *layers[3:]])

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps


@both
@pytest.mark.slow
def test_squares_are_learnt(kind: Kind) -> None:
    targets = targets_of(
        [(0, 8, 8, 32, 32, 0)],
        [(1, 50, 20, 82, 52, 0)],
        [(0, 4, 30, 28, 54, 0), (1, 60, 6, 84, 30, 0)],
        [(1, 20, 10, 52, 42, 0)],
    )
    images = torch.zeros(4, 3, 64, 96)
    for image, rows in zip(images, targets, strict=True):
        for label, left, top, right, bottom, _ in rows[rows[:, 0] >= 0].int().tolist():
            image[2 * label, top:bottom, left:right] = 1
    encoder, network = Stages(), detector(kind, classes=2)
    weights = [*encoder.parameters(), *network.parameters()]
    optimiser, apart = torch.optim.AdamW(weights, lr=1e-3), []
    for _ in range(70):
        losses = query_losses(network(encoder(images), targets), targets, BOX, SCORE)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        apart.append((losses["boxes"] + losses["overlap"]).item())
    assert apart[-1] < apart[0] / 2
    encoder.eval()
    with torch.inference_mode():
        answers = read_queries(network.eval()(encoder(images)), width=96, height=64)
    for found, rows in zip(answers, targets, strict=True):
        for row in rows[rows[:, 0] >= 0]:
            alike = found[(found[:, 0] == row[0]) & (found[:, 1] > 0.4), 2:]
            assert paired_iou(alike, row[1:5].expand_as(alike)).max() > 0.7
