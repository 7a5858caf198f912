"""A model as a graph that needs no PyTorch: pixels in, what the task calls `plain` out.

The network is traced by torch.export and written down as ONNX by PyTorch's exporter. Networks that cannot be
traced, because what they compute depends on what they find in a picture, are refused.

Shapes: n pictures, H and W the height and width of the canvas.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pictune.errors import RecipeError
from pictune.exporting.runtimes import DOMAINS, INPUT
from pictune.exporting.translations import translations

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from pictune.tasks.model import Model

STEP = 32  # pixels: a graph for any size takes sides that are multiples of it, as deep maps halve exactly
LEAST = 3  # of those steps in the pictures that are traced; sides of one step would be taken as fixed
TRACED = 2  # pictures; a batch of one would be taken as fixed
MOST_BYTES = 2**31 - 2**20  # of a graph in one file: what the format can hold, but for the layers themselves
AXES = ("batch", "height", "width")
DEPENDENT = "data-dependent"  # torch.export's word for shapes that it cannot know beforehand
_INSTEAD = "pictune predict and evaluate use the run itself; to export, train another network or head."


def make_graph(model: Model, *, dynamic_size: bool = False) -> onnx.ModelProto:
    """A model's network as ONNX, in operators of the standard alone, with its weights inside.

    Its input `pixels` is uint8 (n, H, W, 3) for any n; its outputs have the names of the task's `plain`. It
    holds nothing of the machine it was made on, and equal models make equal graphs. The model stays as it is.

    Args:
        model: On any device.
        dynamic_size: Whether H and W may be any multiples of 32; otherwise they are those of the canvas.

    Raises:
        RecipeError: When the network or its head cannot be exported, or sees one size only.
    """
    import torch
    from torch.onnx import OnnxExporterError

    name = _named(model)
    parts = [*model.network.parameters(), *model.network.buffers()]
    if sum(tensor.numel() * tensor.element_size() for tensor in parts) > MOST_BYTES:
        raise _refused(name, "it has more weights than the 2 GB that fit into one file")
    with _apart():
        program = _traced(model, dynamic_size=dynamic_size)
        _pool_plainly(program)
        try:
            made = torch.onnx.export(
                program,
                dynamo=True,
                external_data=False,
                input_names=[INPUT],
                output_names=list(model.task.exported),
                custom_translation_table=translations(),
                verbose=False,
            )
        except OnnxExporterError as error:
            raise _refused(name, _reason(error)) from error
    assert made is not None, "the exporter gives a program when it is not given a file"
    graph = made.model_proto
    foreign = {node.op_type for node in graph.graph.node if node.domain not in DOMAINS}
    if foreign or graph.functions:
        raise _refused(name, f"it needs operators beyond the standard: {', '.join(sorted(foreign))}")
    _strip(graph)
    _name_axes(graph)
    return graph


def to_torch_program(model: Model, *, dynamic_size: bool = False) -> bytes:
    """A model's network as torch.export writes it, with its weights inside; see `make_graph`.

    Args:
        model: On any device; the program computes on the processor.
        dynamic_size: Whether H and W may be any multiples of 32.

    Raises:
        RecipeError: When the network or its head cannot be exported, or sees one size only.
    """
    import torch

    with _apart():
        program = _traced(model, dynamic_size=dynamic_size)
        stream = io.BytesIO()
        torch.export.save(program, stream)
    return stream.getvalue()


def open_torch_program(
    data: bytes, names: tuple[str, ...]
) -> Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]:
    """What `to_torch_program` wrote, ready to run, for its own author: loading may unpickle.

    Args:
        data: Of a program made in this very process or by someone who is trusted.
        names: Of its outputs, as the task's `plain` names them.

    Returns:
        From uint8 (n, H, W, 3) to what the network gives, float32 (n, ...) by name.
    """
    import torch

    with _apart():
        network = torch.export.load(io.BytesIO(data)).module()

    def run(canvases: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            found = network(torch.from_numpy(canvases))
        return {name: part.float().numpy() for name, part in zip(names, found, strict=True)}

    return run


@contextmanager
def _apart() -> Iterator[None]:
    """Nothing of the caller's way to compute comes in, and none of the tracing's chatter gets out."""
    import torch

    with (
        warnings.catch_warnings(),
        torch.inference_mode(mode=False),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
    ):
        # Code of transformers that is traced keeps a note of who listens to it; nothing depends on that.
        warnings.filterwarnings("ignore", "While compiling, we found certain side effects", UserWarning)
        # torch 2.11 says these two of itself.
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        # Said of tensors that are views of one piece of memory, all of which is written.
        warnings.filterwarnings("ignore", "No complete tensor found in the group", UserWarning)
        yield


def _traced(model: Model, *, dynamic_size: bool) -> ExportedProgram:
    """The network with the task's `plain`, traced."""
    import torch

    from pictune.models.blueprint import MISFIT

    name = _named(model)
    shipped = _shipped(model)
    width, height = model.specification.canvas
    if dynamic_size:
        _check_size_is_free(model, shipped)
        # Two sides that differ, lest they be taken for one.
        height, width = (STEP * max(-(-side // STEP), LEAST) for side in (height, width))
        width += STEP if width == height else 0
    pixels = torch.zeros((TRACED, height, width, 3), dtype=torch.uint8)
    axes = _axes(dynamic_size=dynamic_size)
    try:
        program = _followed(shipped, pixels, axes, strict=False)
    except MISFIT as error:
        if DEPENDENT in str(error):
            raise _refused(name, "what it computes depends on what it finds in a picture") from error
        # The strict way reads the network's code instead of watching it run. It is slower and follows more:
        # the length of a tensor, otherwise a plain number at once, may differ from batch to batch.
        try:
            program = _followed(shipped, pixels, axes, strict=True)
        except MISFIT:
            raise _refused(name, _reason(error)) from error
    if any(isinstance(side, int) for side in _traced_shape(program)[: len(axes[0])]):
        raise _refused(name, f"it would hold for {TRACED} pictures of {width} x {height} pixels only")
    return program


def _followed(shipped: nn.Module, pixels: Tensor, axes: Any, *, strict: bool) -> ExportedProgram:
    """What torch.export makes of a network; what it cannot it prints, layer by layer, before it says why."""
    import torch

    with redirect_stderr(io.StringIO()):
        return torch.export.export(shipped, (pixels,), dynamic_shapes=axes, strict=strict)


def _pool_plainly(program: ExportedProgram) -> None:
    """Writes the mean of whole maps as what it is.

    PyTorch's own decomposition gives the mean the strides of its input, which in ONNX becomes arithmetic with
    indices; OpenVINO 2026.4 makes wrong ones of it when the layers compute in eight bits.
    """
    import torch

    for node in program.graph.nodes:
        if node.target is torch.ops.aten.adaptive_avg_pool2d.default and set(node.args[1]) == {1}:
            node.target, node.args = torch.ops.aten.mean.dim, (node.args[0], [2, 3], True)


def _traced_shape(program: ExportedProgram) -> tuple[Any, ...]:
    """Of the pixels: numbers where it is fixed."""
    found = next(node for node in program.graph.nodes if node.name == "pixels")
    return tuple(found.meta["val"].shape)


def _shipped(model: Model) -> nn.Module:
    """A copy of the network on the processor that answers with the task's `plain`, one tensor a name."""
    import torch
    from torch import nn

    task = model.task

    class Shipped(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
            said = task.plain(self.network(pixels))
            return tuple(said[name] for name in task.exported)

    # Weights whose channels lie last are taken for slices of something else when a program is saved.
    network = copy.deepcopy(model.network).to("cpu").to(memory_format=torch.contiguous_format)
    return Shipped(network).eval()


def _axes(*, dynamic_size: bool) -> tuple[dict[int, Any]]:
    """What of the input's shape may differ: the batch, and with ``dynamic_size`` height and width."""
    from torch.export import Dim

    batch = {0: Dim("batch", min=1)}
    if not dynamic_size:
        return (batch,)
    return ({**batch, 1: STEP * Dim("height", min=2), 2: STEP * Dim("width", min=2)},)


def _check_size_is_free(model: Model, shipped: nn.Module) -> None:
    """Asks the network once for a larger picture.

    Raises:
        RecipeError: When it, or its head, sees one size only.
    """
    import torch

    from pictune.models.blueprint import MISFIT
    from pictune.models.query_detectors import QueryDetector

    width, height = model.specification.canvas
    larger = [STEP * (-(-side // STEP) + 1) for side in (height, width)]
    reason = ""
    if any(isinstance(part, QueryDetector) for part in shipped.modules()):
        reason = "its boxes are shares of that one"
    try:
        shipped(torch.zeros((TRACED, *larger, 3), dtype=torch.uint8))
    except MISFIT as error:
        reason = _reason(error)
    if reason:
        raise RecipeError(
            f"{_named(model)} sees pictures of {width} x {height} pixels only: {reason}",
            instead="Export it for this one size, or train a convolutional network such as resnet18.",
        )


def _strip(message: Any) -> None:
    """Removes what the exporter notes beside a graph: traces of the stack, names of files and of classes."""
    from google.protobuf.message import Message

    for field in ("doc_string", "metadata_props"):
        if field in message.DESCRIPTOR.fields_by_name:
            message.ClearField(field)
    for field, value in message.ListFields():
        if isinstance(value, Message):
            _strip(value)
        elif field.message_type is not None:
            for part in value:
                _strip(part)


def _name_axes(graph: onnx.ModelProto) -> None:
    """Calls the input's free axes by their names, and those that are computed of them by none."""
    shape = graph.graph.input[0].type.tensor_type.shape
    names = {axis.dim_param: name for axis, name in zip(shape.dim, AXES, strict=False) if axis.dim_param}
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if not axis.dim_param:
                continue
            if axis.dim_param in names:
                axis.dim_param = names[axis.dim_param]
            else:
                axis.ClearField("dim_param")


def _named(model: Model) -> str:
    spec = model.specification
    return f"{spec.network} with the head {spec.head}" if spec.head else spec.network


def _refused(name: str, reason: str) -> RecipeError:
    return RecipeError(f"{name} cannot be made a graph: {reason}", instead=_INSTEAD)


def _reason(error: BaseException) -> str:
    """The first line of an error that says something about the network."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[0] if lines else type(cause).__name__)[:200]
