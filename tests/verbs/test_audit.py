"""`pictune audit`: everything that is wrong with the data, on one page, with nothing changed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from asking import ask, traces

import toys
from pictune.verbs.audit import audit


@pytest.fixture
def messy(here) -> Path:
    """Given splits with a leak, a contradiction, a copy, a look-alike, damage and an odd picture."""
    photos = toys.split_folders(here / "messy", train=10, val=4, test=4)
    shutil.copy(photos / "train/circle/000.png", photos / "test/circle/leak.png")
    shutil.copy(photos / "train/circle/001.png", photos / "train/cross/other.png")
    shutil.copy(photos / "train/square/002.png", photos / "train/square/copy.png")
    brighter = np.clip(toys.picture(["square"], 13) + np.uint8(5), 0, 255)
    cv2.imwrite(str(photos / "train/square/look.png"), brighter[:, :, ::-1])
    cv2.imwrite(str(photos / "train/square/black.png"), np.zeros((24, 24, 3), np.uint8))
    for number in range(6):
        (photos / f"train/square/bad{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (photos / "train/notes.txt").write_text("hello")
    return photos


def test_everything_is_found_told_and_left_as_it_is(messy) -> None:
    before = traces(messy)
    answer = ask("audit", "messy")
    assert answer.code == 0, answer.err
    assert answer.err == ""
    assert answer.out.endswith("\n\n  report: audit/audit.html\n")
    content = json.loads(Path("audit/audit.json").read_text())
    told = [line.removeprefix("  - ") for line in answer.out.splitlines() if line.startswith("  - ")]
    assert told == [conclusion["message"] for conclusion in content["conclusions"]]
    assert {conclusion["code"] for conclusion in content["conclusions"]} >= {
        *("leak", "conflicting_label", "duplicate", "left_out", "constant", "few_images", "ignored"),
    }
    assert content["conclusions"][0]["severity"] == "serious"
    assert content["images"] == 54 + 5
    assert content["splits"] == {"train": 34, "val": 12, "test": 13}
    assert content["counts"]["circle"] == {"train": 10, "val": 4, "test": 5}
    assert traces(messy) == before
    assert sorted(path.name for path in Path().iterdir()) == ["audit", "messy"]


def test_page_shows_what_the_table_says(messy) -> None:
    ask("audit", "messy", "--out", "out")
    page = Path("out/audit.html").read_text()
    headline = re.search(r"<h1[^>]*>([^<]*)</h1>", page)
    assert headline
    assert len(headline[1]) < 120
    for key in ("test/circle/leak.png", "train/cross/other.png", "train/square/copy.png"):
        assert f'alt="{key}"' in page
    assert "bad0.png" in page
    assert not re.search(r"""src=["'](?!data:image/)""", page)


def test_json_alone_is_on_stdout(messy) -> None:
    answer = ask("audit", "messy", "--json", "--out", "out")
    assert set(answer.json) == {"verb", "report", "audit", "seconds"}
    assert answer.json["report"] == "out"
    assert answer.json["audit"] == json.loads(Path("out/audit.json").read_text())


def test_good_data_are_called_good(here) -> None:
    answer = ask("audit", toys.shape_folders(here / "photos"))
    assert answer.out.startswith(
        "60 pictures, 3 classes (folders).\n"
        "  - Nothing was found that speaks against training on these data.\n"
    )


def test_groups_across_splits_are_found(here) -> None:
    photos = toys.split_folders(here / "photos")
    answer = ask("audit", photos, "--group-by", r"re:(\d)\.png")
    assert answer.code == 0
    assert "of one group" in answer.out
    content = json.loads(Path("audit/audit.json").read_text())
    assert content["groups"]["count"] == 8
    assert {leak["kind"] for leak in content["leaks"]} == {"group"}


def test_a_table_of_several_labels(here) -> None:
    result = audit(toys.many_label_table(here / "data"), folder=here / "out")
    assert result.content["multilabel"]
    assert result.summary().endswith(f"report: {here / 'out/audit.html'}")


def test_progress_is_told(here) -> None:
    told: list[tuple[int, int]] = []
    photos = toys.shape_folders(here / "photos", counts={"circle": 5, "cross": 6})
    audit(photos, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 11) for done in range(1, 12)]


def test_more_bad_pictures_than_training_takes_do_not_stop_it(here) -> None:
    photos = toys.shape_folders(here / "photos", counts={"circle": 5, "cross": 5})
    for number in range(8):
        (photos / f"circle/{number}.jpg").write_bytes(b"")
    assert ask("audit", photos, "--set", "data.max_bad=0.1").code == 0


@pytest.mark.parametrize("place", [".", "audit"])
def test_nothing_is_written_among_the_pictures(here, monkeypatch: pytest.MonkeyPatch, place) -> None:
    photos = toys.shape_folders(here / "photos", counts={"circle": 3, "cross": 3})
    monkeypatch.chdir(photos)
    before = traces(photos)
    answer = ask("audit", ".", "--out", place)
    assert answer.code == 2
    assert "Choose another place with --out." in answer.err
    assert traces(photos) == before
