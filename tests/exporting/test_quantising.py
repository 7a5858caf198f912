"""Eight bits: close to float, whole numbers only where they are meant, harm ranked, nothing left behind."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from colour_models import colour_graph
from layer_graphs import SIDE, attention, canvases, convolutions
from numpy.typing import NDArray
from onnx import numpy_helper

from pictune.errors import MachineError, RecipeError
from pictune.exporting.quantising import AT_ONCE, quantise, sensitive_layers
from pictune.exporting.runtimes import check_graph, open_onnx

SHOWN = canvases(24)
OTHERS = np.stack(canvases(16, seed=1))


def confidences(graph: onnx.ModelProto, shown: NDArray[np.uint8] = OTHERS) -> NDArray[np.float32]:
    session, _ = open_onnx({"model.onnx": graph.SerializeToString()}, threads=1, spinning=False)
    return np.asarray(session(shown)["confidences"])


def error(graph: onnx.ModelProto, made: onnx.ModelProto) -> float:
    return float(np.abs(confidences(graph) - confidences(made)).mean())


def inputs(graph: onnx.ModelProto, name: str) -> list[str]:
    """The operators that a node's inputs come from; "" for a constant or the pixels."""
    makers = {output: node.op_type for node in graph.graph.node for output in node.output}
    node = next(node for node in graph.graph.node if node.name == name)
    return [makers.get(tensor, "") for tensor in node.input]


def constants(graph: onnx.ModelProto) -> dict[str, NDArray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}


@pytest.fixture(scope="module")
def plain() -> onnx.ModelProto:
    return convolutions()


@pytest.fixture(scope="module")
def made(plain) -> onnx.ModelProto:
    return quantise(plain, SHOWN)


def test_it_answers_nearly_as_in_float_for_any_number_of_pictures(plain, made):
    wanted, found = confidences(plain), confidences(made)
    assert np.ptp(wanted, axis=0).max() > 0.2, "equal answers to all pictures would prove nothing"
    assert np.abs(found - wanted).max() < 0.03
    assert found.dtype == np.float32
    for count in (1, 2, 5):
        assert confidences(made, OTHERS[:count]) == pytest.approx(found[:count], abs=1e-6)


def test_what_goes_in_and_out_stays_and_only_the_standards_operators_are_needed(plain, made):
    check_graph(made.SerializeToString())
    onnx.checker.check_model(made)
    assert [(p.name, p.type) for p in made.graph.input] == [(p.name, p.type) for p in plain.graph.input]
    assert [p.name for p in made.graph.output] == ["confidences"]
    assert {entry.domain for entry in made.opset_import} == {""}
    assert not list(made.metadata_props)
    assert len(made.SerializeToString()) < 0.6 * len(plain.SerializeToString())


