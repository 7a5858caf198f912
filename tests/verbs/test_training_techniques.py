"""Techniques from end to end: stopped runs go on bit for bit, the frozen stays, the cache changes nothing."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from asking import QUICK, ask, report_of
from safetensors.torch import load_file

import toys
from backbones import backbone_file
from pictune.errors import RecipeError, StoppedError
from pictune.run import Journal, Run
from pictune.training import features
from pictune.verbs import settling, transferring
from pictune.verbs.evaluate import evaluate
from pictune.verbs.train import Silent, train

SETTINGS = tuple(word for word in QUICK if "." in word)
KEPT = ("model/weights.safetensors", "model/model.json", "journal.jsonl", "reports/test/report.json")
COMPUTING = "Computing features"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backbone_file(tmp_path_factory.mktemp("weights") / "known.safetensors")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.split_folders(tmp_path_factory.mktemp("splits") / "photos", train=14, val=6, test=6)


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes that differ in colour alone: any layers that see colours can tell them apart."""
    root = tmp_path_factory.mktemp("colours") / "photos"
    for number in range(90):
        name, hue = (("red", 0), ("green", 1), ("blue", 2))[number % 3]
        generator = np.random.default_rng(number)
        pixels = generator.integers(40, 130, (toys.SIDE, toys.SIDE, 3), dtype=np.uint8)
        pixels[..., hue] += 60
        split = "train" if number < 60 else "val" if number < 75 else "test"
        path = root / split / name / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes())
    return root


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PICTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Listening(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


class Stopping(Silent):
    """Asks to stop, as Ctrl-C does, after some batches, or as soon as a sentence begins so."""

    def __init__(self, moment: int | str) -> None:
        self.left = moment if isinstance(moment, int) else -1
        self.sentence = moment if isinstance(moment, str) else None

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)

    def say(self, sentence: str) -> None:
        if self.sentence is not None and sentence.startswith(self.sentence):
            self.sentence = None
            os.kill(os.getpid(), signal.SIGINT)


def learn(photos: Path, weights: Path | str, *settings: str, **given: Any) -> Run:
    """A quick training with a tiny network that starts from a file."""
    quick = {"model": "test_resnet", "image_size": 32, "epochs": 3, "batch_size": 16, "name": "x"}
    return train(photos, weights=str(weights), settings=[*SETTINGS, *settings], **{**quick, **given})


def checksums(run: Run) -> dict[str, str]:
    return {name: hashlib.sha256((run.path / name).read_bytes()).hexdigest() for name in KEPT}


def recipe_of(run: Run) -> dict[str, Any]:
    return yaml.safe_load((run.path / "recipe.yaml").read_text())


CLEAN = "augmentation.preset=none"
CASES: dict[str, tuple[tuple[int | str, ...], tuple[str, ...]]] = {
    "full": ((1, 2), ("technique.name=full",)),
    "head": ((COMPUTING, 1, 3), ("technique.name=head", CLEAN, "technique.heads=5")),
    "head without a probe": ((2,), ("technique.name=head", "transfer.views=2", "technique.heads=1")),
    "lp_ft": ((COMPUTING, "Probe", 3), ("technique.name=lp_ft", "technique.probe_epochs=4")),
    "gradual": ((1, 3), ("technique.name=gradual",)),
    "lora": ((1, 3), ("technique.name=lora", "technique.rank=2")),
    "freeze": ((COMPUTING, 1, 3), ("technique.name=full", "transfer.freeze=layer2", "transfer.views=2")),
    "l2_sp": ((1, 3), ("technique.name=full", "transfer.l2_sp=0.5")),
    "soup": ((3, 2), ("technique.name=full", "training.soup=3", "training.ema=0")),
    "first_size": ((1, 3), ("technique.name=full", "training.first_size=16")),
    "layer_decay": ((1, 3), ("technique.name=full", "transfer.layer_decay=0.5")),
    "reinitialise": ((3,), ("technique.name=full", "transfer.reinitialise=1", "transfer.freeze=layer1")),
}


