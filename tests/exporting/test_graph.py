"""Graphs answer as the networks they were made of, hold nothing of the machine, and leave the model alone."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
import torch

from pictune.errors import RecipeError
from pictune.exporting.graph import make_graph, open_torch_program, to_torch_program
from pictune.exporting.runtimes import DOMAINS, INPUT, Session, check_graph, open_onnx
from pictune.tasks.kinds import KINDS, Rates
from pictune.tasks.model import Model
from pictune.tasks.specification import Specification

CLASSES = ("circle", "cross", "square")
SLOW = pytest.mark.slow
PLAIN = [
    ("resnet18", 64),
    pytest.param("vgg11", 64, marks=SLOW),
    pytest.param("inception_v3", 96, marks=SLOW),
    ("convnext_atto", 64),
    ("vit_tiny_patch16_224", 64),
    ("mobilenetv4_conv_small", 64),
    ("cnn", 32),
    ("resnet9", 32),
]
HEADS = [
    ("detection", "fcos"),
    ("detection", "retinanet"),
    pytest.param("detection", "rt_detr_v2", marks=SLOW),
    pytest.param("detection", "d_fine", marks=SLOW),
    ("segmentation", "unet"),
    ("segmentation", "deeplabv3plus"),
    ("segmentation", "fpn"),
    ("segmentation", "segformer"),
]


def built(task: str, network: str, *, head: str = "", size: int = 64, height: int = 0) -> Model:
    spec = Specification(task, CLASSES, network, size, head=head, height=height)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = KINDS[task].network(spec, Rates(), None)
    if head in {"fcos", "retinanet"}:
        # Fresh heads say the same at every place; a mistake in their order would not show.
        generator = torch.Generator().manual_seed(6)
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.05 * parameter.data.std(correction=0) * noise + 0.001 * noise
    return Model(spec, made.to(memory_format=torch.channels_last).eval())


def pictures(count: int, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def said(model: Model, canvases: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        outputs = model.task.plain(model.network(torch.from_numpy(canvases)))
    return {name: values.numpy() for name, values in outputs.items()}


def session(graph: onnx.ModelProto) -> Session:
    return open_onnx({"model.onnx": graph.SerializeToString()}, threads=1, spinning=False)[0]


def check_same(model: Model, run: Session, *, sizes: tuple[tuple[int, int], ...]) -> None:
    for width, height in sizes:
        for count in (1, 2, 5):
            canvases = pictures(count, width, height)
            wanted, found = said(model, canvases), run(canvases)
            assert list(found) == list(model.task.exported)
            for name, values in wanted.items():
                assert found[name].shape == values.shape
                assert found[name].dtype == np.float32
                scale = 1.0 if name in {"confidences", "scores"} else float(np.abs(values).max())
                assert np.abs(found[name] - values).max() <= 1e-4 * scale, name
                assert np.ptp(values) > 0, "equal answers everywhere would prove nothing"


@pytest.mark.parametrize(("network", "size"), PLAIN)
def test_a_graph_answers_as_its_network_for_any_number_of_pictures(network, size):
    model = built("classification", network, size=size)
    graph = make_graph(model)
    check_same(model, session(graph), sizes=((size, size),))
    check_clean(graph)


@pytest.mark.parametrize(("task", "head"), HEADS)
def test_a_graph_with_a_head_answers_as_its_network_for_any_number_of_pictures(task, head):
    model = built(task, "resnet18", head=head)
    graph = make_graph(model)
    check_same(model, session(graph), sizes=((64, 64),))
    check_clean(graph)


def check_clean(graph: onnx.ModelProto) -> None:
    """Only the standard's operators, pixels in by that name and type, and no word of where it was made."""
    check_graph(graph.SerializeToString())
    onnx.checker.check_model(graph)
    assert {node.domain for node in graph.graph.node} <= DOMAINS
    assert not graph.functions
    (given,) = graph.graph.input
    assert (given.name, given.type.tensor_type.elem_type) == (INPUT, onnx.TensorProto.UINT8)
    assert given.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not list(graph.metadata_props)
    bare = onnx.ModelProto()
    bare.CopyFrom(graph)
    del bare.graph.initializer[:]  # numbers may look like anything
    text = str(bare)
    # Weights are called by their modules (`backbone.top.pyramid`), and shapes by `view_28/shape`.
    assert not re.search(r"site-packages|\.py\b|File |/work|/home|/usr|/root|\"/|doc_string|Traceback", text)


