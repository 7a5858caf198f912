"""What runs an exported network: canvases in, arrays by name out. Nothing here needs PyTorch.

Shapes: n canvases, H and W their height and width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pictune.errors import ArtifactError

if TYPE_CHECKING:
    import onnx

INPUT = "pixels"
DOMAINS = frozenset({"", "ai.onnx"})  # the operators that every runtime knows

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
    import onnxruntime

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
    raise ArtifactError("not there yet", code="runtime_missing")


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
