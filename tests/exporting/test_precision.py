"""Half precision and OpenVINO's form answer as their graph does, without PyTorch and in silence."""

from __future__ import annotations

import subprocess
import sys
import threading

import drawn_graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from pictune.errors import ArtifactError, RecipeError
from pictune.exporting.precision import LARGEST, anatomy, to_half, to_openvino
from pictune.exporting.runtimes import INPUT, check_graph, open_onnx, open_openvino

GRAPH = drawn_graphs.network()


def named(graph: onnx.ModelProto, kind: int) -> set[str]:
    return {tensor.name for tensor in graph.graph.initializer if tensor.data_type == kind}


def test_the_parts_of_a_graph_are_told_apart():
    parts = anatomy(GRAPH)
    assert parts.layers == ("first", "second", "left", "right", "sum", "last")
    assert parts.last == {"last"}
    assert parts.ends == {"cast", "scale", "upright", "softmax"}


def test_half_precision_answers_nearly_the_same_in_about_half_the_bytes():
    before = GRAPH.SerializeToString()
    half = to_half(GRAPH)
    assert GRAPH.SerializeToString() == before
    check_graph(half.SerializeToString())
    onnx.checker.check_model(half)
    assert len(half.SerializeToString()) < 0.62 * len(before)
    kinds = {part.type.tensor_type.elem_type for part in half.graph.output}
    assert kinds == {TensorProto.FLOAT}
    assert half.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    for count in (1, 2, 5):
        canvases = drawn_graphs.canvases(count)
        wanted, found = (drawn_graphs.said(graph, canvases) for graph in (GRAPH, half))
        assert found["confidences"].dtype == np.float32
        assert np.abs(found["confidences"] - wanted["confidences"]).max() < 2e-3
        assert not np.array_equal(found["confidences"], wanted["confidences"]), "it is another precision"


def test_normalisation_and_the_last_layer_stay_in_float():
    half = to_half(GRAPH)
    assert {"factor", "last_weight", "last_bias"} <= named(half, TensorProto.FLOAT)
    assert {"first_weight", "second_weight", "sum_weight"} <= named(half, TensorProto.FLOAT16)


def test_a_sure_network_keeps_its_smallest_confidences():
    """Half precision itself knows nothing between 0 and 6e-8."""
    graph = onnx.ModelProto()
    graph.CopyFrom(GRAPH)
    weights = next(tensor for tensor in graph.graph.initializer if tensor.name == "last_weight")
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * 2, "last_weight"))
    half = to_half(graph)
    wanted, found = (drawn_graphs.said(g, drawn_graphs.canvases(5))["confidences"] for g in (graph, half))
    small = wanted < 1e-8
    assert small.any()
    assert (found[small] > 0).all()
    assert np.abs(np.log(found) - np.log(wanted)).max() < 0.1


@pytest.mark.parametrize("value", [LARGEST * 1.01, np.inf, np.nan])
def test_weights_that_half_precision_cannot_hold_are_refused(value):
    graph = drawn_graphs.network(beyond=value)
    with pytest.raises(RecipeError, match="fp16 cannot hold") as caught:
        to_half(graph)
    assert "second_weight" in caught.value.message


def test_weights_too_small_for_half_precision_raise_no_warning():
    graph = drawn_graphs.network(beyond=1e-12)
    half = to_half(graph)
    weights = next(t for t in half.graph.initializer if t.name == "second_weight")
    assert np.isfinite(numpy_helper.to_array(weights)).all()


def test_openvino_answers_the_same_for_any_number_of_pictures():
    pytest.importorskip("openvino_telemetry")
    files = to_openvino(GRAPH)
    assert set(files) == {"model.xml", "model.bin"}
    assert b"/tmp" not in files["model.xml"]
    run, shapes = open_openvino(files, threads=1, spinning=False)
    onnx_shapes = open_onnx({"model.onnx": GRAPH.SerializeToString()}, threads=1, spinning=False)[1]
    assert set(shapes) == set(onnx_shapes) == {INPUT, "confidences"}
    assert shapes[INPUT] == (None, *onnx_shapes[INPUT][1:])
    assert shapes[INPUT][-1] == "tensor(uint8)"
    assert shapes["confidences"] == (None, drawn_graphs.CLASSES)
    for count in (1, 2, 5):
        canvases = drawn_graphs.canvases(count)
        wanted, found = drawn_graphs.said(GRAPH, canvases)["confidences"], run(canvases)["confidences"]
        # In bfloat16, which such processors would like better, this is off by more than 1e-3.
        assert np.abs(found - wanted).max() < 1e-5


