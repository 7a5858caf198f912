"""What `auto` becomes: by rule, with its reason; and what a user said is never touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pictune.data.sample import Dataset, Labels, Sample
from pictune.errors import RecipeError
from pictune.models.weights import Weights
from pictune.recipes import Recipe, read_recipe
from pictune.verbs import settling
from pictune.verbs.tables import TABLES
from pictune.verbs.weighing import class_weights, draw_weights


def recipe(**sections) -> Recipe:
    return read_recipe(sections, TABLES)


def pictures(counts: dict[str, int], *, side: int = 200, multilabel: bool = False) -> Dataset:
    """So many pictures of each class, all of them to learn from."""
    samples = [
        Sample(f"{name}/{i}.png", Path(), Labels((name,)), width=side + 50, height=side)
        for name, count in counts.items()
        for i in range(count)
    ]
    splits = {"train": tuple(range(len(samples)))}
    return Dataset(Path(), "folders", "classification", tuple(counts), tuple(samples), multilabel, splits)


def weights(kind: str):
    """A search for weights that always ends like this; it notes for which networks it was asked."""
    asked: list[str] = []

    def find(network: str) -> Weights:
        asked.append(network)
        return Weights(kind, network, None, None, "", "")

    return find, asked


@pytest.mark.parametrize(
    ("given", "kind", "gpu", "name", "asked", "reason"),
    [
        ({}, "none", False, "resnet9", "mobilenetv4_conv_small", "no pretrained weights could be had"),
        ({}, "none", True, "resnet9", "resnet50", "no pretrained weights could be had"),
        ({}, "hub", False, "mobilenetv4_conv_small", "mobilenetv4_conv_small", "pretrained"),
        ({}, "hub", True, "resnet50", "resnet50", "pretrained"),
        ({"weights": "none"}, "none", False, "resnet9", "resnet9", "from scratch"),
        ({"name": "vgg11"}, "none", False, "vgg11", "vgg11", None),
        ({"name": "vgg11", "weights": "w.pth"}, "file", True, "vgg11", "vgg11", None),
    ],
)
def test_the_network_follows_from_what_weights_can_be_had(given, kind, gpu, name, asked, reason):
    find, networks = weights(kind)
    settled, found, reasons = settling.settle_network(recipe(model=given), gpu=gpu, find=find)
    assert (settled.model.name, networks[0], found.kind) == (name, asked, kind)
    assert (reason is None) == (reasons == {})
    assert reason is None or reason in reasons["model.name"]


def test_a_file_of_weights_needs_the_name_of_its_network():
    find, networks = weights("file")
    with pytest.raises(RecipeError, match="of which network"):
        settling.settle_network(recipe(model={"weights": "w.pth"}), gpu=False, find=find)
    assert networks == []


@pytest.mark.parametrize(
    ("side", "gpu", "scratch", "size"),
    [
        (20, False, True, 64),
        (84, False, True, 96),
        (83, False, True, 64),
        (3000, False, True, 96),
        (3000, False, False, 128),
        (100, False, False, 96),
        (3000, True, True, 224),
        (150, True, False, 128),
    ],
)
def test_the_size_is_the_largest_that_the_pictures_fill(side, gpu, scratch, size):
    dataset = pictures({"a": 3, "b": 4}, side=side)
    settled, reasons = settling.settle_size(recipe(), dataset, gpu=gpu, scratch=scratch)
    assert settled.model.image_size == size
    assert f"shorter side of {side} pixels" in reasons["model.image_size"]


def test_where_no_picture_could_be_opened_the_size_is_the_usual_one():
    empty = pictures({"a": 0, "b": 0})
    assert settling.settle_size(recipe(), empty, gpu=False, scratch=True)[0].model.image_size == 96


@pytest.mark.parametrize(
    ("count", "start", "epochs", "batch"),
    [
        (20, "none", 100, 8),
        (600, "none", 100, 32),
        (3000, "none", 50, 32),
        (50_000, "none", 15, 32),
        (20, "starter", 40, 8),
        (2000, "hub", 25, 32),
        (50_000, "starter", 15, 32),
    ],
)
def test_epochs_and_batches_follow_from_how_many_pictures_there_are(count, start, epochs, batch):
    dataset = pictures({"a": count // 2, "b": count // 2})
    settled, reasons = settling.settle_training(recipe(), dataset, gpu=False, start=start)
    assert (settled.training.epochs, settled.training.batch_size) == (epochs, batch)
    assert f"{count:,} pictures" in reasons["training.epochs"]


@pytest.mark.parametrize(
    ("counts", "multilabel", "chosen", "loss"),
    [
        ({"a": 40, "b": 14}, False, "accuracy", "cross_entropy"),
        ({"a": 42, "b": 14}, False, "macro_f1", "cross_entropy"),
        ({"a": 40, "b": 40}, True, "macro_f1", "binary_cross_entropy"),
        ({"a": 40, "b": 40, "c": 0}, False, "accuracy", "cross_entropy"),
    ],
)
def test_uneven_classes_are_judged_by_macro_f1(counts, multilabel, chosen, loss):
    dataset = pictures(counts, multilabel=multilabel)
    settled, _ = settling.settle_training(recipe(), dataset, gpu=False, start="none")
    assert (settled.training.select_by, settled.loss.name) == (chosen, loss)


def test_what_was_given_stays_and_needs_no_reason():
    given = recipe(
        model={"name": "cnn", "image_size": 48, "height": 0, "head": "none", "fit": "crop"},
        loss={"name": "focal", "gamma": 1.5},
        optimizer={"name": "sgd", "learning_rate": 0.1},
        schedule={"name": "step"},
        mixing={"name": "mixup"},
        composition={"name": "none"},
        technique={"name": "gradual"},
        transfer={"views": 0},
        augmentation={"preset": "heavy"},
        training={"epochs": 3, "batch_size": 5, "select_by": "log_loss"},
    )
    dataset = pictures({"a": 100, "b": 3})
    settled, reasons = settling.settle_size(given, dataset, gpu=False, scratch=True)
    settled, more = settling.settle_training(settled, dataset, gpu=False, start="none")
    assert (reasons, more) == ({}, {})
    for section in ("model", "transfer", "augmentation", "training"):
        assert getattr(settled, section) == getattr(given, section)
    assert (settled.loss.name, settled.loss.settings["gamma"]) == ("focal", 1.5)
    assert (settled.optimizer.name, settled.optimizer.settings["learning_rate"]) == ("sgd", 0.1)
    assert (settled.schedule.name, settled.mixing.name) == ("step", "mixup")
    assert settled.technique.name == "gradual"


@pytest.mark.parametrize(
    ("given", "pretrained", "technique"),
    [
        ({}, False, "full"),
        ({}, True, "lp_ft"),
        ({"training": {"preset": "fast"}}, True, "head"),
        ({"transfer": {"freeze": "backbone"}}, False, "head"),
        ({"transfer": {"freeze": "2"}}, True, "lp_ft"),
        ({"technique": {"name": "lora"}}, True, "lora"),
    ],
)
def test_the_technique_follows_from_where_the_network_starts(given, pretrained, technique):
    dataset = pictures({"a": 50, "b": 50})
    settled, _ = settling.settle_training(
        recipe(**given), dataset, gpu=False, start="starter" if pretrained else "none"
    )
    assert settled.technique.name == technique


@pytest.mark.parametrize(
    ("given", "views"),
    [
        ({"technique": {"name": "head"}}, 4),
        ({"transfer": {"freeze": "1"}}, 4),
        ({"technique": {"name": "full"}}, 0),
        ({"technique": {"name": "head"}, "augmentation": {"preset": "none"}}, 0),
        ({"technique": {"name": "head"}, "mixing": {"name": "mixup"}}, 0),
        ({"technique": {"name": "head"}, "training": {"epochs": 5}}, 0),
        ({"technique": {"name": "head"}, "transfer": {"views": 7}}, 7),
    ],
)
def test_views_take_turns_where_features_of_them_can_be_kept(given, views):
    dataset = pictures({"a": 50, "b": 50})
    settled, _ = settling.settle_training(recipe(**given), dataset, gpu=False, start="starter")
    assert settled.transfer.views == views


@pytest.mark.parametrize(
    ("given", "start", "rate"),
    [
        ({}, "hub", 5e-4),
        ({}, "file", 5e-4),
        ({}, "starter", 2e-3),
        ({}, "none", 2e-3),
        ({"technique": {"name": "full"}}, "hub", 5e-4),
        ({"technique": {"name": "lora"}}, "hub", 2e-3),
        ({"optimizer": {"learning_rate": 1e-3}}, "hub", 1e-3),
        ({"optimizer": {"name": "adamw"}}, "hub", 2e-3),
    ],
)
def test_published_weights_are_moved_gently(given, start, rate):
    dataset = pictures({"a": 50, "b": 50})
    settled, reasons = settling.settle_training(recipe(**given), dataset, gpu=False, start=start)
    assert settled.optimizer.settings["learning_rate"] == rate
    assert ("optimizer.learning_rate" in reasons) == (rate == 5e-4)


def test_a_pull_towards_pretrained_weights_needs_some():
    with pytest.raises(RecipeError, match="there are none"):
        settling.settle_training(
            recipe(transfer={"l2_sp": 0.1}), pictures({"a": 9, "b": 9}), gpu=False, start="none"
        )


def test_settings_that_do_not_fit_what_auto_chose_are_named():
    given = recipe(loss={"gamma": 2}, optimizer={"momentum": 0.5})
    with pytest.raises(RecipeError) as caught:
        settling.settle_training(given, pictures({"a": 9, "b": 9}), gpu=False, start="none")
    told = str(caught.value)
    assert "loss.gamma" in told
    assert "optimizer.momentum" in told
    assert "--set loss.name=focal" in told


def test_rare_classes_weigh_and_are_drawn_more():
    targets = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    assert class_weights(targets) == pytest.approx([2 / 3, 2])
    assert draw_weights(targets) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    both = np.array([[1, 0], [1, 1], [1, 0], [0, 0]], np.float32)
    drawn = draw_weights(both)
    assert drawn[1] > drawn[0]
    assert drawn[3] == drawn.min(), "a picture without any label is drawn like the commonest"


def split(train: int, val: int, test: int) -> Dataset:
    whole = pictures({"a": (train + val + test) // 2, "b": (train + val + test) // 2})
    ends = (0, train, train + val, train + val + test)
    rows = {n: tuple(range(ends[i], ends[i + 1])) for i, n in enumerate(("train", "val", "test"))}
    return Dataset(
        whole.root, whole.format, whole.task, whole.classes, whole.samples, multilabel=False, splits=rows
    )


def timed(minutes: float, *, per_image: float, given: bool = False, epochs: int = 50, **sections):
    asked = recipe(
        technique={"name": "full"}, transfer={"cache": False},
        training={"minutes": minutes, "epochs": epochs}, **sections,
    )  # fmt: skip
    return settling.settle_time(
        asked, split(800, 100, 100), seconds=60 * minutes, per_image=per_image, given=given, cached=False
    )


def test_as_many_epochs_are_planned_as_fit_into_the_time():
    settled, seconds, reasons = timed(5, per_image=0.01)
    epoch = 1.15 * 0.01 * (800 + 0.35 * (100 + 256))
    assert settled.training.epochs == int(seconds / epoch) > 10
    assert 0.8 * 300 < seconds < 300
    assert f"{settled.training.epochs} of 50 epochs fit into 5 minutes" in reasons["training.epochs"]


def test_time_to_spare_changes_nothing():
    settled, seconds, reasons = timed(60, per_image=0.001)
    assert (settled.training.epochs, reasons) == (50, {})
    assert seconds > 3000


def test_epochs_that_were_given_are_planned_all_the_same():
    settled, seconds, reasons = timed(2, per_image=0.01, given=True)
    assert (settled.training.epochs, reasons) == (50, {})
    assert 0 < seconds < 120


def test_a_time_too_short_for_one_epoch_is_refused():
    with pytest.raises(RecipeError, match="too short") as caught:
        timed(0.2, per_image=0.05)
    assert "--technique head" in str(caught.value)


def test_starter_weights_follow_where_the_hub_has_none():
    def find(network: str) -> Weights:
        own = network == "resnet9"
        kind, obstacle = ("starter", "") if own else ("none", "the hub is away")
        return Weights(kind, "", None, None, "", f"{network} from {kind}.", obstacle)

    settled, found, reasons = settling.settle_network(recipe(), gpu=False, find=find)
    assert (settled.model.name, found.kind) == ("resnet9", "starter")
    assert found.sentence == "No weights of the hub could be had: the hub is away. resnet9 from starter."
    assert "no pretrained weights could be had" in reasons["model.name"]


@pytest.mark.parametrize(
    "wish",
    [
        {"composition": {"name": "mosaic"}},
        {"evaluation": {"goal": "recall:0.9"}},
        {"model": {"head": "fcos"}},
    ],
)
def test_what_lies_on_pictures_is_not_for_classes(wish):
    dataset = pictures({"a": 50, "b": 50})

    def settle() -> None:
        settled, _ = settling.settle_size(recipe(**wish), dataset, gpu=False, scratch=True)
        settling.settle_training(settled, dataset, gpu=False, start="none")

    with pytest.raises(RecipeError, match=next(iter(wish))):
        settle()
