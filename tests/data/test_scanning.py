"""The walk over a folder: what is opened, followed, left out and counted."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_folders import JPEG, files, pictures, snapshot, within, without_privileges

from pictune.data.finding import Outcome
from pictune.data.formats import read_dataset
from pictune.data.ingest import ingest
from pictune.data.scanning import Lookup, escape, key_of, looks_like_image, scan
from pictune.errors import DataError


def keys(listing) -> list[str]:
    return [image.key for image in listing.images]


def noted(listing) -> set[tuple[str, str, str]]:
    return {(finding.code, str(finding.outcome), finding.where) for finding in listing.findings}


# Links: name of the link, where it points (relative to the root), then the images and findings expected
# without and with --follow-outside.
LINKS = [
    pytest.param(
        "cats/x.jpg", "cats/a.jpg", ["cats/a.jpg", "cats/x.jpg"], set(), id="57 link to a file inside"
    ),
    pytest.param("kittens", "cats", ["cats/a.jpg", "kittens/a.jpg"], set(), id="57 link to a folder inside"),
    pytest.param(
        "cats/x.jpg",
        "../outside/b.jpg",
        ["cats/a.jpg"],
        {("outside_root", "quarantine", "cats/x.jpg")},
        id="57 link to a file outside",
    ),
    pytest.param(
        "dogs",
        "../outside",
        ["cats/a.jpg"],
        {("outside_root", "reject", "dogs")},
        id="57 link to a folder outside",
    ),
    pytest.param(
        "cats/up",
        ".",
        ["cats/a.jpg"],
        {("symlink_loop", "quarantine", "cats/up")},
        id="58 link to a folder above",
    ),
    pytest.param(
        "cats/me",
        "cats/me",
        ["cats/a.jpg"],
        {("symlink_loop", "quarantine", "cats/me")},
        id="58 link to itself",
    ),
    pytest.param(
        "cats/gone.jpg",
        "nowhere.jpg",
        ["cats/a.jpg"],
        {("dangling_symlink", "quarantine", "cats/gone.jpg")},
        id="58 dangling link",
    ),
]


@pytest.mark.parametrize(("link", "target", "expected", "findings"), LINKS)
def test_links(tmp_path, link, target, expected, findings):
    root = files(tmp_path / "root", "cats/a.jpg")
    files(tmp_path / "outside", "b.jpg")
    (root / link).symlink_to(root / target)
    before = snapshot(tmp_path)
    with within(10):
        listing = scan(root)
        again = scan(root)
    assert keys(listing) == expected
    assert noted(listing) == findings
    assert listing == again
    assert snapshot(tmp_path) == before


def test_links_outside_are_followed_when_permitted(tmp_path):
    root = files(tmp_path / "root", "cats/a.jpg")
    files(tmp_path / "outside", "b.jpg")
    (root / "cats" / "x.jpg").symlink_to(tmp_path / "outside" / "b.jpg")
    (root / "dogs").symlink_to(tmp_path / "outside")
    assert keys(scan(root, follow_outside=True)) == ["cats/a.jpg", "cats/x.jpg", "dogs/b.jpg"]


def test_58_folders_that_link_to_each_other_end(tmp_path):
    names = [f"class{number}" for number in range(12)]
    root = files(tmp_path, *(f"{name}/a.jpg" for name in names))
    for name in names:
        for other in names:
            if name != other:
                (root / name / other).symlink_to(root / other)
    with within(10):
        listing = scan(root)
    assert len(listing.images) == 12 * 12
    assert {code for code, _, _ in noted(listing)} == {"symlink_nested"}


def test_59_special_files_are_never_opened(tmp_path):
    root = files(tmp_path, "cats/a.jpg")
    os.mkfifo(root / "cats" / "pipe.jpg")
    os.mkfifo(root / "cats" / "pipe")
    (root / "cats" / "null.jpg").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server, within(10):
        here = Path.cwd()
        os.chdir(root / "cats")  # the path of a socket may have 108 bytes at most
        try:
            server.bind("socket.jpg")
        finally:
            os.chdir(here)
        listing = scan(root)
        inside = scan(root, follow_outside=True)
        assert Lookup(root).find(("cats", "pipe.jpg"))[0] == "special_file"
    assert keys(listing) == ["cats/a.jpg"]
    special = {"cats/pipe.jpg", "cats/pipe", "cats/socket.jpg"}
    assert {(c, w) for c, _, w in noted(listing)} == {
        *(("special_file", key) for key in special), ("outside_root", "cats/null.jpg"),
    }  # fmt: skip
    assert {(c, w) for c, _, w in noted(inside)} == {
        ("special_file", key) for key in {*special, "cats/null.jpg"}
    }


@pytest.fixture
def open_folder():
    """A folder that a user without any privileges owns, so that modes mean something."""
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() == 0:
            os.chown(name, 65534, 65534)
        with without_privileges():
            yield Path(name)


def test_60_unreadable_folder_rejects(open_folder):
    files(open_folder, "cats/a.jpg", "dogs/b.jpg", "owls/c.jpg")
    for name in ("cats", "owls"):
        (open_folder / name).chmod(0)
    try:
        with pytest.raises(DataError) as caught:
            read_dataset(open_folder)
    finally:
        for name in ("cats", "owls"):
            (open_folder / name).chmod(0o700)
    assert caught.value.code == "unreadable_folder"
    assert [cause.split()[0] for cause in caught.value.causes if "permission" in cause] == ["cats", "owls"]


def test_60_unreadable_file_is_left_out(open_folder):
    root = open_folder / "root"
    pictures(root, *(f"cats/{n}.png" for n in range(4)), *(f"dogs/{n}.png" for n in range(4)), first_seed=1)
    files(root, "dogs/without_ending")
    for name in ("dogs/3.png", "dogs/without_ending"):
        (root / name).chmod(0)
    dataset = read_dataset(root)
    assert [(f.code, f.outcome, f.where) for f in dataset.findings] == [
        ("unreadable", Outcome.QUARANTINE, "dogs/without_ending")
    ]
    opened = ingest(dataset, cache=open_folder / "cache", max_bad=0.5).dataset
    assert ("unreadable", "dogs/3.png") in {(f.code, f.where) for f in opened.findings}
    assert len(opened) == 7


def test_61_a_file_deleted_between_scan_and_read_is_left_out(tmp_path):
    root = pictures(tmp_path / "root", *(f"{c}/{n}.png" for c in ("cats", "dogs") for n in range(4)))
    dataset = read_dataset(root)
    (root / "cats" / "2.png").unlink()
    opened = ingest(dataset, cache=tmp_path / "cache", max_bad=0.5).dataset
    assert len(opened) == 7
    assert ("quarantine", "cats/2.png") in {(str(f.outcome), f.where) for f in opened.findings}


def test_48_hidden_and_system_files_are_ignored_and_counted(tmp_path):
    root = files(tmp_path, "cats/a.jpg", "cats/._a.jpg", "cats/.DS_Store", ".git/b.jpg", "cats/Thumbs.db")
    files(root, "__MACOSX/cats/a.jpg", "notes.txt", "cats/README", content=b"text")
    listing = scan(root)
    assert keys(listing) == ["cats/a.jpg"]
    assert listing.ignored == {"hidden": 3, "Thumbs.db": 1, "__MACOSX": 1, "*.txt": 1, "without ending": 1}
    assert listing.findings == ()


def test_12_the_content_decides_where_the_name_does_not(tmp_path):
    root = files(tmp_path, "cats/plain", "cats/odd.data", "cats/UPPER.JPG", "cats/b.jpeg")
    files(root, "cats/text", "cats/more.data", content=b"no picture")
    files(root, "cats/empty", content=b"")
    assert keys(scan(root)) == ["cats/UPPER.JPG", "cats/b.jpeg", "cats/odd.data", "cats/plain"]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n", True),
        (b"GIF89a", True),
        (b"RIFF\0\0\0\0WEBP", True),
        (b"RIFF\0\0\0\0WAVE", False),
        (b"II*\0", True),
        (b"BM\x10\0\0\0\0\0\0\0\x36\0\0\0", True),
        (b"BMW is a car, you know", False),
        (b"\0\0\0\x18ftypheic", True),
        (b"\0\0\0\x18ftypisom", False),
        (b"", False),
    ],
)
def test_first_bytes(tmp_path, head, expected):
    assert looks_like_image(files(tmp_path, "x", content=head) / "x") is expected


def test_53_names_that_are_no_utf8_are_kept_apart_and_safe(tmp_path):
    folder = os.fsencode(tmp_path / "cats")
    os.mkdir(folder)  # noqa: PTH102 - a name of raw bytes
    for name in (b"a\xff.jpg", b"a\\xff.jpg", b"line\nbreak.jpg", "grün 猫.jpg".encode(), b"-rf.jpg"):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(JPEG)
    listing = scan(tmp_path)
    expected = [
        "cats/-rf.jpg",
        "cats/a\\\\xff.jpg",
        "cats/a\\xff.jpg",
        "cats/grün 猫.jpg",
        "cats/line\\x0abreak.jpg",
    ]
    assert keys(listing) == sorted(expected)
    assert all(image.path.read_bytes() == JPEG for image in listing.images)
    assert json.loads(json.dumps(keys(listing)).encode()) == keys(listing)


NAMES = st.binary(min_size=1, max_size=8).filter(lambda raw: b"/" not in raw and b"\0" not in raw)


@given(st.sets(NAMES, min_size=2, max_size=12))
def test_53_no_two_names_share_a_key(raw):
    names = [os.fsdecode(name) for name in raw]
    escaped = [escape(name) for name in names]
    assert len(set(escaped)) == len(names)
    for text in escaped:
        text.encode("utf-8")
        assert text.isprintable() or not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in text)


def test_67_a_walk_opens_no_image_and_needs_little_memory(tmp_path, monkeypatch):
    for number in range(20):
        folder = tmp_path / f"class{number:02}"
        folder.mkdir()
        for file in range(100):
            (folder / f"{file:05}.jpg").touch()
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("a file was opened"))
    tracemalloc.start()
    listing = scan(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(listing.images) == 2000
    assert keys(listing) == sorted(keys(listing))
    assert peak / 2000 < 5000  # bytes: 200,000 files then stay below 1 GB


class TestLookup:
    @pytest.fixture
    def lookup(self, tmp_path):
        files(tmp_path / "root", "a.jpg", "images/b.jpg")
        files(tmp_path / "outside", "c.jpg")
        (tmp_path / "root" / "out.jpg").symlink_to(tmp_path / "outside" / "c.jpg")
        (tmp_path / "root" / "far").symlink_to(tmp_path / "outside")
        (tmp_path / "root" / "gone.jpg").symlink_to("nowhere")
        (tmp_path / "root" / "near.jpg").symlink_to("a.jpg")
        return Lookup(tmp_path / "root")

    @pytest.mark.parametrize("parts", [("a.jpg",), ("images", "b.jpg"), ("near.jpg",)])
    def test_finds(self, lookup, parts):
        assert lookup.find(parts).key == key_of(parts)

    @pytest.mark.parametrize(
        ("parts", "code"),
        [
            (("b.jpg",), "missing_file"),
            (("images",), "missing_file"),
            (("out.jpg",), "outside_root"),
            (("far", "c.jpg"), "outside_root"),
            (("gone.jpg",), "dangling_symlink"),
            (("zero\0.jpg",), "missing_file"),
            (("x" * 300,), "missing_file"),
        ],
    )
    def test_leaves_out(self, lookup, parts, code):
        assert lookup.find(parts)[0] == code
