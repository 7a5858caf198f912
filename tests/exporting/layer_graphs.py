"""Small networks made in code, as graphs: convolutions between pixels and confidences, or some attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 32


def canvases(count: int, *, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Coarse coloured squares, another picture for every number."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return list(np.kron(coarse, np.ones((1, SIDE // 4, SIDE // 4, 1), np.uint8)))


class Drawing:
    """A graph while it is drawn; the weights come from a seed."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray] = {}

    def node(self, kind: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def constant(self, name: str, values: NDArray) -> str:
        self.constants[name] = values
        return name

    def weights(self, name: str, *shape: int) -> str:
        spread = np.sqrt(2 / np.prod(shape[1:]))
        return self.constant(name, (self.generator.normal(size=shape) * spread).astype(np.float32))

    def pixels(self) -> str:
        """Pixels to [n, 3, SIDE, SIDE] around zero."""
        seen = self.node("Transpose", ["pixels"], "planes", perm=[0, 3, 1, 2])
        seen = self.node("Cast", [seen], "floats", to=TensorProto.FLOAT)
        seen = self.node("Mul", [seen, self.constant("scale", np.full(1, 1 / 64, np.float32))], "scaled")
        return self.node("Add", [seen, self.constant("shift", np.full(1, -2, np.float32))], "normal")

    def convolution(self, seen: str, name: str, before: int, after: int, *, stride: int = 1) -> str:
        found = self.node(
            "Conv",
            [seen, self.weights(f"{name}_weight", after, before, 3, 3), self.weights(f"{name}_bias", after)],
            name,
            strides=[stride] * 2,
            pads=[1] * 4,
        )
        return self.node("Relu", [found], f"{name}_relu")

    def finished(self, output: str, *shape: int | str) -> onnx.ModelProto:
        made = helper.make_graph(
            self.nodes,
            "drawn",
            [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", *shape])],
            [numpy_helper.from_array(values, name) for name, values in self.constants.items()],
        )
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def convolutions(*, loud: str = "", classes: int = 3, seed: int = 5) -> onnx.ModelProto:
    """Four convolutions with a shortcut, the mean of the maps, and a linear layer: ``confidences``.

    Args:
        loud: The layer of which one channel's weights are a thousand times too large, and the next layer's
            for it a thousand times too small, so that nothing changes in float.
        classes: How many confidences.
        seed: Decides the weights.
    """
    drawing = Drawing(seed)
    seen = drawing.convolution(drawing.pixels(), "first", 3, 16, stride=2)
    seen = drawing.convolution(seen, "second", 16, 32)
    once = drawing.convolution(seen, "third", 32, 32)
    twice = drawing.convolution(once, "fourth", 32, 32)
    seen = drawing.node("Add", [seen, twice], "shortcut")
    seen = drawing.node("ReduceMean", [seen, drawing.constant("axes", np.array([2, 3]))], "mean", keepdims=0)
    bias = drawing.constant("last_bias", np.zeros(classes, np.float32))
    drawing.weights("last_weight", classes, 32)
    # What all canvases have in common would decide alone.
    drawing.constants["last_weight"] -= drawing.constants["last_weight"].mean(1, keepdims=True)
    seen = drawing.node("Gemm", [seen, "last_weight", bias], "last", transB=1)
    drawing.node("Softmax", [seen], "softmax", axis=1)
    drawing.nodes[-1].output[0] = "confidences"
    if loud:
        following = {"first": "second", "third": "fourth"}[loud]
        drawing.constants[f"{loud}_weight"][0] *= 1000
        drawing.constants[f"{loud}_bias"][0] *= 1000
        drawing.constants[f"{following}_weight"][:, 0] /= 1000
    return drawing.finished("confidences", classes)


def attention(*, classes: int = 3, seed: int = 0) -> onnx.ModelProto:
    """Patches that look at one another between two linear layers: ``confidences``."""
    drawing, width = Drawing(seed), 24
    patch = drawing.weights("patch_weight", width, 3, 8, 8)
    seen = drawing.node("Conv", [drawing.pixels(), patch], "patch", strides=[8, 8], kernel_shape=[8, 8])
    shape = drawing.constant("shape", np.array([0, width, -1]))
    seen = drawing.node("Reshape", [seen, shape], "listed")
    tokens = drawing.node("Transpose", [seen], "tokens", perm=[0, 2, 1])
    ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
    normal = [tokens, drawing.constant("gain", ones), drawing.constant("offset", zeros)]
    tokens = drawing.node("LayerNormalization", normal, "norm", axis=-1)
    keys = drawing.node("MatMul", [tokens, drawing.weights("keys_weight", width, width)], "keys")
    turned = drawing.node("Transpose", [keys], "turned", perm=[0, 2, 1])
    alike = drawing.node("Softmax", [drawing.node("MatMul", [tokens, turned], "alike")], "shares", axis=-1)
    mixed = drawing.node("MatMul", [alike, tokens], "mixed")
    joined = drawing.node("Add", [tokens, mixed], "joined")
    mean = drawing.node("ReduceMean", [joined, drawing.constant("axes", np.array([1]))], "mean", keepdims=0)
    last = drawing.node("MatMul", [mean, drawing.weights("last_weight", width, classes)], "last")
    drawing.node("Softmax", [last], "softmax", axis=1)
    drawing.nodes[-1].output[0] = "confidences"
    return drawing.finished("confidences", classes)
