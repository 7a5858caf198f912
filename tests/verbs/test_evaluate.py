"""`pictune evaluate`: any split of a run, and other pictures."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from asking import Answer, ask, learn, report_of, traces
from PIL import Image

import toys
from pictune.errors import DataError, RunError
from pictune.evaluation.reporting import Report
from pictune.run import Run
from pictune.verbs.evaluate import evaluate


@pytest.fixture
def copied(here, finished) -> Path:
    """A copy of the finished run, to write reports into."""
    shutil.copytree(finished.run.path, here / "runs/teal-fox", symlinks=True)
    return here / "runs/teal-fox"


@pytest.fixture
def trained_on_columns(here) -> Path:
    """A run whose table calls its columns otherwise than usual, groups and splits among them."""
    table = toys.shape_table(here / "data", count=36, grouped=True)
    lines = table.read_text().splitlines()[1:]
    splits = ["train"] * 18 + ["val"] * 9 + ["test"] * 9
    rows = [f"{line},{split}" for line, split in zip(lines, splits, strict=True)]
    table.write_text("\n".join(["where,what,which,part", *rows]) + "\n")
    columns = [
        f"data.{role}_column={name}"
        for role, name in zip(("image", "label", "split"), ("where", "what", "part"), strict=True)
    ]
    words = [word for column in columns for word in ("--set", column)]
    answer = learn(table, *words, "--group-by", "which", "--name", "a")
    assert answer.code == 0, answer.err
    return Path("runs/a")


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
        with pytest.raises(DataError, match="no longer at") as caught:
            evaluate("runs/a")
        assert "pictune evaluate " in caught.value.instead  # `export` and `serve` have no --data

    def test_9_a_flipped_bit_is_noticed_even_where_the_picture_still_opens(self, here) -> None:
        photos = toys.shape_folders(here / "photos")
        for path in photos.rglob("*.png"):
            Image.open(path).save(path.with_suffix(".bmp"))
            path.unlink()
        assert learn(photos, "--name", "a").code == 0
        path = photos / Run("runs/a").read("splits.json")["splits"]["test"][0]
        state, content = path.stat(), bytearray(path.read_bytes())
        content[-9] ^= 64
        path.write_bytes(content)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        with pytest.raises(DataError, match=r"have changed since a was trained \[changed\]"):
            evaluate("runs/a")

    def test_what_is_no_run(self, here, finished) -> None:
        shutil.copytree(finished.run.path, here / "unfinished")
        shutil.rmtree(here / "unfinished/model")
        for folder, said in (("nothing", "there is nothing at nothing"), ("unfinished", "there is no model")):
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


def test_a_number_without_an_interval_is_told_with_the_reason(finished) -> None:
    report = Report.open(finished.run.report("test"))
    lone = {"value": 0.25, "low": None, "high": None, "reason": "there is one group only"}
    content = {**report.content, "metrics": {**report.content["metrics"], "log_loss": lone}}
    told = Report(report.folder, content).summary()
    assert "log loss            0.250 (no interval: there is one group only)" in told


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
        answer = self.other(copied, data.rename(here / "almost-new"))
        assert f"1 of these {4 + 4 + 1} pictures" in answer.out
        worst = report_of(copied, "almost-new")["findings"][0]
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

    def test_one_class_and_empty_class_folders_are_told_and_judged(self, copied, here) -> None:
        data = toys.shape_folders(here / "some", counts={"circle": 4}, first=600)
        for name in ("square", "star"):
            (data / name).mkdir()
        answer = self.other(copied, data)
        assert answer.code == 0, answer.err
        report = report_of(copied, "some")
        assert report["n"] == 4
        told = {finding["code"]: finding["message"] for finding in report["findings"]}
        assert told["empty_class"] == "Without an image that can be used, and so not judged: square, star."
        assert told["one_class"].startswith("All images are of one class, 'circle': ")
        assert told["one_class"] in answer.out
        assert report["metrics"]["accuracy"]["value"] is not None
        (data / "star/x.png").write_bytes((data / "circle/000.png").read_bytes())
        assert "[unknown_class]\n  - star\n" in self.other(copied, data).err

    @pytest.mark.parametrize("labelled", [False, True])
    def test_without_any_labelled_picture_there_is_nothing_to_judge(self, copied, here, labelled) -> None:
        data = toys.shape_table(here / "data", count=3)
        lines = data.read_text().splitlines()
        rows = [lines[0], *(line if labelled else f"{line.split(',')[0]}," for line in lines[1:])]
        data.write_text("\n".join(rows) + "\n")
        answer = self.other(copied, data)
        assert (answer.code, "[empty]" in answer.err) == ((0, False) if labelled else (2, True))

    @pytest.mark.parametrize(
        ("header", "groups", "told", "untold"),
        [
            ("where,what,which,part", 2, set(), {"ungrouped", "other_column"}),
            ("path,label,which,part", 2, {"other_column"}, {"ungrouped"}),
            ("where,what,group,part", 2, {"other_column"}, {"ungrouped"}),
            ("where,what,patient,part", 6, {"ungrouped", "possible_group"}, {"other_column"}),
            ("path,label,lot,fold", 6, {"ungrouped", "other_column"}, {"possible_group"}),
        ],
    )
    def test_columns_are_used_where_they_are_there(
        self, trained_on_columns, here, header, groups, told, untold
    ) -> None:
        table = toys.shape_table(here / "other", count=6, grouped=True)
        lines = table.read_text().splitlines()[1:]
        # The last column was the split; here its words are no splits, and nobody asks for them.
        table.write_text("\n".join([header, *(f"{line},holdout" for line in lines)]) + "\n")
        for data in (table, *([table.parent] if "where" in header else [])):
            answer = self.other(trained_on_columns, data)
            assert answer.code == 0, answer.err
            report = report_of(trained_on_columns, data.name)
            assert (report["n"], report.get("n_groups") or 6) == (6, groups)
            found = codes(trained_on_columns, data.name)
            assert told <= found
            assert not untold & found
            if "ungrouped" in told:
                assert "nothing here names groups: every interval counts each image for itself" in answer.out

    def test_a_table_without_any_label_column_is_refused(self, trained_on_columns, here) -> None:
        table = toys.shape_table(here / "other", count=6)
        table.write_text(table.read_text().replace("label", "size", 1))
        answer = self.other(trained_on_columns, table)
        assert answer.code == 2
        assert "call it 'label' or 'what', as in the model's own data." in answer.err
        assert "--set" not in answer.err

    @pytest.mark.parametrize(
        ("by", "names", "groups"),
        [
            (r"re:(\d)\.png", "{:03}", 3),
            (r"re:(\d)\.png", "{}-new", None),
        ],
    )
    def test_a_grouping_rule_is_used_where_it_finds_anything(self, here, by, names, groups) -> None:
        assert learn(toys.shape_folders(here / "photos"), "--group-by", by, "--name", "a").code == 0
        data = toys.shape_folders(here / "later", counts={"circle": 3, "cross": 3}, first=600)
        for path in sorted(data.rglob("*.png")):
            path.rename(path.with_stem(names.format(int(path.stem))))
        answer = self.other(Path("runs/a"), data)
        assert answer.code == 0, answer.err
        assert report_of("runs/a", "later").get("n_groups") == (groups or 6)
        assert ("ungrouped" in codes(Path("runs/a"), "later")) == (groups is None)
        said = f"--group-by {by} finds a group for none of these 6 images: every interval counts each image"
        assert (said in answer.out) == (groups is None)

    def test_a_report_on_other_pictures_is_not_overwritten(self, copied, here) -> None:
        counts = {"circle": 3, "cross": 3}
        first = toys.shape_folders(here / "siteA/images", counts=counts, first=600)
        second = toys.shape_folders(here / "siteB/images", counts=counts, first=700)
        folders = [evaluate(copied, data=data).folder for data in (first, second)]
        fingerprints = [report_of(copied, folder.name)["dataset"]["fingerprint"] for folder in folders]
        assert [folder.name for folder in folders] == ["images", f"images-{fingerprints[1][:8]}"]
        before = [(folder / "predictions.csv").read_text() for folder in folders]
        assert [evaluate(copied, data=data).folder for data in (first, second)] == folders
        assert [(folder / "predictions.csv").read_text() for folder in folders] == before
        assert sorted((copied / "reports").glob("images*")) == sorted(folders)

    @pytest.mark.parametrize("content", ["{", "[]", '{"dataset": 1}', None])
    def test_what_is_no_report_on_these_pictures_stays(self, copied, here, content) -> None:
        data = toys.shape_folders(here / "images", counts={"circle": 3, "cross": 3}, first=600)
        there = copied / "reports/images/report.json"
        there.parent.mkdir(parents=True)
        if content is not None:
            there.write_text(content)
        folder = evaluate(copied, data=data).folder
        if content is None:
            assert folder == there.parent  # an earlier attempt that did not come to its end
        else:
            assert there.read_text() == content
            assert folder.name.startswith("images-")

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