def test_layers_compute_in_eight_bits_and_the_ends_in_float(made):
    for name in ("second", "third", "fourth"):
        assert inputs(made, name) == ["DequantizeLinear"] * 3
    last = inputs(made, "last")
    assert last[1:] == ["", ""], "the last layer keeps its weights"
    kinds = {node.op_type for node in made.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Softmax", "Gemm"} <= kinds
    normal = next(node for node in made.graph.node if node.op_type == "Mul")
    assert "DequantizeLinear" not in inputs(made, normal.name), "pixels are normalised in float"
    assert "DequantizeLinear" not in inputs(made, "softmax")


def test_weights_have_seven_bits_and_a_scale_a_channel_and_activations_are_unsigned(made):
    stored = constants(made)
    weights = {name: values for name, values in stored.items() if name.endswith("weight_quantized")}
    assert len(weights) == 4
    for name, values in weights.items():
        assert values.dtype == np.int8
        assert np.abs(values.astype(int)).max() == 64, "two products of 64 x 255 fit into sixteen bits"
        assert stored[name.replace("_quantized", "_scale")].shape == values.shape[:1]
    points = [stored[node.input[2]].dtype for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert set(points) == {np.dtype(np.uint8)}


def test_layers_that_are_kept_stay_in_float(plain, made):
    kept = quantise(plain, SHOWN, kept=["second", "fourth"])
    for name in ("second", "fourth"):
        assert inputs(kept, name) == ["Relu", "", ""], (
            "they read what was not rounded, and have their weights"
        )
    assert inputs(kept, "third") == ["DequantizeLinear"] * 3
    onnx.checker.check_model(kept, full_check=True)
    assert error(plain, kept) < error(plain, made)
    assert len(kept.SerializeToString()) > len(made.SerializeToString())


def test_equal_networks_and_canvases_make_equal_graphs_and_the_float_one_stays(plain, made):
    before = plain.SerializeToString()
    assert quantise(plain, SHOWN).SerializeToString() == made.SerializeToString()
    sensitive_layers(plain, made, SHOWN)
    assert plain.SerializeToString() == before


def test_ranges_are_those_of_the_canvases(plain):
    grey = [np.full((SIDE, SIDE, 3), level, np.uint8) for level in (120, 136)]
    narrow = quantise(plain, grey)
    assert error(plain, narrow) > 3 * error(plain, quantise(plain, SHOWN))


class Watched(Sequence[NDArray[np.uint8]]):
    """Canvases that tell how many of them were wanted at a time."""

    def __init__(self) -> None:
        self.most = 0

    def __len__(self) -> int:
        return 4 * AT_ONCE + 1

    def __getitem__(self, place):
        rows = canvases(len(self))[place]
        self.most = max(self.most, len(rows) if isinstance(place, slice) else 1)
        return rows


PLANES = ["Transpose", "Cast", "Mul", "Add"]
ROWS = ["Cast", "Reshape", "Mul", "Add", "Reshape", "Transpose"]


def by_channel(graph: onnx.ModelProto, *, width: int | str = SIDE) -> onnx.ModelProto:
    """Pixels normalised by another factor and another shift for each colour."""
    for name, values in {"scale": (0.01, 0.02, 0.03), "shift": (-1.5, -2.0, -2.5)}.items():
        tensor = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.array(values, np.float32).reshape(1, 3, 1, 1), name))
    side = graph.graph.input[0].type.tensor_type.shape.dim[2]
    if isinstance(width, str):
        side.dim_param = width
    return graph


def first_steps(graph: onnx.ModelProto) -> list[str]:
    """What happens to the pixels one after the other, up to where they are rounded."""
    steps, name = [], "pixels"
    while (node := next(node for node in graph.graph.node if name in node.input)).op_type != "QuantizeLinear":
        steps.append(node.op_type)
        name = node.output[0]
    return steps


def test_rows_are_normalised_at_once_to_the_same_numbers(monkeypatch):
    graph = by_channel(convolutions())
    rows = quantise(graph, canvases(24))
    assert first_steps(rows) == ROWS
    onnx.checker.check_model(rows, full_check=True)
    assert not {"scale", "shift"} & set(constants(rows)), "what nobody reads any more is gone"
    monkeypatch.setattr("pictune.exporting.quantising._normalise_rows", lambda _graph: None)
    planes = quantise(graph, canvases(24))
    assert first_steps(planes) == PLANES
    for count in (1, 3):
        assert np.array_equal(confidences(rows, OTHERS[:count]), confidences(planes, OTHERS[:count]))


def test_rows_stay_as_they_are_where_any_width_goes_or_colours_are_alike():
    assert first_steps(quantise(by_channel(convolutions(), width="width"), canvases(24))) == PLANES
    assert first_steps(quantise(convolutions(), canvases(24))) == PLANES


def test_few_canvases_are_in_memory_at_a_time(plain):
    shown = Watched()
    quantise(plain, shown)
    assert shown.most == AT_ONCE


# ---------------------------------------------------------------- which layers harm


