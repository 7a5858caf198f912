"""A graph whose layers compute with whole numbers of eight bits: smaller, and quicker where it suits.

Static post-training quantisation by onnxruntime: Jacob et al. 2018, arXiv 1712.05877. Ranges of what flows
through the network are read from pictures; weights have a scale for each channel. Nothing here needs PyTorch.

Shapes: H and W the height and width of the canvas.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pictune.errors import PictuneError, RecipeError
from pictune.exporting.precision import anatomy, import_onnxruntime, import_tools
from pictune.exporting.runtimes import DOMAINS, INPUT
from pictune.files import disk_errors

if TYPE_CHECKING:
    import onnx
    import onnxruntime

COUNTED = 16  # canvases by which the harm of a single layer is measured
AT_ONCE = 4  # canvases that go through the network together while ranges are read
LAYERS = ("Conv", "Gemm", "MatMul")
# What hands whole numbers on from layer to layer; among float neighbours a layer pays for its borders twice.
BETWEEN = ("Add", "Mul", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Resize")
# Networks with this between their layers carry sums of all layers past it, which need more than 256 values.
FLOAT_BETWEEN = frozenset({"LayerNormalization"})
PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")  # what onnxruntime wants to find, or it complains

Canvases = Sequence[NDArray[np.uint8]]


def quantise(graph: onnx.ModelProto, canvases: Canvases, *, kept: Sequence[str] = ()) -> onnx.ModelProto:
    """A graph that computes its layers in eight bits.

    The pixels' normalisation, the last layers and all that stands behind them stay in float, as do products
    of two things that were both computed, as in attention. Activations are unsigned; weights keep to seven of
    their eight bits, so that pairs of products never overflow sixteen bits on processors that add them up so.

    Args:
        graph: In float32; stays as it is.
        canvases: uint8 (H, W, 3) as the network sees them, some hundreds; the ranges are theirs.
        kept: Names of layers that stay in float, as `sensitive_layers` gives them; what they read is not
            rounded either.

    Raises:
        RecipeError: When nothing of the network can be computed so, or onnxruntime cannot do it.
    """
    import_tools()
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    assert len(canvases), "there are canvases to read the ranges from"
    with _failures_told(), _quiet(), tempfile.TemporaryDirectory(prefix="pictune-int8-") as folder:
        prepared = _prepared(graph, Path(folder))
        floats = _with_feeders(prepared, frozenset(kept))
        chosen = _chosen(prepared, floats)
        target = Path(folder, "int8.onnx")
        quantize_static(
            prepared,
            target,
            _Reader(canvases),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*LAYERS, *BETWEEN],
            nodes_to_quantize=chosen,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True},
        )
        return _finished(target, floats)


def sensitive_layers(graph: onnx.ModelProto, quantised: onnx.ModelProto, canvases: Canvases) -> list[str]:
    """The layers by how far the outputs move when one of them alone is quantised, the most harmful first.

    Args:
        graph: In float32, as `quantise` got it.
        quantised: What `quantise` made of it, with no layer kept.
        canvases: uint8 (H, W, 3); a few of them, at even steps, are shown to the network once a layer.

    Returns:
        Names for ``kept``; layers that are in float anyway are not among them.

    Raises:
        RecipeError: When onnxruntime cannot run one of the graphs.
    """
    with _failures_told(), _quiet(), tempfile.TemporaryDirectory(prefix="pictune-int8-") as folder:
        prepared = _prepared(graph, Path(folder))
        step = max(1, len(canvases) // COUNTED)
        shown = list(canvases[::step][:COUNTED])
        wanted = _outputs(prepared, shown)
        scales = {name: max(float(np.abs(values).max()), 1e-6) for name, values in wanted.items()}
        harm = {}
        for layer in anatomy(prepared).layers:
            alone = _alone(prepared, quantised, layer)
            if alone is not None:
                found = _outputs(alone, shown)
                harm[layer] = sum(
                    float(np.abs(found[name] - values).mean()) / scales[name]
                    for name, values in wanted.items()
                )
    return sorted(harm, key=lambda name: (-harm[name], name))


class _Reader:
    """Hands the canvases to onnxruntime, a few at a time."""

    def __init__(self, canvases: Canvases) -> None:
        starts = range(0, len(canvases), AT_ONCE)
        self._batches = (np.stack(canvases[start : start + AT_ONCE]) for start in starts)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next few, or None when there are no more."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _with_feeders(graph: onnx.ModelProto, kept: frozenset[str]) -> frozenset[str]:
    """Layers that stay in float, and what hands values on to them: they shall see what was not rounded."""
    makers = {name: node for node in graph.graph.node for name in node.output}
    floats = set(kept)
    waiting = [name for node in graph.graph.node if node.name in kept for name in node.input]
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is not None and maker.op_type in BETWEEN and maker.name not in floats:
            floats.add(maker.name)
            waiting += maker.input
    return frozenset(floats)


def _chosen(graph: onnx.ModelProto, kept: frozenset[str]) -> list[str]:
    """The nodes that compute in eight bits.

    Raises:
        RecipeError: When none of them is a layer.
    """
    parts = anatomy(graph)
    left = parts.ends | parts.last | kept
    able = {node.name for node in graph.graph.node if node.op_type in LAYERS}
    layers = [name for name in parts.layers if name in able and name not in left]
    if not layers:
        raise RecipeError(
            "no layer of this network would compute in int8", instead="Export it in fp32 or fp16."
        )
    kinds = {node.op_type for node in graph.graph.node}
    between = () if kinds & FLOAT_BETWEEN else BETWEEN
    eight_bit = frozenset(layers)
    return [
        node.name
        for node in graph.graph.node
        if node.name in eight_bit or (node.op_type in between and node.name not in left)
    ]


def _prepared(graph: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The graph after onnxruntime folded what is constant, and normalisation into the layers before it."""
    import onnx

    onnxruntime = import_onnxruntime()
    path = folder / "prepared.onnx"
    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    prepared = onnx.load(path)
    path.unlink()
    for number, node in enumerate(prepared.graph.node):
        node.name = node.name or f"node_{number}"
    note = prepared.metadata_props.add()
    note.key, note.value = PREPARED
    return prepared


