"""What runs an exported network: canvases in, arrays by name out. Nothing here needs PyTorch.

Shapes: n canvases, H and W their height and width.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pictune.errors import ArtifactError
from pictune.exporting.precision import import_openvino

if TYPE_CHECKING:
    import onnx

INPUT = "pixels"
DOMAINS = frozenset({"", "ai.onnx"})  # the operators that every runtime knows

_TYPES = MappingProxyType({"u8": "uint8", "f32": "float"})  # what onnxruntime calls OpenVINO's types

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Session: TypeAlias = Callable[[NDArray[np.uint8]], Arrays]
Shape: TypeAlias = tuple[int | str | None, ...]


def open_onnx(
    files: Mapping[str, bytes], *, threads: int, spinning: bool
) -> tuple[Session, dict[str, Shape]]:
    """A session of onnxruntime.

    Args:
        files: ``model.onnx``.
        threads: That compute one call; several calls may run at the same time.
        spinning: Whether threads wait for work in a busy loop: a little quicker, and the processor is never
            free for anybody else.

    Returns:
        The session, and the shape of everything that goes in (`INPUT`) and comes out, n first.

    Raises:
        ArtifactError: ``bad_graph``, ``external_data``, ``foreign_operator``.
    """
    from pictune.exporting.precision import import_onnxruntime

    onnxruntime = import_onnxruntime()
    check_graph(files["model.onnx"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    options.log_severity_level = 4  # errors come as exceptions
    try:
        session = onnxruntime.InferenceSession(
            files["model.onnx"], options, providers=_providers(onnxruntime.get_available_providers())
        )
    except Exception as error:  # onnxruntime's exceptions have no class of their own above them
        raise _bad_graph(str(error)) from error
    names = [output.name for output in session.get_outputs()]
    shapes: dict[str, Shape] = {part.name: tuple(part.shape) for part in session.get_outputs()}
    for part in session.get_inputs():
        shapes[part.name] = (*part.shape, part.type)

    def run(canvases: NDArray[np.uint8]) -> Arrays:
        return dict(zip(names, session.run(names, {INPUT: canvases}), strict=True))

    return run, shapes


def _providers(available: list[str]) -> list[str]:
    """A graphics card where onnxruntime can use one, and always the processor."""
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]


def check_graph(data: bytes) -> onnx.ModelProto:
    """Reads a graph and refuses what could reach outside of it, or claims more memory than it has bytes.

    Raises:
        ArtifactError: ``bad_graph``, ``external_data`` or ``foreign_operator``.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise _bad_graph(str(error)) from None
    if model.functions:
        raise _foreign("functions of its own")
    for node in _nodes(model.graph):
        if node.domain not in DOMAINS:
            raise _foreign(f"{node.domain}::{node.op_type}"[:100])
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ArtifactError(
                "the network keeps weights in another file, which an artifact may not",
                code="external_data",
                instead="Export it again.",
            )
        _check_size(tensor)
    return model


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in _nodes(graph):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            yield from (tensor for inner in (attribute.g, *attribute.graphs) for tensor in inner.initializer)


def _check_size(tensor: onnx.TensorProto) -> None:
    """A tensor that says it is larger than its bytes are would make the runtime ask for that memory."""
    if not tensor.dims or not tensor.data_type:
        return
    held = len(tensor.raw_data) * 8 + 64 * sum(
        len(values)
        for values in (
            tensor.float_data,
            tensor.int32_data,
            tensor.int64_data,
            tensor.double_data,
            tensor.uint64_data,
            tensor.string_data,
        )
    )
    if min(tensor.dims) < 0 or math.prod(tensor.dims) > held:
        raise _bad_graph(f"{tensor.name[:80]} says it is larger than its bytes are")


def open_openvino(
    files: Mapping[str, bytes], *, threads: int, spinning: bool
) -> tuple[Session, dict[str, Shape]]:
    """A session of OpenVINO that computes in float32, whatever the processor would like better.

    Args:
        files: ``model.xml`` and ``model.bin``.
        threads: That compute one call.
        spinning: Not used.

    Raises:
        ArtifactError: ``runtime_missing`` or ``bad_graph``.
    """
    try:
        openvino = import_openvino()
    except ImportError as error:
        raise ArtifactError(
            f"the network needs the package openvino: {error}",
            code="runtime_missing",
            instead="pip install 'pictune[openvino]'",
        ) from None
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # several processes would be pinned to the same cores
    }
    core = openvino.Core()
    try:
        network = core.read_model(files["model.xml"], files["model.bin"])
        compiled = core.compile_model(network, "CPU", settings)
        # Compiling adds the names of what it merges with an answer; as read, each has but its own.
        named = [part.get_any_name() for part in (*network.inputs, *network.outputs)]
        parts = list(zip(named, (*compiled.inputs, *compiled.outputs), strict=True))
    except (RuntimeError, ValueError, TypeError) as error:
        raise _bad_graph(str(error).strip().rpartition("\n")[2]) from error
    inputs = [name for name, _ in parts[: len(compiled.inputs)]]
    names = [name for name, _ in parts[len(inputs) :]]
    shapes: dict[str, Shape] = {name: _sides(part) for name, part in parts}
    for name, part in parts[: len(inputs)]:
        kind = part.get_element_type().get_type_name()
        shapes[name] = (*shapes[name], f"tensor({_TYPES.get(kind, kind)})")
    requests = threading.local()  # a request answers one call at a time

    def run(canvases: NDArray[np.uint8]) -> Arrays:
        if not (request := getattr(requests, "of_this_thread", None)):
            request = requests.of_this_thread = compiled.create_infer_request()
        found = request.infer({INPUT: canvases})
        return {name: found[number] for number, name in enumerate(names)}

    return run, shapes


def _sides(part: Any) -> Shape:
    """Of something that goes into or comes out of OpenVINO; None is any length."""
    return tuple(None if side.is_dynamic else side.get_length() for side in part.get_partial_shape())


RUNTIMES: Mapping[str, Callable[..., tuple[Session, dict[str, Shape]]]] = MappingProxyType(
    {"onnx": open_onnx, "openvino": open_openvino}
)


def _bad_graph(reason: str) -> ArtifactError:
    line = (reason.splitlines() or [""])[0][:200]
    return ArtifactError(f"the network cannot be read: {line}", code="bad_graph", instead="Export it again.")


def _foreign(found: str) -> ArtifactError:
    return ArtifactError(
        f"the network needs operators that are no part of the ONNX standard: {found}",
        code="foreign_operator",
        instead="Only networks of standard operators are run; export it again.",
    )
