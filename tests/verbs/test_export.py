"""`export` from end to end: what was trained is what answers, or nothing is written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from asking import ask, traces
from onnx import numpy_helper
from test_dense_tasks import boxes, detector, learn, masks, segmenter  # noqa: F401 - fixtures

from likeness import likeness
from odd_files import odd_pictures
from pictune.data.decoding import decode
from pictune.errors import ArtifactError, RecipeError
from pictune.exporting.artifact import Artifact
from pictune.exporting.exported import Exported
from pictune.exporting.graph import make_graph
from pictune.exporting.quantising import quantise
from pictune.recipe_text import load_yaml
from pictune.recipes import read_recipe
from pictune.run import Run
from pictune.tasks.model import Model
from pictune.verbs.export import export
from pictune.verbs.export_trial import Trial, packed, unpacked
from pictune.verbs.opening import open_run
from pictune.verbs.predict import predict
from pictune.verbs.tables import TABLES


def same_rows(first: list[dict], second: list[dict]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert one["labels"] == other["labels"]
        assert one["confidences"] == pytest.approx(other["confidences"], abs=1e-4)


def same_everywhere(artifact: Path | str, run: Run, folder: Path) -> None:
    """Both answer 200 odd pictures alike, and with more than one class, so that something is compared."""
    pictures = odd_pictures(folder, count=200)
    theirs, ours = predict(run, *pictures), predict(artifact, *pictures)
    assert not theirs.unreadable
    found = likeness(theirs.answers, ours.answers)
    assert found.pictures == 200
    assert found.same, found
    assert found.confidence < 1e-4
    assert found.coordinate < 0.01
    assert len(found.answered) > 1
    assert min(found.answered.values()) >= 10


class TestClassifier:
    def test_it_is_written_with_a_card_and_answers_as_the_run_does(self, finished, here: Path) -> None:
        before = traces(finished.run.path), traces(finished.photos)
        answer = ask("export", finished.run.path, "--json")
        assert answer.code == 0, answer.err
        path = here / "exports" / "teal-fox.pictune"
        assert answer.json["artifact"] == "exports/teal-fox.pictune"
        assert answer.json["gate"]["passed"]
        assert answer.json["gate"]["agreement"] == 1
        artifact = Artifact.open(path)
        assert artifact.id == answer.json["id"]
        card = artifact.files["MODEL_CARD.md"].decode()
        assert all(word in card for word in ("circle", "cross", "square", "passed the gate", "accuracy"))
        assert str(Path.home()) not in card
        pictures = odd_pictures(here / "odd", count=60)
        ours = ask("predict", path, here / "odd", "--json")
        theirs = ask("predict", finished.run.path, here / "odd", "--json")
        same_rows(ours.json["predictions"], theirs.json["predictions"])
        assert len(ours.json["predictions"]) == len(pictures)
        assert (traces(finished.run.path), traces(finished.photos)) == before

    @pytest.mark.parametrize("words", [("--fp16",), ("--format", "openvino"), ("--format", "torch")])
    def test_other_files_pass_the_same_gate(self, finished, here: Path, words) -> None:
        answer = ask("export", finished.run.path, *words, "--out", "other.pictune")
        assert answer.code == 0, answer.err
        assert answer.out.startswith("passed the gate")
        if "torch" not in words:
            Exported.open(here / "other.pictune").self_test()

    def test_a_table_of_answers(self, finished, here: Path) -> None:
        assert ask("export", finished.run.path, "--out", "teal.pictune").code == 0
        answer = ask("predict", "teal.pictune", finished.photos / "circle", "--csv", "out.csv")
        assert answer.code == 0, answer.err
        rows = (here / "out.csv").read_text().splitlines()
        assert rows[0] == "path,class,confidence,share,answered,left,top,right,bottom,error"
        assert len(rows) == 1 + 20 * 3
        assert sum(",yes," in row for row in rows) == 20
        refused = ask("predict", "teal.pictune", finished.photos, "--csv", finished.photos / "out.csv")
        assert refused.code == 2
        assert "lies among the pictures" in refused.err

    def test_it_is_asked_without_pytorch(self, finished, here: Path) -> None:
        assert ask("export", finished.run.path, "--out", "teal.pictune").code == 0
        code = (
            "import sys\n"
            "for name in ('torch', 'torchvision', 'timm', 'accelerate'): sys.modules[name] = None\n"
            f"sys.argv = ['pictune', 'predict', 'teal.pictune', {str(finished.photos / 'cross')!r}]\n"
            "from pictune.cli import main\n"
            "main()\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 20

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--format", "tflite"), "the format tflite is not known; there are onnx, openvino, torch"),
            (("--int8", "--fp16"), "exclude each other"),
            (("--format", "torch", "--int8"), "in fp32 only"),
        ],
    )
    def test_wishes_that_cannot_be(self, finished, here: Path, words, said: str) -> None:
        answer = ask("export", finished.run.path, *words)
        assert answer.code == 2
        assert said in answer.err
        assert list(here.iterdir()) == []


def trial_of(run: Run) -> Trial:
    model, recipe = Model.load(run.model), read_recipe(load_yaml(run.path / "recipe.yaml"), TABLES)
    return Trial(model, open_run(run, recipe, side=model.specification.side), recipe)


def judged(trial: Trial, graph: onnx.ModelProto, precision: str = "fp32"):
    return trial.judge({"model.onnx": graph.SerializeToString()}, "onnx", precision).verdict


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A classifier that knows its shapes: one that guesses has no answers that a fault could change."""
    import toys
    from pictune.verbs.train import train

    place = tmp_path_factory.mktemp("learnt")
    photos = toys.shape_folders(place / "photos", counts=dict.fromkeys(toys.SHAPES, 40))
    settings = ["training.threads=1", "training.precision=fp32", "evaluation.resamples=100"]
    return train(
        photos, settings=settings, model="resnet9", weights="starter", epochs=4, batch_size=16, runs=place
    )


