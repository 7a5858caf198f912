"""Features read from disk stand for the pictures they were made of, in every batch of every epoch."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lessons import SIDE, TRAIN, VAL, lesson, loader
from torch import nn

from looks import Look
from pictune.data.loading import Loader
from pictune.data.truths import ClassTruths
from pictune.errors import StoppedError
from pictune.models.backbones import build_network
from pictune.models.boundary import Cut, cut
from pictune.models.freezing import freeze_layers, frozen_tensors
from pictune.models.preprocess import Preprocess
from pictune.training.feature_store import FeatureEntry, FeatureOverflowError, feature_key
from pictune.training.features import ROWS, ComputedFeatures, FeatureLoader, Pass, fill
from pictune.training.fitting import fit
from pictune.training.plan import Plan

CPU = torch.device("cpu")
COUNT, LARGE = 50, 32


class Toy(nn.Module):
    """Convolutions to maps of five channels, more to seven numbers, and a head with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1)
        )
        self.flat = nn.Sequential(nn.Conv2d(5, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 7))
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(7, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        planes = pixels.permute(0, 3, 1, 2).float() / 255 - 0.5
        return self.fc(self.drop(self.flat(self.maps(planes).relu()).relu()))


def toy_cut(*learning: str) -> tuple[nn.Module, Cut]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Toy()
        nn.init.uniform_(network.maps[1].running_mean, -0.5, 0.5)
    for name, parameter in network.named_parameters():
        parameter.requires_grad = name.startswith(learning)
    made = cut(network, image_size=SIDE)
    assert made is not None
    return network, made


MAPS, VECTORS = ("flat", "fc"), ("fc",)  # what learns above a feature map, and above a vector
SHAPES = {MAPS: (5, SIDE, SIDE), VECTORS: (7,)}


def entry_of(folder: Path, made: Cut, *, view: str = "clean", rows: int = TRAIN + VAL, dtype="float16"):
    key = feature_key(weights=made.fingerprint, pixels="p", view=view, dtype=dtype)
    shape = (*made.shape[1:], made.shape[0]) if len(made.shape) == 3 else made.shape
    return FeatureEntry.open(folder, key, rows=rows, shape=shape, dtype=dtype, facts={})


def filled(
    entry: FeatureEntry, made: Cut, pictures: Loader, *, view: int = 0, stop=lambda: 0
) -> FeatureEntry:
    fill(entry, Pass(made.below, CPU, nullcontext), pictures, view=view, stop=stop)
    return entry


def stored(entry: FeatureEntry, rows: np.ndarray) -> bytes:
    return entry.read(rows, as_stored=True).numpy().tobytes()


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("learning", [MAPS, VECTORS])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": 5},
        {"shuffled": False, "batch_size": 7},
        {"weights": np.arange(TRAIN) + 1.0},
        {"positions": np.array([30, 2, 17, 9, 4])},
        {"seed": 3, "workers": 2},
    ],
)
def test_features_come_as_the_pictures_would_and_are_what_lies_below(tmp_path, learning, changes):
    _, made = toy_cut(*learning)
    pictures = loader(views=2, **changes)
    entries = [
        filled(entry_of(tmp_path, made, view=str(view)), made, pictures, view=view) for view in range(2)
    ]
    features = FeatureLoader(pictures, entries)
    assert len(features) == len(pictures)
    assert np.array_equal(features.positions, pictures.positions)
    for epoch in range(3):
        ours, theirs = list(features.batches(epoch)), list(pictures.batches(epoch))
        assert len(ours) == len(theirs) > 0
        for one, other in zip(ours, theirs, strict=True):
            assert np.array_equal(one.positions, other.positions)
            assert np.array_equal(one.targets, other.targets)
            with torch.no_grad():
                expected = made.below(torch.from_numpy(other.images)).numpy()
            assert one.images.shape == expected.shape == (len(other.images), *SHAPES[learning])
            assert one.images.dtype == np.float32
            np.testing.assert_allclose(one.images, expected, rtol=2**-10, atol=2**-12)
        start = len(theirs) // 2
        rest = list(features.batches(epoch, start=start))
        assert [b.positions.tolist() for b in rest] == [b.positions.tolist() for b in ours[start:]]
        assert all(np.array_equal(a.images, b.images) for a, b in zip(rest, ours[start:], strict=True))


