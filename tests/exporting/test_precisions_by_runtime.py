"""Every precision in every runtime: convolutions and attention answer alike, and the ends stay in float."""

from __future__ import annotations

import tempfile

import numpy as np
import onnx
import pytest
from layer_graphs import attention, canvases, convolutions
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from pictune.errors import RecipeError
from pictune.exporting.precision import anatomy, to_half, to_openvino
from pictune.exporting.quantising import quantise
from pictune.exporting.runtimes import check_graph, open_onnx, open_openvino

SHOWN = np.stack(canvases(16, seed=1))
GRAPHS = {"convolutions": convolutions, "attention": attention}


def asked(graph: onnx.ModelProto, shown: NDArray[np.uint8] = SHOWN) -> NDArray:
    session, _ = open_onnx({"model.onnx": graph.SerializeToString()}, threads=1, spinning=False)
    return np.asarray(session(shown)["confidences"])


def types(graph: onnx.ModelProto) -> dict[str, int]:
    """The element type of everything that flows through a graph, as the standard's own inference finds it."""
    whole = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    flows = [*whole.input, *whole.output, *whole.value_info]
    found = {value.name: value.type.tensor_type.elem_type for value in flows}
    return found | {tensor.name: tensor.data_type for tensor in whole.initializer}


# ---------------------------------------------------------------- half precision


@pytest.mark.parametrize("kind", GRAPHS)
def test_half_precision_answers_nearly_the_same_for_any_number_of_pictures(kind):
    graph = GRAPHS[kind]()
    half = to_half(graph)
    wanted, found = asked(graph), asked(half)
    assert np.ptp(wanted, axis=0).max() > 0.2, "equal answers to all pictures would prove nothing"
    assert 0 < np.abs(found - wanted).max() < 3e-3, "not the same numbers, but nearly"
    assert found.dtype == np.float32
    for count in (1, 2, 5):
        assert asked(half, SHOWN[:count]) == pytest.approx(found[:count], abs=1e-6)


@pytest.mark.parametrize("kind", GRAPHS)
def test_borders_ends_and_sums_stay_in_float_and_layers_are_halves(kind):
    graph = GRAPHS[kind]()
    before = graph.SerializeToString()
    half = to_half(graph)
    assert graph.SerializeToString() == before
    check_graph(half.SerializeToString())
    onnx.checker.check_model(half, full_check=True)
    assert [(p.name, p.type) for p in half.graph.input] == [(p.name, p.type) for p in graph.graph.input]
    assert [p.name for p in half.graph.output] == ["confidences"]
    known, nodes = types(half), {node.name: node for node in half.graph.node}
    layers = anatomy(graph).layers
    for name in layers:
        wanted = TensorProto.FLOAT if name == "last" else TensorProto.FLOAT16
        assert known[nodes[name].input[1]] == wanted, name
    for node in half.graph.node:
        if node.op_type in {"Softmax", "LayerNormalization", "ReduceMean"} or node.name in {
            "scaled",
            "normal",
        }:
            assert known[node.output[0]] == TensorProto.FLOAT, node.name
    assert to_half(graph).SerializeToString() == half.SerializeToString()


def test_a_layer_whose_output_overflows_is_seen_in_the_answers():
    """Where sums go beyond what halves hold, the answers are wrong or no numbers, and the gate finds it."""
    graph = convolutions()
    for name in ("second_weight", "third_weight"):
        tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(3e3), name))
    found = asked(to_half(graph))
    assert not np.isfinite(found).all() or np.abs(found - asked(graph)).max() > 1e-3


# ---------------------------------------------------------------- OpenVINO


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_openvino_answers_as_onnxruntime_does(kind, precision, monkeypatch, tmp_path, capfd):
    graph = GRAPHS[kind]()
    if precision == "int8":
        graph = quantise(graph, canvases(24))
    elif precision == "fp16":
        graph = to_half(graph)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = to_openvino(graph)
    assert set(files) == {"model.xml", "model.bin"}
    assert list(tmp_path.iterdir()) == []
    assert b"pictune-openvino" not in files["model.xml"]
    session, shapes = open_openvino(files, threads=1, spinning=False)
    assert shapes["pixels"] == (None, *SHOWN.shape[1:], "tensor(uint8)")
    tolerance = {"fp32": 1e-5, "fp16": 3e-3, "int8": 0.02}[precision]
    for count in (1, 2, 5):
        found = session(SHOWN[:count])
        assert list(found) == ["confidences"]
        assert found["confidences"] == pytest.approx(asked(graph, SHOWN[:count]), abs=tolerance)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["answers", "graphs", "zones"])
def test_openvino_keeps_the_name_of_what_comes_out(name):
    """Names of what it merges with an answer come before or behind the answer's own in the alphabet."""
    graph = convolutions()
    graph.graph.node[-1].output[0] = graph.graph.output[0].name = name
    session, _ = open_openvino(to_openvino(to_half(graph)), threads=1, spinning=False)
    assert list(session(SHOWN[:1])) == [name]


def test_a_graph_that_openvino_cannot_read_is_told_in_one_sentence():
    graph = convolutions()
    graph.graph.node[-1].op_type = "Softestmax"
    with pytest.raises(RecipeError, match="OpenVINO cannot read this network") as caught:
        to_openvino(graph)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
