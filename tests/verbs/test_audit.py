"""`pictune audit`: everything that is wrong with the data, on one page, with nothing changed."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from asking import ask, learn, traces
from PIL import Image

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


def floats() -> bytes:
    """A TIFF whose values say nothing of black and white."""
    stream = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 24 * 24, dtype=np.float32).reshape(24, 24)).save(stream, "TIFF")
    return stream.getvalue()


# What lies beside five circles and five crosses, settings, what training refuses, and what the audit tells.
STOPPING = {
    "43 a whole class damaged": (
        {f"star/{number}.png": b"" for number in range(3)},
        (),
        "class_lost",
        {
            "class_lost": "no image of 'star' can be used. Repair the images, or remove them and their "
            "class.",
            "too_many_bad": "3 of 13 pictures cannot be used; at most 5% may be left out. Repair or remove "
            "these files, or allow more with --set data.max_bad=<share>.",
        },
    ),
    "43 a whole class damaged, and damage allowed": (
        {"star/0.png": b"", "star/1.png": b"x"},
        ("--set", "data.max_bad=0.5"),
        "class_lost",
        {"class_lost": "no image of 'star' can be used."},
    ),
    "25 floats without a range": (
        {"circle/f.tif": floats()},
        (),
        "needs_range",
        {
            "needs_range": "nothing says which values are black and white in 1 image of floats or long "
            "integers. Declare these values, such as with --set 'data.value_range=[0, 1]', or save with "
            "8 or 16 bits: 'circle/f.tif'.",
            "too_many_bad": "1 of 11 pictures cannot be used",
        },
    ),
    "25 a class of floats beside a damaged class": (
        {"star/f.tif": floats(), "moon/0.png": b""},
        (),
        "needs_range",
        {
            "needs_range": "'star/f.tif'",
            "class_lost": "no image of 'moon', 'star'",
            "too_many_bad": "2 of 12",
        },
    ),
    "25 floats with a range": ({"circle/f.tif": floats()}, ("--set", "data.value_range=[0, 1]"), None, {}),
    "too many damaged": (
        {"circle/x.png": b""},
        (),
        "too_many_bad",
        {"too_many_bad": "1 of 11 pictures cannot be used"},
    ),
    "damaged, and allowed": ({"circle/x.png": b""}, ("--set", "data.max_bad=0.1"), None, {}),
}


@pytest.mark.parametrize(
    ("beside", "settings", "refused", "told"), list(STOPPING.values()), ids=list(STOPPING)
)
def test_what_would_stop_training_stands_in_front(
    here, beside: Mapping[str, bytes], settings, refused, told
) -> None:
    photos = toys.shape_folders(here / "photos", counts={"circle": 5, "cross": 5})
    for name, content in beside.items():
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(content)
    before = traces(photos)
    answer = ask("audit", photos, *settings)
    assert answer.code == 0, answer.err
    content = json.loads(Path("audit/audit.json").read_text())
    first = content["conclusions"][: len(told)]
    assert [(row["code"], row["severity"]) for row in first] == [(code, "serious") for code in told]
    for row, words in zip(first, told.values(), strict=True):
        assert row["message"].startswith("Training would stop: ")
        assert words in row["message"]
        assert row["message"] in answer.out
    assert "Training would stop" not in str(content["conclusions"][len(told) :])
    page = Path("audit/audit.html").read_text()
    assert all(name in page for name in beside if told)
    assert ("Training would stop: " in page) == bool(told)
    if refused:
        training = learn(photos, *settings)
        assert (training.code, f"[{refused}]" in training.err) == (2, True)
    assert traces(photos) == before


@pytest.mark.parametrize("group_by", [None, "re:^([^/]+)/", "exif:date"])
def test_there_is_a_page_even_where_no_picture_can_be_used(here, group_by) -> None:
    photos = here / "photos"
    for name in ("circle/0.png", "cross/0.png", "cross/1.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(b"")
    answer = ask("audit", photos, *(("--group-by", group_by) if group_by else ()))
    assert answer.code == 0, answer.err
    assert answer.out.startswith(
        "0 pictures, 2 classes (folders).\n"
        "  - Training would stop: no image of 'circle', 'cross' can be used. Repair the images, or remove "
        "them and their class.\n"
        "  - Training would stop: 3 of 3 pictures cannot be used; at most 5% may be left out."
    )
    assert "cross/1.png" in Path("audit/audit.html").read_text()


@pytest.mark.parametrize("place", [".", "audit"])
def test_nothing_is_written_among_the_pictures(here, monkeypatch: pytest.MonkeyPatch, place) -> None:
    photos = toys.shape_folders(here / "photos", counts={"circle": 3, "cross": 3})
    monkeypatch.chdir(photos)
    before = traces(photos)
    answer = ask("audit", ".", "--out", place)
    assert answer.code == 2
    assert "Choose another place with --out." in answer.err
    assert traces(photos) == before


def test_objects_that_are_left_out_are_told_from_files(here) -> None:
    """Their pictures stay, and a box that ends at the edge is named."""
    folder = here / "boxes"
    (folder / "images").mkdir(parents=True)
    rows = ["path,left,top,right,bottom,label"]
    for number in range(12):
        pixels = toys.picture(["circle"], number)
        cv2.imwrite(str(folder / f"images/{number}.png"), pixels)
        rows.append(f"images/{number}.png,2,2,12,12,{'cat' if number % 2 else 'dog'}")
    height, width = pixels.shape[:2]
    rows += ["images/3.png,4,4,4,9,cat", f"images/5.png,2,2,{width + 5},{height - 1},cat"]
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    answer = ask("audit", "boxes")
    assert answer.code == 0, answer.err
    assert "1 object (1 empty_box)" in answer.out
    assert "Their images stay" in answer.out
    assert "1 box reaches past the edge of the image and was cut off there" in answer.out
    assert "Training would stop: 1 of 14 boxes cannot be used" in answer.out
    assert "file (" not in answer.out
