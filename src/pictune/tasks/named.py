"""The tasks by name, for use and not for training; nothing here needs PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pictune.tasks.classification import Classification
from pictune.tasks.detection import Detection
from pictune.tasks.segmentation import Segmentation
from pictune.tasks.specification import Specification
from pictune.tasks.task import Task


def _classification(spec: Specification) -> Task:
    return Classification(spec.classes, multilabel=spec.multilabel, threshold=spec.threshold)


def _detection(spec: Specification) -> Task:
    return Detection(spec.classes, canvas=spec.canvas, head=spec.head, thresholds=spec.thresholds)


def _segmentation(spec: Specification) -> Task:
    return Segmentation(spec.classes)


TASKS: Mapping[str, Callable[[Specification], Task]] = MappingProxyType(
    {"classification": _classification, "detection": _detection, "segmentation": _segmentation}
)
