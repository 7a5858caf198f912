"""Pictune: fine-tune image models that people can trust.

    import pictune as pt

    run = pt.train("photos/", model="resnet50")
    print(pt.evaluate(run).summary())

The nouns and verbs below are loaded when they are first used; importing pictune changes nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pictune.version import __version__

if TYPE_CHECKING:
    from pictune.data.sample import Boxes, ClassMap, Dataset, Labels, Mask, Sample
    from pictune.errors import (
        ArtifactError,
        DataError,
        DivergedError,
        InputError,
        MachineError,
        PictuneError,
        RecipeError,
        RunError,
        ServerError,
        StoppedError,
        WeightsError,
    )
    from pictune.recipes import Recipe
    from pictune.run import Run
    from pictune.serving.client import Client
    from pictune.tasks.model import Model
    from pictune.tasks.task import Prediction, Task
    from pictune.verbs.audit import audit
    from pictune.verbs.cache import cache
    from pictune.verbs.convert import convert
    from pictune.verbs.demo import demo
    from pictune.verbs.evaluate import evaluate
    from pictune.verbs.export import export
    from pictune.verbs.layers import layers
    from pictune.verbs.lr_find import lr_find
    from pictune.verbs.predict import predict
    from pictune.verbs.recipe import recipe
    from pictune.verbs.serve import serve
    from pictune.verbs.train import train

_HOMES = {
    "Boxes": "data.sample",
    "ClassMap": "data.sample",
    "Dataset": "data.sample",
    "Labels": "data.sample",
    "Mask": "data.sample",
    "Sample": "data.sample",
    "ArtifactError": "errors",
    "Client": "serving.client",
    "ServerError": "errors",
    "DataError": "errors",
    "DivergedError": "errors",
    "InputError": "errors",
    "MachineError": "errors",
    "PictuneError": "errors",
    "RecipeError": "errors",
    "RunError": "errors",
    "StoppedError": "errors",
    "WeightsError": "errors",
    "Recipe": "recipes",
    "Run": "run",
    "Model": "tasks.model",
    "Prediction": "tasks.task",
    "Task": "tasks.task",
    "audit": "verbs.audit",
    "cache": "verbs.cache",
    "convert": "verbs.convert",
    "demo": "verbs.demo",
    "evaluate": "verbs.evaluate",
    "export": "verbs.export",
    "layers": "verbs.layers",
    "lr_find": "verbs.lr_find",
    "predict": "verbs.predict",
    "recipe": "verbs.recipe",
    "serve": "verbs.serve",
    "train": "verbs.train",
}

__all__ = [
    "ArtifactError",
    "Boxes",
    "ClassMap",
    "Client",
    "DataError",
    "Dataset",
    "DivergedError",
    "InputError",
    "Labels",
    "MachineError",
    "Mask",
    "Model",
    "PictuneError",
    "Prediction",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "Sample",
    "ServerError",
    "StoppedError",
    "Task",
    "WeightsError",
    "__version__",
    "audit",
    "cache",
    "convert",
    "demo",
    "evaluate",
    "export",
    "layers",
    "lr_find",
    "predict",
    "recipe",
    "serve",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pictune' has no attribute {name!r}")
    return getattr(import_module(f"pictune.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
