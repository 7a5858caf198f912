"""`Model`: what is shipped. A network, its task, its class names, and how it looks at a picture.

model/
weights.safetensors   the tensors
model.json            everything else, and the checksum of the tensors
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
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

from pictune.data.augmentation import Augmentation
from pictune.data.loading import Loader
from pictune.data.pixels import shrink
from pictune.data.truths import ClassTruths
from pictune.errors import RunError
from pictune.files import write_json, write_tensors
from pictune.tasks.answering import Placing, answers
from pictune.tasks.kinds import KINDS, Rates
from pictune.tasks.specification import Specification
from pictune.tasks.task import Prediction, Task

FORMAT = 1  # of model.json; a newer one is refused with a clear word


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
        return KINDS[self.specification.task].task(self.specification)

    def answers(
        self,
        stored: Sequence[NDArray[np.uint8]],
        *,
        sizes: Sequence[tuple[int, int]] | None = None,
        batch_size: int | None = None,
    ) -> Iterator[NDArray[Any]]:
        """What it says of pictures as the pixel store holds them, in their order.

        Args:
            stored: uint8 (h, w, 3), shrunk for this model.
            sizes: Width and height of the pictures before they were shrunk, pixels; answers lie on those.
            batch_size: Pictures at a time; as many as suit the task when None.
        """
        view = self.specification.view
        found = sizes or [(picture.shape[1], picture.shape[0]) for picture in stored]
        loader = Loader(
            pictures=stored,
            truths=ClassTruths(np.zeros((len(stored), 1), np.float32)),
            positions=np.arange(len(stored)),
            look=Augmentation((), view),
            batch_size=batch_size or self.specification.at_once,
        )
        placing = Placing(stored, found, view)
        return answers(self.network, self.task, loader, placing, device=self.device)

    def predict(
        self, pictures: Sequence[NDArray[np.uint8]], *, keys: Sequence[str] | None = None
    ) -> list[Prediction]:
        """Answers for decoded pictures.

        Args:
            pictures: uint8 (h, w, 3), RGB, upright, any sizes.
            keys: What to call them; their numbers when None.
        """
        stored = [shrink(picture, self.specification.side) for picture in pictures]
        sizes = [(picture.shape[1], picture.shape[0]) for picture in pictures]
        names = list(keys) if keys is not None else [str(number) for number in range(len(stored))]
        return self.task.predict(names, self.answers(stored, sizes=sizes))

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
        network = KINDS[specification.task].network(specification, Rates(), None)
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
    if content.get("task") not in KINDS:
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