def test_maps_come_with_channels_last_in_memory_and_first_in_shape(tmp_path):
    _, made = toy_cut(*MAPS)
    pictures = loader(look=Look())
    entry = filled(entry_of(tmp_path, made), made, pictures)
    assert entry.shape == (SIDE, SIDE, 5)
    batch = next(FeatureLoader(pictures, [entry]).batches())
    images = torch.from_numpy(batch.images)
    assert tuple(images.shape) == (4, 5, SIDE, SIDE)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert not images.is_contiguous()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_views_take_turns(tmp_path, count):
    _, made = toy_cut(*VECTORS)
    pictures = loader(views=count, shuffled=False, batch_size=TRAIN)
    entries = [
        filled(entry_of(tmp_path, made, view=str(view)), made, pictures, view=view) for view in range(count)
    ]
    features = FeatureLoader(pictures, entries)
    seen = [next(features.batches(epoch)).images for epoch in range(2 * count)]
    for epoch in range(count):
        assert np.array_equal(seen[epoch], seen[epoch + count])
    assert len({images.tobytes() for images in seen}) == count


# ---------------------------------------------------------------- filling


@pytest.fixture(scope="module")
def real() -> tuple[Cut, Loader]:
    """A network whose convolutions are computed in blocks, and more pictures than one pass takes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = build_network("resnet9", outputs=3, image_size=LARGE)
    freeze_layers(backbone, frozen_tensors(backbone, "3"))
    preprocess = Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)
    made = cut(nn.Sequential(OrderedDict(preprocess=preprocess, backbone=backbone)), image_size=LARGE)
    assert made is not None
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, LARGE, LARGE, 3), dtype=np.uint8)
    pictures = Loader(
        pictures=list(pixels),
        truths=ClassTruths(np.eye(3, dtype=np.float32)[np.arange(COUNT) % 3]),
        positions=np.arange(COUNT),
        look=Look(),
        batch_size=8,
        workers=0,
    )
    return made, pictures


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("first", [[*range(10)], [49], [3, 31, 32, 33, 48], [*range(0, 50, 2)]])
def test_a_row_is_the_same_bits_whatever_was_missing_beside_it(tmp_path, real, first, dtype):
    made, pictures = real
    every = np.arange(COUNT)
    whole = filled(entry_of(tmp_path / "whole", made, rows=COUNT, dtype=dtype), made, pictures)
    pieces = entry_of(tmp_path / "pieces", made, rows=COUNT, dtype=dtype)
    filled(pieces, made, replace(pictures, positions=np.array(first), batch_size=3))
    assert np.array_equal(np.setdiff1d(every, pieces.missing(every)), first)
    filled(pieces, made, pictures)
    assert stored(whole, every) == stored(pieces, every)


def test_what_is_there_is_not_computed_again(tmp_path, real):
    made, pictures = real
    entry = filled(entry_of(tmp_path, made, rows=COUNT), made, replace(pictures, positions=np.arange(40)))
    before = stored(entry, np.arange(40))
    calls: list[int] = []

    class Counting(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            calls.append(len(images))
            return made.below(images)

    through = Pass(Counting(), CPU, nullcontext)
    fill(entry, through, replace(pictures, positions=np.arange(40)), view=0, stop=lambda: 0)
    assert calls == []
    fill(entry, through, pictures, view=0, stop=lambda: 0)
    assert calls == [ROWS], "ten rows, in a batch of the usual size"
    assert stored(entry, np.arange(40)) == before
    assert len(entry.missing(np.arange(COUNT))) == 0


def test_a_signal_stops_the_pass_and_keeps_what_was_computed(tmp_path, real):
    made, pictures = real
    every = np.arange(COUNT)
    entry = entry_of(tmp_path / "stopped", made, rows=COUNT)
    with pytest.raises(StoppedError, match="those that were are kept") as caught:
        filled(entry, made, pictures, stop=lambda: 15)
    assert caught.value.exit_code == 128 + 15
    entry.close()
    again = entry_of(tmp_path / "stopped", made, rows=COUNT)
    assert np.array_equal(again.missing(every), every[ROWS:])
    filled(again, made, pictures)
    whole = filled(entry_of(tmp_path / "whole", made, rows=COUNT), made, pictures)
    assert stored(again, every) == stored(whole, every)


def test_only_the_rows_that_are_named_are_computed(tmp_path):
    _, made = toy_cut(*VECTORS)
    entry = filled(entry_of(tmp_path, made), made, loader(positions=np.array([7, 7, 30, 2])))
    assert np.array_equal(entry.missing(np.arange(TRAIN + VAL)), np.setdiff1d(range(TRAIN + VAL), [2, 7, 30]))


def test_mixing_balancing_and_order_do_not_touch_what_is_stored(tmp_path):
    """They belong to the batches of an epoch, not to a picture's view."""
    _, made = toy_cut(*VECTORS)
    plain = loader(views=2, shuffled=False)

    def mix(images, targets, generator):
        return images[::-1].copy(), targets

    odd = replace(plain, shuffled=True, weights=np.arange(TRAIN) + 1.0, mix=mix, seed=9, batch_size=3)
    rows = np.arange(TRAIN)
    one = filled(entry_of(tmp_path / "one", made), made, plain, view=1)
    other = filled(entry_of(tmp_path / "other", made), made, odd, view=1)
    assert stored(one, rows) == stored(other, rows)


