"""A small network written down as ONNX by hand, so that tests of its precisions need no PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pictune.exporting.precision import import_onnxruntime

SIDE, WIDTH, CLASSES = 24, 32, 4


def network(*, beyond: float | None = None, norm: bool = False) -> onnx.ModelProto:
    """Normalisation, two convolutions, a fork that joins again, pooling, two linear layers, softmax.

    Args:
        beyond: Put in place of one weight of the second convolution.
        norm: Whether what is pooled is normalised on the way, as in transformers.
    """
    generator = np.random.default_rng(3)
    stored: dict[str, np.ndarray] = {"factor": np.float32([1 / 64]), "flat": np.int64([0, -1])}

    def weights(name: str, *shape: int) -> list[str]:
        fan = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        stored[f"{name}_weight"] = (generator.normal(size=shape) / np.sqrt(fan / 2)).astype(np.float32)
        outputs = shape[0] if len(shape) == 4 else shape[1]
        stored[f"{name}_bias"] = (0.1 * generator.normal(size=outputs)).astype(np.float32)
        return [f"{name}_weight", f"{name}_bias"]

    def conv(name: str, source: str, channels: int) -> onnx.NodeProto:
        inputs = [source, *weights(name, WIDTH, channels, 3, 3)]
        return helper.make_node("Conv", inputs, [name], name=name, pads=[1, 1, 1, 1])

    def plain(kind: str, name: str, *sources: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(kind, list(sources), [name], name=name, **attributes)

    nodes = [
        plain("Cast", "cast", "pixels", to=TensorProto.FLOAT),
        plain("Mul", "scale", "cast", "factor"),
        plain("Transpose", "upright", "scale", perm=[0, 3, 1, 2]),
        conv("first", "upright", 3),
        plain("Relu", "relu_1", "first"),
        plain("MaxPool", "pool", "relu_1", kernel_shape=[2, 2], strides=[2, 2]),
        conv("second", "pool", WIDTH),
        plain("Relu", "relu_2", "second"),
        conv("left", "relu_2", WIDTH),
        conv("right", "relu_2", WIDTH),
        plain("Add", "joined", "left", "right"),
        plain("Relu", "relu_3", "joined"),
        plain("GlobalAveragePool", "mean", "relu_3"),
        plain("Reshape", "vector", "mean", "flat"),
    ]
    last = "vector"
    if norm:
        stored["gain"] = np.ones(WIDTH, np.float32)
        nodes.append(plain("LayerNormalization", "norm", "vector", "gain"))
        last = "norm"
    nodes += [
        plain("Gemm", "sum", last, *weights("sum", WIDTH, WIDTH)),
        plain("Gemm", "last", "sum", *weights("last", WIDTH, CLASSES)),
        plain("Softmax", "softmax", "last", axis=1),
    ]
    nodes[-1].output[0] = "confidences"
    if beyond is not None:
        stored["second_weight"][0, 0, 0, 0] = beyond
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("confidences", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def canvases(count: int, *, seed: int = 0) -> np.ndarray:
    """uint8 (count, H, W, 3): one colour to each side of an edge, and noise."""
    generator = np.random.default_rng(seed)
    made = np.empty((count, SIDE, SIDE, 3), np.float64)
    for canvas in made:
        canvas[:] = generator.integers(0, 256, 3)
        canvas[:, : generator.integers(4, SIDE - 4)] = generator.integers(0, 256, 3)
    return np.clip(made + generator.normal(0, 12, made.shape), 0, 255).astype(np.uint8)


def said(graph: onnx.ModelProto, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """What onnxruntime gives on the processor alone, by name."""
    session = import_onnxruntime().InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"pixels": pictures}), strict=True))


def run_apart(code: str, *, home: Path) -> str:
    """Runs code in a process and a home of its own; what it prints."""
    # What measures coverage would say on stderr that there was nothing of ours to measure.
    env = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith("COVERAGE")}
    env |= {"HOME": str(home), "PYTHONPATH": str(Path(__file__).parent), "TMPDIR": str(home)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()
