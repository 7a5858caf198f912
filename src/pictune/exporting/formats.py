"""The formats of an exported network by name: which files it has, and whether it can be served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Args:
        files: Their names in the artifact.
        served: Whether it runs without PyTorch, so that it can answer requests.
    """

    files: tuple[str, ...]
    served: bool = True


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "onnx": Format(("model.onnx",)),
        "openvino": Format(("model.xml", "model.bin")),
        "torch": Format(("model.pt2",), served=False),
    }
)