def test_normalisation_and_dropout_below_are_still_while_features_are_computed(tmp_path):
    network, made = toy_cut(*MAPS)
    network.train()
    before = network.maps[1].running_mean.clone()
    entry = filled(entry_of(tmp_path, made), made, loader(look=Look()))
    assert torch.equal(network.maps[1].running_mean, before)
    rows = np.array([3])
    with torch.no_grad():
        pixels = torch.from_numpy(loader().pictures[3][None])
        expected = made.below(pixels).permute(0, 2, 3, 1)
    torch.testing.assert_close(entry.read(rows), expected, atol=1e-3, rtol=1e-3)


def test_a_value_too_large_for_half_precision_is_refused(tmp_path):
    network, made = toy_cut(*VECTORS)
    with torch.no_grad():
        network.flat[3].bias[0] = 1e6
    with pytest.raises(FeatureOverflowError):
        filled(entry_of(tmp_path, made), made, loader())
    filled(entry_of(tmp_path, made, dtype="bfloat16"), made, loader())


# ---------------------------------------------------------------- learning from them


@pytest.mark.parametrize("learning", [MAPS, VECTORS])
def test_training_on_features_ends_where_training_on_pictures_does(tmp_path, learning):
    """With the same views, order, dropout and steps; but for the rounding of what is stored."""
    ends = []
    for cached in (False, True):
        network, made = toy_cut(*learning)
        first = network.fc.weight.detach().clone()
        pictures = loader(views=2)
        folder = tmp_path / str(cached)
        job = lesson(
            folder,
            network=made.above if cached else network,
            pictures=pictures,
            optimizer="adamw",
            rate=0.02,
            plan=Plan(cycles=(4,), clip=1.0),
            validate=lambda _: {"accuracy": 0.5, "log_loss": 1.0},
        )
        if cached:
            entries = [
                filled(entry_of(tmp_path, made, view=str(view), dtype="float32"), made, pictures, view=view)
                for view in range(2)
            ]
            job = replace(job, loader=FeatureLoader(pictures, entries))
        fit(job)
        losses = [row["train_loss"] for row in job.journal.lines("epoch")]
        ends.append((network.fc.weight.detach(), losses, network.maps[0].weight.detach()))
        assert not torch.allclose(ends[-1][0], first, atol=0.01)
    torch.testing.assert_close(ends[0][0], ends[1][0], atol=1e-3, rtol=1e-2)
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-3)
    assert torch.equal(ends[0][2], ends[1][2])


def test_features_computed_each_time_are_those_that_would_be_kept(tmp_path, real):
    made, pictures = real
    entry = filled(entry_of(tmp_path / "kept", made, rows=COUNT), made, pictures)
    through = Pass(made.below, CPU, nullcontext)
    computed = ComputedFeatures(replace(pictures, shuffled=False), through)
    kept = FeatureLoader(replace(pictures, shuffled=False), [entry])
    assert len(computed) == len(kept)
    for one, other in zip(computed.batches(0), kept.batches(0), strict=True):
        assert np.array_equal(one.positions, other.positions)
        assert np.array_equal(one.targets, other.targets)
        assert np.allclose(one.images, other.images, rtol=1e-3, atol=1e-5)
        assert one.images.shape == other.images.shape
