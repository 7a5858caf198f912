"""From a folder or a table to a Dataset: what is read, what is refused, and with which words."""
# ruff: noqa: E501 - the tables of cases read best with one case a line

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tarfile
import unicodedata
import zipfile
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_folders import JPEG, files, snapshot

from pictune.data.formats import FORMATS, folders, read_dataset, tables
from pictune.data.formats.assembly import check_class_names
from pictune.data.sample import Labels
from pictune.errors import DataError


def labels(dataset) -> dict[str, tuple[str, ...]]:
    return {sample.key: sample.annotation.names for sample in dataset.samples}


def noted(dataset) -> set[tuple[str, str, str]]:
    found = ((finding.code, str(finding.outcome), finding.where) for finding in dataset.findings)
    return {row for row in found if row[0] != "ignored"}


def refusal(path, **options) -> DataError:
    before = snapshot(path.parent)
    with pytest.raises(DataError) as caught:
        read_dataset(path, **options)
    assert snapshot(path.parent) == before
    assert caught.value.exit_code == 2
    assert f"[{caught.value.code}]" in str(caught.value)
    assert caught.value.instead
    return caught.value


TWO = ("cats/a.jpg", "cats/b.jpg", "dogs/a.jpg")

# id, what lies in the folder, the reason code, and what the message must name.
REFUSED_FOLDERS = [
    ("41 empty folder", [], "empty", ["is empty"]),
    ("42 one class only", ["cats/a.jpg", "cats/b.jpg"], "one_class", ["'cats'", "at least two"]),
    ("43 class folder without images", [*TWO, "owls/"], "empty_class", ["owls"]),
    ("43 class folder with other files", [*TWO, "owls/notes.txt/"], "empty_class", ["owls"]),
    ("43 two class folders without images", [*TWO, "owls/", "newts/"], "empty_class", ["owls", "newts"]),
    ("49 nested class folders", [*TWO, "dogs/big/c.jpg"], "nested_folders", ["dogs/big", "1 images"]),
    ("49 nested below a split", ["train/a/x/1.jpg", "train/b/1.jpg"], "nested_folders", ["train/a/x"]),
    ("50 names equal but for case", ["Cat/a.jpg", "cat/b.jpg"], "ambiguous_class", ["'Cat'", "'cat'"]),
    ("50 names equal but for a blank", ["cat/a.jpg", "cat /b.jpg"], "ambiguous_class", ["'cat '"]),
    (
        "50 names equal but for NFC and NFD",
        [f"{unicodedata.normalize('NFC', 'é')}/a.jpg", f"{unicodedata.normalize('NFD', 'é')}/b.jpg"],
        "ambiguous_class",
        [r"'\xe9'", r"'e\u0301'"],
    ),
    (
        "50 names equal but for an invisible sign",
        ["cat/a.jpg", "cat\u200b/b.jpg"],
        "ambiguous_class",
        [r"\u200b"],
    ),
    ("51 name with a line break", ["cat\n/a.jpg", "dog/b.jpg"], "bad_class_name", ["line break"]),
    ("51 name with a bell", ["cat\a/a.jpg", "dog/b.jpg"], "bad_class_name", ["control character"]),
    ("51 blank name", [" /a.jpg", "dog/b.jpg"], "bad_class_name", ["is blank"]),
    ("images without class folders", ["a.jpg", "b.jpg"], "no_class_folders", ["2 images", "class"]),
    ("split folders without classes", ["train/a.jpg", "test/b.jpg"], "not_recognised", ["2 folders"]),
    (
        "split and class folders mixed",
        ["train/a/1.jpg", "train/b/1.jpg", "owls/1.jpg"],
        "mixed_layout",
        ["owls"],
    ),
    ("two folders of one split", ["val/a/1.jpg", "valid/b/1.jpg"], "duplicate_split", ["val and valid"]),
    ("nothing that is known", ["notes.txt", "more/"], "not_recognised", ["1 folders", "1 other files"]),
]


@pytest.mark.parametrize(
    ("names", "code", "words"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED_FOLDERS]
)
def test_refused_folders(tmp_path, names, code, words):
    root = files(tmp_path / "root", *names)
    if code == "empty_class" and any(name.endswith("notes.txt/") for name in names):
        (root / "owls" / "notes.txt").rmdir()
        (root / "owls" / "notes.txt").write_text("no image")
    error = refusal(root)
    assert error.code == code
    assert all(word in str(error) for word in words), str(error)


LABELME = '{"version": "5.0", "shapes": [], "imagePath": "a.jpg"}'


@pytest.mark.parametrize(
    ("file", "text", "layout"),
    [
        ("a.json", LABELME, "LabelMe"),
        (
            "annotations/a.json",
            '[{"image": "a.jpg", "annotations": [{"coordinates": {"x": 1}}]}]',
            "CreateML",
        ),
        ("via.json", '{"a.jpg1": {"regions": [{"shape_attributes": {}}]}}', "VGG Image Annotator"),
        ("annotations.xml", "<annotations><version>1.1</version></annotations>", "CVAT"),
    ],
)
def test_layouts_that_are_not_read_are_named(tmp_path, file, text, layout):
    root = files(tmp_path / "root", "images/a.jpg", file)
    (root / file).write_text(text)
    for path in (root, root / file):
        error = refusal(path)
        assert error.code == "format_not_read"
        assert layout in str(error)


