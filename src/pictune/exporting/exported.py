"""`Exported`: an artifact that answers. It needs no PyTorch; all but the network is training's own code.

Shapes: n pictures, H and W the height and width of the canvas, k classes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.data.decoding import Limits, decode
from pictune.data.pixels import shrink
from pictune.data.sample import ClassMap
from pictune.errors import ArtifactError
from pictune.exporting.artifact import REFERENCE, Artifact
from pictune.exporting.formats import FORMATS
from pictune.exporting.reference import Reference, drawn_pictures, sampled
from pictune.exporting.runtimes import INPUT, RUNTIMES, Arrays, Session, Shape
from pictune.tasks.answering import Placing
from pictune.tasks.named import TASKS
from pictune.tasks.specification import Specification
from pictune.tasks.task import Placed, Prediction, Task

GREY_LEVELS = 1.0  # by which another decoder's canvas may differ on average
TOLERANCES: Mapping[str, float] = {
    "fp32": 1e-3,
    "fp16": 2e-2,
    "int8": 1e-1,
}  # of the largest value, by precision


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """A picture as the network sees it.

    Args:
        canvas: uint8 (H, W, 3).
        placed: Where the picture lies on it.
        notes: What was converted or deserves a look, by code.
    """

    canvas: NDArray[np.uint8]
    placed: Placed
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Of the picture itself, upright, pixels."""
        return self.placed.width

    @property
    def height(self) -> int:
        """Of the picture itself, upright, pixels."""
        return self.placed.height