def test_openvino_answers_several_threads_at_once():
    pytest.importorskip("openvino")
    run, _ = open_openvino(to_openvino(GRAPH), threads=1, spinning=False)
    batches = [drawn_graphs.canvases(1, seed=seed) for seed in range(8)]
    wanted = [drawn_graphs.said(GRAPH, batch)["confidences"] for batch in batches]
    wrong: list[int] = []

    def ask(number: int) -> None:
        for _ in range(20):
            if np.abs(run(batches[number])["confidences"] - wanted[number]).max() > 1e-5:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("spoilt", ["model.xml", "model.bin"])
def test_what_openvino_cannot_read_is_a_bad_graph(spoilt):
    pytest.importorskip("openvino")
    files = to_openvino(GRAPH) | {spoilt: b"<net>"}
    with pytest.raises(ArtifactError) as caught:
        open_openvino(files, threads=1, spinning=False)
    assert caught.value.code == "bad_graph"
    assert len(caught.value.message) < 300


def test_without_openvino_both_sides_say_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RecipeError, match=r"pip install 'pictune\[openvino\]'"):
        to_openvino(GRAPH)
    with pytest.raises(ArtifactError, match=r"pip install 'pictune\[openvino\]'") as caught:
        open_openvino({"model.xml": b"", "model.bin": b""}, threads=1, spinning=False)
    assert caught.value.code == "runtime_missing"


WATCHED = """
import sys
events = []
sys.addaudithook(lambda name, _: events.append(name) if name[:7] in {"socket.", "subproc"} else None)
"""
WORK = """
from pictune.exporting.precision import import_onnxruntime, to_half, to_openvino
from pictune.exporting.quantising import quantise, sensitive_layers
from pictune.exporting.runtimes import open_openvino
import_onnxruntime()
import drawn_graphs
graph = drawn_graphs.network()
to_half(graph)
sensitive_layers(graph, quantise(graph, drawn_graphs.canvases(4)), drawn_graphs.canvases(2))
run, _ = open_openvino(to_openvino(graph), threads=1, spinning=False)
run(drawn_graphs.canvases(2))
"""
TOLD = """
print(sorted(set(events)), [n for n in sys.modules if n.split(".")[0] in {"torch", "openvino_telemetry"}])
"""


def test_nothing_is_sent_to_anybody_and_nothing_needs_pytorch(tmp_path):
    pytest.importorskip("openvino_telemetry")
    assert drawn_graphs.run_apart(WATCHED + WORK + TOLD, home=tmp_path) == "[] []"
    assert not list(tmp_path.rglob("*")), "telemetry numbers the machine in a file"


def test_the_watch_notices_what_openvino_would_send(tmp_path):
    """Whoever imports it by itself sends a word to its makers, and gets a number in the home folder."""
    pytest.importorskip("openvino_telemetry")
    found = drawn_graphs.run_apart(WATCHED + "import openvino" + TOLD, home=tmp_path)
    assert "'openvino_telemetry'" in found
    assert list(tmp_path.rglob("*"))


def test_the_environment_stays_as_it_was():
    code = """
import os
from pictune.exporting.precision import import_onnxruntime
before = dict(os.environ)
import_onnxruntime()
print(dict(os.environ) == before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_package_that_was_there_before_is_there_afterwards():
    code = """
import sys, types
own = sys.modules["openvino_telemetry"] = types.ModuleType("openvino_telemetry")
from pictune.exporting.precision import import_openvino
import_openvino()
print(sys.modules["openvino_telemetry"] is own)
"""
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "True\n"
    )