def _finished(path: Path, floats: frozenset[str]) -> onnx.ModelProto:
    """What onnxruntime wrote, without its notes, and without rounding before what stays in float."""
    import onnx

    made = onnx.load(path)
    _normalise_rows(made.graph)
    _unrounded(made.graph, floats)
    del made.metadata_props[:]
    used = {node.domain for node in made.graph.node}
    if not used <= DOMAINS:
        raise RecipeError(
            f"int8 needs operators beyond the standard here: {', '.join(sorted(used - DOMAINS))}",
            instead="Export it in fp32 or fp16.",
        )
    kept = [entry for entry in made.opset_import if entry.domain in DOMAINS]
    del made.opset_import[:]
    made.opset_import.extend(kept)
    made.producer_name, made.producer_version = "pictune", ""
    return made


def _normalise_rows(graph: onnx.GraphProto) -> None:
    """Has the pixels of a row normalised together, by factors that are written out, to the same numbers.

    Onnxruntime computes whole numbers with the channels last, from the first node on. There three factors,
    taken in turn for one pixel after the other, take as long as a large layer. Nothing is changed where the
    canvas may have any width, or the pixels are prepared in another way.
    """
    from onnx import TensorProto, helper, numpy_helper

    width = graph.input[0].type.tensor_type.shape.dim[2].dim_value
    before = _in_turn(graph, INPUT, ("Transpose", "Cast", "Mul", "Add"))
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    factors = [
        numpy_helper.to_array(tensors[name]) for node in before for name in node.input if name in tensors
    ]
    if not width or [factor.shape for factor in factors] != [(1, 3, 1, 1)] * 2:
        return
    constants = {
        "pixels_row": np.array([0, 0, 3 * width]),
        "pixels_scale": np.tile(factors[0].reshape(3), width),
        "pixels_shift": np.tile(factors[1].reshape(3), width),
        "pixels_places": np.array([0, 0, width, 3]),
    }
    steps: list[tuple[str, tuple[str, ...], str, dict[str, Any]]] = [
        ("Cast", (INPUT,), "pixels_float", {"to": TensorProto.FLOAT}),
        ("Reshape", ("pixels_float", "pixels_row"), "pixels_rows", {}),
        ("Mul", ("pixels_rows", "pixels_scale"), "pixels_scaled", {}),
        ("Add", ("pixels_scaled", "pixels_shift"), "pixels_shifted", {}),
        ("Reshape", ("pixels_shifted", "pixels_places"), "pixels_normal", {}),
        ("Transpose", ("pixels_normal",), before[-1].output[0], {"perm": [0, 3, 1, 2]}),
    ]
    after = [
        helper.make_node(kind, inputs, [output], name=f"{output}_node", **attributes)
        for kind, inputs, output, attributes in steps
    ]
    gone = {name for node in before[:-1] for name in node.output}
    nodes = [*after, *(node for node in graph.node if node not in before)]
    shapes = [value for value in graph.value_info if value.name not in gone]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.value_info.extend(shapes)
    graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())