class TestGoingOn:
    """RELIABILITY F1: whenever it was stopped, it ends as if nothing had happened."""

    @pytest.mark.parametrize("name", CASES)
    def test_stopped_again_and_again_it_ends_the_same(self, here, photos, weights, monkeypatch, name) -> None:
        moments, settings = CASES[name]
        self.compare(photos, weights, moments, settings, monkeypatch)

    def test_with_a_teacher(self, here, photos, weights, monkeypatch) -> None:
        teacher = learn(photos, weights, "technique.name=full", runs=here / "teachers", epochs=1)
        settings = ("technique.name=full", f"transfer.teacher={teacher.path}")
        self.compare(photos, weights, (1, 3), settings, monkeypatch)

    def test_not_with_a_teacher_that_has_changed_or_is_gone(self, here, photos, weights) -> None:
        teacher = learn(photos, weights, technique="full", runs="teachers", epochs=1)
        settings = ("technique.name=full", f"transfer.teacher={teacher.path}")
        with pytest.raises(StoppedError):
            learn(photos, weights, *settings, watcher=Stopping(1))
        shutil.move(teacher.path, here / "kept")
        gone = ask("train", "runs/x")
        learn(photos, weights, technique="full", runs="teachers", epochs=2)
        changed = ask("train", "runs/x")
        assert (gone.code, changed.code) == (2, 2)
        assert str(teacher.path) in gone.err
        assert f"the teacher {teacher.path} has been trained anew since the run began" in changed.err
        shutil.rmtree("teachers/x")
        shutil.move(here / "kept", "teachers/x")
        assert ask("train", "runs/x").code == 0

    def compare(
        self,
        photos: Path,
        weights: Path,
        moments: tuple[int | str, ...],
        settings: tuple[str, ...],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("PICTUNE_CACHE", str(Path("cache-whole").resolve()))
        whole = learn(photos, weights, *settings, runs="whole")
        monkeypatch.setenv("PICTUNE_CACHE", str(Path("cache-stopped").resolve()))
        for moment in moments:
            with pytest.raises(StoppedError, match="Stopped"):
                learn(photos, weights, *settings, runs="stopped", watcher=Stopping(moment))
            assert Run("stopped/x").state == "stopped"
        shutil.rmtree("cache-stopped/features", ignore_errors=True)  # `pictune cache --clear` comes between
        ended = learn(photos, weights, *settings, runs="stopped")
        assert ended.state == "finished"
        assert checksums(ended) == checksums(whole)
        assert (ended.path / "recipe.yaml").read_text() == (whole.path / "recipe.yaml").read_text()

    @pytest.mark.parametrize("technique", ["head", "lora", "lp_ft"])
    def test_not_from_other_weights_where_frozen_layers_come_from_them(
        self, here, photos, weights, technique
    ) -> None:
        mine = Path(shutil.copy(weights, here / "mine.safetensors"))
        settings = ("technique.heads=2",) if technique != "lora" else ()
        with pytest.raises(StoppedError):
            learn(photos, "mine.safetensors", *settings, technique=technique, watcher=Stopping(1))
        backbone_file(mine, seed=8)
        changed = ask("train", "runs/x")
        mine.unlink()
        gone = ask("train", "runs/x")
        if technique == "lp_ft":  # everything that learns is in the checkpoint
            assert changed.code == 0, changed.err
            return
        assert (changed.code, gone.code) == (2, 2)
        assert "the weights mine.safetensors have changed since the run began" in changed.err
        assert "mine.safetensors any more" in gone.err
        assert Run("runs/x").state == "stopped"
        shutil.copy(weights, mine)
        ended = self.elsewhere(here)
        assert ended.code == 0, ended.err

    @staticmethod
    def elsewhere(here: Path) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            (here / "elsewhere").mkdir()
            patch.chdir(here / "elsewhere")
            return ask("train", here / "runs/x")

    def test_what_the_cases_claim_to_use_they_use(self, here, photos, weights, empty_cache) -> None:
        said = {}
        for name in ("head", "freeze", "lora"):
            watcher = Listening()
            run = learn(photos, weights, *CASES[name][1], runs=name.split()[0], watcher=watcher)
            said[name] = watcher.said
            assert (run.read("made_by.json")["reading"] == "cached") is (name != "lora")
        assert any(
            "Computing features of layer2, augmented view 2" in sentence for sentence in said["freeze"]
        )
        assert any("Probe: 5 heads" in sentence for sentence in said["head"])
        assert not any(COMPUTING in sentence for sentence in said["lora"])


def shipped(run: Run) -> dict[str, torch.Tensor]:
    tensors = load_file(run.path / "model" / "weights.safetensors")
    return {name.removeprefix("backbone."): tensor for name, tensor in tensors.items() if "backbone." in name}


def changed(run: Run, weights: Path) -> set[str]:
    """Names of the tensors that are not bit for bit those of the file; the head counts as changed."""
    before, after = load_file(weights), shipped(run)
    assert before.keys() == {name for name in after if not name.startswith("fc.")}
    return {name for name, tensor in after.items() if not torch.equal(tensor, before.get(name, tensor + 1))}


class TestFrozen:
    def test_layers_that_are_frozen_are_shipped_as_they_came(self, here, photos, weights) -> None:
        run = learn(photos, weights, "technique.name=full", freeze="layer2", learning_rate=0.01)
        moved = changed(run, weights)
        below = ("conv1.", "bn1.", "layer1.", "layer2.")
        assert not [name for name in moved if name.startswith(below)]
        above = {name for name in shipped(run) if not name.startswith(below)}
        assert moved == above, "everything above has learnt, statistics and counters too"

    def test_but_for_the_head_nothing_moves(self, here, photos, weights) -> None:
        run = learn(photos, weights, technique="head")
        assert changed(run, weights) == {"fc.weight", "fc.bias"}
        assert (
            learn(photos, weights, freeze="backbone", name="y")
            .read("made_by.json")["chosen"]["technique.name"]
            .startswith("auto: all but the head")
        )
        assert changed(Run("runs/y"), weights) == {"fc.weight", "fc.bias"}

    @pytest.mark.parametrize("pattern", ["all", "layer[34]"])
    def test_adapters_change_their_layers_and_nothing_else(self, here, photos, weights, pattern) -> None:
        rank = 4
        run = learn(
            photos, weights, f"technique.targets={pattern}", technique="lora", rank=rank, learning_rate=0.01
        )
        sizes = {
            name: (tensor.numel(), rank * (tensor[0].numel() + len(tensor)))
            for name, tensor in load_file(weights).items()
            if tensor.ndim == 4 and (pattern == "all" or name.startswith(("layer3.", "layer4.")))
        }
        adapted = {name: learnt for name, (own, learnt) in sizes.items() if learnt < own}
        assert len(adapted) > 5
        assert changed(run, weights) == {*adapted, "fc.weight", "fc.bias"}
        checkpoint = load_file(run.checkpoints / "last.safetensors")
        corrections = [
            tensor
            for name, tensor in checkpoint.items()
            if name.startswith("network/") and name.endswith((".down.weight", ".up.weight"))
        ]
        assert sum(tensor.numel() for tensor in corrections) == sum(adapted.values())
        ranks = [
            int(torch.linalg.matrix_rank(self.change(run, weights, name), rtol=1e-4)) for name in adapted
        ]
        assert 1 <= max(ranks) <= rank

    @staticmethod
    def change(run: Run, weights: Path, name: str) -> torch.Tensor:
        return (shipped(run)[name].double() - load_file(weights)[name].double()).flatten(1)


def scores(run: Run) -> np.ndarray:
    with (run.path / "reports/test/predictions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = [column for column in rows[0] if any(shape in column for shape in toys.SHAPES)]
    assert len(columns) == len(toys.SHAPES)
    return np.array([[float(row[column]) for column in columns] for row in rows])


class TestCache:
    @pytest.mark.parametrize(
        "settings",
        [
            ("technique.name=head",),
            # Where layers above the cut learn, the smallest difference would grow from step to step.
            ("technique.name=full", "transfer.freeze=layer2", "optimizer.learning_rate=0.005"),
        ],
    )
    def test_with_and_without_it_the_result_is_the_same(
        self, here, photos, weights, empty_cache, settings
    ) -> None:
        """What is computed each time is rounded like what is kept."""
        runs = [
            learn(photos, weights, *settings, "transfer.views=4", name=name, epochs=8, cache=cache)
            for name, cache in (("cached", None), ("plain", False))
        ]
        assert [run.read("made_by.json")["reading"] for run in runs] == ["cached", "computed"]
        assert np.abs(scores(runs[0]) - scores(runs[1])).max() < 1e-4
        losses = [report_of(run.path)["metrics"]["log_loss"]["value"] for run in runs]
        assert abs(losses[0] - losses[1]) < 1e-4

    def test_another_seed_computes_nothing_anew(
        self, here, photos, weights, empty_cache, monkeypatch
    ) -> None:
        computed = []
        plain = features.fill

        def counted(entry, below, loader, **given) -> None:
            computed.append(len(entry.missing(loader.positions)))
            plain(entry, below, loader, **given)

        monkeypatch.setattr(transferring, "fill", counted)
        asked = ("technique.name=head", "transfer.views=2", "technique.heads=5")
        first, second, third = Listening(), Listening(), Listening()
        learn(photos, weights, *asked, watcher=first)
        assert sum(computed) > 0
        assert sum(COMPUTING in sentence for sentence in first.said) == 3  # the clean view, and two more
        computed.clear()
        learn(photos, weights, *asked, name="y", seed=1, watcher=second)
        assert len(computed) >= 3
        assert sum(computed) == 0
        assert not any(COMPUTING in sentence for sentence in second.said)
        assert checksums(Run("runs/x")) != checksums(Run("runs/y"))
        other = backbone_file(here / "other.safetensors", seed=8)
        learn(photos, other, *asked, name="z", watcher=third)
        assert sum(COMPUTING in sentence for sentence in third.said) == 3

    def test_a_head_alone_computes_each_picture_once(self, here, photos, weights, empty_cache) -> None:
        watcher = Listening()
        learn(photos, weights, "technique.name=head", CLEAN, watcher=watcher)
        assert sum(COMPUTING in sentence for sentence in watcher.said) == 1
        assert ask("cache", "--json").json["entries"]

    def test_views_that_no_epoch_looks_at_are_not_computed(
        self, here, photos, weights, empty_cache, monkeypatch
    ) -> None:
        def short(recipe, dataset, **_: object):
            return recipe.with_values(training={"epochs": 3}), 1e6, {}

        monkeypatch.setattr(settling, "settle_time", short)
        first, second = Listening(), Listening()
        given = ("transfer.views=8", "training.minutes=60", "technique.heads=5")
        run = learn(photos, weights, *given, technique="head", epochs=10, watcher=first)
        assert run.read("made_by.json")["reading"] == "cached"
        assert sum("augmented view" in sentence for sentence in first.said) == 3
        train(run.path, epochs="+2", watcher=second)
        assert sum("augmented view" in sentence for sentence in second.said) == 2


class TestProbe:
    def test_its_rows_are_in_the_journal_and_its_winner_in_the_recipe(self, here, photos, weights) -> None:
        run = learn(photos, weights, technique="head")
        lines = Journal(run.journal).lines("probe")
        assert len(lines) == 1
        rows = lines[0]["rows"]
        settings = [(row["learning_rate"], row["weight_decay"], row["label_smoothing"]) for row in rows]
        assert len(settings) == len(set(settings)) == recipe_of(run)["technique"]["heads"]
        merits = [(-row["val_accuracy"], row["val_log_loss"]) for row in rows]
        assert merits == sorted(merits)
        recipe = recipe_of(run)
        assert settings[0] == (
            recipe["optimizer"]["learning_rate"],
            recipe["optimizer"]["weight_decay"],
            recipe["loss"]["label_smoothing"],
        )
        first = json.loads(run.journal.read_text().splitlines()[0])
        assert first["event"] == "probe"

    def test_a_rate_that_was_given_is_never_replaced(self, here, photos, weights) -> None:
        run = learn(photos, weights, technique="head", learning_rate=0.0123)
        rows = Journal(run.journal).lines("probe")[0]["rows"]
        assert {row["learning_rate"] for row in rows} == {0.0123}
        assert len({row["weight_decay"] for row in rows}) > 1
        assert recipe_of(run)["optimizer"]["learning_rate"] == 0.0123

    def test_its_head_is_kept_where_no_epoch_does_better(self, here, colours, weights) -> None:
        run = learn(colours, weights, technique="head", epochs=1)
        rows = [row for line in Journal(run.journal).lines("probe") for row in line["rows"]]
        epochs = Journal(run.journal).lines("epoch")
        assert rows[0]["val_accuracy"] > epochs[0]["val_accuracy"], "else this tests nothing"
        facts = json.loads((run.model / "model.json").read_text())["facts"]
        assert facts["training"]["weights of epoch"] == "none: the probe's head"
        assert facts["validation"] == {k: v for k, v in rows[0].items() if k.startswith("val_")}
        assert run.read("status.json")["best_epoch"] == 0
        judged = evaluate(run, split="val").metrics["accuracy"]["value"]
        assert judged == pytest.approx(rows[0]["val_accuracy"], abs=0.07)

    def test_its_head_is_left_where_an_epoch_does_better(self, here, colours, weights) -> None:
        run = learn(colours, weights, technique="head", epochs=12)
        rows = [row for line in Journal(run.journal).lines("probe") for row in line["rows"]]
        best = run.read("status.json")["best_epoch"]
        merits = [(row["val_accuracy"], -row["val_log_loss"]) for row in Journal(run.journal).lines("epoch")]
        probed = (rows[0]["val_accuracy"], -rows[0]["val_log_loss"])
        assert (best == 0) == (probed > max(merits))
        assert best == 0 or merits[best - 1] == max(merits)

    def test_where_everything_was_given_there_is_none(self, here, photos, weights) -> None:
        given = ("optimizer.name=adamw", "optimizer.learning_rate=0.01", "loss.name=cross_entropy")
        run = learn(photos, weights, *given, technique="head")
        assert Journal(run.journal).lines("probe") == []

    def test_fine_tuning_begins_with_its_head(self, here, colours, weights) -> None:
        given = (CLEAN, "technique.probe_epochs=40", "training.ema=0")
        probed = learn(colours, weights, *given, technique="lp_ft", epochs=1, learning_rate=1e-5, name="lp")
        plain = learn(
            colours, weights, CLEAN, "training.ema=0", technique="full", epochs=1, learning_rate=1e-5
        )
        first = [Journal(run.journal).lines("epoch")[0] for run in (probed, plain)]
        best = Journal(probed.journal).lines("probe")[0]["rows"][0]
        assert first[0]["val_accuracy"] >= first[1]["val_accuracy"] + 0.3
        assert first[0]["val_accuracy"] == pytest.approx(best["val_accuracy"], abs=0.2)
        assert recipe_of(probed)["optimizer"]["learning_rate"] == 1e-5


class TestStatistics:
    """Before a head learns on layers that will move, normalisation is fitted to the user's pictures."""

    def rows(self, *given: Any, **named: Any) -> list[dict[str, float]]:
        return Journal(learn(*given, **named).journal).lines("probe")[0]["rows"]

    def test_the_probe_sees_what_training_will_see(self, here, photos, weights) -> None:
        kept = self.rows(photos, weights, "transfer.statistics=kept", technique="lp_ft", name="kept")
        measured = self.rows(photos, weights, technique="lp_ft", name="measured")
        again = self.rows(photos, weights, technique="lp_ft", name="again")
        assert measured == again
        assert measured != kept

    def test_the_first_epoch_keeps_more_of_what_the_probe_learnt(self, here, colours, weights) -> None:
        """The file's statistics are those of other pictures; in training, batches have their own."""
        lost = {}
        for statistics in ("kept", "measured"):
            given = (f"transfer.statistics={statistics}", "technique.probe_epochs=40", "training.ema=0")
            run = learn(
                colours,
                weights,
                CLEAN,
                *given,
                technique="lp_ft",
                epochs=1,
                learning_rate=1e-6,
                name=statistics,
            )
            best = Journal(run.journal).lines("probe")[0]["rows"][0]
            lost[statistics] = Journal(run.journal).lines("epoch")[0]["train_loss"] - best["val_log_loss"]
        assert abs(lost["measured"]) < 0.5 * abs(lost["kept"])

    @pytest.mark.parametrize("technique", ["head", "full", "lora"])
    def test_where_no_head_learns_first_they_are_left_alone(self, here, photos, weights, technique) -> None:
        runs = [
            learn(photos, weights, f"transfer.statistics={kind}", technique=technique, name=kind, epochs=1)
            for kind in ("kept", "measured")
        ]
        assert len({checksums(run)["model/weights.safetensors"] for run in runs}) == 1

    @pytest.mark.parametrize("technique", ["lp_ft", "gradual"])
    def test_frozen_layers_keep_theirs(self, here, photos, weights, technique) -> None:
        run = learn(photos, weights, technique=technique, freeze="layer2")
        assert not [name for name in changed(run, weights) if name.startswith(("bn1.", "layer1.", "layer2."))]

    def test_another_seed_measures_the_same(self, here, photos, weights, empty_cache) -> None:
        first, second = Listening(), Listening()
        learn(photos, weights, technique="lp_ft", watcher=first)
        learn(photos, weights, technique="lp_ft", watcher=second, seed=1, name="y")
        assert any(COMPUTING in sentence for sentence in first.said)
        assert not any(COMPUTING in sentence for sentence in second.said)


class TestMistakes:
    """They are told in a sentence, and no traceback; `ask` lets one through."""

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--technique", "lora", "--freeze", "layer1"), "contradicts technique.name=lora"),
            (("--technique", "head", "--freeze", "layer1"), "contradicts technique.name=head"),
            (("--freeze", "layr3"), "did you mean layer3?"),
            (("--freeze", "head"), "holds the head, and nothing would be left to learn"),
            (("--freeze", "9"), "lie below the head"),
            (("--freeze", "nothing*"), "no layer fits the pattern 'nothing*'"),
            (("--technique", "full", "--rank", "8"), "technique.rank: full has no such setting"),
            (("--rank", "8"), "technique.rank"),
            (("--technique", "lora", "--rank", "0"), "technique.rank"),
            (("--technique", "lora", "--set", "technique.targets=attn"), "fits the pattern 'attn'"),
            (("--technique", "heads"), "did you mean head?"),
            (("--layer-decay", "1.5"), "transfer.layer_decay"),
            (("--weights", "none", "--set", "transfer.l2_sp=0.1"), "and there are none"),
            (("--teacher", "nowhere"), "nowhere is not a run folder"),
            (("--time", "abc"), "--time abc is no length of time"),
            (("--time", "-5m"), "is no length of time"),
            (("--preset", "quick"), "training.preset"),
        ],
    )
    def test_are_told(self, here, photos, weights, words, said) -> None:
        given = ("--weights", weights) if "--weights" not in words else ()
        answer = ask("train", photos, *SMALL, *given, *words)
        assert answer.code == 2, answer.err
        assert answer.err.count("pictune: ") == 1
        assert said in answer.err
        assert "Traceback" not in answer.err
        assert answer.out == ""
        assert not (here / "runs").exists()

    def test_a_teacher_that_knows_the_test_pictures(self, here, photos, weights) -> None:
        swapped = here / "swapped"
        shutil.copytree(photos, swapped)
        (swapped / "test").rename(swapped / "kept")
        (swapped / "train").rename(swapped / "test")
        (swapped / "kept").rename(swapped / "train")
        learn(swapped, weights, technique="full", epochs=1, name="teacher")
        heard = Listening()
        run = learn(photos, weights, technique="full", epochs=1, teacher="runs/teacher", watcher=heard)
        assert any("pictures of the test split have trained the teacher" in said for said in heard.said)
        told = {finding["code"]: finding["severity"] for finding in report_of(run.path)["findings"]}
        assert told["taught_on_these"] == "serious"

    def test_a_teacher_of_other_classes(self, here, photos, weights) -> None:
        two = toys.shape_folders(here / "two", counts={"circle": 12, "cross": 12})
        assert learn(two, weights, technique="full", epochs=1, name="teacher").state == "finished"
        answer = ask("train", photos, *SMALL, "--weights", weights, "--teacher", "runs/teacher")
        assert answer.code == 2
        assert "was not trained on these classes" in answer.err
        assert "it knows circle, cross" in answer.err
        assert "these data have circle, cross, square" in answer.err
        assert {path.name for path in (here / "runs").iterdir()} == {"teacher", "latest"}

    def test_through_python_they_are_recipe_errors(self, photos, weights, here) -> None:
        with pytest.raises(RecipeError, match="contradicts"):
            learn(photos, weights, technique="lora", freeze="backbone")


