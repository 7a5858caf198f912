"""`pictune train` from folder to report: what it prints, what it writes, what it refuses, how it goes on."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from asking import QUICK, ask, learn, report_of, traces

import pictune
import toys
from pictune.errors import RecipeError, RunError, StoppedError
from pictune.run import Run
from pictune.verbs.train import Silent, train

SETTINGS = tuple(word for word in QUICK if "." in word)


def small(photos: Path, **given):
    """The same quick training through Python."""
    return train(
        photos,
        settings=SETTINGS,
        **{"model": "cnn", "weights": "none", "image_size": 32, "epochs": 1, "batch_size": 16, **given},
    )


class TestAFinishedRun:
    def test_prints_its_report_on_stdout_and_its_course_on_stderr(self, finished) -> None:
        out, err = finished.answer.out, finished.answer.err
        assert out.startswith("teal-fox on 9 pictures of the test split (in brackets: 95 % intervals)\n")
        assert err.startswith("Every layer starts at random, because model.weights is none.\n")
        assert "60 pictures, 3 classes (folders).\n" in err
        assert "cnn at 32 pixels, technique full, 2 epochs, fp32; 42 train, 9 val, 9 test.\n" in err
        assert len(re.findall(r"^epoch +[12]  loss ", err, re.MULTILINE)) == 2

    def test_printed_numbers_are_those_of_the_report(self, finished) -> None:
        report = report_of(finished.run.path)
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece"):
            told = report["metrics"][name]
            line = (
                f"  {name.replace('_', ' '):<20}{told['value']:.3f} [{told['low']:.3f}, {told['high']:.3f}]\n"
            )
            assert line in finished.answer.out
        assert report["metrics"]["accuracy"]["low"] < report["metrics"]["accuracy"]["high"]

    def test_files(self, finished) -> None:
        found = {str(path.relative_to(finished.run.path)) for path in finished.run.path.rglob("*")}
        assert {
            *("recipe.yaml", "made_by.json", "splits.json", "status.json", "journal.jsonl", "timings.jsonl"),
            *("augmentation.png", "checkpoints/last.safetensors", "model/model.json"),
            *("model/weights.safetensors", "reports/test/report.json", "reports/test/report.html"),
            *(f"reports/test/{name}.csv" for name in ("per_class", "confusion", "predictions")),
        } <= found
        assert not [name for name in found if ".tmp-" in name]
        assert finished.run.state == "finished"
        assert (finished.run.path.parent / "latest").resolve() == finished.run.path

    def test_report_is_of_what_is_shipped(self, here) -> None:
        """The network that learnt computes in bf16; the model that is shipped in fp32."""
        photos = toys.shape_folders(here / "photos")
        words = [word.replace("precision=fp32", "precision=bf16") for word in QUICK]
        assert ask("train", photos, *words, "--name", "a").code == 0
        before = report_of("runs/a")
        assert ask("evaluate", "runs/a").code == 0
        assert report_of("runs/a")["metrics"] == before["metrics"]

    def test_report_has_its_shape(self, finished) -> None:
        report = report_of(finished.run.path)
        assert (report["task"], report["run"], report["split"]) == ("classification", "teal-fox", "test")
        assert report["n"] == report["n_groups"] == 9
        assert [row["class"] for row in report["per_class"]] == list(toys.SHAPES)
        assert report["dataset"]["root"] == "photos"
        assert (report["dataset"]["left_out"], report["left_out"]) == (0, [])
        assert report["selected_by"] == "accuracy on the validation split"
        assert {"code", "severity", "message"} == set(report["findings"][0])

    def test_learning_curves_are_of_training_and_validation(self, finished) -> None:
        curves = report_of(finished.run.path)["curves"]
        assert curves["epochs"] == [1, 2]
        for name in ("train_loss", "val_loss", "train_accuracy", "val_accuracy"):
            assert all(isinstance(value, float) for value in curves[name]), name
        assert "2 epochs" in curves["verdict"]["sentence"]

    def test_report_loads_nothing(self, finished) -> None:
        page = (finished.run.path / "reports/test/report.html").read_text()
        addresses = re.findall(r"""(?:src|href|action|data)=["']?([^"'\s>]+)""", page)
        assert addresses
        assert all(address.startswith(("data:image/", "#")) for address in addresses)
        assert not re.search(r"<script|<link|<iframe|@import|url\((?!data:)", page)

    def test_every_picture_is_in_one_split(self, finished) -> None:
        splits = finished.run.read("splits.json")["splits"]
        keys = [key for split in splits.values() for key in split]
        assert len(keys) == len(set(keys)) == 60
        assert {key: len(split) for key, split in splits.items()} == {"train": 42, "val": 9, "test": 9}

    def test_recipe_holds_what_was_given_and_what_auto_became(self, finished) -> None:
        text = (finished.run.path / "recipe.yaml").read_text()
        recipe = yaml.safe_load(text)
        assert (recipe["model"]["name"], recipe["training"]["epochs"]) == ("cnn", 2)
        assert (recipe["loss"]["name"], recipe["training"]["select_by"]) == ("cross_entropy", "accuracy")
        assert "auto" not in {recipe[part]["name"] for part in ("loss", "optimizer", "schedule", "mixing")}
        assert finished.run.read("made_by.json")["chosen"]["training.select_by"].startswith("auto: ")

    def test_pictures_are_as_they_were(self, finished, tmp_path) -> None:
        assert traces(finished.photos).keys() == {
            finished.photos / path.relative_to(tmp_path / "again")
            for path in traces(toys.shape_folders(tmp_path / "again"))
        }


class TestSettings:
    def test_json_alone_is_on_stdout(self, here) -> None:
        answer = learn(toys.split_folders(here / "photos"), "--json", "--name", "a")
        assert set(answer.json) == {"verb", "run", "report", "metrics", "seconds"}
        assert (answer.json["verb"], answer.json["run"]) == ("train", "runs/a")
        assert answer.json["report"] == "runs/a/reports/test"
        assert answer.json["metrics"] == report_of("runs/a")["metrics"]
        assert answer.json["seconds"] > 0

    def test_python_and_words_give_the_same(self, here) -> None:
        photos = toys.split_folders(here / "photos")
        run = small(photos, name="python")
        assert learn(photos, "--name", "words").code == 0
        assert isinstance(run, pictune.Run)
        assert (run.path / "recipe.yaml").read_text() == Path("runs/words/recipe.yaml").read_text()
        first, second = (report_of(Path("runs") / name)["metrics"] for name in ("python", "words"))
        assert first == second

    def test_flags_file_and_set_meet_in_the_recipe(self, here) -> None:
        (here / "mine.yaml").write_text(
            "training: {epochs: 40, clip: 3}\nloss: {name: focal, gamma: 1}\nmixing: {name: mixup}\n"
        )
        words = ["--recipe", "mine.yaml", "--set", "loss.gamma=3", "--lr", "0.01", "--augment", "heavy"]
        assert learn(toys.split_folders(here / "photos"), *words, "--seed", "3", "--name", "a").code == 0
        recipe = yaml.safe_load(Path("runs/a/recipe.yaml").read_text())
        assert recipe["training"]["epochs"] == 1  # a flag goes over the file
        assert (recipe["training"]["clip"], recipe["training"]["seed"]) == (3, 3)
        assert (recipe["loss"]["name"], recipe["loss"]["gamma"]) == ("focal", 3)
        assert recipe["optimizer"]["learning_rate"] == 0.01
        assert recipe["augmentation"]["preset"] == "heavy"
        assert recipe["mixing"]["name"] == "mixup"

    def test_a_misspelt_network_is_told_before_weights_are_looked_for(self, here) -> None:
        answer = ask("train", toys.shape_folders(here / "photos"), "--model", "resnt50")
        assert answer.code == 2
        assert "did you mean resnet50" in answer.err
        assert "publishes" not in answer.err

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--set", "training.epochs=3"], "training.epochs: 1 by a flag, 3 by --set"),
            (["--set", "training.seed=1", "--set", "training.seed=2"], "training.seed: given twice"),
            (["--set", "loss.name=focl"], "did you mean focal?"),
            (["--set", "training"], "not of the form section.setting=value"),
            (["--set", "augmentation.steps=[{name: turn}]"], "augmentation.preset"),
            (["--set", "training.device=abacus"], "abacus"),
            (["--lr", "77"], "optimizer.learning_rate: must be at most 10, found 77"),
            (["--set", "loss.gamma=2", "--set", "loss.alpha=3"], "loss.alpha"),
            (["--model", "resnt18"], "did you mean resnet18"),
            (["--weights", "absent.safetensors"], "absent.safetensors"),
            (["--name", "a/b"], "cannot be a run's name"),
            (["--epochs", "+1"], "extends a finished run"),
            (["--runs", "photos/runs"], "nothing is ever written among your pictures"),
        ],
    )
    def test_refused_with_words_and_without_a_trace(self, here, words, said) -> None:
        photos = toys.split_folders(here / "photos", train=3, val=1, test=1)
        before = traces(photos)
        kept = list(QUICK)
        if words[0] in kept and words[0] != "--set":
            at = kept.index(words[0])
            del kept[at : at + 2]
        answer = ask("train", photos, *kept, *words)
        assert answer.code == 2
        assert answer.out == ""
        assert said in answer.err
        assert "Traceback" not in answer.err
        assert not list(here.glob("runs/*/"))
        assert traces(photos) == before

    def test_a_name_is_taken_once(self, here) -> None:
        photos = toys.split_folders(here / "photos", train=4, val=1, test=1)
        assert learn(photos, "--name", "a").code == 0
        before = traces(here / "runs" / "a")
        again = learn(photos, "--name", "a")
        assert again.code == 2
        assert "a run called a exists already" in again.err
        assert traces(here / "runs" / "a") == before

    def test_runs_never_overwrite_one_another_and_latest_follows(self, here) -> None:
        photos = toys.split_folders(here / "photos", train=4, val=1, test=1)
        first, second = learn(photos, "--json").json["run"], learn(photos, "--json").json["run"]
        assert first != second
        assert Path("runs/latest").resolve() == here / second

    def test_a_watcher_is_told(self, here) -> None:
        told: list[str] = []
        opened: list[tuple[int, int]] = []

        class Note(Silent):
            def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
                told.append(f"step {step} of {steps}")

            def epoch(self, facts) -> None:
                told.append(f"epoch {facts['epoch']}")

            def say(self, sentence: str) -> None:
                told.append(sentence)

        def note(done: int, total: int) -> None:
            opened.append((done, total))

        photos = toys.split_folders(here / "photos")
        small(photos, watcher=Note(), progress=note)
        assert opened[-1] == (42, 42)
        assert "step 1 of 1" in told
        assert told[-1] == "epoch 1"


