"""Operators of PyTorch that its exporter cannot write down as ONNX yet, in operators of the standard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """By PyTorch's operator, what the exporter writes in its place."""
    import onnxscript
    import torch
    from onnx import TensorProto

    # Their types know tensors and parameters of the exporter's own making, which cannot be named here.
    operators: Any = onnxscript.opset18

    def all_true(values: Any) -> Any:
        # Transformers checks shapes with it.
        least = operators.ReduceMin(operators.Cast(values, to=TensorProto.INT32), keepdims=0)
        return operators.Cast(least, to=TensorProto.BOOL)

    return {torch.ops.aten._is_all_true.default: all_true}