@pytest.mark.parametrize(("loud", "harmed"), [("first", "second"), ("third", "fourth")])
def test_the_layer_that_is_harmed_most_comes_first_and_keeping_it_mends_most(loud, harmed):
    graph = convolutions(loud=loud)
    whole = quantise(graph, SHOWN)
    ranked = sensitive_layers(graph, whole, SHOWN)
    assert sorted(ranked) == ["first", "fourth", "second", "third"], "the last layer is in float anyway"
    assert ranked[0] == harmed
    mended, other = (error(graph, quantise(graph, SHOWN, kept=[name])) for name in (ranked[0], ranked[-1]))
    assert mended < error(graph, whole) / 2
    assert mended < other / 2


def test_layers_that_are_in_float_are_not_ranked(plain):
    made = quantise(plain, SHOWN, kept=["third"])
    assert "third" not in sensitive_layers(plain, made, SHOWN)


def test_products_of_what_was_computed_stay_in_float():
    graph = attention()
    made = quantise(graph, SHOWN)
    assert inputs(made, "keys")[1] == "DequantizeLinear"
    for name in ("alike", "mixed", "joined", "softmax"):
        output = next(node for node in made.graph.node if node.name == name).output[0]
        readers = [node.op_type for node in made.graph.node if output in node.input]
        assert "QuantizeLinear" not in readers, "sums and products past the layers are not rounded"
    assert error(graph, made) < 0.02
    assert set(sensitive_layers(graph, made, SHOWN)) == {"patch", "keys"}


# ---------------------------------------------------------------- what is refused


def test_a_network_without_layers_between_its_ends_is_refused(plain):
    with pytest.raises(RecipeError, match="no layer of this network") as caught:
        quantise(colour_graph(), canvases(4))
    assert "fp32" in caught.value.instead
    with pytest.raises(RecipeError, match="no layer of this network"):
        quantise(plain, SHOWN, kept=["first", "second", "third", "fourth"])


@pytest.mark.parametrize("fault", ["operator", "canvas", "bytes"])
def test_what_onnxruntime_cannot_do_is_told_in_one_sentence(plain, fault):
    broken = onnx.ModelProto()
    broken.CopyFrom(plain)
    shown = SHOWN
    if fault == "operator":
        broken.graph.node[-1].op_type = "Softestmax"
    elif fault == "canvas":
        shown = [canvas[:-1] for canvas in SHOWN]
    else:
        broken.graph.initializer[2].raw_data = broken.graph.initializer[2].raw_data[:-4]
    with pytest.raises(RecipeError, match="cannot be made int8") as caught:
        quantise(broken, shown)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
    assert caught.value.instead


def test_a_disk_that_is_gone_is_no_fault_of_the_network(plain, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(MachineError, match="could not be written"):
        quantise(plain, SHOWN)


# ---------------------------------------------------------------- what is left behind


@pytest.fixture
def untouched() -> Iterator[None]:
    root = logging.getLogger()
    held = list(root.handlers), list(root.filters), list(sys.path)
    yield
    assert (list(root.handlers), list(root.filters), list(sys.path)) == held


@pytest.mark.usefixtures("untouched")
def test_no_file_no_word_and_no_setting_is_left_behind(plain, made, monkeypatch, tmp_path, capfd, caplog):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    quantise(plain, SHOWN)
    sensitive_layers(plain, made, SHOWN)
    with pytest.raises(RecipeError):
        quantise(plain, [canvas[:-1] for canvas in SHOWN])
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_no_pytorch_is_needed():
    lines = (
        "import sys",
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})",
        "from layer_graphs import canvases, convolutions",
        "from pictune.exporting.quantising import quantise, sensitive_layers",
        "graph, shown = convolutions(), canvases(4)",
        "assert sensitive_layers(graph, quantise(graph, shown), shown)",
        "assert not {'torch', 'timm', 'torchvision', 'transformers'} & set(sys.modules)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