def test_all_mistakes_come_at_once(tmp_path):
    root = files(tmp_path / "root", "Cat/a.jpg", "cat/b.jpg", "owls/", "dogs/deep/c.jpg", "x\n/d.jpg")
    text = str(refusal(root))
    assert all(word in text for word in ("'Cat'", "owls", "dogs/deep", "line break"))


READ_FOLDERS = [
    pytest.param(
        ["cats/a.jpg", "dogs/b.JPG"],
        {"cats/a.jpg": ("cats",), "dogs/b.JPG": ("dogs",)},
        set(),
        id="class folders",
    ),
    pytest.param(
        ["1/a.jpg", "01/a.jpg", "nan/a.jpg", "None/a.jpg"],
        {"1/a.jpg": ("1",), "01/a.jpg": ("01",), "nan/a.jpg": ("nan",), "None/a.jpg": ("None",)},
        set(),
        id="55 96 names stay strings, base names may repeat",
    ),
    pytest.param(
        ["con/a.jpg", f"{'x' * 255}/a.jpg"],
        {"con/a.jpg": ("con",), f"{'x' * 255}/a.jpg": ("x" * 255,)},
        set(),
        id="51 a name reserved elsewhere and one of 255 bytes",
    ),
    pytest.param(
        ["-big cats/-a b.jpg", "猫 ü/ü 猫.jpg"],
        {"-big cats/-a b.jpg": ("-big cats",), "猫 ü/ü 猫.jpg": ("猫 ü",)},
        set(),
        id="52 unicode, blanks and a leading dash",
    ),
    pytest.param(
        ["cats/A.jpg", "cats/a.jpg", "dogs/a.jpg"],
        {"cats/A.jpg": ("cats",), "cats/a.jpg": ("cats",), "dogs/a.jpg": ("dogs",)},
        {("case_collision", "warn", "cats/A.jpg")},
        id="54 files equal but for case",
    ),
    pytest.param(
        [*TWO, "loose.jpg"],
        {"cats/a.jpg": ("cats",), "cats/b.jpg": ("cats",), "dogs/a.jpg": ("dogs",)},
        {("unlabelled", "quarantine", "loose.jpg")},
        id="an image beside the class folders",
    ),
    pytest.param(
        ["cats /a.jpg", "dogs/a.jpg"],
        {"cats /a.jpg": ("cats",), "dogs/a.jpg": ("dogs",)},
        {("class_renamed", "normalise", "cats")},
        id="50 a blank alone is taken off",
    ),
    pytest.param(
        ["car/a.jpg", "train/a.jpg", "bus/a.jpg"],
        {"bus/a.jpg": ("bus",), "car/a.jpg": ("car",), "train/a.jpg": ("train",)},
        set(),
        id="train is a class among vehicles",
    ),
    pytest.param(
        ["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/"],
        {"train/a/1.jpg": ("a",), "train/b/1.jpg": ("b",), "val/a/1.jpg": ("a",)},
        {("empty_folder", "warn", "val/b")},
        id="46 a class folder is empty in one split",
    ),
    pytest.param(
        ["train/a/1.jpg", "train/b/1.jpg", "test/"],
        {"train/a/1.jpg": ("a",), "train/b/1.jpg": ("b",)},
        {("empty_split", "warn", "test")},
        id="a split folder is empty",
    ),
]


@pytest.mark.parametrize(("names", "expected", "findings"), READ_FOLDERS)
def test_read_folders(tmp_path, names, expected, findings):
    root = files(tmp_path / "root", *names)
    before = snapshot(root)
    dataset = read_dataset(root)
    assert labels(dataset) == expected
    assert list(labels(dataset)) == sorted(expected)
    assert noted(dataset) == findings
    assert dataset.classes == tuple(sorted({name for names in expected.values() for name in names}))
    assert (dataset.root, dataset.format, dataset.task, dataset.splits) == (
        root,
        "folders",
        "classification",
        {},
    )
    assert read_dataset(root) == dataset
    assert snapshot(root) == before


@pytest.mark.parametrize(
    "splits",
    [
        {"train": "train"},
        {"train": "train", "val": "val"},
        {"Train": "train", "TEST": "test"},
        {"train": "train", "valid": "val", "test": "test"},
        {"train": "train", "Validation": "val", "test": "test"},
    ],
    ids=lambda splits: "+".join(splits),
)
def test_split_folders(tmp_path, splits):
    root = files(tmp_path, *(f"{folder}/{name}/1.jpg" for folder in splits for name in "ab"))
    dataset = read_dataset(root)
    assert {s.key: s.given_split for s in dataset.samples} == {
        f"{folder}/{name}/1.jpg": split for folder, split in splits.items() for name in "ab"
    }
    assert dataset.classes == ("a", "b")


