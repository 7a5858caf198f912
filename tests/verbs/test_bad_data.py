"""Bad and odd data through the front door: each ends as documented, and the user's files stay as they are.

The cases are numbered as in the acceptance plan for reliability; the parts' own tests hold the rest.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from asking import ask, learn, report_of, traces
from PIL import Image

import toys
from pictune.run import Run

Build = Callable[[Path], Path]


def photos(root: Path) -> Path:
    """Twelve pictures of each of two shapes."""
    return toys.shape_folders(root / "photos", counts={"circle": 12, "cross": 12})


def more(number: int, **options) -> bytes:
    """One more picture, unlike all others."""
    stream = io.BytesIO()
    pixels = toys.picture(["circle"], 5000 + number, side=options.pop("side", toys.SIDE))
    Image.fromarray(pixels).save(stream, options.pop("kind", "PNG"), **options)
    return stream.getvalue()


def with_file(name: str, content: bytes) -> Build:
    def build(root: Path) -> Path:
        folder = photos(root)
        path = folder / os.fsdecode(os.fsencode(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return folder

    return build


def with_link(name: str, target: str) -> Build:
    def build(root: Path) -> Path:
        folder = photos(root)
        toys.write_picture(root / "elsewhere/far.png", ["circle"], 4000)
        (folder / name).symlink_to(target)
        return folder

    return build


def with_folder(name: str) -> Build:
    def build(root: Path) -> Path:
        folder = photos(root)
        (folder / name).mkdir()
        return folder

    return build


def many_bad(root: Path) -> Path:
    folder = photos(root)
    for number in range(5):
        (folder / f"circle/bad{number}.jpg").write_bytes(b"")
    return folder


def one_class(root: Path) -> Path:
    return toys.shape_folders(root / "photos", counts={"circle": 12})


def lone_picture(root: Path) -> Path:
    return toys.shape_folders(root / "photos", counts={"circle": 12, "cross": 12, "square": 1})


def lost_class(root: Path) -> Path:
    folder = photos(root)
    for path in (folder / "cross").iterdir():
        path.write_bytes(b"GIF89a")
    return folder


def empty(root: Path) -> Path:
    (root / "photos").mkdir()
    return root / "photos"


def absent(root: Path) -> Path:
    return root / "photos"


def one_picture(root: Path) -> Path:
    return photos(root) / "circle/000.png"


def text(root: Path) -> Path:
    (root / "notes.txt").write_text("hello")
    return root / "notes.txt"


def archive(kind: str) -> Build:
    def build(root: Path) -> Path:
        folder = photos(root)
        if kind == "zip":
            with zipfile.ZipFile(root / "photos.zip", "w") as zipped:
                zipped.writestr("../../evil.png", "x")
        else:
            with tarfile.open(root / f"photos.{kind}", "w:gz") as tarred:
                tarred.add(folder, "photos")
        return root / f"photos.{kind}"

    return build


def nested(root: Path) -> Path:
    folder = photos(root)
    toys.write_picture(folder / "circle/deep/0.png", ["circle"], 4000)
    return folder


def alike_names(root: Path) -> Path:
    folder = photos(root)
    toys.write_picture(folder / "Circle/0.png", ["circle"], 4000)
    return folder


def unlearnt_class(root: Path) -> Path:
    folder = toys.split_folders(root / "photos")
    for number in range(3):
        toys.write_picture(folder / f"test/star/{number}.png", ["cross", "circle"], 4000 + number)
    return folder


def leak(root: Path) -> Path:
    folder = toys.split_folders(root / "photos")
    shutil.copy(folder / "train/circle/000.png", folder / "val/circle/again.png")
    return folder


def without(part: str) -> Build:
    def build(root: Path) -> Path:
        folder = toys.split_folders(root / "photos")
        shutil.rmtree(folder / part)
        return folder

    return build


def uneven(root: Path) -> Path:
    folder = toys.split_folders(root / "photos")
    for number in range(4 * 30 - 8):
        toys.write_picture(folder / f"train/circle/more{number}.png", ["circle"], 5000 + number)
    for path in sorted((folder / "train/cross").iterdir())[4:]:
        path.unlink()
    return folder


def conflict(root: Path) -> Path:
    folder = photos(root)
    shutil.copy(folder / "circle/000.png", folder / "cross/other.png")
    return folder


def pipe(root: Path) -> Path:
    folder = photos(root)
    os.mkfifo(folder / "circle/pipe.png")
    return folder


def loop(root: Path) -> Path:
    folder = photos(root)
    (folder / "circle/round").symlink_to(folder, target_is_directory=True)
    return folder


def table(content: bytes) -> Build:
    def build(root: Path) -> Path:
        photos(root)
        (root / "photos/list.csv").write_bytes(content)
        return root / "photos/list.csv"

    return build


def rows(*extra: str, separator: str = ",") -> str:
    names = [f"{shape}/{number:03}.png" for shape in ("circle", "cross") for number in range(12)]
    lines = [separator.join((name, name.split("/", maxsplit=1)[0])) for name in names]
    return "\n".join([separator.join(("path", "label")), *lines, *extra]) + "\n"


REFUSED: Sequence[tuple[str, Build, str, Sequence[str]]] = [
    ("5 % bad, all named", many_bad, "too_many_bad", [f"circle/bad{i}.jpg" for i in range(5)]),
    ("41 empty folder", empty, "empty", ["photos is empty"]),
    ("41 absent path", absent, "absent", ["nothing to read at"]),
    ("41 path is a picture", one_picture, "not_a_dataset", ["Give the folder that holds it"]),
    ("41 path is a text", text, "not_a_dataset", ["notes.txt"]),
    ("42 one class", one_class, "one_class", ["'circle'"]),
    ("43 class without images", with_folder("square"), "empty_class", ["square holds no image"]),
    ("43 class with no usable image", lost_class, "class_lost", ["'cross'", "cross/011.png"]),
    ("45 class never learnt", unlearnt_class, "class_not_in_train", ["'star' is in test but not in train"]),
    ("49 nested folders", nested, "nested_folders", ["circle/deep"]),
    ("50 names too alike", alike_names, "ambiguous_class", ["'Circle' (1 images)", "'circle' (12 images)"]),
    ("57 class folder outside", with_link("far", "../elsewhere"), "outside_root", ["--follow-outside"]),
    ("62 zip that climbs", archive("zip"), "archive", ["nothing was written", "Extract it first"]),
    ("63 tar", archive("tgz"), "archive", ["nothing was written"]),
    ("40 leak between given splits", leak, "leak", ["val/circle/again.png (val)", "--allow-leaks"]),
    ("68 Latin-1 table", table(rows().replace("cross", "croß").encode("latin-1")), "encoding", ["line 14"]),
    ("69 no label column", table(rows().replace("label", "size").encode()), "missing_column", ["'size'"]),
    ("69 two labels", table(rows("cross/000.png,circle").encode()), "conflicting_label", ["list.csv:26"]),
    ("69 files missing", table(rows(*[f"no{i}.png,cross" for i in range(3)]).encode()), "too_many_bad",
     ["list.csv:26", "list.csv:28"]),
    ("70 paths that leave", table(rows("../x.png,cross", "/etc/passwd,cross", "http://x.org/a.png,cross").encode()),
     "unsafe_path", ["list.csv:26", "list.csv:27", "list.csv:28", "nothing is fetched"]),
]  # fmt: skip

# What is left out (by code), and what a reader of the report is told (codes and words).
TAKEN: Sequence[tuple[str, Build, Sequence[str], Sequence[str]]] = [
    ("1 empty file", with_file("circle/x.png", b""), ["empty"], ["left_out"]),
    ("3 text called .jpg", with_file("circle/x.jpg", b"<html>404</html>"), ["not_image"], ["left_out"]),
    ("4 pointer of Git LFS", with_file("circle/x.png", b"version https://git-lfs.github.com/spec/v1\n"),
     ["lfs_pointer"], ["left_out"]),
    ("5 cut JPEG", with_file("circle/x.jpg", more(1, kind="JPEG", side=64)[:900]),
     ["truncated"], ["left_out"]),
    ("7 bytes behind the end", with_file("circle/x.png", more(2) + b"more"), [], ["1 trailing_bytes"]),
    ("11 PNG called .jpg", with_file("circle/x.jpg", more(2)), [], ["1 wrong_extension"]),
    ("11 JPEG called .png", with_file("circle/x.png", more(2, kind="JPEG")), [], ["1 wrong_extension"]),
    ("12 no ending", with_file("circle/x", more(3)), [], []),
    ("21 turned by EXIF", with_file("circle/x.jpg", more(4, kind="JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0"
     b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")), [], []),
    ("27 too small", with_file("circle/x.png", more(5, side=6)), ["too_small"], ["left_out"]),
    ("44 class with one image", lone_picture, [], ["absent_class"]),
    ("46 class not in val", without("val/circle"), [], ["class_not_in_val", "'circle'"]),
    ("46 class not in test", without("test/circle"), [], ["absent_class"]),
    ("47 imbalance", uneven, [], ["imbalance", "30 times", "balanced accuracy"]),
    ("48 litter", with_file("circle/.DS_Store", b"x"), [], []),
    ("52 blanks, accents, a dash", with_file("circle/- ü x.png", more(6)), [], []),
    ("53 name that is no UTF-8", with_file(os.fsdecode(b"circle/b\xffd.png"), more(7)), [], []),
    ("54 names equal but for case", with_file("circle/000.PNG", more(8)), [], ["1 case_collision"]),
    ("56 conflicting labels", conflict, [], ["conflicting_label"]),
    ("57 link inside", with_link("circle/again.png", "000.png"), [], []),
    ("57 link outside", with_link("circle/far.png", "../../elsewhere/far.png"),
     ["outside_root"], ["left_out"]),
    ("58 dangling link", with_link("circle/gone.png", "nowhere.png"), ["dangling_symlink"], ["left_out"]),
    ("58 loop", loop, ["symlink_loop"], ["left_out"]),
    ("59 pipe", pipe, ["special_file"], ["left_out"]),
    ("68 BOM, CRLF and semicolons",
     table(rows(separator=";").replace("\n", "\r\n").encode("utf-8-sig")), [], []),
    ("68 UTF-16", table(rows().encode("utf-16")), [], []),
    ("69 repeated row", table(rows("cross/000.png,cross").encode()), ["duplicate_row"], ["left_out"]),
    ("69 empty label", table(rows("cross/000.png,").encode()), ["empty_label"], ["left_out"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("build", "code", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_is_refused_before_any_training(here, build, code, said) -> None:
    data = build(here)
    before = traces(here) if data.exists() else {}
    answer = learn(data)
    assert answer.code == 2, answer.out
    assert answer.out == ""
    assert f"[{code}]" in answer.err
    for phrase in said:
        assert phrase in answer.err
    assert "Traceback" not in answer.err
    assert not (here / "runs").exists()
    assert (traces(here) if before else {}) == before


@pytest.mark.parametrize(
    ("build", "left_out", "told"), [case[1:] for case in TAKEN], ids=[case[0] for case in TAKEN]
)
def test_is_taken_and_told(here, build, left_out, told) -> None:
    data = build(here)
    root = here / "photos"
    before = traces(root)
    answer = learn(data, "--name", "a")
    assert answer.code == 0, answer.err
    report = report_of("runs/a")
    assert [row["code"] for row in report["left_out"]] == list(left_out)
    assert report["dataset"]["left_out"] == len(left_out)
    findings = " ".join(f"{finding['code']} {finding['message']}" for finding in report["findings"])
    for words in told:
        assert words in findings
    assert ("left_out" in {finding["code"] for finding in report["findings"]}) == bool(left_out)
    used = [key for keys in Run("runs/a").read("splits.json")["splits"].values() for key in keys]
    files = [p for p in root.rglob("*") if p.is_file() and p.suffix != ".csv" and not p.name.startswith(".")]
    lost = [row for row in report["left_out"] if (root / row["where"]).is_file()]
    assert len(used) == len(files) - len(lost)
    assert all(f"1 {code}" in answer.err for code in left_out)
    assert ask("audit", data).code == 0
    assert ask("evaluate", "runs/a", "--split", "train").code == 0
    assert traces(root) == before


def test_a_class_with_one_image_is_learnt_and_never_judged(here) -> None:
    assert learn(lone_picture(here), "--name", "a").code == 0
    splits = Run("runs/a").read("splits.json")["splits"]
    assert [name for name, keys in splits.items() if "square/000.png" in keys] == ["train"]
    square = next(row for row in report_of("runs/a")["per_class"] if row["class"] == "square")
    assert (square["support"], square["recall"]["value"]) == (0, None)


def test_allowed_by_name_what_was_refused(here) -> None:
    data = many_bad(here)
    assert learn(data, "--max-bad", "0.3", "--name", "a").code == 0
    assert len(report_of("runs/a")["left_out"]) == 5
    link = with_link("far", "../elsewhere")(here / "second")
    toys.write_picture(here / "second/elsewhere/near.png", ["circle"], 4001)
    toys.write_picture(here / "second/elsewhere/here.png", ["circle"], 4002)
    assert learn(link, "--follow-outside", "--name", "b").code == 0
    assert "far" in {row["class"] for row in report_of("runs/b")["per_class"]}


def test_the_second_time_is_as_the_first(here) -> None:
    data = many_bad(here)
    assert learn(data).err == learn(data).err
    taken = with_file("circle/x.png", b"")(here / "second")
    assert learn(taken, "--name", "a").code == learn(taken, "--name", "b").code == 0
    first, second = (report_of(f"runs/{name}") for name in "ab")
    assert {**first, "run": ""} == {**second, "run": ""}


def test_a_folder_that_may_only_be_read(here) -> None:
    data = photos(here)
    for folder in (data / "circle", data / "cross", data):
        folder.chmod(0o555)
    try:
        assert learn(data).code == 0
    finally:
        for folder in (data, data / "circle", data / "cross"):
            folder.chmod(0o755)


def test_a_root_whose_name_is_no_utf8(here) -> None:
    odd = here / os.fsdecode(b"ph\xff")
    photos(here).rename(odd)
    answer = learn(odd, "--json", "--name", "a")
    assert answer.code == 0, answer.err
    assert report_of("runs/a")["dataset"]["root"] == "ph\\xff"
    assert ask("evaluate", "runs/a", "--json").json["metrics"] == answer.json["metrics"]
    assert ask("evaluate", "runs/a", "--data", odd).code == 0
    assert ask("audit", odd).code == 0


def test_imbalance_chooses_by_macro_f1(here) -> None:
    data = toys.shape_folders(here / "photos", counts={"circle": 40, "cross": 8})
    assert learn(data, "--name", "a").code == 0
    assert report_of("runs/a")["selected_by"] == "macro_f1 on the validation split"


def test_floating_point_pictures_need_a_range(here) -> None:
    data = photos(here)
    Image.fromarray(np.zeros((24, 24), np.float32)).save(data / "circle/f.tiff")
    answer = learn(data)
    assert answer.code == 2
    assert "[needs_range]" in answer.err
    assert "circle/f.tiff" in answer.err
