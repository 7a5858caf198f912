"""Tiny artifacts made in code: networks that answer from the mean colour of their canvas."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pictune.exporting.artifact import SUMS, Artifact, write_artifact
from pictune.exporting.exported import Exported
from pictune.tasks.specification import Specification

SIDE, CLASSES = 16, ("red", "green", "blue")
SPECIFICATION = Specification("classification", CLASSES, "colours", SIDE, fit="squash")


def colour_graph(*, classes: int = 3, name: str = "pixels", output: str = "confidences") -> onnx.ModelProto:
    """Pixels (n, SIDE, SIDE, 3) to confidences (n, classes)."""
    constants = {
        "axes": np.array([1, 2], np.int64),
        "scale": np.array(8 / 255, np.float32),
        "weights": np.resize(np.eye(3, dtype=np.float32), (3, classes)),
    }
    nodes = [
        helper.make_node("Cast", [name], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "scale"], ["colour"]),
        helper.make_node("MatMul", ["colour", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], [output], axis=1),
    ]
    made = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def write_colours(
    path: Path,
    *,
    graph: onnx.ModelProto | None = None,
    specification: Specification = SPECIFICATION,
    precision: str = "fp32",
    **facts: Any,
) -> Path:
    """Writes an artifact; its reference is that of the sound network."""
    content = {"format_name": "onnx", "precision": precision}
    sound = {"model.onnx": colour_graph().SerializeToString()}
    reference = Exported.of(Artifact(path, SPECIFICATION, content, "", sound)).make_reference().to_bytes()
    write_artifact(
        path,
        specification=specification,
        format_name="onnx",
        precision=precision,
        files={"model.onnx": graph.SerializeToString()} if graph is not None else sound,
        reference=reference,
        card="# Colours\n",
        facts=facts,
    )
    return path


def rewrite(
    path: Path, change: Callable[[dict[str, bytes]], Mapping[str, bytes]], *, sums: bool = True
) -> None:
    """Changes the files of a zipped artifact; with checksums that fit, unless told otherwise."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files = dict(change(files))
    if sums:
        rows = [f"{hashlib.sha256(files[n]).hexdigest()}  {n}\n" for n in sorted(files) if n != SUMS]
        files[SUMS] = "".join(rows).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def with_content(**changes: Any) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    """Files whose model.json says something else."""

    def change(files: dict[str, bytes]) -> dict[str, bytes]:
        content = {**json.loads(files["model.json"]), **changes}
        return {**files, "model.json": json.dumps(content).encode()}

    return change


def with_specification(**changes: Any) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    """Files whose model.json has another specification."""

    def change(files: dict[str, bytes]) -> dict[str, bytes]:
        specification = {**json.loads(files["model.json"])["specification"], **changes}
        return with_content(specification=specification)(files)

    return change
