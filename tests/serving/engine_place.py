"""Tiny real artifacts, some with faults built into their graph, and a shelf or engine over them.

The network of an artifact answers from the mean colour of the canvas. What a picture is made of decides:

    ordinary   an answer
    white      the network raises: it looks up a place that is not there
    black      the network answers with what is no number
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pictune.exporting.artifact import Artifact, write_artifact
from pictune.exporting.exported import Exported
from pictune.serving.capacity import Capacity
from pictune.serving.engine import Engine
from pictune.serving.refusals import Refusal
from pictune.serving.shelf import Shelf
from pictune.tasks.specification import Specification

SIDE = 16
CLASSES = ("red", "green", "blue")
PATIENCE = 60.0  # seconds that anything may take before a test fails


def graph(*, classes: int = 3, lean: Sequence[float] = (0, 0, 0), domain: str = "") -> bytes:
    """An ONNX network: pixels (n, SIDE, SIDE, 3) to confidences (n, classes).

    Args:
        classes: How many outputs.
        lean: What is added to the score of each class, so that models can be told apart.
        domain: Of one operator.
    """
    constants = {
        "axes": np.array([1, 2], np.int64),
        "last": np.array([1], np.int64),
        "scale": np.array(1 / 255, np.float32),
        "weights": np.resize(np.eye(3, dtype=np.float32) * 8, (3, classes)),
        "lean": np.resize(np.asarray(lean, np.float32), classes),
        "dark": np.array(0.01, np.float32),
        "bright": np.array(254.5, np.float32),
        "nothing": np.zeros(1, np.float32),
        "zero": np.array(0, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["sums"], keepdims=0),
        helper.make_node("Mul", ["sums", "scale"], ["colour"]),
        # White: place 1 of a list of one.
        helper.make_node("ReduceMean", ["sums", "last"], ["grey"], keepdims=1),
        helper.make_node("Greater", ["grey", "bright"], ["white"]),
        helper.make_node("Cast", ["white"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["nothing", "place"], ["raised"], axis=0),
        # Black: the root of less than nothing.
        helper.make_node("Mul", ["grey", "scale"], ["light"]),
        helper.make_node("Sub", ["light", "dark"], ["rest"]),
        helper.make_node("Sqrt", ["rest"], ["root"]),
        helper.make_node("Mul", ["root", "zero"], ["nan"]),
        helper.make_node("MatMul", ["colour", "weights"], ["scores"]),
        helper.make_node("Add", ["scores", "lean"], ["leaning"]),
        helper.make_node("Add", ["leaning", "raised"], ["careful"]),
        helper.make_node("Add", ["careful", "nan"], ["whole"]),
        helper.make_node("Softmax", ["whole"], ["confidences"], axis=1, domain=domain),
    ]
    made = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("confidences", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return onnx.ModelProto.SerializeToString(helper.make_model(made, opset_imports=opsets, ir_version=9))


def write(
    path: Path, *, lean: Sequence[float] = (0, 0, 0), classes: Sequence[str] = CLASSES, **facts: Any
) -> str:
    """Writes a whole artifact and gives its id."""
    specification = Specification("classification", tuple(classes), "colours", SIDE, fit="squash")
    files = {"model.onnx": graph(lean=lean)}
    content = {"format_name": "onnx", "precision": "fp32"}
    draft = Exported.of(Artifact(path, specification, content, "", files))
    write_artifact(
        path,
        specification=specification,
        format_name="onnx",
        precision="fp32",
        files=files,
        reference=draft.make_reference().to_bytes(),
        card="# Colours\n",
        facts=facts,
    )
    return Artifact.open(path).id


def _rewritten(path: Path, **changes: bytes) -> None:
    """An artifact in which files are replaced, with checksums that fit."""
    whole = Artifact.open(path)
    files = {**whole.files, **{name.replace("_", "."): data for name, data in changes.items()}}
    write_artifact(
        path,
        specification=whole.specification,
        format_name="onnx",
        precision="fp32",
        files={"model.onnx": files["model.onnx"]},
        reference=files["reference.npz"],
        card="# Colours\n",
        facts={},
    )


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _add_file(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "hello")


def _other_reference(path: Path) -> None:
    other = path.with_name("other.pictune")
    write(other, lean=(5, 0, 0))
    _rewritten(path, reference_npz=Artifact.open(other).files["reference.npz"])


#: How an artifact is broken, and the code with which it must be refused; empty for any.
BREAK: dict[str, tuple[str, Callable[[Path], None]]] = {
    "one bit flipped": ("changed", _flip),
    "cut": ("", _cut),
    "empty": ("not_an_artifact", lambda path: path.write_bytes(b"")),
    "a web page": ("not_an_artifact", lambda path: path.write_text("<html>not found</html>")),
    "gone": ("missing", lambda path: path.unlink()),
    "a file too many": ("extra_file", _add_file),
    "other answers": ("self_test_failed", _other_reference),
    "fewer classes": ("wrong_network", lambda path: _rewritten(path, model_onnx=graph(classes=2))),
    "foreign operator": (
        "foreign_operator",
        lambda path: _rewritten(path, model_onnx=graph(domain="com.example")),
    ),
    "no graph": ("bad_graph", lambda path: _rewritten(path, model_onnx=b"no graph at all")),
}


def picture(colour: Sequence[int], *, size: tuple[int, int] = (40, 30), suffix: str = ".png") -> bytes:
    """A file of one colour, red, green and blue."""
    pixels = np.full((size[1], size[0], 3), colour[::-1], np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


@functools.cache
def ordinary(number: int) -> bytes:
    """A picture of which no two are alike."""
    red, green, blue = np.random.default_rng(number).integers(20, 230, 3).tolist()
    return picture((red, green, blue))


WHITE, BLACK = picture((255, 255, 255)), picture((0, 0, 0))


def expected(artifact: Path | Exported, image: bytes, **question: Any) -> dict[str, Any]:
    """What an artifact answers in this process."""
    exported = artifact if isinstance(artifact, Exported) else Exported.open(artifact)
    looked = exported.look(image)
    return exported.row(exported.answer(exported.run(looked.canvas[None]), looked), looked, **question)


async def refused(asking: Any) -> Refusal:
    """The refusal that must come."""
    try:
        reply = await asking
    except Refusal as refusal:
        return refusal
    raise AssertionError(f"answered: {reply}")


async def outcome(asking: Any) -> Any:
    """The reply, or the refusal."""
    try:
        return await asking
    except Refusal as refusal:
        return refusal


@contextlib.asynccontextmanager
async def engine(path: Path, *, program: Sequence[str] = (), **facts: Any) -> AsyncIterator[Engine]:
    """An engine that is ready, and ends with the test."""
    of_engine = {name: facts.pop(name) for name in ("watcher", "given_up") if name in facts}
    if program:
        of_engine["program"] = program
    made = Engine(path, name="colours", capacity=Capacity(**facts), **of_engine)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def shelf(models: dict[str, Path], **facts: Any) -> AsyncIterator[Shelf]:
    """A shelf that is ready, and ends with the test."""
    of_shelf = {name: facts.pop(name) for name in ("watcher", "given_up", "program") if name in facts}
    made = Shelf(models, capacity=Capacity(**facts), **of_shelf)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


def children() -> dict[int, str]:
    """The processes that this one started and has not taken leave of, with their state; Z is a zombie."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == os.getpid():
                    found[int(folder.name)] = state
    return found


def worker_of(path: Path) -> int:
    """The number of the one process that answers with an artifact; one that was replaced goes by a pin."""
    found = {}
    for number in children():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
            if b"--artifact" in words:
                found[number] = Path(words[words.index(b"--artifact") + 1].decode())
    exact = [number for number, where in found.items() if where == path]
    pinned = [number for number, where in found.items() if where.parent == Path("/proc/self/fd")]
    [number] = exact or pinned
    return number


def stop(number: int) -> None:
    """Stops a process, and waits until none of its threads does anything."""
    os.kill(number, signal.SIGSTOP)
    tasks = Path("/proc", str(number), "task")
    while any(task.read_text().rpartition(") ")[2][0] not in "TZX" for task in tasks.glob("*/stat")):
        time.sleep(0.001)


@contextlib.contextmanager
def stopped(number: int) -> Iterator[None]:
    """Inside, a process does nothing at all."""
    stop(number)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGCONT)


async def until(true: Callable[[], bool]) -> None:
    """Waits until something holds."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.005)


def alive(number: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def row(reply: Any) -> dict[str, Any]:
    """The answer in a reply."""
    return json.loads(reply.row)