class TestData:
    def test_given_splits_are_kept(self, here) -> None:
        assert learn(toys.split_folders(here / "photos"), "--name", "a").code == 0
        splits = Run("runs/a").read("splits.json")["splits"]
        assert {name: len(keys) for name, keys in splits.items()} == {"train": 24, "val": 9, "test": 9}
        assert all(key.startswith(f"{name}/") for name, keys in splits.items() for key in keys)

    def test_without_a_test_split_validation_judges_and_the_report_says_so(self, here) -> None:
        photos = toys.split_folders(here / "photos")
        shutil.rmtree(photos / "test")
        answer = learn(photos, "--name", "a")
        assert answer.code == 0
        assert answer.out.startswith("a on 9 pictures of the val split")
        assert "There is no test split" in answer.out
        assert "no_test" in {finding["code"] for finding in report_of("runs/a", "val")["findings"]}
        assert not Path("runs/a/reports/test").exists()
        page = Path("runs/a/reports/val/report.html").read_text()
        assert "These images also chose the model" in page

    def test_groups_stay_together_and_widen_the_intervals(self, here) -> None:
        table = toys.shape_table(here / "data", grouped=True)
        assert learn(table, "--group-by", "group", "--name", "grouped").code == 0
        report = report_of("runs/grouped")
        assert (report["n"], report["n_groups"]) == (9, 3)
        with table.open() as stream:
            group = {row["path"]: row["group"] for row in csv.DictReader(stream)}
        splits = Run("runs/grouped").read("splits.json")["splits"]
        homes = {(group[key], name) for name, keys in splits.items() for key in keys}
        assert len(homes) == len(set(group.values())) == 20

    def test_a_table_with_its_own_splits(self, here) -> None:
        rows = ["image,class,split"]
        for number in range(24):
            shape = toys.SHAPES[number % 2]
            toys.write_picture(here / f"data/{number}.png", [shape], number)
            rows.append(f"{number}.png,{shape},{('train', 'train', 'valid', 'test')[number // 2 % 4]}")
        (here / "data/list.csv").write_text("\n".join(rows) + "\n")
        assert learn(here / "data", "--name", "a").code == 0
        splits = Run("runs/a").read("splits.json")["splits"]
        assert {name: len(keys) for name, keys in splits.items()} == {"train": 12, "val": 6, "test": 6}

    def test_several_labels_from_a_table_with_a_separator(self, here) -> None:
        lines = toys.many_label_table(here / "data").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        (here / "data/labels.jsonl").unlink()
        text = "".join(f"{row['path']},{'+'.join(row['labels'])}\n" for row in rows)
        (here / "data/list.csv").write_text(f"path,labels\n{text}")
        answer = learn(here / "data", "--set", "data.label_separator=+", "--name", "many")
        assert answer.code == 0, answer.err
        assert "\n  exact match " in answer.out
        report = report_of("runs/many")
        assert len(report["confusion"]["by_class"]) == len(toys.SHAPES)
        assert report["selected_by"] == "macro_f1 on the validation split"
        assert "Exact match" in Path("runs/many/reports/test/report.html").read_text()
        assert Path("runs/many/reports/test/confusion.csv").read_text().startswith("class,tp,fp,fn,tn")

    def test_leaks_stop_until_they_are_allowed_and_are_told_ever_after(self, here) -> None:
        photos = toys.split_folders(here / "photos")
        shutil.copy(photos / "train/circle/000.png", photos / "test/circle/copy.png")
        refused = learn(photos)
        assert refused.code == 2
        assert "[leak]" in refused.err
        assert "test/circle/copy.png (test) and train/circle/000.png (train)" in refused.err
        assert "--allow-leaks" in refused.err
        assert learn(photos, "--allow-leaks", "--name", "a").code == 0
        assert report_of("runs/a")["findings"][0]["severity"] == "serious"
        for _ in range(2):
            assert "leak" in {finding["code"] for finding in report_of("runs/a")["findings"]}
            assert ask("evaluate", "runs/a").code == 0  # writes the report anew


