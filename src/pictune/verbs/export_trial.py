"""The trial of an exported model: it answers the run's validation pictures beside the run's own model.

Shapes: n pictures.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pictune.data.sample import Sample
from pictune.exporting.artifact import Artifact
from pictune.exporting.exported import Exported
from pictune.exporting.gate import Verdict, judge_export
from pictune.recipes import Recipe
from pictune.tasks.answering import Placing
from pictune.tasks.model import Model
from pictune.threads import processors
from pictune.verbs.judging import group_numbers
from pictune.verbs.opening import Opened

TIMED = 20  # single pictures by which speed is measured
LARGE = (
    64 * 1024
)  # bytes of an answer from which on it is kept compressed: maps of classes shrink a hundredfold
Arrays = Mapping[str, NDArray[Any]]


class Packed(NamedTuple):
    """An answer as it is kept.

    Args:
        array: Itself, or empty where it is large.
        shape: Of a large one.
        content: The compressed bytes of a large one.
    """

    array: NDArray[Any]
    shape: tuple[int, ...] = ()
    content: bytes = b""


def packed(answer: NDArray[Any]) -> Packed:
    """An answer, in less memory."""
    if answer.nbytes < LARGE:
        return Packed(answer)
    content = zlib.compress(np.ascontiguousarray(answer).tobytes(), 1)
    return Packed(np.empty(0, answer.dtype), answer.shape, content)


def unpacked(kept: Packed) -> NDArray[Any]:
    """The answer again."""
    if not kept.content:
        return kept.array
    return np.frombuffer(zlib.decompress(kept.content), kept.array.dtype).reshape(kept.shape)


@dataclass
class Compared:
    """What two models say of the same pictures.

    Args:
        apart: (n) how far their outputs are apart.
        agreement: (n) which share of their answers is the same.
        originals: (n) answers of the run's model.
        answers: (n) answers of the exported one.
    """

    apart: list[float] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)
    originals: list[Packed] = field(default_factory=list)
    answers: list[Packed] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Candidate:
    """An exported model that was judged.

    Args:
        files: The network's files by name.
        exported: The model, in memory.
        verdict: What the gate found.
        kept: Layers that stayed in float.
    """

    files: Mapping[str, bytes]
    exported: Exported
    verdict: Verdict
    kept: tuple[str, ...] = ()


class Trial:
    """The pictures by which exported models are judged, and what the run's model says of them.

    Args:
        model: Of the run.
        opened: The run's pictures.
        recipe: Says how intervals are computed.
    """

    def __init__(self, model: Model, opened: Opened, recipe: Recipe) -> None:
        self.model, self.opened, self._recipe = model, opened, recipe
        dataset = opened.ingested.dataset
        self._rows = [i for i in opened.rows("val") if dataset.samples[i].annotation is not None]
        self._samples: list[Sample] = [dataset.samples[i] for i in self._rows]

    def canvases(self, split: str, most: int) -> list[NDArray[np.uint8]]:
        """What the network sees of pictures of a split, at even steps through it."""
        store = self.opened.ingested.store
        assert store is not None, "the pictures were stored"
        rows = self.opened.rows(split)
        chosen = rows if len(rows) <= most else [rows[i * len(rows) // most] for i in range(most)]
        return [self.model.specification.view(store[i]) for i in chosen]

    def judge(
        self,
        files: Mapping[str, bytes],
        format_name: str,
        precision: str,
        *,
        session: Callable[[NDArray[np.uint8]], Arrays] | None = None,
    ) -> Candidate:
        """The gate's verdict on an exported network.

        Args:
            files: Its files by name.
            format_name: Of the files.
            precision: In which it computes.
            session: Runs it, where no runtime of ours does.
        """
        spec = self.model.specification
        content = {
            "format_name": format_name,
            "precision": precision,
            "decoding": decoding_of(self._recipe),
        }
        artifact = Artifact(Path(format_name), spec, content, "", files)
        exported = Exported(artifact, session) if session else Exported.of(artifact, threads=processors())
        compared = self._compared(exported)
        keys = [sample.key for sample in self._samples]
        truths = [sample.annotation for sample in self._samples]
        groups = group_numbers([sample.group for sample in self._samples])
        said = (compared.originals, compared.answers)
        tables = [self.model.task.score(keys, map(unpacked, rows), truths, groups) for rows in said]
        weights = sum(t.numel() * t.element_size() for t in self.model.network.state_dict().values())
        verdict = judge_export(
            *tables,
            apart=np.array(compared.apart),
            agreement=np.array(compared.agreement),
            keys=keys,
            precision=precision,
            seconds=self._seconds(exported),
            sizes=(weights, sum(map(len, files.values()))),
            resamples=self._recipe.evaluation.resamples,
            seed=self._recipe.training.seed,
        )
        return Candidate(files, exported, verdict)

    def _compared(self, exported: Exported) -> Compared:
        task, spec = self.model.task, self.model.specification
        store = self.opened.ingested.store
        assert store is not None, "the pictures were stored"
        compared = Compared()
        for start in range(0, len(self._rows), spec.at_once):
            samples = self._samples[start : start + spec.at_once]
            stored = [store[i] for i in self._rows[start : start + spec.at_once]]
            placing = Placing(stored, [(s.width, s.height) for s in samples], spec.view)
            canvases = np.stack([spec.view(picture) for picture in stored])
            first, second = self._original(canvases), exported.run(canvases)
            compared.apart += task.apart(first, second).tolist()
            pairs = zip(task.decode(first), task.decode(second), strict=True)
            for position, pair in enumerate(pairs):
                original, answer = (task.restored(one, placing(position)) for one in pair)
                compared.agreement.append(task.agreement(original, answer))
                compared.originals.append(packed(original))
                compared.answers.append(packed(answer))
        return compared

    def _original(self, canvases: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """What the run's model gives, as `Task.plain` names it."""
        with torch.inference_mode():
            plain = self.model.task.plain(self.model.network(torch.from_numpy(canvases)))
        return {name: values.float().cpu().numpy() for name, values in plain.items()}

    def _seconds(self, exported: Exported) -> tuple[float, float]:
        """Median seconds for one picture at a time, of both in turn, as a busy machine slows them alike."""
        canvases = self.canvases("val", TIMED)
        took: tuple[list[float], list[float]] = ([], [])
        for canvas in canvases:
            for times, ask in zip(took, (self._original, exported.run), strict=True):
                started = time.perf_counter()
                ask(canvas[None])
                times.append(time.perf_counter() - started)
        return float(np.median(took[0])), float(np.median(took[1]))


def decoding_of(recipe: Recipe) -> dict[str, Any]:
    """How files become pixels, which a served model must do as its training did."""
    data = recipe.data
    return {
        "min_side": data.min_side,
        "max_pixels": data.max_pixels,
        "value_range": list(data.value_range) if data.value_range else None,
    }
