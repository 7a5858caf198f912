"""Detection and segmentation from end to end, through the verbs, on pictures drawn here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from asking import ask
from test_training_techniques import Stopping, checksums

import toys
from pictune.errors import DataError, RecipeError, StoppedError
from pictune.run import Journal, Run
from pictune.tasks.model import Model
from pictune.verbs.evaluate import evaluate
from pictune.verbs.predict import predict
from pictune.verbs.train import Silent, train

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

    def test_another_goal_moves_the_thresholds(self, boxes: Path, here: Path) -> None:
        """The weights are the same; only from which score on an answer counts differs."""
        eager = learn(boxes, "evaluation.goal=recall:1", epochs=3, runs=here / "a")
        plain = learn(boxes, epochs=3, runs=here / "b")
        one, two = (Model.load(run.model).specification for run in (eager, plain))
        assert (one.facts["goal"], two.facts["goal"]) == ("recall:1", "f1")
        report = report_of(eager)
        assert report["goal"] == "recall:1"
        low = any(row["recall"]["value"] < 1 for row in report["per_class"])
        assert low == any(finding["code"] == "goal_missed" for finding in report["findings"])
        assert all(low <= high for low, high in zip(one.thresholds, two.thresholds, strict=True))
        assert one.thresholds != two.thresholds

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

    def test_nothing_is_written_among_what_was_learnt_from(
        self, segmenter: Run, masks: Path, here: Path
    ) -> None:
        asked = here / "new.png"
        asked.write_bytes(next((masks / "images" / "test").iterdir()).read_bytes())
        for words in ({"save": masks / "drawn"}, {"csv": masks / "images" / "answers.csv"}):
            with pytest.raises(DataError) as refused:
                predict(segmenter, asked, **words)
            assert refused.value.code in {"inside_data", "target_in_data"}
        assert not (masks / "drawn").exists()
        answers = predict(segmenter, asked, save=here / "drawn", csv=here / "answers.csv")
        assert [path.name for path in answers.drawn] == ["00001-new.png"]

    def test_answers_are_shares_and_can_be_drawn(self, segmenter: Run, masks: Path, here: Path) -> None:
        answers = predict(segmenter, masks / "images" / "test", save=here / "drawn")
        assert len(answers.drawn) == 6
        height, width = cv2.imread(str(answers.drawn[0])).shape[:2]
        assert width == 64
        assert height > 64  # the names of the colours stand below
        for row in answers.rows():
            assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-4)

    def test_with_another_loss(self, masks: Path, here: Path) -> None:
        run = learn(masks, "loss.label_smoothing=0.1", loss="0.5*dice+cross_entropy", epochs=1)
        assert report_of(run)["metrics"]["mean_iou"]["value"] is not None
        loss = yaml.safe_load((run.path / "recipe.yaml").read_text())["loss"]
        assert loss == {"name": "0.5*dice+cross_entropy", "smooth": 1.0, "label_smoothing": 0.1}


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_the_head_alone_sees_pictures_as_they_are_and_then_composed_ones(
    kind: str, boxes: Path, masks: Path, here: Path
) -> None:
    data = boxes if kind == "boxes" else masks
    run = learn(data, "composition.name=mosaic", "technique.probe_epochs=1", technique="lp_ft", epochs=1)
    assert run.read("status.json")["state"] == "finished"


@pytest.mark.parametrize("loss", ["focal", "label_smoothing", "cross_entropy"])
def test_a_loss_of_masks_is_not_asked_for_settings_of_its_namesake(
    loss: str, masks: Path, here: Path
) -> None:
    if loss == "label_smoothing":
        run = learn(masks, "loss.label_smoothing=0.1", loss="cross_entropy", epochs=1)
    else:
        run = learn(masks, loss=loss, epochs=1)
    name = "cross_entropy" if loss == "label_smoothing" else loss
    assert yaml.safe_load((run.path / "recipe.yaml").read_text())["loss"]["name"] == name


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_rare_classes_may_count_more(kind: str, boxes: Path, masks: Path, here: Path) -> None:
    data = boxes if kind == "boxes" else masks
    run = learn(data, "training.class_weights=balanced", epochs=1, runs=here / "a")
    plain = learn(data, epochs=1, runs=here / "b")
    one, two = ((r.model / "weights.safetensors").read_bytes() for r in (run, plain))
    assert one != two


def test_a_run_starts_from_what_another_one_has_learnt(detector: Run, masks: Path, here: Path) -> None:
    weights = detector.model / "weights.safetensors"
    run = learn(masks, weights=str(weights), epochs=1, freeze="backbone")
    before, after = Model.load(detector.model), Model.load(run.model)
    one, two = (model.network.state_dict() for model in (before, after))
    encoder = [name for name in one if ".encoder." in name]
    assert all(bool((one[name] == two[name]).all()) for name in encoder)


@pytest.mark.parametrize("head", ["retinanet", "faster_rcnn", "rt_detr_v2", "d_fine"])
def test_every_head_of_a_detector_trains_is_kept_and_answers(head: str, boxes: Path, here: Path) -> None:
    run = learn(boxes, head=head, epochs=2, image_size=64)
    model = Model.load(run.model)
    assert model.specification.head == head
    losses = [line["train_loss"] for line in Journal(run.journal).lines("epoch")]
    assert losses[1] < losses[0]
    assert report_of(run)["metrics"]["map50"]["value"] is not None
    again = evaluate(run, split="val").content["metrics"]["map50"]["value"]
    assert again == pytest.approx(
        max(line["val_map50"] for line in Journal(run.journal).lines("epoch")), abs=0.2
    )


@pytest.mark.parametrize("head", ["fpn", "deeplabv3plus", "segformer"])
def test_every_decoder_trains_is_kept_and_answers(head: str, masks: Path, here: Path) -> None:
    run = learn(masks, head=head, epochs=2)
    assert Model.load(run.model).specification.head == head
    losses = [line["train_loss"] for line in Journal(run.journal).lines("epoch")]
    assert losses[1] < losses[0]
    assert report_of(run)["metrics"]["mean_iou"]["value"] > 0.2


CASES = {
    "boxes": ("boxes", ()),
    "boxes, frozen": ("boxes", ("transfer.freeze=backbone",)),
    "boxes, layer by layer": ("boxes", ("technique.name=gradual", "transfer.layer_decay=0.7")),
    "boxes, the head on cached maps": ("boxes", ("transfer.freeze=backbone", "transfer.views=1")),
    "masks, the head first": ("masks", ("technique.name=lp_ft", "technique.probe_epochs=2")),
    "boxes, adapters": ("boxes", ("technique.name=lora", "technique.rank=2")),
    "boxes, mosaic": ("boxes", ("composition.name=mosaic",)),
    "masks": ("masks", ()),
    "boxes, two stages": ("boxes", ("model.head=faster_rcnn",)),
    "boxes, queries": ("boxes", ("model.head=d_fine",)),
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


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_cached_maps_give_what_pictures_give(kind: str, boxes: Path, masks: Path, here: Path) -> None:
    data, settings = (boxes if kind == "boxes" else masks), ("transfer.freeze=backbone", "transfer.views=2")
    kept = learn(data, *settings, epochs=6, runs=here / "kept")
    computed = learn(data, *settings, epochs=6, cache=False, runs=here / "computed")
    assert kept.read("made_by.json")["reading"] == "cached"
    assert computed.read("made_by.json")["reading"] == "computed"
    one, two = ((run.model / "weights.safetensors").read_bytes() for run in (kept, computed))
    assert one == two


def test_the_head_learns_alone_before_all_layers_do(boxes: Path, here: Path) -> None:
    told: list[str] = []

    class Listening(Silent):
        def say(self, sentence: str) -> None:
            told.append(sentence)

    run = learn(boxes, "technique.probe_epochs=12", technique="lp_ft", epochs=1, watcher=Listening())
    plain = learn(boxes, technique="full", epochs=1, runs=here / "plain")
    assert any(s.startswith("The head learnt alone for 12 epochs: validation map") for s in told)
    assert len(Journal(run.journal).lines("epoch")) == 1
    first, other = (Journal(r.journal).lines("epoch")[0]["train_loss"] for r in (run, plain))
    assert first < 0.8 * other
    before, after = Model.load(run.model).network.state_dict(), Model.load(plain.model).network.state_dict()
    encoder = [name for name in before if ".encoder." in name and name.endswith("weight")]
    assert any(not bool((before[name] == after[name]).all()) for name in encoder)


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
        (("model.head=d_fine", "loss.box=ciou"), "has losses of its own"),
        (("evaluation.goal=recall",), "precision:0.9"),
        (("model.head=unet",), "model.head=unet is not for detection"),
        (("composition.name=mosaik",), "did you mean mosaic"),
        (("training.class_weights=balanced", "model.head=faster_rcnn"), "training.class_weights"),
        (("model.image_size=50",), "multiples of 32"),
        (("loss.name=dice",), "cannot learn from boxes"),
        (("loss.name=focal", "loss.alpha=0.3"), "cannot learn from boxes"),
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


class TestNothingThereToFind:
    """RELIABILITY 95: without any truth numbers are absent, with a reason, and nothing is divided by zero."""

    def test_case_95_no_object_in_any_picture(self, detector: Run, boxes: Path, here: Path) -> None:
        folder = here / "empty"
        (folder / "images").mkdir(parents=True)
        names = sorted(path.name for path in (boxes.parent / "pictures").iterdir())[:4]
        for name in names:
            shutil.copy(boxes.parent / "pictures" / name, folder / "images" / name)
        document = {
            "images": [
                {"id": i, "file_name": name, "width": 64, "height": 64} for i, name in enumerate(names)
            ],
            "annotations": [],
            "categories": [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}],
        }
        (folder / "annotations.json").write_text(json.dumps(document))
        report = evaluate(detector, data=folder)
        numbers = report.content["metrics"]
        assert {numbers[name]["value"] for name in ("map", "map50", "recall", "f1")} == {None}
        assert numbers["precision"]["value"] in {0.0, None}
        assert all(row["support"] == 0 and row["ap"]["value"] is None for row in report.content["per_class"])
        assert "n/a" in report.summary()
        assert "n/a" in (report.folder / "report.html").read_text()

    def test_case_95_every_pixel_ignored(self, segmenter: Run, masks: Path, here: Path) -> None:
        folder = here / "empty"
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        for path in sorted((masks / "images" / "test").iterdir())[:4]:
            shutil.copy(path, folder / "images" / path.name)
            cv2.imwrite(str(folder / "masks" / f"{path.stem}.png"), np.full((64, 64), 9, np.uint8))
        (folder / "classes.csv").write_text(
            "id,name,ignored\n0,ground,0\n1,circle,0\n2,square,0\n9,nothing,1\n"
        )
        report = evaluate(segmenter, data=folder)
        numbers = report.content["metrics"]
        assert {measure["value"] for measure in numbers.values()} == {None}
        assert np.array(report.content["confusion"]["counts"]).sum() == 0
        assert "n/a" in report.summary()
