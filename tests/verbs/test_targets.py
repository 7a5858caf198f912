"""Where an exported model may be written: told before any picture is opened."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from asking import ask, traces

from pictune.errors import DataError, MachineError, PictuneError, RunError
from pictune.exporting.artifact import SUMS, Artifact, artifact_names
from pictune.verbs.export import export
from pictune.verbs.targets import check_export, check_writable


def check(target: Path | str, *, format_name: str = "onnx", data: Path | None = None) -> None:
    check_export(Path(target), format_name=format_name, data=data or Path("nowhere"), flag="--out")


@pytest.mark.parametrize(
    "name", ["x.onnx", "x.PT2", "x.zip", "x.xml", "x.PICTUNE", "x.tflite", "x.pt", "a/x.pth"]
)
def test_no_folder_is_called_as_a_network(here: Path, name: str) -> None:
    with pytest.raises(RunError, match=r"is a file that ends in \.pictune, or a folder; .* as model\.onnx"):
        check(name)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["x.pictune", "x", "new/er/x.pictune", "new/x", "v1.2", "there/x.pictune", "bare"]
)
def test_good_places_are_left_as_they_are(here: Path, name: str) -> None:
    (here / "there").mkdir()
    (here / "bare").mkdir()
    before = traces(here)
    check(name)
    assert traces(here) == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder.pictune", "folder.pictune is a folder, and a file is needed"),
        ("notes.pictune", "notes.pictune exists, and is no exported model"),
        ("photos", "photos exists, and is no exported model"),
        ("notes", "notes exists, and is no exported model"),
        ("notes/x.pictune", "notes/x.pictune cannot be written: Not a directory"),
        ("notes/x/y.pictune", "notes/x/y.pictune cannot be written: Not a directory"),
        ("/proc/x.pictune", "/proc/x.pictune cannot be written: No such file or directory"),
        ("/proc/x", "/proc/x cannot be written: No such file or directory"),
        ("a" * 300 + ".pictune", "a.pictune cannot be written: File name too long"),
        ("link", "link is a link, which an exported model would take the place of"),
        ("current.pictune", "current.pictune is a link"),
        ("mixed", "mixed holds what is no part of an exported model: notes.txt"),
        ("other", "other holds an exported model of another format, which has more files than model.onnx"),
    ],
)
def test_nothing_of_the_users_is_in_the_way(here: Path, name: str, said: str) -> None:
    (here / "folder.pictune").mkdir()
    (here / "photos").mkdir()
    (here / "photos" / "a.png").write_bytes(b"mine")
    (here / "notes.pictune").write_bytes(b"mine")
    (here / "notes").write_bytes(b"mine")
    (here / "link").symlink_to("nowhere/at/all")
    (here / "other").mkdir()
    for part in artifact_names("openvino"):
        (here / "other" / part).touch()
    assert (here / "other" / SUMS).exists()
    (here / "mixed").mkdir()
    for part in (*artifact_names("onnx"), "notes.txt"):
        (here / "mixed" / part).touch()
    (here / "current.pictune").symlink_to("notes.pictune")
    before = traces(here)
    with pytest.raises(RunError) as caught:
        check(name)
    assert said in caught.value.message
    assert "--out" in caught.value.instead
    assert "[" not in str(caught.value)
    assert traces(here) == before


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, RunError),
        (errno.EROFS, RunError),
        (errno.EPERM, RunError),
        (errno.ENOSPC, MachineError),
        (errno.EIO, MachineError),
    ],
)
def test_a_place_is_the_users_fault_and_a_disk_is_not(
    here: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[PictuneError]
) -> None:
    def refused(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(kind, match=r"x\.pictune") as caught:
        check_writable(Path("x.pictune"), flag="--out")
    assert caught.value.exit_code == (2 if kind is RunError else 3)


def test_nothing_is_written_among_the_pictures(here: Path) -> None:
    (here / "photos").mkdir()
    with pytest.raises(DataError, match="nothing is ever written among your pictures"):
        check("photos/x.pictune", data=here / "photos")


def test_it_is_told_before_a_picture_is_opened(finished, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a picture was opened")

    monkeypatch.setattr("pictune.verbs.export.open_run", opened)
    monkeypatch.setattr("pictune.verbs.export.make_graph", opened)
    for place in ("x.onnx", "/proc/x.pictune", finished.photos / "x"):
        answer = ask("export", finished.run.path, "--out", place)
        assert answer.code == 2, answer.err
    assert list(here.iterdir()) == []
    assert not (finished.photos / "x").exists()


def test_what_was_replaced_is_told(finished, here: Path) -> None:
    first = ask("export", finished.run.path, "--json").json
    assert first["replaced"] is None
    again = ask("export", finished.run.path, "--json").json
    assert again["replaced"] == {"id": first["id"], "run": "teal-fox", "same_weights": True}
    shutil.copytree(finished.run.path, here / "runs" / "red-owl")
    told = ask("export", "runs/red-owl", "--out", "exports/teal-fox.pictune").out.splitlines()
    assert told[-2:] == [
        "  exported: exports/teal-fox.pictune",
        f"  replaced: the model {again['id']}, of the same weights",
    ]


@pytest.mark.parametrize("left", [0, 4, 5000])
def test_half_of_an_exported_model_is_replaced(finished, here: Path, left: int) -> None:
    path = export(finished.run, out="x.pictune").path
    path.write_bytes(path.read_bytes()[:left])
    done = export(finished.run, out="x.pictune")
    assert done.summary().endswith("  replaced: an exported model that was broken")
    assert done.rows()["replaced"] == {"id": None, "run": None, "same_weights": False}
    assert Artifact.open(path).id == done.id