def test_the_model_stays_as_it_was_and_equal_models_make_equal_graphs():
    model = built("classification", "resnet9", size=32)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    layouts = {name: tensor.stride() for name, tensor in model.network.state_dict().items()}
    first = make_graph(model).SerializeToString()
    after = model.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert layouts == {name: tensor.stride() for name, tensor in after.items()}
    assert not model.network.training
    assert all(p.requires_grad for p in model.network.parameters())
    assert make_graph(built("classification", "resnet9", size=32)).SerializeToString() == first


@pytest.mark.parametrize(
    "way", [torch.inference_mode, torch.enable_grad, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_how_the_caller_computes_changes_nothing(way):
    model = built("classification", "cnn", size=32)
    calm = make_graph(model).SerializeToString()
    with way():
        assert make_graph(model).SerializeToString() == calm


def test_the_mean_of_whole_maps_is_written_without_arithmetic_on_indices():
    """PyTorch's exporter would gather it by computed places, which OpenVINO gets wrong in eight bits."""
    kinds = {node.op_type for node in make_graph(built("classification", "resnet18")).graph.node}
    assert "ReduceMean" in kinds or "GlobalAveragePool" in kinds
    assert not kinds & {"Gather", "GatherND", "Range"}


def test_a_network_in_training_is_exported_as_it_will_answer():
    model = built("classification", "resnet9", size=32)
    calm = make_graph(model).SerializeToString()
    model.network.train()
    assert make_graph(model).SerializeToString() == calm
    assert model.network.training, "the caller's network keeps its mode"


def test_a_canvas_that_is_no_square_keeps_width_and_height_apart():
    model = built("segmentation", "resnet18", head="unet", size=96, height=64)
    graph = make_graph(model)
    assert [side.dim_value for side in graph.graph.input[0].type.tensor_type.shape.dim][1:] == [64, 96, 3]
    check_same(model, session(graph), sizes=((96, 64),))


@pytest.mark.parametrize(
    ("task", "network", "head"),
    [
        ("classification", "resnet18", ""),
        ("detection", "resnet18", "fcos"),
        ("segmentation", "resnet18", "unet"),
    ],
)
def test_a_graph_for_any_size_answers_as_its_network_at_other_sizes(task, network, head):
    model = built(task, network, head=head)
    graph = make_graph(model, dynamic_size=True)
    sides = [side.dim_param for side in graph.graph.input[0].type.tensor_type.shape.dim]
    assert sides == ["batch", "height", "width", ""]
    check_same(model, session(graph), sizes=((64, 64), (96, 160)))


@pytest.mark.parametrize(
    ("task", "network", "head", "dynamic", "reason"),
    [
        ("detection", "resnet18", "faster_rcnn", False, "depends on what it finds in a picture"),
        ("classification", "vit_tiny_patch16_224", "", True, "sees pictures of 64 x 64 pixels only"),
        ("detection", "resnet18", "d_fine", True, "sees pictures of 64 x 64 pixels only"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_its_reason(
    capfd, caplog, task, network, head, dynamic, reason
):
    model = built(task, network, head=head)
    with caplog.at_level(logging.WARNING), pytest.raises(RecipeError, match=reason) as caught:
        make_graph(model, dynamic_size=dynamic)
    assert caught.value.instead
    assert network in caught.value.message
    assert len(caught.value.message) < 300
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def untouched_root() -> Iterator[None]:
    held = list(logging.getLogger().handlers)
    yield
    assert logging.getLogger().handlers == held


@pytest.mark.usefixtures("untouched_root")
def test_nothing_is_printed_and_later_warnings_are_still_heard(capfd):
    make_graph(built("classification", "cnn", size=32))
    assert capfd.readouterr() == ("", "")
    with pytest.warns(UserWarning, match="still heard"):
        warnings.warn("still heard", UserWarning, stacklevel=1)


def test_weights_beyond_one_file_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("pictune.exporting.graph.MOST_BYTES", 1000)
    with pytest.raises(RecipeError, match="more weights than the 2 GB"):
        make_graph(built("classification", "cnn", size=32))


def test_a_program_of_pytorch_answers_as_its_network():
    model = built("classification", "resnet9", size=32)
    data = to_torch_program(model)
    check_same(model, open_torch_program(data, tuple(model.task.exported)), sizes=((32, 32),))
    assert torch.export.load(io.BytesIO(data)).graph is not None