SMALL = (
    *("--model", "test_resnet", "--image-size", "32", "--batch-size", "16", "--epochs", "1"),
    *(word for setting in SETTINGS for word in ("--set", setting)),
)


class TestWords:
    def test_flags_arrive_in_the_recipe(self, here, photos, weights) -> None:
        learn(photos, weights, technique="full", epochs=1, name="teacher")
        words = ("--technique", "full", "--freeze", "layer1", "--layer-decay", "0.7", "--no-cache")
        more = ("--teacher", "runs/teacher", "--preset", "best", "--time", "90m", "--name", "a")
        answer = ask("train", photos, *SMALL, "--weights", weights, *words, *more)
        assert answer.code == 0, answer.err
        recipe = yaml.safe_load(Path("runs/a/recipe.yaml").read_text())
        assert recipe["technique"]["name"] == "full"
        assert recipe["transfer"]["freeze"] == "layer1"
        assert recipe["transfer"]["layer_decay"] == 0.7
        assert recipe["transfer"]["cache"] is False
        assert Path(recipe["transfer"]["teacher"]) == (here / "runs/teacher").resolve()
        assert (recipe["training"]["preset"], recipe["training"]["minutes"]) == ("best", 90.0)

    def test_rank_arrives_in_the_recipe(self, here, photos, weights) -> None:
        words = ("--technique", "lora", "--rank", "3", "--time", "2h", "--name", "b")
        answer = ask("train", photos, *SMALL, "--weights", weights, *words)
        assert answer.code == 0, answer.err
        recipe = yaml.safe_load(Path("runs/b/recipe.yaml").read_text())
        assert (recipe["technique"]["name"], recipe["technique"]["rank"]) == ("lora", 3)
        assert recipe["training"]["minutes"] == 120.0

    def test_layers_are_listed(self) -> None:
        answer = ask("layers", "test_resnet", "--freeze", "layer2")
        assert answer.code == 0
        lines = {line.split()[1]: line.split()[-1] for line in answer.out.splitlines() if "%  " in line}
        assert lines["layer2"] == lines["layer1"] == "frozen"
        assert lines["layer3"] == lines["head"] == "learns"
        rows = ask("layers", "test_resnet", "--freeze", "layer2", "--json").json["groups"]
        assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
        states = {row["name"]: row["learning"] == row["parameters"] for row in rows}
        assert (states["layer2"], states["layer3"]) == (False, True)
        assert {row["learning"] for row in rows if not states[row["name"]]} == {0}
        refused = ask("layers", "test_resnet", "--freeze", "layr2")
        assert (refused.code, refused.out) == (2, "")
        assert "did you mean layer2?" in refused.err

    def test_the_cache_is_listed_and_emptied(self, here, photos, weights, empty_cache) -> None:
        learn(photos, weights, CLEAN, technique="head")
        listed = ask("cache", "--json").json["entries"]
        assert sorted(entry["kind"] for entry in listed) == ["facts", "features", "pixels"]
        assert "test_resnet" in json.dumps(listed)
        assert "test_resnet" in ask("cache").out
        assert ask("cache", "--clear").code == 0
        assert ask("cache", "--json").json["entries"] == []
        assert learn(photos, weights, CLEAN, technique="head", name="y").state == "finished"
