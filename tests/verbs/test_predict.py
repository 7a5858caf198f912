"""`pictune predict`: answers for files and folders, and a word about whatever cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from asking import ask, learn

import toys
from pictune.errors import DataError, RunError
from pictune.verbs.predict import predict


def test_files_and_folders_in_the_order_given(finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.photos)
    answer = ask("predict", finished.run.path, "square/003.png", "circle", "--json")
    assert answer.code == 0, answer.err
    assert set(answer.json) == {"verb", "run", "predictions", "unreadable", "ignored", "seconds"}
    rows = answer.json["predictions"]
    assert [row["path"] for row in rows] == ["square/003.png", *(f"circle/{i:03}.png" for i in range(20))]
    for row in rows:
        values = list(row["confidences"].values())
        assert sum(values) == pytest.approx(1, abs=1e-5)
        assert values == sorted(values, reverse=True)
        assert row["labels"] == [next(iter(row["confidences"]))]
    assert answer.json["unreadable"] == {}


def test_text_says_the_same_as_json(finished) -> None:
    picture = finished.photos / "cross/000.png"
    row = ask("predict", finished.run.path, picture, "--json").json["predictions"][0]
    told = ", ".join(f"{name} {value:.3f}" for name, value in row["confidences"].items())
    answer = ask("predict", finished.run.path, picture)
    assert answer.out == f"{picture}: {row['labels'][0]}  ({told})\n"
    assert answer.err == ""


def test_answers_are_those_of_the_evaluation(finished) -> None:
    table = (finished.run.path / "reports/test/predictions.csv").read_text().splitlines()
    names = [cell.removeprefix("score ") for cell in table[0].split(",")[4:]]
    for line in table[1:]:
        key, _, predicted, _, *scores = line.split(",")
        answer = predict(finished.run, finished.photos / key).answers[0]
        assert answer.annotation.names == (predicted,)
        wanted = dict(zip(names, map(float, scores), strict=True))
        assert dict(answer.confidences) == pytest.approx(wanted, abs=1e-6)


def test_what_cannot_be_read_is_named_and_the_rest_is_answered(finished, here) -> None:
    toys.write_picture(here / "mixed/good.png", ["circle"], 1)
    (here / "mixed/bad.jpg").write_text("<html>not found</html>")
    (here / "mixed/away.png").symlink_to(here / "nowhere.png")
    (here / "mixed/notes.txt").write_text("no picture, and not meant as one")
    answer = ask("predict", finished.run.path, "mixed", "--json")
    assert answer.code == 0, answer.err
    assert [row["path"] for row in answer.json["predictions"]] == ["mixed/good.png"]
    reasons = answer.json["unreadable"]
    assert set(reasons) == {"mixed/bad.jpg", "mixed/away.png"}
    assert "[not_image]" in reasons["mixed/bad.jpg"]
    assert "[dangling_symlink]" in reasons["mixed/away.png"]
    assert answer.json["ignored"] == 1
    said = ask("predict", finished.run.path, "mixed").out
    assert "mixed/bad.jpg: not read: " in said
    assert "ignored: 1 that are no pictures" in said


def test_links_that_leave_the_folder_are_followed_when_that_is_wished(finished, here) -> None:
    toys.write_picture(here / "store/a.png", ["circle"], 1)
    (here / "mixed").mkdir()
    (here / "mixed/a.png").symlink_to(here / "store/a.png")
    (here / "mixed/more").symlink_to(here / "store")
    refused = ask("predict", finished.run.path, "mixed")
    assert refused.code == 2
    assert "--follow-outside" in refused.err
    answer = ask("predict", finished.run.path, "mixed", "--follow-outside", "--json")
    assert [row["path"] for row in answer.json["predictions"]] == ["mixed/a.png", "mixed/more/a.png"]
    assert answer.json["unreadable"] == {}


def test_a_folder_without_pictures_is_told_beside_the_answers(finished, here) -> None:
    toys.write_picture(here / "good.png", ["circle"], 1)
    (here / "bare").mkdir()
    answer = ask("predict", finished.run.path, "good.png", "bare", "--json")
    assert answer.code == 0
    assert [row["path"] for row in answer.json["predictions"]] == ["good.png"]
    assert answer.json["unreadable"] == {"bare": "the folder holds no picture [empty]"}


@pytest.mark.parametrize("kind", ["text", "pipe", "empty", "folder without pictures"])
def test_nothing_but_unusable_files(finished, here, kind) -> None:
    path = here / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder without pictures":
        path.mkdir()
    else:
        path.write_text("hello" if kind == "text" else "")
    answer = ask("predict", finished.run.path, path, "--csv", "out.csv")
    assert answer.code == 2
    assert "[no_pictures]" in answer.err
    assert answer.out == ""
    (row,) = (here / "out.csv").read_text().splitlines()[1:]
    assert row.startswith(f"{path},,,,,")


def test_absent_paths_are_all_named(finished, here) -> None:
    toys.write_picture(here / "good.png", ["circle"], 1)
    answer = ask("predict", finished.run.path, "a.png", "good.png", "b")
    assert answer.code == 2
    assert "  - a.png\n  - b\n" in answer.err
    with pytest.raises(DataError, match="no picture was named"):
        predict(finished.run)


def test_what_is_no_run(here) -> None:
    with pytest.raises(RunError, match="there is nothing at nothing"):
        predict("nothing", "a.png")


def test_a_name_that_is_no_utf8(finished, here) -> None:
    toys.write_picture(here / "a.png", ["circle"], 1)
    odd = os.fsdecode(b"b\xff.png")
    Path("a.png").rename(odd)
    assert ask("predict", finished.run.path, odd, "--json").json["predictions"][0]["path"] == "b\\xff.png"
    assert ask("predict", finished.run.path, odd).out.startswith("b\\xff.png: ")


def test_several_labels_or_none(here) -> None:
    toys.many_label_table(here / "data")
    assert learn(here / "data", "--name", "many").code == 0
    rows = ask("predict", "runs/many", "data/pictures", "--json").json["predictions"]
    assert len(rows) == 60
    for row in rows:
        assert set(row["labels"]) == {name for name, value in row["confidences"].items() if value >= 0.5}


def test_pictures_are_read_by_the_rules_of_the_run(here) -> None:
    """Floating-point pictures need a declared range, which the run remembers."""
    generator = np.random.default_rng(0)
    for name, level in (("dark", 2.0), ("light", 8.0)):
        (here / "data" / name).mkdir(parents=True)
        for index in range(8):
            pixels = (level + generator.random((24, 24))).astype(np.float32)
            cv2.imwrite(str(here / "data" / name / f"{index}.tiff"), pixels)
    refused = learn(here / "data", "--name", "a")
    assert refused.code == 2
    assert "[needs_range]" in refused.err
    answer = learn(here / "data", "--set", "data.value_range=[0, 10]", "--name", "a")
    assert answer.code == 0, answer.err
    assert len(predict("runs/a", "data/dark").answers) == 8


def test_an_exported_model_is_named_as_one_and_a_table_is_told(finished, here) -> None:
    assert ask("export", finished.run.path).code == 0
    picture = finished.photos / "cross/000.png"
    answer = ask("predict", "exports/teal-fox.pictune", picture, "--csv", "out.csv", "--json").json
    assert (answer["model"], answer["table"]) == ("exports/teal-fox.pictune", "out.csv")
    assert "run" not in answer
    assert ask("predict", finished.run.path, picture, "--csv", "out.csv").out.endswith("\ntable: out.csv\n")
    assert "table" not in ask("predict", finished.run.path, picture).out


def test_a_place_that_cannot_be_written_is_told_first(finished, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("a picture was opened")

    monkeypatch.setattr("pictune.verbs.predict.decode", decoded)
    recipe = finished.run.path / "recipe.yaml"
    before = recipe.read_bytes()
    answer = ask("predict", finished.run.path, finished.photos, "--csv", recipe)
    assert (answer.code, recipe.read_bytes()) == (2, before)
    answer = ask("predict", finished.run.path, finished.photos, "--csv", "/proc/out.csv")
    assert answer.code == 2
    assert "/proc/out.csv cannot be written: No such file or directory\n" in answer.err