def _in_turn(graph: onnx.GraphProto, name: str, kinds: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that alone read one another, the first of them what is named; none when kinds are others."""
    found: list[onnx.NodeProto] = []
    for kind in kinds:
        readers = [node for node in graph.node if name in node.input]
        if [node.op_type for node in readers] != [kind]:
            return []
        found += readers
        name = readers[0].output[0]
    return found


def _unrounded(graph: onnx.GraphProto, floats: frozenset[str]) -> None:
    """Lets nodes read what was rounded for others as it was before, and drops what nobody reads."""
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        for place, name in enumerate(node.input):
            taken = makers.get(name) if node.name in floats else None
            rounded = makers.get(taken.input[0]) if taken and taken.op_type == "DequantizeLinear" else None
            if rounded is not None and rounded.op_type == "QuantizeLinear":
                node.input[place] = rounded.input[0]
    read = {output.name for output in graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if read & set(node.output):
            nodes.insert(0, node)
            read |= set(node.input)
    del graph.node[:]
    graph.node.extend(nodes)
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def _alone(graph: onnx.ModelProto, quantised: onnx.ModelProto, layer: str) -> onnx.ModelProto | None:
    """The graph with the rounding of one layer's inputs and weights; None where it is not quantised."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(graph)
    place, node = next((i, n) for i, n in enumerate(made.graph.node) if n.name == layer)
    twin = next((n for n in quantised.graph.node if n.name == layer), None)
    if twin is None or twin.input[1] == node.input[1]:
        return None
    makers = {name: maker for maker in quantised.graph.node for name in maker.output}
    stored = {tensor.name: tensor for tensor in quantised.graph.initializer}
    rounding: list[onnx.NodeProto] = []
    constants: dict[str, onnx.TensorProto] = {}
    inputs = [*twin.input[:2], *node.input[2:]]  # a bias has 32 bits: it loses nothing
    waiting = inputs[:2]
    while waiting:
        name = waiting.pop()
        maker = makers.get(name)
        if name in stored:
            constants[name] = stored[name]
        elif maker is not None and maker.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            rounding.insert(0, maker)
            waiting += maker.input
    del node.input[:]
    node.input.extend(inputs)
    # A rounded bias has the name of the bias itself.
    rounded = {name for maker in rounding for name in maker.output}
    tensors = [tensor for tensor in graph.graph.initializer if tensor.name not in rounded | set(constants)]
    del made.graph.initializer[:]
    made.graph.initializer.extend([*tensors, *constants.values()])
    nodes = [*made.graph.node[:place], *rounding, *made.graph.node[place:]]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def _outputs(graph: onnx.ModelProto, canvases: Canvases) -> dict[str, NDArray[Any]]:
    """What a graph gives, (n, ...) by name, asked for one canvas at a time."""
    onnxruntime = import_onnxruntime()
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), _options(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    rows = [session.run(names, {INPUT: canvas[None]}) for canvas in canvases]
    return {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(names)}


def _options() -> onnxruntime.SessionOptions:
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    return options


@contextmanager
def _failures_told() -> Iterator[None]:
    """Whatever onnxruntime stumbles over becomes one sentence; a full disk stays what it is."""
    try:
        with disk_errors(Path(tempfile.gettempdir())):
            yield
    except (PictuneError, OSError, MemoryError, AssertionError):
        raise
    except Exception as error:  # onnxruntime's exceptions have no class of their own above them
        line = (str(error).splitlines() or [""])[0][:200]
        raise RecipeError(
            f"the network cannot be made int8: {line or type(error).__name__}",
            instead="Export it in fp32 or fp16.",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps onnxruntime's advice out of the log; it speaks through the root logger and would set that up."""
    root, silent = logging.getLogger(), logging.NullHandler()

    def foreign(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in Path(record.pathname).parts

    root.addHandler(silent)
    root.addFilter(foreign)
    try:
        yield
    finally:
        root.removeFilter(foreign)
        root.removeHandler(silent)