def test_53_class_folders_that_are_no_utf8(tmp_path):
    for name in (b"caf\xe9", b"dogs"):
        folder = os.fsencode(tmp_path) + b"/" + name
        os.mkdir(folder)  # noqa: PTH102 - a name of raw bytes
        Path(os.fsdecode(folder), "a.jpg").write_bytes(JPEG)
    dataset = read_dataset(tmp_path)
    assert dataset.classes == ("caf\\xe9", "dogs")
    assert noted(dataset) == {("class_renamed", "normalise", "caf\\xe9")}
    assert len(dataset.fingerprint) == 64
    json.dumps([(s.key, s.annotation.names) for s in dataset.samples]).encode()


class TestPaths:
    def test_41_absent(self, tmp_path):
        assert refusal(tmp_path / "nowhere").code == "absent"

    def test_41_a_file_that_is_no_table(self, tmp_path):
        assert refusal(files(tmp_path, "notes.txt", content=b"text") / "notes.txt").code == "not_a_dataset"
        assert refusal(files(tmp_path, "a.jpg") / "a.jpg").code == "not_a_dataset"

    def test_41_a_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.csv")
        assert refusal(tmp_path / "pipe.csv").code == "special_file"

    def test_unknown_format_names_the_nearest(self, tmp_path):
        error = refusal(files(tmp_path / "root", *TWO), format="folder")
        assert error.code == "unknown_format"
        assert "did you mean folders?" in str(error)

    def test_options_of_tables_are_not_ignored_for_folders(self, tmp_path):
        error = refusal(files(tmp_path / "root", *TWO), label_column="species")
        assert error.code == "unused_option"
        assert "data.label_column" in str(error)

    def test_two_formats_that_fit_are_both_named(self, tmp_path):
        root = files(tmp_path / "root", *TWO)
        (root / "labels.csv").write_text("file,label\ncats/a.jpg,x\ndogs/a.jpg,y\n")
        error = refusal(root)
        assert error.code == "ambiguous_format"
        assert all(word in str(error) for word in ("data.format=folders", "data.format=tables", "labels.csv"))
        assert read_dataset(root, format="folders").classes == ("cats", "dogs")
        assert read_dataset(root, format="tables").classes == ("x", "y")


def _zip(path: Path, *names: str, link: bool = False) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if link else 0o100644) << 16
            archive.writestr(info, b"x")


def _tar(path: Path, kind: bytes) -> None:
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("entry")
        entry.type, entry.linkname = kind, "../../outside"
        archive.addfile(entry, io.BytesIO())


def _nested(path: Path) -> None:
    _zip(path.with_suffix(".inner"), "a.jpg")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_suffix(".inner"), "inner.zip")


def _cut(path: Path) -> None:
    _zip(path, "a.jpg")
    path.write_bytes(path.read_bytes()[:-9])


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.bin", bytes(20_000_000))


def _encrypted(path: Path) -> None:
    _zip(path, "a.jpg")
    raw = bytearray(path.read_bytes())
    raw[6] |= 1
    path.write_bytes(raw)


ARCHIVES = [
    pytest.param("slip.zip", lambda path: _zip(path, "../slip"), id="62 zip slip"),
    pytest.param("absolute.zip", lambda path: _zip(path, "/tmp/absolute"), id="62 absolute name"),
    pytest.param("drive.zip", lambda path: _zip(path, "C:\\x", "..\\x"), id="62 drive letter and backslash"),
    pytest.param("link.zip", lambda path: _zip(path, "link", link=True), id="63 zip with a symlink"),
    pytest.param("link.tar", lambda path: _tar(path, tarfile.SYMTYPE), id="63 tar with a symlink"),
    pytest.param("hard.tar", lambda path: _tar(path, tarfile.LNKTYPE), id="63 tar with a hard link"),
    pytest.param("device.tar", lambda path: _tar(path, tarfile.CHRTYPE), id="63 tar with a device"),
    pytest.param("bomb.zip", _bomb, id="64 zip bomb"),
    pytest.param("many.zip", lambda path: _zip(path, *map(str, range(2000))), id="64 many entries"),
    pytest.param("nested.zip", _nested, id="64 nested zip"),
    pytest.param("encrypted.zip", _encrypted, id="65 encrypted"),
    pytest.param("cut.zip", _cut, id="65 truncated"),
    pytest.param(
        "large.tar.gz", lambda path: path.write_bytes(b"\x1f\x8b"), id="66 more than the disk holds"
    ),
    pytest.param("disguised", lambda path: _zip(path, "a.jpg"), id="an archive without ending"),
    pytest.param("disguised.dat", lambda path: _tar(path, tarfile.REGTYPE), id="a tar of another name"),
]