class Exported:
    """An artifact ready to answer; calls may come from several threads at once.

    Args:
        artifact: Was checked when it was opened.
        session: Runs its network.
    """

    def __init__(self, artifact: Artifact, session: Session) -> None:
        self.artifact, self._session = artifact, session
        spec = artifact.specification
        self.specification: Specification = spec
        self.task: Task = TASKS[spec.task](spec)
        decoding = artifact.content.get("decoding", {})
        span = decoding.get("value_range")
        self.value_range: tuple[float, float] | None = (span[0], span[1]) if span else None
        self.limits = Limits(
            min_side=int(decoding.get("min_side", Limits().min_side)),
            max_pixels=int(decoding.get("max_pixels", Limits().max_pixels)),
        )

    @classmethod
    def open(cls, path: Path | str, *, threads: int = 1, spinning: bool = False) -> Exported:
        """Opens an artifact and the session that runs it.

        Args:
            path: A folder or zip.
            threads: That compute one call.
            spinning: Whether they wait for work in a busy loop.

        Raises:
            ArtifactError: When the artifact is broken, changed, newer, or its network does not fit its task.
        """
        return cls.of(Artifact.open(path), threads=threads, spinning=spinning)

    @classmethod
    def of(cls, artifact: Artifact, *, threads: int = 1, spinning: bool = False) -> Exported:
        """The same, of an artifact that is already open."""
        name = artifact.content["format_name"]
        if not FORMATS[name].served:
            raise ArtifactError(
                f"{artifact.path.name} has the format {name}, which needs PyTorch",
                code="not_served",
                instead="Export it with --format onnx.",
            )
        session, shapes = RUNTIMES[name](artifact.files, threads=threads, spinning=spinning)
        exported = cls(artifact, session)
        exported._check_shapes(shapes)
        return exported

    def _check_shapes(self, shapes: Mapping[str, Shape]) -> None:
        """The network takes canvases and gives what the task reads, for as many classes."""
        width, height = self.specification.canvas
        given = shapes.get(INPUT, ())
        sizes = [(n, s) for n, s in zip((height, width, 3), given[1:4], strict=False) if isinstance(s, int)]
        if set(shapes) != {INPUT, *self.task.exported} or len(given) != 5 or given[4] != "tensor(uint8)":
            found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise _unfit(f"it has {found[:200]}")
        if any(wanted != found for wanted, found in sizes):
            raise _unfit(f"it takes {list(given[1:4])} and the model says {[height, width, 3]}")
        for name, wanted in self.task.exported.items():
            said = shapes[name][1:]
            pairs = zip(wanted, said, strict=False)
            if len(said) != len(wanted) or any(
                w is not None and isinstance(s, int) and w != s for w, s in pairs
            ):
                raise _unfit(f"{name} has shape {list(said)} where {list(wanted)} was expected")

    def self_test(self) -> None:
        """Asks what the exporting machine asked, and compares.

        Raises:
            ArtifactError: ``self_test_failed``.
        """
        reference = Reference.from_bytes(self.artifact.files[REFERENCE])
        for number, data in enumerate(reference.pictures):
            canvas = self.look(data).canvas
            if canvas.shape != reference.canvases[number].shape:
                raise _failed("the reference is of another size")
            apart = float(np.abs(canvas.astype(float) - reference.canvases[number]).mean())
            if apart > GREY_LEVELS:
                raise _failed(f"pictures are decoded otherwise here: {apart:.1f} grey levels apart")
        found = self.run(reference.canvases)
        for name, expected in reference.values.items():
            values = sampled(found[name]) if name in found else np.zeros(0, np.float32)
            if values.shape != expected.shape or not np.isfinite(values).all():
                raise _failed(f"{name} is not what it was")
            scale = max(1.0, float(np.abs(expected).max()))
            apart = float(np.abs(values - expected).max()) / scale
            if apart > TOLERANCES[self.artifact.precision]:
                raise _failed(f"{name} is {apart:.2g} of its range off")

    def make_reference(self) -> Reference:
        """The reference of this network, as it answers here and now."""
        pictures = drawn_pictures()
        canvases = np.stack([self.look(data).canvas for data in pictures])
        values = {name: sampled(array) for name, array in self.run(canvases).items()}
        return Reference(pictures, canvases, values)

    def look(self, source: bytes | Path) -> Looked:
        """Decodes a picture and draws it onto the canvas.

        Raises:
            DataError: When it cannot be used; see `pictune.data.decoding.decode`.
        """
        picture = decode(source, limits=self.limits, value_range=self.value_range)
        height, width = picture.pixels.shape[:2]
        stored = shrink(picture.pixels, self.specification.side)
        view = self.specification.view
        placed = Placing([stored], [(width, height)], view)(0)
        return Looked(view(stored), placed, tuple(note.code for note in picture.notes))

    def run(self, canvases: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """(n, H, W, 3) to what the network gives, (n, ...) float32 by name."""
        found = self._session(np.ascontiguousarray(canvases))
        return {name: array.astype(np.float32, copy=False) for name, array in found.items()}

    def answer(self, arrays: Arrays, looked: Looked) -> NDArray[Any]:
        """The task's answer on the picture's own pixels.

        Args:
            arrays: What the network gave for this picture alone, (1, ...) by name.
            looked: The picture.
        """
        return self.task.restored(self.task.decode(arrays)[0], looked.placed)

    def row(
        self,
        answer: NDArray[Any],
        looked: Looked,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
    ) -> dict[str, Any]:
        """An answer in plain values, for JSON.

        Args:
            answer: Of `answer`.
            looked: The picture.
            top_k: How many classes or boxes are named at most, the surest; all when None.
            threshold: From which confidence on something is answered; the model's own when None.

        Raises:
            DataError: ``threshold_not_used`` where the task has none.
        """
        task = self.task if threshold is None else self.task.answering_from(threshold)
        prediction = task.predict([""], [answer])[0]
        row = {name: _cut(name, value, top_k) for name, value in prediction.row().items() if name != "path"}
        if isinstance(prediction.annotation, ClassMap):
            png = cv2.imencode(".png", prediction.annotation.pixels)[1].tobytes()
            row["mask"] = {"classes": list(task.classes), "png": base64.b64encode(png).decode()}
        return {**row, "width": looked.width, "height": looked.height}

    def answers(
        self,
        stored: Sequence[NDArray[np.uint8]],
        *,
        sizes: Sequence[tuple[int, int]] | None = None,
        batch_size: int | None = None,
    ) -> Iterator[NDArray[Any]]:
        """What it says of pictures as the pixel store holds them; see `pictune.tasks.model.Model.answers`."""
        view = self.specification.view
        known = sizes or [(picture.shape[1], picture.shape[0]) for picture in stored]
        placing = Placing(stored, known, view)
        step = batch_size or self.specification.at_once
        for start in range(0, len(stored), step):
            rows = range(start, min(start + step, len(stored)))
            found = self.run(np.stack([view(stored[i]) for i in rows]))
            for answer, position in zip(self.task.decode(found), rows, strict=True):
                yield self.task.restored(answer, placing(position))

    def predict(
        self, pictures: Sequence[NDArray[np.uint8]], *, keys: Sequence[str] | None = None
    ) -> list[Prediction]:
        """Answers for decoded pictures; see `pictune.tasks.model.Model.predict`."""
        stored = [shrink(picture, self.specification.side) for picture in pictures]
        sizes = [(picture.shape[1], picture.shape[0]) for picture in pictures]
        names = list(keys) if keys is not None else [str(number) for number in range(len(stored))]
        return self.task.predict(names, self.answers(stored, sizes=sizes))


def _cut(name: str, value: Any, most: int | None) -> Any:
    """The first entries of what is sorted, the surest first."""
    if isinstance(value, dict):
        return dict(islice(value.items(), most))
    return value[:most] if name == "boxes" else value


def _unfit(reason: str) -> ArtifactError:
    return ArtifactError(
        f"the network does not fit the model: {reason}", code="wrong_network", instead="Export it again."
    )


def _failed(reason: str) -> ArtifactError:
    return ArtifactError(
        f"the model does not answer here as it did where it was exported: {reason}",
        code="self_test_failed",
        instead="Export it on this machine, or install the versions that MODEL_CARD.md names.",
    )
