"""A graph in half precision, or in OpenVINO's own form. Nothing here needs PyTorch."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from pictune.errors import RecipeError

if TYPE_CHECKING:
    import onnx

LARGEST = 65504.0  # what half precision can hold
LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Sums over many values, and functions whose small differences become large ones.
SENSITIVE = (
    *("Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization", "GroupNormalization"),
    *("ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "Exp", "Log", "Pow", "Sqrt", "Reciprocal"),
    *("Range", "CumSum"),
)
_OPENVINO_TELEMETRY = "openvino_telemetry"
_ONNXRUNTIME_TELEMETRY = "ORT_DISABLE_TELEMETRY"


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The parts of a graph, by the names of their nodes; a layer is a convolution or linear, with weights.

    Args:
        layers: All layers, in order.
        last: Layers that no other layer comes after.
        ends: What stands before the first layers, such as the pixels' normalisation, and behind the last.
    """

    layers: tuple[str, ...]
    last: frozenset[str]
    ends: frozenset[str]


def anatomy(graph: onnx.ModelProto) -> Anatomy:
    """The parts of a graph whose nodes stand in order, as the standard wants them."""
    weights = {tensor.name for tensor in graph.graph.initializer}
    layers = [
        n for n in graph.graph.node if n.op_type in LAYERS and len(n.input) > 1 and n.input[1] in weights
    ]
    names = {node.name for node in layers}
    after: set[str] = set()  # tensors that come from a layer
    before: set[str] = set()  # tensors that go into one
    last: set[str] = set()
    ends: set[str] = set()
    for node in graph.graph.node:
        if node.name in names or after & set(node.input):
            after |= set(node.output)
        else:
            ends.add(node.name)
    for node in reversed(graph.graph.node):
        goes = bool(before & set(node.output))
        if node.name in names or goes:
            before |= set(node.input)
        if not goes:
            (last if node.name in names else ends).add(node.name)
    return Anatomy(tuple(node.name for node in layers), frozenset(last), frozenset(ends))


def to_half(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A graph with weights and sums in half precision; what goes in and comes out stays as it is.

    The pixels' normalisation, the last layers, everything behind them, and operators that would lose much
    stay in float32. Where a processor has no arithmetic in half precision, onnxruntime computes in float32.

    Args:
        graph: Stays as it is.

    Raises:
        RecipeError: When a weight is larger than half precision can hold.
    """
    import numpy as np
    from onnx import TensorProto, numpy_helper

    import_tools()
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    parts = anatomy(graph)
    for tensor in graph.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            if values.size and not float(np.abs(values).max()) <= LARGEST:
                raise RecipeError(
                    f"fp16 cannot hold the network: {tensor.name} has values beyond {LARGEST:.0f}",
                    instead="Export it in fp32.",
                )
    with warnings.catch_warnings():
        # Weights too small for half precision become the least number that it can hold.
        warnings.filterwarnings("ignore", "the float32 number .* will be truncated to", UserWarning)
        half: onnx.ModelProto = convert_float_to_float16(
            graph,
            keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *SENSITIVE],
            node_block_list=sorted(parts.ends | parts.last),
        )
    _put_in_order(half.graph)
    _cut_detours(half)
    return half


def _cut_detours(model: onnx.ModelProto) -> None:
    """Hands out answers that were computed in float32 as they are.

    Onnxruntime's tool rounds them to half precision and back first, where a confidence below 6e-8 is lost.
    What goes into their computation stays rounded: where it is beyond half precision, the answers tell.
    """
    import onnx

    graph = model.graph
    del graph.value_info[:]  # what the tool left there is of the wrong type here and there
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    full = {value.name for value in inferred if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    makers = {name: node for node in graph.node for name in node.output}
    for answer in graph.output:
        widened = makers[answer.name]
        rounded = makers.get(widened.input[0])
        both = widened.op_type == "Cast" and rounded is not None and rounded.op_type == "Cast"
        if both and rounded is not None and rounded.input[0] in full:
            widened.op_type = "Identity"
            del widened.attribute[:]
            widened.input[0] = rounded.input[0]
    used = {name for node in graph.node for name in node.input} | {answer.name for answer in graph.output}
    for node in [node for node in graph.node if node.op_type == "Cast" and not used & set(node.output)]:
        graph.node.remove(node)


def import_tools() -> None:
    """Onnxruntime's tools, all at once: each finds its parts only while the first of them is imported."""
    import_onnxruntime()
    with _search_path_kept():
        import onnxruntime.quantization
        import onnxruntime.transformers.float16  # noqa: F401 - for later imports


@contextmanager
def _search_path_kept() -> Iterator[None]:
    """Where Python looks for modules stays as it is; onnxruntime's tools would add a folder of theirs."""
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before


def _put_in_order(graph: onnx.GraphProto) -> None:
    """Every node behind those whose outputs it takes, as the standard wants it."""
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output}
    order: dict[int, None] = {}
    for first in range(len(graph.node)):
        waiting = [first]
        while waiting:
            number = waiting[-1]
            needs = [makers[name] for name in graph.node[number].input if name in makers]
            missing = [need for need in needs if need not in order]
            waiting += missing
            if not missing:
                order[waiting.pop()] = None
    nodes = [graph.node[number] for number in order]
    del graph.node[:]
    graph.node.extend(nodes)


def to_openvino(graph: onnx.ModelProto) -> dict[str, bytes]:
    """A graph as OpenVINO keeps it: ``model.xml`` and ``model.bin``, numbers as they are.

    Raises:
        RecipeError: When OpenVINO is not installed, or cannot read the graph.
    """
    try:
        openvino = import_openvino()
    except ImportError as error:
        raise RecipeError(
            f"the format openvino needs the package openvino: {error}",
            instead="pip install 'pictune[openvino]'",
        ) from None
    with tempfile.TemporaryDirectory(prefix="pictune-openvino-") as folder:
        network, weights = Path(folder, "model.xml"), Path(folder, "model.bin")
        try:
            openvino.serialize(openvino.Core().read_model(graph.SerializeToString()), network, weights)
        except (RuntimeError, ValueError, TypeError) as error:
            line = (str(error).splitlines() or [""])[-1][:200]
            raise RecipeError(
                f"OpenVINO cannot read this network: {line}", instead="Export it with --format onnx."
            ) from error
        return {path.name: path.read_bytes() for path in (network, weights)}


def import_onnxruntime() -> ModuleType:
    """Onnxruntime, without its telemetry, which it decides on when a process first imports it.

    Otherwise its Linux build 1.32 numbers the machine in a file in the home folder, begins a database of
    events beside it, and knows an address to send them to.
    """
    held = os.environ.get(_ONNXRUNTIME_TELEMETRY)
    os.environ[_ONNXRUNTIME_TELEMETRY] = "1"
    try:
        import onnxruntime
    finally:
        if held is None:
            del os.environ[_ONNXRUNTIME_TELEMETRY]
        else:
            os.environ[_ONNXRUNTIME_TELEMETRY] = held
    found: ModuleType = onnxruntime
    return found


def import_openvino() -> ModuleType:
    """OpenVINO, without the word that it sends to its makers whenever it is imported.

    Raises:
        ImportError: When it is not installed.
    """
    with _unreachable(_OPENVINO_TELEMETRY):
        import openvino

    found: ModuleType = openvino
    return found


@contextmanager
def _unreachable(package: str) -> Iterator[None]:
    """A package that cannot be imported meanwhile; OpenVINO then takes a stand-in that sends nothing."""
    held = {name: module for name, module in sys.modules.items() if name.split(".")[0] == package}
    for name in held:
        del sys.modules[name]
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        sys.modules.update(held)