@pytest.mark.parametrize(("name", "make"), ARCHIVES)
def test_archives_are_refused_and_nothing_is_written(tmp_path, name, make, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    make(folder / name)
    monkeypatch.chdir(folder)
    before = snapshot(tmp_path)
    error = refusal(folder / name)
    assert error.code == "archive"
    assert "Extract it first" in error.instead
    assert snapshot(tmp_path) == before


def test_65_a_zip_with_two_entries_of_one_name(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        _zip(tmp_path / "twice.zip", "a.jpg", "a.jpg")
    assert refusal(tmp_path / "twice.zip").code == "archive"


@pytest.fixture
def images(tmp_path):
    return files(tmp_path / "root", "a.jpg", "b.jpg", "images/c.jpg")


def table(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    raw = text if isinstance(text, bytes) else text.encode()
    (folder / name).write_bytes(raw)
    return folder / name


ABC = {"a.jpg": ("cat",), "b.jpg": ("dög",), "images/c.jpg": ("cat",)}
PLAIN = "file,label\na.jpg,cat\nb.jpg,dög\nimages/c.jpg,cat\n"
JSONL = '{"file": "a.jpg", "label": "cat"}\n{"file": "b.jpg", "label": "dög"}\n\n{"file": "./images//c.jpg", "label": "cat"}'

READ_TABLES = [
    ("68 UTF-8", PLAIN, "l.csv"),
    ("68 UTF-8 with a byte order mark", PLAIN.encode("utf-8-sig"), "l.csv"),
    ("68 UTF-16, little end first", b"\xff\xfe" + PLAIN.encode("utf-16-le"), "l.csv"),
    ("68 UTF-16, big end first", b"\xfe\xff" + PLAIN.encode("utf-16-be"), "l.csv"),
    ("68 CRLF", PLAIN.replace("\n", "\r\n"), "l.csv"),
    ("68 CR alone", PLAIN.replace("\n", "\r"), "l.csv"),
    ("68 semicolons", PLAIN.replace(",", ";"), "l.csv"),
    ("68 tabs", PLAIN.replace(",", "\t"), "l.csv"),
    ("68 tabs in a TSV", PLAIN.replace(",", "\t"), "l.tsv"),
    (
        "68 quotes and a line break in a field",
        'note,file,label\n"one\ntwo, ""three""",a.jpg,cat\n,b.jpg,"dög"\nx,images/c.jpg,cat\n',
        "l.csv",
    ),
    ("69 an extra column", "id,FileName,Class\n1,a.jpg,cat\n2,b.jpg,dög\n3,images/c.jpg,cat\n", "l.csv"),
    (
        "blank lines and trailing commas",
        "file,label,\na.jpg,cat,\n\nb.jpg,dög,\n,,\nimages/c.jpg,cat,\n",
        "l.csv",
    ),
    ("blanks around names", "file, label\na.jpg, cat\nb.jpg, dög\nimages/c.jpg, cat\n", "l.csv"),
    ("Windows paths", PLAIN.replace("images/", "images\\"), "l.csv"),
    ("JSONL", JSONL, "l.jsonl"),
    ("JSONL of another ending", JSONL.replace("\n", "\r\n"), "l.ndjson"),
]


@pytest.mark.parametrize(("text", "name"), [pytest.param(*case[1:], id=case[0]) for case in READ_TABLES])
def test_read_tables(images, text, name):
    path = table(images, text, name)
    before = snapshot(images)
    dataset = read_dataset(path)
    assert labels(dataset) == ABC
    assert (dataset.format, dataset.classes, dataset.multilabel) == ("tables", ("cat", "dög"), False)
    assert {row for row in noted(dataset) if row[1] != "normalise"} == set()
    assert labels(read_dataset(images)) == ABC
    assert snapshot(images) == before


# id, the table, its name, the reason code, and what the message must name.
REFUSED_TABLES = [
    ("68 Latin-1", PLAIN.encode("latin-1"), "l.csv", "encoding", ["line 3", "0xf6", "UTF-8"]),
    ("68 UTF-16 without a mark", PLAIN.encode("utf-16-le"), "l.csv", "encoding", ["line 3", "UTF-16"]),
    ("68 UTF-16 without a mark, plain letters", "file,label\na.jpg,x".encode("utf-16-le"), "l.csv", "encoding", ["zero byte"]),
    ("68 a quote that is never closed", 'file,label\na.jpg,cat\n"b.jpg,dog\n', "l.csv", "malformed", ["l.csv:3"]),
    ("69 missing label column", "file,size\na.jpg,3\n", "l.csv", "missing_column", ["'file', 'size'", "data.label_column"]),
    ("69 no header", "a.jpg,cat\nb.jpg,dog\n", "l.csv", "missing_column", ["first line", "'a.jpg'"]),
    ("69 two columns that may be the label", "file,label,class\na.jpg,x,y\n", "l.csv", "ambiguous_column", ["data.label_column"]),
    ("69 too few and too many fields", "file,label\na.jpg\nb.jpg,x,y\n", "l.csv", "wrong_columns", ["l.csv:2", "l.csv:3"]),
    (
        "69 one file with two labels",
        "file,label\na.jpg,cat\nb.jpg,dog\n./a.jpg,dog\n",
        "l.csv",
        "conflicting_label",
        ["l.csv:4", "line 2", "'dog'", "'cat'"],
    ),
    (
        "69 one file in two splits",
        "file,label,split\na.jpg,cat,train\nb.jpg,dog,train\na.jpg,cat,test\n",
        "l.csv",
        "conflicting_row",
        ["l.csv:4", "line 2"],
    ),
    ("69 all labels empty", "file,label\na.jpg,\nb.jpg, \n", "l.csv", "empty", ["2 were left out: empty_label"]),
    ("69 no path", "file,label\n,cat\nb.jpg,dog\n", "l.csv", "empty_path", ["l.csv:2"]),
    ("70 absolute path", "file,label\n/etc/passwd,cat\nb.jpg,dog\n", "l.csv", "unsafe_path", ["l.csv:2", "absolute"]),
    ("70 home folder", "file,label\n~/a.jpg,cat\nb.jpg,dog\n", "l.csv", "unsafe_path", ["l.csv:2", "absolute"]),
    ("70 drive letter", "file,label\nC:\\a.jpg,cat\nb.jpg,dog\n", "l.csv", "unsafe_path", ["l.csv:2", "absolute"]),
    ("70 two dots", "file,label\nimages/../../x.jpg,cat\nb.jpg,dog\n", "l.csv", "unsafe_path", ["l.csv:2", "'..'"]),
    ("70 two dots and a backslash", "file,label\n..\\x.jpg,cat\nb.jpg,dog\n", "l.csv", "unsafe_path", ["l.csv:2"]),
    ("70 web address", "file,label\nhttp://127.0.0.1:9/x.jpg,cat\nb.jpg,dog\n", "l.csv", "unsafe_path", ["nothing is fetched"]),
    ("70 data address", "file,label\n\"data:image/png;base64,AA\",cat\nb.jpg,dog\n", "l.csv", "unsafe_path", ["l.csv:2"]),
    ("70 file address", "file,label\nfile:///etc/passwd,cat\nb.jpg,dog\n", "l.csv", "unsafe_path", ["l.csv:2"]),
    ("51 class named ..", "file,label\na.jpg,..\nb.jpg,dog\n", "l.csv", "bad_class_name", ["'..'"]),
    ("51 class with a slash", "file,label\na.jpg,x/y\nb.jpg,dog\n", "l.csv", "bad_class_name", ["'x/y'"]),
    ("51 class with a line break", 'file,label\na.jpg,"x\ny"\nb.jpg,dog\n', "l.csv", "bad_class_name", ["line break"]),
    ("51 class of 256 bytes", f"file,label\na.jpg,{'x' * 256}\nb.jpg,dog\n", "l.csv", "bad_class_name", ["255 bytes"]),
    ("50 classes equal but for a blank", "file,label\na.jpg,cat\nb.jpg,cat \n", "l.csv", "ambiguous_class", ["'cat '"]),
    ("42 one class", "file,label\na.jpg,cat\nb.jpg,cat\n", "l.csv", "one_class", ["'cat'"]),
    ("43 a class whose files are all missing", PLAIN + "gone.jpg,owl\n", "l.csv", "empty_class", ["'owl'"]),
    ("unknown split", "file,label,split\na.jpg,x,train\nb.jpg,y,holdout\n", "l.csv", "unknown_split", ["l.csv:3", "holdout"]),
    ("a split for some only", "file,label,split\na.jpg,x,train\nb.jpg,y,\n", "l.csv", "no_split", ["l.csv:3"]),
    ("nothing in it", " \n", "l.csv", "empty_table", ["l.csv"]),
    ("two separators", "file,labels\na.jpg,x|y\nb.jpg,x;z\n", "l.csv", "ambiguous_separator", ["'|'", "';'"]),
    ("71 broken JSON", '{"file": "a.jpg", "label": "x"}\n{"file": \n', "l.jsonl", "malformed", ["l.jsonl:2"]),
    ("72 NaN in JSON", '{"file": "a.jpg", "label": NaN}\n', "l.jsonl", "malformed", ["l.jsonl:1", "NaN"]),
    ("73 a key twice", '{"file": "a.jpg", "file": "b.jpg", "label": "x"}\n', "l.jsonl", "malformed", ["twice"]),
    ("73 deep nesting", '{"file": ' + "[" * 100_000 + "\n", "l.jsonl", "malformed", ["l.jsonl:1"]),
    ("71 a list for an object", '["a.jpg"]\n', "l.jsonl", "malformed", ["l.jsonl:1", "list"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name", "code", "words"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED_TABLES]
)
def test_refused_tables(images, text, name, code, words, monkeypatch):
    monkeypatch.setattr("socket.socket", lambda *_, **__: pytest.fail("the network was used"))
    error = refusal(table(images, text, name))
    assert error.code == code
    assert all(word in str(error) for word in words), str(error)


# id, the rows after "file,label", and what must be left out.
LEFT_OUT = [
    ("69 empty label", "images/c.jpg,\n", ("empty_label", "quarantine", "l.csv:4")),
    ("69 duplicated row", "a.jpg,cat\n", ("duplicate_row", "quarantine", "l.csv:4")),
    ("69 missing file", "gone.jpg,cat\n", ("missing_file", "quarantine", "l.csv:4")),
    ("57 link to a file outside", "out.jpg,cat\n", ("outside_root", "quarantine", "l.csv:4")),
    ("58 dangling link", "dangling.jpg,cat\n", ("dangling_symlink", "quarantine", "l.csv:4")),
    ("59 pipe", "pipe.jpg,cat\n", ("special_file", "quarantine", "l.csv:4")),
]


@pytest.mark.parametrize(("row", "finding"), [pytest.param(*case[1:], id=case[0]) for case in LEFT_OUT])
def test_rows_left_out(images, row, finding):
    files(images.parent / "outside", "x.jpg")
    (images / "out.jpg").symlink_to(images.parent / "outside" / "x.jpg")
    (images / "dangling.jpg").symlink_to("nowhere")
    os.mkfifo(images / "pipe.jpg")
    dataset = read_dataset(table(images, f"file,label\na.jpg,cat\nb.jpg,dog\n{row}", "l.csv"))
    assert labels(dataset) == {"a.jpg": ("cat",), "b.jpg": ("dog",)}
    assert noted(dataset) == {finding}


def test_all_lines_are_named_at_once(images):
    rows = [
        "a.jpg,cat",
        "/x.jpg,cat",
        "b.jpg,dog",
        "http://x/y.jpg,dog",
        "a.jpg,dog",
        "../z.jpg,cat",
        "b.jpg",
    ]
    text = str(refusal(table(images, "file,label\n" + "\n".join(rows))))
    assert all(f"labels.csv:{line} " in text for line in (3, 5, 6, 7, 8))
    assert "labels.csv:2 " not in text


def test_follow_outside(images):
    files(images.parent / "outside", "x.jpg")
    (images / "out.jpg").symlink_to(images.parent / "outside" / "x.jpg")
    path = table(images, "file,label\na.jpg,cat\nout.jpg,dog\n")
    assert list(labels(read_dataset(path, follow_outside=True))) == ["a.jpg", "out.jpg"]


class TestColumns:
    def test_named_columns(self, images):
        text = "picture;kind;part;patient\na.jpg;x;training;7\nb.jpg;y;Test;8\n"
        dataset = read_dataset(
            table(images, text),
            image_column="picture",
            label_column="kind",
            split_column="part",
            group_column="patient",
        )
        assert [(s.key, s.annotation, s.group, s.given_split) for s in dataset.samples] == [
            ("a.jpg", Labels(("x",)), "7", "train"),
            ("b.jpg", Labels(("y",)), "8", "test"),
        ]

    def test_a_named_column_makes_a_folder_a_table(self, images):
        table(images, "picture,kind\na.jpg,x\nb.jpg,y\n")
        assert read_dataset(images, image_column="picture", label_column="kind").classes == ("x", "y")

    def test_a_misspelt_column_names_the_nearest(self, images):
        error = refusal(table(images, "file,label,patient\na.jpg,x,1\n"), group_column="pateint")
        assert error.code == "missing_column"
        assert "did you mean patient?" in str(error)

    def test_group_is_used_only_when_called_so(self, images):
        called = read_dataset(table(images, "file,label,group\na.jpg,x,1\nb.jpg,y,\n"))
        assert [sample.group for sample in called.samples] == ["1", None]
        other = read_dataset(table(images, "file,label,patient\na.jpg,x,1\nb.jpg,y,2\n"))
        assert [sample.group for sample in other.samples] == [None, None]
        assert noted(other) == {("possible_group", "warn", "patient")}

    def test_96_labels_stay_strings(self, images):
        text = '{"file": "a.jpg", "label": "nan"}\n{"file": "b.jpg", "label": 1}\n{"file": "images/c.jpg", "label": "01"}\n'
        assert read_dataset(table(images, text, "l.jsonl")).classes == ("01", "1", "nan")
        text = "file,label\na.jpg,nan\nb.jpg,1\nimages/c.jpg,01\n"
        assert read_dataset(table(images, text, "m.csv")).classes == ("01", "1", "nan")

    def test_several_tables_in_a_folder(self, images):
        table(images, PLAIN, "one.csv")
        table(images, PLAIN, "two.csv")
        assert refusal(images, format="tables").code == "several_tables"
        assert refusal(images).code == "no_class_folders"

    def test_no_table_in_a_folder(self, images):
        assert refusal(images, format="tables").code == "no_table"


class TestSeveralLabels:
    EXPECTED: ClassVar = {"a.jpg": ("cat", "dog"), "b.jpg": (), "images/c.jpg": ("dog",)}

    @pytest.mark.parametrize(
        ("text", "name", "options"),
        [
            ("file,labels\na.jpg,dog|cat\nb.jpg,\nimages/c.jpg,dog\n", "l.csv", {}),
            ("file,labels\na.jpg,dog; cat\nb.jpg,\nimages/c.jpg,dog;\n", "l.csv", {}),
            ('file,tags\na.jpg,"dog,cat,dog"\nb.jpg,""\nimages/c.jpg,dog\n', "l.csv", {}),
            ("file,label\na.jpg,cat dog\nb.jpg,\nimages/c.jpg,dog\n", "l.csv", {"label_separator": " "}),
            (
                '{"file": "a.jpg", "labels": ["dog", "cat"]}\n{"file": "b.jpg", "labels": []}\n'
                '{"file": "images/c.jpg", "labels": ["dog"]}\n',
                "l.jsonl",
                {},
            ),
        ],
    )
    def test_read(self, images, text, name, options):
        dataset = read_dataset(table(images, text, name), **options)
        assert dataset.multilabel
        assert labels(dataset) == self.EXPECTED

    def test_one_label_a_row_is_single_label(self, images):
        dataset = read_dataset(table(images, "file,labels\na.jpg,x\nb.jpg,y\n"))
        assert not dataset.multilabel

    def test_without_a_list_is_unlabelled(self, images):
        text = '{"file": "a.jpg", "labels": ["x"]}\n{"file": "b.jpg", "labels": null}\n{"file": "images/c.jpg"}\n'
        dataset = read_dataset(table(images, text, "l.jsonl"))
        assert labels(dataset) == {"a.jpg": ("x",)}
        assert {code for code, _, _ in noted(dataset)} == {"empty_label"}

    def test_an_empty_separator(self, images):
        assert refusal(table(images, PLAIN), label_separator="").code == "bad_separator"


class TestParquet:
    def test_without_pyarrow_says_so(self, images, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
        error = refusal(table(images, b"PAR1", "l.parquet"))
        assert error.code == "parquet_needs_pyarrow"
        assert "pyarrow" in error.instead


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c;d", 'e"f', "g,h", "i j", "ü", "nan", "001"]), st.sampled_from("xyz")
        ),
        min_size=2,
        max_size=9,
    ),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_68_what_a_table_says_is_what_is_read(tmp_path_factory, rows, delimiter, encoding, ending):
    folder = tmp_path_factory.mktemp("table")
    rows = [(f"{number}.jpg", label) for number, (label, _) in enumerate(rows)]
    if len({label for _, label in rows}) < 2:
        rows.append(("last.jpg", "other"))
    files(folder, *(name for name, _ in rows))
    with (folder / "l.csv").open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator=ending).writerows([("file", "label"), *rows])
    assert labels(read_dataset(folder / "l.csv")) == {name: (label,) for name, label in rows}


BOTH = "file,label\ncats/a.jpg,x\ndogs/a.jpg,y\n"
ODD = "where,what\na.jpg,x\nb.jpg,y\n"

# id, files, tables, what was said of the model's own data, what training answers, and what judging notes;
# where judging refuses as well, the last is the code and words.
JUDGED = [
    ("42 one class", ["cats/a.jpg"], {}, {}, "one_class", {("one_class", "")}),
    ("42 one class in a table", ["a.jpg"], {"l.csv": "file,label\na.jpg,x\n"}, {}, "one_class", {("one_class", "")}),
    ("43 empty class folders", [*TWO, "owls/", "newts/"], {}, {}, "empty_class", {("empty_class", "")}),
    ("43 one class and an empty one", ["cats/a.jpg", "owls/"], {}, {}, "empty_class", {("empty_class", ""), ("one_class", "")}),
    ("43 a class of missing files", ["a.jpg", "b.jpg"], {"l.csv": "file,label\na.jpg,x\nb.jpg,y\nc.jpg,z\n"}, {},
     "empty_class", {("empty_class", ""), ("missing_file", "l.csv:4")}),
    ("69 no such label column", ["a.jpg", "b.jpg"], {"l.csv": "file,label\na.jpg,x\nb.jpg,y\n"}, {"label_column": "what"},
     "missing_column", {("other_column", "")}),
    ("69 no such image column", ["a.jpg", "b.jpg"], {"l.csv": "file,what\na.jpg,x\nb.jpg,y\n"},
     {"image_column": "where", "label_column": "what"}, "missing_column", set()),
    ("69 no such split column", ["a.jpg", "b.jpg"], {"l.csv": "file,label\na.jpg,x\nb.jpg,y\n"}, {"split_column": "part"},
     "missing_column", set()),
    ("69 no such group column", ["a.jpg", "b.jpg"], {"l.csv": "file,label\na.jpg,x\nb.jpg,y\n"}, {"group_column": "part"},
     "missing_column", set()),
    ("69 the group's column is called group", ["a.jpg", "b.jpg"], {"l.csv": "file,label,group\na.jpg,x,1\nb.jpg,y,2\n"},
     {"group_column": "part"}, "missing_column", {("other_column", "")}),
    ("splits of other names", ["a.jpg", "b.jpg"], {"l.csv": "file,label,split\na.jpg,x,holdout\nb.jpg,y,train\n"}, {},
     "unknown_split", set()),
    ("columns for class folders", TWO, {}, {"label_column": "what", "group_column": "part"}, "unused_option", set()),
    ("the model's own format", TWO, {"l.csv": BOTH}, {"format": "folders"}, None, set()),
    ("another format than the model's own", TWO, {}, {"format": "tables"}, "no_table", set()),
    ("the model's own columns in a folder", ["a.jpg", "b.jpg"], {"l.csv": ODD}, {"image_column": "where", "label_column": "what"},
     None, set()),
    ("a group by another name", ["a.jpg", "b.jpg"], {"l.csv": "file,label,patient\na.jpg,x,1\nb.jpg,y,2\n"}, {}, None,
     {("possible_group", "patient")}),
    ("43 nothing at all", ["owls/", "newts/"], {}, {}, "not_recognised", ("not_recognised", ["class folders"])),
    ("41 all labels empty", ["a.jpg"], {"l.csv": "file,label\na.jpg,\n"}, {}, "empty", ("empty", ["empty_label"])),
    ("50 names too alike", ["Cat/a.jpg", "cat/b.jpg"], {}, {}, "ambiguous_class", ("ambiguous_class", ["'Cat'"])),
    ("49 nested folders", [*TWO, "dogs/big/c.jpg"], {}, {}, "nested_folders", ("nested_folders", ["dogs/big"])),
    ("69 no label column", ["a.jpg"], {"l.csv": "file,size\na.jpg,3\n"}, {"image_column": "file"},
     "missing_column", ("missing_column", ["call it 'label'."])),
    ("69 neither label column", ["a.jpg"], {"l.csv": "file,size\na.jpg,3\n"}, {"label_column": "what"},
     "missing_column", ("missing_column", ["call it 'label' or 'what', as in the model's own data."])),
    ("69 two label columns", ["a.jpg"], {"l.csv": "file,label,class\na.jpg,x,y\n"}, {},
     "ambiguous_column", ("ambiguous_column", ["leave one of them in the table"])),
    ("69 two label columns, another meant", ["a.jpg"], {"l.csv": "file,label,class\na.jpg,x,y\n"}, {"label_column": "what"},
     "missing_column", ("ambiguous_column", ["call the right one 'what'"])),
    ("69 the label column twice", ["a.jpg"], {"l.csv": "file,what,what\na.jpg,x,y\n"}, {"label_column": "what"},
     "missing_column", ("missing_column", ["stands there twice"])),
    ("two separators", ["a.jpg", "b.jpg"], {"l.csv": "file,labels\na.jpg,x|y\nb.jpg,x;z\n"}, {},
     "ambiguous_separator", ("ambiguous_separator", ["Use one of them throughout."])),
    ("two formats", TWO, {"l.csv": BOTH}, {}, "ambiguous_format", ("ambiguous_format", ["- folders: ", "Give the table's own path"])),
    ("LabelMe", ["a.jpg"], {"a.json": LABELME}, {}, "format_not_read", ("format_not_read", ["give its own path"])),
    ("an unknown format", TWO, {}, {"format": "folder"}, "unknown_format", ("unknown_format", ["did you mean folders?"])),
]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "texts", "options", "training", "judging"),
    [pytest.param(*case[1:], id=case[0]) for case in JUDGED],
)
def test_what_training_needs_is_only_told_when_a_model_is_judged(
    tmp_path, names, texts, options, training, judging
):
    root = files(tmp_path / "root", *names)
    for name, text in texts.items():
        table(root, text, name)
    if training is None:
        read_dataset(root, **options)
    else:
        assert refusal(root, **options).code == training
    if isinstance(judging, tuple):
        error = refusal(root, **options, judging=True)
        assert error.code == judging[0]
        assert all(word in str(error) for word in judging[1]), str(error)
        assert "--set" not in str(error)
        return
    before = snapshot(tmp_path)
    dataset = read_dataset(root, **options, judging=True)
    assert {(code, where) for code, _, where in noted(dataset)} == judging
    assert {outcome for _, outcome, _ in noted(dataset)} <= {"warn", "quarantine"}
    assert not any("--" in finding.message for finding in dataset.findings)
    assert len(dataset) == len(labels(dataset)) > 0
    assert snapshot(tmp_path) == before


def test_many_empty_classes_make_one_sentence(tmp_path):
    root = files(tmp_path / "root", *TWO, *(f"c{number:02}/" for number in range(12)))
    (finding,) = read_dataset(root, judging=True).findings
    assert "c00, c01, " in finding.message
    assert finding.message.endswith("c09 and 2 more.")


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4)


