"""`Model`: what is shipped. A network, its task, its class names, and how it looks at a picture.

model/
weights.safetensors   the tensors
model.json            everything else, and the checksum of the tensors
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pictune.data.augmentation import View
from pictune.data.loading import Loader
from pictune.data.pixels import shrink
from pictune.errors import RunError
from pictune.files import write_json, write_tensors
from pictune.models.backbones import build_network
from pictune.models.preprocess import Preprocess
from pictune.models.weights import Weights
from pictune.tasks.answering import answer
from pictune.tasks.classification import Classification
from pictune.tasks.task import Prediction, Task

FORMAT = 1  # of model.json; a newer one is refused with a clear word
HEADROOM = 1.15  # stored pictures are this much larger than the network's, so that crops stay sharp


@dataclass(frozen=True)
class Specification:
    """Everything about a model that is not a tensor.

    Args:
        task: ``classification``.
        classes: Names in the order of the outputs.
        network: A name that `build_network` knows.
        image_size: Side of the square the network sees, pixels.
        fit: How a picture that is not square is fitted: ``crop``, ``squash`` or ``pad``.
        mean: Of each channel, 0 to 1.
        std: Of each channel, 0 to 1.
        multilabel: Any number of classes an image.
        threshold: From this confidence on a multi-label class is answered.
        origin: For people: which weights training started from.
        licence: Of those weights; None when nobody says.
        facts: The run's name, the data's fingerprint, the versions, the validation numbers.
    """

    task: str
    classes: tuple[str, ...]
    network: str
    image_size: int
    fit: str = "crop"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    multilabel: bool = False
    threshold: float = 0.5
    origin: str = ""
    licence: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def side(self) -> int:
        """Shorter side of a stored picture, pixels."""
        return side_of(self.image_size)

    @property
    def view(self) -> View:
        """How a stored picture becomes the square that the network sees."""
        return View(self.image_size, fit=self.fit)  # type: ignore[arg-type]


def side_of(image_size: int) -> int:
    """Shorter side of the pictures stored for training at an image size, pixels."""
    return round(image_size * HEADROOM)


def assemble(
    specification: Specification,
    *,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    weights: Weights | None = None,
) -> nn.Module:
    """The whole network: pixels (n, s, s, 3) uint8 in, one output a class out."""
    backbone = build_network(
        specification.network,
        outputs=len(specification.classes),
        image_size=specification.image_size,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
        weights=weights,
    )
    preprocess = Preprocess(mean=specification.mean, std=specification.std)
    return nn.Sequential(OrderedDict(preprocess=preprocess, backbone=backbone))


@dataclass(frozen=True)
class Model:
    """A network ready to answer.

    Args:
        specification: What it is.
        network: Pixels in, outputs out.
        device: Where the network lies.
    """

    specification: Specification
    network: nn.Module
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def task(self) -> Task:
        """The task that reads the outputs."""
        spec = self.specification
        return Classification(spec.classes, multilabel=spec.multilabel, threshold=spec.threshold)

    def scores(self, stored: Sequence[NDArray[np.uint8]], *, batch_size: int = 64) -> NDArray[np.float64]:
        """Confidences (n, k) for pictures as the pixel store holds them."""
        view = self.specification.view
        count = len(stored)
        loader = Loader(
            pictures=stored,
            targets=np.zeros((count, len(self.specification.classes)), np.float32),
            positions=np.arange(count),
            view=lambda pixels, _: view(pixels),
            batch_size=batch_size,
            size=self.specification.image_size,
        )
        return answer(self.network, self.task, loader, device=self.device)

    def predict(
        self, pictures: Sequence[NDArray[np.uint8]], *, keys: Sequence[str] | None = None
    ) -> list[Prediction]:
        """Answers for decoded pictures.

        Args:
            pictures: uint8 (h, w, 3), RGB, upright, any sizes.
            keys: What to call them; their numbers when None.
        """
        stored = [shrink(picture, self.specification.side) for picture in pictures]
        names = list(keys) if keys is not None else [str(number) for number in range(len(stored))]
        return self.task.predict(names, self.scores(stored))

    def save(self, folder: Path) -> None:
        """Writes weights.safetensors, then model.json that vouches for them."""
        path = folder / "weights.safetensors"
        write_tensors(path, self.network.state_dict(), facts={"format": "pt"})
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        content = {"format": FORMAT, "sha256": checksum, **asdict(self.specification)}
        write_json(folder / "model.json", {**content, "seal": _seal(content)})

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | None = None) -> Model:
        """Reads a model that `save` wrote.

        Raises:
            RunError: When a file is absent, damaged, changed, of a newer version or of another task.
        """
        specification, checksum = _read_specification(folder)
        path = folder / "weights.safetensors"
        if not path.is_file():
            raise RunError(f"{folder} has no weights.safetensors", instead="Train again to make it anew.")
        if hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
            raise RunError(
                f"{path.name} in {folder} is not the file that model.json vouches for: it was changed"
            )
        network = assemble(specification)
        try:
            network.load_state_dict(load_file(path), strict=True)
        except (RuntimeError, SafetensorError) as error:
            raise RunError(f"{path.name} does not fit the model: {str(error).splitlines()[0]}") from None
        place = device or torch.device("cpu")
        return cls(specification, network.to(place).to(memory_format=torch.channels_last).eval(), place)


def _read_specification(folder: Path) -> tuple[Specification, str]:
    try:
        content = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"there is no model in {folder}",
            instead=f"If its training was stopped, finish it: pictune train {folder.parent}",
        ) from None
    except (ValueError, OSError) as error:
        raise RunError(f"model.json in {folder} cannot be read: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RunError(
            f"model.json in {folder} is of another version", instead="Use the pictune that wrote it."
        )
    if content.pop("seal", None) != _seal(content):
        raise RunError(f"model.json in {folder} is not as it was written: it was changed")
    if content.get("task") != Classification.name:
        raise RunError(f"the model in {folder} has another task: {content.get('task')}")
    try:
        return pydantic.TypeAdapter(Specification).validate_python(content), str(content["sha256"])
    except pydantic.ValidationError as error:
        wrong = ", ".join(".".join(map(str, mistake["loc"])) for mistake in error.errors())
    except KeyError:
        wrong = "sha256"
    raise RunError(f"model.json in {folder} is not complete: {wrong} cannot be used")


def _seal(content: Mapping[str, Any]) -> str:
    """The checksum of everything else that model.json says."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