class TestBroken:
    """An export that was broken on purpose is refused."""

    def test_swapped_channels(self, learnt: Run) -> None:
        trial = trial_of(learnt)
        graph = make_graph(trial.model)
        assert judged(trial, graph).passed
        swap = onnx.helper.make_node("Gather", ["pixels", "order"], ["swapped"], axis=3)
        for node in graph.graph.node:
            node.input[:] = ["swapped" if name == "pixels" else name for name in node.input]
        graph.graph.node.insert(0, swap)
        graph.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "order"))
        # These shapes are known by their outlines, so that a network hardly minds; the gate does.
        assert not judged(trial, graph).passed
        assert not judged(trial, graph, "fp16").passed

    @pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
    def test_a_wrong_mean(self, learnt: Run, precision: str) -> None:
        trial = trial_of(learnt)
        wrong = replace(trial.model, network=Model.load(learnt.model).network)
        wrong.network.get_submodule("preprocess").mean.zero_()
        found = judged(trial, make_graph(wrong), precision)
        assert not found.passed, found.summary()

    def test_a_bad_scale_of_int8(self, learnt: Run) -> None:
        trial = trial_of(learnt)
        graph = quantise(make_graph(trial.model), trial.canvases("train", 32))
        sound = judged(trial, graph, "int8")
        assert sound.passed
        scales = {n.input[1] for n in graph.graph.node if n.op_type == "DequantizeLinear"}
        weights = [
            t for t in graph.graph.initializer if t.name in scales and numpy_helper.to_array(t).size > 1
        ]
        worst = weights[len(weights) // 2]
        worst.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(worst) * 4, worst.name))
        assert not judged(trial, graph, "int8").passed

    def test_nothing_is_written_unless_the_loss_is_accepted(
        self, learnt: Run, here: Path, monkeypatch
    ) -> None:
        def broken(model: Model, **wishes: bool) -> onnx.ModelProto:
            model.network.get_submodule("preprocess").mean.zero_()
            graph = make_graph(model, **wishes)
            model.network.load_state_dict(Model.load(learnt.model).network.state_dict())
            return graph

        monkeypatch.setattr("pictune.verbs.export.make_graph", broken)
        with pytest.raises(ArtifactError, match="refused") as caught:
            export(learnt, out="broken.pictune")
        assert caught.value.causes
        assert not Path("broken.pictune").exists()
        done = export(learnt, out="broken.pictune", accept_loss=True)
        assert done.verdict.overruled
        artifact = Artifact.open(Path("broken.pictune"))
        assert artifact.content["gate"]["overruled"]
        assert "The gate refused this model" in artifact.files["MODEL_CARD.md"].decode()


def test_a_classifier_that_knows_its_shapes_answers_the_same(learnt: Run, here: Path) -> None:
    done = export(learnt, out="shapes.pictune")
    same_everywhere(done.path, learnt, here / "odd")


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_boxes_and_masks_are_the_same_everywhere(kind: str, request, here: Path) -> None:
    run = request.getfixturevalue(kind)
    done = export(run, out="dense.pictune")
    assert done.verdict.passed
    assert done.verdict.agreement == pytest.approx(1, abs=1e-4)
    same_everywhere("dense.pictune", run, here / "odd")
    exported = Exported.open("dense.pictune")
    looked = exported.look((here / "odd" / "000.jpg").read_bytes())
    row = exported.row(exported.answer(exported.run(looked.canvas[None]), looked), looked, top_k=1)
    json.dumps(row, allow_nan=False)
    height, width = decode(here / "odd" / "000.jpg").pixels.shape[:2]
    assert (row["width"], row["height"]) == (width, height)
    if kind == "segmenter":
        import base64

        mask = cv2.imdecode(
            np.frombuffer(base64.b64decode(row["mask"]["png"]), np.uint8), cv2.IMREAD_UNCHANGED
        )
        assert mask.shape == (height, width)
        assert len(row["shares"]) == 1


def test_a_head_that_cannot_be_exported_says_so(boxes: Path, here: Path) -> None:  # noqa: F811
    run = learn(boxes, "model.head=faster_rcnn", epochs=1, runs=here / "runs")
    with pytest.raises(RecipeError, match="faster_rcnn"):
        export(run)
    assert not (here / "exports").exists()


def test_large_answers_are_kept_small_and_whole() -> None:
    large = np.zeros((400, 300), np.uint8)
    large[100:200] = 7
    assert len(packed(large).content) < large.nbytes / 50
    np.testing.assert_array_equal(unpacked(packed(large)), large)
    small = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(unpacked(packed(small)), small)