@given(st.dictionaries(NAMES, st.integers(1, 9), min_size=1, max_size=6))
def test_50_51_names_are_clean_or_refused(counts):
    clean, findings = check_class_names(counts)
    if any(str(finding.outcome) == "reject" for finding in findings):
        return
    assert len(set(clean.values())) == len(counts)
    for name in clean.values():
        assert name == name.strip() != ""
        assert "/" not in name
        assert name not in (".", "..")
        assert "\n" not in name
        name.encode()


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
class TestContract:
    """What every format must keep."""

    def test_recognises_nothing_in_an_empty_folder(self, known, tmp_path):
        assert known.recognise(tmp_path) is None
        assert known.recognise(tmp_path / "absent") is None


@pytest.mark.parametrize("known", [folders, tables], ids=lambda known: known.name)
def test_reads_in_order_and_writes_nothing(known, tmp_path):
    root = files(tmp_path / "root", *TWO)
    if known.name == "tables":
        table(root, "file,label\ndogs/a.jpg,y\ncats/a.jpg,x\n")
    before = snapshot(root)
    assert known.recognise(root)
    dataset = read_dataset(root, format=known.name)
    assert [s.key for s in dataset.samples] == sorted(s.key for s in dataset.samples)
    assert dataset.format == known.name
    assert all(sample.path.is_file() for sample in dataset.samples)
    assert snapshot(root) == before
