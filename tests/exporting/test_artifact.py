"""Artifacts: what is written is what is read, and what is not whole is refused with a reason."""

from __future__ import annotations

import errno
import io
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from colour_models import (
    CLASSES,
    SIDE,
    SPECIFICATION,
    colour_graph,
    rewrite,
    with_content,
    with_specification,
    write_colours,
)
from onnx import TensorProto, helper

from pictune.errors import ArtifactError
from pictune.exporting.artifact import Artifact, is_artifact, write_artifact
from pictune.exporting.exported import Exported
from pictune.exporting.reference import Reference


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    return write_colours(tmp_path / "colours.pictune", run="teal-fox")


@pytest.mark.parametrize("name", ["colours.pictune", "colours"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    path = write_colours(tmp_path / name, run="teal-fox")
    artifact = Artifact.open(path)
    assert is_artifact(path)
    assert artifact.specification == SPECIFICATION
    assert artifact.content["run"] == "teal-fox"
    assert len(artifact.id) == 16
    exported = Exported.open(path)
    exported.self_test()
    red = np.full((1, SIDE, SIDE, 3), (255, 0, 0), np.uint8)
    assert exported.run(red)["confidences"].argmax() == CLASSES.index("red")


def test_equal_models_make_equal_files_in_folder_and_zip(tmp_path: Path) -> None:
    first = write_colours(tmp_path / "a.pictune")
    again = write_colours(tmp_path / "b.pictune")
    folder = write_colours(tmp_path / "c")
    assert first.read_bytes() == again.read_bytes()
    assert len({Artifact.open(path).id for path in (first, again, folder)}) == 1


def test_the_sums_are_those_that_sha256sum_reads(tmp_path: Path) -> None:
    folder = write_colours(tmp_path / "colours")
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)


def test_another_model_has_another_id(tmp_path: Path) -> None:
    other = write_colours(tmp_path / "b.pictune", specification=another_network())
    assert Artifact.open(other).id != Artifact.open(write_colours(tmp_path / "a.pictune")).id


def another_network():
    from dataclasses import replace

    return replace(SPECIFICATION, network="other")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def outside(tensor: onnx.TensorProto) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    tensor.ClearField("raw_data")


def with_graph(change):
    def changed(files):
        graph = onnx.load_model_from_string(files["model.onnx"])
        change(graph)
        return {**files, "model.onnx": graph.SerializeToString()}

    return changed


def vast(graph: onnx.ModelProto) -> None:
    graph.graph.initializer[1].dims[:] = [50_000, 50_000]  # 10 GB, with the bytes of one number


def foreign(graph: onnx.ModelProto) -> None:
    graph.graph.node[3].domain = "com.example"
    graph.opset_import.append(helper.make_opsetid("com.example", 1))


def foreign_inside(graph: onnx.ModelProto) -> None:
    """A branch hides the operator."""
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    hidden = helper.make_node("Steal", ["scores"], ["inner"], domain="com.example")
    branch = helper.make_graph([hidden], "branch", [], [value])
    graph.graph.node.append(
        helper.make_node("If", ["condition"], ["unused"], then_branch=branch, else_branch=branch)
    )


BROKEN = {
    "one bit": ("changed", flip),
    "cut": ("not_an_artifact", lambda p: p.write_bytes(p.read_bytes()[:-60])),
    "empty": ("not_an_artifact", lambda p: p.write_bytes(b"")),
    "absent": ("missing", lambda p: p.unlink()),
    "no sums": ("not_an_artifact", lambda p: rewrite(p, _without("SHA256SUMS"), sums=False)),
    "a file less": ("missing_file", lambda p: rewrite(p, _without("model.onnx"), sums=False)),
    "a file less in the sums too": ("missing_file", lambda p: rewrite(p, _without("reference.npz"))),
    "no model.json": ("missing_file", lambda p: rewrite(p, _without("model.json"))),
    "a file more": ("extra_file", lambda p: rewrite(p, _with("run.sh", b"#!/bin/sh"), sums=False)),
    "a file more in the sums too": ("extra_file", lambda p: rewrite(p, _with("run.sh", b"#!/bin/sh"))),
    "a path that climbs": ("extra_file", lambda p: rewrite(p, _with("../model.onnx", b""), sums=False)),
    "another file's bytes": ("changed", lambda p: rewrite(p, _with("model.onnx", b"x"), sums=False)),
    "sums that are none": ("changed", lambda p: rewrite(p, _with("SHA256SUMS", b"\xff"), sums=False)),
    "newer": ("newer_format", lambda p: rewrite(p, with_content(format=2))),
    "no format": ("bad_content", lambda p: rewrite(p, with_content(format="1"))),
    "unknown runtime": ("bad_content", lambda p: rewrite(p, with_content(format_name="pickle"))),
    "unknown precision": ("bad_content", lambda p: rewrite(p, with_content(precision="fp2"))),
    "no JSON": ("bad_content", lambda p: rewrite(p, _with("model.json", b"{"))),
    "nested JSON": ("bad_content", lambda p: rewrite(p, _with("model.json", b"[" * 100_000))),
    "another task": ("unknown_task", lambda p: rewrite(p, with_specification(task="captioning"))),
    "a task of objects": ("unknown_task", lambda p: rewrite(p, with_specification(task={"a": 1}))),
    "words for numbers": ("bad_content", lambda p: rewrite(p, with_specification(image_size="wide"))),
    "a class twice": ("bad_content", lambda p: rewrite(p, with_specification(classes=["a", "a", "b"]))),
    "thresholds": ("bad_content", lambda p: rewrite(p, with_specification(thresholds=[0.5]))),
    "more classes than outputs": (
        "wrong_network",
        lambda p: rewrite(p, with_specification(classes=["a", "b", "c", "d"])),
    ),
    "another size": ("wrong_network", lambda p: rewrite(p, with_specification(image_size=32))),
    "another input": ("wrong_network", lambda p: write_colours(p, graph=colour_graph(name="images"))),
    "another output": ("wrong_network", lambda p: write_colours(p, graph=colour_graph(output="logits"))),
    "no graph": ("bad_graph", lambda p: rewrite(p, _with("model.onnx", b"no graph"))),
    "10 GB": ("bad_graph", lambda p: rewrite(p, with_graph(vast))),
    "weights elsewhere": (
        "external_data",
        lambda p: rewrite(p, with_graph(lambda g: outside(g.graph.initializer[1]))),
    ),
    "foreign operator": ("foreign_operator", lambda p: rewrite(p, with_graph(foreign))),
    "hidden operator": ("foreign_operator", lambda p: rewrite(p, with_graph(foreign_inside))),
    "function": (
        "foreign_operator",
        lambda p: rewrite(p, with_graph(lambda g: g.functions.add(name="f", domain="local"))),
    ),
    "other answers": (
        "self_test_failed",
        lambda p: rewrite(
            p,
            with_graph(
                lambda g: g.graph.initializer[1].CopyFrom(
                    onnx.numpy_helper.from_array(np.array(0.1, np.float32), "scale")
                )
            ),
        ),
    ),
    "no reference": ("bad_content", lambda p: rewrite(p, _with("reference.npz", b"PK"))),
}


def _without(name):
    return lambda files: {n: data for n, data in files.items() if n != name}


def _with(name, data):
    return lambda files: {**files, name: data}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_refused_with_a_reason(zipped: Path, case: str) -> None:
    code, damage = BROKEN[case]
    damage(zipped)
    with pytest.raises(ArtifactError) as caught:
        Exported.open(zipped).self_test()
    assert caught.value.code == code, caught.value
    assert f"[{code}]" in str(caught.value)


def test_an_artifact_may_lie_in_a_folder_that_is_checked_too(tmp_path: Path) -> None:
    folder = write_colours(tmp_path / "colours")
    (folder / "more.txt").write_text("hello")
    with pytest.raises(ArtifactError, match="extra_file"):
        Artifact.open(folder)
    (folder / "more.txt").unlink()
    (folder / "model.onnx").rename(folder / "moved.onnx")
    (folder / "model.onnx").symlink_to("moved.onnx")
    with pytest.raises(ArtifactError, match="extra_file"):
        Artifact.open(folder)


def test_encrypted_or_doubled_entries_are_refused(zipped: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(zipped, "a") as archive:
        archive.writestr("model.json", b"{}")
    with pytest.raises(ArtifactError, match="extra_file"):
        Artifact.open(zipped)


def test_a_zip_that_unpacks_to_far_more_is_not_read(zipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(zipped, lambda files: {**files, "MODEL_CARD.md": bytes(17 * 1024**2)})
    with pytest.raises(ArtifactError, match="too_large"):
        Artifact.open(zipped)
    rewrite(zipped, lambda files: {**files, "MODEL_CARD.md": b"short"})
    monkeypatch.setattr("pictune.exporting.artifact.MOST_BYTES", 10_000)
    with pytest.raises(ArtifactError, match="in all"):
        Artifact.open(zipped)


def packed(path: Path, name: str, data: bytes, *, method: int = zipfile.ZIP_DEFLATED, mode: int = 0) -> None:
    """The same zip with one entry more, whose like `write_artifact` never writes."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, data, compress_type=method)


def test_bytes_that_become_a_hundred_times_as_many_are_not_read(zipped: Path) -> None:
    packed(zipped, "weights.bin", bytes(200 * 1024**2))
    assert zipped.stat().st_size < 1024**2
    with pytest.raises(ArtifactError, match="unpacks to far more") as caught:
        Artifact.open(zipped)
    assert caught.value.code == "too_large"


STRANGE = {
    "a link": ("link", {"mode": stat.S_IFLNK | 0o777}),
    "a folder": ("folder/", {}),
    "a device": ("device", {"mode": stat.S_IFCHR | 0o666}),
    "an absolute path": ("/etc/cron.d/x", {}),
    "a drive": ("C:x", {}),
    "a path of Windows": ("..\\x", {}),
    "a hidden file": (".bashrc", {}),
    "another compression": ("model.bin", {"method": zipfile.ZIP_LZMA}),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_zip_holds_plain_files_alone(zipped: Path, case: str) -> None:
    name, given = STRANGE[case]
    packed(zipped, name, b"/etc/passwd", **given)
    with pytest.raises(ArtifactError, match="no plain file") as caught:
        Artifact.open(zipped)
    assert caught.value.code == "extra_file"


def test_a_zip_of_very_many_files_is_not_read(zipped: Path) -> None:
    for number in range(20):
        packed(zipped, f"{number}.bin", b"")
    with pytest.raises(ArtifactError, match="too many"):
        Artifact.open(zipped)


def test_names_inside_a_file_forge_no_line_of_a_log(zipped: Path) -> None:
    packed(zipped, "x\r\nserver is fine\x1b[2J\u202etxt", b"")
    with pytest.raises(ArtifactError, match="extra_file") as caught:
        Artifact.open(zipped)
    assert "x\ufffd\ufffdserver is fine\ufffd[2J\ufffdtxt" in caught.value.message
    assert caught.value.message.isprintable()


def test_one_that_may_not_be_read(zipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(zipped))

    monkeypatch.setattr("pictune.exporting.artifact.zipfile.ZipFile", forbidden)
    with pytest.raises(ArtifactError, match="cannot be read: Permission denied") as caught:
        Artifact.open(zipped)
    assert caught.value.code == "unreadable"


def test_no_damage_of_a_byte_is_anything_but_told(zipped: Path) -> None:
    """Names, lengths, methods and compressed text; the bytes of stored files are all told by their sums."""
    whole = zipped.read_bytes()
    with zipfile.ZipFile(zipped) as archive:
        entries = archive.infolist()
        listed = archive.start_dir
    spots = [
        spot
        for entry in entries
        for spot in range(entry.header_offset, entry.header_offset + 60 + len(entry.filename))
    ]
    codes = set()
    for spot in (*spots, *range(listed, len(whole))):
        changed = bytearray(whole)
        changed[spot] ^= 64
        zipped.write_bytes(changed)
        try:
            Artifact.open(zipped)
        except ArtifactError as error:
            codes.add(error.code)
    assert codes >= {"changed", "not_an_artifact", "missing_file", "extra_file"}


def test_a_reference_that_is_compressed_is_not_read() -> None:
    reference = Reference((b"x",) * 4, np.zeros((4, 8, 8, 3), np.uint8), {"a": np.zeros((4, 1), np.float32)})
    assert Reference.from_bytes(reference.to_bytes()).pictures == reference.pictures
    stream = io.BytesIO()
    with np.load(io.BytesIO(reference.to_bytes())) as file:
        np.savez_compressed(stream, **file)
    with pytest.raises(ArtifactError, match="it is compressed") as caught:
        Reference.from_bytes(stream.getvalue())
    assert caught.value.code == "bad_content"


def test_nothing_of_the_users_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"mine")
    with pytest.raises(ArtifactError, match="in_the_way"):
        write_colours(tmp_path / "photos")
    (tmp_path / "x.pictune").mkdir()
    with pytest.raises(ArtifactError, match="in_the_way"):
        write_colours(tmp_path / "x.pictune")
    assert (tmp_path / "photos" / "a.png").read_bytes() == b"mine"


def test_an_artifact_is_replaced_whole(zipped: Path) -> None:
    before = Artifact.open(zipped).id
    write_colours(zipped, run="red-owl")
    assert Artifact.open(zipped).content["run"] == "red-owl"
    assert Artifact.open(zipped).id != before
    assert [p.name for p in zipped.parent.iterdir()] == [zipped.name]


def test_the_reference_tells_another_decoder(zipped: Path) -> None:
    reference = Reference.from_bytes(Artifact.open(zipped).files["reference.npz"])
    moved = Reference(reference.pictures, 255 - reference.canvases, reference.values)
    rewrite(zipped, lambda files: {**files, "reference.npz": moved.to_bytes()})
    with pytest.raises(ArtifactError, match="decoded otherwise"):
        Exported.open(zipped).self_test()


def test_a_format_that_needs_pytorch_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "colours.pictune"
    write_artifact(
        path,
        specification=SPECIFICATION,
        format_name="torch",
        precision="fp32",
        files={"model.pt2": b"anything"},
        reference=Artifact.open(write_colours(tmp_path / "o.pictune")).files["reference.npz"],
        card="",
        facts={},
    )
    with pytest.raises(ArtifactError, match="not_served"):
        Exported.open(path)


def test_neither_pytorch_nor_a_picture_of_the_users_is_needed(zipped: Path) -> None:
    """A process that must not have PyTorch answers with an artifact, and a copy of it elsewhere."""
    elsewhere = zipped.parent / "elsewhere.pictune"
    shutil.copy(zipped, elsewhere)
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'timm', 'accelerate'): sys.modules[name] = None\n"
        "from pictune.exporting.exported import Exported\n"
        f"exported = Exported.open({str(elsewhere)!r})\n"
        "exported.self_test()\n"
        "import numpy as np\n"
        "print(exported.predict([np.full((20, 30, 3), (0, 200, 0), np.uint8)])[0].annotation.names[0])\n"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "green", done.stderr
