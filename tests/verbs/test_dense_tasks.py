"""Detection and segmentation from end to end, through the verbs, on pictures drawn here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from asking import ask
from test_training_techniques import Stopping, checksums

import toys
from pictune.errors import RecipeError, StoppedError
from pictune.run import Journal, Run
from pictune.tasks.model import Model
from pictune.verbs.evaluate import evaluate
from pictune.verbs.predict import predict
from pictune.verbs.train import train

QUIET = (
    "training.precision=fp32",
    "training.memory_format=contiguous",
    "training.threads=1",
    "training.workers=0",
    "evaluation.resamples=100",
    "split.near_duplicates=false",
)


@pytest.fixture(scope="session")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.box_table(tmp_path_factory.mktemp("boxes") / "scenes")


@pytest.fixture(scope="session")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.mask_folders(tmp_path_factory.mktemp("masks") / "scenes")


def learn(data: Path, *settings: str, **given: Any) -> Run:
    quick = {"model": "resnet9", "weights": "starter", "epochs": 2, "batch_size": 4, "name": "x"}
    return train(data, settings=[*QUIET, *settings], **{**quick, **given})


@pytest.fixture(scope="session")
def detector(boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return learn(boxes, epochs=14, runs=tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="session")
def segmenter(masks: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return learn(masks, epochs=8, runs=tmp_path_factory.mktemp("segmenter"))


def report_of(run: Run) -> dict[str, Any]:
    return json.loads((run.report("test") / "report.json").read_text())


class TestDetection:
    def test_shapes_are_found(self, detector: Run) -> None:
        report = report_of(detector)
        assert report["task"] == "detection"
        assert report["metrics"]["map50"]["value"] > 0.5
        assert {row["class"] for row in report["per_class"]} == {"circle", "square"}
        for number in ("map", "map50"):
            low, value, high = (report["metrics"][number][end] for end in ("low", "value", "high"))
            assert low <= value <= high

    def test_thresholds_are_chosen_on_validation_and_kept_in_the_model(self, detector: Run) -> None:
        model = Model.load(detector.model)
        assert len(model.specification.thresholds) == 2
        assert all(0 < threshold < 1 for threshold in model.specification.thresholds)

    def test_what_is_judged_again_is_the_same(self, detector: Run) -> None:
        before = report_of(detector)
        assert evaluate(detector).content["metrics"] == before["metrics"]

    def test_answers_are_boxes_and_can_be_drawn(self, detector: Run, boxes: Path, here: Path) -> None:
        pictures = boxes.parent / "pictures"
        answers = predict(detector, pictures, save=here / "drawn")
        assert len(answers.drawn) == len(answers.answers) == 36
        first = cv2.imread(str(answers.drawn[0]))
        assert first is not None
        assert first.shape == (64, 64, 3)
        rows = answers.rows()
        found = [box for row in rows for box in row["boxes"]]
        assert found
        for box in found:
            assert 0 <= box["left"] < box["right"] <= 64
            assert 0 <= box["top"] < box["bottom"] <= 64
            assert box["class"] in {"circle", "square"}

    def test_on_the_command_line(self, detector: Run, boxes: Path, here: Path) -> None:
        picture = next((boxes.parent / "pictures").iterdir())
        answer = ask("predict", detector.path, picture, "--json")
        assert answer.code == 0, answer.err
        assert set(json.loads(answer.out)["predictions"][0]) == {"path", "boxes"}

    def test_pictures_are_drawn_in_the_report(self, detector: Run) -> None:
        page = (detector.report("test") / "report.html").read_text()
        assert "data:image/jpeg;base64," in page
        assert "Green boxes are right" in page


class TestSegmentation:
    def test_shapes_are_segmented(self, segmenter: Run) -> None:
        report = report_of(segmenter)
        assert report["task"] == "segmentation"
        assert report["metrics"]["mean_iou"]["value"] > 0.5
        assert [row["class"] for row in report["per_class"]] == ["ground", "circle", "square"]
        counted = np.array(report["confusion"]["counts"])
        assert counted.sum() == 6 * 64 * 64

    def test_what_is_judged_again_is_the_same(self, segmenter: Run) -> None:
        before = report_of(segmenter)
        assert evaluate(segmenter).content["metrics"] == before["metrics"]

    def test_answers_are_shares_and_can_be_drawn(self, segmenter: Run, masks: Path, here: Path) -> None:
        answers = predict(segmenter, masks / "images" / "test", save=here / "drawn")
        assert len(answers.drawn) == 6
        for row in answers.rows():
            assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-4)

    def test_with_another_loss(self, masks: Path, here: Path) -> None:
        run = learn(masks, "loss.label_smoothing=0.1", loss="0.5*dice+cross_entropy", epochs=1)
        assert report_of(run)["metrics"]["mean_iou"]["value"] is not None
        loss = yaml.safe_load((run.path / "recipe.yaml").read_text())["loss"]
        assert loss == {"name": "0.5*dice+cross_entropy", "smooth": 1.0, "label_smoothing": 0.1}


def test_a_run_starts_from_what_another_one_has_learnt(detector: Run, masks: Path, here: Path) -> None:
    weights = detector.model / "weights.safetensors"
    run = learn(masks, weights=str(weights), epochs=1, freeze="backbone")
    before, after = Model.load(detector.model), Model.load(run.model)
    one, two = (model.network.state_dict() for model in (before, after))
    encoder = [name for name in one if ".encoder." in name]
    assert all(bool((one[name] == two[name]).all()) for name in encoder)


CASES = {
    "boxes": ("boxes", ()),
    "boxes, frozen": ("boxes", ("transfer.freeze=backbone",)),
    "boxes, layer by layer": ("boxes", ("technique.name=gradual", "transfer.layer_decay=0.7")),
    "boxes, adapters": ("boxes", ("technique.name=lora", "technique.rank=2")),
    "boxes, mosaic": ("boxes", ("composition.name=mosaic",)),
    "masks": ("masks", ()),
    "masks, copy and paste": ("masks", ("composition.name=copy_paste", "model.head=fpn")),
    "masks, heavy augmentation": ("masks", ("augmentation.preset=heavy",)),
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_continued_it_ends_the_same(case: str, boxes: Path, masks: Path, here: Path) -> None:
    kind, settings = CASES[case]
    data = boxes if kind == "boxes" else masks
    whole = learn(data, *settings, runs=here / "whole")
    with pytest.raises(StoppedError):
        learn(data, *settings, runs=here / "parts", watcher=Stopping(8))
    again = learn(data, *settings, runs=here / "parts")
    assert checksums(again) == checksums(whole)
    assert len(Journal(again.journal).lines("epoch")) == 2


def test_frozen_layers_are_shipped_as_they_came(boxes: Path, here: Path) -> None:
    frozen = learn(boxes, "transfer.freeze=backbone", epochs=1, runs=here / "a")
    more = learn(boxes, "transfer.freeze=backbone", epochs=2, runs=here / "b")
    one, two = (Model.load(run.model).network.state_dict() for run in (frozen, more))
    encoder = [name for name in one if ".encoder." in name]
    assert encoder
    assert all(bool((one[name] == two[name]).all()) for name in encoder)
    top = [name for name in one if ".top." in name and name.endswith("weight")]
    assert any(not bool((one[name] == two[name]).all()) for name in top)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("mixing.name=mixup",), "mixing.name"),
        (("model.head=unet",), "model.head=unet is not for detection"),
        (("composition.name=mosaik",), "did you mean mosaic"),
        (("training.class_weights=balanced",), "training.class_weights"),
        (("model.image_size=50",), "multiples of 32"),
        (("loss.name=dice",), "cannot learn from boxes"),
        (("training.select_by=accuracy",), "no number of detection"),
    ],
)
def test_wishes_that_make_no_sense_are_told(
    settings: tuple[str, ...], words: str, boxes: Path, here: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        learn(boxes, *settings)
    assert words in str(caught.value)
    assert not (here / "runs").exists()
