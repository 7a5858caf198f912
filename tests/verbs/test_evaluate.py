"""`pictune evaluate`: any split of a run, and other pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from asking import Answer, ask, learn, report_of, traces

import toys
from pictune.errors import DataError, RunError
from pictune.run import Run
from pictune.verbs.evaluate import evaluate


@pytest.fixture
def copied(here, finished) -> Path:
    """A copy of the finished run, to write reports into."""
    shutil.copytree(finished.run.path, here / "runs/teal-fox", symlinks=True)
    return here / "runs/teal-fox"


def codes(run: Path, name: str) -> set[str]:
    return {finding["code"] for finding in report_of(run, name)["findings"]}


class TestSplits:
    def test_test_again_gives_what_training_said(self, copied, finished) -> None:
        before = report_of(copied)
        answer = ask("evaluate", copied)
        assert answer.out == finished.answer.out.replace(str(finished.run.path), "runs/teal-fox")
        assert report_of(copied) == before

    @pytest.mark.parametrize(("split", "count"), [("train", 42), ("val", 9), ("test", 9)])
    def test_each_split_has_its_report(self, copied, split, count) -> None:
        answer = ask("evaluate", copied, "--split", split, "--json")
        assert answer.code == 0, answer.err
        assert set(answer.json) == {"verb", "run", "report", "metrics", "seconds"}
        assert answer.json["report"] == f"runs/teal-fox/reports/{split}"
        report = report_of(copied, split)
        assert (report["split"], report["n"]) == (split, count)
        assert report["metrics"] == answer.json["metrics"]
        rows = (copied / "reports" / split / "predictions.csv").read_text().splitlines()
        keys = [row.split(",")[0] for row in rows[1:]]
        assert sorted(keys) == sorted(Run(copied).read("splits.json")["splits"][split])

    def test_python_gives_a_report(self, copied) -> None:
        report = evaluate(copied, split="val")
        assert report.metrics == report_of(copied, "val")["metrics"]
        assert report.summary().startswith("teal-fox on 9 pictures of the val split")
        assert evaluate(Run(copied), split="val").content == report.content

    @pytest.mark.parametrize("split", ["tset", "all"])
    def test_a_split_that_is_not_there(self, copied, split) -> None:
        answer = ask("evaluate", copied, "--split", split)
        assert answer.code == 2
        assert "It has train, val, test; choose one of them." in answer.err

    def test_changed_pictures_are_refused(self, here) -> None:
        photos = toys.shape_folders(here / "photos")
        assert learn(photos, "--name", "a").code == 0
        toys.write_picture(photos / "circle/new.png", ["circle"], 999)
        with pytest.raises(DataError, match=r"have changed since a was trained \[changed\]"):
            evaluate("runs/a")
        (photos / "circle/new.png").unlink()
        evaluate("runs/a")
        gone = Run("runs/a").read("splits.json")["splits"]["test"][0]
        (photos / gone).unlink()
        with pytest.raises(DataError, match=r"1 of the 9 pictures of a's test split are gone") as caught:
            evaluate("runs/a")
        assert caught.value.causes == (gone,)
        shutil.rmtree(photos)
        with pytest.raises(DataError, match="no longer at"):
            evaluate("runs/a")

    def test_what_is_no_run(self, here, finished) -> None:
        shutil.copytree(finished.run.path, here / "unfinished")
        shutil.rmtree(here / "unfinished/model")
        for folder, said in (("nothing", "is not a run folder"), ("unfinished", "there is no model")):
            answer = ask("evaluate", folder)
            assert answer.code == 2
            assert said in answer.err

    @pytest.mark.parametrize("name", ["splits.json", "made_by.json", "recipe.yaml", "model/model.json"])
    @pytest.mark.parametrize("content", ['{"a": ', "{}", "[]"])
    def test_records_that_were_changed_are_named(self, copied, name, content) -> None:
        (copied / name).write_text(content)
        answer = ask("evaluate", copied)
        if (name, content) == ("recipe.yaml", "{}"):
            assert answer.code == 0  # an empty recipe is all defaults
        else:
            assert answer.code == 2
            assert Path(name).name in answer.err

    def test_weights_that_were_changed_are_refused(self, copied) -> None:
        path = copied / "model/weights.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(RunError, match="it was changed"):
            evaluate(copied)


class TestOtherPictures:
    def other(self, copied: Path, data: Path) -> Answer:
        before = traces(data)
        answer = ask("evaluate", copied, "--data", data)
        assert traces(data) == before
        return answer

    def test_are_judged_whole_under_their_own_name(self, copied, here) -> None:
        before = traces(copied / "reports/test")
        answer = self.other(copied, toys.split_folders(here / "later"))
        assert answer.code == 0, answer.err
        assert answer.out.startswith("teal-fox on 42 pictures of later (in brackets")
        assert report_of(copied, "later")["n"] == 42
        assert traces(copied / "reports/test") == before

    def test_a_folder_called_like_a_split_is_not_taken_for_it(self, copied, here) -> None:
        before = traces(copied / "reports/test")
        answer = self.other(copied, toys.shape_folders(here / "new/test", counts={"circle": 3, "cross": 3}))
        assert answer.code == 0, answer.err
        assert traces(copied / "reports/test") == before
        page = (copied / "reports/test-data/report.html").read_text()
        assert "used neither to train the model" not in page

    def test_a_class_that_is_absent_there_is_said_to_be(self, copied, here) -> None:
        self.other(copied, toys.shape_folders(here / "some", counts={"circle": 3, "cross": 3}))
        assert "absent_class" in codes(copied, "some")
        square = next(row for row in report_of(copied, "some")["per_class"] if row["class"] == "square")
        assert square["recall"]["value"] is None

    def test_unknown_classes_are_all_named(self, copied, here) -> None:
        data = toys.shape_folders(here / "odd", counts={"circle": 2, "cross": 2})
        for name in ("moon", "star"):
            toys.write_picture(data / name / "0.png", ["cross"], 999)
        answer = self.other(copied, data)
        assert answer.code == 2
        assert "[unknown_class]\n  - moon\n  - star\nThe model knows circle, cross, square.\n" in answer.err
        assert not (copied / "reports/odd").exists()

    def test_several_labels_do_not_fit_a_model_of_one(self, copied, here) -> None:
        answer = self.other(copied, toys.many_label_table(here / "many", count=8))
        assert answer.code == 2
        assert "[several_labels]" in answer.err

    def test_a_table_is_as_good_as_folders(self, copied, here) -> None:
        answer = self.other(copied, toys.shape_table(here / "more", count=12))
        assert answer.code == 0, answer.err
        assert report_of(copied, "labels.csv")["n"] == 12

    def test_the_pictures_it_learnt_from_are_recognised(self, copied, finished) -> None:
        answer = self.other(copied, finished.photos)
        assert answer.code == 0
        assert "trained_on_these" in codes(copied, "photos")
        assert "51 of these 60 pictures have trained teal-fox or chosen its weights" in answer.out

    def test_one_picture_that_it_learnt_from_is_recognised_by_its_content(
        self, copied, finished, here
    ) -> None:
        data = toys.shape_folders(here / "mostly-new", counts={"circle": 4, "cross": 4}, first=600)
        assert self.other(copied, data).code == 0
        assert "trained_on_these" not in codes(copied, "mostly-new")
        learnt = json.loads((copied / "splits.json").read_text())["splits"]["val"][0]
        shutil.copy(finished.photos / learnt, data / learnt.split("/")[0] / "another-name.png")
        answer = self.other(copied, data)
        assert f"1 of these {4 + 4 + 1} pictures" in answer.out
        worst = report_of(copied, "mostly-new")["findings"][0]
        assert (worst["code"], worst["severity"]) == ("trained_on_these", "serious")

    def test_unusable_ones_are_listed(self, copied, here) -> None:
        data = toys.shape_folders(here / "some")
        (data / "circle/empty.png").write_bytes(b"")
        assert self.other(copied, data).code == 0
        assert [row["where"] for row in report_of(copied, "some")["left_out"]] == ["circle/empty.png"]

    def test_not_together_with_a_split(self, copied, here) -> None:
        answer = ask("evaluate", copied, "--data", here, "--split", "test")
        assert answer.code == 2
        assert "Leave --split away." in answer.err

    def test_columns_of_the_table_it_learnt_from_do_not_hinder_folders(self, here) -> None:
        table = toys.shape_table(here / "data", count=30, grouped=True)
        renamed = table.read_text().replace("path,label,group", "where,what,which", 1)
        table.write_text(renamed)
        columns = ["--set", "data.image_column=where", "--set", "data.label_column=what"]
        answer = learn(table, *columns, "--group-by", "which", "--name", "a")
        assert answer.code == 0, answer.err
        run = Path("runs/a")
        assert self.other(run, toys.shape_folders(here / "plain", counts={"circle": 3, "cross": 3})).code == 0
        assert report_of(run, "plain")["n_groups"] == 6
        assert self.other(run, table).code == 0
        assert json.loads((run / "made_by.json").read_text())["data"] == str(table)