class Stopping(Silent):
    """Asks to stop, as Ctrl-C does, after some batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)


def essence(run: Path | str) -> tuple[bytes, bytes, dict]:
    """What must be the same however often a run was stopped."""
    path = Path(run)
    report = report_of(path)
    return (
        (path / "model/weights.safetensors").read_bytes(),
        (path / "journal.jsonl").read_bytes(),
        {name: report[name] for name in ("metrics", "per_class", "findings", "curves", "left_out")},
    )


class TestGoingOn:
    @pytest.mark.parametrize("batches", [1, 2, 3, 4])
    def test_the_same_command_goes_on_and_ends_the_same(self, here, finished, batches) -> None:
        with pytest.raises(StoppedError, match="Stopped and saved"):
            small(finished.photos, epochs=2, watcher=Stopping(batches))
        stopped = Run("runs/latest")
        assert stopped.state == "stopped"
        words = list(QUICK)
        words[words.index("--epochs") + 1] = "2"
        answer = ask("train", finished.photos, *words, "--json")
        assert answer.code == 0, answer.err
        assert answer.json["run"] == f"runs/{stopped.name}"
        assert f"Going on with the unfinished run {stopped.name}" in answer.err
        assert essence(stopped.path) == essence(finished.run.path)
        assert len(list(here.glob("runs/*/status.json"))) == 2  # the run, and `latest`

    def test_what_the_report_must_say_survives_the_stop(self, here) -> None:
        photos = toys.split_folders(here / "photos")
        shutil.rmtree(photos / "test")
        with pytest.raises(StoppedError):
            small(photos, name="a", watcher=Stopping(1))
        assert ask("train", "runs/a").code == 0
        assert "no_test" in {finding["code"] for finding in report_of("runs/a", "val")["findings"]}

    def test_a_named_run_goes_on_under_its_name(self, here) -> None:
        photos = toys.shape_folders(here / "photos")
        with pytest.raises(StoppedError):
            small(photos, name="mine", watcher=Stopping(1))
        assert learn(photos, "--name", "other").code == 0
        assert Run("runs/mine").state == "stopped"
        answer = learn(photos, "--name", "mine")
        assert answer.code == 0, answer.err
        assert Run("runs/mine").state == "finished"

    def test_new_starts_another(self, here) -> None:
        photos = toys.shape_folders(here / "photos")
        with pytest.raises(StoppedError):
            small(photos, watcher=Stopping(1))
        stopped = Run("runs/latest")
        assert learn(photos, "--new", "--json").json["run"] != f"runs/{stopped.name}"
        assert stopped.state == "stopped"

    def test_another_question_starts_another(self, here) -> None:
        photos = toys.shape_folders(here / "photos")
        with pytest.raises(StoppedError):
            small(photos, watcher=Stopping(1))
        stopped = Run("runs/latest")
        assert learn(photos, "--seed", "1", "--json").json["run"] != f"runs/{stopped.name}"

    def test_the_run_itself_may_be_named(self, here) -> None:
        photos = toys.shape_folders(here / "photos")
        with pytest.raises(StoppedError):
            small(photos, watcher=Stopping(1))
        assert ask("train", "runs/latest").code == 0
        assert Run("runs/latest").state == "finished"

    def test_changed_pictures_are_not_gone_on_with(self, here) -> None:
        photos = toys.shape_folders(here / "photos")
        with pytest.raises(StoppedError):
            small(photos, watcher=Stopping(1))
        toys.write_picture(photos / "circle/new.png", ["circle"], 999)
        answer = learn(photos)
        assert answer.code == 2
        assert "[changed]" in answer.err
        assert "--new" in answer.err

    def test_a_finished_run_is_extended(self, here, finished) -> None:
        shutil.copytree(finished.run.path, here / "runs/teal-fox", symlinks=True)
        answer = ask("train", "runs/teal-fox", "--epochs", "+1")
        assert answer.code == 0, answer.err
        assert report_of("runs/teal-fox")["curves"]["epochs"] == [1, 2, 3]
        assert Path("runs/latest").resolve() == here / "runs/teal-fox"

    def test_an_extension_that_was_stopped_goes_on(self, here, finished) -> None:
        for name in ("whole", "cut"):
            shutil.copytree(finished.run.path, here / "runs" / name, symlinks=True)
        train("runs/whole", epochs="+2")
        with pytest.raises(StoppedError):
            train("runs/cut", epochs="+2", watcher=Stopping(3))
        with pytest.raises(RunError, match="not finished"):
            train("runs/cut", epochs="+1")
        train("runs/cut", epochs="+2")
        assert essence("runs/cut") == essence("runs/whole")

    @pytest.mark.parametrize(
        ("given", "error", "said"),
        [
            ({}, RunError, "is finished"),
            ({"epochs": 5}, RecipeError, "training.epochs"),
            ({"epochs": "+1", "seed": 3, "settings": ["loss.name=focal"]}, RecipeError, "loss.name=focal"),
            ({"epochs": "+1", "recipe": "mine.yaml"}, RecipeError, "--recipe"),
            ({"epochs": "+x"}, RecipeError, "a number of epochs"),
        ],
    )
    def test_a_finished_run_keeps_its_recipe(self, here, finished, given, error, said) -> None:
        shutil.copytree(finished.run.path, here / "runs/teal-fox", symlinks=True)
        with pytest.raises(error, match=re.escape(said)):
            train("runs/teal-fox", **given)
        assert Run("runs/teal-fox").state == "finished"
        assert essence("runs/teal-fox") == essence(finished.run.path)

    def test_two_at_once_are_refused(self, here) -> None:
        photos = toys.shape_folders(here / "photos")
        with pytest.raises(StoppedError):
            small(photos, watcher=Stopping(1))
        with Run("runs/latest").lock():
            answer = learn(photos)
        assert answer.code == 2
        assert f"in use by process {os.getpid()}" in answer.err
